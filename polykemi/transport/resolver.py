"""Host names to addresses without blocking the loop; answers are kept for a while (RFC 3263 comes with more transports)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from polykemi.sip.grammar import to_ip

KEEP: Final = 60.0  # seconds that an address is used without asking again
KEEP_FAILURE: Final = 5.0
MAX_NAMES: Final = 10_000


class Resolver:
    """A cache of the addresses of names: ``get`` answers at once where it can, ``ask`` asks for the rest."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bool], tuple[str, float]] = {}
        self._waiting: dict[tuple[str, bool], list[Callable[[str], None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, host: str, *, ipv6: bool, now: float) -> str | None:
        """Return the address of the name ``host``, "" when it has none, None when it has to be asked for. ``now``: loop time."""
        known = self._known.get((host, ipv6))
        return known[0] if known is not None and known[1] > now else None

    def ask(self, host: str, *, ipv6: bool, loop: asyncio.AbstractEventLoop, answer: Callable[[str], None]) -> None:
        """Ask for the address of ``host``; ``answer`` gets it, or "" when there is none."""
        key = (host, ipv6)
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append(answer)
            return
        self._waiting[key] = [answer]
        task = loop.create_task(self._ask(key, socket.AF_INET6 if ipv6 else socket.AF_INET, loop))
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, key: tuple[str, bool], family: int, loop: asyncio.AbstractEventLoop) -> None:
        try:
            found = await loop.getaddrinfo(key[0], None, family=family, type=socket.SOCK_DGRAM)
            address = str(found[0][4][0])
        except (OSError, UnicodeError, ValueError, IndexError):
            address = ""
        self._keep(key, address, loop.time() + (KEEP if address else KEEP_FAILURE))
        for answer in self._waiting.pop(key):
            answer(address)

    def _keep(self, key: tuple[str, bool], address: str, until: float) -> None:
        if len(self._known) >= MAX_NAMES:
            self._known.clear()  # names come from the network: start over rather than grow
        self._known[key] = (address, until)


def literal(host: str, *, ipv6: bool) -> str | None:
    """Return an IP literal as the socket wants it, "" for one of the other family, None for a name."""
    address = to_ip(host)
    if address is None:
        return None
    return str(address) if (address.version == 6) == ipv6 else ""
