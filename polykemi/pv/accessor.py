"""What a pseudo-variable compiles to, and what its class is given to make it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mypy_extensions import mypyc_attr

from polykemi.errors import LimitReached
from polykemi.kemi.context import RouteContext
from polykemi.kemi.ids import Ids
from polykemi.kemi.limits import ScriptLimits, check_value
from polykemi.kemi.registry import Xval
from polykemi.sip.flow import Flow, Listener
from polykemi.transaction.target import Target

log = logging.getLogger("polykemi.script")

if TYPE_CHECKING:
    from polykemi.pv.compiler import Variables

Getter = Callable[[RouteContext], Xval]
Setter = Callable[[RouteContext, Xval], bool]
Text = Callable[[RouteContext], str]


@dataclass(frozen=True, slots=True)
class Accessor:
    """What a variable compiles to. ``set`` is None for read-only ones; setting None means unset; it answers success."""

    get: Getter
    set: Setter | None = None


# A pseudo-variable class makes an accessor of what stands in its parentheses and its index, both as text (None when
# absent), e.g. $hdr(Via)[0] -> factory("Via", "0", variables). Nested variables: variables.text(inner). Raise ValueError
# when the name makes no sense.
Factory = Callable[["str | None", "str | None", "Variables"], Accessor]


@mypyc_attr(native_class=False)
class Store(dict[str, int | str]):
    """Values of variables that live as long as the server. Bounded: a script may make names of what phones send."""

    def __init__(self, limits: ScriptLimits) -> None:
        super().__init__()
        self._limits = limits
        self._octets = 0  # of all texts

    def __setitem__(self, name: str, value: int | str) -> None:
        """Set a variable. Raise LimitReached when it has no room; it stays as it was then."""
        limits, old = self._limits, self.get(name)
        if old is None and len(self) >= limits.variables:
            raise LimitReached(f"{len(self) + 1} variables with {name!r}", "variables", limits.variables)
        if isinstance(value, str) or isinstance(old, str):
            check_value(value, limits)
            octets = self._octets + _octets_of(value) - _octets_of(old)
            if octets > limits.variables_total and octets > self._octets:
                raise LimitReached(f"{octets} octets in all variables", "variables_total", limits.variables_total)
            self._octets = octets
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        """Remove a variable. Raise KeyError."""
        self._octets -= _octets_of(self.get(name))
        super().__delitem__(name)

    def unset(self, name: str) -> None:
        """Remove a variable, if it is there."""
        if name in self:
            del self[name]

    def empty(self) -> None:
        """Remove all."""
        self.clear()
        self._octets = 0


def _octets_of(value: int | str | None) -> int:
    return len(value) if isinstance(value, str) else 0


@dataclass(slots=True)
class Environment:
    """What variables need of the server besides the route context. One for all route blocks."""

    listeners: tuple[Listener, ...] = ()
    started: float = 0.0  # seconds since the epoch
    version: str = "0"
    hostname: str = "localhost"
    ids: Ids | None = None  # makes $sruid and $uuid; they are null without it
    counters: Mapping[str, int] = field(default_factory=dict)  # $stat: "group.name" -> value, the services' own
    definitions: Mapping[str, str] = field(default_factory=dict)  # $def
    process: Mapping[str, str] = field(default_factory=dict)  # $env: the environment of the process
    pid: int = 0  # $pp
    ident: Callable[[Flow], int] = lambda flow: -1  # $conid: the number of a connection, -1 when there is none
    messages: int = 0  # $mi
    limits: ScriptLimits = field(default_factory=ScriptLimits)
    variables: Store = field(init=False)  # $var
    null_variables: Store = field(init=False)  # $vn
    shared: Store = field(init=False)  # $shv
    static_branch: Target = field(default_factory=lambda: Target(""))  # $sbranch

    def __post_init__(self) -> None:
        self.variables, self.null_variables, self.shared = (Store(self.limits) for _ in range(3))
