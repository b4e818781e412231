"""The sets of dispatcher: their parameters, how they are read, and the states of their destinations. Part of dispatcher."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from polykemi.errors import DataError
from polykemi.live import live
from polykemi.modules.base import Module, Services
from polykemi.modules.dispatcher_sets import (
    DISABLED,
    INACTIVE,
    PROBING,
    STATES,
    TRYING,
    BadDestination,
    Destination,
    DestinationSet,
    Row,
    make,
    parse_list,
    walk,
)
from polykemi.sip.flow import find_listener

log = logging.getLogger("polykemi.dispatcher")

ALWAYS: Final = 1  # ds_probing_mode
ONLY_INACTIVE: Final = 2
ONLY_FLAGGED: Final = 3

_CODES: Final = {"code": (100, 699), "class": (1, 6)}


@dataclass(frozen=True, slots=True)
class DispatcherParams:
    """Kamailio's names and defaults; without ``list_file`` the destinations are those of the table."""

    list_file: Path | None = None
    table_name: str = "dispatcher"
    setid_col: str = "setid"
    destination_col: str = "destination"
    flags_col: str = "flags"
    priority_col: str = "priority"
    attrs_col: str = "attrs"
    ds_db_extra_attrs: str = ""  # "name=column;...": more columns that become attributes
    ds_attrs_none: int = 0  # 1: destinations without attributes get "none=yes"
    ds_load_mode: int = 0  # 1: one destination that cannot be used spoils the list
    flags: int = 0  # 1: hash the user part of URIs alone, 2: keep the other destinations for ds_next_dst
    force_dst: int = 1  # 0: a destination URI that is set already is an error
    use_default: int = 0  # 1: the last destination of a set is for when no other one is up
    hash_pvar: str = ""  # what algorithm 7 hashes: text with variables
    xavp_dst: str = "_dsdst_"
    xavp_dst_mode: int = 0  # 1: without attrs, 2: with socket
    xavp_ctx: str = "_dsctx_"
    xavp_ctx_mode: int = 0  # 1: without cnt
    setid_pvname: str = ""  # takes the set that ds_is_from_lists found
    attrs_pvname: str = ""  # takes the attributes of what ds_is_from_list found
    ds_default_socket: str = ""  # proto:host:port, of destinations that name none
    ds_ping_method: str = "OPTIONS"
    ds_ping_from: str = "sip:dispatcher@localhost"
    ds_ping_interval: int = 0  # seconds, 0: destinations are not probed
    ds_ping_reply_codes: str = live(
        "", "class=2;code=480;...: besides 2xx, what says that a destination is up", name="ping_reply_codes"
    )
    ds_ping_latency_stats: int = 0
    ds_latency_estimator_alpha: int = 900  # thousandths
    ds_probing_mode: int = (
        0  # 0: those flagged P, 1: all, 2: those inactive and P, 3: those flagged, as long as they are
    )
    ds_probing_threshold: int = live(
        1, "probes without answer until a destination is inactive", name="probing_threshold"
    )
    ds_inactive_threshold: int = live(1, "answers until it is active again", name="inactive_threshold")
    outbound_proxy: str = ""  # URI that probes are sent to
    ds_hash_size: int = 0  # 0: calls are not counted for algorithm 10
    ds_hash_expire: int = 7200  # seconds
    ds_hash_initexpire: int = 7200  # seconds, for calls that are not answered
    ds_hash_check_interval: int = 30  # seconds
    reload_delta: int = 5  # seconds between two ds_reload
    event_callback: str = ""

    xavp_dst_addr: str = "uri"
    xavp_dst_grp: str = "grp"
    xavp_dst_dstid: str = "dstid"
    xavp_dst_attrs: str = "attrs"
    xavp_dst_sock: str = "sock"
    xavp_dst_socket: str = "socket"

    def __post_init__(self) -> None:
        names = (
            self.table_name,
            self.setid_col,
            self.destination_col,
            self.flags_col,
            self.priority_col,
            self.attrs_col,
        )
        for name in (*names, *(column for _, column in self.extra_attrs)):
            if not re.fullmatch("[A-Za-z0-9_]+", name):
                raise ValueError(f"{name!r} is no name of a table or column")
        for key in ("ds_ping_interval", "ds_hash_size", "ds_hash_expire", "ds_hash_initexpire", "reload_delta"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key}: expected 0 or more, got {getattr(self, key)}")
        if not 0 < self.ds_latency_estimator_alpha < 1000:
            raise ValueError(f"ds_latency_estimator_alpha: expected 1 to 999, got {self.ds_latency_estimator_alpha}")
        if not 0 <= self.ds_probing_mode <= ONLY_FLAGGED:
            raise ValueError(f"ds_probing_mode: expected 0 to 3, got {self.ds_probing_mode}")
        _ = self.reply_codes

    @property
    def extra_attrs(self) -> list[tuple[str, str]]:
        """The columns of ``ds_db_extra_attrs``: attribute, column. Raise ValueError."""
        pairs = [part.partition("=") for part in self.ds_db_extra_attrs.split(";") if part]
        if not all(name and column for name, _, column in pairs):
            raise ValueError(f"ds_db_extra_attrs: expected name=column;..., got {self.ds_db_extra_attrs!r}")
        return [(name.strip(" "), column.strip(" ")) for name, _, column in pairs]

    @property
    def reply_codes(self) -> frozenset[int]:
        """The codes and classes of ``ds_ping_reply_codes``. Raise ValueError."""
        found = set()
        for part in filter(None, (part.strip(" ") for part in self.ds_ping_reply_codes.split(";"))):
            name, _, number = part.partition("=")
            low, high = _CODES.get(name, (1, 0))
            if not number.isdecimal() or not low <= int(number) <= high:
                raise ValueError(f"ds_ping_reply_codes: expected class=2;code=480;..., got {part!r}")
            found.add(int(number))
        return frozenset(found)


class DispatcherLists(Module):
    """The sets of one server, without what scripts call."""

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self.sets: dict[int, DestinationSet] = {}  # in the order in which Kamailio searches them
        self._read: list[Row] = []  # what they were made of
        default = self.params.ds_default_socket
        self._default = find_listener(default, services.listeners) if default else None
        self._random: Random | None = None
        self.is_pinging = True  # an operator may stop the probes
        self.reply_codes: frozenset[int] = self.params.reply_codes

    def params_changed(self) -> None:
        """Take the other codes for answers of what is up."""
        self.reply_codes = self.params.reply_codes

    def random(self) -> Random:
        """Return the source of randomness, made when it is needed first."""
        if self._random is None:
            self._random = Random(self.services.ids.unique())
        return self._random

    def start(self, now: float) -> None:
        """Read the destinations. Raise DataError."""
        if self.params.ds_default_socket and self._default is None:
            raise DataError(f"dispatcher: ds_default_socket: {self.params.ds_default_socket!r} is no listener")
        self.read()

    def set_of(self, setid: int) -> DestinationSet | None:
        """Return the set with this number, None when there is none."""
        return self.sets.get(setid)

    def read(self) -> None:
        """Read the destinations anew, all states being forgotten. Raise DataError, the sets stay then."""
        self._use(self._entered_rows())

    def reread(self, now: float) -> Callable[[], None] | None:
        """Read the destinations anew; when they are those that were read before, their states stay. Raise DataError."""
        rows = self._entered_rows()
        if rows == self._read:
            return None
        sets = self._made(rows)
        return lambda: self._use(rows, sets)

    def _use(self, rows: list[Row], sets: dict[int, DestinationSet] | None = None) -> None:
        self.sets, self._read = sets or self._made(rows), rows

    def _made(self, rows: list[Row]) -> dict[int, DestinationSet]:
        """Return the sets of ``rows``; what is wrong with a row is logged. Raise DataError."""
        p: DispatcherParams = self.params
        found: dict[int, list[Destination]] = {}
        entered: list[int] = []
        try:
            for row in rows:
                try:
                    destination = make(
                        row, self.services.listeners, self._default, no_attrs="none=yes" if p.ds_attrs_none else ""
                    )
                except BadDestination as error:
                    if p.ds_load_mode == 1:
                        raise
                    log.error("set %d: destination left out: %s", row.setid, error)
                    continue
                entered.append(row.setid)
                found.setdefault(row.setid, []).append(destination)
        except BadDestination as error:
            raise DataError(f"dispatcher: {p.list_file or p.table_name}: {error}") from None
        return {setid: DestinationSet(setid, found[setid], self.random) for setid in walk(entered)}

    def add(self, row: Row) -> None:
        """Add a destination, in memory alone. Raise BadDestination."""
        p: DispatcherParams = self.params
        no_attrs = "none=yes" if p.ds_attrs_none else ""
        destination = make(row, self.services.listeners, self._default, no_attrs=no_attrs)
        one = self.sets.get(row.setid)
        entered = one.destinations[::-1] if one is not None else []
        sets = self.sets | {row.setid: DestinationSet(row.setid, [*entered, destination], self.random)}
        self.sets = {setid: sets[setid] for setid in walk(sets)}

    def remove(self, setid: int, uri: str) -> None:
        """Remove a destination by its URI, in memory alone; a set without destinations is no more."""
        one = self.sets.get(setid)
        left = [d for d in one.destinations[::-1] if d.uri.lower() != uri.lower()] if one is not None else []
        sets = {other: kept for other, kept in self.sets.items() if other != setid}
        if left:
            sets[setid] = DestinationSet(setid, left, self.random)
        self.sets = {other: sets[other] for other in walk(sets)}

    def _entered_rows(self) -> list[Row]:
        """Return the rows of the file or the table. Raise DataError."""
        try:
            return list(self._rows())
        except BadDestination as error:
            raise DataError(f"dispatcher: {self.params.list_file}: {error}") from None

    def _rows(self) -> Iterator[Row]:
        p: DispatcherParams = self.params
        if p.list_file is not None:
            try:
                text = p.list_file.read_text("latin-1")
            except OSError as error:
                raise DataError(f"dispatcher: list_file {p.list_file}: {error.strerror}") from None
            yield from parse_list(text)
            return
        names = [p.setid_col, p.destination_col, p.flags_col, p.priority_col, p.attrs_col]
        names += [column for _, column in p.extra_attrs]
        for setid, uri, flags, priority, attrs, *more in self.services.database.select(p.table_name, names):
            attrs = attrs or ""
            for (name, _), value in zip(p.extra_attrs, more, strict=True):
                if value not in (None, ""):
                    attrs = f"{attrs}{'' if attrs[-1:] in ('', ';') else ';'}{name}={value};"
            yield Row(int(setid), str(uri), int(flags or 0), int(priority or 0), attrs)

    # ---- states
    def change_state(self, one: DestinationSet, destination: Destination, state: int, *, at_once: bool = False) -> str:
        """Change the state as far as the thresholds allow it; return the event that this is, "" for none."""
        p: DispatcherParams = self.params
        old, wanted = destination.flags, state
        if state & TRYING and old & INACTIVE:
            state = state & ~TRYING | INACTIVE  # up first, then in doubt again
        new = old & ~STATES | (DISABLED if state & DISABLED else state)
        if state & TRYING:
            destination.failures += 1
            if at_once or destination.failures >= p.ds_probing_threshold:
                new = new & ~TRYING | INACTIVE
                destination.failures = 0
        elif not wanted & TRYING and old & INACTIVE:
            destination.failures += 1
            if not at_once and destination.failures < p.ds_inactive_threshold:
                new |= INACTIVE | (old & PROBING)
            else:
                destination.failures = 0
        else:
            destination.failures = 0
        return self.set_flags(one, destination, new)

    def set_flags(self, one: DestinationSet, destination: Destination, flags: int) -> str:
        """Set the flags of a destination; return the event that this is, "" for none."""
        was_skipped, destination.flags = destination.is_skipped, flags
        if destination.is_skipped == was_skipped:
            return ""
        if destination.attrs.rweight:
            one.spread(self.random)
        return "dispatcher:dst-down" if destination.is_skipped else "dispatcher:dst-up"
