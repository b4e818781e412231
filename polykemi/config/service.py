"""The table [service]: what the process is to the machine that it runs on."""

from __future__ import annotations

import grp
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from polykemi.config.table import Table, shown
from polykemi.kemi.binding import from_octets

_LONGEST: Final = 3600  # seconds


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """Whom the process runs as once its sockets are bound, and how it ends."""

    user: str = ""  # "": who has started it
    group: str = ""  # "": that of the user
    pid_file: Path | None = None
    umask: int | None = None
    drain: float = 5.0  # seconds that a stopping server waits for open transactions
    watchdog: float = 10.0  # seconds without a sign of life after which --supervise starts the server anew


def service(table: Table) -> ServiceSettings:
    """Read [service]. Raise ConfigError."""
    table.only(("user", "group", "pid_file", "umask", "drain", "watchdog"))
    user, group = (from_octets(table.get(key, str, "")) for key in ("user", "group"))
    if user:
        try:
            pwd.getpwnam(user)
        except KeyError:
            table.fail("user", f"expected a user of this machine, got {shown(user)}")
    if group:
        try:
            grp.getgrnam(group)
        except KeyError:
            table.fail("group", f"expected a group of this machine, got {shown(group)}")
        if not user:
            table.fail("group", "expected a user beside it")
    watchdog = table.get("watchdog", float, 10.0)
    if not 1 <= watchdog <= _LONGEST:
        table.fail("watchdog", f"expected seconds from 1 to {_LONGEST}, got {watchdog:g}")
    drain = table.get("drain", float, 5.0)
    if not 0 <= drain <= _LONGEST:
        table.fail("drain", f"expected seconds from 0 to {_LONGEST}, got {drain:g}")
    return ServiceSettings(user, group, table.relative("pid_file"), _umask(table), drain, watchdog)


def _umask(table: Table) -> int | None:
    """Return the mask, which is written as chmod(1) has it: a text of octal digits."""
    text: str | None = table.get("umask", str)
    if text is None:
        return None
    if not (
        text.isascii() and text.isdecimal() and len(text) <= 4 and not set(text) & {"8", "9"} and int(text, 8) <= 0o777
    ):
        table.fail("umask", f'expected octal digits such as "0027", got {shown(text)}')
    return int(text, 8)
