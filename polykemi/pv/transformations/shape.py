"""What a transformation is: a function on a value, and the types of its parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from polykemi.kemi.context import RouteContext
from polykemi.kemi.numbers import is_number
from polykemi.kemi.registry import Xval
from polykemi.pv.accessor import Getter

if TYPE_CHECKING:
    from polykemi.pv.compiler import Variables


def integer(value: Xval) -> int:
    """Take a parameter that is a number. Raise ValueError."""
    if isinstance(value, int):
        return value
    text = (value or "").strip(" \t\r\n")
    if not is_number(text):
        raise ValueError(f"{text!r} is no number")
    return int(text)


def string(value: Xval) -> str:
    """Take a parameter that is a text. Raise ValueError."""
    if value is None:
        raise ValueError("the parameter is null")
    return str(value)


_ESCAPED = {"\\\\": "\\", "\\t": "\t", "\\n": "\n", "\\r": "\r", "\\s": " "}


def character(value: Xval) -> str:
    """Take a parameter that is one character, perhaps written with a backslash. Raise ValueError."""
    text = string(value)
    text = _ESCAPED.get(text, text)
    if len(text) != 1:
        raise ValueError(f"{text!r} is not one character")
    return text


Parameter = Callable[[Xval], Any]


class Step:
    """One transformation: ``function(value, *parameters)`` gives the new value; the value comes as text.

    ``parameters`` say how each is taken; the last ``optional`` of them may be left out. With ``raw`` the function gets
    the value as it is, null included.
    """

    __slots__ = ("_function", "_optional", "_parameters", "_raw")

    def __init__(
        self, function: Callable[..., Xval], *parameters: Parameter, optional: int = 0, raw: bool = False
    ) -> None:
        self._function = function
        self._parameters = parameters
        self._optional = optional
        self._raw = raw

    def apply(self, name: str, get: Getter, given: Sequence[str | Getter], variables: Variables) -> Getter:
        """Return the getter of the transformed value. Raise ValueError for parameters that do not fit.

        A step that needs more than values, as what variables its parameter names, is a subclass with its own ``apply``.
        """
        if not len(self._parameters) - self._optional <= len(given) <= len(self._parameters):
            raise ValueError(f"{{{name}}} takes {len(self._parameters)} parameters, {len(given)} given")
        takers = self._parameters[: len(given)]
        dynamic = any(not isinstance(one, str) for one in given)
        function = self._function
        if self._raw:
            return lambda ctx: function(get(ctx))
        if dynamic:
            return _dynamic(function, get, list(zip(takers, given, strict=True)))
        constants = [take(one) for take, one in zip(takers, given, strict=True) if isinstance(one, str)]
        return _constant(function, get, constants)


def _constant(function: Callable[..., Xval], get: Getter, constants: list[Any]) -> Getter:
    if not constants:

        def simple(ctx: RouteContext) -> Xval:
            value = get(ctx)
            return None if value is None else function(value if isinstance(value, str) else str(value))

        return simple

    def with_constants(ctx: RouteContext) -> Xval:
        value = get(ctx)
        return None if value is None else function(value if isinstance(value, str) else str(value), *constants)

    return with_constants


def _dynamic(function: Callable[..., Xval], get: Getter, parameters: list[tuple[Parameter, str | Getter]]) -> Getter:
    """Parameters that are variables are evaluated each time; one that does not fit gives null."""
    for take, one in parameters:
        if isinstance(one, str):
            take(one)  # a wrong constant is refused when the variable is compiled

    def transformed(ctx: RouteContext) -> Xval:
        value = get(ctx)
        if value is None:
            return None
        try:
            arguments = [take(one if isinstance(one, str) else one(ctx)) for take, one in parameters]
        except ValueError:
            return None
        return function(str(value), *arguments)

    return transformed
