"""Compile pseudo-variables and format strings once; cache them by text (Kamailio: core/pvapi.c)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval


@dataclass(frozen=True, slots=True)
class Accessor:
    """What a variable compiles to. ``set`` is None for read-only ones; setting None means unset; it answers success."""

    get: Callable[[RouteContext], Xval]
    set: Callable[[RouteContext, Xval], bool] | None = None


# A pseudo-variable class makes an accessor of what stands in its parentheses and its index, both as text (None when
# absent), e.g. $hdr(Via)[0] -> factory("Via", "0", variables). Nested variables: variables.text(inner). Raise ValueError
# when the name makes no sense.
Factory = Callable[["str | None", "str | None", "Variables"], Accessor]


class Variables:
    """placeholder"""
