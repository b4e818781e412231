"""sl: what a stateless reply says and where it goes."""

from __future__ import annotations

from typing import Any

import pytest

from polykemi.kemi.context import RouteContext
from polykemi.kemi.route import Route
from polykemi.modules.base import Services
from polykemi.modules.sl import Sl
from polykemi.sip.flow import Flow, Listener
from polykemi.sip.message import Request, parse
from polykemi.sip.reply_path import reply_path, response_target
from tests.support import LISTENER, NOW, headers, message, replies, request_context, services

OPTIONS = "OPTIONS sip:example.test SIP/2.0"


class FakeTm:
    """Takes the replies that go through a transaction."""

    def __init__(self) -> None:
        self.replies: list[tuple[int, str]] = []

    def reply(self, ctx: RouteContext, code: int, reason: str) -> int:
        self.replies.append((code, reason))
        return 1


def sl_of(made: Services) -> Sl:
    sl = made.modules["sl"]
    assert isinstance(sl, Sl)
    return sl


def send(*, code: int = 200, reason: str = "OK", **fields: str) -> tuple[int, list[str], Services]:
    made = services(Sl)
    ctx = request_context(message(OPTIONS, **fields))
    result = sl_of(made).sl_send_reply(ctx, code, reason)
    return result, replies(made), made


def test_a_reply_carries_the_headers_of_the_request_and_a_to_tag() -> None:
    result, [reply], _ = send()
    assert result == 1
    assert reply.startswith("SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKtest\r\n")
    assert headers(reply, "To")[0].startswith("<sip:alice@example.test>;tag=")
    assert headers(reply, "CSeq") == ["1 OPTIONS"]
    assert headers(reply, "Server") == ["polykemi"]
    assert reply.endswith("Content-Length: 0\r\n\r\n")


def test_retransmissions_get_the_same_to_tag_and_other_requests_another() -> None:
    made = services(Sl)
    for branch in ("a", "a", "b"):
        ctx = request_context(message(OPTIONS, via=f"SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK{branch}"))
        sl_of(made).sl_send_reply(ctx, 404, "Not Found")
    first, again, other = (headers(reply, "To")[0] for reply in replies(made))
    assert first == again != other


def test_the_ack_to_a_stateless_reply_is_recognised_and_another_one_is_not() -> None:
    made = services(Sl)
    via = "SIP/2.0/UDP 192.0.2.10;branch=z9hG4bKa"
    sl_of(made).sl_send_reply(request_context(message("INVITE sip:bob@example.test SIP/2.0", via=via)), 404, "No")
    [reply] = replies(made)
    ours = parse(message("ACK sip:bob@example.test SIP/2.0", via=via, to=headers(reply, "To")[0]))
    foreign = parse(message("ACK sip:bob@example.test SIP/2.0", via=via, to="<sip:bob@example.test>;tag=x"))
    assert isinstance(ours, Request)
    assert isinstance(foreign, Request)
    assert sl_of(made).is_own_ack(ours, Flow(LISTENER, "192.0.2.10", 5060), NOW)
    assert not sl_of(made).is_own_ack(foreign, Flow(LISTENER, "192.0.2.10", 5060), NOW)
    assert made.counters["sl.received_ACKs"] == 1


def test_a_to_tag_of_the_request_stays() -> None:
    _, [reply], _ = send(to="<sip:alice@example.test>;tag=there")
    assert headers(reply, "To") == ["<sip:alice@example.test>;tag=there"]


def test_nobody_answers_an_ack_or_a_reply() -> None:
    made = services(Sl)
    ack = request_context(message("ACK sip:bob@example.test SIP/2.0"))
    reply = request_context(message("SIP/2.0 200 OK", cseq="1 INVITE"), kind=Route.REPLY)
    assert sl_of(made).sl_send_reply(ack, 200, "OK") == -1
    assert sl_of(made).sl_send_reply(reply, 200, "OK") == -1
    assert replies(made) == []


@pytest.mark.parametrize(("code", "reason"), [(99, "OK"), (700, "OK"), (200, "OK\r\nX-Evil: 1")])
def test_what_is_no_status_line_is_not_sent(code: int, reason: str) -> None:
    result, sent, _ = send(code=code, reason=reason)
    assert (result, sent) == (-1, [])


def test_replies_are_counted_by_status_as_kamailio_counts_them() -> None:
    made = services(Sl)
    for code in (200, 404, 486, 503):
        sl_of(made).sl_send_reply(request_context(message(OPTIONS)), code, "x")
    counted = {name: n for name, n in made.counters.items() if name.startswith("sl.") and n}
    assert counted == {
        "sl.200_replies": 1,
        "sl.404_replies": 1,
        "sl.4xx_replies": 1,
        "sl.5xx_replies": 1,
        "sl.sent_replies": 4,
    }


def test_headers_and_body_that_a_script_gave_for_the_reply_are_in_it() -> None:
    made = services(Sl)
    ctx = request_context(message(OPTIONS))
    ctx.reply_headers.append("X-Hint: 1")
    ctx.cache["reply_body"] = b"hello"
    assert sl_of(made).reply(ctx, 200, "OK", ("Allow: INVITE",)) == 1
    [reply] = replies(made)
    assert headers(reply, "X-Hint") == ["1"]
    assert headers(reply, "Allow") == ["INVITE"]
    assert reply.endswith("Content-Length: 5\r\n\r\nhello")
    assert ctx.replied


@pytest.mark.pure
def test_send_reply_goes_through_the_transaction_when_there_is_one() -> None:
    made = services(Sl)
    tm = FakeTm()
    modules: Any = made.modules
    modules["tm"] = tm
    ctx = request_context(message(OPTIONS))
    assert sl_of(made).send_reply(ctx, 404, "Not Found") == 1
    assert len(replies(made)) == 1
    transaction: Any = object()
    ctx.transaction = transaction
    assert sl_of(made).send_reply(ctx, 404, "Not Found") == 1
    assert (tm.replies, replies(made)) == ([(404, "Not Found")], [])


def test_reply_error_says_what_went_wrong_or_500() -> None:
    made = services(Sl)
    unknown, known = request_context(message(OPTIONS)), request_context(message(OPTIONS))
    known.cache["reply_error"] = (478, "Unresolvable destination")
    assert sl_of(made).sl_reply_error(unknown) == 1
    assert sl_of(made).send_reply_error(known) == 1
    first, second = replies(made)
    assert first.startswith("SIP/2.0 500 ")
    assert second.startswith("SIP/2.0 478 Unresolvable destination\r\n")
    assert made.counters["sl.sent_err_replies"] == 2


def test_what_failed_and_replied_itself_is_not_answered_twice() -> None:
    made = services(Sl)
    ctx = request_context(message(OPTIONS))
    sl_of(made).sl_send_reply(ctx, 403, "Forbidden")
    assert [sl_of(made).sl_reply_error(ctx), sl_of(made).send_reply_error(ctx)] == [1, 1]
    assert len(replies(made)) == 1


@pytest.mark.parametrize(
    ("via", "force", "expected"),
    [
        # the Via names the source: nothing to add, the reply goes to its port
        ("192.0.2.10:5066", False, ("", 0, "192.0.2.10", 5066)),
        ("192.0.2.10", False, ("", 0, "192.0.2.10", 5060)),
        # another host or a name: received, and the port of sent-by (RFC 3261 section 18.2)
        ("10.0.0.1:5066", False, ("192.0.2.10", 0, "192.0.2.10", 5066)),
        ("phone.example.test", False, ("192.0.2.10", 0, "192.0.2.10", 5060)),
        # a received that the client wrote is not believed
        ("192.0.2.10;received=203.0.113.1", False, ("192.0.2.10", 0, "192.0.2.10", 5060)),
        # rport asked for, or forced: the source port (RFC 3581)
        ("10.0.0.1:5066;rport", False, ("192.0.2.10", 40000, "192.0.2.10", 40000)),
        ("10.0.0.1:5066", True, ("192.0.2.10", 40000, "192.0.2.10", 40000)),
        # maddr counts for multicast only
        ("192.0.2.10;maddr=203.0.113.1", False, ("", 0, "192.0.2.10", 5060)),
        ("192.0.2.10:5070;maddr=224.0.1.75", False, ("", 0, "224.0.1.75", 5070)),
    ],
)
def test_where_a_reply_goes(via: str, force: bool, expected: tuple[str, int, str, int]) -> None:
    request = parse(message(OPTIONS, via=f"SIP/2.0/UDP {via};branch=z9hG4bKx"))
    assert isinstance(request, Request)
    received, rport, flow = reply_path(request, Flow(LISTENER, "192.0.2.10", 40000), force)
    assert (received, rport, flow.host, flow.port) == expected


def test_a_reply_over_a_connection_goes_back_over_it() -> None:
    flow = Flow(Listener("tcp", "192.0.2.1", 5060), "192.0.2.10", 40000)
    request = parse(message(OPTIONS, via="SIP/2.0/TCP 192.0.2.10:5060;branch=z9hG4bKx"))
    assert isinstance(request, Request)
    assert reply_path(request, flow)[2] is flow


def test_an_ipv6_sent_by_matches_its_source() -> None:
    request = parse(message(OPTIONS, via="SIP/2.0/UDP [2001:db8::1];branch=z9hG4bKx"))
    assert isinstance(request, Request)
    assert reply_path(request, Flow(LISTENER, "2001:db8::1", 5060))[0] == ""


def two_vias(second: str) -> bytes:
    return message("SIP/2.0 180 Ringing", f"Via: SIP/2.0/UDP {second};branch=z9hG4bK2", cseq="1 INVITE")


@pytest.mark.parametrize(
    ("second", "target"),
    [
        ("192.0.2.20", ("192.0.2.20", 5060)),
        ("192.0.2.20:5070", ("192.0.2.20", 5070)),
        ("10.0.0.1:5070;received=192.0.2.20;rport=4000", ("192.0.2.20", 4000)),
        ("10.0.0.1:5070;rport=99999", ("10.0.0.1", 5070)),
        ("[2001:db8::1]:5070", ("2001:db8::1", 5070)),
    ],
)
def test_a_response_goes_where_its_second_via_says(second: str, target: tuple[str, int]) -> None:
    response: Any = parse(two_vias(second))
    found = response_target(response, LISTENER)
    assert found is not None
    assert (found.host, found.port) == target


def test_a_response_without_a_usable_second_via_goes_nowhere() -> None:
    for data in (message("SIP/2.0 180 Ringing", cseq="1 INVITE"), message("SIP/2.0 180 Ringing", "Via: junk")):
        response: Any = parse(data)
        assert response_target(response, LISTENER) is None


def test_sl_forward_reply_sends_the_reply_on_with_the_status_that_the_script_wants() -> None:
    made = services(Sl)
    ctx = request_context(two_vias("192.0.2.20:5070"), kind=Route.REPLY)
    assert sl_of(made).sl_forward_reply(ctx, "183", "Progress") == 1
    assert sl_of(made).sl_forward_reply(ctx, "", "") == 1
    assert sl_of(made).sl_forward_reply(ctx, "200", "OK") == -1  # another class
    assert [flow[1:] for _, flow in made.outbox.items] == [("192.0.2.20", 5070)] * 2
    changed, same = replies(made)
    assert changed.startswith("SIP/2.0 183 Progress\r\nFrom: ") or "SIP/2.0 183 Progress\r\n" in changed
    assert headers(changed, "Via") == ["SIP/2.0/UDP 192.0.2.20:5070;branch=z9hG4bK2"]
    assert same.startswith("SIP/2.0 180 Ringing\r\n")


def test_events_tell_of_replies_and_of_their_acks() -> None:
    made = services(Sl, params={"sl": {"event_callback_fl_ack": "ACKED", "event_callback_lres_sent": "SENT"}})
    via = "SIP/2.0/UDP 192.0.2.10;branch=z9hG4bKa"
    sl_of(made).sl_send_reply(request_context(message("INVITE sip:bob@example.test SIP/2.0", via=via)), 404, "No")
    [reply] = replies(made)
    ack = parse(message("ACK sip:bob@example.test SIP/2.0", via=via, to=headers(reply, "To")[0]))
    assert isinstance(ack, Request)
    sl_of(made).is_own_ack(ack, Flow(LISTENER, "192.0.2.10", 5060), NOW)
    told = [(block.callback, block.event, block.method) for block in made.events]
    assert told == [("SENT", "sl:local-response", "INVITE"), ("ACKED", "sl:filtered-ack", "ACK")]
    sl_of(made).sl_send_reply(made.events[0], 500, "Again")
    assert len(made.events) == 2
