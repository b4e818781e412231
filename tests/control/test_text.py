"""What `polykemi rpc` prints."""

from __future__ import annotations

from typing import Any

import pytest

from polykemi.control.client import argument
from polykemi.control.text import readable


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        ("polykemi 0.1.0", ["polykemi 0.1.0"]),
        (5, ["5"]),
        (None, ["null"]),
        (["a", 1, True], ["a", "1", "true"]),
        ({"uptime": 5, "now": "today", "deep": {"a": 1}}, ["uptime: 5", "now: today", 'deep: {"a": 1}']),
        ([], []),
        ({}, []),
        ([{"a": 1}, "b"], ['{"a": 1}', "b"]),
    ],
)
def test_results_are_lines(result: Any, lines: list[str]) -> None:
    assert readable(result) == lines


def test_a_list_of_objects_is_a_table_with_its_numbers_to_the_right() -> None:
    rows = [{"block": "main", "cnt": 7, "us": 1.5}, {"block": "x", "cnt": 1200, "us": 10}, {"block": "y", "more": "!"}]
    assert readable(rows) == [
        "block   cnt   us  more",
        "main      7  1.5",
        "x      1200   10",
        "y                 !",
    ]


def test_what_would_steer_a_terminal_or_forge_a_line_is_escaped() -> None:
    assert readable(["\x1b[2J\n\t\x00\udcff\ud800ü"]) == ["\\x1b[2J\\n\\t\\x00\\xff\\ud800ü"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("1.5", 1.5),
        ("0", 0),
        ("007", "007"),
        ("+49", "+49"),
        ("1.50", "1.50"),
        ("1_000", "1_000"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("all", "all"),
        ("", ""),
        ("s:5", "5"),
        ("s:", ""),
    ],
)
def test_what_is_written_as_a_number_is_one(text: str, value: Any) -> None:
    found = argument(text)
    assert (type(found), found) == (type(value), value)
