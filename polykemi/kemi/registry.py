"""The registry of KSR: a method of a module, marked with ``@export``, is the only declaration of a function.

Module, name, parameter names and types, return type and documentation are read from the Python signature; argument
checks, ``polykemi functions``, reference docs and the parity tests follow from it (Kamailio: sr_kemi_t in core/kemi.h).
A missing docstring, a type that KEMI does not have or a name that is taken fails at import.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, get_origin, get_type_hints

from polykemi.kemi.context import Process, RouteContext
from polykemi.kemi.route import Route

Xval = int | str | None  # KEMI's xval: null, an integer or a string
Data = int | str | None | list[Any] | dict[str, Any]  # an xval that may also be an array or a dictionary

F = TypeVar("F", bound=Callable[..., Any])

_PARAMS: Final = {int: "int", str: "str"}
_RETURNS: Final[dict[Any, str]] = {int: "int", bool: "bool", Xval: "xval", Data: "data", type(None): "none"}


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter: its name and KEMI type (``int`` or ``str``)."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Export:
    """One row of KSR: what kemi.h keeps of a function, plus parameter names, documentation and where it may be called."""

    module: str  # "" for the core, whose functions stand on KSR itself
    name: str
    params: tuple[Param, ...]
    returns: str  # int, bool, xval, data or none
    routes: Route
    constant: bool  # the result cannot change while one route block runs
    by_method: bool  # the result depends on the arguments and the method of the message alone
    renews: bool  # the message is another afterwards: what was constant before is so no more
    is_process: bool  # may run other route blocks: the method is a generator
    doc: str

    @property
    def path(self) -> str:
        """The name as scripts write it: ``KSR.sl.send_reply``."""
        return f"KSR.{self.module}.{self.name}" if self.module else f"KSR.{self.name}"

    def __str__(self) -> str:
        return f"{self.path}({', '.join(p.type for p in self.params)}) -> {self.returns}"


class _Mark(NamedTuple):
    """What ``@export`` was told."""

    routes: Route
    constant: bool
    by_method: bool
    renews: bool
    name: str


_marks: Final[dict[Callable[..., Any], _Mark]] = {}  # beside the methods: compiled ones take no attributes


def export(
    *,
    routes: Route = Route.ANY,
    constant: bool = False,
    by_method: bool = False,
    renews: bool = False,
    name: str = "",
) -> Callable[[F], F]:
    """Mark a method ``(self, ctx, ...)`` of a module as a KSR function.

    ``routes``: where a call makes sense; elsewhere it answers -1 (false, null) and logs. ``name``: when it is a Python
    keyword or taken by the class. ``renews``: the function puts another message in the place of this one. A generator method is a Process: it yields the route blocks that it needs run.
    """

    def mark(method: F) -> F:
        _marks[method] = _Mark(routes, constant or by_method, by_method, renews, name or method.__name__)
        return method

    return mark


def exports_of(module: type) -> dict[str, tuple[Export, str]]:
    """Return KSR name -> (export, attribute name) of a module class. Raise TypeError for a declaration that KEMI cannot hold."""
    return _exports_of(module)


@cache
def _exports_of(module: type) -> dict[str, tuple[Export, str]]:
    out: dict[str, tuple[Export, str]] = {}
    for attribute, method in inspect.getmembers(module, callable):
        try:
            mark = _marks.get(method)
        except TypeError:  # unhashable: no method
            continue
        if mark is None:
            continue
        where = f"{module.__name__}.{attribute}"
        params, returns, doc = _declared(method)
        if not doc:
            raise TypeError(f"{where}: an export needs a docstring")
        if mark.name in out:
            raise TypeError(f"{where}: the name {mark.name} is taken")
        is_process = get_origin(returns) is Generator
        if is_process:
            returns = returns.__args__[2]  # Generator[yields, sends, returns]
        for p, hint in params.items():
            if hint not in _PARAMS:
                raise TypeError(f"{where}: parameter {p} must be int or str")
        if returns not in _RETURNS:
            raise TypeError(f"{where}: return type must be int, bool, Xval, Data or None")
        out[mark.name] = (
            Export(
                module=module.name,  # type: ignore[attr-defined]
                name=mark.name,
                params=tuple(Param(p, _PARAMS[hint]) for p, hint in params.items()),
                returns=_RETURNS[returns],
                routes=mark.routes,
                constant=mark.constant,
                by_method=mark.by_method,
                renews=mark.renews,
                is_process=is_process,
                doc=doc,
            ),
            attribute,
        )
    return out


def _declared(method: Any) -> tuple[dict[str, Any], Any, str]:
    """Return the parameters behind ``(self, ctx)`` with their types, the return type and the documentation.

    A compiled method keeps none of them: they are read from its source, which stands beside the compiled module.
    """
    if inspect.isfunction(method):
        hints = get_type_hints(method)
        returns = hints.pop("return", None)
        params = {p: hints.get(p) for p in list(inspect.signature(method).parameters)[2:]}
        return params, returns, inspect.getdoc(method) or ""
    owner: type = method.__objclass__
    names = vars(sys.modules[owner.__module__])
    source = _declarations(names["__file__"])[owner.__name__, method.__name__]
    params = {a.arg: eval(ast.unparse(a.annotation), names) for a in source.args.args[2:] if a.annotation}
    returns = eval(ast.unparse(source.returns), names) if source.returns else None
    return params, type(None) if returns is None else returns, ast.get_docstring(source) or ""


@cache
def _declarations(file: str) -> dict[tuple[str, str], ast.FunctionDef]:
    """Return (class, method) -> declaration of a module, compiled or not."""
    path = Path(file)
    source = path.with_name(path.name.partition(".")[0] + ".py")
    classes = [node for node in ast.parse(source.read_bytes()).body if isinstance(node, ast.ClassDef)]
    return {(c.name, f.name): f for c in classes for f in c.body if isinstance(f, ast.FunctionDef)}


class Registry:
    """The functions that one server exports: those of its loaded modules, bound to their instances."""

    def __init__(self, modules: Iterable[Any]) -> None:
        self._rows: dict[str, tuple[Export, Callable[..., Any]]] = {}
        for module in modules:
            for row, attribute in exports_of(type(module)).values():
                if row.path in self._rows:
                    raise TypeError(f"{row.path} is exported twice")
                self._rows[row.path] = (row, getattr(module, attribute))

    def __iter__(self) -> Iterator[tuple[Export, Callable[..., Any]]]:
        return iter(self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def paths(self) -> Collection[str]:
        """The functions as ``KSR.module.function``."""
        return self._rows.keys()

    def get(self, path: str) -> tuple[Export, Callable[..., Any]] | None:
        """Return the row of ``KSR.module.function``."""
        return self._rows.get(path)


__all__ = ["Data", "Export", "Param", "Process", "Registry", "RouteContext", "Xval", "export", "exports_of"]
