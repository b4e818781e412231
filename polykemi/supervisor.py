"""A parent process that starts the server anew when it crashes or is stuck: systemd's part, where there is no systemd.

It speaks systemd's protocols (``systemd``): the server says READY=1 and, from its event loop, WATCHDOG=1; it hands its
sockets over (FDSTORE=1) and is passed them at the next start (LISTEN_FDS), so that what comes meanwhile waits in the kernel.
A script that holds Python's lock in native code stops all of a process, and nothing inside can end it: that is what this is for.
"""

from __future__ import annotations

import array
import fcntl
import logging
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from polykemi.systemd import FIRST_FD

log = logging.getLogger("polykemi.supervisor")

START: Final = 90.0  # seconds that the server has until it is ready
ABORT: Final = 1.0  # seconds between SIGABRT and SIGKILL
STOP: Final = 30.0  # seconds that it has to end, beyond those for open transactions
# seconds before it is started anew; 0.1 after the first crash, then twice as long each time
LONGEST_PAUSE: Final = 10.0
STEADY: Final = 60.0  # seconds after which a crash is the first one again

_MOST_KEPT: Final = 512
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid
_PASSED_ON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_IGNORED: Final = (signal.SIGUSR1, signal.SIGUSR2)


class Supervisor:
    """One server, of which there is at most one process at a time."""

    def __init__(self, command: list[str], watchdog: float, drain: float) -> None:
        """``command`` starts the server. ``watchdog``: seconds without WATCHDOG=1; ``drain``: those of ``[service] drain``."""
        self._command, self._watchdog, self._drain = command, watchdog, drain
        self._pid = 0
        self._kept: dict[str, int] = {}  # descriptors of the server's sockets, by name
        self._is_ready = False
        self._hangs_up = False  # a SIGHUP waits until it is
        self._was_ready = False  # this process or one before
        self._deadline = 0.0  # on the monotonic clock
        self._late: Callable[[], None] = self._abort  # what is done then
        self._told_to_stop = False
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._notices.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._notices.bind("")  # the kernel chooses an abstract name: whoever the server becomes can send there
        self._woken, wakes = socket.socketpair(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        for number in (*_PASSED_ON, *_IGNORED, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # the number comes out of _woken
        self._wakes = wakes  # the wakeup descriptor holds no reference
        signal.set_wakeup_fd(wakes.fileno())

    def run(self) -> int:
        """Keep the server running; return the exit code when it has ended as it was told, or could not start at all."""
        pause = 0.1
        while True:
            began = time.monotonic()
            status = self._run_once()
            code = os.waitstatus_to_exitcode(status)
            if self._told_to_stop and -code in (signal.SIGTERM, signal.SIGINT):  # it had only begun
                return 0
            if code == 0 or self._told_to_stop or not self._was_ready:
                return code if code >= 0 else 128 - code
            if time.monotonic() - began > STEADY:
                pause = 0.1
            how = f"exit code {code}" if code > 0 else signal.strsignal(-code)
            log.error("the server has ended (%s) and is started anew in %g s", how, pause)
            if not self._rest(pause):
                return 0
            pause = min(2 * pause, LONGEST_PAUSE)

    def _run_once(self) -> int:
        """Start the server and return what wait(2) says of its end."""
        self._is_ready = self._hangs_up = False
        self._wait_until(time.monotonic() + START, self._abort)
        self._pid = self._start()
        try:
            while True:
                self._look(self._deadline - time.monotonic())
                ended, status = os.waitpid(self._pid, os.WNOHANG)
                if ended:
                    self._read_notices()  # its last words
                    return status
                if time.monotonic() >= self._deadline:
                    self._late()
        finally:
            self._pid = 0

    def _rest(self, seconds: float) -> bool:
        """Let so many seconds pass; False when a signal says that there is to be no other start."""
        until = time.monotonic() + seconds
        while not self._told_to_stop and (left := until - time.monotonic()) > 0:
            self._look(left)
        return not self._told_to_stop

    def _start(self) -> int:
        """Begin a process that is passed what was kept; return its number."""
        environ = dict(os.environ, NOTIFY_SOCKET="@" + os.fsdecode(self._notices.getsockname()[1:]))
        environ["WATCHDOG_USEC"] = str(int(self._watchdog * 1e6))
        pid = os.fork()
        if pid:
            return pid
        try:
            os.setpgid(0, 0)  # what is typed at the terminal comes from here alone
            self._execute(environ)
        finally:
            os._exit(127)

    def _execute(self, environ: Mapping[str, str]) -> None:
        beyond = FIRST_FD + len(self._kept)
        copies = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, beyond) for one in self._kept.values()]
        for number, one in enumerate(copies, FIRST_FD):
            os.dup2(one, number, inheritable=True)
        passed = {
            "LISTEN_PID": str(os.getpid()),
            "LISTEN_FDS": str(len(copies)),
            "LISTEN_FDNAMES": ":".join(self._kept),
        }
        os.execve(sys.executable, self._command, {**environ, **passed} if copies else environ)

    # ---- what comes
    def _look(self, seconds: float) -> None:
        """Wait up to ``seconds`` for signals and for what the server says."""
        select.select([self._notices, self._woken], [], [], max(seconds, 0.0))
        try:
            numbers = self._woken.recv(64)
        except BlockingIOError:
            numbers = b""
        for number in numbers:
            self._signalled(number)
        self._read_notices()

    def _signalled(self, number: int) -> None:
        if number not in _PASSED_ON:
            return
        if number != signal.SIGHUP:
            self._told_to_stop = True
        elif not self._is_ready:  # it may not know this signal yet
            self._hangs_up = True
            return
        if self._pid:
            os.kill(self._pid, number)

    def _read_notices(self) -> None:
        room = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(array.array("i").itemsize * 16)
        while True:
            try:
                data, ancillary, _, _ = self._notices.recvmsg(4096, room)
            except BlockingIOError:
                return
            sender, descriptors = 0, array.array("i")
            for _, kind, content in ancillary:
                if kind == socket.SCM_RIGHTS:
                    descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
                elif kind == socket.SCM_CREDENTIALS:
                    sender = _CREDENTIALS.unpack(content)[0]
            kept = self._noticed(data.decode("utf-8", "replace"), descriptors) if sender == self._pid else []
            for one in descriptors:
                if one not in kept:
                    os.close(one)

    def _noticed(self, text: str, descriptors: Sequence[int]) -> Sequence[int]:
        """Do what the server says; return which of the descriptors are kept."""
        said = dict(line.split("=", 1) for line in text.split("\n") if "=" in line)
        name = said.get("FDNAME", "")
        if said.get("READY") == "1":
            self._is_ready = self._was_ready = True
            if self._hangs_up:
                self._hangs_up = False
                os.kill(self._pid, signal.SIGHUP)
        if said.get("STOPPING") == "1":
            self._is_ready = False
            self._wait_until(time.monotonic() + self._drain + STOP, self._kill)
        if self._is_ready and ("READY" in said or "WATCHDOG" in said):
            self._wait_until(time.monotonic() + self._watchdog, self._abort)
        if said.get("FDSTOREREMOVE") == "1" and name in self._kept:
            os.close(self._kept.pop(name))
        if said.get("FDSTORE") == "1" and len(descriptors) == 1 and len(self._kept) < _MOST_KEPT:
            if name in self._kept:
                os.close(self._kept[name])
            self._kept[name] = descriptors[0]
            return descriptors
        return []

    # ---- when it is late
    def _wait_until(self, deadline: float, late: Callable[[], None]) -> None:
        self._deadline, self._late = deadline, late

    def _abort(self) -> None:
        log.error("the server shows no sign of life: it is ended")
        os.kill(self._pid, signal.SIGABRT)
        self._is_ready = False
        self._wait_until(time.monotonic() + ABORT, self._kill)

    def _kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        self._wait_until(time.monotonic() + ABORT, self._kill)
