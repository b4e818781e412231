"""``{val.*}`` and ``{num.*}``: null made visible, digits."""

from __future__ import annotations

from typing import Final

from polykemi.kemi.registry import Xval
from polykemi.pv.transformations.shape import Step
from polykemi.pv.transformations.strings import json_text


def _json(value: Xval) -> Xval:
    return "" if value is None else json_text(value) if isinstance(value, str) else value


def _quoted_json(value: Xval) -> Xval:
    return '""' if value is None else f'"{json_text(value)}"' if isinstance(value, str) else value


def _digit(value: Xval, at: int) -> Xval:
    digits = [c for c in ("" if value is None else str(value)) if "0" <= c <= "9"]
    return int(digits[at]) if digits else None


STEPS: Final[dict[str, Step]] = {
    "val.n0": Step(lambda value: 0 if value is None else value, raw=True),
    "val.ne": Step(lambda value: "" if value is None else value, raw=True),
    "val.json": Step(_json, raw=True),
    "val.jsonqe": Step(_quoted_json, raw=True),
    "num.fdigit": Step(lambda value: _digit(value, 0), raw=True),
    "num.ldigit": Step(lambda value: _digit(value, -1), raw=True),
}
