"""What the log is told of connections: a few lines in ten seconds, so that who makes thousands does not fill the disk."""

from __future__ import annotations

import logging
import time
from typing import Final

from polykemi.sip.flow import Flow, bracketed

log = logging.getLogger("polykemi.transport")

_QUIET: Final = 10.0  # seconds
_MOST: Final = 20  # lines about connections that were closed, in as many seconds


class Told:
    """Counts what the log is not told."""

    def __init__(self) -> None:
        self._refused = 0  # connections since the last line about them
        self._refused_at = 0.0  # when that was written
        self._closed = 0  # connections since
        self._closed_from = 0.0

    def of_refused(self, host: str, port: int, there: int, of_host: int) -> None:
        """Tell that a connection was refused: there are so many, and ``of_host`` from its address."""
        self._refused += 1
        now = time.time()
        if now - self._refused_at >= _QUIET:
            text = "refused %d connections, the last from %s:%d: there are %d, of these %d from there"
            log.warning(text, self._refused, host, port, there, of_host)
            self._refused, self._refused_at = 0, now

    def of_closed(self, what: str, flow: Flow, why: str) -> None:
        """Tell that a connection was closed (or dropped: ``what``) for what its peer has done."""
        now = time.time()
        if now - self._closed_from >= _QUIET:
            if self._closed > _MOST:
                log.info("closed or dropped %d more connections", self._closed - _MOST)
            self._closed, self._closed_from = 0, now
        self._closed += 1
        if self._closed <= _MOST:
            log.info("%s %s:%s:%d: %s", what, flow.listener.proto, bracketed(flow.host), flow.port, why)
