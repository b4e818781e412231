"""An answer as a person reads it: tables, a line for each thing, whatever the answer's nesting.

Kamailio's answers wrap records (``{"Contact": {...}}``) and put lists of them into others: the wrappings go, and what a list
holds gets a line each, with what stands around it. Columns in which nothing is told are left out. ``as_json`` leaves all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from polykemi.logs.formats import CONTROLS

_ESCAPES = CONTROLS | {ord("\t"): "\\t"}
_NOTHING: Final = ("", "[not set]", "-", "none")  # as Kamailio says it

Record = dict[str, Any]


def readable(result: Any, width: int | None = None) -> list[str]:
    """Return the lines of ``result``. Tables that are wider than ``width`` columns are written record by record."""
    result = _unwrapped(result)
    if isinstance(result, dict):
        return _object(result, width)
    if not isinstance(result, list):
        return _lines(result)
    if result and all(isinstance(one, dict) for one in result):
        return _records(result, width)
    if _is_pairs(result):
        return _table([{"": number, " ": text} for number, text in zip(result[::2], result[1::2], strict=True)])[1:]
    return [line for one in result for line in _lines(one)]


def as_json(result: Any) -> str:
    """Return ``result`` as JSON for other programs."""
    return json.dumps(result, indent=2)


# ---- shapes
def _unwrapped(value: Any) -> Any:
    """Return ``value`` without objects that hold nothing but another object or a list of them: ``{"Contact": {...}}``."""
    while isinstance(value, dict) and len(value) == 1:
        (inner,) = value.values()
        if not isinstance(inner, dict) and not (isinstance(inner, list) and inner and isinstance(inner[0], dict)):
            break
        value = inner
    return [_unwrapped(one) for one in value] if isinstance(value, list) else value


def _is_pairs(values: list[Any]) -> bool:
    """Tell whether numbers and texts follow each other, as in core.ps."""
    return (
        len(values) > 1
        and len(values) % 2 == 0
        and all(type(one) is int for one in values[::2])
        and all(isinstance(one, str) for one in values[1::2])
    )


def _is_records(key: str, value: Any) -> bool:
    """Tell whether ``value`` is a list of objects that say more than one thing each, or are what ``key`` names (AoRs: AoR)."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        return False
    inner = [_unwrapped(one) for one in value]
    return any(isinstance(one, dict) and (len(one) > 1 or f"{next(iter(one), '')}s" == key) for one in inner)


def _flat(record: Record, name: str = "") -> Iterator[tuple[str, Any]]:
    """Give what ``record`` holds; what its objects hold is named ``object.key``."""
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{name}{key}.")
        else:
            yield f"{name}{key}", value


def _expanded(record: Record) -> Iterator[Record]:
    """Give a record for each one in the list that ``record`` holds, the same without a list."""
    flat = dict(_flat(record))
    name = next((key for key, value in flat.items() if _is_records(key, value)), None)
    if name is None:
        yield flat
        return
    inner = flat.pop(name)
    for one in inner:
        yield from _expanded(flat | dict(_flat(_unwrapped(one))))


def _depth(value: Any) -> int:
    """Return how many lists of records ``value`` has inside of each other."""
    if isinstance(value, dict):
        inner = (one for key, found in _flat(value) if _is_records(key, found) for one in found)
        return max((1 + _depth(_unwrapped(one)) for one in inner), default=0)
    return 0


# ---- lines
def _object(value: Record, width: int | None) -> list[str]:
    """Return a line for each key; lists of records, and of texts with blanks in them, stand below theirs, indented."""
    lines: list[str] = []
    for key, inner in _flat(value):
        if _is_records(key, inner):
            lines.append(f"{cell(key)}:")
            lines += [f"  {line}".rstrip() for line in readable(inner, width and width - 2)]
        elif isinstance(inner, list) and len(inner) > 1 and any(" " in one for one in inner if isinstance(one, str)):
            lines += [f"{cell(key)}:", *(f"  {cell(one)}" for one in inner)]
        else:
            lines.append(f"{cell(key)}: {cell(inner)}".rstrip())
    return lines


def _records(rows: list[Record], width: int | None) -> list[str]:
    """Return a table; records with lists of lists, and those that are too wide, stand one below the other."""
    if max(map(_depth, rows)) > 1:
        blocks = [_object(row, width) for row in rows]
    else:
        expanded = [one for row in rows for one in _expanded(row)]
        told = [name for name in _names(expanded) if any(not _is_nothing(row.get(name)) for row in expanded)]
        shown = [{name: row[name] for name in told or _names(expanded) if name in row} for row in expanded]
        lines = _table(shown)
        if width is None or max(map(len, lines), default=0) <= width:
            return lines
        blocks = [[f"{cell(k)}: {cell(v)}" for k, v in row.items() if not _is_nothing(v)] for row in shown]
    return [line for block in blocks for line in (*block, "")][:-1]


def _is_nothing(value: Any) -> bool:
    return value is None or value == [] or (isinstance(value, str) and value in _NOTHING)


def _names(rows: list[Record]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _table(rows: list[Record]) -> list[str]:
    """Return a heading and a line for each row; numbers stand to the right."""
    names = _names(rows)
    numbers = [all(type(row.get(name, 0)) in (int, float) for row in rows) for name in names]
    cells = [[cell(name) for name in names]]
    cells += [[cell(row[name]) if name in row else "" for name in names] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    lines = []
    for line in cells:
        columns = zip(line, widths, numbers, strict=True)
        lines.append("  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in columns).rstrip())
    return lines


def _lines(value: Any) -> list[str]:
    """Return a value that stands by itself. The lines of a text, such as a SIP message, are indented: none passes for another."""
    if not isinstance(value, str):
        return [cell(value)]
    first, *rest = map(cell, value.rstrip("\r\n").split("\n"))
    return [first, *(f"    {line}".rstrip() for line in rest)]


def cell(value: Any) -> str:
    """Return ``value`` on one line; what came from the network must not steer a terminal."""
    if isinstance(value, list):
        return " ".join(map(cell, value))
    if isinstance(value, dict):
        return " ".join(f"{cell(key)}={cell(inner)}" for key, inner in value.items())
    text = value.rstrip("\r\n") if isinstance(value, str) else json.dumps(value)
    return text.translate(_ESCAPES).encode("utf-8", "backslashreplace").decode()
