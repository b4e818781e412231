"""The scripts that were loaded into V8, and where in them something happened: V8 knows each load by a number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from polykemi.engines.base import read_script
from polykemi.errors import ScriptError, ScriptLoadError

_NAME: Final = "ksr:script/"  # with the number of the load, V8's name for a script
# their frames say nothing to the author of a script
_OWN: Final = ("js_calls.js", "js_guards.js", "js_library.js", "js_runtime.js", "js_sources.js", "js_values.js")
_FRAME: Final = re.compile(_NAME + r"(\d{1,9}):(\d{1,9})")


class _Load:
    """What belongs to one load of a script: the directory that require() does not leave, and the modules."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.modules: dict[Path, tuple[str, str]] = {}  # V8's name, source


class Sources:
    """The files, in the order of their numbers, and the load that each belongs to."""

    def __init__(self, *, everywhere: bool = False) -> None:
        """``everywhere``: require() may leave the script's directory."""
        self.everywhere = everywhere
        self._files: list[str] = []
        self._loads: list[_Load] = []

    def add(self, file: str) -> str:
        """Return V8's name for a script that is about to be loaded."""
        return self._add(file, _Load(Path(file).parent.resolve()))

    def _add(self, file: str, load: _Load) -> str:
        self._files.append(file)
        self._loads.append(load)
        return f"{_NAME}{len(self._files) - 1}"

    def forget(self, name: str) -> None:
        """The script ``name`` is closed: its modules are not asked for again."""
        self._loads[int(name.removeprefix(_NAME))].modules.clear()

    def module(self, name: str, source: str) -> tuple[str, str, str]:
        """Return path, V8's name and source of the module that the ``source`` requires. Raise ScriptLoadError.

        A name that begins with a dot starts from the file that requires it, any other from the script's directory. A
        module is read once for each load of a script, so that one that is started anew finds what it was loaded with.
        """
        number = int(source.removeprefix(_NAME))
        load = self._loads[number]
        start = Path(self._files[number]).parent.resolve() if name.startswith(".") else load.root
        for candidate in (name, f"{name}.js", f"{name}.json", f"{name}/index.js"):
            try:
                path = (start / candidate).resolve()
                found = path in load.modules or ((self.everywhere or path.is_relative_to(load.root)) and path.is_file())
            except (OSError, RuntimeError, ValueError):  # RuntimeError: links that lead to each other
                continue
            if found:
                if path not in load.modules:
                    load.modules[path] = self._add(str(path), load), read(path)
                return str(path), *load.modules[path]
        raise ScriptLoadError(self._files[number], None, f"Cannot find module '{name}'")

    def innermost(self, frames: Sequence[tuple[str, int]], file: str) -> tuple[str, int | None]:
        """Return file and line of the innermost of ``frames`` (V8's names) that is a script's, ``file`` when none is."""
        for name, line in frames:
            number = name.removeprefix(_NAME)
            if number != name and number.isdecimal() and int(number) < len(self._files):
                return self._files[int(number)], line
        return file, None

    def error(self, cause: str, stack: str, file: str) -> ScriptError:
        """Return the error of the script ``file``; the texts may be anything, as scripts can make them up."""
        cause, stack = (text.encode("utf-8", "replace").decode() for text in (cause, stack))
        cause = cause.replace("\r", " ").replace("\n", " ")  # it goes into one line of the log
        lines = [line for line in stack.split("\n") if not any(f"{own}:" in line for own in _OWN)]
        file, line = self._place(stack, file)
        return ScriptError(file, line, cause, _FRAME.sub(self._named, "\n".join(lines)))

    def _place(self, stack: str, file: str) -> tuple[str, int | None]:
        """Return file and line of the innermost frame that is a script's, ``file`` when there is none."""
        frame = _FRAME.search(stack)
        if frame is None or int(frame[1]) >= len(self._files):
            return file, int(frame[2]) if frame else None
        return self._files[int(frame[1])], int(frame[2])

    def _named(self, frame: re.Match[str]) -> str:
        number = int(frame[1])
        return f"{self._files[number]}:{frame[2]}" if number < len(self._files) else frame[0]


def read(path: Path) -> str:
    """Return the source at ``path``. Raise ScriptLoadError."""
    data = read_script(path)
    try:
        source = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ScriptLoadError(str(path), data.count(b"\n", 0, error.start) + 1, "is not UTF-8") from None
    return "//" + source[2:] if source.startswith("#!") else source
