"""x: ending a route block (KSR.x, which Kamailio's Lua and JavaScript engines add to KSR)."""

from __future__ import annotations

from polykemi.kemi.context import Exit, RouteContext
from polykemi.kemi.registry import export
from polykemi.modules.base import Module


class X(Module):
    """Functions that end the running route block."""

    name = "x"

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
