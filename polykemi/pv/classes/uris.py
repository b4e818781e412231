"""Request-URI, original URI, destination URI and next hop: ``$ru $rU $rd $rp $rP $rz $ou $oU $du $dd $nh(x)`` ..."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from polykemi.kemi.context import RouteContext
from polykemi.kemi.numbers import is_number
from polykemi.kemi.registry import Xval
from polykemi.pv.accessor import Factory, Getter, Setter
from polykemi.pv.classes.factories import keyed, plain, uri_or_none
from polykemi.pv.classes.message import hop_uri, reply_hop
from polykemi.sip.grammar import to_ip
from polykemi.sip.message import Request
from polykemi.sip.uri import Uri

Part = Callable[[Uri], Xval]

_SCHEMES: Final = ("sip:", "sips:", "tel:", "urn:")
_TELEPHONE: Final = {"sip": "tel", "sips": "tels"}  # what Kamailio takes a SIP URI with user=phone for


def user_of(uri: Uri) -> Xval:
    """Return the user; of a URN its namespace (RFC 8141); None when there is none."""
    if uri.scheme == "urn":
        return uri.host.partition(":")[0] or None
    return uri.user or None


def host_of(uri: Uri) -> Xval:
    """Return the host; of a URN what its namespace holds; None when there is none."""
    if uri.scheme == "urn":
        return uri.host.partition(":")[2] or None
    return uri.host or None


def _port(uri: Uri) -> Xval:
    return str(uri.port or (5061 if uri.transport == "tls" else 5060))


def _transport(uri: Uri) -> Xval:
    return uri.param("transport") or "UDP"


def family_of(host: str) -> int:
    """Return 4 or 6 for an address, 0 for a name."""
    address = to_ip(host)
    return address.version if address is not None else 0


def _user_length(uri: Uri) -> Xval:
    return len(uri.user)


def _original(ctx: RouteContext) -> str:
    message = ctx.message
    return message.uri if isinstance(message, Request) else ""


def _part_of(text_of: Callable[[RouteContext], str], part: Part) -> Getter:
    """Return the getter of one part of the URI that ``text_of`` gives; null when there is none or it is malformed."""

    def get(ctx: RouteContext) -> Xval:
        text = text_of(ctx)
        if not text:
            return None
        uri = uri_or_none(text)
        return None if uri is None else part(uri)

    return get


def _ruri(ctx: RouteContext) -> Xval:
    """Return the Request-URI; null for one that a script made and that is none."""
    uri = ctx.ruri
    return (uri or None) if uri == _original(ctx) or uri.lower().startswith(_SCHEMES) else None


def _ruri_user(ctx: RouteContext) -> Xval:
    uri = uri_or_none(ctx.ruri)
    return None if uri is None else uri.user or user_of(uri)


def _set_ruri(ctx: RouteContext, value: Xval) -> bool:
    if not isinstance(value, str) or not isinstance(ctx.message, Request) or "\n" in value or "\r" in value:
        return False
    ctx.ruri = value
    return True


def compose(uri: Uri, *, user: str | None = None, host: str | None = None, port: str | None = None) -> str:
    """Return the URI with these parts changed. An empty user takes the password with it; "" leaves the port out."""
    userinfo = uri.user if user is None else user
    if userinfo and uri.password:
        userinfo += ":" + uri.password
    port = str(uri.port or "") if port is None else port
    return "".join(
        (
            uri.text[: uri.text.index(":") + 1],
            f"{userinfo}@" if userinfo else "",
            uri.host if host is None else host,
            f":{port}" if port else "",
            f";{uri.params}" if uri.params else "",
            f"?{uri.headers}" if uri.headers else "",
        )
    )


def with_user(uri: Uri, value: Xval) -> str | None:
    """Return the URI with another user (null: without), None when that cannot be."""
    if isinstance(value, int):
        return None
    if uri.scheme == "tel":
        return f"tel:{value}" + (f";{uri.params}" if uri.params else "") if value else None
    return compose(uri, user=value or "") if uri.scheme in ("sip", "sips") else None


def with_host(uri: Uri, value: Xval) -> str | None:
    """Return the URI with another host; a tel URI becomes a SIP URI with it (RFC 3261 section 19.1.6)."""
    if not isinstance(value, str) or not value:
        return None
    if uri.scheme == "tel":
        return f"sip:{uri.text.partition(':')[2]}@{value};user=phone"
    return compose(uri, host=value) if uri.scheme in ("sip", "sips") else None


def _with_port(uri: Uri, value: Xval) -> str | None:
    if uri.scheme not in ("sip", "sips"):
        return None
    if value is None or value == "":
        return compose(uri, port="")
    text = str(value)
    if not is_number(text) or not 0 <= int(text) <= 65535:
        return None
    return compose(uri, port=text)


def _rewrite(change: Callable[[Uri, Xval], str | None]) -> Setter:
    """Return the setter that writes the Request-URI anew."""

    def put(ctx: RouteContext, value: Xval) -> bool:
        uri = uri_or_none(ctx.ruri)
        changed = None if uri is None else change(uri, value)
        if changed is None or uri_or_none(changed) is None:  # a line break in it would end the start-line
            return False
        ctx.ruri = changed
        return True

    return put


def _ruri_text(ctx: RouteContext) -> str:
    return ctx.ruri


def _ruri_scheme(ctx: RouteContext) -> Xval:
    if not ctx.ruri:
        return None
    uri = uri_or_none(ctx.ruri)
    if uri is None:
        return "none"
    if uri.scheme in _TELEPHONE and uri.param("user") == "phone":
        return _TELEPHONE[uri.scheme]
    return uri.scheme


def _dst_uri(ctx: RouteContext) -> Xval:
    return ctx.dst_uri or None


def _dst_text(ctx: RouteContext) -> str:
    return ctx.dst_uri


def _set_dst_uri(ctx: RouteContext, value: Xval) -> bool:
    if isinstance(value, int):
        return False
    ctx.dst_uri = value or ""
    return True


def _next_hop(part: Part, of_reply: Callable[[str, int, str], Xval]) -> Getter:
    """Return the getter of a part of where the message goes next: by its Via for replies."""

    def get(ctx: RouteContext) -> Xval:
        hop = reply_hop(ctx)
        if hop is not None:
            return of_reply(*hop)
        uri = uri_or_none(ctx.dst_uri or ctx.ruri)
        return None if uri is None else part(uri)

    return get


_RURI = plain(_ruri, _set_ruri)
_RURI_USER = plain(_ruri_user, _rewrite(with_user))
_RURI_HOST = plain(_part_of(_ruri_text, host_of), _rewrite(with_host))
_ORIGINAL = plain(lambda ctx: _original(ctx) or None)
_DST_URI = plain(_dst_uri, _set_dst_uri)

CLASSES: Final[dict[str, Factory]] = {
    "ru": _RURI,
    "ruri": _RURI,
    "rU": _RURI_USER,
    "ruri.user": _RURI_USER,
    "rd": _RURI_HOST,
    "ruri.domain": _RURI_HOST,
    "rp": plain(_part_of(_ruri_text, _port), _rewrite(_with_port)),
    "rP": plain(_part_of(_ruri_text, _transport)),
    "rz": plain(_ruri_scheme),
    "rul": plain(lambda ctx: len(ctx.ruri) if ctx.ruri else None),
    "rUl": plain(_part_of(_ruri_text, _user_length)),
    "ou": _ORIGINAL,
    "ouri": _ORIGINAL,
    "oU": plain(_part_of(_original, user_of)),
    "od": plain(_part_of(_original, host_of)),
    "op": plain(_part_of(_original, _port)),
    "oP": plain(_part_of(_original, _transport)),
    "oUl": plain(_part_of(_original, _user_length)),
    "du": _DST_URI,
    "duri": _DST_URI,
    "dd": plain(_part_of(_dst_text, host_of)),
    "dp": plain(_part_of(_dst_text, _port)),
    "dP": plain(_part_of(_dst_text, _transport)),
    "nh": keyed(
        {
            "u": _next_hop(str, hop_uri),
            "U": _next_hop(user_of, lambda host, port, proto: None),
            "d": _next_hop(host_of, lambda host, port, proto: host),
            "p": _next_hop(_port, lambda host, port, proto: port),
            "P": _next_hop(_transport, lambda host, port, proto: proto),
            "i": _next_hop(lambda uri: family_of(uri.host), lambda host, port, proto: family_of(host)),
        }
    ),
}
