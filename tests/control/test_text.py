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
        ({"uptime": 5, "now": "today", "deep": {"a": 1}}, ["uptime: 5", "now: today", "deep.a: 1"]),
        ([], []),
        ({}, []),
        ([{"a": 1}, "b"], ["a=1", "b"]),
        ({"list": [], "profiles": [{"calls": "a"}, {"all": "b"}]}, ["list:", "profiles: calls=a all=b"]),
        ([11, "main process", 7, "timer"], ["11  main process", " 7  timer"]),
        ({"from": "From: a\r\n"}, ["from: From: a"]),
        ({"changed": ["domains", "[modules.tm] fr_timer"]}, ["changed:", "  domains", "  [modules.tm] fr_timer"]),
        ({"read anew": ["domain", "tls"], "one": ["of two"]}, ["read anew: domain tls", "one: of two"]),
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


def test_wrapped_records_are_a_table() -> None:
    sockets = [{"socket": {"proto": "udp", "port": "5060"}}, {"socket": {"proto": "tcp", "port": "5061"}}]
    assert readable(sockets) == ["proto  port", "udp    5060", "tcp    5061"]
    assert readable({"items": [{"shv": {"name": "a", "value": 1}}]}) == ["name  value", "a         1"]


def test_lists_in_lists_have_a_line_for_each_of_theirs_with_what_stands_around_it() -> None:
    def target(uri: str, **more: Any) -> dict[str, Any]:
        return {"DEST": {"URI": uri, "FLAGS": "AX", **more}}

    sets = [
        {"SET": {"ID": 1, "TARGETS": [target("sip:a", ATTRS={"DUID": "x", "SOCKET": None}), target("sip:b")]}},
        {"SET": {"ID": 2, "TARGETS": [target("sip:c")]}},
    ]
    assert readable({"NRSETS": 2, "RECORDS": sets}) == [
        "NRSETS: 2",
        "RECORDS:",
        "  ID  URI    FLAGS  ATTRS.DUID",
        "   1  sip:a  AX     x",
        "   1  sip:b  AX",
        "   2  sip:c  AX",
    ]


def location(*contacts: dict[str, Any]) -> dict[str, Any]:
    """Return what ul.dump answers."""
    aor = {"Info": {"AoR": "bob", "HashID": 7, "Contacts": [{"Contact": contact} for contact in contacts]}}
    return {"Domains": [{"Domain": {"Domain": "location", "AoRs": [aor], "Stats": {"Records": 1}}}]}


def test_deep_lists_are_tables_below_their_names_without_columns_that_tell_nothing() -> None:
    contacts: list[dict[str, Any]] = [
        {"Address": "sip:b@h", "Path": "[not set]", "Q": 0.5},
        {"Address": "sip:b@long", "Path": "[not set]"},
    ]
    assert readable(location(*contacts)) == [
        "Domain: location",
        "AoRs:",
        "  AoR  HashID  Address       Q",
        "  bob       7  sip:b@h     0.5",
        "  bob       7  sip:b@long",
        "Stats.Records: 1",
    ]
    brief = {"Domains": [{"Domain": {"Domain": "location", "AoRs": [{"AoR": "bob"}, {"AoR": "eve"}]}}]}
    assert readable(brief) == ["Domain    AoR", "location  bob", "location  eve"]


def test_what_is_wider_than_the_terminal_is_written_record_by_record() -> None:
    rows = [{"name": "a" * 20, "path": None, "n": 1}, {"name": "b", "path": "c" * 20, "n": 2}]
    assert readable(rows, 80) == readable(rows)
    assert readable(rows, 40) == [f"name: {'a' * 20}", "n: 1", "", "name: b", f"path: {'c' * 20}", "n: 2"]
    assert readable(location({"Address": "sip:b@h" + "x" * 30, "Q": 1}), 30) == [
        "Domain: location",
        "AoRs:",
        "  AoR: bob",
        "  HashID: 7",
        f"  Address: sip:b@h{'x' * 30}",
        "  Q: 1",
        "Stats.Records: 1",
    ]


def test_an_empty_answer_has_no_lines() -> None:
    answers: list[Any] = [[], {}, [{}], {"AoRs": []}]
    for nothing in answers:
        assert all(line in ("", "AoRs:") for line in readable(nothing))


def test_what_would_steer_a_terminal_or_forge_a_line_is_escaped() -> None:
    assert readable([{"a": "\x1b[2J\n\t\x00\udcff\ud800ü"}])[1:] == ["\\x1b[2J\\n\\t\\x00\\xff\\ud800ü"]


def test_a_text_of_several_lines_keeps_them_and_none_passes_for_another_value() -> None:
    message = "To: <sip:a@b>\r\nX: \x1b[2J\r\n\r\nhello\r\n"
    lines = ["To: <sip:a@b>", "    X: \\x1b[2J", "", "    hello"]
    assert readable(message) == lines
    assert readable([200, message, "b"]) == ["200", *lines, "b"]


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
