"""What pings to phones have in common: whose turn it is, the request, who does not answer. Part of usrloc and nathelper."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from polykemi.errors import ParseError
from polykemi.modules.base import Services
from polykemi.sip.flow import Listener, bracketed
from polykemi.sip.message import Response
from polykemi.storage.location import Binding

_TICK: Final = 1.0  # seconds between two looks when there is little to do
_AT_ONCE: Final = 50  # addresses of record in a tick when there is much
_MOST: Final = 200  # after a pause: 4 ms of work. Who cannot keep up takes longer for a round
_GRACE: Final = 10.0  # seconds that a contact which does not answer still has, as in Kamailio

Found = tuple[str, str, list[Binding]]  # table, AoR, bindings


class Rounds:
    """Goes through all addresses of record, over and over: evenly spread over ``interval`` seconds."""

    def __init__(self, services: Services, tables: tuple[str, ...], interval: float, now: float) -> None:
        self._services, self._tables, self._interval = services, tables, interval
        self._walk: Iterator[Found] | None = None
        self._rate = 0.0  # addresses of record a second, in this round
        self._seen = 0
        self.began = self.due = now + _TICK  # of this round, or of the next when there is none

    def take(self, now: float) -> list[Found]:
        """Return the addresses of record whose turn it is, and set ``due``."""
        if now < self.due:
            return []
        if self._walk is None:
            if now < self.began:
                self.due = min(self.began, now + _TICK)
                return []
            total = sum(self._services.location.count(table) for table in self._tables)
            self._walk, self._rate, self._seen = self._all(), total / self._interval, 0
            self.began = now if now > self.began + _TICK else self.began
        tick = min(_AT_ONCE / self._rate, _TICK) if self._rate else _TICK
        self.due = now + tick
        owed = int((now + tick - self.began) * self._rate) + 1 - self._seen
        found = []
        for _ in range(max(1, min(owed, _MOST))):
            one = next(self._walk, None)
            if one is None:
                self._walk = None
                self.began += self._interval
                break
            self._seen += 1
            found.append(one)
        return found

    def _all(self) -> Iterator[Found]:
        for table in self._tables:
            for aor, bindings in self._services.location.items(table):
                yield table, aor, bindings


class Silence:
    """Which contacts have not answered, and since when: those alone are kept in memory."""

    def __init__(self, services: Services, seconds: float) -> None:
        """``seconds`` without an answer are too many; 0: nobody counts."""
        self._services, self._seconds = services, seconds
        self._since: OrderedDict[str, float] = OrderedDict()  # ruid -> when it was asked, the earliest first

    def asked(self, table: str, aor: str, binding: Binding, now: float) -> bool:
        """Note that ``binding`` is asked. When it has been silent for too long it ends in 10 seconds: False then."""
        if not self._seconds:
            return True
        since = max(self._since.setdefault(binding.ruid, now), binding.modified)
        if now - since < self._seconds:
            return True
        location = self._services.location
        bindings = location.get(table, aor)
        for one in bindings:
            if one.ruid == binding.ruid and (not one.expires or one.expires > now + _GRACE):
                one.expires = now + _GRACE
                location.put(table, aor, bindings)
                self._services.count("usrloc.keepalive_timeouts")
        return False

    def answered(self, ruid: str) -> None:
        """Note that the contact has answered."""
        self._since.pop(ruid, None)

    def forget(self, before: float) -> None:
        """Forget contacts that were asked ``before`` and never again, for they are gone: no more than a tick has asked."""
        for _ in range(min(len(self._since), _MOST)):
            if next(iter(self._since.values())) >= before:
                return
            self._since.popitem(last=False)

    def __len__(self) -> int:
        return len(self._since)


class Pings:
    """The requests that phones are sent, and their answers."""

    def __init__(self, services: Services, method: str, sender: str, prefix: str = "") -> None:
        """``sender``: the URI in From; ``prefix``: what Call-IDs begin with."""
        self._services, self._method, self._sender = services, method, sender
        self._call_id = prefix + services.ids.unique()
        self._count = 0

    def request(self, binding: Binding, listener: Listener, to: str = "") -> bytes:
        """Return the request for a contact; its ruid is in the tag of From."""
        self._count += 1
        method, number, (host, port) = self._method, f"{self._count:x}", listener.advertised
        lines = [
            f"{method} {binding.uri} SIP/2.0",
            f"Via: SIP/2.0/{listener.proto.upper()} {bracketed(host)}:{port};branch={self._services.ids.branch()}",
            *([f"Route: {binding.path}"] if binding.path else []),
            f"From: <{self._sender}>;tag={binding.ruid}-{number}",
            f"To: <{to or binding.uri}>",
            f"Call-ID: {self._call_id}-{number}@{listener.host}",
            f"CSeq: 1 {method}",
            "Content-Length: 0\r\n\r\n",
        ]
        return "\r\n".join(lines).encode("latin-1")

    def ruid_of(self, response: Response) -> str | None:
        """Return whose answer this is ("" when it does not say), None when it is none to a ping."""
        if not (response.get("call-id") or "").startswith(f"{self._call_id}-") or len(response.indexes("via")) != 1:
            return None
        try:
            return (response.from_.tag or "").rpartition("-")[0]
        except ParseError:
            return ""
