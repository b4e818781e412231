"""``[reload]``: what is asked of a new version of the scripts before it takes over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from polykemi.config.table import Table


@dataclass(frozen=True, slots=True)
class ReloadSettings:
    """How many versions are kept for a rollback, the current one included, and the file of the message that is tried."""

    keep: int = 5
    smoke: Path | None = None


def reload(table: Table) -> ReloadSettings:
    """Return the settings of ``[reload]``. Raise ConfigError."""
    table.only(("keep", "smoke"))
    keep = table.get("keep", int, ReloadSettings().keep)
    if not 1 <= keep <= 32:
        table.fail("keep", f"expected 1 to 32 versions, got {keep}")
    smoke = table.relative("smoke")
    if smoke is not None and not smoke.is_file():
        table.fail("smoke", f"expected a file with a SIP message, and {smoke} is none")
    return ReloadSettings(keep, smoke)
