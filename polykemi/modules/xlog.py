"""KSR.xlog: log lines with variables in them (Kamailio: modules/xlog)."""

from __future__ import annotations

import logging

from polykemi.kemi.context import RouteContext
from polykemi.kemi.log_levels import KAMAILIO_LEVELS, NOTICE
from polykemi.kemi.registry import export
from polykemi.modules.base import Module

log = logging.getLogger("polykemi.script")


class Xlog(Module):
    """Log lines of the script. Nothing is formatted when the level is off."""

    name = "xlog"

    @export()
    def xdbg(self, ctx: RouteContext, text: str) -> int:
        """Log ``text``, its variables expanded, at level debug."""
        return self._log(ctx, logging.DEBUG, text)

    @export()
    def xinfo(self, ctx: RouteContext, text: str) -> int:
        """Log ``text``, its variables expanded, at level info."""
        return self._log(ctx, logging.INFO, text)

    @export()
    def xnotice(self, ctx: RouteContext, text: str) -> int:
        """Log ``text``, its variables expanded, at level notice."""
        return self._log(ctx, NOTICE, text)

    @export()
    def xwarn(self, ctx: RouteContext, text: str) -> int:
        """Log ``text``, its variables expanded, at level warning."""
        return self._log(ctx, logging.WARNING, text)

    @export()
    def xerr(self, ctx: RouteContext, text: str) -> int:
        """Log ``text``, its variables expanded, at level error."""
        return self._log(ctx, logging.ERROR, text)

    @export()
    def xcrit(self, ctx: RouteContext, text: str) -> int:
        """Log ``text``, its variables expanded, at level critical."""
        return self._log(ctx, logging.CRITICAL, text)

    @export()
    def xalert(self, ctx: RouteContext, text: str) -> int:
        """Log ``text``, its variables expanded, at level alert."""
        return self._log(ctx, logging.CRITICAL, text)

    @export()
    def xlog(self, ctx: RouteContext, level: str, text: str) -> int:
        """Log ``text``, its variables expanded, at ``level`` (``L_INFO``, ``INFO``, ...); anything else is an error."""
        return self._log(ctx, _level(level), text)

    @export()
    def xlog_facility(self, ctx: RouteContext, facility: str, level: str, text: str) -> int:
        """Log like ``xlog``; the facility (``LOG_LOCAL0``, ...) stands in front of the text."""
        number = _level(level)
        if not log.isEnabledFor(number):
            return 1
        return self._log(ctx, number, f"[{facility.replace('$', '$$')}] {text}")

    def _log(self, ctx: RouteContext, level: int, text: str) -> int:
        if not log.isEnabledFor(level):
            return 1
        try:
            expand = self.services.variables.text(text)
        except ValueError as error:
            log.error("xlog: %r cannot be expanded: %s", text, error)
            return -1
        log.log(level, "%s", expand(ctx).rstrip("\r\n"))
        return 1


def _level(name: str) -> int:
    return KAMAILIO_LEVELS.get(name.upper().removeprefix("L_"), logging.ERROR)
