"""Requests of our own: what is sent, sent again and acknowledged, who is told of the end, what a script makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from polykemi.kemi.context import RouteContext
from polykemi.kemi.faked import event_context
from polykemi.modules.tm_local import LocalReply, LocalRequest
from polykemi.sip.flow import Listener
from tests.modules.tm_driver import BOB, CAROL, Proxy, answer, find, to, whats
from tests.support import LISTENER

BOB_URI = "sip:bob@192.0.2.20"


class Phone:
    """A proxy that sends requests of its own and keeps how they ended."""

    def __init__(self, **routes: Any) -> None:
        armed = {"event_callback": "EVENT"} if "EVENT" in routes else {}
        self.proxy = Proxy(to(BOB_URI), tm=armed, **routes)
        self.ends: list[LocalReply] = []

    def send(self, method: str = "OPTIONS", uri: str = BOB_URI, **more: Any) -> int:
        """Send a request and return what ``Tm.request`` answers."""
        request = LocalRequest(method, uri, "sip:me@example.test", "<sip:bob@example.test>", **more)
        code = self.proxy.tm.request(request, self.proxy.now, self.ends.append)
        while self.proxy.services.work:
            self.proxy.run(self.proxy.services.work.pop(0))
        return code


def test_a_request_is_complete_and_its_final_response_ends_it() -> None:
    phone = Phone()
    assert phone.send(headers=["X-Why: keepalive"], body=b"hello") == 1
    (sent,) = phone.proxy.sent()
    head, _, body = sent.data.decode().partition("\r\n\r\n")
    start, via, *lines = head.split("\r\n")
    assert sent.to == BOB
    assert start == "OPTIONS sip:bob@192.0.2.20 SIP/2.0"
    assert via.startswith("Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK")
    assert lines[0] == "To: <sip:bob@example.test>"
    assert lines[1].startswith("From: <sip:me@example.test>;tag=")
    assert lines[2] == "CSeq: 10 OPTIONS"
    assert lines[3].startswith("Call-ID: ")
    assert lines[4:] == ["Max-Forwards: 70", "Content-Length: 5", "User-Agent: polykemi", "X-Why: keepalive"]
    assert body == "hello"
    phone.proxy.receive(answer(sent, 100), BOB)
    assert phone.ends == []
    phone.proxy.receive(answer(sent, 404, reason="Not Found"), BOB)
    phone.proxy.receive(answer(sent, 404), BOB)
    (end,) = phone.ends
    assert (end.status, end.reason, end.flow.host) == (404, "Not Found", "192.0.2.20")
    assert end.response is not None
    assert phone.proxy.wait(60) == []


def test_without_an_answer_it_is_sent_again_and_ends_with_408() -> None:
    phone = Phone()
    phone.send()
    assert len(phone.proxy.sent()) == 1
    assert set(whats(phone.proxy.wait(31))) == {"OPTIONS"}
    (end,) = phone.ends
    assert (end.status, end.response) == (408, None)
    assert phone.proxy.wait(60) == []


def test_a_request_that_cannot_be_sent_ends_with_503() -> None:
    phone = Phone()
    phone.send()
    (sent,) = phone.proxy.sent()
    phone.proxy.fail(sent)
    assert [end.status for end in phone.ends] == [503]


@pytest.mark.parametrize(
    ("uri", "code"), [("sip:bob@192.0.2.20;transport=tls", -7), ("nonsense", -400), ("tel:123", -400)]
)
def test_a_request_without_a_next_hop_is_refused_and_nobody_called(uri: str, code: int) -> None:
    phone = Phone()
    assert phone.send(uri=uri) == code
    assert (phone.proxy.sent(), phone.ends) == ([], [])


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"dst_uri": "sip:192.0.2.30"}, CAROL),
        ({"routes": ["<sip:192.0.2.30;lr>", "<sip:192.0.2.40;lr>"]}, CAROL),
        ({"routes": ["<sip:192.0.2.40;lr>"], "dst_uri": "sip:192.0.2.30"}, CAROL),
        ({}, BOB),
    ],
)
def test_the_next_hop_is_the_given_one_the_first_route_or_the_request_uri(
    more: dict[str, Any], where: tuple[str, int]
) -> None:
    phone = Phone()
    phone.send(**more)
    (sent,) = phone.proxy.sent()
    assert sent.to == where
    assert sent.message.all("route") == more.get("routes", [])


def test_the_2xx_of_an_invite_is_acknowledged_each_time_it_comes() -> None:
    phone = Phone()
    phone.send("INVITE")
    (invite,) = phone.proxy.sent()
    ok = answer(
        invite,
        200,
        "Contact: <sip:bob@192.0.2.30:5070>",
        "Record-Route: <sip:b;lr>",
        "Record-Route: <sip:192.0.2.20;lr>",
    )
    first = phone.proxy.receive(ok, BOB)
    again = phone.proxy.receive(ok, BOB)
    assert whats(first) == ["ACK"]
    assert first[0].to == BOB
    assert first[0].request.uri == "sip:bob@192.0.2.30:5070"
    assert first[0].message.all("route") == ["<sip:192.0.2.20;lr>", "<sip:b;lr>"]
    assert first[0].message.cseq == (10, "ACK")
    assert first[0].message.to.tag == "callee"
    assert first[0].message.via.branch != invite.message.via.branch
    assert again[0].data == first[0].data
    assert [end.status for end in phone.ends] == [200]


def test_each_callee_of_a_forked_invite_gets_its_own_ack() -> None:
    phone = Phone()
    phone.send("INVITE")
    (invite,) = phone.proxy.sent()
    contact = "Contact: <sip:bob@192.0.2.20>"
    (first,) = phone.proxy.receive(answer(invite, 200, contact, tag="one"), BOB)
    (second,) = phone.proxy.receive(answer(invite, 200, contact, tag="two"), BOB)
    (again,) = phone.proxy.receive(answer(invite, 200, contact, tag="one"), BOB)
    assert (first.message.to.tag, second.message.to.tag) == ("one", "two")
    assert again.data == first.data
    assert [end.status for end in phone.ends] == [200]


def test_an_ack_through_a_strict_router_has_its_target_last() -> None:
    phone = Phone()
    phone.send("INVITE")
    (invite,) = phone.proxy.sent()
    (ack,) = phone.proxy.receive(answer(invite, 200, "Contact: <sip:bob@a>", "Record-Route: <sip:192.0.2.30>"), BOB)
    assert (ack.request.uri, ack.to) == ("sip:192.0.2.30", CAROL)
    assert ack.message.all("route") == ["<sip:bob@a>"]


def test_a_refused_invite_is_acknowledged_by_its_transaction() -> None:
    phone = Phone()
    phone.send("INVITE")
    (invite,) = phone.proxy.sent()
    (ack,) = phone.proxy.receive(answer(invite, 486), BOB)
    assert ack.message.via.branch == invite.message.via.branch
    assert [end.status for end in phone.ends] == [486]


def test_the_event_route_sees_the_request_and_changes_it() -> None:
    seen: list[tuple[str, str, str, str]] = []

    def event(_: Proxy, ctx: RouteContext) -> None:
        seen.append((ctx.event, ctx.method, ctx.ruri, ctx.dst_uri))
        ctx.edits.inserts.append((len(ctx.message.lines), "X-Seen: yes"))
        ctx.ruri = "sip:carol@192.0.2.20"

    phone = Phone(EVENT=event)
    assert phone.send(dst_uri="sip:192.0.2.30", body=b"12") == 1
    (sent,) = phone.proxy.sent()
    assert seen == [("tm:local-request", "OPTIONS", BOB_URI, "sip:192.0.2.30")]
    assert sent.request.uri == "sip:carol@192.0.2.20"
    assert sent.to == CAROL
    assert sent.message.get("x-seen") == "yes"
    assert sent.message.body == b"12"
    phone.proxy.receive(answer(sent, 200), CAROL)
    assert [end.status for end in phone.ends] == [200]


def test_the_event_route_drops_a_request() -> None:
    def event(_: Proxy, ctx: RouteContext) -> None:
        ctx.dropped = True

    phone = Phone(EVENT=event)
    phone.send()
    assert phone.proxy.sent() == []
    assert phone.ends == []
    assert len(phone.proxy.tm.layer) == 0


def test_the_event_route_chooses_another_listener() -> None:
    other = Listener("udp", "192.0.2.2", 5060)

    def event(_: Proxy, ctx: RouteContext) -> None:
        ctx.force_listener = other

    phone = Phone(EVENT=event)
    phone.send()
    (sent,) = phone.proxy.sent()
    assert sent.flow.listener == other
    assert sent.message.via.host == "192.0.2.2"


def test_a_module_may_have_route_blocks_run_at_the_end() -> None:
    proxy = Proxy(to(BOB_URI), DONE=lambda p, ctx: None)

    def on_end(reply: LocalReply) -> Iterator[RouteContext]:
        yield event_context("DONE", "uac:reply", LISTENER, reply.now)

    proxy.tm.request(LocalRequest("OPTIONS", BOB_URI, "sip:a@b", "sip:b@b"), proxy.now, on_end)
    proxy.receive(answer(find(proxy.sent(), "OPTIONS"), 200), BOB)
    assert [name for name, _ in proxy.ran] == ["DONE"]
