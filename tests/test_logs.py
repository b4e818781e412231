"""A log line is readable, and one line, whatever the network or a script put into it."""

from __future__ import annotations

import logging

import pytest

from polykemi.kemi.binding import to_octets
from polykemi.logs import LineFormatter


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("done\n", "done"),
        (to_octets("grüße"), "grüße"),
        ("already €", "already €"),
        ("broken \xff octet", "broken \\xff octet"),
        ("\x1b[2J gone\r fake", "\\x1b[2J gone\\x0d fake"),
    ],
)
def test_a_line_is_readable_and_steers_no_terminal(text: str, line: str) -> None:
    record = logging.LogRecord("polykemi.script", logging.INFO, "", 0, "%s", (text,), None)
    assert LineFormatter("%(message)s").format(record) == line
