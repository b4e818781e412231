"""KSR.kex: the level of the log from inside of a script (Kamailio: modules/kex)."""

from __future__ import annotations

from polykemi.kemi.context import RouteContext
from polykemi.kemi.log_levels import level_of
from polykemi.kemi.registry import export
from polykemi.modules.base import Module


class Kex(Module):
    """Levels of the log. In Kamailio they hold for one worker; here that is the whole server."""

    name = "kex"

    @export()
    def setdebug(self, ctx: RouteContext, level: int) -> int:
        """Log from ``level`` on (3 debug, 2 info, 1 notice, 0 warnings, -1 errors) until ``resetdebug`` is called. Answers 1."""
        self.services.levels.override(level_of(level))
        return 1

    @export()
    def resetdebug(self, ctx: RouteContext) -> int:
        """Log from the server's level on again. Answers 1."""
        self.services.levels.override(None)
        return 1
