"""One transaction of either side: its state, what it sends again and its timers. ``layer`` moves it through its table."""

from __future__ import annotations

from typing import Final

from polykemi.sip.build import ack, cancel
from polykemi.sip.flow import Flow
from polykemi.transaction.tables import (
    CALLING,
    EVENTS,
    INVITE_CLIENT,
    INVITE_SERVER,
    NON_INVITE_CLIENT,
    NON_INVITE_SERVER,
    PROCEEDING,
    TERMINATED,
    TIMER_A,
    TIMER_B,
    TIMER_C,
    TIMER_D,
    TIMER_E,
    TIMER_F,
    TIMER_G,
    TIMER_H,
    TIMER_I,
    TIMER_J,
    TIMER_K,
    TIMER_L,
    TIMER_M,
    TRYING,
    Rows,
    rows,
)

ICT: Final[Rows] = rows(INVITE_CLIENT)
NICT: Final[Rows] = rows(NON_INVITE_CLIENT)
IST: Final[Rows] = rows(INVITE_SERVER)
NIST: Final[Rows] = rows(NON_INVITE_SERVER)


class Timings:
    """The lengths of a transaction's timers in seconds (RFC 3261 section 17 and table 4). ``lengths`` is by event.

    ``t1`` is Kamailio's retr_timer1, ``t2`` its retr_timer2. ``fr`` is the length of Timers B and F (no, for other requests
    than INVITE no final, response): 64*T1, Kamailio's fr_timer. ``fr_inv`` is that of Timer C (no final response after a
    provisional one): Kamailio's fr_inv_timer.
    """

    __slots__ = ("fr", "fr_inv", "lengths", "t1", "t2", "t4")

    def __init__(
        self, *, t1: float = 0.5, t2: float = 4.0, t4: float = 5.0, fr: float = 32.0, fr_inv: float = 180.0
    ) -> None:
        self.t1 = t1
        self.t2 = t2
        self.t4 = t4
        self.fr = fr
        self.fr_inv = fr_inv
        lengths = [0.0] * EVENTS
        lengths[TIMER_A] = lengths[TIMER_E] = lengths[TIMER_G] = t1
        lengths[TIMER_B] = lengths[TIMER_F] = fr
        lengths[TIMER_C] = fr_inv
        lengths[TIMER_D] = max(32.0, 64 * t1)
        lengths[TIMER_I] = lengths[TIMER_K] = t4
        lengths[TIMER_H] = lengths[TIMER_J] = lengths[TIMER_L] = lengths[TIMER_M] = 64 * t1
        self.lengths: tuple[float, ...] = tuple(lengths)

    def all_lengths(self) -> set[float]:
        """Return every length that can occur, the growing intervals of Timers A, E and G included."""
        out = {length for length in self.lengths if length}
        interval = self.t1
        while interval < 64 * self.t1:
            out |= {interval, min(interval, self.t2)}
            interval *= 2
        return out


class Machine:
    """What both sides share. ``data`` is what goes out (again) to ``flow``: a client's request, a server's last response.

    Two timers can run, see ``timers``: one that sends again and one that limits the waiting. ``resend`` and ``limit`` are
    their events, ``resend_at`` and ``limit_at`` when they are due (seconds since the epoch, 0.0: the timer does not run).
    """

    __slots__ = (
        "data",
        "expires",
        "flow",
        "interval",
        "key",
        "limit",
        "limit_at",
        "looked_at",
        "method",
        "resend",
        "resend_at",
        "state",
        "table",
        "timings",
    )

    def __init__(self, key: str, method: str, table: Rows, state: int, flow: Flow, timings: Timings) -> None:
        self.key = key
        self.method = method
        self.table = table
        self.state = state
        self.flow = flow
        self.timings = timings
        self.data = b""
        # when it ends at the latest (seconds since the epoch), 0: no limit; Kamailio: max_inv_lifetime
        self.expires = 0.0
        self.resend = 0  # Timer A, E or G
        self.resend_at = 0.0
        self.interval = 0.0  # seconds between the last two times
        self.limit = 0  # the other timer that runs, there is never more than one
        self.limit_at = 0.0
        self.looked_at = 0.0  # when Timers look at limit_at, 0.0: never

    @property
    def is_terminated(self) -> bool:
        """Whether the machine has ended and the layer has forgotten it."""
        return self.state == TERMINATED


class ServerTransaction(Machine):
    """A server transaction (RFC 3261 section 17.2). ``flow`` is where its responses go."""

    __slots__ = ("aliases",)

    def __init__(self, key: str, method: str, flow: Flow, timings: Timings) -> None:
        if method == "INVITE":
            super().__init__(key, method, IST, PROCEEDING, flow, timings)
        else:
            super().__init__(key, method, NIST, TRYING, flow, timings)
        self.aliases: tuple[str, ...] = ()  # further keys that the layer finds it under


class ClientTransaction(Machine):
    """A client transaction (RFC 3261 section 17.1). ``key`` is made by ``client_key``, ``data`` is the request as sent."""

    __slots__ = ("ack_data",)

    def __init__(self, branch: str, method: str, flow: Flow, timings: Timings, data: bytes = b"") -> None:
        key = client_key(branch, method)
        if method == "INVITE":
            super().__init__(key, method, ICT, CALLING, flow, timings)
        else:
            super().__init__(key, method, NICT, TRYING, flow, timings)
        self.data = data
        self.ack_data = b""  # the ACK to a final response of 300 and above

    def make_ack(self, to: str) -> bytes:
        """Build the ACK to a non-2xx final response with the To value ``to`` (section 17.1.1.3)."""
        uri, via, lines = self._sent()
        return ack(lines, uri, via, to)

    def make_cancel(self) -> bytes:
        """Build the CANCEL of the request that was sent (section 9.1)."""
        uri, via, lines = self._sent()
        return cancel(lines, uri, via)

    def _sent(self) -> tuple[str, str, list[str]]:
        """Return Request-URI, Via value and the other header lines of the request as it was sent: our Via is the first Via."""
        head = str(self.data[: self.data.index(b"\r\n\r\n")], "latin-1")
        start_line, *lines = head.split("\r\n")
        # a route may put lines above it
        via = lines.pop(next(i for i, line in enumerate(lines) if line[:5] == "Via: "))
        return start_line.split(" ")[1], via[5:], lines


def client_key(branch: str, method: str) -> str:
    """Return the key of a client transaction: our branch, which a CANCEL shares with its INVITE (section 17.1.3)."""
    return branch if method != "CANCEL" else branch + " CANCEL"
