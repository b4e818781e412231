"""auth_xkeys: a header with a hash of a shared key, by which servers know each other (Kamailio: auth_xkeys)."""

from __future__ import annotations

import hashlib
import hmac
import logging
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.modules.base import Module, Services

log = logging.getLogger("polykemi.script")

_ALGORITHMS: Final = ("sha256", "sha384", "sha512")


class _Key(NamedTuple):
    group: str  # in lower case
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class AuthXkeysParams:
    """Kamailio's names and defaults."""

    xkey: tuple[str, ...] = ()  # "id=group;name=key;value=secret;expires=seconds", the newest of a group last

    def __post_init__(self) -> None:
        for text in self.xkey:
            _key(text)


def _key(text: str) -> _Key:
    given = {
        name.strip().lower(): value.strip() for name, _, value in (part.partition("=") for part in text.split(";"))
    }
    if not (given.get("id") and given.get("name") and given.get("value")):
        raise ValueError("xkey: expected id=GROUP;name=NAME;value=SECRET, with expires=SECONDS if need be")
    if not given.get("expires", "0").isdecimal():
        raise ValueError(f"xkey: expires: expected a number of seconds, got {given['expires']!r}")
    return _Key(given["id"].lower(), given["name"], given["value"])


class AuthXkeys(Module):
    """Groups of keys. The newest key of a group signs, all of them are accepted: keys change without a gap."""

    name = "auth_xkeys"
    Params = AuthXkeysParams

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self._groups: dict[str, list[bytes]] = {}  # group -> the keys, the newest first
        for text in self.params.xkey:
            key = _key(text)
            self._groups.setdefault(key.group, []).insert(0, key.value.encode())

    @export()
    def auth_xkeys_add(self, ctx: RouteContext, hdr: str, kid: str, alg: str, data: str) -> int:
        """Add the header ``hdr``: the ``alg`` (sha256, sha384, sha512) of the newest key of ``kid`` and ``data``. 1 or -1."""
        keys = self._keys("auth_xkeys_add", kid, alg)
        if not keys:
            return -1
        return int(self.services.modules["hdr"].append(ctx, f"{hdr}: {_digest(alg, keys[0], data)}\r\n"))

    @export()
    def auth_xkeys_check(self, ctx: RouteContext, hdr: str, kid: str, alg: str, data: str) -> int:
        """Tell whether the header ``hdr`` has the hash of a key of ``kid`` and ``data``: 1 or -1."""
        keys = self._keys("auth_xkeys_check", kid, alg)
        given = (ctx.message.get(hdr.lower()) or "").strip(" \t").lower().encode("latin-1")
        found = [key for key in keys if hmac.compare_digest(_digest(alg, key, data).encode(), given)]
        return 1 if found else -1

    def _keys(self, function: str, kid: str, alg: str) -> list[bytes]:
        if alg.lower() not in _ALGORITHMS:
            log.error("auth_xkeys.%s: expected %s as algorithm, got %r", function, ", ".join(_ALGORITHMS), alg)
            return []
        keys = self._groups.get(kid.lower(), [])
        if not keys:
            log.error("auth_xkeys.%s: there is no key of the group %r", function, kid)
        return keys


def _digest(algorithm: str, key: bytes, data: str) -> str:
    return hashlib.new(algorithm.lower(), key + b":" + data.encode("latin-1")).hexdigest()
