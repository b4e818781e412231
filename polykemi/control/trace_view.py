"""The events of a trace as lines for a reader: a ladder of the messages of each call, and the trees of the blocks beside it.

Pure: events (docs/tracing.md) come in, lines go out. Each call has its own ladder; where events of several calls mix, a line
tells which one goes on.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, tzinfo
from itertools import chain
from pathlib import PurePath
from typing import Any, Final
from unicodedata import east_asian_width

from polykemi.control.text import cell

Segments = list[tuple[str, str]]  # style and text

_STEP: Final = 6  # columns from one lifeline to the next
_USUAL: Final = 3  # lifelines that there is room for from the beginning: caller, server, callee
_MOST: Final = 12  # lifelines of one call; more places share the last
_MOST_CALLS: Final = 1000  # whose ladders are kept
_SERVER: Final = 1  # the lifeline of the server: behind that of who was there first
_LISTS: Final = ("header", "reply header", "branch")  # changes that are lines which come and go
_SGR: Final = {
    "call": "1",
    "request": "1",
    "1": "33",
    "2": "1;32",
    "3": "33",
    "block": "36",
    "change": "33",
    "error": "31",
}
_FAILED: Final = "1;31"  # of replies
_DIM: Final = "2"


class _Ladder:
    """The lifelines of one call."""

    def __init__(self) -> None:
        self.peers: list[str] = []

    def lane(self, peer: str) -> tuple[int, bool]:
        """Return the lifeline of a peer, and whether it is new."""
        is_new = peer not in self.peers
        if is_new:
            self.peers.append(peer)
        place = min(self.peers.index(peer), _MOST - 2)
        return place if place < _SERVER else place + 1, is_new

    def letters(self) -> str:
        """Return the names of the lifelines, each above its own."""
        return self._row([_letter(lane) for lane in range(self._count())])

    def gutter(self, start: int = 0, end: int = 0) -> str:
        """Return the lifelines, with an arrow from one to another when they differ."""
        row = list(self._row(["|"] * self._count()))
        first, last = sorted((start * _STEP, end * _STEP))
        for i in range(first + 1, last):
            row[i] = "-" if row[i] == " " else "+"
        if start < end:
            row[last - 1] = ">"
        elif end < start:
            row[first + 1] = "<"
        return "".join(row)

    def _count(self) -> int:
        return min(max(len(self.peers), 1) + 1, _MOST)

    def _row(self, marks: list[str]) -> str:
        return "".join(mark.ljust(_STEP) for mark in marks).rstrip(" ").ljust(_STEP * (_USUAL - 1) + 1)


def _letter(lane: int) -> str:
    return "*" if lane == _SERVER else chr(ord("A") + lane - (lane > _SERVER))


class View:
    """Draws one trace. ``width``: columns that a line may take, None for any number."""

    def __init__(
        self, *, width: int | None = None, colours: bool = False, times: bool = True, zone: tzinfo | None = UTC
    ) -> None:
        """``times``: tell when messages came and how long things took. ``zone``: of those times, None for the system's."""
        self.width = width
        self._colours, self._times, self._zone = colours, times, zone
        self._ladders: dict[str, _Ladder] = {}
        self._last: str | None = None  # the call of the last event

    def lines(self, event: dict[str, Any]) -> list[str]:
        """Return the lines of an event."""
        match event["event"]:
            case "lost":
                self._last = None
                return [
                    self._line(
                        [("error", f"... {event['count']} events are lost: they came faster than they were read")]
                    )
                ]
            case "received" | "sent" | "block":
                rows = self._rows(event)
            case "malformed":
                self._last = None
                rows = [self._malformed(event)]
            case _:
                rows = []
        return [self._line(row) for row in rows]

    def _rows(self, event: dict[str, Any]) -> list[Segments]:
        call_id = event["call_id"]
        rows: list[Segments] = []
        ladder = self._ladders.get(call_id)
        if ladder is None:
            if len(self._ladders) >= _MOST_CALLS:
                self._ladders.clear()
            ladder = self._ladders[call_id] = _Ladder()
        if self._last != call_id:
            rows += [[]] if self._last is not None else []
            rows.append([("call", f"Call-ID {cell(call_id)}" if call_id else "without a Call-ID")])
            self._last = call_id
        if event["event"] == "block":
            tree = _block(event, 0, times=self._times)
            return rows + [[("dim", ladder.gutter()), *row] for row in tree]
        return rows + self._message(event, ladder)

    def _message(self, event: dict[str, Any], ladder: _Ladder) -> list[Segments]:
        """Return the row of a message, behind one that names a new lifeline, and its text when it is there."""
        peer = event["peer"]
        lane, is_new = ladder.lane(peer)
        rows: list[Segments] = []
        if is_new:
            rows.append([("dim", f"{ladder.letters()} {_letter(lane)}: {cell(peer)}   *: {cell(event['local'])}")])
        came = event["event"] == "received"
        gutter = ladder.gutter(lane, _SERVER) if came else ladder.gutter(_SERVER, lane)
        row: Segments = [("dim", gutter), ("", " ")]
        row += self._time(event)
        line = event["line"]
        if line.startswith("SIP/2.0 "):
            row += [(line[8:9], cell(line[8:])), ("dim", f"  {cell(event['cseq'])}")]
        else:
            row.append(("request", cell(line.removesuffix(" SIP/2.0"))))
        row.append(("dim", f"  {'from' if came else 'to'} {cell(peer)}"))
        rows.append(row)
        if "message" in event:
            texts = event["message"].replace("\r\n", "\n").rstrip("\n").split("\n")
            rows += [[("dim", ladder.gutter()), ("", f"   {cell(text)}")] for text in texts]
        return rows

    def _malformed(self, event: dict[str, Any]) -> Segments:
        done = "refused" if event["answered"] else "dropped"
        what = f"{done}, {event['octets']} octets from {cell(event['peer'])}: {cell(event['cause'])}"
        return [*self._time(event), ("error", what), ("dim", f"  {cell(event['line'])}")]

    def _time(self, event: dict[str, Any]) -> Segments:
        if not self._times:
            return []
        at = datetime.fromtimestamp(event["time"], UTC).astimezone(self._zone)
        return [("dim", f"{at:%H:%M:%S}.{at.microsecond // 1000:03} ")]

    def _line(self, segments: Segments) -> str:
        """Return the row as one line, cut to the width."""
        room = self.width
        parts: list[str] = []
        for style, text in _cut(segments, room) if room is not None else segments:
            code = _SGR.get(style) or (_FAILED if style.isdecimal() else _DIM if style == "dim" else "")
            parts.append(f"\x1b[{code}m{text}\x1b[0m" if code and self._colours and text else text)
        return "".join(parts).rstrip(" ")


def _block(block: dict[str, Any], depth: int, *, times: bool) -> list[Segments]:
    """Return the rows of a block and of all that is inside of it."""
    indent = " " * (1 + 2 * depth)
    name = f"{block['kind']} {cell(block['callback'])}" + (f" {cell(block['evname'])}" if "evname" in block else "")
    facts = [block["engine"], *([f"version {block['version']}", cell(block["script"])] if "version" in block else [])]
    facts += [f"{block['us']} us"] if times else []
    rows: list[Segments] = [[("", indent), ("block", name), ("dim", f"  {', '.join(facts)}")]]
    for one in block["calls"]:
        rows += _inside(one, block.get("script", ""), depth + 1, times=times)
    if "left_out" in block:
        rows.append([("error", f"{indent}  ... and {block['left_out']} more calls")])
    if "error" in block:
        rows.append([("error", f"{indent}  {cell(block['error'])}")])
    return rows


def _inside(node: dict[str, Any], script: str, depth: int, *, times: bool) -> list[Segments]:
    return _call(node, script, depth, times=times) if "function" in node else _block(node, depth, times=times)


def _call(call: dict[str, Any], script: str, depth: int, *, times: bool) -> list[Segments]:
    """Return the rows of a call: itself, what it changed, what ran inside of it."""
    indent = " " * (1 + 2 * depth)
    file, _, line = call["where"].rpartition(":")
    place = line if file == script else f"{PurePath(file).name}:{line}"
    text = f"{call['function']}({', '.join(map(_value, call['arguments']))})"
    row: Segments = [("", indent), ("dim", f"{cell(place):>4} "), ("", text)]
    if "result" in call:
        row.append(("", f" = {_value(call['result'])}"))
    if "error" in call:
        row.append(("error", f"  {cell(call['error'])}"))
    if times and "us" in call:
        row.append(("dim", f"  {call['us']} us"))
    changes: list[Segments] = [[("change", f"{indent}       {_change(*change)}")] for change in call.get("changes", ())]
    inside = (_inside(one, script, depth + 2, times=times) for one in call.get("inside", ()))
    return [row, *changes, *chain.from_iterable(inside)]


def _change(what: str, old: Any, new: Any) -> str:
    if what in _LISTS and old is None:
        return f"+ {what} {cell(new)}"
    if what in _LISTS and new is None:
        return f"- {what} {cell(old)}"
    return f"{cell(what)}: {_value(old)} -> {_value(new)}"


def _value(value: Any) -> str:
    return cell(json.dumps(value, ensure_ascii=False))


def _cut(segments: Segments, width: int) -> Segments:
    """Return as much as fits into ``width`` columns; dots tell that there is more."""
    if sum(_columns(text) for _, text in segments) <= width:
        return segments
    room = max(width - 3, 0)
    kept: Segments = []
    for style, text in segments:
        for i, character in enumerate(text):
            room -= _columns(character)
            if room < 0:
                return [*kept, (style, text[:i]), ("dim", "..."[:width])]
        kept.append((style, text))
    return kept


def _columns(text: str) -> int:
    """Return how many columns of a terminal ``text`` takes."""
    return len(text) if text.isascii() else sum(2 if east_asian_width(one) in "WF" else 1 for one in text)
