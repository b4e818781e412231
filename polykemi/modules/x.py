"""x: ending a route block (KSR.x, which Kamailio's Lua and JavaScript engines add to KSR), and what outlives a reload.

``shared`` is state of the server: every version of every script sees it, in all languages. A script's own variables begin anew
with each version.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from polykemi.kemi.context import Exit, RouteContext
from polykemi.kemi.registry import Xval, export
from polykemi.modules.base import Module, Services

log = logging.getLogger("polykemi.script")

MOST_SHARED: Final = 10_000  # names
LONGEST_SHARED: Final = 65_536  # octets of a name and its value
_INT_MAX: Final = (1 << 31) - 1


class X(Module):
    """Functions that end the running route block, and values that all scripts share."""

    name = "x"

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self.shared_values: dict[str, int | str] = {}

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
