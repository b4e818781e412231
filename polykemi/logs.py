"""How the log is written: one line a message, readable whatever the network or a script put into it."""

from __future__ import annotations

import logging
import socket
import sys
from pathlib import Path
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


class Few(logging.Filter):
    """Lets ``MOST`` lines of one kind through in a second: who sends rubbish, or what goes wrong for each message, does
    not fill the disk. The next line of the kind tells how many were left out. What scripts and acc write is theirs.
    """

    MOST: Final = 100
    _KINDS: Final = 1000

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, object], list[int]] = {}  # logger and format -> second, lines in it

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether ``record`` is written."""
        if record.msg == "%s":
            return True
        if len(self._seen) >= self._KINDS:
            self._seen.clear()
        second = int(record.created)
        seen = self._seen.setdefault((record.name, record.msg), [second, 0])
        if seen[0] != second:
            left_out = seen[1] - self.MOST
            seen[:] = second, 0
            if left_out > 0:
                record.msg, record.args = f"{record.getMessage()} (and {left_out} more like this before)", None
        seen[1] += 1
        return seen[1] <= self.MOST


JOURNAL: Final = "/run/systemd/journal/socket"


class JournalHandler(logging.Handler):
    """Sends the fields of records (``record.journal``) to systemd's journal, by its native protocol."""

    def __init__(self, path: str = JOURNAL) -> None:
        super().__init__()
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(0)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one entry; one that cannot be sent is lost, as the log must not hold up a call."""
        fields: dict[str, str] = {"SYSLOG_IDENTIFIER": "polykemi", **record.__dict__.get("journal", {})}
        data = b"".join(_journal_field(name, text.encode("latin-1", "replace")) for name, text in fields.items())
        try:
            self._socket.sendto(data, self._path)
        except OSError:
            self.handleError(record)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def _journal_field(name: str, text: bytes) -> bytes:
    """Return ``NAME=text``, or for more than one line the name, the length and the text."""
    key = name.encode("latin-1", "replace").replace(b"\n", b"_").replace(b"=", b"_")
    if b"\n" not in text:
        return key + b"=" + text + b"\n"
    return key + b"\n" + len(text).to_bytes(8, "little") + text + b"\n"


def to_stderr(level: str) -> None:
    """Write the log to standard error from ``level`` (debug, info, warning, error, critical) up."""
    logging.addLevelName(NOTICE, "NOTICE")
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(Few())
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=level.upper())
    if Path(JOURNAL).is_socket():
        journal = logging.getLogger("polykemi.journal")
        journal.addHandler(JournalHandler())
        journal.setLevel(logging.DEBUG)
        journal.propagate = False
