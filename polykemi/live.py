"""Settings that change while the server runs: which they are, and how that is done (Kamailio: its cfg framework).

A field of a settings dataclass that is declared with ``live`` is a variable. These dataclasses are frozen for everybody else:
who reads a field whenever it is needed sees the change, and who has worked something out of it is called (``changed``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, Final, TypeVar, get_type_hints

_MARK: Final = "live"

Owner = TypeVar("Owner")
Value = int | float | str


@dataclass(frozen=True, slots=True)
class Mark:
    """What ``live`` was told."""

    doc: str
    name: str


def live(default: Any, doc: str, *, name: str = "") -> Any:
    """Declare a field of a settings dataclass that may change at run time; ``name``: of the variable, where it is another.

    What may stand in it is what the dataclass's ``__post_init__`` takes.
    """
    return field(default=default, metadata={_MARK: Mark(doc, name)})


def mark_of(metadata: Mapping[str, Any]) -> Mark | None:
    """Return what a field was declared with, None for one that stays as it is."""
    mark: Mark | None = metadata.get(_MARK)
    return mark


def differing(one: Owner, other: Owner) -> list[str]:
    """Return the fields that cannot change at run time and differ between two settings of one kind."""
    return [
        f.name
        for f in fields(one)  # type: ignore[arg-type]
        if f.compare and mark_of(f.metadata) is None and getattr(one, f.name) != getattr(other, f.name)
    ]


class Settings:
    """One settings dataclass of the server, and who has to hear of changes."""

    __slots__ = ("_changed", "_first", "_keys", "_now", "owner")

    def __init__(self, owner: Any, changed: Callable[[], None], now: Callable[[], Any] | None = None) -> None:
        """``now``: see ``Live.add``."""
        self.owner = owner
        self._now = now
        self._changed = changed
        self._first = replace(owner)
        self._keys = [f.name for f in fields(owner) if mark_of(f.metadata) is not None]

    def value(self, key: str) -> Any:
        """Return a field as it is now."""
        return getattr(self.owner if self._now is None else self._now(), key)

    def take(self, new: Any) -> list[str]:
        """Take the variables of ``new``, settings of the same kind; return those that were different."""
        owner = self.owner
        if self._now is not None:
            for key in self._keys:
                object.__setattr__(owner, key, self.value(key))
        keys = [key for key in self._keys if getattr(owner, key) != getattr(new, key)]
        for key in keys:
            object.__setattr__(owner, key, getattr(new, key))
        if keys:
            self._changed()
        return keys

    def begin_with(self, new: Any) -> list[str]:
        """Take the variables of ``new``, and go back to them from now on (``reset``)."""
        self._first = replace(new)
        return self.take(new)

    def reset(self) -> None:
        """Go back to what the server began with; what others change too is theirs."""
        if self._now is None:
            self.take(self._first)


@dataclass(frozen=True, slots=True)
class Variable:
    """A setting that can change: ``group.name``, as Kamailio calls it."""

    group: str
    name: str
    doc: str
    kind: type[int | float | bool | str]
    settings: Settings
    key: str  # the field

    @property
    def is_text(self) -> bool:
        """Whether it holds a text; else it holds a number."""
        return self.kind is str

    @property
    def value(self) -> Value:
        """What it is now; a number of seconds without a fraction is an integer, true is 1, "" what the server decides."""
        return shown(self.settings.value(self.key))

    def convert(self, value: Value) -> Value:
        """Return ``value`` as this variable has it. Raise ValueError that says what was expected."""
        if self.kind is str:
            return str(value)
        try:
            number = float(value) if self.kind is float else int(value)
        except ValueError:
            raise ValueError(f"{self.key}: expected a number, got {value!r}") from None
        if not math.isfinite(number):
            raise ValueError(f"{self.key}: expected a number, got {value!r}")
        if self.kind is bool:
            if number not in (0, 1):
                raise ValueError(f"{self.key}: expected 0 or 1, got {value}")
            return bool(number)
        return number


@cache  # each server takes the same settings anew
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


class Live:
    """All variables of one server, by group."""

    def __init__(self) -> None:
        self._groups: dict[str, dict[str, Variable]] = {}
        self._settings: list[Settings] = []

    def add(
        self,
        group: str,
        owner: Any,
        changed: Callable[[], None] = lambda: None,
        *,
        now: Callable[[], Any] | None = None,
    ) -> None:
        """Take the variables of a settings dataclass; ``changed`` is called after one of them has changed.

        ``now`` gives them as they are, where others change them too.
        """
        settings = Settings(owner, changed, now)
        declared: type = type(owner)
        hints = _hints(declared)
        for one in fields(owner):
            mark = mark_of(one.metadata)
            if mark is None:
                continue
            variables = self._groups.setdefault(group, {})
            name = mark.name or one.name
            if name in variables:
                raise TypeError(f"the variable {group}.{name} is there twice")
            kind = hints[one.name] if hints[one.name] in (float, bool, str) else int  # or None: by itself
            variables[name] = Variable(group, name, mark.doc, kind, settings, one.name)
        self._settings.append(settings)

    def __iter__(self) -> Iterator[Variable]:
        return (variable for group in self._groups.values() for variable in group.values())

    def group(self, name: str) -> Mapping[str, Variable]:
        """Return name -> variable of a group, nothing where there is none."""
        return self._groups.get(name, {})

    def settings_of(self, owner: object) -> Settings | None:
        """Return what was made of ``owner``, None when it was not added."""
        return next((one for one in self._settings if one.owner is owner), None)

    def change(self, values: Mapping[Variable, Value]) -> None:
        """Change variables, all of them or, when one cannot be so, none. Raise ValueError saying why."""
        for settings, new in self.check(values):
            settings.take(new)

    def check(self, values: Mapping[Variable, Value]) -> list[tuple[Settings, Any]]:
        """Return the settings that ``values`` belong to, each with what it would be then. Raise ValueError."""
        wanted: dict[Settings, dict[str, Value]] = {}
        for variable, value in values.items():
            wanted.setdefault(variable.settings, {})[variable.key] = variable.convert(value)
        return [(settings, replace(settings.owner, **changes)) for settings, changes in wanted.items()]


def shown(value: Any) -> Value:
    """Return a value of a setting as an operator reads it."""
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    return "" if value is None else value
