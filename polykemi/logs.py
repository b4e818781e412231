"""How the log is written: one line a message, readable whatever the network or a script put into it."""

from __future__ import annotations

import logging
import sys
from typing import Final

from polykemi.kemi.binding import from_octets

NOTICE: Final = 25  # KSR.notice(): between INFO and WARNING

# control characters are written as escapes: what comes from the network must not steer a terminal or forge a line
CONTROLS: Final[dict[int, str]] = {n: f"\\x{n:02x}" for n in (*range(9), *range(11, 32), 127)}
CONTROLS.update((n, f"\\x{n - 0xDC00:02x}") for n in range(0xDC80, 0xDD00))  # octets that are no UTF-8


class LineFormatter(logging.Formatter):
    """Formats records; text of messages and scripts is octets (Latin-1), read as UTF-8 here."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line of ``record``, without its traceback."""
        text = record.message.rstrip("\r\n")
        if not text.isascii():
            try:
                text = from_octets(text)
            except UnicodeEncodeError:  # Unicode already
                pass
        record.message = text.translate(CONTROLS)
        return super().formatMessage(record)


def to_stderr(level: str) -> None:
    """Write the log to standard error from ``level`` (debug, info, warning, error, critical) up."""
    logging.addLevelName(NOTICE, "NOTICE")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=level.upper())
