"""What ICMP says of datagrams that were sent: Linux keeps it for the socket (ip(7), IP_RECVERR). Elsewhere nothing is known."""

from __future__ import annotations

import socket
import struct
import sys
from typing import Final

_IP_RECVERR: Final = 11
_IPV6_RECVERR: Final = 25
_ERRORS: Final = ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR))
_MSG_ERRQUEUE: Final = 0x2000
# struct sock_extended_err: errno, origin, type, code, ...
_EXTENDED: Final = struct.Struct("=IBBB")
_FROM_ICMP: Final = 2
_FROM_ICMP6: Final = 3
_UNREACHABLE: Final = 3  # ICMP; all but code 4, too large for the way
_TOO_LARGE: Final = 4
_UNREACHABLE6: Final = 1
_QUOTED: Final = 2048  # octets: more than ICMP quotes


def ask_for_errors(sock: socket.socket) -> None:
    """Let the kernel keep errors for ``sock``, a UDP socket: the next call on it then raises OSError, once."""
    if sys.platform == "linux":
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)


def read_errors(sock: socket.socket, most: int) -> list[tuple[bytes, str, int]] | None:
    """Return what was sent in vain: its beginning, as ICMP quotes it, and where it went; None when there is no error at all.

    Errors that do not say that nobody is there are taken away and not returned (RFC 3261 section 18.4).
    """
    if sys.platform != "linux":
        return None
    out: list[tuple[bytes, str, int]] = []
    for i in range(most):
        try:
            data, ancillary, _, address = sock.recvmsg(_QUOTED, 512, _MSG_ERRQUEUE)
        except OSError:
            return out if i else None
        if address and any(_says_unreachable(level, kind, value) for level, kind, value in ancillary):
            out.append((data, address[0], address[1]))
    return out


def _says_unreachable(level: int, kind: int, value: bytes) -> bool:
    if (level, kind) not in _ERRORS or len(value) < _EXTENDED.size:
        return False
    _, origin, type_, code = _EXTENDED.unpack_from(value)
    if origin == _FROM_ICMP:
        return bool(type_ == _UNREACHABLE and code != _TOO_LARGE)
    return bool(origin == _FROM_ICMP6 and type_ == _UNREACHABLE6)
