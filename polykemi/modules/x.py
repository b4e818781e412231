"""x: ending a route block (KSR.x, which Kamailio's Lua and JavaScript engines add to KSR), what outlives a reload, signatures.

``shared`` is state of the server: every version of every script sees it, in all languages. A script's own variables begin anew
with each version.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from hashlib import blake2b, sha256
from typing import Any, Final

from polykemi.kemi.context import Exit, RouteContext
from polykemi.kemi.registry import Xval, export
from polykemi.modules.base import Module, Services

log = logging.getLogger("polykemi.script")

MOST_SHARED: Final = 10_000  # names
LONGEST_SHARED: Final = 65_536  # octets of a name and its value
_INT_MAX: Final = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class XParams:
    """Parameters of x."""

    secret: str = (
        ""  # what sign signs with: the same on all servers that take each other's; default: one of this server's own
    )


class X(Module):
    """Functions that end the running route block, values that all scripts share, and signatures."""

    name = "x"
    Params = XParams
    params: XParams

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self.shared_values: dict[str, int | str] = {}
        self._key = b""

    @export(name="exit")
    def exit_(self, ctx: RouteContext) -> None:
        """End the running route block, with success."""
        raise Exit

    @export()
    def probe(self, ctx: RouteContext) -> None:
        """Do nothing: that it can be called shows that KSR is there."""

    @export()
    def drop(self, ctx: RouteContext) -> None:
        """Mark what is being routed as dropped (``KSR.set_drop``) and end the route block."""
        ctx.dropped = True
        raise Exit

    @export()
    def sign(self, ctx: RouteContext, text: str) -> Xval:
        """Return 24 hexadecimal digits for ``text`` that only this server can make, the same after a restart.

        What a message carries away with them and brings back was written here. With ``secret`` several servers make the same.
        """
        return blake2b(text.encode("latin-1"), key=self._key or self._new_key(), digest_size=12).hexdigest()

    def _new_key(self) -> bytes:
        secret = self.params.secret
        self._key = sha256(secret.encode("latin-1")).digest() if secret else self.services.lasting_secret("x.sign")
        return self._key

    # ---- what outlives a reload
    @export()
    def shared(self, ctx: RouteContext, name: str) -> Xval:
        """Return the value that scripts share under ``name``; null when there is none. A reload of the scripts leaves it alone."""
        return self.shared_values.get(name)

    @export()
    def shared_sets(self, ctx: RouteContext, name: str, value: str) -> int:
        """Set a shared value to a text: 1, or -1 when there are 10,000 others or it is longer than 65,536 octets."""
        return self._set("shared_sets", name, value)

    @export()
    def shared_seti(self, ctx: RouteContext, name: str, value: int) -> int:
        """Set a shared value to an integer: 1, or -1 as ``shared_sets``."""
        return self._set("shared_seti", name, value)

    @export()
    def shared_inc(self, ctx: RouteContext, name: str, step: int) -> Xval:
        """Add ``step`` to a shared value, a text or nothing being 0, and return it; null when it cannot be set."""
        value = self.shared_values.get(name, 0)
        total = (value if isinstance(value, int) else 0) + step
        total = max(-_INT_MAX - 1, min(_INT_MAX, total))
        return total if self._set("shared_inc", name, total) == 1 else None

    @export()
    def shared_rm(self, ctx: RouteContext, name: str) -> int:
        """Remove a shared value: 1, or -1 when there was none."""
        return -1 if self.shared_values.pop(name, None) is None else 1

    def _set(self, function: str, name: str, value: int | str) -> int:
        values = self.shared_values
        if name not in values and len(values) >= MOST_SHARED:
            log.error("x.%s: expected at most %d names", function, MOST_SHARED)
            return -1
        if len(name) + (len(value) if isinstance(value, str) else 0) > LONGEST_SHARED:
            log.error("x.%s: expected at most %d octets", function, LONGEST_SHARED)
            return -1
        values[name] = value
        return 1
