"""The table [limits]: how much scripts may keep and make."""

from __future__ import annotations

from polykemi.config.table import Table, filled, size
from polykemi.kemi.limits import ScriptLimits


def limits(table: Table) -> ScriptLimits:
    """Read [limits]; numbers may be written as sizes, such as 64M. Raise ConfigError."""
    return filled(ScriptLimits, table, **{key: size(table, key) for key in table.content})
