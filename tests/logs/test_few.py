"""Lines that come in masses are few in the log."""

from __future__ import annotations

import logging

from polykemi.logs import Few


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


def test_whatever_scripts_log_does_them_no_harm() -> None:
    few = Few()
    for message in (["a", "list"], {"a": "dict"}, None, 5):
        assert few.filter(logging.LogRecord("script", logging.INFO, "", 0, message, (), None))
    for second in (5, 6):
        for _ in range(200):
            record = logging.LogRecord("script", logging.INFO, "", 0, "%d and %d", (1,), None)
            record.created = second
            few.filter(record)
