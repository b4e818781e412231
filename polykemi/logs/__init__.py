"""The log of the process: records of Python's loggers, with what is known of the message, to where the configuration says.

``fields`` finds what a line is about, ``formats`` makes it, ``outputs`` brings it away. A level that is off costs a look into
Python's own cache; nothing else of this happens before a line is really written.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import get_ident
from typing import Any, Final, Self

from polykemi.errors import ConfigError
from polykemi.kemi.context import Current, RouteContext
from polykemi.kemi.log_levels import LEVELS, TOP
from polykemi.logs.fields import FIELDS, Fields
from polykemi.logs.formats import HEAD, JOURNAL_HEAD, JsonFormat, LineFormat, journal_entry, severity
from polykemi.logs.outputs import JOURNAL, SYSLOG, Datagrams, File, Handler, Output, Stream
from polykemi.logs.printed import Printed

__all__ = ["DESTINATIONS", "FACILITIES", "FIELDS", "FORMATS", "Few", "Log", "LogSettings"]

DESTINATIONS: Final = ("stderr", "file", "syslog", "journal")
FORMATS: Final = ("line", "json")
# of syslog, with their numbers (RFC 5424 section 6.2.1)
FACILITIES: Final = {"user": 1, "daemon": 3, "auth": 4, **{f"local{n}": 16 + n for n in range(8)}}


@dataclass(frozen=True, slots=True)
class LogSettings:
    """``[log]``: what is written (``level``, ``levels`` of single loggers), how, and where to."""

    level: str = "info"
    levels: Mapping[str, str] = field(default_factory=dict)
    format: str = "line"
    to: str = "stderr"
    file: Path | None = None
    facility: str = "daemon"
    prefix: str = ""  # pseudo-variables in it are replaced, as in Kamailio's log_prefix
    fields: tuple[str, ...] = FIELDS


class Few(logging.Filter):
    """Lets ``MOST`` lines of one kind through in a second: who sends rubbish, or what goes wrong for each message, does
    not fill the disk. The next line of the kind tells how many were left out. What scripts and acc write is theirs.
    """

    MOST: Final = 100
    _KINDS: Final = 1000

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, str], list[int]] = {}  # logger and format -> second, lines in it

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether ``record`` is written."""
        kind = record.msg
        if kind == "%s" or not isinstance(kind, str):  # scripts log what they like
            return True
        if len(self._seen) >= self._KINDS:
            self._seen.clear()
        second = int(record.created)
        seen = self._seen.setdefault((record.name, kind), [second, 0])
        if seen[0] != second:
            left_out = seen[1] - self.MOST
            seen[:] = second, 0
            if left_out > 0:
                record.msg = f"{kind} (and {left_out} more like this before)"
        seen[1] += 1
        return seen[1] <= self.MOST


class Log:
    """The log while a server runs: a handler of Python's root logger, and what scripts print."""

    def __init__(self, settings: LogSettings, *, scripts: bool = True) -> None:
        """Open it. Raise ConfigError when its file cannot be opened. ``scripts``: scripts run in this process."""
        self._settings = settings
        self._fields = Fields(settings.fields)
        self._current: Current | None = None
        self._handler = self._open()
        self._handler.addFilter(Few())
        self._journal: Handler | None = None
        self._streams = sys.stdout, sys.stderr
        self._scripts = scripts
        self._before = logging._srcfile, logging.getLogger().level, logging.getLogger(TOP).level

    def _open(self) -> Handler:
        settings, fields = self._settings, self._fields
        place = {"journal": JOURNAL, "syslog": SYSLOG}.get(settings.to)
        if place is not None and not Path(place).is_socket():
            raise ConfigError(f"[log] to: no {settings.to} runs here, {place} is not there")
        if settings.to == "journal":
            return Handler(Datagrams(JOURNAL), lambda record: journal_entry(record, fields))
        if settings.to == "syslog":
            facility = FACILITIES[settings.facility] << 3
            as_text = JsonFormat("@cee: ", fields) if settings.format == "json" else LineFormat("{logger}: ", fields)
            return Handler(Datagrams(SYSLOG), lambda record: _syslog(facility, record, as_text(record)))
        output: Output
        head = HEAD
        if settings.to == "file":
            assert settings.file is not None
            try:
                output = File(settings.file)
            except OSError as error:
                raise ConfigError(f"{settings.file}: cannot write the log there: {error.strerror}") from None
        else:
            output = stream = Stream(2)
            head = JOURNAL_HEAD if stream.is_journal else HEAD
        as_line = JsonFormat("", fields) if settings.format == "json" else LineFormat(head, fields)
        return Handler(output, lambda record: as_line(record).encode("utf-8", "replace") + b"\n")

    def __enter__(self) -> Self:
        """Begin: from now on records go there."""
        logging._srcfile = None  # nobody is told the line of the server that logs
        level, root = LEVELS[self._settings.level], logging.getLogger()
        root.addHandler(self._handler)
        root.setLevel(max(level, logging.INFO))  # of loggers that scripts and libraries have: what they debug is theirs
        logging.getLogger(TOP).setLevel(level)
        if Path(JOURNAL).is_socket():
            self._journal = Handler(Datagrams(JOURNAL), lambda record: journal_entry(record, self._fields))
            journal = logging.getLogger("polykemi.journal")
            journal.addHandler(self._journal)
            journal.setLevel(logging.DEBUG)
            journal.propagate = False
        stdout, stderr = self._streams
        if stdout is not None and self._scripts:
            sys.stdout = Printed(stdout, logging.INFO, self._is_script)
        if stderr is not None and self._scripts:
            sys.stderr = Printed(stderr, logging.ERROR, self._is_script)
        return self

    def __exit__(self, *_: object) -> None:
        """End: Python's loggers are as before."""
        root, top = logging.getLogger(), logging.getLogger(TOP)
        logging._srcfile, root.level, top.level = self._before
        top.setLevel(top.level)  # and what loggers keep of it
        sys.stdout, sys.stderr = self._streams
        root.removeHandler(self._handler)
        self._handler.close()
        if self._journal is not None:
            journal = logging.getLogger("polykemi.journal")
            journal.removeHandler(self._journal)
            journal.propagate = True
            self._journal.close()

    def attach(
        self,
        services: Any,
        running: Callable[[], RouteContext | None],
        where: Callable[[], str],
    ) -> None:
        """Take what a server knows (``modules.base.Services``, ``Fields.attach``). Raise ConfigError for a bad prefix."""
        settings = self._settings
        prefix = None
        if settings.prefix:
            try:
                prefix = services.variables.text(settings.prefix)
            except ValueError as error:
                raise ConfigError(f"[log] prefix: {error}") from None
        self._fields.attach(running, where, prefix)
        self._current, self._handler.counters = services.current, services.counters
        for name, level in settings.levels.items():
            services.levels.set(LEVELS[level], name)

    def here(self) -> None:
        """Take the thread that calls for the one that routes messages."""
        self._fields.here()

    def _is_script(self) -> bool:
        """Tell whether a script runs, or is being loaded, on this thread."""
        current = self._current
        return current is None or (current.ctx is not None and self._fields.thread == get_ident())


def _syslog(facility: int, record: logging.LogRecord, text: str) -> bytes:
    """Return the datagram that syslog(3) sends."""
    when = time.strftime("%b %e %H:%M:%S", time.localtime(record.created))
    return f"<{facility | severity(record)}>{when} polykemi[{record.process}]: {text}".encode("utf-8", "replace")
