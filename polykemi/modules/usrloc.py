"""usrloc: which contact is which, and when it is over (Kamailio: usrloc). The bindings are in ``services.location``.

It exports no functions, as in Kamailio; registrar works with it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from polykemi.modules.base import Module, Services
from polykemi.modules.usrloc_count import ContactCount
from polykemi.modules.usrloc_keepalive import Keepalive
from polykemi.modules.usrloc_rpc import UsrlocCommands
from polykemi.sip.uri import same_uri
from polykemi.storage.location import Binding, LocationStore
from polykemi.storage.location_rows import LocationRows
from polykemi.storage.sql import OWN, sqlite_path
from polykemi.storage.sql_location import READ_ONLY, WRITE_BACK, MirroredLocation, SqlLocation

log = logging.getLogger("polykemi.usrloc")

CONTACT_ONLY: Final = 0
CONTACT_CALLID: Final = 1
CONTACT_PATH: Final = 2
CALLID_ONLY: Final = 3

_DB_ONLY: Final = 3  # db_mode
_TABLE: Final = re.compile("[A-Za-z0-9_]{1,64}")
_ROWS: Final = 200  # AoRs whose rows are written back in one go

_BATCH: Final = 50  # AoRs cleaned up in one go
_PAUSE: Final = 0.02  # seconds between two of them: 2,500 AoRs a second, while one keeps the others waiting for 2 ms


@dataclass(frozen=True, slots=True)
class UsrlocParams:
    """Kamailio's names. Contacts are in LMDB, on disk before the 200 leaves, and with a ``db_url`` in SQL as ``db_mode`` says.

    ``db_update_as_insert``, ``db_check_update``, ``db_insert_update``, ``db_ops_ruid`` and ``db_timer_clean`` have no effect:
    a row is inserted where its ``ruid`` is not there and updated where it is, and goes with its contact.
    """

    preload: tuple[str, ...] = ("location",)  # the tables that there are
    use_domain: int = 0  # AoRs are user@domain, not user
    matching_mode: int = CONTACT_ONLY
    cseq_delay: int = 20  # seconds within which the same CSeq is a retransmission
    timer_interval: int = 60  # seconds between two looks for expired contacts, and between two times of writing back
    desc_time_order: int = 0  # 1: the last modified contact first, whatever the q
    db_mode: int = (
        1  # 0 nothing is kept beyond the end, 1 rows are written at once, 2 by the timer, 3 SQL alone, 4 SQL is read
    )
    db_url: str = ""  # sqlite:///path, or polykemi (the server's own database); "": no SQL
    db_load: int = 1  # 0: the rows that are there when the server starts are not loaded
    expires_type: int = 0  # times in SQL: 0 as db_sqlite has dates, 1 seconds since the epoch
    db_update_as_insert: int = 0
    db_check_update: int = 0
    db_insert_update: int = 0
    db_ops_ruid: int = 1
    db_timer_clean: int = 0
    nat_bflag: int = -1  # the branch flag of contacts behind NAT
    ka_mode: int = (
        0  # contacts are asked whether they are there: bits 1 all of them, 2 those behind NAT, 4 over UDP only
    )
    ka_from: str = "sip:server@kamailio.org"
    ka_domain: str = "kamailio.org"  # of To, for addresses of record without a domain
    ka_method: str = "OPTIONS"
    ka_timeout: int = 0  # seconds without an answer after which a contact is removed; 0: none is

    def __post_init__(self) -> None:
        if not 0 <= self.db_mode <= READ_ONLY:
            raise ValueError(f"db_mode: expected 0 to {READ_ONLY}, got {self.db_mode}")
        if self.db_mode >= WRITE_BACK and not self.db_url:
            raise ValueError(f"db_mode: {self.db_mode} needs a db_url: sqlite:///path, or {OWN}")
        if self.db_url:
            try:
                sqlite_path(self.db_url)
            except ValueError as error:
                raise ValueError(f"db_url: {error}") from None
        if not all(_TABLE.fullmatch(table) for table in self.preload):
            raise ValueError(f"preload: expected names of tables, got {', '.join(self.preload)}")
        if not -1 <= self.nat_bflag <= 31:
            raise ValueError("nat_bflag: expected a branch flag, 0 to 31, or -1")
        if not 0 <= self.ka_mode <= 7:
            raise ValueError(f"ka_mode: expected 0 to 7, got {self.ka_mode}")
        if self.ka_timeout < 0:
            raise ValueError("ka_timeout: expected seconds, or 0")


class Usrloc(Module):
    """The rules of contacts: matching, order, validity, expiry."""

    name = "usrloc"
    Params = UsrlocParams

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self.on_expired: list[Callable[[str, str, Binding, float], None]] = []  # called with table, AoR, contact, now
        self._due: float | None = None
        self._keepalive: Keepalive | None = None
        self._mirror: MirroredLocation | None = None  # where rows are written back
        self._counts = [ContactCount(services, table) for table in self.params.preload]
        self.nat_flag: int = 1 << self.params.nat_bflag if self.params.nat_bflag >= 0 else 0  # a bit of Binding.bflags

    def commands(self) -> tuple[object, ...]:
        """Return the commands ul.*."""
        return (UsrlocCommands(self),)

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
        """Return ``bindings`` by preference: the highest q first, those without q last, the oldest first among equals.

        With desc_time_order q does not count: the last modified comes first.
        """
        if len(bindings) < 2:
            return bindings
        if self.params.desc_time_order:
            return sorted(bindings, key=lambda b: b.modified)[::-1]
        return sorted(bindings, key=lambda b: -b.q)

    # ---- where contacts are kept
    def start(self, now: float) -> None:
        """Keep contacts where db_mode wants them, and look for what has expired while the server was down. Raise DataError."""
        services, p = self.services, self.params
        if p.db_mode == 0:
            for table in p.preload:
                services.location.clear(table)
        elif p.db_url:
            services.location = self._in_sql(services.location)
        self._due = now
        for table, count in zip(p.preload, self._counts, strict=True):
            services.counters.setdefault(f"usrloc.{table}_expires", 0)
            services.figures[f"usrloc.{table}_users"] = partial(self._users, table)
            services.figures[f"usrloc.{table}_contacts"] = count.number
        services.figures["usrloc.registered_users"] = self._all_users
        if p.ka_mode:
            self._keepalive = Keepalive(
                services,
                mode=p.ka_mode,
                method=p.ka_method,
                sender=p.ka_from,
                domain=p.ka_domain,
                timeout=p.ka_timeout,
                nat_flag=self.nat_flag,
                tables=p.preload,
                interval=max(p.timer_interval, 1),
                now=now,
            )

    def _in_sql(self, store: LocationStore) -> LocationStore:
        """Return the store that works with the rows of the tables in ``preload``, which it has loaded."""
        p = self.params
        place = sqlite_path(p.db_url) or self.services.database.place
        rows = LocationRows(place, p.preload, use_domain=bool(p.use_domain), expires_type=p.expires_type)
        if p.db_mode == _DB_ONLY:
            return SqlLocation(rows)
        mirror = MirroredLocation(store, rows, p.db_mode)
        try:
            for table in p.preload if p.db_load else ():
                log.info("%s: %d addresses of record loaded from %s", table, mirror.load(table), p.db_url)
        except BaseException:
            rows.close()
            raise
        if p.db_mode == WRITE_BACK:
            self._mirror = mirror
        return mirror

    def stop(self, now: float) -> None:
        """Write what has not been written back. Raise DataError."""
        self.write_back()

    def write_back(self) -> None:
        """Write the rows that wait for the timer. Raise DataError."""
        if self._mirror is not None:
            self._mirror.commit()
            for table in self.params.preload:
                while self._mirror.flush(table, _ROWS):
                    pass

    # ---- statistics
    def contacts(self, table: str) -> int:
        """Return how many contacts a table of ``preload`` has, or had when they were counted last."""
        place: int = self.params.preload.index(table)
        return self._counts[place].number()

    def _users(self, table: str) -> int:
        return self.services.location.count(table)

    def _all_users(self) -> int:
        return sum(map(self._users, self.params.preload))

    # ---- expiry

    def next_timeout(self) -> float | None:
        """Return when expired contacts are looked for next, or contacts asked."""
        due = self._due
        if self._keepalive is not None and due is not None:
            due = min(due, self._keepalive.due)
        for count in self._counts:
            if count.due is not None and (due is None or count.due < due):
                due = count.due
        return due

    def handle_timer(self, now: float) -> None:
        """Remove expired contacts, no more than a batch of AoRs of each table."""
        if self._keepalive is not None:
            self._keepalive.run(now)
        for count in self._counts:
            count.run(now)
        if self._due is None or now < self._due:
            return
        location = self.services.location
        self._due = now + max(self.params.timer_interval, 1)
        for table in self.params.preload:
            if self._mirror is not None and self._mirror.flush(table, _ROWS) == _ROWS:
                self._due = now + _PAUSE
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
                self.services.count(f"usrloc.{table}_expires")
                for call in self.on_expired:
                    call(table, aor, binding, now)


def plain_instance(instance: str) -> str:
    """Return an instance (the value of ``+sip.instance``) without its angle brackets."""
    return instance[1:-1] if instance[:1] == "<" and instance[-1:] == ">" else instance


def is_valid(binding: Binding, now: float) -> bool:
    """Tell whether ``binding`` has not expired; 0 means permanent."""
    return binding.expires > now or not binding.expires
