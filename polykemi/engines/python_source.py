"""The files of a Python script: they are run once for each load, and the functions that can be route blocks are found in them."""

from __future__ import annotations

import inspect
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from polykemi.engines.base import read_script
from polykemi.errors import ScriptLoadError

_CHILD_RANK: Final = 1  # of Kamailio's first SIP worker
# octets of a script: nothing stops the compiler, and all else waits for it, half a second for so many
_LARGEST: Final = 512 << 10
_FOREIGN: Final = tuple(  # directories of code that is no script's, wherever the script may be
    f"{path}/"
    for path in (Path(__file__).parent.parent, *(sysconfig.get_path(n) for n in ("stdlib", "purelib", "platlib")))
)

_WAITING: Final = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)

Handler = tuple[Callable[..., Any], int, bool]  # function, arguments it takes (0 to 2), takes evname first


class Source:
    """The files of one load of a script, and the functions in them that can be route blocks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.directory = str(path.parent.absolute())
        self._prefix = self.directory.rstrip("/") + "/"
        self.handlers: dict[str, Handler] = {}

    def is_ours(self, filename: str) -> bool:
        """Tell whether code of ``filename`` belongs to the script."""
        return filename == str(self.path) or (filename.startswith(self._prefix) and not filename.startswith(_FOREIGN))

    def run(self) -> None:
        """Run the file, then mod_init() and child_init(). Everything that it raises goes through."""
        source = read_script(self.path)
        if len(source) > _LARGEST:
            raise ScriptLoadError(str(self.path), None, f"has {len(source)} octets, more than {_LARGEST}")
        name = self.path.stem
        if name in sys.modules:
            name += "_script"
        module = ModuleType(name)
        module.__file__ = str(self.path)
        module.__dict__.update(exit=sys.exit, quit=sys.exit)  # those of ``site`` close the server's stdin
        sys.modules[name] = module
        exec(compile(source, str(self.path), "exec", dont_inherit=True), module.__dict__)
        script: Any = module
        if callable(init := getattr(module, "mod_init", None)):
            made = init()
            if made is not None:
                script = made
            elif not callable(getattr(module, "ksr_request_route", None)):
                raise ScriptLoadError(str(self.path), None, "mod_init() must return an object, not None")
        self._child_init(script, needed=script is not module)
        self.handlers = dict(_handlers(script, is_object=script is not module))
        for name, (function, _, _) in self.handlers.items():
            if name.startswith("ksr_") and any(kind(function) for kind in _WAITING):
                line = inspect.unwrap(function).__code__.co_firstlineno
                raise ScriptLoadError(
                    str(self.path), line, f"{name} is async or has a yield: nobody would run its body"
                )

    def _child_init(self, script: Any, *, needed: bool) -> None:
        child_init = getattr(script, "child_init", None)
        if callable(child_init):
            result = child_init(_CHILD_RANK) if needed or _arity(child_init) else child_init()
            if needed and not isinstance(result, int):
                given = type(result).__name__
                raise ScriptLoadError(str(self.path), None, f"child_init() must return an integer, not {given}")
        elif needed:
            raise ScriptLoadError(str(self.path), None, "what mod_init() returned has no child_init()")


def _handlers(script: Any, *, is_object: bool) -> Iterator[tuple[str, Handler]]:
    for name in dir(script):
        if name.startswith("__"):
            continue
        value = getattr(script, name, None)
        if callable(value) and not isinstance(value, type) and not inspect.isbuiltin(value):
            yield name, (value, _arity(value), not is_object)


def _arity(function: Callable[..., Any]) -> int:
    """Return how many of two positional arguments ``function`` takes."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 2
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 2
    return min(2, sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters))
