"""How much scripts may keep and make (the table ``[limits]``): a call that would go beyond fails, and the log says where."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

from polykemi.errors import LimitReached
from polykemi.live import live

if TYPE_CHECKING:
    from polykemi.kemi.context import RouteContext


DEEPEST: Final = 16  # route blocks inside of one another that the stack of the process has room for


@dataclass(frozen=True, slots=True)
class ScriptLimits:
    """Sizes are octets."""

    depth: int = live(DEEPEST, "route blocks, and calls of scripts, inside of each other; 16 at most")
    value: int = live(256 << 10, "size of a value: $var, $vn, $shv, $avp, $xavp, what stands in a queue")
    variables: int = live(100_000, "names of $var, of $vn and of $shv")
    variables_total: int = live(64 << 20, "size of the values of all $var, of all $vn, of all $shv")
    avps: int = live(10_000, "values that the AVPs and XAVPs of a message have together")
    avps_total: int = live(16 << 20, "their size")
    htable_key: int = live(4 << 10, "size of a key of a hash table")
    htable_value: int = live(256 << 10, "size of a value of a hash table")
    htable_total: int = live(512 << 20, "size of all keys and values of all hash tables")
    mqueue_total: int = live(64 << 20, "size of what waits in a queue")
    dialog_variables: int = live(100, "variables of a dialog")
    dialog_total: int = live(64 << 10, "their size")
    headers: int = live(256, "header lines, or groups of them, that a script adds to a message, and to its replies")
    header: int = live(16 << 10, "size of what is added at once")

    def __post_init__(self) -> None:
        for one in fields(self):
            if getattr(self, one.name) < 1:
                raise ValueError(f"{one.name}: expected 1 or more, got {getattr(self, one.name)}")
        if self.depth > DEEPEST:
            raise ValueError(f"depth: expected 1 to {DEEPEST}, got {self.depth}")


def check_value(value: int | str, limits: ScriptLimits) -> None:
    """Raise LimitReached for a text that is too long."""
    if isinstance(value, str) and len(value) > limits.value:
        raise LimitReached(f"a value of {len(value)} octets", "value", limits.value)


def admit(ctx: RouteContext, value: int | str, limits: ScriptLimits) -> None:
    """Count a value that goes into an AVP or an XAVP of the message. Raise LimitReached when it has no room."""
    shared = ctx.shared
    size = 0
    if isinstance(value, str):
        size = len(value)
        if size > limits.value:
            raise LimitReached(f"a value of {size} octets", "value", limits.value)
    values, octets = shared.values + 1, shared.octets + size
    if values > limits.avps or octets > limits.avps_total:  # what was removed since has not been taken off
        kept, kept_octets = shared.recount()
        values, octets = kept + 1, kept_octets + size
        if values > limits.avps:
            raise LimitReached(f"{values} values of AVPs and XAVPs", "avps", limits.avps)
        if octets > limits.avps_total:
            raise LimitReached(f"{octets} octets in AVPs and XAVPs", "avps_total", limits.avps_total)
    shared.values, shared.octets = values, octets


def check_header(lines: str, count: int, limits: ScriptLimits) -> None:
    """Raise LimitReached when ``lines`` are too long, or ``count`` others have been added before."""
    if len(lines) > limits.header:
        raise LimitReached(f"header lines of {len(lines)} octets", "header", limits.header)
    if count >= limits.headers:
        raise LimitReached(f"{count + 1} added headers", "headers", limits.headers)
