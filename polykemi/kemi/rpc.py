"""What can be asked of a running server: a method marked with ``@rpc`` is the only declaration of an RPC command.

As with ``@export``, names, types and documentation are read from the Python signature. Modules and the control plane mark
their commands alike; names and answers are Kamailio's where Kamailio has the command (RPC exports, core/rpc.h).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from inspect import Parameter, Signature
from typing import Any, Final, TypeVar

from polykemi.errors import RpcError

INVALID_PARAMS: Final = -32602  # JSON-RPC 2.0 section 5.1

F = TypeVar("F", bound=Callable[..., Any])


class Later:
    """What a command returns whose result comes later: ``then`` says who is told of it, once, ``settle`` what it is."""

    def __init__(self) -> None:
        self._tell: Callable[[Any], None] | None = None
        self._found: tuple[Any, ...] = ()  # the result when it is there

    def settle(self, result: Any) -> None:
        """Take the result."""
        self._found = (result,)
        if self._tell is not None:
            self._tell(result)

    def then(self, tell: Callable[[Any], None]) -> None:
        """Have ``tell`` called with the result: at once when it is there."""
        self._tell = tell
        if self._found:
            tell(*self._found)

    def made(self, make: Callable[[Any], Any]) -> Later:
        """Return what has what ``make`` makes of the result."""
        out = Later()
        self.then(lambda result: out.settle(make(result)))
        return out


Refusal = tuple[int, str]  # code and text of an error

# name, and what is answered when parameters are missing: beside the methods, as compiled ones take no attributes
_marks: Final[dict[Callable[..., Any], tuple[str, Refusal | None]]] = {}
_NUMBERS: Final = {int: re.compile(r"-?[0-9]{1,18}"), float: re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")}
# numbers are nearer to 0 than this, as those that come as texts: what they are added to stays a number
_MOST: Final = 10**18
_EXPECTED: Final[dict[Any, str]] = {int: "an integer", float: "a number", str: "a text"}


@dataclass(frozen=True, slots=True)
class Command:
    """One command: ``run`` checks what came and calls it; what it returns goes out as JSON, text being octets."""

    name: str  # "core.version"
    doc: str
    function: Callable[..., Any]
    signature: Signature  # of what is given, without ``now``
    wants_now: bool = False
    missing: Refusal | None = None  # Kamailio's words when parameters are missing

    @property
    def usage(self) -> str:
        """The parameters for a reader: ``table key [value] [more...]``."""
        return " ".join(map(_shown, self.signature.parameters.values())) or "no parameters"

    def run(self, given: Sequence[Any] | Mapping[str, Any], now: float, *, may_wait: bool = False) -> Any:
        """Call it with parameters by position or by name, at ``now`` (seconds since the epoch). Raise RpcError.

        Only who ``may_wait`` is given a ``Later``; others cannot call what returns one. An object none of the names in which
        is a parameter's is taken for a list, as Kamailio takes all of them.
        """
        if not may_wait and self.signature.return_annotation is Later:
            raise RpcError(500, f"{self.name}: a script cannot wait for the answer")
        if isinstance(given, Mapping) and not given.keys() & self._by_name:
            given = list(given.values())
        try:
            if isinstance(given, Mapping):
                bound = self.signature.bind(**given)
            else:
                bound = self.signature.bind(*given)
        except TypeError:
            if self.missing is not None and len(given) < len(self.signature.parameters):
                raise RpcError(*self.missing) from None
            raise RpcError(INVALID_PARAMS, f"{self.name}: expected {self.usage}") from None
        arguments: list[Any] = []
        for name, parameter in self.signature.parameters.items():
            if name not in bound.arguments:
                arguments += [] if parameter.kind is Parameter.VAR_POSITIONAL else [parameter.default]
                continue
            value = bound.arguments[name]
            values = value if parameter.kind is Parameter.VAR_POSITIONAL else [value]
            arguments += [self._convert(parameter, one) for one in values]
        result = self.function(*arguments, now=now) if self.wants_now else self.function(*arguments)
        return {} if result is None else result  # as Kamailio answers where there is nothing to say

    @property
    def _by_name(self) -> set[str]:
        return {name for name, one in self.signature.parameters.items() if one.kind is not Parameter.VAR_POSITIONAL}

    def _convert(self, parameter: Parameter, value: Any) -> Any:
        """Return ``value`` as the parameter's type.

        A number is a text too (users are named 1001), and so is a text a number that is written as one (kamcli sends texts).
        """
        kind, given = parameter.annotation, type(value)
        if kind is not str and given in (int, float) and not -_MOST < value < _MOST:
            raise RpcError(
                INVALID_PARAMS, f"{self.name}: {parameter.name}: expected {_EXPECTED[kind]} of at most 18 digits"
            )
        if given is kind:
            return value
        if given is int and kind is float:
            return float(value)
        if given in (int, float) and kind is str:
            return str(value)
        if given is str and _NUMBERS[kind].fullmatch(value):
            return kind(value)
        raise RpcError(INVALID_PARAMS, f"{self.name}: {parameter.name}: expected {_EXPECTED[kind]}")


def rpc(name: str, missing: Refusal | None = None) -> Callable[[F], F]:
    """Mark a method as the command ``name`` (``group.command``); ``missing`` is answered when parameters are missing.

    Parameters are int, float or str; ``*names`` takes any number; ``*, now: float`` is given the time, in seconds since the
    epoch.
    """

    def mark(method: F) -> F:
        _marks[method] = (name, missing)
        return method

    return mark


def commands_of(part: object) -> Iterator[Command]:
    """Give the commands of an object. Raise TypeError for a declaration that cannot be called."""
    kind: type = type(part)
    for attribute, command in declared(kind):
        yield replace(command, function=getattr(part, attribute))


@cache  # a server reads over seventy of them, and a reload tries its scripts on another server
def declared(part: type) -> list[tuple[str, Command]]:
    """Return the commands of a class, not bound to an object yet, with the names of their methods. Raise TypeError."""
    out: list[tuple[str, Command]] = []
    for attribute, method in inspect.getmembers(part, inspect.isroutine):
        mark = _marks.get(method)
        if mark is None:
            continue
        name, missing = mark
        if not method.__doc__:
            raise TypeError(f"{name}: a command needs a docstring")
        signature = inspect.signature(method, eval_str=True)
        given = list(signature.parameters.values())[1:]  # behind self
        parameters = [p for p in given if p.name != "now" or p.kind is not Parameter.KEYWORD_ONLY]
        for parameter in parameters:
            if parameter.annotation not in _EXPECTED or parameter.kind is Parameter.KEYWORD_ONLY:
                raise TypeError(f"{name}: parameter {parameter.name} must be int, float or str, by position")
        # people read it at a terminal
        wants_now, doc = len(parameters) < len(given), (inspect.getdoc(method) or "").replace("``", "`")
        signature = signature.replace(parameters=parameters)
        out.append((attribute, Command(name, doc, method, signature, wants_now, missing)))
    return out


def _shown(parameter: Parameter) -> str:
    if parameter.kind is Parameter.VAR_POSITIONAL:
        return f"[{parameter.name}...]"
    return parameter.name if parameter.default is Parameter.empty else f"[{parameter.name}]"
