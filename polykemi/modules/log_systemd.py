"""log_systemd: entries of systemd's journal (Kamailio: modules/log_systemd). ``logs`` brings them there.

Where no journal runs they stand in the server's own log.
"""

from __future__ import annotations

import logging
from typing import Final

from polykemi.kemi.context import RouteContext
from polykemi.kemi.log_levels import NOTICE
from polykemi.kemi.registry import export
from polykemi.modules.base import Module
from polykemi.pv.classes.avp import PLAIN

log = logging.getLogger("polykemi.script")
journal = logging.getLogger("polykemi.journal")

_DEBUG: Final = 7
_PRIORITIES: Final = {  # syslog(3): number, and the level of the server's own log
    "LOG_EMERG": (0, logging.CRITICAL),
    "LOG_ALERT": (1, logging.CRITICAL),
    "LOG_CRIT": (2, logging.CRITICAL),
    "LOG_ERR": (3, logging.ERROR),
    "LOG_WARNING": (4, logging.WARNING),
    "LOG_NOTICE": (5, NOTICE),
    "LOG_INFO": (6, logging.INFO),
}


class LogSystemd(Module):
    """Entries of the journal."""

    name = "log_systemd"

    @export()
    def sd_journal_print(self, ctx: RouteContext, level: str, text: str) -> int:
        """Write a text at a level, ``LOG_EMERG`` to ``LOG_INFO``; any other is LOG_DEBUG. Answers 1."""
        priority, own = _PRIORITIES.get(level.upper(), (_DEBUG, logging.DEBUG))
        journal.log(own, "%s", text, extra={"journal": {"MESSAGE": text, "PRIORITY": str(priority)}})
        return 1

    @export()
    def sd_journal_send_xvap(self, ctx: RouteContext, xname: str) -> int:
        """Write an entry with the fields of the newest item of an XAVP. Answers 1, or -1 when there is none."""
        items = ctx.shared.xavps.get(xname)
        if not items or PLAIN in items[0]:
            log.error("log_systemd.sd_journal_send_xvap: %r is no XAVP with fields", xname)
            return -1
        fields = {name: str(values[0]) for name, values in items[0].items() if isinstance(values[0], (int, str))}
        if fields:
            text = " ".join(f"{name}={value}" for name, value in fields.items())
            journal.log(logging.INFO, "%s", text, extra={"journal": fields})
        return 1
