"""The scripts that were loaded into V8, and where in them something happened: V8 knows each load by a number."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from polykemi.errors import ScriptError, ScriptLoadError

_NAME: Final = "ksr:script/"  # with the number of the load, V8's name for a script
_FRAME: Final = re.compile(_NAME + r"(\d{1,9}):(\d{1,9})")


class Sources:
    """``live`` is the file of the script that runs."""

    def __init__(self) -> None:
        self.live = "js"
        self._files: list[str] = []

    def add(self, file: str) -> str:
        """Return V8's name for a script that is about to be loaded."""
        self._files.append(file)
        return f"{_NAME}{len(self._files) - 1}"

    def position(self, stack: str) -> str:
        """Return ``file:line`` of the script's innermost frame."""
        frame = _FRAME.search(stack)
        return self._named(frame) if frame else self.live

    def error(self, cause: str, stack: str) -> ScriptError:
        """Return the error of a script; both texts may be anything, as scripts can make them up."""
        cause, stack = (text.encode("utf-8", "replace").decode() for text in (cause, stack))
        cause = cause.replace("\r", " ").replace("\n", " ")  # it goes into one line of the log
        lines = [line for line in stack.split("\n") if "(js_runtime.js" not in line]
        return ScriptError(self.live, _line(stack), cause, _FRAME.sub(self._named, "\n".join(lines)))

    def load_error(self, file: str, name: str, message: str) -> ScriptLoadError:
        """Return the error of a script that did not load, from V8's message: ``where:line: cause``, source line, stack."""
        head, _, stack = message.partition("\n")
        parts = re.match(r"(\S*?):(\d+): (.*)", head)
        if parts is None:
            return ScriptLoadError(file, _line(stack), head)
        where, line, cause = parts.groups()
        # V8 gives a source that it could not parse no name
        return ScriptLoadError(file, int(line) if where in ("undefined", name) else _line(stack), cause)

    def _named(self, frame: re.Match[str]) -> str:
        number = int(frame[1])
        return f"{self._files[number]}:{frame[2]}" if number < len(self._files) else frame[0]


def _line(stack: str) -> int | None:
    frame = _FRAME.search(stack)
    return int(frame[2]) if frame else None


def read(path: Path) -> str:
    """Return the source at ``path``. Raise ScriptLoadError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ScriptLoadError(str(path), None, error.strerror or str(error)) from None
    try:
        source = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ScriptLoadError(str(path), data.count(b"\n", 0, error.start) + 1, "is not UTF-8") from None
    return "//" + source[2:] if source.startswith("#!") else source
