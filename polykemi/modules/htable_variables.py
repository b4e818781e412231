"""The pseudo-variables of htable: $sht(table=>key) and its kin. Part of htable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from polykemi.kemi.context import RouteContext
from polykemi.kemi.numbers import leading_number
from polykemi.kemi.registry import Xval
from polykemi.modules.htable_table import Iteration, Table, matcher
from polykemi.pv.accessor import Accessor, Factory, Text

if TYPE_CHECKING:
    from polykemi.modules.htable import Htable
    from polykemi.pv.compiler import Variables

# the operators of $shtcn and $shtcv, and those of two characters for all items and for integers
_OPERATORS = {"~~": "re", "~%": "ew", "%~": "sw", "==": "eq"}
_EVERY = "**"
_INTEGER = "eq"


def variable_classes(module: Htable) -> Mapping[str, Factory]:
    """Return the classes, working on the tables of ``module``."""
    return {
        "sht": _of_item(module, Table.get, _set_item),
        "shtex": _of_item(module, Table.expiry, _set_expiry),
        "shtinc": _of_item(module, lambda table, key, now: table.add(key, 1, now)),
        "shtdec": _of_item(module, lambda table, key, now: table.add(key, -1, now)),
        "shtcn": _of_item(module, partial(_count, by_value=False)),
        "shtcv": _of_item(module, partial(_count, by_value=True)),
        "shtitkey": _of_iterator(module, lambda iteration, now: iteration.key or None),
        "shtitval": _of_iterator(module, lambda iteration, now: iteration.value(now)),
        "shtrecord": _record,
    }


def _of_item(
    module: Htable,
    get: Callable[[Table, str, float], Xval],
    set_: Callable[[Table, str, Xval, float], bool] | None = None,
) -> Factory:
    """Return the class of what a table has under ``table=>key``."""

    def factory(inner: str | None, index: str | None, variables: Variables) -> Accessor:
        name, key = _parts(inner, variables)

        def read(ctx: RouteContext) -> Xval:
            table = module.table(name)
            return get(table, key(ctx), ctx.now) if table is not None else None

        def write(ctx: RouteContext, value: Xval) -> bool:
            table = module.table(name)
            return table is not None and set_ is not None and set_(table, key(ctx), value, ctx.now)

        return Accessor(read, write if set_ is not None else None)

    return factory


def _of_iterator(module: Htable, get: Callable[[Iteration, float], Xval]) -> Factory:
    """Return the class of the item at which an iterator stands."""

    def factory(inner: str | None, index: str | None, variables: Variables) -> Accessor:
        if not inner:
            raise ValueError("expected the name of an iterator")
        name = variables.text(inner)

        def read(ctx: RouteContext) -> Xval:
            iteration = module.iterations.get(name(ctx))
            return get(iteration, ctx.now) if iteration is not None else None

        return Accessor(read)

    return factory


def _record(inner: str | None, index: str | None, variables: Variables) -> Accessor:
    """``$shtrecord(key)``, ``$shtrecord(value)``: the item of the block htable:expired that runs."""
    if inner not in ("key", "value"):
        raise ValueError("expected $shtrecord(key) or $shtrecord(value)")
    at = 0 if inner == "key" else 1

    def read(ctx: RouteContext) -> Xval:
        expired: tuple[str, Xval] | None = ctx.cache.get("htable.expired")
        return expired[at] if expired is not None else None

    return Accessor(read)


def _count(table: Table, expression: str, now: float, *, by_value: bool) -> Xval:
    """Return how many keys or values match ``~~text``, ``eq5``, ``**`` and their like."""
    op, value = expression[:2], expression[2:]
    if op == _EVERY:
        return table.count(lambda text: True, now, by_value=False)
    if op == _INTEGER:
        return table.count_integers(leading_number(value), now) if by_value and value else 0
    if op not in _OPERATORS:
        op, value = "~~", expression
    matches = matcher(_OPERATORS[op], value) if value else None
    return table.count(matches, now, by_value=by_value) if matches is not None else 0


def _parts(inner: str | None, variables: Variables) -> tuple[str, Text]:
    """Return the table's name and the function that makes the key."""
    name, arrow, key = (inner or "").partition("=>")
    name = name.strip(" ")
    if not arrow or not name or not key:
        raise ValueError("expected table=>key")
    return name, variables.text(key)


def _set_item(table: Table, key: str, value: Xval, now: float) -> bool:
    if value is None:
        table.remove(key)
    else:
        table.set(key, value, now)
    return True


def _set_expiry(table: Table, key: str, value: Xval, now: float) -> bool:
    if not isinstance(value, int):
        return False
    table.set_expiry(key, value, now)
    return True
