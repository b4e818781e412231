"""The pseudo-variables of htable: $sht(table=>key) and its kin. Part of htable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from polykemi.kemi.context import RouteContext
from polykemi.kemi.numbers import leading_number
from polykemi.kemi.registry import Xval
from polykemi.modules.htable_table import Table, matcher
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

    def of_item(
        get: Callable[[Table, str, float], Xval], set_: Callable[[Table, str, Xval, float], bool] | None = None
    ) -> Factory:
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

    def counting(*, by_value: bool) -> Factory:
        def get(table: Table, expression: str, now: float) -> Xval:
            op, value = expression[:2], expression[2:]
            if op == _EVERY:
                return table.count(lambda text: True, now, by_value=False)
            if op == _INTEGER:
                return table.count_integers(leading_number(value), now) if by_value and value else 0
            if op not in _OPERATORS:
                op, value = "~~", expression
            matches = matcher(_OPERATORS[op], value) if value else None
            return table.count(matches, now, by_value=by_value) if matches is not None else 0

        return of_item(get)

    def of_iterator(*, value: bool) -> Factory:
        def factory(inner: str | None, index: str | None, variables: Variables) -> Accessor:
            if not inner:
                raise ValueError("expected the name of an iterator")
            name = variables.text(inner)

            def read(ctx: RouteContext) -> Xval:
                iteration = module.iterations.get(name(ctx))
                if iteration is None:
                    return None
                return iteration.value(ctx.now) if value else iteration.key or None

            return Accessor(read)

        return factory

    def record(inner: str | None, index: str | None, variables: Variables) -> Accessor:
        if inner not in ("key", "value"):
            raise ValueError("expected $shtrecord(key) or $shtrecord(value)")
        at = 0 if inner == "key" else 1

        def read(ctx: RouteContext) -> Xval:
            expired: tuple[str, Xval] | None = ctx.cache.get("htable.expired")
            return expired[at] if expired is not None else None

        return Accessor(read)

    return {
        "sht": of_item(Table.get, _set_item),
        "shtex": of_item(Table.expiry, _set_expiry),
        "shtinc": of_item(lambda table, key, now: table.add(key, 1, now)),
        "shtdec": of_item(lambda table, key, now: table.add(key, -1, now)),
        "shtcn": counting(by_value=False),
        "shtcv": counting(by_value=True),
        "shtitkey": of_iterator(value=False),
        "shtitval": of_iterator(value=True),
        "shtrecord": record,
    }


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
        return True
    return table.set(key, value, now)


def _set_expiry(table: Table, key: str, value: Xval, now: float) -> bool:
    if not isinstance(value, int):
        return False
    table.set_expiry(key, value, now)
    return True
