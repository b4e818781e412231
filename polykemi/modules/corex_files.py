"""corex: files that scripts read and write whole, inside of one directory. Part of corex."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

log = logging.getLogger("polykemi.script")

_LARGEST: Final = 1 << 24  # octets that are read


class Files:
    """The files of one directory; with "" for its name there are none."""

    def __init__(self, directory: str, *, read_only: bool = False) -> None:
        """``read_only``: what is written goes nowhere."""
        self._read_only = read_only
        self._root = Path(directory).resolve() if directory else None

    def _place(self, name: str) -> Path | None:
        """Return where the file is, None and one logged line for what is not inside of the directory."""
        if self._root is None:
            log.error("corex: %r: files are off: [modules.corex] file_directory is not set", name)
            return None
        try:
            place = (self._root / name.encode("latin-1").decode("utf-8", "surrogateescape")).resolve()
        except (OSError, ValueError, RuntimeError):
            place = self._root.parent
        if not name or self._root not in place.parents:
            log.error("corex: %r is not inside of file_directory", name)
            return None
        return place

    def read(self, name: str) -> bytes | None:
        """Return what is in a file, None when it cannot be read."""
        place = self._place(name)
        if place is None:
            return None
        try:
            if not place.is_file() or place.stat().st_size > _LARGEST:  # a pipe would hold up the server
                log.error("corex: %r is too large, or no file", name)
                return None
            return place.read_bytes()
        except (OSError, ValueError) as error:
            log.error("corex: cannot read %r: %s", name, error)
            return None

    def write(self, name: str, data: bytes) -> bool:
        """Put ``data`` in place of what is in a file; tell whether that went well."""
        place = self._place(name)
        if place is None:
            return False
        try:
            if place.exists() and not place.is_file():
                log.error("corex: %r is no file", name)
                return False
            if not self._read_only:
                place.write_bytes(data)
        except (OSError, ValueError) as error:
            log.error("corex: cannot write %r: %s", name, error)
            return False
        return True
