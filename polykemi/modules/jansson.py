"""jansson: values out of JSON texts by their path (Kamailio: modules/jansson, with the rules of that library)."""

from __future__ import annotations

import json
import logging
import re
from typing import Any, Final

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.modules.base import Module

log = logging.getLogger("polykemi.script")

_INT: Final = 2**31
_LARGEST: Final = 2**63
_DEEPEST: Final = 200  # levels of nesting


class Jansson(Module):
    """JSON."""

    name = "jansson"

    @export()
    def get(self, ctx: RouteContext, path: str, src: str, dst: str) -> int:
        """Store what is at ``path`` (``a.b[0].c``) of the JSON text ``src`` in the variable named ``dst``.

        Answers 1, or -1 when the text is no JSON or nothing is there. Objects and arrays are stored as JSON, true and
        false as 1 and 0, null as null, what is no integer of 32 bits as text.
        """
        put = self.services.variables.setter(dst)
        if put is None:
            return -1
        try:
            found = at_path(_parsed(src), path)
        except (ValueError, RecursionError) as error:
            log.error("jansson.get: %r is no JSON: %s", src[:200], error)
            return -1
        except LookupError:
            return -1
        put(ctx, _as_value(found))
        return 1


def _parsed(text: str) -> Any:
    """Read a JSON object or array. Raise ValueError."""
    if text.count("[") + text.count("{") > _DEEPEST and _depth(text) > _DEEPEST:
        raise ValueError("too deep")
    value = json.loads(
        text.encode("latin-1").decode("utf-8"),
        object_pairs_hook=_without_duplicates,
        parse_constant=_refuse,
        parse_int=_integer,
    )
    if not isinstance(value, (dict, list)):
        raise ValueError("expected an object or an array")
    return value


def _depth(text: str) -> int:
    """Return how deep the text nests, brackets in strings included: an upper bound."""
    deepest = depth = 0
    for c in text:
        depth += (c in "[{") - (c in "]}")
        deepest = max(deepest, depth)
    return deepest


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in an object")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _integer(text: str) -> int:
    if len(text) > 20 or not -_LARGEST <= int(text) < _LARGEST:
        raise ValueError("an integer is too large")
    return int(text)


_INDEX: Final = re.compile(r"[ \t\r\n]*([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*|)")


def at_path(value: Any, path: str) -> Any:
    """Return what is at ``a.b[0].c`` of ``value``. Raise LookupError when nothing is there, or for what is no path."""
    steps = path
    name: str | None = ""
    while steps:
        if name is not None and not steps.startswith("["):
            match = re.match(r"[^.\[]*", steps)
            assert match is not None
            value, steps = _member(value, match[0]), steps[match.end() :]
        elif steps.startswith("["):
            end = steps.find("]")
            if end < 0:
                raise LookupError(path)
            value, steps = _element(value, steps[1:end]), steps[end + 1 :]
        else:
            raise LookupError(path)
        name = None
        if steps.startswith("."):
            steps, name = steps[1:], ""
            if not steps:
                break
    return value


def _member(value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        raise LookupError(name)
    key = name.encode("latin-1").decode("utf-8", "replace")
    return value[key]


def _element(value: Any, index: str) -> Any:
    match = _INDEX.fullmatch(index)
    if match is None or not isinstance(value, list) or match[1] == "-":
        raise LookupError(index)
    digits = match[2] or "0"
    base = 16 if digits[:2].lower() == "0x" else 8 if digits[0] == "0" and len(digits) > 1 else 10
    return value[int(digits, base)]


def _as_value(found: Any) -> int | str | None:
    if found is None:
        return None
    if isinstance(found, bool):
        return int(found)
    if isinstance(found, int):
        return found if -_INT <= found < _INT else str(found)
    if isinstance(found, float):
        return f"{found:.15g}"
    text = found if isinstance(found, str) else _dumped(found)
    return text.encode("utf-8", "replace").decode("latin-1")


def _dumped(value: Any) -> str:
    """Write JSON as the library does: compact, numbers with 17 digits."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k, ensure_ascii=False)}:{_dumped(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_dumped, value)) + "]"
    if isinstance(value, float):
        text = f"{value:.17g}"
        return text if any(c in text for c in ".e") else text + ".0"
    return json.dumps(value, ensure_ascii=False)
