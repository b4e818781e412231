"""Calls from JavaScript to the exports: binding, and the way of one call."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from polykemi.engines.base import Host
from polykemi.engines.js_values import EXIT, FAILED, FALSE, RUN, TRUE, Values
from polykemi.errors import SipError
from polykemi.kemi.binding import Misuse, bind, to_octets
from polykemi.kemi.context import Exit
from polykemi.kemi.registry import Export

_METHODS: Final = 32  # numbered

log = logging.getLogger("polykemi.engines.js")


class Unfit:
    """A value that JavaScript could not convert: its text and its type."""

    def __init__(self, text: str, kind: str) -> None:
        self.text, self.kind = text, kind

    def __repr__(self) -> str:
        return self.text


class JsConversion:
    """How values come from JavaScript and go there: ``js_calls.js`` converts arguments, ``Values`` the texts."""

    unicode = False
    extra_arguments = False
    none_result = False

    def __init__(self, where: Callable[[], str], *, checked: bool) -> None:
        self.where = where
        self.checked = checked

    def type_name(self, value: Any) -> str:
        """Return JavaScript's word for the type, with the value where that says more."""
        if not isinstance(value, Unfit):
            return type(value).__name__
        return f'"{value.text[:64]}" (string)' if value.kind == "string" else value.kind

    def to_data(self, value: Any) -> Any:
        """Return ``value``: ``Values.put`` writes it."""
        return value


class Calls:
    """The exports as JavaScript calls them. ``where`` returns ``file:line`` of the call that is running."""

    def __init__(self, host: Host, values: Values, where: Callable[[], str]) -> None:
        self._host, self._values = host, values
        self._where = where
        self._exports = list(host.registry)
        self._current: Any = host.current
        self._bound_functions: list[Callable[..., Any]] = []
        self._unchecked: dict[int, Callable[..., Any]] = {}  # number -> the export for calls that do not fit
        self._methods: dict[str, int] = {}  # with their numbers in JavaScript
        self._unheld = 0

    def bind(self) -> tuple[list[list[Any]], list[Callable[[], None]]]:
        """Bind the registry: return what JavaScript needs to know of each export, and what it calls."""
        conversion = JsConversion(self._where, checked=True)
        rows: list[list[Any]] = []
        entries: list[Callable[[], None]] = []
        for export, function in self._exports:
            bound = self._bound(export, function, conversion)
            types = "".join(p.type[0] for p in export.params)
            holds = "method" if export.by_method else "run" if export.constant else ""
            rows.append([export.module, export.name, types, "renews" if export.renews else holds])
            entries.append(self._entry(export, bound, types))
            self._bound_functions.append(bound)
        return rows, entries

    def take(self, current: Any) -> None:
        """Let the functions find the context that runs in ``current.ctx`` from now on."""
        self._current = current
        for function in self._bound_functions:
            function.__globals__["current"] = current

    def last(self) -> str:
        """Return the function of KSR that a script has called last in the block that runs (``KSR.pv.get``); "" without one."""
        index = self._values.last[0]
        return self._exports[index][0].path if index >= 0 else ""

    def _bound(self, export: Export, function: Callable[..., Any], conversion: JsConversion) -> Callable[..., Any]:
        host = self._host
        return bind(
            export,
            function,
            self._current,
            conversion,
            drive=host.drive,
            probes=host.probes,
            unhold=self._unhold if export.constant else None,
            strict=host.strict,
        )

    def _unhold(self) -> None:
        """Let V8 hold no result beyond the call that runs: who watches sees each call. No block has such a number."""
        self._unheld = (self._unheld + 1) & 0x3FFFFFFF
        self._values.words[RUN] = -0x40000000 - self._unheld

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
        if isinstance(error, Misuse):
            self._values.words[4] = self._values.put(to_octets(str(error)))
            return FAILED
        log.error("%s: internal error", export.path, exc_info=error)
        self._values.words[4] = self._values.put(to_octets(f"{export.path}: {type(error).__name__}: {error}"))
        return FAILED

    def method(self) -> None:
        """Give the number of the message's method, -1 when it has none; the first that come get one.

        None has one while calls are watched: V8 would give results without a call.
        """
        words, numbers = self._values.words, self._methods
        if self._host.probes.are_watched:
            words[0] = -1
            return
        try:
            method = self._current.ctx.method
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
        """The call cannot be made as it is: no block runs, or so many arguments are wrong (too few, too many, some where
        none are taken), or one does not convert. Do what is done in such a case.
        """
        words = self._values.words
        index, given, unfit = words[4], words[5], words[6]
        export, function = self._exports[index]
        args: list[Any] = [0 if p.type == "int" else "" for p in export.params[:given]]
        args += [""] * (given - len(args))
        if unfit >= 0:
            args[unfit] = Unfit(*self._values.two_texts())
        bound = self._unchecked.get(index)
        if bound is None:
            bound = self._bound(export, function, JsConversion(self._where, checked=False))
            self._unchecked[index] = bound
            self._bound_functions.append(bound)
        try:
            words[0] = self._values.put(bound(*args))
        except BaseException as error:  # noqa: BLE001
            words[0] = self._raised(error, export)


# the code of a result that is as usual; ``put`` writes all others
_USUAL: Final = {
    "data": "put(result)",
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
