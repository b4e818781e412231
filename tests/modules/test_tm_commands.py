"""The commands of tm and sl: what they show of transactions, and what they do to them."""

from __future__ import annotations

from typing import Any

import pytest

from polykemi.errors import RpcError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.rpc import commands_of
from polykemi.sip.flow import Listener
from tests.modules.tm_driver import ALICE, BOB, BOB_URI, Proxy, Sent, answer, find, request, to, whats
from tests.support import LISTENER

HEADERS = "From: <sip:ops@example.test>;tag=1\r\nTo: <sip:bob@example.test>\r\n"


def ask(p: Proxy, method: str, *params: Any) -> Any:
    parts = [part for module in p.services.modules.values() for part in module.commands()]
    commands = {one.name: one for part in parts for one in commands_of(part)}
    return commands[method].run(params, p.now, may_wait=True)


def later(p: Proxy, method: str, *params: Any) -> list[Any]:
    """Return where the answer of a command that waits will be."""
    answers: list[Any] = []
    ask(p, method, *params).then(answers.append)
    assert answers == []
    return answers


def refused(p: Proxy, method: str, *params: Any) -> tuple[int, str]:
    with pytest.raises(RpcError) as raised:
        ask(p, method, *params)
    return raised.value.code, str(raised.value)


@pytest.fixture
def ringing() -> tuple[Proxy, Sent]:
    """A proxy with a call that rings, and its INVITE as Bob got it."""
    p = Proxy(to(BOB_URI))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    p.receive(answer(invite, 180), BOB)
    return p, invite


def test_transactions_are_counted_and_listed(ringing: tuple[Proxy, Sent]) -> None:
    p, invite = ringing
    stats = ask(p, "tm.stats")
    assert (stats["current"], stats["waiting"], stats["total"], stats["total_local"]) == (1, 0, 1, 0)
    assert (stats["rpl_received"], stats["rpl_generated"], stats["rpl_sent"]) == (1, 1, 2)
    (row,) = ask(p, "tm.list")
    call_id = invite.message.get("call-id")
    assert (row["method"], row["uas_request"], row["outgoings"], row["tflags"]) == ("INVITE", "yes", 1, 1)
    assert (row["callid"], row["cseq"]) == (f"Call-ID: {call_id}\r\n", "CSeq: 1")
    assert row["from"].startswith("From: ")
    p.receive(answer(invite, 200), BOB)
    stats = ask(p, "tm.stats")
    assert (stats["waiting"], stats["2xx"]) == (1, 1)
    assert ask(p, "tm.list")[0]["callid"] in (row["callid"], "")
    p.wait(200)
    stats = ask(p, "tm.stats")
    assert (stats["current"], stats["created"], stats["freed"]) == (0, 1, 1)
    assert ask(p, "tm.list") == []


def test_a_ringing_call_is_canceled(ringing: tuple[Proxy, Sent]) -> None:
    p, invite = ringing
    call_id = invite.message.get("call-id")
    assert refused(p, "tm.cancel") == (400, "Callid and CSeq expected as parameters")
    assert refused(p, "tm.cancel", "another", 1) == (400, "Transaction not found")
    assert ask(p, "tm.cancel", call_id, 1) == "branches remaining (waiting for timeout)"
    assert whats(p.sent()) == ["CANCEL"]
    out = p.receive(answer(invite, 487), BOB)
    assert "487" in " ".join(whats(out))
    assert refused(p, "tm.cancel", call_id, 1) == (400, "Transaction not found")


@pytest.mark.parametrize("by_id", [False, True])
def test_a_ringing_call_is_answered(ringing: tuple[Proxy, Sent], by_id: bool) -> None:
    p, invite = ringing
    (row,) = ask(p, "tm.list")
    which = [f"{row['tindex']}:{row['tlabel']}"] if by_id else [invite.message.get("call-id"), "1"]
    assert ask(p, "tm.reply" if by_id else "tm.reply_callid", "486", "Busy now", *which, "ops") == {}
    reply, cancel = sorted(p.sent(), key=lambda one: one.what)
    assert (reply.to, reply.message.start_line, reply.message.to.tag) == (ALICE, "SIP/2.0 486 Busy now", "ops")
    assert (cancel.to, cancel.what) == (BOB, "CANCEL")
    assert ask(p, "tm.stats")["4xx"] == 1


def test_replies_that_cannot_be_sent_say_why(ringing: tuple[Proxy, Sent]) -> None:
    p, invite = ringing
    call_id = invite.message.get("call-id")
    wanted = ["Reply code", "Reason phrase", "Call-ID", "CSeq", "To tag"]
    given: list[Any] = ["404", "x", call_id, "1"]
    for n, name in enumerate(wanted):
        assert refused(p, "tm.reply_callid", *given[:n]) == (400, f"{name} expected")
    assert refused(p, "tm.reply_callid", 404, "x", "another", 1, "t") == (404, "Transaction not found")
    assert refused(p, "tm.reply", 404, "x", "1", "t") == (400, "Invalid transaction ID")
    assert refused(p, "tm.reply", 404, "x", "1:2", "t") == (481, "No such transaction")
    assert refused(p, "tm.reply_callid", 99, "x", call_id, 1, "t")[0] == 400
    assert refused(p, "tm.reply_callid", 404, "x\r\nEvil: 1", call_id, 1, "t")[0] == 400
    assert refused(p, "tm.reply_callid", 404, "x", call_id, 1, "t\r\nEvil: 1")[0] == 400
    assert p.sent() == []


def test_a_request_of_our_own_is_sent() -> None:
    p = Proxy(to(BOB_URI))
    assert ask(p, "tm.t_uac_start", "MESSAGE", BOB_URI, ".", ".", f"{HEADERS}Content-Type: text/plain\r\n", "hi") == {}
    (sent,) = p.sent()
    assert (sent.to, sent.message.body) == (BOB, b"hi")
    (row,) = ask(p, "tm.list")
    assert (row["uas_request"], row["tflags"]) == ("no", 2)
    assert ask(p, "tm.stats")["total_local"] == 1
    socket = str(LISTENER)
    assert ask(p, "tm.t_uac_start", "OPTIONS", "sip:x@y", BOB_URI, socket, HEADERS.replace("\r\n", "\n")) == {}
    (sent,) = p.sent()
    assert (sent.to, sent.flow.listener) == (BOB, LISTENER)


def test_an_operator_waits_for_the_answer_to_a_request() -> None:
    p = Proxy(to(BOB_URI))
    answers = later(p, "tm.t_uac_wait", "OPTIONS", BOB_URI, ".", ".", HEADERS)
    (sent,) = p.sent()
    p.receive(answer(sent, 100), BOB)
    assert answers == []
    lines = ("Contact: <sip:bob@192.0.2.9>", "Record-Route: <sip:a.test;lr>, <sip:b.test;lr>")
    p.receive(answer(sent, 200, *lines), BOB)
    (told,) = answers
    routes = "<sip:b.test;lr>, <sip:a.test;lr>"
    assert told[:5] == [200, "Reason", "sip:bob@192.0.2.9", "sip:b.test;lr", f"Route: {routes}"]
    assert told[5].startswith("Via: ")
    assert "\r\nContact: <sip:bob@192.0.2.9>\r\n" in told[5]
    assert told[5].endswith("\r\n\r\n")


def test_an_operator_is_told_of_refusals_and_of_silence() -> None:
    p = Proxy(to(BOB_URI))
    refusal = later(p, "tm.t_uac_wait", "OPTIONS", BOB_URI, ".", ".", HEADERS)
    short = later(p, "tm.t_uac_wait_block", "OPTIONS", BOB_URI, ".", ".", HEADERS)
    first, second = p.sent()
    p.receive(answer(first, 404, "Contact: <sip:bob@192.0.2.9>"), BOB)
    p.receive(answer(second, 486), BOB)
    ((code, reason, text),) = refusal
    assert (code, reason, text[:5]) == (404, "Reason", "Via: ")
    assert short == [{"code": 486, "text": "Reason"}]
    silence = later(p, "tm.t_uac_wait", "OPTIONS", BOB_URI, ".", ".", HEADERS)
    p.wait(40)
    assert silence == [[408, "Request Timeout", "", "", "", ""]]
    assert refused(p, "tm.t_uac_wait", "OPTIONS", "nonsense", ".", ".", HEADERS)[0] == 400


def test_an_operator_does_not_wait_for_what_the_event_route_drops() -> None:
    def drop(proxy: Proxy, ctx: RouteContext) -> None:
        ctx.dropped = True

    p = Proxy(to(BOB_URI), tm={"event_callback": "EVENT"}, EVENT=drop)
    answers = later(p, "tm.t_uac_wait_block", "OPTIONS", BOB_URI, ".", ".", HEADERS)
    while p.services.work:
        p.run(p.services.work.pop(0))
    assert answers == [{"code": 503, "text": "Not sent"}]
    assert p.sent() == []


@pytest.mark.parametrize(
    ("params", "cause"),
    [
        ((), "too few parameters"),
        (("OPTIONS", "nonsense", ".", ".", HEADERS), 'Invalid request uri "nonsense"'),
        (("OPTIONS", BOB_URI, "nonsense", ".", HEADERS), 'Invalid next-hop uri "nonsense"'),
        (("OPTIONS", BOB_URI, ".", "udp:9.9.9.9:5", HEADERS), 'No local socket for "udp:9.9.9.9:5"'),
        (("OPTIONS", BOB_URI, ".", ".", "To: <sip:a@b>"), "Invalid headers: From or To is missing"),
        (("MESSAGE", BOB_URI, ".", ".", HEADERS, "hi"), "Invalid headers: a body needs Content-Type"),
    ],
)
def test_a_request_that_cannot_be_sent_says_why(params: tuple[str, ...], cause: str) -> None:
    p = Proxy(to(BOB_URI))
    code, text = refused(p, "tm.t_uac_start", *params)
    assert code == 400
    assert text.startswith(cause)


def test_a_request_for_which_there_is_no_way_says_so() -> None:
    p = Proxy(to(BOB_URI), given={"listeners": (Listener("udp", "192.0.2.1", 5060),)})
    assert refused(p, "tm.t_uac_start", "OPTIONS", f"{BOB_URI};transport=tls", ".", ".", HEADERS)[0] == 500


def test_overdue_transactions_are_ended(ringing: tuple[Proxy, Sent]) -> None:
    p, _ = ringing
    assert ask(p, "tm.clean") == {}
    assert ask(p, "tm.stats")["current"] == 1
    p.now += 400
    assert ask(p, "tm.clean") == {}
    assert ask(p, "tm.stats")["current"] == 0


def test_stateless_replies_are_counted_by_status() -> None:
    p = Proxy(lambda p, ctx: p.services.modules["sl"].send_reply(ctx, 404, "Not Found"))
    p.receive(request("OPTIONS"), ALICE)
    stats = ask(p, "sl.stats")
    assert stats["404"] == 1
    assert sum(stats.values()) == 1
    assert list(stats)[:3] == ["200", "202", "2xx"]
