"""KSR.pv: pseudo-variables read and written by name (Kamailio: core/kemi.c, sr_kemi_pv)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval, export
from polykemi.modules.base import Module, Services
from polykemi.modules.pv_rpc import PvCommands, shared_value
from polykemi.pv.accessor import Accessor, Factory
from polykemi.pv.classes.factories import no_index, plain, required
from polykemi.pv.classes.script import to_int

if TYPE_CHECKING:
    from polykemi.pv.compiler import Variables

_KINDS: Final = {"i": "int", "s": "str"}

log = logging.getLogger("polykemi.pv")


@dataclass(frozen=True, slots=True)
class Params:
    """Core parameters of the cache of compiled names, and what variables begin with: ``NAME=i:NUMBER`` or ``NAME=s:TEXT``."""

    pv_cache_limit: int = 2048  # compiled names that are kept
    pv_cache_action: int = 0  # 0: warn once when the limit is reached
    shvset: tuple[str, ...] = ()  # values of `$shv(NAME)` at the start: `NAME=i:NUMBER` or `NAME=s:TEXT`
    varset: tuple[str, ...] = ()  # values of `$var(NAME)` at the start, likewise

    def __post_init__(self) -> None:
        for name in ("shvset", "varset"):
            try:
                _beginnings(getattr(self, name))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None


def _beginnings(definitions: Iterable[str]) -> dict[str, int | str]:
    """Return what variables begin with. Raise ValueError."""
    out: dict[str, int | str] = {}
    for text in definitions:
        name, _, rest = text.partition("=")
        kind, colon, value = rest.partition(":")
        if not name or not colon or kind not in _KINDS:
            raise ValueError(f"expected NAME=i:NUMBER or NAME=s:TEXT, got {text!r}")
        out[name] = shared_value(_KINDS[kind], value)
    return out


class Pv(Module):
    """Variables by name. A name is compiled once; a call looks it up and reads."""

    name = "pv"
    Params = Params

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self._variables = services.variables
        self._variables.bound(self.params.pv_cache_limit, self.params.pv_cache_action)
        environment = services.variables.environment
        environment.shared.update(_beginnings(self.params.shvset))
        environment.variables.update(_beginnings(self.params.varset))
        self._getters = services.variables.getters

    def commands(self) -> tuple[object, ...]:
        """Return the commands pv.shvGet and pv.shvSet."""
        return (PvCommands(self.services.variables.environment.shared),)

    def pv_classes(self) -> Mapping[str, Factory]:
        """``$ccp(module.parameter)``: the value of a module's parameter; ``$conid``: the connection that a message came on."""

        def parameter(inner: str | None, index: str | None, variables: Variables) -> Accessor:
            no_index(index)
            group, dot, name = required(inner).rpartition(".")
            if not dot or not group:
                raise ValueError("it is $ccp(module.parameter)")
            modules, live = self.services.modules, self.services.live

            def get(ctx: RouteContext) -> Xval:
                variable = live.group(group).get(name)  # by Kamailio's names, as cfg.get
                if variable is not None:
                    value: Any = variable.value
                else:
                    value = getattr(modules[group].params, name, None) if group in modules else None
                return int(value) if isinstance(value, bool) else value if isinstance(value, (int, str)) else None

            return Accessor(get)

        return {"ccp": parameter, "conid": plain(self._conid)}

    def _conid(self, ctx: RouteContext) -> Xval:
        ident = self.services.connections.ident(ctx.flow)
        return None if ident < 0 else ident

    @export()
    def get(self, ctx: RouteContext, name: str) -> Xval:
        """Return the value of the variable; null as null."""
        return self._getters[name](ctx)

    @export()
    def getw(self, ctx: RouteContext, name: str) -> Xval:
        """Return the value of the variable; null as ``<null>``."""
        value = self._getters[name](ctx)
        return "<null>" if value is None else value

    @export()
    def gete(self, ctx: RouteContext, name: str) -> Xval:
        """Return the value of the variable; null as empty text."""
        value = self._getters[name](ctx)
        return "" if value is None else value

    @export()
    def geti(self, ctx: RouteContext, name: str) -> int:
        """Return the value as number; 0 for null and for what is no number."""
        value = self._getters[name](ctx)
        return value if isinstance(value, int) else to_int(value or "")

    @export()
    def getl(self, ctx: RouteContext, name: str) -> Xval:
        """Return the value as number, never null; 0 for null and for what is no number."""
        return self.geti(ctx, name)

    @export()
    def getvn(self, ctx: RouteContext, name: str, default: int) -> Xval:
        """Return the value of the variable; ``default`` for null."""
        value = self._getters[name](ctx)
        return default if value is None else value

    @export()
    def getvs(self, ctx: RouteContext, name: str, default: str) -> Xval:
        """Return the value of the variable; ``default`` for null."""
        value = self._getters[name](ctx)
        return default if value is None else value

    @export()
    def seti(self, ctx: RouteContext, name: str, value: int) -> bool:
        """Set the variable to a number."""
        return self._set(ctx, name, value)

    @export()
    def setl(self, ctx: RouteContext, name: str, value: int) -> bool:
        """Set the variable to a number."""
        return self._set(ctx, name, value)

    @export()
    def sets(self, ctx: RouteContext, name: str, value: str) -> bool:
        """Set the variable to a text."""
        return self._set(ctx, name, value)

    @export()
    def unset(self, ctx: RouteContext, name: str) -> bool:
        """Set the variable to null."""
        return self._set(ctx, name, None)

    @export()
    def is_null(self, ctx: RouteContext, name: str) -> bool:
        """Tell whether the variable is null; true for a bad name too."""
        return self._getters[name](ctx) is None

    def _set(self, ctx: RouteContext, name: str, value: Xval) -> bool:
        accessor = self._variables.compile(name)
        if accessor is None:
            return False
        if accessor.set is None:  # as in Kamailio this is no failure
            log.warning("%s is read-only, it stays as it is", name)
            return True
        if accessor.set(ctx, value):
            return True
        log.error("%s cannot be set to %r", name, value)
        return False
