"""A dialog as a proxy sees it (RFC 3261 section 12), its states, and the table of all of them. Part of dialog."""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from polykemi.sip.flow import Listener

UNCONFIRMED: Final = 1  # Kamailio's numbers of the states
EARLY: Final = 2
CONFIRMED_NA: Final = 3  # answered, the ACK has not come
CONFIRMED: Final = 4
DELETED: Final = 5

CALLER: Final = 0  # legs
CALLEE: Final = 1

NONE: Final = 0  # directions of a request
DOWNSTREAM: Final = 1  # from the caller
UPSTREAM: Final = 2

# what happens in a dialog
RPL_1XX: Final = "a provisional response"
RPL_2XX: Final = "a 2xx"
RPL_3XX: Final = "a final response of 300 or above"
REQ_ACK: Final = "an ACK"
REQ_BYE: Final = "a BYE"
REQ_PRACK: Final = "a PRACK"
REQ: Final = "another request"

MOST_DIALOGS: Final = 500_000
MOST_OF_CALL_ID: Final = 64  # they are looked through one by one

_NEXT: Final = {  # (state, what happens) -> state; all else changes nothing (Kamailio: next_state_dlg)
    (UNCONFIRMED, RPL_1XX): EARLY,
    (UNCONFIRMED, RPL_2XX): CONFIRMED_NA,
    (UNCONFIRMED, RPL_3XX): DELETED,
    (EARLY, RPL_2XX): CONFIRMED_NA,
    (EARLY, RPL_3XX): DELETED,
    (CONFIRMED_NA, REQ_ACK): CONFIRMED,
    (CONFIRMED_NA, REQ_BYE): DELETED,
    (CONFIRMED, REQ_BYE): DELETED,
}

FLAG_NEW: Final = 1 << 0  # $dlg(dflags)
FLAG_CHANGED: Final = 1 << 1
FLAG_HAS_BYE: Final = 1 << 2
FLAG_CALLER_BYE: Final = 1 << 4
FLAG_CALLEE_BYE: Final = 1 << 5
FLAG_CHANGED_VARS: Final = 1 << 7
FLAG_TM: Final = 1 << 9
FLAG_EXPIRED: Final = 1 << 10

IFLAG_TIMEOUT_BYE: Final = 1 << 0  # what the dialog is told to do
IFLAG_KA_SRC: Final = 1 << 1
IFLAG_KA_DST: Final = 1 << 2
IFLAG_TIMER_NORESET: Final = 1 << 3
IFLAG_PRACK: Final = 1 << 5


@dataclass(slots=True)
class Leg:
    """What is known of one side."""

    tag: str = ""
    contact: str = ""  # its URI: the remote target of requests to this side
    cseq: int = 0  # of the last request from this side
    route_set: list[str] = field(default_factory=list)  # Route values towards this side, in order
    listener: Listener | None = None  # where this side's messages come in


@dataclass(slots=True, eq=False)
class Dialog:
    """One dialog; ``h_entry`` and ``h_id`` name it, in Record-Route too."""

    h_entry: int
    h_id: int
    call_id: str
    from_uri: str
    to_uri: str
    req_uri: str
    created: float
    lifetime: int  # seconds from answer (and each request) to timeout
    state: int = UNCONFIRMED
    legs: tuple[Leg, Leg] = field(default_factory=lambda: (Leg(), Leg()))
    variables: dict[str, str] = field(default_factory=dict)
    profiles: list[tuple[str, str]] = field(default_factory=list)  # profile and value, "" for one without values
    dflags: int = FLAG_NEW
    sflags: int = 0
    iflags: int = 0
    timeout_route: str = ""
    started: float = 0.0  # answered
    ended: float = 0.0
    deadline: float = 0.0  # when the timer looks at it, 0 never
    keepalive: float = 0.0  # when it is asked whether it is alive, 0 never
    ack_until: float = 0.0  # when its ACK has to be there, 0 before the answer
    failures: list[int] = field(default_factory=lambda: [0, 0])  # keep-alives without answer, of each leg
    from_routes: int = 0  # Record-Route values in the INVITE as it came
    version: Any = None  # of the scripts, that its requests are routed by (versions.Version); None after a restart

    @property
    def is_live(self) -> bool:
        """Whether it was answered and has not ended."""
        return self.state in (CONFIRMED_NA, CONFIRMED)

    @property
    def rr_param(self) -> str:
        """``entry.id`` as it stands in Record-Route: hexadecimal digits, the lowest first."""
        return f"{self.h_entry:x}"[::-1] + "." + f"{self.h_id:x}"[::-1]

    def advance(self, event: str) -> tuple[int, int]:
        """Take what has happened; return the state before and the one after."""
        before = self.state
        self.state = _NEXT.get((before, event), before)
        if event is REQ_BYE and self.state != before:
            self.dflags |= FLAG_HAS_BYE
        if event is REQ_PRACK and before in (EARLY, CONFIRMED_NA):
            self.iflags |= IFLAG_PRACK
        return before, self.state

    def direction_of(self, call_id: str, from_tag: str, to_tag: str) -> int:
        """Return which way a message with these goes, NONE when it does not belong here."""
        caller, callee = self.legs[CALLER].tag, self.legs[CALLEE].tag
        if call_id != self.call_id:
            return NONE
        if not callee:  # the tag of the callee is not known yet
            return UPSTREAM if caller == to_tag else DOWNSTREAM if caller == from_tag else NONE
        if (callee, caller) == (from_tag, to_tag):
            return UPSTREAM
        if caller == from_tag and (callee == to_tag or (not to_tag and self.state == CONFIRMED_NA)):
            return DOWNSTREAM
        return NONE


class DialogTable:
    """All dialogs of the server, by id and by Call-ID, and when the timer has to look at them."""

    def __init__(
        self, size: int, first_id: int = 1, step: int = 1, over: Callable[[str], None] = lambda call_id: None
    ) -> None:
        """``over`` is told the Call-ID when the last dialog of an established call goes."""
        self._over = over
        self._size = size
        self._next_id = first_id or 1
        self._step = step or 1
        self._by_id: dict[tuple[int, int], Dialog] = {}
        self._by_call_id: dict[str, list[Dialog]] = {}
        self._due: list[tuple[float, int, Dialog]] = []
        self._serial = 0

    def __iter__(self) -> Iterator[Dialog]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def has_room(self, call_id: str) -> bool:
        """Tell whether there may be one more dialog with this Call-ID."""
        return len(self._by_id) < MOST_DIALOGS and len(self._by_call_id.get(call_id, ())) < MOST_OF_CALL_ID

    def new_id(self, call_id: str) -> tuple[int, int]:
        """Return h_entry and h_id for a dialog to come."""
        h_id, self._next_id = self._next_id, self._next_id + self._step
        return zlib.crc32(call_id.encode("latin-1")) % self._size, h_id

    def add(self, dialog: Dialog) -> None:
        """Take a new dialog."""
        if dialog.h_id >= self._next_id:  # one that was stored
            self._next_id = dialog.h_id + self._step
        self._by_id[dialog.h_entry, dialog.h_id] = dialog
        self._by_call_id.setdefault(dialog.call_id, []).append(dialog)

    def remove(self, dialog: Dialog) -> None:
        """Forget a dialog."""
        if self._by_id.pop((dialog.h_entry, dialog.h_id), None) is None:
            return
        dialog.version = None  # it ends with the last dialog, not with the last timer that knows of one
        same = self._by_call_id[dialog.call_id]
        same.remove(dialog)
        if not same:
            del self._by_call_id[dialog.call_id]
            if dialog.started:
                self._over(dialog.call_id)

    def get(self, h_entry: int, h_id: int) -> Dialog | None:
        """Return the dialog of these numbers."""
        return self._by_id.get((h_entry, h_id))

    def by_rr_param(self, text: str) -> Dialog | None:
        """Return the dialog that ``entry.id`` in a Route names."""
        entry, _, number = text.partition(".")
        try:
            return self._by_id.get((int(entry[::-1], 16), int(number[::-1], 16)))
        except ValueError:
            return None

    def find(self, call_id: str, from_tag: str, to_tag: str) -> tuple[Dialog | None, int]:
        """Return the dialog of a message with these, and which way it goes; the newest first, as Call-IDs come again."""
        for dialog in reversed(self._by_call_id.get(call_id, ())):
            direction = dialog.direction_of(call_id, from_tag, to_tag)
            if direction:
                return dialog, direction
        return None, NONE

    def of_call_id(self, call_id: str) -> list[Dialog]:
        """Return the dialogs with this Call-ID."""
        return list(self._by_call_id.get(call_id, ()))

    # ---- timers
    def schedule(self, dialog: Dialog, when: float) -> None:
        """Let the timer look at ``dialog`` at ``when``; what was planned before does not hold any more."""
        dialog.deadline = when
        self.wake(dialog, when)

    def wake(self, dialog: Dialog, when: float) -> None:
        """Let the timer look at ``dialog`` at ``when`` too."""
        self._serial += 1
        heapq.heappush(self._due, (when, self._serial, dialog))
        if len(self._due) > 4 * len(self._by_id) + 64:
            self._tidy()

    def _tidy(self) -> None:
        """Forget the times of dialogs that are gone, and those that do not hold any more: each dialog has three at most."""
        kept: dict[tuple[float, int], tuple[float, int, Dialog]] = {}
        for entry in self._due:
            when, _, dialog = entry
            if when in (dialog.deadline, dialog.keepalive, dialog.ack_until):
                if self._by_id.get((dialog.h_entry, dialog.h_id)) is dialog:
                    kept[when, id(dialog)] = entry
        self._due = list(kept.values())
        heapq.heapify(self._due)

    def next_timeout(self) -> float | None:
        """Return when the timer has something to do."""
        return self._due[0][0] if self._due else None

    def due(self, now: float) -> Iterator[Dialog]:
        """Give the dialogs that are to be looked at."""
        while self._due and self._due[0][0] <= now:
            _, _, dialog = heapq.heappop(self._due)
            if (dialog.h_entry, dialog.h_id) in self._by_id:
                yield dialog
