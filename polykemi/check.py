"""A configuration and its scripts, tried without a server (``polykemi check``): no socket is opened, no data is changed.

All is put together as for a start, in memory, on a copy of what is provisioned: the scripts are loaded and looked through as
before a reload, lists and tables are read, and the smoke message of [reload], if there is one, is routed.
"""

from __future__ import annotations

import logging
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

from polykemi.config import Settings
from polykemi.control.logs import warn_of_unknown
from polykemi.errors import DataError, UsageError
from polykemi.kemi.log_levels import TOP
from polykemi.node import Node, assemble
from polykemi.rehearsal import Send, rehearse
from polykemi.storage.location import MemoryLocation
from polykemi.storage.provisioned import FILE_NAME, Database
from polykemi.transport.manager import addresses_of

# what they say is that they cannot reach their peers, and there is no network here
_OFFLINE: Final = frozenset((f"{TOP}.rtpengine", f"{TOP}.rtpproxy"))


def check(settings: Settings, say: Callable[[str], None]) -> None:
    """Try ``settings``, and ``say`` what is wrong in the scripts. Raise UsageError when something is."""
    notes = _Notes()
    logger = logging.getLogger(TOP)
    logger.addHandler(notes)
    propagated, logger.propagate = logger.propagate, False
    try:
        with tempfile.TemporaryDirectory() as directory:
            copy = _copied(settings.data / FILE_NAME, Path(directory))
            with closing(_node(settings, copy, lambda items: None)) as node:
                warn_of_unknown(settings.log.levels)
                mistakes = [str(one) for one in node.versions.inspect()]
            if not mistakes and settings.reload.smoke is not None:
                rehearse(partial(_node, settings, copy), settings.reload.smoke)
    finally:
        logger.propagate = propagated
        logger.removeHandler(notes)
    for line in [*mistakes, *(note for note in dict.fromkeys(notes.lines) if note not in mistakes)]:
        say(line)
    if mistakes:
        count = len(mistakes)
        raise UsageError(f"{count} mistake{'s' if count > 1 else ''} in the scripts")


class _Notes(logging.Handler):
    """Keeps warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        if record.name not in _OFFLINE:
            self.lines.append(record.getMessage())


def _node(settings: Settings, copy: Path | None, send: Send) -> Node:
    """Return a server without sockets that works on a copy of what is provisioned. Raise UsageError."""
    database = Database(copy) if copy is not None else Database()
    try:
        listeners = tuple(one for listener in settings.listen for one in addresses_of(listener))
        return assemble(
            settings,
            listeners=listeners,
            location=MemoryLocation(),
            database=database,
            send=send,
            now=time.time(),
            rehearsal=True,
        )
    except BaseException:
        database.close()
        raise


def _copied(file: Path, directory: Path) -> Path | None:
    """Copy a database into ``directory``, and leave it as it is; None when there is none yet. Raise DataError."""
    if not file.exists():
        return None
    # a database in WAL mode that nobody has open can be read without making files beside it only as one that never changes
    mode = "mode=ro" if file.with_name(f"{file.name}-wal").exists() else "immutable=1"
    copy = directory / file.name
    try:
        with (
            closing(sqlite3.connect(f"{file.absolute().as_uri()}?{mode}", uri=True)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
    except sqlite3.Error as error:
        raise DataError(f"{file}: {error}") from None
    return copy
