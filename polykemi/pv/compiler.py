"""Compile pseudo-variables and format strings once; cache them by text (Kamailio: core/pvapi.c)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval
from polykemi.pv.accessor import Accessor, Environment, Factory, Getter, Setter, Text
from polykemi.pv.classes import BUILT_IN
from polykemi.pv.grammar import Reference, parse_text, parse_variable
from polykemi.pv.transformations import STEPS
from polykemi.pv.transformations.shape import Step

log = logging.getLogger("polykemi.pv")

NULL: Final = "<null>"  # what null looks like in text
_MAX_KEPT: Final = 4096  # octets of a text that is kept compiled
_MAX_DEPTH: Final = 32  # of variables inside of names


def to_text(value: Xval) -> str:
    """Return ``value`` as it stands in text."""
    return value if type(value) is str else NULL if value is None else str(value)


class Getters(dict[str, Getter]):
    """Variable text -> getter, the hottest lookup of all. A name that does not compile reads as null."""

    def __init__(self, variables: Variables) -> None:
        self._variables = variables

    def __missing__(self, name: str) -> Getter:
        accessor = self._variables.compile(name)
        getter = accessor.get if accessor is not None else _null
        if len(name) <= _MAX_KEPT:
            self[name] = getter
        return getter


class Variables:
    """The pseudo-variables of one server: their classes, and what was compiled of them.

    ``limit`` is how many compiled texts are kept (Kamailio: pv_cache_limit); beyond it the oldest goes, so that names
    which a script makes by concatenation do not fill the memory. With ``action`` 0 (pv_cache_action)
    this is warned of once, with the line of the script.
    """

    def __init__(
        self,
        classes: Mapping[str, Factory] = BUILT_IN,
        *,
        limit: int = 2048,
        action: int = 0,
        environment: Environment | None = None,
    ) -> None:
        self.environment: Environment = environment if environment is not None else Environment()
        self.getters: dict[str, Getter] = Getters(self)  # variables.getters["$ru"](ctx)
        self._classes = dict(classes)
        self._steps = dict(STEPS)
        self.bound(limit, action)
        self._accessors: dict[str, Accessor | None] = {}
        self._texts: dict[str, Text] = {}
        self._depth = 0
        self.where: Callable[[], str] = _nowhere  # the line of the script's call that is running

    def bound(self, limit: int, action: int) -> None:
        """Set how many compiled texts are kept and what happens when there are more."""
        self._limit = max(limit, 1)
        self._warn = action == 0

    def add(self, classes: Mapping[str, Factory], transformations: Mapping[str, Step] = MappingProxyType({})) -> None:
        """Add the classes and transformations of a module; they replace those of the same name."""
        self._classes.update(classes)
        self._steps.update(transformations)
        self._accessors.clear()  # what was compiled with the replaced ones
        self._texts.clear()
        self.getters.clear()

    def compile(self, name: str) -> Accessor | None:
        """Return the accessor of ``name``, exactly one variable with its ``$``; None, and one logged error, if it is none."""
        try:
            return self._accessors[name]
        except KeyError:
            pass
        try:
            accessor = self._build(name)
        except ValueError as error:
            log.error("%r is no variable: %s%s", name, error, self._at())
            accessor = None
        if len(name) <= _MAX_KEPT:
            self._make_room(self._accessors)
            self._accessors[name] = accessor
        return accessor

    def setter(self, name: str) -> Setter | None:
        """Return what writes into the variable ``name``; None, and one logged error, when nothing can."""
        accessor = self.compile(name)
        if accessor is None:
            return None
        if accessor.set is None:
            log.error("%s cannot be set%s", name, self._at())
        return accessor.set

    def put(self, ctx: RouteContext, name: str, value: Xval) -> bool:
        """Write ``value`` into the variable ``name`` that a script or a parameter names. Tell whether it was done."""
        put = self.setter(name)
        return put is not None and put(ctx, value)

    def problem(self, name: str) -> str | None:
        """Return why ``name`` is no variable, None when it is one; nothing is kept."""
        try:
            self._build(name)
        except ValueError as error:
            return str(error)
        return None

    def _build(self, name: str) -> Accessor:
        reference, end = parse_variable(name)
        if end != len(name):
            raise ValueError(f"text behind the variable at {end}")
        return self.accessor(reference)

    def _at(self) -> str:
        where = self.where()
        return f", at {where}" if where else ""

    def text(self, source: str) -> Text:
        """Return the function that expands the format string ``source``; null gives ``<null>``. Raise ValueError."""
        try:
            return self._texts[source]
        except KeyError:
            pass
        expand = self._expander(parse_text(source))
        if len(source) <= _MAX_KEPT:
            self._make_room(self._texts)
            self._texts[source] = expand
        return expand

    def accessor(self, reference: Reference) -> Accessor:
        """Build the accessor of a parsed variable. Raise ValueError."""
        factory = self._classes.get(reference.name)
        if factory is None:
            raise ValueError(f"there is no ${reference.name}")
        if self._depth >= _MAX_DEPTH:
            raise ValueError("variables are nested too deeply")
        self._depth += 1
        try:
            accessor = factory(reference.inner, reference.index, self)
            if not reference.transformations:
                return accessor
            getter = accessor.get
            for step in reference.transformations:
                parameters = [p if isinstance(p, str) else self.accessor(p).get for p in step.parameters]
                getter = self._step(step.name).apply(step.name, getter, parameters, self)
            return Accessor(getter)
        finally:
            self._depth -= 1

    def _step(self, name: str) -> Step:
        kind, dot, rest = name.partition(".")
        step = self._steps.get(kind + dot + rest.lower())  # as in Kamailio: the name in any case, its class in one
        if step is None:
            raise ValueError(f"there is no transformation {{{name}}}")
        return step

    def name(self, inner: str) -> str | Getter:
        """Return what a name in parentheses stands for: itself, or the getter of the one variable that it is."""
        if inner[:1] != "$":
            return inner
        reference, end = parse_variable(inner)
        if end != len(inner):
            raise ValueError("a name is a text or one variable")
        return self.accessor(reference).get

    def _expander(self, parts: list[str | Reference]) -> Text:
        if not any(isinstance(part, Reference) for part in parts):
            constant = "".join(part for part in parts if isinstance(part, str))
            return lambda ctx: constant
        getters: list[Callable[[RouteContext], Xval]] = [
            _constant(part) if isinstance(part, str) else self.accessor(part).get for part in parts
        ]
        if len(getters) == 1:
            get = getters[0]
            return lambda ctx: to_text(get(ctx))
        return lambda ctx: "".join([to_text(get(ctx)) for get in getters])

    def _make_room(self, cache: dict[str, Accessor | None] | dict[str, Text]) -> None:
        if len(cache) < self._limit:
            return
        if self._warn:
            self._warn = False
            log.warning(
                "over %d different variable names%s: the oldest are forgotten; keep changing parts in a variable, "
                "as in $sht(table=>$var(key))",
                self._limit,
                self._at(),
            )
        oldest = next(iter(cache))
        del cache[oldest]
        self.getters.pop(oldest, None)


def _nowhere() -> str:
    return ""


def _constant(text: str) -> Getter:
    return lambda ctx: text


def _null(ctx: RouteContext) -> Xval:
    return None


__all__ = ["NULL", "Accessor", "Environment", "Factory", "Getter", "Text", "Variables", "to_text"]
