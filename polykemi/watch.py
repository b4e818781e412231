"""Sees when the files of the scripts change, as an editor or a deployment leaves them (``serve --watch``)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import watchfiles

log = logging.getLogger("polykemi.watch")

SUFFIXES: Final = (".lua", ".js", ".py", ".json", ".toml")
_SETTLED: Final = 200  # milliseconds within which changes are one


class Watcher:
    """A thread that calls ``changed`` when files with one of ``SUFFIXES`` have, in the directories of ``files`` and below them.

    Directories are watched, not files: an editor puts a new file in the place of the old one.
    """

    def __init__(self, files: Iterable[Path], changed: Callable[[], None]) -> None:
        self._directories = sorted({file.parent.resolve() for file in files})
        self._changed = changed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="polykemi-watch", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        try:
            for changes in watchfiles.watch(
                *self._directories,
                watch_filter=lambda _, path: path.endswith(SUFFIXES),
                debounce=_SETTLED,
                rust_timeout=1000,
                stop_event=self._stop,
                raise_interrupt=False,
            ):
                log.info("changed: %s", ", ".join(sorted({path for _, path in changes})))
                self._changed()
        except (OSError, RuntimeError) as error:  # a directory is gone, or there are too many to watch
            log.error("files are no longer watched: %s", error)

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()
