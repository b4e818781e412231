"""What an operator asks htable (Kamailio: the RPC commands of htable). Part of htable."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from polykemi.errors import DataError, LimitReached, RpcError
from polykemi.kemi.rpc import rpc
from polykemi.modules.base import Module, Services
from polykemi.modules.htable_database import load, store
from polykemi.modules.htable_table import Room, Table, Value, parse_definition

_FAILED: Final = 500
_NO_ITEM: Final = (500, "Not enough parameters (htable name, key name and value)")
_NOT_FOUND: Final = 404
_LAST: Final = 253402300799.0  # 9999-12-31 23:59:59: beyond it no date can be written
_TEXT: Final = 2  # the flag of a text, as Kamailio has it


class HtableCommands(Module):
    """The tables and their commands; what scripts call is in ``htable``."""

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        tables = [parse_definition(definition) for definition in self.params.htable]
        self.tables: dict[str, Table] = {table.name: table for table in tables}
        room = Room(services.limits)
        for table in tables:
            table.room = room

    def _table(self, name: str) -> Table:
        table = self.tables.get(name)
        if table is None:
            raise RpcError(_FAILED, "No such htable")
        return table

    def _database_table(self, name: str) -> Table:
        table = self._table(name)
        if not table.dbtable:
            raise RpcError(_FAILED, "No database htable")
        return table

    @rpc("htable.get", (500, "Not enough parameters (htable name and key name)"))
    def get_item(self, table: str, key: str, *, now: float) -> dict[str, Any]:
        """Return an item: name, value, flags, and when it expires (UTC)."""
        found = self._table(table)
        if not found.has(key, now):
            raise RpcError(_FAILED, "Key name doesn't exist in htable.")
        value, expires = found.items[key]
        shown = "NEVER" if expires > _LAST else f"{datetime.fromtimestamp(expires, UTC):%Y-%m-%d %H:%M:%S}"
        return {"item": {"name": key, "value": value, "flags": _TEXT * isinstance(value, str), "expire": shown}}

    @rpc("htable.sets", _NO_ITEM)
    def set_text(self, table: str, key: str, value: str, *, now: float) -> str:
        """Set an item to a text."""
        return self._set_item(table, key, value, now)

    @rpc("htable.seti", _NO_ITEM)
    def set_integer(self, table: str, key: str, value: int, *, now: float) -> str:
        """Set an item to an integer."""
        return self._set_item(table, key, value, now)

    @rpc("htable.setex")
    def set_expiry(self, table: str, key: str, seconds: int, *, now: float) -> str:
        """Let an item expire in so many seconds."""
        self._table(table).set_expiry(key, seconds, now)
        return "Ok"

    @rpc("htable.setxs")
    def set_expiring_text(self, table: str, key: str, value: str, seconds: int, *, now: float) -> str:
        """Set an item to a text that expires in so many seconds."""
        return self._set_item(table, key, value, now, seconds)

    @rpc("htable.setxi")
    def set_expiring_integer(self, table: str, key: str, value: int, seconds: int, *, now: float) -> str:
        """Set an item to an integer that expires in so many seconds."""
        return self._set_item(table, key, value, now, seconds)

    def _set_item(self, table: str, key: str, value: Value, now: float, seconds: int = 0) -> str:
        try:
            self._table(table).set(key, value, now, seconds)
        except LimitReached as error:
            raise RpcError(_FAILED, f"Failed to set the item: {error}") from None
        return "Ok. Key set to new value."

    @rpc("htable.delete", (500, "Not enough parameters (htable name & key name"))
    def delete_item(self, table: str, key: str, *, now: float) -> str:
        """Remove an item."""
        found = self._table(table)
        if not found.has(key, now):
            raise RpcError(_NOT_FOUND, "Key not found in htable.")
        found.remove(key)
        return "Ok. Key deleted."

    @rpc("htable.dump", (500, "No htable name given"))
    def dump(self, table: str, *, now: float) -> list[dict[str, Any]]:
        """List the items of a table; here a table is one slot."""
        slot = [
            {"name": key, "value": value, "type": "str" if isinstance(value, str) else "int"}
            for key, (value, expires) in self._table(table).items.items()
            if expires > now
        ]
        return [{"entry": 0, "size": len(slot), "slot": slot}] if slot else []

    @rpc("htable.listTables")
    def list_tables(self) -> list[dict[str, Any]]:
        """List the tables and their attributes; size: slots, here a table is one."""
        return [
            {
                "name": table.name,
                "dbtable": table.dbtable,
                "dbmode": int(table.dbmode),
                "expire": table.autoexpire,
                "updateexpire": int(table.updateexpire),
                "size": 1,
                "dmqreplicate": 0,
            }
            for table in self.tables.values()
        ]

    @rpc("htable.stats")
    def stats(self) -> list[dict[str, Any]]:
        """Count the items of each table, expired ones that have not been removed yet included."""
        return [
            {"name": table.name, "slots": 1, "all": (n := len(table.items)), "min": n, "max": n}
            for table in self.tables.values()
        ]

    @rpc("htable.flush")
    def flush(self, table: str) -> str:
        """Remove all items of a table."""
        self._table(table).clear()
        return "Ok. Htable flushed."

    @rpc("htable.reload")
    def reload_table(self, table: str, *, now: float) -> str:
        """Read a table anew from the database; what it had is forgotten."""
        found = self._database_table(table)
        fresh = found.empty()
        try:
            load(fresh, self.services.database, self.params, now)
        except DataError as error:
            raise RpcError(_FAILED, f"Htable reload failed: {error}") from None
        found.take(fresh)
        self.reloaded(found, now)
        return "Ok. Htable reloaded."

    def reloaded(self, table: Table, now: float) -> None:
        """Called when a table was read anew."""

    @rpc("htable.store")
    def store_table(self, table: str, *, now: float) -> str:
        """Write a table to the database, in place of what is there."""
        found = self._database_table(table)
        try:
            store(found, self.services.database, self.params, now)
        except DataError as error:
            raise RpcError(_FAILED, f"Storing htable failed: {error}") from None
        return "Ok. Htable successfully stored to DB."
