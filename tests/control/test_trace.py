"""What runs for a message, as it is told to who has attached: on each engine, for one call and for many."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from polykemi.control.trace import Event, Filter, Watch
from polykemi.control.trace_blocks import Recorder
from polykemi.engines import ENGINES
from polykemi.kemi.faked import event_context
from polykemi.kemi.registry import Registry
from polykemi.testing import ServerUnderTest, Trace
from tests.support import LISTENER

EXTENSIONS = {"lua": "lua", "js": "js", "python": "py"}
SCRIPTS = {
    "lua": """
local get = KSR.pv.get
function ksr_request_route()
  if KSR.is_method("BYE") then KSR.rr.loose_route() KSR.tm.t_relay() return end
  if KSR.is_method("OPTIONS") then KSR.sl.sl_send_reply(200, "Fine") KSR.x.exit() end
  KSR.pv.sets("$var(user)", get("$rU"))
  KSR.pv.sets("$du", "sip:192.0.2.20:5070")
  KSR.hdr.append("X-Way: ü\\r\\n")
  KSR.hdr.remove("User-Agent")
  KSR.setflag(3)
  KSR.tm.t_on_branch("ksr_branch")
  KSR.tm.t_on_failure("ksr_failure")
  KSR.tm.t_relay()
end
function ksr_branch() KSR.pv.seti("$avp(n)", 7) end
function ksr_failure() KSR.tm.t_check_status("4..") KSR.pv.get("$no") end
""",
    "js": """
const get = KSR.pv.get;
function ksr_request_route() {
  if (KSR.is_method("BYE")) { KSR.rr.loose_route(); KSR.tm.t_relay(); return; }
  if (KSR.is_method("OPTIONS")) { KSR.sl.sl_send_reply(200, "Fine"); KSR.x.exit(); }
  KSR.pv.sets("$var(user)", get("$rU"));
  KSR.pv.sets("$du", "sip:192.0.2.20:5070");
  KSR.hdr.append("X-Way: ü\\r\\n");
  KSR.hdr.remove("User-Agent");
  KSR.setflag(3);
  KSR.tm.t_on_branch("ksr_branch");
  KSR.tm.t_on_failure("ksr_failure");
  KSR.tm.t_relay();
}
function ksr_branch() { KSR.pv.seti("$avp(n)", 7); }
function ksr_failure() { KSR.tm.t_check_status("4.."); KSR.pv.get("$no"); }
""",
    "python": """
import KSR
get = KSR.pv.get
def ksr_request_route(msg):
    if KSR.is_method("BYE"): KSR.rr.loose_route(); KSR.tm.t_relay(); return
    if KSR.is_method("OPTIONS"): KSR.sl.sl_send_reply(200, "Fine"); KSR.x.exit()
    KSR.pv.sets("$var(user)", get("$rU"))
    KSR.pv.sets("$du", "sip:192.0.2.20:5070")
    KSR.hdr.append("X-Way: ü\\r\\n")
    KSR.hdr.remove("User-Agent")
    KSR.setflag(3)
    KSR.tm.t_on_branch("ksr_branch")
    KSR.tm.t_on_failure("ksr_failure")
    KSR.tm.t_relay()
def ksr_branch(msg): KSR.pv.seti("$avp(n)", 7)
def ksr_failure(msg): KSR.tm.t_check_status("4.."); KSR.pv.get("$no")
""",
}

ROOT = Path(__file__).parents[2]
PHONE = "192.0.2.10:5060"
CALLEE = "192.0.2.20:5070"


def script(directory: Path, engine: str, text: str = "") -> Path:
    """Write a script of that engine."""
    path = directory / f"route.{EXTENSIONS[engine]}"
    path.write_text(text or SCRIPTS[engine], "utf-8")
    return path


@pytest.fixture(params=ENGINES)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerUnderTest]:
    """A server with the script above."""
    with ServerUnderTest({request.param: script(tmp_path, request.param)}, domains=["example.test"]) as one:
        yield one


def message(method: str, cseq: int, call_id: str = "c1@x", *, user: str = "bob", more: str = "") -> bytes:
    """Return a request of alice."""
    return (
        f"{method} sip:{user}@example.test SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK{call_id}{method}{cseq}\r\n"
        f"Max-Forwards: 70\r\nFrom: <sip:alice@example.test>;tag=a\r\nTo: <sip:{user}@example.test>{more}\r\n"
        f"Call-ID: {call_id}\r\nCSeq: {cseq} {method}\r\nUser-Agent: phone\r\nContent-Length: 0\r\n\r\n"
    ).encode()


def reply(request: bytes, status: str) -> bytes:
    """Return a reply of the callee to what the server has sent."""
    lines = request.decode().split("\r\n")
    kept = [line for line in lines if line.partition(":")[0] in ("Via", "From", "Call-ID", "CSeq")]
    to = next(line for line in lines if line.startswith("To:"))
    return "\r\n".join([f"SIP/2.0 {status}", *kept, f"{to};tag=b", "Content-Length: 0", "", ""]).encode()


def of(trace: Trace, kind: str) -> list[dict[str, Any]]:
    """Return the events of one kind."""
    return [event for event in trace.events if event["event"] == kind]


def calls(block: dict[str, Any]) -> list[str]:
    """Return the functions that a block has called."""
    return [call["function"] for call in block["calls"]]


def failing_call(server: ServerUnderTest) -> Trace:
    """Let alice call and be refused, and return what is told of it."""
    trace = server.trace()
    sent = server.receive(message("INVITE", 1), PHONE)
    invite = next(one.data for one in sent if one.data.startswith(b"INVITE"))
    server.receive(reply(invite, "486 Busy Here"), CALLEE)
    trace.close()
    return trace


def test_the_same_logic_gives_the_same_tree_on_each_engine(server: ServerUnderTest, tmp_path: Path) -> None:
    (engine,) = server.node.engines
    text = failing_call(server).text()
    path = str(tmp_path / f"route.{EXTENSIONS[engine]}")
    plain = text.replace(f"{engine}, version 1, {path}", "ENGINE")
    assert re.sub(r"\d+(?= KSR\.)", lambda line: "N".rjust(len(line[0])), plain) == EXPECTED
    lines = SCRIPTS[engine].split("\n")
    for line in text.split("\n"):  # where a call stands
        if call := re.search(r"(\d+) (KSR\.[\w.]+)", line):
            called = "get(" if call[2] == "KSR.pv.get" else call[2]
            assert called in lines[int(call[1]) - 1]


EXPECTED = """\
Call-ID c1@x
A     *       A: udp:192.0.2.10:5060   *: udp:192.0.2.1:5060
|---->|       INVITE sip:bob@example.test  from udp:192.0.2.10:5060
|     |       request_route ksr_request_route  ENGINE
|     |            N KSR.is_method("BYE") = false
|     |            N KSR.is_method("OPTIONS") = false
|     |            N KSR.pv.get("$rU") = "bob"
|     |            N KSR.pv.sets("$var(user)", "bob") = true
|     |                $var(user): 0 -> "bob"
|     |            N KSR.pv.sets("$du", "sip:192.0.2.20:5070") = true
|     |                $du: "" -> "sip:192.0.2.20:5070"
|     |            N KSR.hdr.append("X-Way: ü\\r\\n") = 1
|     |                + header X-Way: ü
|     |            N KSR.hdr.remove("User-Agent") = 1
|     |                - header User-Agent: phone
|     |            N KSR.setflag(3) = true
|     |                flags: "" -> "3"
|     |            N KSR.tm.t_on_branch("ksr_branch") = 1
|     |            N KSR.tm.t_on_failure("ksr_failure") = 1
|     |            N KSR.tm.t_relay() = 1
|     |             branch_route ksr_branch  ENGINE
|     |                  N KSR.pv.seti("$avp(n)", 7) = true
|     |                      $avp(n): null -> 7
|<----|       100 Trying  1 INVITE  to udp:192.0.2.10:5060
A     *     B B: udp:192.0.2.20:5070   *: udp:192.0.2.1:5060
|     |---->| INVITE sip:bob@example.test  to udp:192.0.2.20:5070
|     |<----| 486 Busy Here  1 INVITE  from udp:192.0.2.20:5070
|     |     | failure_route ksr_failure  ENGINE
|     |     |      N KSR.tm.t_check_status("4..") = 1
|     |     |      N KSR.pv.get("$no") = null
|     |---->| ACK sip:bob@example.test  to udp:192.0.2.20:5070
|<----|     | 486 Busy Here  1 INVITE  to udp:192.0.2.10:5060"""


def test_what_a_call_changed_stands_with_it_and_blocks_inside_of_it(server: ServerUnderTest) -> None:
    request, failure = of(failing_call(server), "block")
    assert request["version"] == 1
    relay = request["calls"][-1]
    assert (relay["function"], relay["result"]) == ("KSR.tm.t_relay", 1)
    (branch,) = relay["inside"]
    assert (branch["kind"], calls(branch)) == ("branch_route", ["KSR.pv.seti"])
    assert 0 < branch["us"] <= relay["us"] <= request["us"]
    assert calls(failure) == ["KSR.tm.t_check_status", "KSR.pv.get"]
    changes = {call["function"]: call["changes"] for call in request["calls"] if "changes" in call}
    assert changes["KSR.hdr.append"] == [["header", None, "X-Way: ü"]]
    assert changes["KSR.setflag"] == [["flags", "", "3"]]


def test_a_route_that_exits_has_no_result_there_and_messages_come_whole(server: ServerUnderTest) -> None:
    trace = server.trace()
    (answer,) = server.receive(message("OPTIONS", 1), PHONE)
    came, block, went = trace.events
    assert [call.get("result", "none") for call in block["calls"]] == [False, True, 1, "none"]
    assert came["message"].encode() == message("OPTIONS", 1)
    assert went["message"].encode() == answer.data
    assert (went["line"], went["cseq"], went["peer"]) == ("SIP/2.0 200 Fine", "1 OPTIONS", f"udp:{PHONE}")


def test_a_call_reads_from_invite_to_bye(server: ServerUnderTest) -> None:
    trace = server.trace(call_id="c1@x")
    sent = server.receive(message("INVITE", 1), PHONE)
    invite = next(one.data for one in sent if one.data.startswith(b"INVITE"))
    server.receive(message("INVITE", 1, "other@x"), PHONE)
    server.receive(reply(invite, "200 OK"), CALLEE)
    server.receive(message("BYE", 2, more=";tag=b"), PHONE)
    ladder = [line[:13].strip() for line in trace.text().split("\n") if "--" in line[:13]]
    assert ladder[:5] == ["|---->|", "|<----|", "|     |---->|", "|     |<----|", "|<----|     |"]
    assert ladder[5] == "|---->|     |"  # BYE
    assert [event["line"].split(" ")[0] for event in of(trace, "received")] == ["INVITE", "SIP/2.0", "BYE"]
    assert {event["call_id"] for event in trace.events} == {"c1@x"}


# ---- who is told what


@pytest.fixture
def lua(tmp_path: Path) -> Iterator[ServerUnderTest]:
    """A server whose engine does not matter."""
    with ServerUnderTest({"lua": script(tmp_path, "lua")}, domains=["example.test"]) as one:
        yield one


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"call_id": "2@x"}, ["2@x"]),
        ({"user": "carol"}, ["2@x"]),
        ({"user": "carol@example.test"}, ["2@x"]),
        ({"user": "carol@Example.TEST"}, ["2@x"]),
        ({"user": "carol@elsewhere.test"}, []),
        ({"user": "alice"}, ["1@x", "2@x", "3@x"]),
        ({"user": "alice", "call_id": "3@x"}, ["3@x"]),
        ({"user": "dave", "call_id": "3@x"}, []),
        ({"ip": "192.0.2.11"}, ["3@x"]),
        ({"ip": "192.0.2.99"}, []),
        ({}, ["1@x", "2@x", "3@x"]),
    ],
)
def test_filters(lua: ServerUnderTest, wanted: dict[str, str], told: list[str]) -> None:
    trace = lua.trace(**wanted)
    lua.receive(message("OPTIONS", 1, "1@x"), PHONE)
    lua.receive(message("OPTIONS", 1, "2@x", user="carol"), PHONE)
    lua.receive(message("OPTIONS", 1, "3@x").replace(b"192.0.2.10", b"192.0.2.11"), "192.0.2.11:5060")
    kinds: dict[str, list[str]] = {}
    for event in trace.events:
        kinds.setdefault(event["call_id"], []).append(event["event"])
    assert kinds == {call_id: ["received", "block", "sent"] for call_id in told}


def test_a_message_that_matches_by_where_it_goes_brings_the_blocks_before(lua: ServerUnderTest) -> None:
    trace = lua.trace(ip="192.0.2.20")
    lua.receive(message("OPTIONS", 1, "other@x"), PHONE)
    lua.receive(message("INVITE", 1), PHONE)
    assert [event["event"] for event in trace.events] == ["received", "block", "sent", "sent"]
    assert {event["call_id"] for event in trace.events} == {"c1@x"}


def watch(server: ServerUnderTest, give: Callable[[Event], bool], **more: Any) -> Watch:
    """Attach to a server."""
    one = Watch(Filter(), give, **more)
    server.node.tracer.attach(one)
    return one


def test_once_ends_with_the_first_transaction(lua: ServerUnderTest) -> None:
    told: list[dict[str, Any]] = []

    def give(event: Event) -> bool:
        told.append(event.data(whole=False))
        return True

    watch(lua, give, once=True)
    sent = lua.receive(message("INVITE", 1), PHONE)
    lua.receive(message("OPTIONS", 1, "other@x"), PHONE)
    assert told[-1]["event"] == "sent"
    invite = next(one.data for one in sent if one.data.startswith(b"INVITE"))
    lua.receive(reply(invite, "180 Ringing"), CALLEE)
    assert told[-1]["line"] == "SIP/2.0 180 Ringing"
    lua.receive(reply(invite, "486 Busy Here"), CALLEE)
    assert [event.get("line", event["event"]) for event in told[-3:]] == [
        "ACK sip:bob@example.test SIP/2.0",
        "SIP/2.0 486 Busy Here",
        "end",
    ]
    assert {event["call_id"] for event in told[:-1]} == {"c1@x"}
    assert not lua.node.router.onlookers
    count = len(told)
    lua.receive(message("OPTIONS", 2, "c1@x"), PHONE)
    assert len(told) == count


def taking(told: list[str]) -> Callable[[Event], bool]:
    """Return what takes events, and puts their kinds into ``told``."""

    def give(event: Event) -> bool:
        told.append(event.data(whole=False)["event"])
        return True

    return give


def test_once_ends_at_once_with_a_message_that_nothing_comes_of(tmp_path: Path) -> None:
    path = script(tmp_path, "lua", "function ksr_request_route() KSR.x.drop() end")
    with ServerUnderTest({"lua": path}) as server:
        for first in (message("OPTIONS", 1), message("ACK", 1)):
            told: list[str] = []
            watch(server, taking(told), once=True)
            server.receive(first, PHONE)
            assert told == ["received", "block", "end"]


def test_who_does_not_read_loses_events_and_is_told_how_many(lua: ServerUnderTest) -> None:
    told: list[dict[str, Any]] = []
    room = [False]

    def give(event: Event) -> bool:
        if room[0]:
            told.append(event.data(whole=False))
        return room[0]

    watch(lua, give)
    other = lua.trace()
    lua.receive(message("OPTIONS", 1), PHONE)
    lua.receive(message("OPTIONS", 2), PHONE)
    room[0] = True
    lua.receive(message("OPTIONS", 3), PHONE)
    assert told[0] == {"event": "lost", "count": 6}
    assert [event["event"] for event in told[1:]] == ["received", "block", "sent"]
    assert len(other.events) == 9


def test_the_end_is_told_to_who_has_lost_events_too(lua: ServerUnderTest) -> None:
    told: list[dict[str, Any]] = []
    room = [True]

    def give(event: Event) -> bool:
        if room[0]:
            told.append(event.data(whole=False))
        return room[0]

    watch(lua, give, once=True)
    lua.receive(message("INVITE", 1), PHONE)
    room[0] = False
    lua.receive(message("CANCEL", 1), PHONE)  # nobody has answered the INVITE yet, so this is all
    lua.advance(40)
    room[0] = True
    lua.receive(message("OPTIONS", 1, "other@x"), PHONE)
    assert [event["event"] for event in told[-2:]] == ["lost", "end"]
    assert told[-2]["count"] > 0
    assert lua.node.router.onlookers == ()


def test_the_example_of_the_guide_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/tracing.md").read_text(), re.DOTALL)
    exec(compile(block, "docs/tracing.md", "exec"), {"options": message("OPTIONS", 1)})
    assert "KSR.set_reply_no_connect() = true\n" in capsys.readouterr().out


def test_a_loop_fills_no_memory(tmp_path: Path) -> None:
    body = "for i = 1, 2000 do KSR.pv.sets('$var(x)', string.rep('x', 2000)) end"
    path = script(tmp_path, "lua", f"function ksr_request_route() {body} end")
    with ServerUnderTest({"lua": path}) as server:
        trace = server.trace()
        server.receive(message("OPTIONS", 1), PHONE)
        (block,) = of(trace, "block")
        assert len(block["calls"]) + block["left_out"] == 2000
        assert len(json.dumps(block)) < 1_000_000
        assert f"... and {block['left_out']} more calls" in trace.text()
        assert block["calls"][0]["arguments"][1].endswith("... (2000 octets)")


def test_errors_of_scripts_and_of_calls_are_told(tmp_path: Path) -> None:
    path = script(
        tmp_path, "lua", "function ksr_request_route()\nKSR.setflag('x')\nKSR.pv.get('$ru')\nerror('oh')\nend"
    )
    with ServerUnderTest({"lua": path}) as server:
        trace = server.trace()
        server.receive(message("OPTIONS", 1), PHONE)
        (block,) = of(trace, "block")
        assert block["error"] == f"{path}:4: oh"
        assert block["calls"][0]["error"].startswith("argument flag (int): expected an integer")
        assert "error" not in block["calls"][1]


def test_a_block_that_is_stopped_in_the_middle_of_a_call_leaves_the_next_tree_whole(lua: ServerUnderTest) -> None:
    recorder = Recorder(lua.node.services.variables, lambda: 0.0)
    row = Registry([lua.node.modules["pv"]]).get("KSR.pv.get")
    assert row is not None
    ctx = event_context("a", "htable:expired:t", LISTENER, 0.0)
    for _ in range(2):
        recorder.began(ctx, "lua")
        assert recorder.called(row[0], ctx, ("$ru",), lambda: "route.lua:1") is not None
        block = recorder.ended(ctx, 0.25)  # and the call is never told to have ended
        call = {"function": "KSR.pv.get", "where": "route.lua:1", "arguments": ["$ru"]}
        assert (block["evname"], block["us"], block["calls"]) == ("htable:expired:t", 250_000, [call])
    assert recorder.called(row[0], ctx, ("$ru",), lambda: "route.lua:1") is None  # no block runs


def test_who_leaves_leaves_nothing_behind_under_traffic(server: ServerUnderTest) -> None:
    for n in range(100):
        traces = [server.trace(), server.trace(user="alice")]
        assert server.receive(message("OPTIONS", n + 1), PHONE)[0].start_line == "SIP/2.0 200 Fine"
        traces[n % 2].close()
        assert server.receive(message("OPTIONS", 1000 + n), PHONE)[0].start_line == "SIP/2.0 200 Fine"
        traces[1 - n % 2].close()
        assert [len(trace.events) for trace in traces] == ([3, 6] if n % 2 == 0 else [6, 3])
        assert server.receive(message("OPTIONS", 2000 + n), PHONE)[0].start_line == "SIP/2.0 200 Fine"
    assert server.node.router.onlookers == ()


def test_a_reload_while_somebody_looks_shows_the_new_version(tmp_path: Path) -> None:
    path = script(tmp_path, "lua", "function ksr_request_route() KSR.sl.sl_send_reply(200, 'One') end")
    with ServerUnderTest({"lua": path}) as server:
        trace = server.trace()
        server.receive(message("OPTIONS", 1), PHONE)
        path.write_text("function ksr_request_route() KSR.sl.sl_send_reply(200, 'Two') end")
        server.reload()
        server.receive(message("OPTIONS", 2), PHONE)
        blocks = of(trace, "block")
        assert [(block["version"], block["calls"][0]["arguments"][1]) for block in blocks] == [(1, "One"), (2, "Two")]


def test_what_is_no_sip_is_shown_too(lua: ServerUnderTest) -> None:
    trace = lua.trace()
    lua.receive(b"OPTIONS sip:x SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK1\r\n\r\n", PHONE)
    assert [event.get("line", "") for event in trace.events][-1].startswith("SIP/2.0 400 ")
    assert "without a Call-ID" in trace.text()


# ---- the command


class Connection:
    """A client that stays (``jsonrpc.Client``)."""

    def __init__(self) -> None:
        self.closed: list[Callable[[], None]] = []
        self.relieved: list[Callable[[], None]] = []
        self.lines: list[dict[str, Any]] = []
        self.is_full = False

    def push(self, line: bytes) -> bool:
        """Take a line."""
        if not self.is_full:
            self.lines.append(json.loads(line))
        return not self.is_full

    def read(self) -> None:
        """Have room again."""
        self.is_full = False
        for tell in self.relieved:
            tell()


def attach(server: ServerUnderTest, client: Connection | None, **params: Any) -> dict[str, Any]:
    """Send trace.attach and return the answer."""
    request = {"jsonrpc": "2.0", "method": "trace.attach", "params": params, "id": 1}
    answer = server.node.rpc.answer(json.dumps(request).encode(), client)
    assert isinstance(answer, bytes)
    told: dict[str, Any] = json.loads(answer)
    return told


def test_a_connection_that_attaches_gets_notifications_until_it_is_gone(lua: ServerUnderTest) -> None:
    client, other = Connection(), Connection()
    assert attach(lua, client, ip="[2001:DB8::1]")["result"] == {"call_id": "", "user": "", "ip": "2001:db8::1"}
    assert attach(lua, other, user="bob", messages=1)["result"]["user"] == "bob"
    lua.receive(message("OPTIONS", 1), PHONE)
    assert client.lines == []
    assert [line["method"] for line in other.lines] == ["trace.event"] * 3
    assert "message" in other.lines[0]["params"]
    for one in (client, other):
        for gone in one.closed:
            gone()
    lua.receive(message("OPTIONS", 2), PHONE)
    assert len(other.lines) == 3
    assert lua.node.router.onlookers == ()


def test_who_reads_again_is_told_of_what_was_lost_and_of_the_end_though_nothing_happens(lua: ServerUnderTest) -> None:
    client = Connection()
    attach(lua, client, once=1)
    client.is_full = True
    lua.receive(message("OPTIONS", 1), PHONE)
    client.read()
    assert [line["params"] for line in client.lines] == [{"event": "lost", "count": 3}, {"event": "end"}]
    client.read()
    assert len(client.lines) == 2
    assert lua.node.router.onlookers == ()


def test_who_has_no_connection_that_stays_or_names_no_address_is_refused(lua: ServerUnderTest) -> None:
    refused = attach(lua, None)["error"]["message"]
    assert refused == "trace.attach: expected a connection to the control socket"
    assert attach(lua, Connection(), ip="x")["error"]["message"] == "trace.attach: ip: expected an IP address, got 'x'"
    assert lua.node.router.onlookers == ()


@pytest.mark.parametrize(
    ("data", "done"),
    [(b"rubbish\r\n\r\n", "dropped"), (message("OPTIONS", 1).replace(b"1 OPTIONS", b"1 INVITE"), "refused")],
)
def test_what_is_malformed_is_shown_to_who_asks_for_its_place_or_for_everything(
    lua: ServerUnderTest, data: bytes, done: str
) -> None:
    traces = [lua.trace(), lua.trace(ip="192.0.2.10"), lua.trace(ip="192.0.2.99"), lua.trace(user="alice")]
    lua.receive(data, PHONE)
    assert [len(of(trace, "malformed")) for trace in traces] == [1, 1, 0, 0]
    assert f"{done}, {len(data)} octets from udp:192.0.2.10:5060: " in traces[1].text()
    (event,) = of(traces[0], "malformed")
    assert event["message"] == data.decode()
    assert event["line"] == data.decode().partition("\r\n")[0]


def test_a_keep_alive_is_not_shown(lua: ServerUnderTest) -> None:
    trace = lua.trace()
    lua.receive(b"\r\n\r\n", PHONE)
    assert trace.events == []


@pytest.mark.parametrize("octets", [b"\xff", b"\xc3\xbc", b"\xed\xa0\x80", b"\x1b[2J"])
def test_octets_of_every_kind_are_told(lua: ServerUnderTest, octets: bytes) -> None:
    client = Connection()
    attach(lua, client, messages=1)
    lua.receive(message("INVITE", 1).replace(b"User-Agent: phone", b"User-Agent: " + octets), PHONE)
    texts = [line["params"]["message"] for line in client.lines if "message" in line["params"]]
    assert octets in texts[0].encode("utf-8", "surrogateescape")
