"""Sees when the files of the scripts change, as an editor or a deployment leaves them (``serve --watch``)."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import watchfiles

log = logging.getLogger("polykemi.watch")

SUFFIXES: Final = (".lua", ".js", ".py", ".json", ".toml")
_SETTLED: Final = 200  # milliseconds without a change, then what has changed is looked at: some write a file in pieces
_LONGEST: Final = 2000  # milliseconds; who changes things for longer is not waited for
_LOOK: Final = 1000  # milliseconds between two looks at where the directories are


class Watcher:
    """A thread that calls ``changed`` when files with one of ``SUFFIXES`` have, in the directories of ``files`` and below them.

    Directories are watched, not files: an editor puts a new file in the place of the old one. Nor do they stay where they are: a
    deployment lets a link lead to another, or makes one anew.
    """

    def __init__(self, files: Callable[[], Iterable[Path]], changed: Callable[[], None]) -> None:
        self._files, self._changed = files, changed
        self._first = self._places()
        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of each change as well
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="polykemi-watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        places, moved = self._first, False
        while not self._stop.is_set():
            try:
                self._watch(places, moved=moved)
            except FileNotFoundError:  # gone, as we were about to watch it
                pass
            except (OSError, RuntimeError) as error:  # there are too many to watch
                log.error("files are no longer watched: %s", error)
                return
            before, places = places, self._places()
            moved = bool(places)
            if places != before and not self._stop.is_set():
                log.info("the directories of the scripts are others now: %s", ", ".join(map(str, places)) or "none")
                if not moved:
                    self._changed()

    def _watch(self, places: dict[Path, tuple[int, int]], *, moved: bool) -> None:
        """Tell of changes for as long as directories, and links in them, stay where they are. Raise OSError or RuntimeError.

        ``moved``: they have not; that is told of when they are watched where they are now, so that nothing is missed.
        """
        if not places:
            self._stop.wait(_LOOK / 1000)
            return
        for changes in watchfiles.watch(
            *places,
            watch_filter=lambda _, path: path.endswith(SUFFIXES) or Path(path).is_symlink(),
            step=_SETTLED,
            debounce=_LONGEST,
            rust_timeout=_LOOK,
            yield_on_timeout=True,
            stop_event=self._stop,
            raise_interrupt=False,
        ):
            if self._places() != places:
                return
            if changes:
                log.info("changed: %s", ", ".join(sorted({path for _, path in changes})))
                if any(Path(path).is_symlink() for _, path in changes):  # what is behind it now is not watched
                    return
            if changes or moved:
                moved = False
                self._changed()

    def _places(self) -> dict[Path, tuple[int, int]]:
        """Return the directories that there are, those that files are links into as well, each with its device and number there: a
        new one has another.
        """
        places = {}
        for directory in sorted({directory for file in self._files() for directory in _directories(file)}):
            try:
                real = directory.resolve(strict=True)
                status = real.stat()
            except (OSError, RuntimeError):
                continue
            places[real] = status.st_dev, status.st_ino
        return places

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()


def _directories(file: Path) -> Iterator[Path]:
    """Yield the directory of a file, and that of the file which it may be a link to."""
    yield file.parent
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: links that lead to each other
        yield file.resolve().parent
