"""usrloc: which contact is which, and when it is over (Kamailio: usrloc). The bindings are in ``services.location``.

It exports no functions, as in Kamailio; registrar works with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from polykemi.modules.base import Module, Services
from polykemi.sip.uri import same_uri
from polykemi.storage.location import Binding

CONTACT_ONLY: Final = 0
CONTACT_CALLID: Final = 1
CONTACT_PATH: Final = 2
CALLID_ONLY: Final = 3

_BATCH: Final = 50  # AoRs cleaned up in one go
_PAUSE: Final = 0.02  # seconds between two of them: 2,500 AoRs a second, while one keeps the others waiting for 2 ms


@dataclass(frozen=True, slots=True)
class UsrlocParams:
    """Kamailio's names and defaults; the location store keeps everything on disk, whatever ``db_mode`` says."""

    preload: tuple[str, ...] = ("location",)  # the tables that there are
    use_domain: int = 0  # AoRs are user@domain, not user
    matching_mode: int = CONTACT_ONLY
    cseq_delay: int = 20  # seconds within which the same CSeq is a retransmission
    timer_interval: int = 60  # seconds between two looks for expired contacts
    desc_time_order: int = 0  # of contacts with the same q the last modified first
    db_mode: int = 1
    nat_bflag: int = -1  # the branch flag of contacts behind NAT

    def __post_init__(self) -> None:
        if not -1 <= self.nat_bflag <= 31:
            raise ValueError("nat_bflag: expected a branch flag, 0 to 31, or -1")


class Usrloc(Module):
    """The rules of contacts: matching, order, validity, expiry."""

    name = "usrloc"
    Params = UsrlocParams

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self.on_expired: list[Callable[[str, str, Binding, float], None]] = []  # called with table, AoR, contact, now
        self._due: float | None = None
        self.nat_flag: int = 1 << self.params.nat_bflag if self.params.nat_bflag >= 0 else 0  # a bit of Binding.bflags

    def find(self, bindings: list[Binding], new: Binding) -> int:
        """Return the index of the binding that ``new`` would replace, -1 when there is none (matching_mode).

        A binding with an instance is the same as another with that instance and reg-id, whatever their URIs (RFC 5626
        section 6), and no other. URIs are compared by RFC 3261 section 19.1.4.
        """
        if new.instance:
            wanted = plain_instance(new.instance)
            for i, old in enumerate(bindings):
                if old.instance and old.reg_id == new.reg_id and plain_instance(old.instance) == wanted:
                    return i
            return -1
        mode = self.params.matching_mode
        for i, old in enumerate(bindings):
            if mode == CALLID_ONLY:
                if old.call_id == new.call_id:
                    return i
            elif old.uri == new.uri or same_uri(old.uri, new.uri):
                if mode == CONTACT_CALLID and old.call_id != new.call_id:
                    continue
                if mode == CONTACT_PATH and old.path != new.path:
                    continue
                return i
        return -1

    def is_retransmission(self, old: Binding, call_id: str, cseq: int, now: float) -> bool:
        """Tell whether a REGISTER with this Call-ID and CSeq is the one that made ``old``, sent again."""
        return cseq == old.cseq and call_id == old.call_id and now < old.modified + self.params.cseq_delay

    def is_out_of_order(self, old: Binding, call_id: str, cseq: int) -> bool:
        """Tell whether a REGISTER is older than what ``old`` says (RFC 3261 section 10.3 step 7)."""
        return call_id == old.call_id and cseq <= old.cseq

    def in_order(self, bindings: list[Binding]) -> list[Binding]:
        """Return ``bindings`` by preference: the highest q first, those without q last, the oldest first among equals."""
        if len(bindings) < 2:
            return bindings
        if self.params.desc_time_order:
            return sorted(bindings, key=lambda b: (-b.q, -b.modified))
        return sorted(bindings, key=lambda b: -b.q)

    # ---- expiry
    def start(self, now: float) -> None:
        """Look for what has expired while the server was down."""
        self._due = now

    def next_timeout(self) -> float | None:
        """Return when expired contacts are looked for next."""
        return self._due

    def handle_timer(self, now: float) -> None:
        """Remove expired contacts, no more than a batch of AoRs of each table."""
        if self._due is None or now < self._due:
            return
        location = self.services.location
        self._due = now + max(self.params.timer_interval, 1)
        for table in self.params.preload:
            for aor in location.expired(table, now, _BATCH):
                self._remove_expired(table, aor, now)
            first = location.next_expiry(table)
            if first is not None and first <= now:
                self._due = now + _PAUSE

    def _remove_expired(self, table: str, aor: str, now: float) -> None:
        location = self.services.location
        bindings = location.get(table, aor)
        location.put(table, aor, [b for b in bindings if is_valid(b, now)])
        for binding in bindings:
            if not is_valid(binding, now):
                self.services.count("usrloc.location-expires")
                for call in self.on_expired:
                    call(table, aor, binding, now)


def plain_instance(instance: str) -> str:
    """Return an instance (the value of ``+sip.instance``) without its angle brackets."""
    return instance[1:-1] if instance[:1] == "<" and instance[-1:] == ">" else instance


def is_valid(binding: Binding, now: float) -> bool:
    """Tell whether ``binding`` has not expired; 0 means permanent."""
    return binding.expires > now or not binding.expires
