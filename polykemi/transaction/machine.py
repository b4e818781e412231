"""One transaction of either side: its state, what it sends again and its timers. ``layer`` moves it through its table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from polykemi.sip.build import ack, cancel
from polykemi.sip.flow import Flow
from polykemi.transaction.tables import (
    INVITE_CLIENT,
    INVITE_SERVER,
    NON_INVITE_CLIENT,
    NON_INVITE_SERVER,
    Event,
    State,
    Table,
)
from polykemi.transaction.timers import Timer

_LAST: Final = len(Event)


@dataclass(frozen=True)
class Timings:
    """The lengths of a transaction's timers in seconds (RFC 3261 section 17 and table 4). ``lengths`` is by Event."""

    t1: float = 0.5  # Kamailio: retr_timer1
    t2: float = 4.0  # retr_timer2
    t4: float = 5.0
    fr: float = 32.0  # Timers B and F: no (final) response; 64*T1, Kamailio: fr_timer
    fr_inv: float = 180.0  # Timer C: no final response after a provisional one; Kamailio: fr_inv_timer
    lengths: tuple[float, ...] = field(init=False, repr=False, compare=False, default=())

    def __post_init__(self) -> None:
        lengths = [0.0] * _LAST
        for event, length in (
            (Event.TIMER_A, self.t1),
            (Event.TIMER_B, self.fr),
            (Event.TIMER_C, self.fr_inv),
            (Event.TIMER_D, max(32.0, 64 * self.t1)),
            (Event.TIMER_E, self.t1),
            (Event.TIMER_F, self.fr),
            (Event.TIMER_G, self.t1),
            (Event.TIMER_H, 64 * self.t1),
            (Event.TIMER_I, self.t4),
            (Event.TIMER_J, 64 * self.t1),
            (Event.TIMER_K, self.t4),
            (Event.TIMER_L, 64 * self.t1),
            (Event.TIMER_M, 64 * self.t1),
        ):
            lengths[event] = length
        object.__setattr__(self, "lengths", tuple(lengths))

    def all_lengths(self) -> set[float]:
        """Return every length that can occur, the growing intervals of Timers A, E and G included."""
        out = {length for length in self.lengths if length}
        interval = self.t1
        while interval < 64 * self.t1:
            out |= {interval, min(interval, self.t2)}
            interval *= 2
        return out


class Machine:
    """What both sides share. ``data`` is what goes out (again) to ``flow``: a client's request, a server's last response."""

    __slots__ = ("data", "flow", "interval", "key", "retransmission", "state", "table", "timeout", "timings")

    def __init__(self, key: str, table: Table, state: State, flow: Flow, timings: Timings) -> None:
        self.key = key
        self.table = table
        self.state = state
        self.flow = flow
        self.timings = timings
        self.data = b""
        self.interval = 0.0  # of the retransmission timer, seconds
        self.retransmission: Timer | None = None  # Timer A, E or G
        self.timeout: Timer | None = None  # the other timer that runs, there is never more than one

    @property
    def is_terminated(self) -> bool:
        """Whether the machine has ended and the layer has forgotten it."""
        return self.state == State.TERMINATED


class ServerTransaction(Machine):
    """A server transaction (RFC 3261 section 17.2). ``flow`` is where its responses go."""

    __slots__ = ("aliases",)

    def __init__(self, key: str, method: str, flow: Flow, timings: Timings) -> None:
        if method == "INVITE":
            super().__init__(key, INVITE_SERVER, State.PROCEEDING, flow, timings)
        else:
            super().__init__(key, NON_INVITE_SERVER, State.TRYING, flow, timings)
        self.aliases: tuple[str, ...] = ()  # further keys that the layer finds it under


class ClientTransaction(Machine):
    """A client transaction (RFC 3261 section 17.1). ``key`` is made by ``client_key``, ``data`` is the request as sent."""

    __slots__ = ("ack_data", "expires", "method")

    def __init__(self, branch: str, method: str, flow: Flow, timings: Timings, data: bytes = b"") -> None:
        key = client_key(branch, method)
        if method == "INVITE":
            super().__init__(key, INVITE_CLIENT, State.CALLING, flow, timings)
        else:
            super().__init__(key, NON_INVITE_CLIENT, State.TRYING, flow, timings)
        self.method = method
        self.data = data
        self.ack_data = b""  # the ACK to a final response of 300 and above
        self.expires = 0.0  # no timer waits longer (seconds since the epoch), 0: no limit; Kamailio: max_inv_lifetime

    def make_ack(self, to: str) -> bytes:
        """Build the ACK to a non-2xx final response with the To value ``to`` (section 17.1.1.3)."""
        uri, via, lines = self._sent()
        return ack(lines, uri, via, to)

    def make_cancel(self) -> bytes:
        """Build the CANCEL of the request that was sent (section 9.1)."""
        uri, via, lines = self._sent()
        return cancel(lines, uri, via)

    def _sent(self) -> tuple[str, str, list[str]]:
        """Return Request-URI, Via value and the other header lines of the request as it was sent: our Via is its first line."""
        head = str(self.data[: self.data.index(b"\r\n\r\n")], "latin-1")
        start_line, via, *lines = head.split("\r\n")
        return start_line.split(" ")[1], via[5:], lines


def client_key(branch: str, method: str) -> str:
    """Return the key of a client transaction: our branch, which a CANCEL shares with its INVITE (section 17.1.3)."""
    return branch if method != "CANCEL" else branch + " CANCEL"
