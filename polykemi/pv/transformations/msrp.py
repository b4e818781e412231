"""``{msrpuri.*}``: the parts of MSRP URIs (RFC 4975 section 9)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from polykemi.kemi.registry import Xval
from polykemi.pv.transformations.shape import Step

_URI: Final = re.compile(
    r"(?P<scheme>msrps?)://(?:(?P<userinfo>[^@;]*)@)?(?P<host>\[[^\]]*\]|[^:/;\[]+)"
    r"(?::(?P<port>[1-9]\d{0,4}))?(?:/(?P<session>[^;]+))?(?:;(?P<params>.+))?",
    re.IGNORECASE | re.DOTALL,
)


def _part(part: Callable[[re.Match[str]], str | None]) -> Step:
    """Return the step that takes a part of an MSRP URI; empty when it has none, null for what is no such URI."""

    def get(text: str) -> Xval:
        uri = _URI.fullmatch(text)
        return None if uri is None else part(uri) or ""

    return Step(get)


def _proto(uri: re.Match[str]) -> str:
    return (uri["params"] or "").partition(";")[0]


def _params(uri: re.Match[str]) -> str:
    """Return the parameters behind the transport; with it when it is tcp or ws and others follow, as in Kamailio."""
    proto, _, others = (uri["params"] or "").partition(";")
    return f"{proto};{others}" if others and proto.lower() in ("tcp", "ws") else others


STEPS: Final[dict[str, Step]] = {
    "msrpuri.user": _part(lambda uri: re.split("[;:]", uri["userinfo"] or "")[0]),
    "msrpuri.host": _part(lambda uri: uri["host"]),
    "msrpuri.port": _part(lambda uri: uri["port"]),
    "msrpuri.session": _part(lambda uri: uri["session"]),
    "msrpuri.proto": _part(_proto),
    "msrpuri.scheme": _part(lambda uri: uri["scheme"]),
    "msrpuri.params": _part(_params),
    "msrpuri.userinfo": _part(lambda uri: uri["userinfo"]),
}
