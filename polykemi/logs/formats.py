"""How a record is written: as a line for readers, as a JSON object for programs, as an entry of the journal.

Text of messages and scripts is octets (Latin-1), read as UTF-8 here. What comes from the network must not steer a terminal,
forge a line or fill the disk: control characters are escaped, each text is cut when it is too long.
"""

from __future__ import annotations

import json
import logging
import re
import time
from datetime import UTC, datetime
from typing import Final

from polykemi.kemi.binding import from_octets
from polykemi.kemi.log_levels import name_of
from polykemi.logs.fields import Fields

TEXT: Final = 8192  # characters of a message that are written; Kamailio's xlog makes 4096 octets of one
VALUE: Final = 256  # ... of a field
TRACEBACK: Final = 16384

HEAD: Final = "{time} {level} {logger}: "
JOURNAL_HEAD: Final = "<{severity}>{logger}: "  # sd-daemon(3): systemd knows the time, and reads the level

# control characters, among them those of Unicode that turn or break lines, and octets that are no UTF-8
CONTROLS: Final[dict[int, str]] = {n: f"\\x{n:02x}" for n in (*range(9), *range(10, 32), *range(127, 160))}
CONTROLS[10] = "\\n"
CONTROLS.update((n, f"\\u{n:04x}") for n in (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)))
CONTROLS.update((n, f"\\x{n - 0xDC00:02x}") for n in range(0xDC80, 0xDD00))
_NO_OCTETS: Final = {n: text for n, text in CONTROLS.items() if n >= 0xDC80}

_PLAIN: Final = re.compile(r"[!#-<>-\[\]-{}~]+")  # a value that needs no quotes

_SEVERITIES: Final = ((50, 2), (40, 3), (30, 4), (25, 5), (20, 6))  # RFC 5424 section 6.2.1, by Python's levels


def readable(text: str, most: int, *, maybe_unicode: bool = False) -> str:
    """Return octets as Unicode, at most ``most`` characters and how many more there were.

    ``maybe_unicode``: what is no UTF-8 is taken for Unicode; else only what can be no octets.
    """
    more = f"... ({len(text) - most} more)" if len(text) > most else ""
    text = text[:most]
    if not text.isascii():
        try:
            decoded = from_octets(text)
        except UnicodeEncodeError:
            return text + more
        if not (maybe_unicode and any("\udc80" <= c <= "\udcff" for c in decoded)):
            text = decoded
    return text + more


def escaped(text: str) -> str:
    """Return ``text`` as one line that steers no terminal."""
    return text if text.isprintable() else text.translate(CONTROLS)


def severity(record: logging.LogRecord) -> int:
    """Return the severity of syslog: 2 critical, 3 error, 4 warning, 5 notice, 6 info, 7 debug."""
    return next((number for level, number in _SEVERITIES if record.levelno >= level), 7)


def message_of(record: logging.LogRecord) -> str:
    """Return the text of a record. What engines say of a script error is octets in one language and Unicode in another."""
    return readable(record.getMessage().rstrip("\r\n"), TEXT, maybe_unicode="error" in record.__dict__)


def prefix_of(record: logging.LogRecord, fields: Fields | None) -> str:
    """Return what stands in front of the text."""
    return readable(fields.prefix(record), VALUE) if fields is not None else ""


def traceback_of(record: logging.LogRecord) -> str:
    """Return the traceback of a record, of a script or of the server, "" when there is none."""
    text: str = getattr(record.__dict__.get("error"), "traceback", "")
    if not text and record.exc_info:
        text = logging.Formatter().formatException(record.exc_info)
    if not text:
        return ""
    return readable(text.strip("\n"), TRACEBACK, maybe_unicode=True)


class LineFormat:
    """``time LEVEL logger: text | field=value ...``, the lines of a traceback behind it."""

    def __init__(self, head: str = HEAD, fields: Fields | None = None) -> None:
        """``head``: what stands in front of the text."""
        self._head, self.fields = head, fields

    def __call__(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        text = escaped(prefix_of(record, self.fields) + message_of(record))
        found = self.fields.of(record) if self.fields is not None else {}
        shown = " ".join(f"{name}={_quoted(value)}" for name, value in found.items())
        level, number = name_of(record.levelno).upper(), severity(record)
        head = self._head.format(time=_local(record), level=level, severity=number, logger=record.name)
        line = f"{head}{text} | {shown}" if shown else head + text
        traceback = traceback_of(record)
        return "\n    ".join([line, *map(escaped, traceback.split("\n"))]) if traceback else line


def _quoted(value: str | int) -> str:
    text = str(value)
    if len(text) <= VALUE and _PLAIN.fullmatch(text):
        return text
    text = readable(text, VALUE)
    if any(mark in text for mark in ' "\\|='):
        text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return escaped(text)


def _local(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(record.created))},{int(record.msecs):03d}"


class JsonFormat:
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message, the fields, and a traceback."""

    def __init__(self, head: str = "", fields: Fields | None = None) -> None:
        """``head``: what stands in front of the object, as syslog's ``@cee: ``."""
        self._head, self.fields = head, fields

    def __call__(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        moment = datetime.fromtimestamp(record.created, UTC)
        entry: dict[str, str | int] = {
            "time": moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z",
            "level": name_of(record.levelno),
            "logger": record.name,
        }
        prefix = prefix_of(record, self.fields)
        if prefix:
            entry["prefix"] = _plain(prefix)
        entry["message"] = _plain(message_of(record))
        found = self.fields.of(record) if self.fields is not None else {}
        for name, value in found.items():
            entry[name] = value if isinstance(value, int) else _plain(readable(value, VALUE))
        traceback = traceback_of(record)
        if traceback:
            entry["traceback"] = _plain(traceback)
        return self._head + json.dumps(entry, ensure_ascii=False)


def _plain(text: str) -> str:
    """Return ``text`` with what JSON does not escape: octets that are no UTF-8, DEL, what turns or breaks lines."""
    return text if text.isascii() and "\x7f" not in text else text.translate(_JSON)


_JSON: Final = {n: text for n, text in CONTROLS.items() if n >= 127}


def journal_entry(record: logging.LogRecord, fields: Fields | None) -> bytes:
    """Return the datagram of systemd's native protocol: that of ``record.journal``, else the record with its fields."""
    given: dict[str, str] | None = record.__dict__.get("journal")
    if given is None:
        found = fields.of(record) if fields is not None else {}
        given = {
            "MESSAGE": escaped(prefix_of(record, fields) + message_of(record)),
            "PRIORITY": str(severity(record)),
            "LOGGER": record.name,
            **{name.upper(): escaped(readable(str(value), VALUE)) for name, value in found.items()},
        }
        traceback = traceback_of(record)
        if traceback:
            given["TRACEBACK"] = traceback.translate(_NO_OCTETS)
        encoding = "utf-8"
    else:
        encoding = "latin-1"
    given = {"SYSLOG_IDENTIFIER": "polykemi", **given}
    return b"".join(_journal_field(name, text.encode(encoding, "replace")) for name, text in given.items())


def _journal_field(name: str, text: bytes) -> bytes:
    """Return ``NAME=text``, or for more than one line the name, the length and the text."""
    key = name.encode("latin-1", "replace").replace(b"\n", b"_").replace(b"=", b"_")
    if b"\n" not in text:
        return key + b"=" + text + b"\n"
    return key + b"\n" + len(text).to_bytes(8, "little") + text + b"\n"
