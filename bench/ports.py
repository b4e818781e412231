"""Free ports for servers, phones and sipp. Processes that draw them at the same time are given different ones."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from functools import cache
from itertools import cycle
from typing import Final

_BLOCK: Final = 500  # ports of a process
# below those that the kernel gives away by itself, or another socket could have it before it is used
_BLOCKS: Final = range(10_000, 32_000, _BLOCK)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that is free, over UDP and TCP, and was not returned lately.

    It is even, and nobody is given the one above: a phone takes that for TLS by itself.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in _ports():
        with socket.socket(family, socket.SOCK_DGRAM) as udp, socket.socket(family) as tcp:
            try:
                udp.bind((host, port))
                tcp.bind((host, port))
            except OSError:
                continue
        return port
    raise AssertionError  # the ports begin again for ever


@cache
def _ports() -> Iterator[int]:
    """Return the ports of this process, over and over."""
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    for first in random.sample(_BLOCKS, len(_BLOCKS)):
        try:
            claim.bind(
                f"\0polykemi-ports-{first}"
            )  # an abstract name (unix(7)): it is free again when the process has ended
        except OSError:
            continue
        _claims.append(claim)
        return cycle(random.sample(range(first, first + _BLOCK, 2), _BLOCK // 2))
    claim.close()
    raise RuntimeError("all ports for tests and measurements are claimed by other processes")


_claims: Final[list[socket.socket]] = []
