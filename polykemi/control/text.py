"""An answer as a person reads it."""

from __future__ import annotations

import json
from typing import Any

from polykemi.logs import CONTROLS

_ESCAPES = CONTROLS | {ord("\t"): "\\t", ord("\n"): "\\n"}
# terminals take the second set of control characters too, and these turn the direction of what stands beside them
_ESCAPES |= {n: f"\\x{n:02x}" for n in range(0x80, 0xA0)}
_ESCAPES |= {n: f"\\u{n:04x}" for n in (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))}


def readable(result: Any) -> list[str]:
    """Return the lines of ``result``: a table for a list of objects, ``key: value`` for an object, else one a line."""
    if isinstance(result, dict):
        return [f"{cell(key)}: {cell(value)}" for key, value in result.items()]
    if not isinstance(result, list):
        return [cell(result)]
    if result and all(isinstance(row, dict) for row in result):
        return _table(result)
    return [cell(one) for one in result]


def as_json(result: Any) -> str:
    """Return ``result`` as JSON for other programs."""
    return json.dumps(result, indent=2)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """Return a heading and a line for each row; numbers stand to the right."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    numbers = [all(type(row.get(name, 0)) in (int, float) for row in rows) for name in names]
    cells = [[cell(name) for name in names]]
    cells += [[cell(row[name]) if name in row else "" for name in names] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    lines = []
    for line in cells:
        columns = zip(line, widths, numbers, strict=True)
        lines.append("  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in columns).rstrip())
    return lines


def cell(value: Any) -> str:
    """Return ``value`` on one line; what came from the network must not steer a terminal."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text.translate(_ESCAPES).encode("utf-8", "backslashreplace").decode()
