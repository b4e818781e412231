"""What scripts print (Python: ``print``, ``sys.stderr``, their libraries) becomes lines of the log."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from typing import Any, Final, TextIO

from polykemi.kemi.binding import to_octets
from polykemi.logs.formats import TEXT

log: Final = logging.getLogger("polykemi.script")


class Printed(io.TextIOBase):
    """Stands in place of ``sys.stdout`` or ``sys.stderr``: a script's lines go to the log, all else through."""

    def __init__(self, stream: TextIO, level: int, by_script: Callable[[], bool]) -> None:
        """``by_script``: tells whether a script runs on this thread."""
        self._stream, self._level, self._by_script = stream, level, by_script
        self._begun = ""

    def write(self, text: str) -> int:
        """Log each line that is whole; print() writes its end by itself."""
        if not self._by_script():
            return self._stream.write(text)
        *lines, self._begun = (self._begun + text).split("\n")
        if len(self._begun) > TEXT:
            lines, self._begun = [*lines, self._begun], ""
        for line in lines:
            log.log(self._level, "%s", to_octets(line))
        return len(text)

    def __getattr__(self, name: str) -> Any:  # buffer, reconfigure, ...
        return getattr(self._stream, name)

    def writable(self) -> bool:
        """Tell that it takes text."""
        return True

    def flush(self) -> None:
        """Let the stream below flush."""
        self._stream.flush()

    def fileno(self) -> int:
        """Return the number of the stream below."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Tell whether the stream below is a terminal."""
        return self._stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream below."""
        return self._stream.encoding
