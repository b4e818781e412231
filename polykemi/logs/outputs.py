"""Where lines go. None of it ever waits: what cannot be written at once is lost, counted, and told of when it works again."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

SYSLOG: Final = "/dev/log"
JOURNAL: Final = "/run/systemd/journal/socket"
PIPE: Final = 4096


class Output(Protocol):
    """A place for lines."""

    def write(self, data: bytes) -> None:
        """Write all of ``data`` without waiting. Raise OSError."""

    def close(self) -> None:
        """Give it back."""


class Stream:
    """A file descriptor that others have too (standard error): written to without waiting, and without changing it.

    ``O_NONBLOCK`` would hold for all who share it, the shell that has started the server among them. So a pipe or a terminal
    is opened once more, a socket is told so with each send; where that is not allowed it is asked before each write.
    """

    def __init__(self, fd: int) -> None:
        self._fd, self._own = fd, -1
        self._torn = False  # the last line has no end
        self._send = self._way()

    @property
    def is_journal(self) -> bool:
        """Whether systemd's journal reads it, line by line."""
        try:
            found = os.fstat(self._fd)
        except OSError:
            return False
        return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"

    def _way(self) -> Callable[[memoryview], int]:
        try:
            mode = os.fstat(self._fd).st_mode
        except OSError:  # closed: each write says so
            return self._write
        if stat.S_ISREG(mode):
            return self._write
        if stat.S_ISSOCK(mode):
            return self._send_socket
        try:
            self._own = os.open(f"/proc/self/fd/{self._fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            # a pipe that is ready takes so much at once (pipe(7): PIPE_BUF), a terminal may take one octet only
            self._most = PIPE if stat.S_ISFIFO(mode) else 1
            return self._ask_and_write
        return self._write

    def write(self, data: bytes) -> None:
        """Write ``data``. Raise OSError."""
        rest = memoryview(b"\n" + data if self._torn else data)
        while rest:
            rest = rest[self._send(rest) :]
            self._torn = bool(rest)

    def _write(self, data: memoryview) -> int:
        return os.write(self._fd if self._own < 0 else self._own, data)

    def _send_socket(self, data: memoryview) -> int:
        with socket.socket(fileno=os.dup(self._fd)) as one:
            return one.send(data, socket.MSG_DONTWAIT)

    def _ask_and_write(self, data: memoryview) -> int:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        if not poll.poll(0):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return os.write(self._fd, data[: self._most])

    def close(self) -> None:
        """Close what was opened once more; the descriptor itself is not ours."""
        if self._own >= 0:
            os.close(self._own)
            self._own = -1
            self._send = self._write


class File:
    """A file that is opened anew when another one, or none, has its name (logrotate, with or without ``create``)."""

    def __init__(self, path: Path) -> None:
        """Raise OSError."""
        self._path = path
        self._identity = (0, 0)
        self._fd = -1
        self._torn = False
        self._open()

    def write(self, data: bytes) -> None:
        """Write ``data``. Raise OSError."""
        try:
            found = self._path.stat()
            same = (found.st_dev, found.st_ino) == self._identity
        except FileNotFoundError:
            same = False
        if not same:
            self._open_anew()
        rest = memoryview(b"\n" + data if self._torn else data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
            self._torn = bool(rest)

    def _open_anew(self) -> None:
        """Open what has the name now; where that is not allowed (yet) the old file is good for as long as it has a name."""
        try:
            self._open()
        except OSError:
            if self._fd < 0 or not os.fstat(self._fd).st_nlink:
                raise

    def _open(self) -> None:
        # O_NONBLOCK: for a pipe that nobody reads
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o640)
        self.close()
        found = os.fstat(fd)
        self._fd, self._identity, self._torn = fd, (found.st_dev, found.st_ino), False

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Datagrams:
    """A Unix socket that takes one datagram a line: syslog's or the journal's."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(0)

    def write(self, data: bytes) -> None:
        """Send ``data``. Raise OSError."""
        self._socket.sendto(data, self._path)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class Handler(logging.Handler):
    """Gives records, as ``encode`` makes them, to an output."""

    def __init__(self, output: Output, encode: Callable[[logging.LogRecord], bytes]) -> None:
        super().__init__()
        self._output, self._encode = output, encode
        self.counters: dict[str, int] = {}  # where lost lines are counted: log.lost_lines
        self._lost = 0  # since the last line that was written
        self._cause = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, and before it how many were lost."""
        try:
            if self._lost:
                self._output.write(self._encode(self._loss()))
                self._lost = 0
            self._output.write(self._encode(record))
        except OSError as error:
            self._lose(error.strerror or str(error))
        except Exception as error:  # noqa: BLE001 - whatever a record holds, what logs it goes on
            self._lose(f"{type(error).__name__}: {error}")

    def _lose(self, cause: str) -> None:
        self._lost += 1
        self._cause = cause
        self.counters["log.lost_lines"] = self.counters.get("log.lost_lines", 0) + 1

    def _loss(self) -> logging.LogRecord:
        text = "%d lines of the log were lost: %s"
        return logging.makeLogRecord(
            {
                "name": "polykemi.log",
                "levelno": logging.WARNING,
                "msg": text,
                "args": (self._lost, self._cause),
                "thread": 0,
            }
        )

    def close(self) -> None:
        """Close the output."""
        self._output.close()
        super().close()
