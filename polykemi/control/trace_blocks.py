"""A route block as a tree of plain data: its KSR calls, what they changed, and the blocks and calls inside of them.

A block is ``{"kind", "callback", "evname", "engine", "version", "script", "us", "calls", "left_out", "error"}``, a call is
``{"function", "where", "arguments", "result", "us", "changes", "inside", "error"}``; what does not apply is left out.
Texts are octets; microseconds are wall time, with what ran inside. A change is ``[what, old, new]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from polykemi.kemi.context import Exit, RouteContext
from polykemi.kemi.documents import compact
from polykemi.kemi.probes import Ended
from polykemi.kemi.registry import Export
from polykemi.kemi.route import ROUTE_NAMES
from polykemi.pv.compiler import Variables

Node = dict[str, Any]
Change = list[Any]

LONGEST: Final = 500  # octets that are kept of a text
_ROOM: Final = 200_000  # octets of arguments and results that are kept of an outermost block
_CALL: Final = 100  # octets that a call takes of that, besides its texts
_SETTERS: Final = ("KSR.pv.sets", "KSR.pv.seti", "KSR.pv.unset")


class Recorder:
    """Makes the trees: told of each block that begins and ends and, as a watcher of the probes, of each call."""

    def __init__(self, variables: Variables, clock: Callable[[], float]) -> None:
        """``clock``: seconds, of any beginning."""
        self._variables, self._clock = variables, clock
        self._inside: list[list[Node]] = []  # where what begins now belongs, the innermost last; empty: nothing is kept
        self._blocks: list[tuple[Node, int]] = []  # that run now, each with how deep it lies in ``_inside``
        self._room = 0

    def began(self, ctx: RouteContext, engine: str) -> None:
        """A block begins that is to be kept: an outermost one, or one inside of it."""
        block: Node = {"kind": ROUTE_NAMES[ctx.kind], "callback": ctx.callback}
        if ctx.event:
            block["evname"] = ctx.event
        block |= {"engine": engine, "calls": []}
        if self._blocks:
            self._inside[-1].append(block)
        else:
            self._room = _ROOM
        self._blocks.append((block, len(self._inside)))
        self._inside.append(block["calls"])

    def ended(self, ctx: RouteContext, seconds: float) -> Node:
        """The innermost block has ended: return it."""
        block, depth = self._blocks.pop()
        del self._inside[depth:]  # more than one where a script was stopped in the middle of a call
        version = ctx.shared.version
        if version is not None:
            block["version"], block["script"] = version.number, str(version.scripts[block["engine"]].path)
        block["us"] = _us(seconds)
        if ctx.error is not None:
            block["error"] = _cut(str(ctx.error))
        return block

    def called(
        self, export: Export, ctx: RouteContext | None, arguments: tuple[Any, ...], where: Callable[[], str]
    ) -> Ended | None:
        """A call begins (``probes.Watcher``)."""
        if not self._inside:
            return None
        shown = [_shown(argument) for argument in arguments]
        self._room -= _CALL + sum(len(one) for one in shown if isinstance(one, str))
        if self._room < 0:
            block, _ = self._blocks[-1]
            block["left_out"] = block.get("left_out", 0) + 1
            return None
        call: Node = {"function": export.path, "where": where(), "arguments": shown}
        self._inside[-1].append(call)
        inside: list[Node] = []
        self._inside.append(inside)
        depth = len(self._inside) - 1
        before = self._state(ctx, export, arguments)
        began = self._clock()

        def ended(result: Any, error: BaseException | None) -> None:
            call["us"] = _us(self._clock() - began)
            del self._inside[depth:]
            if error is not None and not isinstance(error, Exit):
                call["error"] = _cut(str(error) or type(error).__name__)
            if not (error is None and export.returns == "none") and not isinstance(error, Exit):
                call["result"] = _shown(result)
                self._room -= len(call["result"]) if isinstance(call["result"], str) else 0
            if changes := list(_changes(before, self._state(ctx, export, arguments), ctx)):
                call["changes"] = changes
            if inside:
                call["inside"] = inside

        return ended

    def _state(self, ctx: RouteContext | None, export: Export, arguments: tuple[Any, ...]) -> dict[str, Any]:
        """Return what a call may change, by name."""
        if ctx is None:
            return {}
        shared = ctx.shared
        state: dict[str, Any] = {
            "$ru": ctx.ruri,
            "$du": ctx.dst_uri,
            "$fs": "" if ctx.force_listener is None else str(ctx.force_listener),
            "path": ctx.path,
            "rport": ctx.force_rport,
            "flags": shared.flags,
            "branch flags": ctx.bflags,
            "script flags": ctx.sflags,
            "dropped": ctx.dropped,
            _BRANCHES: [branch.uri for branch in ctx.branches],
            _REPLY_LINES: ctx.reply_headers.copy(),
            _INSERTS: [text for _, text in ctx.edits.inserts],
            _REMOVED: ctx.edits.removed.copy(),
            _REPLACED: ctx.edits.replaced.copy(),
            "body": ctx.edits.body,
        }
        if export.path in _SETTERS and arguments and isinstance(arguments[0], str) and arguments[0] not in state:
            name = arguments[0]
            accessor = None if self._variables.problem(name) else self._variables.compile(name)
            try:
                state[name] = accessor.get(ctx) if accessor is not None else None
            except Exception:  # noqa: BLE001 - the variable belongs to any module: no trace shall end a route
                state[name] = None
        return state


_BRANCHES: Final = "branch"
_REPLY_LINES: Final = "reply header"
_INSERTS: Final = "header"
_REMOVED: Final = "removed"
_REPLACED: Final = "replaced"
_LISTS: Final = (_BRANCHES, _REPLY_LINES, _INSERTS)


def _changes(before: dict[str, Any], after: dict[str, Any], ctx: RouteContext | None) -> Iterator[Change]:
    """Give what differs: lists by what came and went, header lines with their texts."""
    for name, old in before.items():
        new = after[name]
        if old == new:
            continue
        if name in _LISTS:
            kept = min(len(old), len(new))
            if old[:kept] != new[:kept]:
                kept = 0
            yield from ([name, _shown(one), None] for one in old[kept:])
            yield from ([name, None, _shown(one)] for one in new[kept:])
        elif name == _REMOVED and ctx is not None:
            lines = ctx.message.lines
            yield from (["header", _shown(lines[i]), None] for i in sorted(new - old) if i < len(lines))
        elif name == _REPLACED and ctx is not None:
            lines = ctx.message.lines
            changed = [i for i, line in sorted(new.items()) if old.get(i) != line and i < len(lines)]
            yield from (["header", _shown(old.get(i, lines[i])), _shown(new[i])] for i in changed)
        elif name.endswith("flags"):
            yield [name, _bits(old), _bits(new)]
        elif name == "body":
            yield [name, *(None if one is None else f"{len(one)} octets" for one in (old, new))]
        else:
            yield [name, _shown(old), _shown(new)]


def _bits(flags: int) -> str:
    """Return the numbers of the flags that are set."""
    return " ".join(str(bit) for bit in range(flags.bit_length()) if flags >> bit & 1)


def _shown(value: Any) -> Any:
    """Return ``value`` as JSON can hold it, texts cut."""
    if isinstance(value, str):
        return _cut(value)
    return _cut(compact(value)) if isinstance(value, list | dict) else value


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text)} octets)"


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
