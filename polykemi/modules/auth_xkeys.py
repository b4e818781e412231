"""auth_xkeys: headers signed with keys that servers share (Kamailio: auth_xkeys): hex digits of SHA-2 over ``key:data``."""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from hmac import compare_digest
from typing import Any, Final

from polykemi.errors import RpcError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.kemi.rpc import rpc
from polykemi.modules.base import Module, Services
from polykemi.sip.grammar import is_token
from polykemi.sip.header import parse_params

log = logging.getLogger("polykemi.script")

_ALGORITHMS: Final = ("sha256", "sha384", "sha512")


@dataclass
class Key:
    """One key of a chain. ``expires``: what was said about it; as in Kamailio nothing looks at it yet."""

    name: str
    value: str
    expires: int  # seconds since the epoch or since the start of the server, 0: never


def parse_key(definition: str) -> tuple[str, Key]:
    """Return chain and key of ``id=xyz;name=abc;value=secret;expires=36000``. Raise ValueError."""
    given = parse_params(definition)
    kid, name, value = (given.get(field) or "" for field in ("id", "name", "value"))
    expires = given.get("expires") or "0"
    if not (kid and name and value and expires.isdecimal()):
        raise ValueError(f"xkey: expected id=...;name=...;value=...;expires=seconds, got {_hidden(definition)!r}")
    return kid.lower(), Key(name, value, int(expires))


def _hidden(definition: str) -> str:
    """Return a definition without its key, for the log."""
    return re.sub(r"(value[ \t]*=)[^;]*", r"\1***", definition, flags=re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class AuthXkeysParams:
    """Kamailio's name; ``xkey`` has one definition for each key. The last key of a chain signs, all of them are good."""

    xkey: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for definition in self.xkey:
            parse_key(definition)


class AuthXkeys(Module):
    """Chains of keys: by their id, the newest key first."""

    name = "auth_xkeys"
    Params = AuthXkeysParams

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self.chains: dict[str, list[Key]] = {}
        for definition in self.params.xkey:
            kid, key = parse_key(definition)
            self.chains.setdefault(kid, []).insert(0, key)

    @export()
    def auth_xkeys_add(self, ctx: RouteContext, shdr: str, skey: str, salg: str, sdata: str) -> int:
        """Sign ``sdata`` with the newest key of chain ``skey`` and add the header ``shdr``. Answers 1, or -1.

        ``salg``: sha256, sha384 or sha512.
        """
        chain = self._chain(skey, salg)
        if not chain or not is_token(shdr):
            return -1
        line = f"{shdr}: {_signed(salg, chain[0], sdata)}"
        ctx.edits.inserts.append((len(ctx.message.lines), line))
        return 1

    @export()
    def auth_xkeys_check(self, ctx: RouteContext, shdr: str, skey: str, salg: str, sdata: str) -> int:
        """Tell whether the header ``shdr`` is ``sdata`` signed with a key of chain ``skey``. Answers 1, or -1."""
        chain = self._chain(skey, salg)
        value = (ctx.message.get(shdr.lower()) or "").strip(" \t\r\n").lower().encode("latin-1")
        good = any(compare_digest(_signed(salg, key, sdata).encode(), value) for key in chain)
        return 1 if value and good else -1

    def _chain(self, kid: str, algorithm: str) -> list[Key]:
        if not self.chains:
            log.error("auth_xkeys: there are no keys")
        elif algorithm.lower() not in _ALGORITHMS:
            log.error("auth_xkeys: unknown algorithm %r, expected %s", algorithm, ", ".join(_ALGORITHMS))
        else:
            return self.chains.get(kid.lower(), [])
        return []

    @rpc("auth_xkeys_.list")
    def list_keys(self) -> list[dict[str, Any]]:
        """List the keys, chain by chain."""
        if not self.chains:
            raise RpcError(500, "No keys")
        return [
            {"KID": kid, "KEYS": [{"NAME": k.name, "VALUE": k.value, "EXPIRES": k.expires} for k in chain]}
            for kid, chain in self.chains.items()
        ]

    @rpc("auth_xkeys_.set", (500, "Invalid Parameters"))
    def set_key(self, kid: str, name: str, value: str, expires: int) -> None:
        """Set when the newest key of a chain expires; make the chain with this key when there is none."""
        chain = self.chains.setdefault(kid.lower(), [])
        if chain:
            chain[0].expires = expires
        else:
            chain.append(Key(name, value, expires))


def _signed(algorithm: str, key: Key, data: str) -> str:
    return hashlib.new(algorithm.lower(), f"{key.value}:{data}".encode("latin-1")).hexdigest()
