"""Events as lines: ladders, trees, colours, the width of a terminal, and texts that would steer it."""

from __future__ import annotations

import re
from datetime import timedelta, timezone
from typing import Any

import pytest

from polykemi.control.trace_view import View

HERE = "udp:192.0.2.1:5060"
AT = 1_800_000_000.5


def told(kind: str, line: str, peer: str, call_id: str = "c@x", **more: Any) -> dict[str, Any]:
    """Return the event of a message."""
    event = {"event": kind, "time": AT, "call_id": call_id, "line": line, "cseq": "1 INVITE"}
    return event | {"peer": peer, "local": HERE} | more


def block(*calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the event of a block."""
    event = {"event": "block", "time": AT, "call_id": "c@x", "kind": "request_route", "callback": "ksr_request_route"}
    facts = {"engine": "lua", "version": 3, "script": "a/route.lua", "us": 400, "calls": list(calls)}
    return event | facts | more


def call(function: str, *arguments: Any, **more: Any) -> dict[str, Any]:
    """Return a call in a block."""
    return {"function": f"KSR.{function}", "where": "a/route.lua:12", "arguments": list(arguments), "us": 7, **more}


def drawn(*events: dict[str, Any], **how: Any) -> list[str]:
    """Return the lines of all events."""
    view = View(**how)
    return [line for event in events for line in view.lines(event)]


def test_a_ladder_grows_with_who_takes_part_and_arrows_cross_the_others() -> None:
    lines = drawn(
        told("received", "INVITE sip:bob@example.test SIP/2.0", "udp:192.0.2.10:5060"),
        told("sent", "INVITE sip:b@192.0.2.20 SIP/2.0", "udp:192.0.2.20:5060"),
        told("sent", "INVITE sip:b@192.0.2.21 SIP/2.0", "tcp:[2001:db8::2]:5060"),
        told("received", "SIP/2.0 200 OK", "tcp:[2001:db8::2]:5060"),
        told("sent", "SIP/2.0 200 OK", "udp:192.0.2.10:5060"),
        times=False,
    )
    assert lines == [
        "Call-ID c@x",
        "A     *       A: udp:192.0.2.10:5060   *: udp:192.0.2.1:5060",
        "|---->|       INVITE sip:bob@example.test  from udp:192.0.2.10:5060",
        "A     *     B B: udp:192.0.2.20:5060   *: udp:192.0.2.1:5060",
        "|     |---->| INVITE sip:b@192.0.2.20  to udp:192.0.2.20:5060",
        "A     *     B     C C: tcp:[2001:db8::2]:5060   *: udp:192.0.2.1:5060",
        "|     |-----+---->| INVITE sip:b@192.0.2.21  to tcp:[2001:db8::2]:5060",
        "|     |<----+-----| 200 OK  1 INVITE  from tcp:[2001:db8::2]:5060",
        "|<----|     |     | 200 OK  1 INVITE  to udp:192.0.2.10:5060",
    ]


def test_a_tree_has_lines_results_times_changes_and_what_ran_inside() -> None:
    inner = {"kind": "branch_route", "callback": "b", "engine": "js", "us": 3, "calls": [call("info", "x")]}
    lines = drawn(
        block(
            call("is_method", "BYE", result=False),
            call("pv.sets", "$du", "sip:a", result=True, changes=[["$du", "", "sip:a"], ["header", None, "X: 1"]]),
            call("tm.t_relay", result=1, inside=[inner, call("xlog.xinfo", where="a/lib/more.lua:3")]),
            call("pv.get", error="expected a text", result=None),
            left_out=2,
            error="a/route.lua:14: oh",
        )
    )
    assert [line.rstrip() for line in lines] == [
        "Call-ID c@x",
        "|     |       request_route ksr_request_route  lua, version 3, a/route.lua, 400 us",
        '|     |           12 KSR.is_method("BYE") = false  7 us',
        '|     |           12 KSR.pv.sets("$du", "sip:a") = true  7 us',
        '|     |                $du: "" -> "sip:a"',
        "|     |                + header X: 1",
        "|     |           12 KSR.tm.t_relay() = 1  7 us",
        "|     |             branch_route b  js, 3 us",
        '|     |               route.lua:12 KSR.info("x")  7 us',
        "|     |             more.lua:3 KSR.xlog.xinfo()  7 us",
        "|     |           12 KSR.pv.get() = null  expected a text  7 us",
        "|     |         ... and 2 more calls",
        "|     |         a/route.lua:14: oh",
    ]


def test_calls_that_mix_have_a_heading_each_time() -> None:
    first, second = (told("received", "OPTIONS sip:a SIP/2.0", "udp:192.0.2.10:5060", f"{n}@x") for n in "12")
    lines = drawn(first, second, first, times=False)
    assert [line for line in lines if not line.startswith(("A ", "|"))] == [
        "Call-ID 1@x",
        "",
        "Call-ID 2@x",
        "",
        "Call-ID 1@x",
    ]


def test_the_time_is_that_of_the_zone() -> None:
    event = told("received", "OPTIONS sip:a SIP/2.0", "udp:192.0.2.10:5060")
    assert "|       08:00:00.500 OPTIONS" in drawn(event)[-1]
    assert " 10:30:00.500 OPTIONS" in drawn(event, zone=timezone(timedelta(hours=2.5)))[-1]


def test_a_whole_message_stands_below_its_line() -> None:
    text = "OPTIONS sip:a SIP/2.0\r\nVia: x\r\n\r\nbody\x1b[2J\r\n"
    lines = drawn(told("received", "OPTIONS sip:a SIP/2.0", "udp:192.0.2.10:5060", message=text), times=False)
    assert [line[16:] for line in lines[3:]] == ["OPTIONS sip:a SIP/2.0", "Via: x", "", "body\\x1b[2J"]


@pytest.mark.parametrize("width", [1, 10, 20, 40, 79, 80, 132])
@pytest.mark.parametrize("colours", [False, True])
def test_no_line_is_wider_than_the_terminal(width: int, colours: bool) -> None:
    events = [
        told("received", "INVITE sip:日本語" + "x" * 200, "udp:192.0.2.10:5060"),
        block(call("pv.get", "日" * 50, result="y" * 100)),
        told("sent", "SIP/2.0 404 Not Found", "udp:192.0.2.10:5060"),
    ]
    for line in drawn(*events, width=width, colours=colours):
        plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
        assert sum(2 if "\u3000" < c < "\ufaff" else 1 for c in plain) <= width
        assert colours or "\x1b" not in line
        assert line.count("\x1b[0m") * 2 == line.count("\x1b[")


def test_colours_tell_good_from_bad() -> None:
    view = View(colours=True, times=False)
    lines = [view.lines(told("sent", f"SIP/2.0 {code} X", "udp:192.0.2.10:5060"))[-1] for code in (180, 200, 404)]
    assert [re.search(r"\x1b\[([0-9;]*)m(\d+ X)", line)[1] for line in lines] == ["33", "1;32", "1;31"]  # type: ignore[index]


@pytest.mark.parametrize("evil", ["\x1b]0;x\x07", "\x9b2J", "\r", "\n", "a\u202eb", "\x00", "\udc9b", "\u2028"])
def test_nothing_that_comes_from_the_network_steers_the_terminal(evil: str) -> None:
    events = [
        told("received", f"INVITE sip:{evil} SIP/2.0", f"udp:{evil}", f"{evil}@x", cseq=evil, message=f"a{evil}b"),
        block(
            call(
                f"pv.get{evil}"[:6], evil, result=evil, error=evil, changes=[[evil, evil, evil], ["header", None, evil]]
            ),
            callback=evil,
            evname=evil,
            error=evil,
            call_id=f"{evil}@x",
        ),
        told("sent", f"SIP/2.0 200 {evil}", f"udp:{evil}", f"{evil}@x"),
    ]
    text = "".join(drawn(*events))
    assert not [c for c in text if ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or (c in evil and not c.isascii())]
    text.encode()


def test_many_places_share_the_last_lifeline_and_many_calls_are_forgotten() -> None:
    view = View(times=False)
    for n in range(40):
        lines = view.lines(told("sent", "OPTIONS sip:a SIP/2.0", f"udp:192.0.2.{n}:5060"))
    assert lines[-1].startswith("|     |" + "-----+" * 9 + "---->|")
    for n in range(3000):
        view.lines(told("sent", "OPTIONS sip:a SIP/2.0", "udp:192.0.2.9:5060", f"{n}@x"))
    assert len(view._ladders) <= 1000


def test_lost_events_are_told_of() -> None:
    assert drawn({"event": "lost", "count": 5}) == ["... 5 events are lost: they came faster than they were read"]
