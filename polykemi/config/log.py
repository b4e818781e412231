"""``[log]``: what is written, how, and where to."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from polykemi.config.table import Table, unknown
from polykemi.kemi.log_levels import LEVELS
from polykemi.logs import DESTINATIONS, FACILITIES, FIELDS, FORMATS, LogSettings

_KEYS: Final = ("level", "levels", "format", "to", "file", "facility", "prefix", "fields")


def log(table: Table) -> LogSettings:
    """Return the settings of the log. Raise ConfigError."""
    table.only(_KEYS)
    levels = table.table("levels")
    to = _one_of(table, "to", DESTINATIONS, "stderr")
    file = table.relative("file")
    if to == "file" and file is None:
        table.fail("to", "expected file = PATH beside it")
    if to != "file" and file is not None:
        table.fail("file", 'expected to = "file" beside it')
    if "facility" in table.content and to != "syslog":
        table.fail("facility", 'expected to = "syslog" beside it')
    if "format" in table.content and to == "journal":
        table.fail("format", "the journal has fields of its own")
    fields: list[str] = table.get("fields", list[str], list(FIELDS))
    for name in fields:
        if name not in FIELDS:
            table.fail("fields", f"{name} is {unknown(name, FIELDS)}")
    facility: str = table.get("facility", str, "daemon")
    facility = facility.lower().removeprefix("log_")
    if facility not in FACILITIES:
        table.fail("facility", f"{facility} is {unknown(facility, FACILITIES)}")
    return LogSettings(
        level=_one_of(table, "level", LEVELS, "info"),
        levels={name: _one_of(levels, name, LEVELS, "info") for name in levels.content},
        format=_one_of(table, "format", FORMATS, "line"),
        to=to,
        file=file,
        facility=facility,
        prefix=table.get("prefix", str, ""),
        fields=tuple(name for name in FIELDS if name in fields),
    )


def _one_of(table: Table, key: str, known: Collection[str], default: str) -> str:
    value: str = table.get(key, str, default)
    if value not in known:
        table.fail(key, f"{value} is {unknown(value, known)}")
    return value
