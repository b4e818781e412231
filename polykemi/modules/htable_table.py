"""One hash table of htable: items by key, with a time at which they expire."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

from polykemi.errors import LimitReached
from polykemi.kemi.limits import ScriptLimits
from polykemi.kemi.posix import BadPattern, compile_posix
from polykemi.kemi.registry import Xval

log = logging.getLogger("polykemi.htable")

NEVER: Final = float("inf")
_HALF: Final = 1 << 31
MAXSIZE: Final = 1_000_000  # items, where the definition does not say
_NUMBER: Final = 8  # octets that a number is counted for
Value = int | str
Matcher = Callable[[str], object]

_NUMBERS: Final = ("size", "autoexpire", "initval", "updateexpire", "dmqreplicate", "dbmode", "maxsize", "persist")


class Changed:
    """The keys of a table that have changed since they were stored last."""

    __slots__ = ("_begin", "emptied", "keys")

    def __init__(self, begin: Callable[[], None]) -> None:
        """``begin`` is called at the first change."""
        self._begin = begin
        self.emptied = False
        self.keys: set[str] = set()

    def note(self, key: str) -> None:
        """Note that ``key`` has changed or is gone."""
        self._begin()
        self.keys.add(key)

    def empty(self) -> None:
        """Note that all is gone."""
        self._begin()
        self.emptied = True
        self.keys.clear()

    def stored(self) -> None:
        """Begin anew."""
        self.emptied = False
        self.keys.clear()


class Room:
    """How much all tables together hold, and what they may hold."""

    __slots__ = ("limits", "octets")

    def __init__(self, limits: ScriptLimits | None = None) -> None:
        self.limits = limits or ScriptLimits()
        self.octets = 0


class Table:
    """A table. Its items keep the order in which they came; an expired one is not seen, and removed by ``sweep``."""

    __slots__ = (
        "_sweep",
        "autoexpire",
        "changes",
        "columns",
        "dbmode",
        "dbtable",
        "initval",
        "items",
        "maxsize",
        "name",
        "octets",
        "origin",
        "persist",
        "room",
        "updateexpire",
    )

    def __init__(
        self,
        name: str,
        *,
        autoexpire: int = 0,
        initval: int | None = None,
        updateexpire: bool = True,
        maxsize: int = 0,
        dbtable: str = "",
        columns: tuple[str, ...] = (),
        dbmode: bool = False,
        persist: bool = False,
    ) -> None:
        self.name = name
        self.autoexpire = autoexpire  # seconds, 0: items stay
        self.initval = initval
        self.updateexpire = updateexpire  # a change starts the time anew
        self.maxsize = maxsize  # items, 0: no limit
        self.dbtable = dbtable
        self.columns = (
            columns  # of dbtable: the key and those that together are the value; () for those of the parameters
        )
        self.dbmode = dbmode  # the items are stored when the server ends
        self.origin = 0  # a digest of what was read from the database last
        self.persist = persist  # each change is stored before anybody is told of it
        self.changes: Changed | None = None  # what is to be stored, where somebody does
        self.room = Room()  # the module's
        self.octets = 0  # of keys and values
        self.items: dict[str, tuple[Value, float]] = {}  # key -> value, time of expiry
        self._sweep: list[str] = []  # keys that a sweep has still to look at

    def get(self, key: str, now: float) -> Xval:
        """Return the value of ``key``, ``initval`` when it is not there."""
        item = self.items.get(key)
        return item[0] if item is not None and item[1] > now else self.initval

    def has(self, key: str, now: float) -> bool:
        """Tell whether ``key`` is there."""
        item = self.items.get(key)
        return item is not None and item[1] > now

    def set(self, key: str, value: Value, now: float, seconds: int = 0) -> None:
        """Set ``key``, to expire in ``seconds`` when they are more than 0. Raise LimitReached when it has no room."""
        item = self.items.get(key)
        self._make_room(key, value, None if item is None else item[0])
        if not self.autoexpire:
            expires = NEVER
        elif seconds > 0:
            expires = now + seconds
        elif item is not None and item[1] > now and not self.updateexpire:
            expires = item[1]
        else:
            expires = now + self.autoexpire
        self.items[key] = (value, expires)
        if self.changes is not None:
            self.changes.note(key)

    def _make_room(self, key: str, value: Value, old: Value | None) -> None:
        """Count what ``value`` takes in the place of ``old``. Raise LimitReached."""
        room = self.room
        limits, size = room.limits, _size(value)
        if old is None:
            if self.maxsize and len(self.items) >= self.maxsize:
                raise LimitReached(
                    f"{self.maxsize + 1} items of htable {self.name}", "maxsize", self.maxsize, place="its"
                )
            if len(key) > limits.htable_key:
                raise LimitReached(f"a key of {len(key)} octets of htable {self.name}", "htable_key", limits.htable_key)
        if size > limits.htable_value:
            raise LimitReached(f"a value of {size} octets of htable {self.name}", "htable_value", limits.htable_value)
        grown = len(key) + size if old is None else size - _size(old)
        if grown > 0 and room.octets + grown > limits.htable_total:
            octets = room.octets + grown
            raise LimitReached(f"{octets} octets in all hash tables", "htable_total", limits.htable_total)
        self._grow(grown)

    def _grow(self, octets: int) -> None:
        self.octets += octets
        self.room.octets += octets

    def keep(self, items: Iterable[tuple[str, tuple[Value, float]]]) -> None:
        """Take items that were stored, whatever they need."""
        self.items.update(items)
        self._grow(sum(len(key) + _size(value) for key, (value, _) in self.items.items()) - self.octets)

    def add(self, key: str, by: int, now: float) -> int | None:
        """Add ``by`` to an integer of 32 bits and return it; None when it is none or not there and there is no initval."""
        value = self.get(key, now)
        if not isinstance(value, int):
            return None
        value = (value + by + _HALF) % (2 * _HALF) - _HALF
        self.set(key, value, now)
        return value

    def count_integers(self, wanted: int, now: float) -> int:
        """Count the items that are this integer."""
        return sum(
            value == wanted for value, expires in self.items.values() if isinstance(value, int) and expires > now
        )

    def remove(self, key: str) -> None:
        """Remove ``key``, if it is there."""
        item = self.items.pop(key, None)
        if item is not None:
            self._grow(-len(key) - _size(item[0]))
            if self.changes is not None:
                self.changes.note(key)

    def expiry(self, key: str, now: float) -> int:
        """Return in how many seconds ``key`` expires, 0 when it never does or is not there."""
        item = self.items.get(key)
        return int(item[1] - now) if item is not None and now < item[1] < NEVER else 0

    def set_expiry(self, key: str, seconds: int, now: float) -> None:
        """Let ``key`` expire in ``seconds``, never when that is 0 or less. Items of tables without autoexpire never do."""
        item = self.items.get(key)
        if item is not None and item[1] > now and self.autoexpire:
            self.items[key] = (item[0], now + seconds if seconds > 0 else NEVER)
            if self.changes is not None:
                self.changes.note(key)

    def count(self, matches: Matcher, now: float, *, by_value: bool, limit: int = 0) -> int:
        """Count the items whose key (or text) matches, up to ``limit`` when it is not 0; integers have no text."""
        n = 0
        for key, (value, expires) in self.items.items():
            text = value if by_value else key
            if expires > now and isinstance(text, str) and matches(text):
                n += 1
                if n == limit:
                    break
        return n

    def remove_matching(self, matches: Matcher, *, by_value: bool) -> None:
        """Remove the items whose key (or text) matches; integers have no text."""
        if by_value:
            keys = [key for key, (value, _) in self.items.items() if isinstance(value, str) and matches(value)]
        else:
            keys = [key for key in self.items if matches(key)]
        for key in keys:
            self.remove(key)

    def clear(self) -> None:
        """Remove all items."""
        self.items.clear()
        self._grow(-self.octets)
        if self.changes is not None:
            self.changes.empty()

    def empty(self) -> Table:
        """Return an empty table with the attributes of this one; what it holds is not counted before it is taken."""
        other = Table(
            self.name,
            autoexpire=self.autoexpire,
            initval=self.initval,
            updateexpire=self.updateexpire,
            maxsize=self.maxsize,
            dbtable=self.dbtable,
            columns=self.columns,
            dbmode=self.dbmode,
        )
        other.room = Room(self.room.limits)
        return other

    def take(self, other: Table) -> None:
        """Take the items of ``other`` in the place of its own."""
        self._grow(other.octets - self.octets)
        self.items, self.origin = other.items, other.origin

    @property
    def is_sweeping(self) -> bool:
        """Whether a sweep has not looked at all items yet."""
        return bool(self._sweep)

    def sweep(self, now: float, limit: int) -> tuple[int, list[tuple[str, Value]]]:
        """Look at up to ``limit`` items and remove the expired ones; return how many were looked at, and the removed."""
        if not self._sweep:
            self._sweep = list(self.items)
        removed: list[tuple[str, Value]] = []
        seen = min(limit, len(self._sweep))
        for _ in range(seen):
            key = self._sweep.pop()
            item = self.items.get(key)
            if item is not None and item[1] <= now:
                self.remove(key)
                removed.append((key, item[0]))
        return seen, removed


def _size(value: Value) -> int:
    return len(value) if isinstance(value, str) else _NUMBER


class Iteration:
    """An iterator over the keys that a table had when it was started."""

    __slots__ = ("_keys", "key", "table")

    def __init__(self, table: Table) -> None:
        self.table = table
        self.key = ""
        self._keys = iter(list(table.items))

    def next(self, now: float) -> bool:
        """Go to the next item that is still there; tell whether there is one."""
        self.key = next((key for key in self._keys if self.table.has(key, now)), "")
        return bool(self.key)

    def value(self, now: float) -> Xval:
        """Return the value of the item, None before the first and behind the last one."""
        return self.table.get(self.key, now) if self.table.has(self.key, now) else None


def parse_definition(text: str) -> Table:
    """Make a table of ``name=>size=8;autoexpire=300;``. Raise ValueError saying what is wrong with it."""
    name, arrow, rest = text.partition("=>")
    name = name.strip(" ")
    if not arrow or not name:
        raise ValueError(f"htable: {text!r}, expected name=>attribute=value;...")
    numbers: dict[str, int] = {}
    dbtable = ""
    columns: tuple[str, ...] = ()
    for part in filter(None, (part.strip(" ") for part in rest.split(";"))):
        attribute, _, value = part.partition("=")
        if attribute == "dbtable":
            dbtable = value
        elif attribute == "cols":
            columns = tuple(column.strip(" ") for column in value.strip("'\"").split(","))
            if len(columns) < 2:
                raise ValueError(f"htable {name}: cols={value}, expected a column for keys and one or more for values")
        elif attribute not in _NUMBERS:
            raise ValueError(f"htable {name}: unknown attribute {attribute!r}")
        else:
            try:
                numbers[attribute] = int(value)
            except ValueError:
                raise ValueError(f"htable {name}: {attribute}={value!r}, expected a number") from None
    if numbers.get("persist", 0) and dbtable:
        raise ValueError(f"htable {name}: persist=1 and dbtable={dbtable}, expected one of them")
    return Table(
        name,
        persist=bool(numbers.get("persist", 0)),
        autoexpire=numbers.get("autoexpire", 0),
        initval=numbers.get("initval"),
        updateexpire=bool(numbers.get("updateexpire", 1)),
        maxsize=numbers.get("maxsize", MAXSIZE),
        dbtable=dbtable,
        columns=columns,
        dbmode=bool(numbers.get("dbmode", 0)),
    )


@lru_cache(maxsize=256)
def matcher(op: str, value: str) -> Matcher | None:
    """Return what tells whether a text matches; None, and a log line, for what is no operator.

    ``op``: eq, ne, sw (starts with), ew (ends with), re.
    """
    if op == "eq":
        return lambda text: text == value
    if op == "ne":
        return lambda text: text != value
    if op == "sw":
        return lambda text: text.startswith(value)
    if op == "ew":
        return lambda text: text.endswith(value)
    if op == "re":
        try:
            return compile_posix(value).matches
        except BadPattern as error:
            log.error("htable: %s", error)
            return None
    log.error("htable: unsupported match operator %r", op)
    return None
