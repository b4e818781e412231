"""What a pseudo-variable compiles to, and what its class is given to make it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mypy_extensions import mypyc_attr

from polykemi.kemi.context import RouteContext
from polykemi.kemi.ids import Ids
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


MOST_VARIABLES: Final = 100_000  # of a kind


@mypyc_attr(native_class=False)
class Store(dict[str, int | str]):
    """Values of variables that live as long as the server. Bounded: a script may make names of what phones send."""

    _is_full = False  # and the log says so

    def __setitem__(self, name: str, value: int | str) -> None:
        """Set a variable; a new one beyond MOST_VARIABLES stays unset, and is told of once."""
        if len(self) >= MOST_VARIABLES and name not in self:
            if not self._is_full:
                self._is_full = True
                log.error("there are %d variables, %r is not kept; is a name made of what changes?", len(self), name)
        else:
            super().__setitem__(name, value)


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
    variables: dict[str, int | str] = field(default_factory=Store)  # $var
    null_variables: dict[str, int | str] = field(default_factory=Store)  # $vn
    shared: dict[str, int | str] = field(default_factory=Store)  # $shv
    static_branch: Target = field(default_factory=lambda: Target(""))  # $sbranch
