"""htable: named hash tables in memory, with items that expire (Kamailio: htable)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from polykemi.kemi.context import RouteContext
from polykemi.kemi.faked import event_context
from polykemi.kemi.registry import Xval, export
from polykemi.modules.base import Services
from polykemi.modules.htable_database import load, store
from polykemi.modules.htable_rpc import HtableCommands
from polykemi.modules.htable_table import Changed, Iteration, Table, matcher, parse_definition
from polykemi.modules.htable_variables import variable_classes
from polykemi.pv.accessor import Factory
from polykemi.storage.items import Changes

log = logging.getLogger("polykemi.script")

NOT_A_NUMBER: Final = -255  # what sht_inc and sht_dec answer then
_MAX_ITERATORS: Final = 4
_MAX_ITERATOR_NAME: Final = 32  # octets, with one more for its end
_BATCH: Final = 2000  # items looked at in one go of the timer
_PAUSE: Final = 0.05  # seconds between two of them


@dataclass(frozen=True, slots=True)
class HtableParams:
    """Kamailio's names and defaults; ``htable`` has one definition for each table."""

    # Kamailio's default is none: "ipban" is what the sample scripts, ours and Kamailio's, keep banned addresses in
    htable: tuple[str, ...] = ("ipban=>size=8;autoexpire=300",)
    timer_interval: int = 20  # seconds between two looks for expired items
    key_name_column: str = "key_name"
    key_type_column: str = "key_type"
    value_type_column: str = "value_type"
    key_value_column: str = "key_value"
    expires_column: str = "expires"
    db_expires: int = 0  # 1: tables with autoexpire keep the times of their items in the database
    array_size_suffix: str = "::size"
    event_callback: str = ""

    def __post_init__(self) -> None:
        for definition in self.htable:
            parse_definition(definition)


class Htable(HtableCommands):
    """The tables of one server."""

    name = "htable"
    Params = HtableParams
    events: ClassVar[Mapping[str, str]] = {
        "htable:mod-init": "once, before the first message: tables can be filled",
        "htable:expired:TABLE": "an item of the table has expired; $shtrecord(key) and $shtrecord(value) are of it",
    }

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self.iterations: dict[str, Iteration | None] = {}  # None: started on a table that is not there
        self._missing: set[str] = set()
        self._due: float | None = None

    def pv_classes(self) -> Mapping[str, Factory]:
        """Return $sht, $shtex, $shtcn, $shtcv, $shtinc, $shtdec, $shtitkey, $shtitval and $shtrecord."""
        return variable_classes(self)

    def start(self, now: float) -> None:
        """Load the tables that stand in the database. Raise DataError."""
        for table in self.tables.values():
            if table.dbtable:
                load(table, self.services.database, self.params, now)
            elif table.persist:
                table.keep(item for item in self.services.items.load(table.name) if item[1][1] > now)
                table.changes = Changed(self._changed)
        if self.tables:
            self._due = now + self.params.timer_interval
        if self.params.event_callback:
            self.services.events.append(self._event_context("htable:mod-init", now))

    def reread(self, now: float) -> Callable[[], None] | None:
        """Read the tables whose rows have changed anew, but for those that are stored here (dbmode=1). Raise DataError."""
        fresh = []
        for table in self.tables.values():
            if table.dbtable and not table.dbmode:
                load(one := table.empty(), self.services.database, self.params, now)
                if one.origin != table.origin:
                    fresh.append((table, one))

        def use() -> None:
            for table, one in fresh:
                table.take(one)
                self.reloaded(table, now)

        return use if fresh else None

    def stop(self, now: float) -> None:
        """Store the tables that are to be found again (dbmode=1). Raise DataError."""
        for table in self.tables.values():
            if table.dbtable and table.dbmode:
                store(table, self.services.database, self.params, now)

    def _changed(self) -> None:
        """Let the changes of tables with persist=1 be stored when the turn ends."""
        if self._store not in self.services.commits:
            self.services.commits.append(self._store)

    def _store(self) -> None:
        """Store what has changed since the last time. Raise DataError; it is stored with the next change then."""
        changed = [(t, t.changes) for t in self.tables.values() if t.changes is not None]
        self.services.items.write(
            {
                table.name: Changes(changes.emptied, {key: table.items.get(key) for key in changes.keys})
                for table, changes in changed
                if changes.keys or changes.emptied
            }
        )
        for _, changes in changed:
            changes.stored()

    def reloaded(self, table: Table, now: float) -> None:
        """Run the event route block for a table that was read anew."""
        if self.params.event_callback:
            self.services.events.append(self._event_context(f"htable:reloaded:{table.name}", now))

    def table(self, name: str) -> Table | None:
        """Return the table ``name``; when there is none, say so once."""
        table = self.tables.get(name)
        if table is None and name not in self._missing and len(self._missing) < 100:
            self._missing.add(name)
            log.error("htable: there is no htable %r; tables are defined in htable's parameter htable", name)
        return table

    # ---- items
    @export()
    def sht_get(self, ctx: RouteContext, htname: str, itname: str) -> Xval:
        """Return the item, the table's initval or null when it is not there."""
        table = self.table(htname)
        return table.get(itname, ctx.now) if table is not None else None

    @export()
    def sht_gete(self, ctx: RouteContext, htname: str, itname: str) -> Xval:
        """Return the item, "" for null."""
        value = self.sht_get(ctx, htname, itname)
        return "" if value is None else value

    @export()
    def sht_getw(self, ctx: RouteContext, htname: str, itname: str) -> Xval:
        """Return the item, ``<null>`` for null."""
        value = self.sht_get(ctx, htname, itname)
        return "<null>" if value is None else value

    @export()
    def sht_is_null(self, ctx: RouteContext, htname: str, itname: str) -> int:
        """Tell whether an item is null: 1, 2 when there is no such table; else -1, -2 in a table with an initval."""
        table = self.table(htname)
        if table is None:
            return 2
        if table.initval is not None:
            return -2
        return -1 if table.has(itname, ctx.now) else 1

    @export()
    def sht_sets(self, ctx: RouteContext, htname: str, itname: str, itval: str) -> int:
        """Set an item to a text. Answers 1, or -1."""
        return self._set(ctx, htname, itname, itval)

    @export()
    def sht_seti(self, ctx: RouteContext, htname: str, itname: str, itval: int) -> int:
        """Set an item to an integer. Answers 1, or -1."""
        return self._set(ctx, htname, itname, itval)

    @export()
    def sht_setxs(self, ctx: RouteContext, htname: str, itname: str, itval: str, exval: int) -> int:
        """Set an item to a text that expires in ``exval`` seconds. Answers 1, or -1."""
        return self._set(ctx, htname, itname, itval, exval)

    @export()
    def sht_setxi(self, ctx: RouteContext, htname: str, itname: str, itval: int, exval: int) -> int:
        """Set an item to an integer that expires in ``exval`` seconds. Answers 0, or -1."""
        return min(self._set(ctx, htname, itname, itval, exval), 0)

    @export()
    def sht_setex(self, ctx: RouteContext, htname: str, itname: str, exval: int) -> int:
        """Let an item expire in ``exval`` seconds, never for 0 and less. Answers 1 (also when it is not there), or -1.

        Items of tables without autoexpire never do.
        """
        table = self.table(htname)
        if table is None:
            return -1
        table.set_expiry(itname, exval, ctx.now)
        return 1

    def _set(self, ctx: RouteContext, htname: str, itname: str, value: int | str, seconds: int = 0) -> int:
        table = self.table(htname)
        if table is None:
            return -1
        table.set(itname, value, ctx.now, seconds)
        return 1

    @export()
    def sht_inc(self, ctx: RouteContext, htname: str, itname: str) -> int:
        """Add 1 to an item (with an initval also to one that is not there) and return it; -255 when it is no integer."""
        return self._add(ctx, htname, itname, 1)

    @export()
    def sht_dec(self, ctx: RouteContext, htname: str, itname: str) -> int:
        """Take 1 from an item (with an initval also from one that is not there) and return it; -255 when it is no integer."""
        return self._add(ctx, htname, itname, -1)

    def _add(self, ctx: RouteContext, htname: str, itname: str, by: int) -> int:
        table = self.table(htname)
        value = table.add(itname, by, ctx.now) if table is not None else None
        return NOT_A_NUMBER if value is None else value

    @export()
    def sht_rm(self, ctx: RouteContext, htname: str, itname: str) -> int:
        """Remove an item. Answers 1 (also when it is not there), or -1."""
        table = self.table(htname)
        if table is None:
            return -1
        table.remove(itname)
        return 1

    @export()
    def sht_reset(self, ctx: RouteContext, htname: str) -> int:
        """Remove all items of a table. Answers 0, or -1."""
        table = self.table(htname)
        if table is None:
            return -1
        table.clear()
        return 0

    @export()
    def sht_lock(self, ctx: RouteContext, htname: str, itname: str) -> int:
        """Tell whether the table is there (1 or -1): a route block has its tables to itself, so there is nothing to lock."""
        return 1 if self.table(htname) is not None else -1

    @export()
    def sht_unlock(self, ctx: RouteContext, htname: str, itname: str) -> int:
        """Tell whether the table is there (1 or -1), as ``sht_lock`` does."""
        return 1 if self.table(htname) is not None else -1

    # ---- many items
    @export()
    def sht_rm_name(self, ctx: RouteContext, htname: str, op: str, val: str) -> int:
        """Remove the items whose name matches: ``op`` re or sw (starts with). Answers 1, or -1."""
        return self._remove(htname, op, val, by_value=False)

    @export()
    def sht_rm_value(self, ctx: RouteContext, htname: str, op: str, val: str) -> int:
        """Remove the items whose text matches: ``op`` re or sw (starts with). Answers 1, or -1."""
        return self._remove(htname, op, val, by_value=True)

    @export()
    def sht_rm_name_re(self, ctx: RouteContext, htname: str, rexp: str) -> int:
        """Remove the items whose name matches a regular expression. Answers 1 (also without such a table), or -1."""
        return self._remove(htname, "re", rexp, by_value=False) if htname in self.tables else 1

    @export()
    def sht_rm_value_re(self, ctx: RouteContext, htname: str, rexp: str) -> int:
        """Remove the items whose text matches a regular expression. Answers 1 (also without such a table), or -1."""
        return self._remove(htname, "re", rexp, by_value=True) if htname in self.tables else 1

    def _remove(self, htname: str, op: str, val: str, *, by_value: bool) -> int:
        table = self.table(htname)
        matches = matcher(op, val) if val and op in ("re", "sw") else None
        if table is None or matches is None:
            return -1
        table.remove_matching(matches, by_value=by_value)
        return 1

    @export()
    def sht_match_name(self, ctx: RouteContext, htname: str, op: str, mval: str) -> int:
        """Tell whether an item's name matches: ``op`` eq, ne, re or sw (starts with). Answers 1, or -1."""
        if op == "eq" and mval:
            table = self.table(htname)
            return 1 if table is not None and table.has(mval, ctx.now) else -1
        return 1 if self._count(ctx, htname, op, mval, by_value=False, limit=1) else -1

    @export()
    def sht_match_str_value(self, ctx: RouteContext, htname: str, op: str, mval: str) -> int:
        """Tell whether an item's text matches: ``op`` eq, ne, re or sw (starts with). Answers 1, or -1."""
        return 1 if self._count(ctx, htname, op, mval, by_value=True, limit=1) else -1

    @export()
    def sht_cn(self, ctx: RouteContext, htname: str, op: str, mval: str) -> int:
        """Count the items whose name matches: ``op`` eq, ne, re or sw (starts with)."""
        return self._count(ctx, htname, op, mval, by_value=False, limit=0)

    def _count(self, ctx: RouteContext, htname: str, op: str, mval: str, *, by_value: bool, limit: int) -> int:
        table = self.table(htname)
        matches = matcher(op, mval) if mval else None
        return table.count(matches, ctx.now, by_value=by_value, limit=limit) if table is not None and matches else 0

    # ---- iterators
    @export()
    def sht_iterator_start(self, ctx: RouteContext, iname: str, hname: str) -> int:
        """Start the iterator ``iname`` (up to 4 at a time) before the first item of a table. Answers 1, or -1.

        As in Kamailio the name is taken also when there is no such table.
        """
        if iname not in self.iterations and (
            len(self.iterations) >= _MAX_ITERATORS or len(iname) >= _MAX_ITERATOR_NAME or not iname
        ):
            return -1
        table = self.table(hname)
        self.iterations[iname] = Iteration(table) if table is not None else None
        return 1 if table is not None else -1

    @export()
    def sht_iterator_next(self, ctx: RouteContext, iname: str) -> int:
        """Go to the next item: $shtitkey(iname) and $shtitval(iname). Answers 1, or -1 when there is none."""
        iteration = self.iterations.get(iname)
        return 1 if iteration is not None and iteration.next(ctx.now) else -1

    @export()
    def sht_iterator_end(self, ctx: RouteContext, iname: str) -> int:
        """End the iterator. Answers 1, or -1 when it was not started."""
        return 1 if self.iterations.pop(iname, self) is not self else -1

    @export()
    def sht_iterator_rm(self, ctx: RouteContext, iname: str) -> int:
        """Remove the iterator's item and go to the next. Answers 1, -2 when there is no next, -1 error."""
        iteration = self.iterations.get(iname)
        if iteration is None or iteration.value(ctx.now) is None:
            return -1
        iteration.table.remove(iteration.key)
        return 1 if iteration.next(ctx.now) else -2

    @export()
    def sht_iterator_sets(self, ctx: RouteContext, iname: str, val: str) -> int:
        """Set the iterator's item to a text. Answers 1, or -1."""
        return self._set_current(ctx, iname, val)

    @export()
    def sht_iterator_seti(self, ctx: RouteContext, iname: str, val: int) -> int:
        """Set the iterator's item to an integer. Answers 1, or -1."""
        return self._set_current(ctx, iname, val)

    @export()
    def sht_iterator_setex(self, ctx: RouteContext, iname: str, val: int) -> int:
        """Let the iterator's item expire in ``val`` seconds. Answers 1, or -1."""
        iteration = self.iterations.get(iname)
        if iteration is None or iteration.value(ctx.now) is None:
            return -1
        if val > 0:
            iteration.table.set_expiry(iteration.key, val, ctx.now)
        elif iteration.table.autoexpire:
            iteration.table.remove(iteration.key)
        return 1

    def _set_current(self, ctx: RouteContext, iname: str, value: int | str) -> int:
        iteration = self.iterations.get(iname)
        if iteration is None or iteration.value(ctx.now) is None:
            return -1
        iteration.table.set(iteration.key, value, ctx.now)
        return 1

    # ---- expiry
    def next_timeout(self) -> float | None:
        """Return when expired items are looked for next."""
        return self._due

    def handle_timer(self, now: float) -> None:
        """Remove expired items, looking at a bounded number."""
        if self._due is None or now < self._due:
            return
        left, callback = _BATCH, self.params.event_callback
        for table in self.tables.values():
            seen, removed = table.sweep(now, left)
            left -= seen
            if callback:
                for key, value in removed:
                    ctx = self._event_context(f"htable:expired:{table.name}", now)
                    ctx.cache["htable.expired"] = (key, value)
                    self.services.events.append(ctx)
        busy = any(table.is_sweeping for table in self.tables.values())
        self._due = now + (_PAUSE if busy else max(self.params.timer_interval, 1))

    def _event_context(self, event: str, now: float) -> RouteContext:
        return event_context(self.params.event_callback, event, self.services.listeners[0], now)
