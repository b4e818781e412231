"""A log line is readable, and one line, whatever the network or a script put into it; the JSON form is an object."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest

from polykemi.errors import ScriptError
from polykemi.kemi.binding import to_octets
from polykemi.kemi.log_levels import NOTICE
from polykemi.logs.fields import Fields
from polykemi.logs.formats import JsonFormat, LineFormat, journal_entry
from tests.support import message, request_context

CTX = request_context(message("INVITE sip:bob@example.test SIP/2.0", call_id="c 1", from_="<sip:alice@example.test>"))


def record(text: str, level: int = logging.INFO, **more: Any) -> logging.LogRecord:
    made = logging.LogRecord("polykemi.script", level, "", 0, "%s", (text,), None)
    made.created, made.msecs = 1_800_000_000.25, 250.0
    made.__dict__.update(more)
    return made


def fields() -> Fields:
    made = Fields()
    made.attach(lambda: CTX, lambda: "a.lua:7")
    return made


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("done\n", "done"),
        (to_octets("grüße"), "grüße"),
        ("already €", "already €"),
        ("broken \xff octet", "broken \\xff octet"),
        ("\x1b[2J gone\r fake", "\\x1b[2J gone\\x0d fake"),
        ("one\nERROR two", "one\\nERROR two"),
        (to_octets("\u202eegassem\x9b2J"), "\\u202eegassem\\x9b2J"),
        ("x" * 9000, "x" * 8192 + "... (808 more)"),
    ],
)
def test_a_line_is_readable_and_steers_no_terminal(text: str, line: str) -> None:
    assert LineFormat("")(record(text)) == line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (to_octets("grüße\n"), "grüße"),
        ("a\nb\x1b", "a\nb\x1b"),
        ("broken \xff", "broken \\xff"),
        (to_octets("\u202e\x9b"), "\\u202e\\x9b"),
        ("x" * 9000, "x" * 8192 + "... (808 more)"),
    ],
)
def test_the_json_form_is_one_line_and_gives_the_text(text: str, shown: str) -> None:
    line = JsonFormat()(record(text))
    assert line.isprintable()
    assert json.loads(line) == {
        "time": "2027-01-15T08:00:00.250Z",
        "level": "info",
        "logger": "polykemi.script",
        "message": shown,
    }


def test_fields_stand_behind_the_text() -> None:
    line = LineFormat("{level} {logger}: ", fields())(record("hello"))
    assert line == (
        'INFO polykemi.script: hello | call_id="c 1" from_user=alice method=INVITE src=udp:192.0.2.10:5060'
        " route=request_route at=a.lua:7"
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a|b", '"a|b"'),
        ('a"b', '"a\\"b"'),
        ("a\\", '"a\\\\"'),
        ("x\x1by", "x\\x1by"),
        ("y" * 300, "y" * 256 + '... (44 more)"'),
    ],
)
def test_the_value_of_a_field_forges_no_other(value: str, shown: str) -> None:
    made = Fields()
    ctx = request_context(message("INVITE sip:bob@example.test SIP/2.0", call_id=value))
    made.attach(lambda: ctx, lambda: "")
    line = LineFormat("", made)(record("hello"))
    assert line.startswith(f"hello | call_id={shown} " if "more" not in shown else f'hello | call_id="{shown} ')


def test_fields_are_members_of_the_object() -> None:
    entry = json.loads(JsonFormat(fields=fields())(record("hello", NOTICE)))
    assert entry["level"] == "notice"
    assert {name: entry[name] for name in list(entry)[4:]} == {
        "call_id": "c 1",
        "from_user": "alice",
        "method": "INVITE",
        "src": "udp:192.0.2.10:5060",
        "route": "request_route",
        "at": "a.lua:7",
    }


def test_a_script_error_is_one_record_with_its_traceback() -> None:
    error = ScriptError("a.lua", 3, "bad", "stack traceback:\n\ta.lua:3: in x\x1b\n")
    told = record("script error", error=error)
    lines = LineFormat("", fields())(told).split("\n")
    assert lines[0].endswith(" at=a.lua:3")
    assert lines[1:] == ["    stack traceback:", "    \ta.lua:3: in x\\x1b"]
    entry = json.loads(JsonFormat(fields=fields())(told))
    assert (entry["at"], entry["traceback"]) == ("a.lua:3", "stack traceback:\n\ta.lua:3: in x\x1b")


@pytest.mark.parametrize("cause", ["grüße", to_octets("grüße")])  # of Python and JavaScript; of Lua
def test_the_cause_of_a_script_error_is_read_in_both_forms(cause: str) -> None:
    error = ScriptError("a.py", 3, cause, f"at {cause}")
    line = LineFormat("")(record(f"script error: {error}", error=error))
    assert line == "script error: a.py:3: grüße\n    at grüße"


def test_a_prefix_has_a_member_of_its_own() -> None:
    made = fields()
    made.attach(lambda: CTX, lambda: "", lambda ctx: f"{{{ctx.method}}} ")
    entry = json.loads(JsonFormat(fields=made)(record("hello")))
    assert (entry["prefix"], entry["message"]) == ("{INVITE} ", "hello")


def test_an_exception_of_the_server_has_its_traceback() -> None:
    try:
        raise KeyError("x")
    except KeyError:
        told = record("internal error", exc_info=sys.exc_info())
    first, *rest = LineFormat("")(told).split("\n")
    assert (first, rest[0], rest[-1]) == (
        "internal error",
        "    Traceback (most recent call last):",
        "    KeyError: 'x'",
    )


def test_the_journal_has_fields_of_its_own() -> None:
    entry = journal_entry(record("one\ntwo", logging.WARNING), fields())
    assert entry == (
        b"SYSLOG_IDENTIFIER=polykemi\nMESSAGE=one\\ntwo\nPRIORITY=4\nLOGGER=polykemi.script\nCALL_ID=c 1\n"
        b"FROM_USER=alice\nMETHOD=INVITE\nSRC=udp:192.0.2.10:5060\nROUTE=request_route\nAT=a.lua:7\n"
    )
