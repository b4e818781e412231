"""How htable's tables are read from the database and written to it (Kamailio: ht_db.c). Part of htable."""

from __future__ import annotations

import logging
from typing import Any, Final, Protocol

from polykemi.errors import DataError, LimitReached
from polykemi.modules.htable_table import NEVER, Table, Value
from polykemi.storage.provisioned import Database

log = logging.getLogger("polykemi.htable")

_ARRAY: Final = 1  # key types
_INTEGER: Final = 1  # value types
_NULL: Final = "*"  # of a column among several
_SEPARATOR: Final = ","


class Columns(Protocol):
    """The parameters that name columns."""

    key_name_column: str
    key_type_column: str
    value_type_column: str
    key_value_column: str
    expires_column: str
    array_size_suffix: str
    db_expires: int


def load(table: Table, database: Database, names: Columns, now: float) -> None:
    """Fill ``table`` with the items of its database table. Raise DataError."""
    try:
        _fill(table, database, names, now)
    except LimitReached as error:
        log.warning("%s: what stands in table %s behind that is left out", error, table.dbtable)
    table.origin = hash(tuple((key, value) for key, (value, _) in table.items.items()))


def _fill(table: Table, database: Database, names: Columns, now: float) -> None:
    if table.columns:
        key, *columns = table.columns
        for name, *values in database.select(table.dbtable, [key, *columns], order=key):
            shown = [_NULL if value is None else str(value) for value in values]
            table.set(_key(table, name), _SEPARATOR.join(shown), now)
        return
    columns = [names.key_name_column, names.key_type_column, names.value_type_column, names.key_value_column]
    if _keeps_expiry(table, names):
        columns.append(names.expires_column)
    lengths: dict[str, int] = {}
    for name, key_type, value_type, text, *expires in database.select(
        table.dbtable, columns, order=names.key_name_column
    ):
        if expires and expires[0] and 0 < expires[0] < now:
            continue
        key = _key(table, name)
        if key_type == _ARRAY:
            number = lengths[key] = lengths.get(key, 0) + 1
            key = f"{key}[{number - 1}]"
        table.set(key, _value(table, key, value_type, text), now)
        if expires and expires[0]:
            table.set_expiry(key, int(expires[0] - now), now)
    for key, number in lengths.items():
        table.set(key + names.array_size_suffix, number, now)


def store(table: Table, database: Database, names: Columns, now: float) -> None:
    """Write the items of ``table`` to its database table, in place of what is there. Raise DataError."""
    if table.columns:
        log.warning("htable %s: a table with columns of its own is not stored", table.name)
        return
    columns = [names.key_name_column, names.key_type_column, names.value_type_column, names.key_value_column]
    if _keeps_expiry(table, names):
        columns.append(names.expires_column)
    rows: list[tuple[Any, ...]] = []
    for key, (value, expires) in table.items.items():
        if expires > now:
            row = (key, 0, int(isinstance(value, int)), str(value), 0 if expires == NEVER else int(expires))
            rows.append(row[: len(columns)])
    database.replace(table.dbtable, columns, rows)


def _keeps_expiry(table: Table, names: Columns) -> bool:
    return bool(table.autoexpire and names.db_expires)


def _key(table: Table, name: Any) -> str:
    if name is None:
        raise DataError(f"htable {table.name}: table {table.dbtable} has a row without a key")
    return str(name)


def _value(table: Table, key: str, value_type: Any, text: Any) -> Value:
    if text is None:
        raise DataError(f"htable {table.name}: table {table.dbtable}, key {key}: the value is null")
    if value_type != _INTEGER:
        return str(text)
    try:
        return int(text)
    except ValueError:
        raise DataError(f"htable {table.name}: table {table.dbtable}, key {key}: {text!r} is no integer") from None
