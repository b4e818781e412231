"""What a process and its manager tell each other: sd_notify(3), sd_listen_fds(3) and systemd's store of descriptors.

systemd speaks it, and so does ``supervisor``. All of it is environment variables and datagrams on a Unix socket.
"""

from __future__ import annotations

import array
import contextlib
import ipaddress
import os
import socket
import time
from collections.abc import Iterable, MutableMapping, Sequence
from typing import Final

from polykemi.errors import UsageError
from polykemi.sip.flow import bracketed

FIRST_FD: Final = 3  # SD_LISTEN_FDS_START
_TYPES: Final = {socket.SOCK_DGRAM: "udp", socket.SOCK_STREAM: "tcp"}


class Notifier:
    """Tells the manager how this process is. Without one nothing is said, and a manager that does not listen is no error.

    ``watchdog`` is how many seconds it waits for ``alive`` before it takes this process for stuck, 0.0: for ever.
    """

    def __init__(self, path: str = "", watchdog: float = 0.0) -> None:
        self.watchdog = watchdog
        self._address = "\0" + path[1:] if path[:1] == "@" else path
        self._socket: socket.socket | None = None
        if path:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Make that of ``environ`` and remove it from there: it is nobody else's, no script's and no child's."""
        path = environ.pop("NOTIFY_SOCKET", "")
        microseconds, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        is_ours = microseconds.isdecimal() and pid in ("", str(os.getpid()))
        return cls(path, int(microseconds) / 1e6 if is_ours and path else 0.0)

    def ready(self, status: str) -> None:
        """Say that the server answers: after the start, and after a reload."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self, status: str = "reloading") -> None:
        """Say that a reload begins; ``ready`` is to follow, whether it succeeds or not."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now}", f"STATUS={status}")

    def stopping(self, status: str) -> None:
        """Say that the end has begun."""
        self._send("STOPPING=1", f"STATUS={status}")

    def alive(self) -> None:
        """Say that the event loop goes round."""
        self._send("WATCHDOG=1")

    def keep(self, sock: socket.socket) -> None:
        """Give the manager a descriptor of ``sock``: it passes it to the next start, so that meanwhile nothing is lost.

        systemd does when FileDescriptorStoreMax= allows it. It must not look at the socket by itself (FDPOLL): what ICMP
        tells of a UDP socket is an error to it.
        """
        self._send("FDSTORE=1", "FDPOLL=0", f"FDNAME={_fd_name(address_of(sock))}", fds=(sock.fileno(),))

    def forget(self, address: str) -> None:
        """Let the manager close what it keeps of this address."""
        self._send("FDSTOREREMOVE=1", f"FDNAME={_fd_name(address)}")

    def _send(self, *lines: str, fds: Sequence[int] = ()) -> None:
        if self._socket is None:
            return
        data = "\n".join(line.replace("\n", " ") for line in lines).encode("utf-8", "replace")
        with contextlib.suppress(OSError):  # the server serves on, whoever was to hear of it
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            self._socket.sendmsg([data], rights, 0, self._address)  # socket.send_fds forgets the address in Python 3.11

    def close(self) -> None:
        """Say no more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Inherited:
    """The listening sockets that this process was given when it was started."""

    def __init__(self, sockets: Iterable[tuple[socket.socket, str]] = ()) -> None:
        """``sockets``: each with its name. Raise UsageError for one that a server cannot listen on."""
        self._sockets: dict[str, tuple[socket.socket, str]] = {}  # by address
        for sock, name in sockets:
            if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type not in _TYPES:
                raise UsageError(f"a socket was passed ({name}) that is neither UDP nor TCP")
            address = address_of(sock)
            if ipaddress.ip_address(sock.getsockname()[0]).is_unspecified:
                raise UsageError(
                    f"a socket for all addresses was passed ({name}, {address}): expected one for each address"
                )
            self._sockets[address] = sock, name

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> Inherited:
        """Take what ``environ`` says was passed to this process, and remove it from there. Raise UsageError."""
        count, pid = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
        names = environ.pop("LISTEN_FDNAMES", "").split(":")
        if pid != str(os.getpid()) or not count.isdecimal():
            return cls()
        sockets = []
        for number in range(int(count)):
            try:
                sock = socket.socket(fileno=FIRST_FD + number)
            except OSError as error:
                raise UsageError(f"LISTEN_FDS={count}: descriptor {FIRST_FD + number}: {error.strerror}") from None
            sock.set_inheritable(False)
            sockets.append((sock, names[number] if number < len(names) and names[number] else "unknown"))
        return cls(sockets)

    def find(self, proto: str, host: str, port: int) -> socket.socket | None:
        """Return the socket of a listener, which is the caller's from then on; port 0 stands for any. None: there is none."""
        begin = f"{'udp' if proto == 'udp' else 'tcp'}:{bracketed(host)}:"
        for address in self._sockets:
            if address == f"{begin}{port}" or (port == 0 and address.startswith(begin)):
                return self._sockets.pop(address)[0]
        return None

    def close(self) -> list[tuple[str, str]]:
        """Close what nobody has asked for; return the address and the name of each."""
        left = [(address, name) for address, (_, name) in self._sockets.items()]
        for sock, _ in self._sockets.values():
            sock.close()
        self._sockets.clear()
        return left


def address_of(sock: socket.socket) -> str:
    """Return ``udp:192.0.2.1:5060`` or ``tcp:[2001:db8::1]:5060``: TLS and WebSocket are TCP here."""
    host, port = sock.getsockname()[:2]
    return f"{_TYPES[sock.type]}:{bracketed(host)}:{port}"


def _fd_name(address: str) -> str:
    return address.replace(":", "-")  # no colon may stand in it
