"""Calls from JavaScript to the exports: binding, and the way of one call."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from polykemi.engines.base import Host
from polykemi.engines.js_values import EXIT, FAILED, FALSE, TRUE, Values
from polykemi.errors import SipError
from polykemi.kemi.binding import Refused, bind, to_octets
from polykemi.kemi.context import Exit
from polykemi.kemi.registry import Export

_METHODS: Final = 32  # numbered

log = logging.getLogger("polykemi.engines.js")


class JsConversion:
    """Kamailio's rules for app_jsdt. ``js_runtime.js`` has converted the arguments, ``Values`` makes octets of texts."""

    unicode = False
    extra_arguments = False
    none_result = False

    def __init__(self, where: Callable[[], str], *, checked: bool) -> None:
        self.where = where
        self.checked = checked

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
        self._where = where
        self._exports = list(host.registry)
        self._methods: dict[str, int] = {}  # with their numbers in JavaScript

    def bind(self) -> tuple[list[list[Any]], list[Callable[[], None]]]:
        """Bind the registry: return what JavaScript needs to know of each export, and what it calls."""
        host, conversion = self._host, JsConversion(self._where, checked=True)
        rows: list[list[Any]] = []
        entries: list[Callable[[], None]] = []
        for export, function in self._exports:
            bound = bind(export, function, host.current, conversion, drive=host.drive, trace=host.trace)
            types = "".join(p.type[0] for p in export.params)
            holds = "" if host.trace else "method" if export.by_method else "run" if export.constant else ""
            rows.append([export.module, export.name, types, "renews" if export.renews else holds])
            entries.append(self._entry(export, bound, types))
        return rows, entries

    def _entry(self, export: Export, bound: Callable[..., Any], types: str) -> Callable[[], None]:
        """Return what JavaScript calls for ``export``: the whole way of one call."""
        values = self._values
        make = _maker(export.path, types, export.returns)
        parts = (values.arguments, bound, values.codes.get, values.put, self._raised, values.texts, values.words)
        return make(export, *parts)

    def _raised(self, error: BaseException, export: Export) -> int:
        """Return what JavaScript shall do after ``error``."""
        if isinstance(error, Exit):
            return EXIT
        log.error("%s: internal error", export.path, exc_info=error)
        self._values.words[4] = self._values.put(to_octets(f"{export.path}: {type(error).__name__}: {error}"))
        return FAILED

    def method(self) -> None:
        """Give the number of the message's method, -1 when it has none; the first that come get one."""
        words, numbers = self._values.words, self._methods
        try:
            method = self._host.current.ctx.method  # type: ignore[union-attr]
        except SipError:  # it stands in a malformed header
            words[0] = -1
            return
        number = numbers.get(method)
        if number is None:
            number = len(numbers) if len(numbers) < _METHODS else -1
            if number >= 0:
                numbers[method] = number
        words[0] = number

    def misfit(self) -> None:
        """The call cannot be made as it is: no block runs, or so many arguments are wrong (none where some are needed,
        some where none are, too many). Log why.
        """
        words = self._values.words
        (export, function), given = self._exports[words[1]], words[2]
        conversion, host = JsConversion(self._where, checked=False), self._host
        bound = bind(export, function, host.current, conversion, drive=host.drive, trace=host.trace)
        try:
            words[0] = self._values.put(bound(*[""] * given))
        except BaseException as error:  # noqa: BLE001
            words[0] = self._raised(error, export)


# the code of a result that is as usual; ``put`` writes all others
_USUAL: Final = {
    "bool": f"{TRUE} if result else {FALSE}",
    "int": "code(result) or put(result)",
    "none": f"{FALSE}",
    "xval": "code(result) or put(result)",
}


@cache
def _maker(path: str, types: str, returns: str) -> Callable[..., Callable[[], None]]:
    """Return what makes the entry of the export ``path``.

    Arguments are read as they usually come: numbers, and texts that crossed before. The code is not shared between
    exports, as CPython adapts it to what it calls.
    """
    read = ", ".join(f"texts[words[{i}]]" if t == "s" else f"words[{i}]" for i, t in enumerate(types, 2))
    call = f"bound({read})"
    if "s" in types:
        call = f"bound(*arguments({types!r})) if words[1] else {call}"
    lines = (
        "def make(export, arguments, bound, code, put, raised, texts, words):",
        " def enter():",
        "  try:",
        f"   result = {call}",
        f"   words[0] = {_USUAL[returns]}",
        "  except BaseException as error: words[0] = raised(error, export)",
        " return enter",
    )
    scope: dict[str, Any] = {}
    exec(compile("\n".join(lines), f"<js {path}>", "exec"), scope)
    make: Callable[..., Callable[[], None]] = scope["make"]
    return make
