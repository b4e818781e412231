"""The shapes that classes of variables have: plain, by key, by number, with an index."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.numbers import is_number
from polykemi.kemi.registry import Xval
from polykemi.pv.accessor import Accessor, Factory, Getter, Setter
from polykemi.sip.uri import Uri, parse_uri

if TYPE_CHECKING:
    from polykemi.pv.compiler import Variables

T = TypeVar("T")


def uri_or_none(text: str) -> Uri | None:
    """Return the parsed URI, None for what is none."""
    try:
        return parse_uri(text)
    except ParseError:
        return None


def plain(get: Getter, put: Setter | None = None) -> Factory:
    """Return the class of one variable without name and index: ``$ru``."""
    accessor = Accessor(get, put)
    return lambda inner, index, variables: plain_accessor(inner, index, accessor)


def plain_accessor(inner: str | None, index: str | None, accessor: Accessor) -> Accessor:
    """Return ``accessor``. Raise ValueError when there is a name or an index."""
    if inner is not None or index is not None:
        raise ValueError("it takes neither name nor index")
    return accessor


def of_environment(make: Callable[[Variables], Accessor]) -> Factory:
    """Return the class of one variable without name and index that needs the environment: ``$Tb``."""
    return lambda inner, index, variables: plain_accessor(inner, index, make(variables))


def keyed(accessors: Mapping[str, Getter | Accessor]) -> Factory:
    """Return the class of a variable with one of a few names: ``$time(hour)``."""

    def factory(inner: str | None, index: str | None, variables: Variables) -> Accessor:
        if index is not None:
            raise ValueError("it takes no index")
        found = accessors.get(inner or "")
        if found is None:
            raise ValueError(f"{inner!r} is none of {', '.join(accessors)}")
        return found if isinstance(found, Accessor) else Accessor(found)

    return factory


def required(inner: str | None) -> str:
    """Return the name in parentheses. Raise ValueError when there is none."""
    if not inner:
        raise ValueError("it needs a name in parentheses")
    return inner


def no_index(index: str | None) -> None:
    """Raise ValueError when there is an index."""
    if index is not None:
        raise ValueError("it takes no index")


def named(get: Callable[[RouteContext, str], Xval]) -> Factory:
    """Return the class of a variable with any name, which may be a variable: ``$hdrc(name)``."""

    def factory(inner: str | None, index: str | None, variables: Variables) -> Accessor:
        no_index(index)
        return Accessor(with_name(variables.name(required(inner)), get))

    return factory


def expanded(get: Callable[[RouteContext, str], Xval]) -> Factory:
    """Return the class of a variable whose name is a format string: ``$lsock(l/udp:$Ri:5060/i)``."""

    def factory(inner: str | None, index: str | None, variables: Variables) -> Accessor:
        no_index(index)
        text = variables.text(required(inner))
        return Accessor(lambda ctx: get(ctx, text(ctx)))

    return factory


def with_name(name: str | Getter, get: Callable[[RouteContext, str], Xval]) -> Getter:
    """Return the getter that calls ``get`` with the name: a constant, or what a variable holds then."""
    if isinstance(name, str):
        constant = name
        return lambda ctx: get(ctx, constant)
    name_of = name

    def get_by_name(ctx: RouteContext) -> Xval:
        current = name_of(ctx)
        return None if current is None else get(ctx, str(current))

    return get_by_name


def number_of(index: str | None, variables: Variables) -> int | Getter:
    """Return what an index stands for: a number (0 when absent) or the getter of a variable. Raise ValueError."""
    if index is None:
        return 0
    name = variables.name(index)
    if isinstance(name, str):
        return int(name) if is_number(name) else _no_number(name)
    return name


def _no_number(text: str) -> int:
    raise ValueError(f"{text!r} is no number")


def at_value(values: list[T], index: Xval) -> T | None:
    """Return the value at ``index`` (None: 0), counted from the end when negative; None outside."""
    i = 0 if index is None else index
    return values[i] if isinstance(i, int) and -len(values) <= i < len(values) else None


def indexed(values_of: Callable[[RouteContext], list[str]], index: str | None, variables: Variables) -> Getter:
    """Return the getter of one value of a list; the index ``*`` joins all of them."""
    if index == "*":
        return lambda ctx: ",".join(values_of(ctx)) or None
    number = number_of(index, variables)
    if isinstance(number, int):
        constant = number
        return lambda ctx: at_value(values_of(ctx), constant)
    index_of = number

    def get(ctx: RouteContext) -> Xval:
        current = index_of(ctx)
        return at_value(values_of(ctx), current) if isinstance(current, int) else None

    return get
