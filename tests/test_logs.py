"""A log line is readable, and one line, whatever the network or a script put into it."""

from __future__ import annotations

import logging

import pytest

from polykemi.kemi.binding import to_octets
from polykemi.logs import Few, LineFormatter


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


def test_a_thousand_lines_of_one_kind_do_not_fill_the_disk() -> None:
    few, written = Few(), list[str]()

    def log(second: float, text: str, *arguments: object, name: str = "polykemi.transport") -> None:
        record = logging.LogRecord(name, logging.INFO, "", 0, text, arguments, None)
        record.created = second
        if few.filter(record):
            written.append(record.getMessage())

    for n in range(1000):
        log(5 + n / 1000, "closed tcp:%s:%d", "192.0.2.1", n)
        log(5 + n / 1000, "script error in %s", "x", name="polykemi.router")
        log(5 + n / 1000, "%s", f"said by a script {n}")
    assert len([line for line in written if line.startswith("closed")]) == 100
    assert len([line for line in written if line.startswith("script")]) == 100
    assert len([line for line in written if line.startswith("said")]) == 1000
    log(6.5, "closed tcp:%s:%d", "192.0.2.1", 7)
    log(6.6, "closed tcp:%s:%d", "192.0.2.1", 8)
    assert written[-2:] == ["closed tcp:192.0.2.1:7 (and 900 more like this before)", "closed tcp:192.0.2.1:8"]


def test_kinds_made_of_texts_are_forgotten() -> None:
    few = Few()
    for n in range(5000):
        assert few.filter(logging.LogRecord("polykemi.x", logging.INFO, "", 0, f"text {n}", (), None))
    assert len(few._seen) <= 1000
