"""Calls from JavaScript to the exports: binding, and the way of one call."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from polykemi.engines.base import Host
from polykemi.engines.js_values import EXIT, FAILED, FALSE, SMALL, TRUE, ZERO, Values
from polykemi.errors import SipError
from polykemi.kemi.binding import Refused, bind
from polykemi.kemi.context import Exit
from polykemi.kemi.registry import Export

_METHODS: Final = 32  # numbered

log = logging.getLogger("polykemi.engines.js")


class JsConversion:
    """Kamailio's rules for app_jsdt. ``js_runtime.js`` has converted all arguments that were given."""

    unicode = True
    extra_arguments = False
    max_arguments = 6
    none_result = False

    def __init__(self, where: Callable[[], str]) -> None:
        self.where = where

    def to_int(self, value: Any) -> int:
        """Return ``value``, an integer already."""
        return int(value)

    def to_str(self, value: Any) -> str:
        """Return ``value``, a text already."""
        return str(value)

    def missing(self) -> Any:
        """Refuse the call: no arguments were given (when only some are missing, JavaScript throws a RangeError)."""
        raise Refused("is missing")


class Calls:
    """The exports as JavaScript calls them. ``where`` returns ``file:line`` of the call that is running."""

    def __init__(self, host: Host, values: Values, where: Callable[[], str]) -> None:
        self._host, self._values = host, values
        self._conversion = JsConversion(where)
        self._bound: list[tuple[Export, Callable[..., Any]]] = []
        self._methods: dict[str, int] = {}  # with their numbers in JavaScript

    def bind(self) -> tuple[list[list[Any]], list[Callable[[], None]]]:
        """Bind the registry: return what JavaScript needs to know of each export, and what it calls."""
        host = self._host
        rows: list[list[Any]] = []
        entries: list[Callable[[], None]] = []
        for export, function in host.registry:
            bound = bind(export, function, host.current, self._conversion, drive=host.drive, trace=host.trace)
            self._bound.append((export, bound))
            types = "".join(p.type[0] for p in export.params)
            kept = "method" if export.by_method else "run" if export.constant else ""
            rows.append([export.module, export.name, types, "" if host.trace else kept])
            entries.append(self._entry(export, bound, types))
        return rows, entries

    def _entry(self, export: Export, bound: Callable[..., Any], types: str) -> Callable[[], None]:
        """Return what JavaScript calls for ``export``: the whole way of one call."""
        values = self._values
        make = _maker(export.path, types, export.returns)
        return make(
            bound,
            values.arguments,
            values.codes,
            values.put,
            lambda e: self._raised(e, export),
            values.texts,
            values.words,
        )

    def _raised(self, error: BaseException, export: Export) -> int:
        """Return what JavaScript shall do after ``error``."""
        if isinstance(error, Exit):
            return EXIT
        log.error("%s: internal error", export.path, exc_info=error)
        self._values.words[4] = self._values.put(f"{export.path}: {type(error).__name__}: {error}")
        return FAILED

    def method(self) -> None:
        """Give the number of the message's method, -1 when there is none; the first few get one."""
        ctx, numbers = self._host.current.ctx, self._methods
        number = -1
        try:
            if ctx is not None:
                number = (
                    numbers.setdefault(ctx.method, len(numbers))
                    if len(numbers) < _METHODS
                    else numbers.get(ctx.method, -1)
                )
        except SipError:  # it stands in a malformed header
            pass
        self._values.words[0] = number

    def misfit(self) -> None:
        """The number of arguments is wrong: none to a function that takes some, some to one that takes none, too many."""
        words = self._values.words
        (export, bound), given = self._bound[words[1]], words[2]
        try:
            words[0] = self._values.put(bound(*[""] * given))
        except BaseException as error:  # noqa: BLE001
            words[0] = self._raised(error, export)


# what is written at once for a result that is as usual; ``put`` takes all others
_USUAL: Final = {
    "bool": f"{TRUE} if result is True else {FALSE} if result is False else put(result)",
    "int": f"{ZERO} + result if type(result) is int and {-SMALL} < result < {SMALL} else put(result)",
    "none": "put(result)",
    "xval": "code if (code := codes.get(result)) is not None else put(result)",
}


@cache
def _maker(path: str, types: str, returns: str) -> Callable[..., Callable[[], None]]:
    """Return what makes the entry of the export ``path``.

    Arguments are read as they usually come: numbers, and texts that crossed before. The code is not shared between
    exports, as CPython adapts it to what it calls.
    """
    call = "bound()"
    if types:
        read = ", ".join(f"texts[words[{i}]]" if t == "s" else f"words[{i}]" for i, t in enumerate(types, 2))
        call = f"bound({read})"
        if "s" in types:
            call = f"bound(*arguments({types!r})) if words[1] else {call}"
    lines = (
        "def make(bound, arguments, codes, put, raised, texts, words):",
        " def enter():",
        "  try:",
        f"   result = {call}",
        f"   words[0] = {_USUAL[returns]}",
        "  except BaseException as error: words[0] = raised(error)",
        " return enter",
    )
    scope: dict[str, Any] = {}
    exec(compile("\n".join(lines), f"<js {path}>", "exec"), scope)
    make: Callable[..., Callable[[], None]] = scope["make"]
    return make
