"""maxfwd: the Max-Forwards header (RFC 3261 sections 16.3 and 16.6 step 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.kemi.route import Route
from polykemi.live import live
from polykemi.modules.base import Module, Services

_KEY: Final = "maxfwd"  # ctx.cache: the value that goes out
_LINES: Final = [f"Max-Forwards: {value}" for value in range(256)]


@dataclass(frozen=True, slots=True)
class Params:
    """Kamailio's name and default."""

    max_limit: int = live(70, "the highest Max-Forwards that goes out, 0 to 255")

    def __post_init__(self) -> None:
        if not 0 <= self.max_limit <= 255:
            raise ValueError(f"max_limit: expected 0 to 255, got {self.max_limit}")


class MaxFwd(Module):
    """Counts Max-Forwards down."""

    name = "maxfwd"
    Params = Params

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)  # mypyc runs one that is inherited twice, and keeps what the first has set

    @export(routes=Route.REQUEST | Route.BRANCH | Route.FAILURE)
    def process_maxfwd(self, ctx: RouteContext, limit: int) -> int:
        """Count Max-Forwards down by one, or add it with the value ``limit`` when it is missing.

        Answers 1 (counted down), 2 (added), -1 (it is 0, or the limit is not within 0..255), -2 (malformed).
        """
        if not 0 <= limit <= 255:
            return -1
        message, edits = ctx.message, ctx.edits
        index = message.shape.first.get("max-forwards")
        if index is None:
            if _KEY not in ctx.cache:
                value = ctx.cache[_KEY] = min(limit, self.params.max_limit)
                edits.inserts.append((0, _LINES[value]))
            return 2
        before: int | None = ctx.cache.get(_KEY)
        if before is None:
            text = message.value(index)
            if not text.isdecimal() or len(text) > 9:
                return -2
            before = int(text)
        if before == 0:
            return -1
        params: Params = self.params
        value = ctx.cache[_KEY] = before - 1 if before <= params.max_limit else params.max_limit
        edits.replaced[index] = _LINES[value]
        return 1

    @export(routes=Route.REQUEST | Route.BRANCH | Route.FAILURE)
    def is_maxfwd_lt(self, ctx: RouteContext, limit: int) -> int:
        """Compare Max-Forwards, as it goes out, with ``limit``.

        Answers 1 (less), -1 (not less, or the limit is not within 0..255), -2 (missing), -3 (malformed).
        """
        if not 0 <= limit <= 255:
            return -1
        value = ctx.cache.get(_KEY)
        if value is None:
            text = ctx.message.get("max-forwards")
            if text is None:
                return -2
            if not text.isdecimal() or len(text) > 9:
                return -3
            value = int(text)
        return 1 if value < limit else -1
