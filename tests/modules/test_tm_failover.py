"""tm and DNS: branches that wait for an answer, the next place when one fails, places that are passed over (RFC 3263 4.3)."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from polykemi.kemi.context import RouteContext
from polykemi.modules.rr import Rr
from polykemi.modules.tm_local import LocalReply, LocalRequest
from polykemi.sip.flow import Listener, NamedFlow
from polykemi.sip.locate import Destination, Place
from polykemi.transaction.blocklist import ERR_SEND, ERR_TIMEOUT, STATUS_503, Blocklist
from polykemi.transaction.forking import Branch
from tests.modules.tm_driver import ALICE, BOB_URI, Names, Proxy, Sent, answer, find, request, to, whats
from tests.support import LISTENER

TCP = Listener("tcp", "192.0.2.1", 5060)
TLS = Listener("tls", "192.0.2.1", 5061)
ONE, TWO, THREE = ("198.51.100.1", 5060), ("198.51.100.2", 5060), ("198.51.100.3", 5060)
NAME = "sip:bob@gw.test"


def udp(*addresses: tuple[str, int]) -> list[Place]:
    return [Place("udp", *address) for address in addresses]


class Edge(Proxy):
    """A proxy with a UDP, a TCP and a TLS listener and a DNS; the request goes to ``uris``."""

    def __init__(self, names: Names, *uris: str, armed: dict[str, str] | None = None, **more: Any) -> None:
        self.names = names
        given = {"listeners": (LISTENER, TCP, TLS), "locator": names, **more.pop("given", {})}
        route = more.pop("route", None) or to(*(uris or (NAME,)), **(armed or {}))
        super().__init__(route, given=given, **more)

    def answer(self, places: list[Place]) -> list[Sent]:
        """Let DNS answer the oldest question, and return what leaves then."""
        _, take = self.names.asked.pop(0)
        take(places, self.now)
        return self.work()

    def work(self) -> list[Sent]:
        """Do what waits, and return what leaves."""
        while self.services.work:
            self.run(self.services.work.pop(0))
        return self.sent()


def branch_of(sent: Sent) -> str:
    return sent.message.via.branch


# ---- waiting for DNS
def test_a_name_that_is_known_is_called_at_once() -> None:
    edge = Edge(Names(gw_test=udp(ONE)))
    assert whats(edge.receive(request("INVITE"), ALICE)) == ["100 INVITE", "INVITE"]


def test_a_branch_waits_for_dns_and_leaves_by_the_transport_that_dns_says() -> None:
    codes = []

    def route(proxy: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = NAME
        codes.append(proxy.relay(ctx))

    edge = Edge(Names(), route=route)
    assert whats(edge.receive(request("INVITE"), ALICE)) == ["100 INVITE"]
    assert codes == [1]
    assert edge.receive(request("INVITE"), ALICE) != []  # a retransmission: 100 again, nothing is asked again
    assert [destination for destination, _ in edge.names.asked] == [Destination("gw.test")]
    (invite,) = edge.answer([Place("tcp", *ONE)])
    assert (invite.flow.listener, invite.to) == (TCP, ONE)
    assert invite.message.via.text.startswith("SIP/2.0/TCP 192.0.2.1;branch=z9hG4bK")
    sent = edge.receive(answer(invite, 200), ONE)
    assert whats(sent) == ["200 INVITE"]


def test_our_listeners_say_what_is_usable() -> None:
    edge = Edge(Names())
    edge.receive(request("INVITE"), ALICE)
    assert edge.names.usable == {"udp": (4,), "tcp": (4,), "tls": (4,)}


def test_a_record_route_is_doubled_when_dns_leads_to_another_listener() -> None:
    def route(proxy: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = NAME
        proxy.services.modules["rr"].record_route(ctx)
        proxy.relay(ctx)

    edge = Edge(Names(), route=route)
    edge.services.modules["rr"] = Rr(edge.services)  # type: ignore[index]
    edge.receive(request("INVITE"), ALICE)
    (invite,) = edge.answer([Place("tcp", *ONE), Place("udp", *TWO)])
    assert [value.partition(";ftag")[0] for value in invite.message.list("record-route")] == [
        "<sip:192.0.2.1;transport=tcp;r2=on;lr",
        "<sip:192.0.2.1;r2=on;lr",
    ]
    (second,) = edge.fail(invite)
    assert [value.partition(";ftag")[0] for value in second.message.list("record-route")] == ["<sip:192.0.2.1;lr"]


def test_what_the_script_does_after_t_relay_does_not_change_what_leaves_later() -> None:
    def route(proxy: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = NAME
        proxy.relay(ctx)
        ctx.edits.inserts.append((0, "X-Late: 1"))
        ctx.ruri, ctx.dst_uri = "sip:else@where.test", BOB_URI

    edge = Edge(Names(), route=route)
    edge.receive(request("INVITE"), ALICE)
    (invite,) = edge.answer(udp(ONE))
    assert invite.request.uri == NAME
    assert not invite.message.has("x-late")


def test_a_name_that_leads_nowhere_is_478_and_the_failure_route_hears_of_it() -> None:
    edge = Edge(Names(), armed={"failure": "FAIL"}, FAIL=None)
    edge.receive(request("INVITE"), ALICE)
    sent = edge.answer([])
    assert whats(sent) == ["478 INVITE"]
    assert sent[0].response.reason == "Unresolvable destination"
    assert ("FAIL", 478) in edge.ran


@pytest.mark.parametrize(
    ("uri", "places", "code", "status"),
    [
        (NAME, [], -478, "478"),
        ("sip:bob@gw.test;transport=sctp", None, -7, "500"),
        ("sip:bob@gw.test;transport=ws", None, -7, "500"),
    ],
)
def test_what_is_known_to_lead_nowhere_is_said_at_once(
    uri: str, places: list[Place] | None, code: int, status: str
) -> None:
    codes = []
    names = Names() if places is None else Names(gw_test=places)

    def route(proxy: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = uri
        codes.append(proxy.relay(ctx))

    edge = Edge(names, route=route)
    sent = edge.receive(request("INVITE"), ALICE)
    assert codes == [code]
    assert whats(sent)[-1] == f"{status} INVITE"
    assert not names.asked


def test_cancel_while_dns_is_asked_ends_the_call_and_nothing_leaves() -> None:
    edge = Edge(Names())
    edge.receive(request("INVITE"), ALICE)
    assert whats(edge.receive(request("CANCEL"), ALICE)) == ["200 CANCEL", "487 INVITE"]
    assert edge.answer(udp(ONE)) == []
    edge.wait(200)
    assert (edge.tm.active(), len(edge.tm.layer)) == (0, 0)


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_a_script_that_answers_while_dns_is_asked(method: str) -> None:
    def route(proxy: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = NAME
        proxy.relay(ctx)
        proxy.tm.t_reply(ctx, 486, "Busy")

    edge = Edge(Names(), route=route)
    assert whats(edge.receive(request(method), ALICE))[-1] == f"486 {method}"
    assert edge.answer(udp(ONE)) == []
    edge.wait(200)
    assert (edge.tm.active(), len(edge.tm.layer)) == (0, 0)


def test_one_branch_waits_while_another_one_is_called() -> None:
    edge = Edge(Names(), BOB_URI, NAME)
    invite = find(edge.receive(request("INVITE"), ALICE), "INVITE")
    assert edge.receive(answer(invite, 486), ("192.0.2.20", 5060))[0].what == "ACK"  # the other one is still to come
    (second,) = edge.answer(udp(ONE))
    assert second.to == ONE
    assert "200 INVITE" in whats(edge.receive(answer(second, 200), ONE))


def test_the_first_answer_ends_the_branch_that_waits() -> None:
    edge = Edge(Names(), BOB_URI, NAME)
    invite = find(edge.receive(request("INVITE"), ALICE), "INVITE")
    assert whats(edge.receive(answer(invite, 200), ("192.0.2.20", 5060))) == ["200 INVITE"]
    assert edge.answer(udp(ONE)) == []


def test_the_onsend_route_sees_the_request_when_it_leaves() -> None:
    seen = []

    def onsend(proxy: Proxy, ctx: RouteContext) -> None:
        seen.append(ctx.destination)
        ctx.dropped = ctx.destination is not None and ctx.destination.host == ONE[0]

    edge = Edge(Names(), ksr_onsend_route=onsend)
    edge.receive(request("INVITE"), ALICE)
    assert seen == []
    (invite,) = edge.answer(udp(ONE, TWO))
    assert [flow.host for flow in seen if flow is not None] == [ONE[0], TWO[0]]
    assert invite.to == TWO


def test_an_ack_to_a_name_waits_too() -> None:
    edge = Edge(Names())
    assert edge.receive(request("ACK", branch="new", to_tag="b"), ALICE) == []
    (ack,) = edge.answer(udp(ONE))
    assert (ack.what, ack.to) == ("ACK", ONE)


def test_a_server_over_tls_has_to_prove_the_name_of_the_uri() -> None:
    edge = Edge(Names(gw_test=[Place("tls", "198.51.100.1", 5061)]), "sips:bob@gw.test")
    invite = find(edge.receive(request("INVITE"), ALICE), "INVITE")
    assert isinstance(invite.flow, NamedFlow)
    assert invite.flow.name == "gw.test"


# ---- the next place
@pytest.mark.parametrize("how", ["error", "503", "silence"])
def test_the_next_place_gets_the_request_with_another_branch_and_no_route_hears_of_it(how: str) -> None:
    edge = Edge(
        Names(gw_test=udp(ONE, TWO)), armed={"failure": "FAIL", "reply": "REPLY"}, tm={"fr_timer": 2000}, FAIL=None
    )
    first = find(edge.receive(request("INVITE"), ALICE), "INVITE")
    if how == "error":
        sent = edge.fail(first)
    elif how == "503":
        edge.receive(answer(first, 100), ONE)
        sent = edge.receive(answer(first, 503, "Retry-After: 9"), ONE)
        assert find(sent, "ACK").to == ONE
    else:
        sent = [one for one in edge.wait(2) if one.to != ONE]
    second = find(sent, "INVITE")
    assert second.to == TWO
    assert branch_of(second) != branch_of(first)
    assert second.data.replace(branch_of(second).encode(), branch_of(first).encode()) == first.data
    assert [name for name, status in edge.ran if name in ("FAIL", "REPLY") and status != 100] == []
    assert whats(edge.receive(answer(second, 180), TWO)) == ["180 INVITE"]
    assert whats(edge.receive(answer(second, 200), TWO)) == ["200 INVITE"]


def test_when_all_places_have_failed_the_failure_route_runs_once() -> None:
    edge = Edge(Names(gw_test=udp(ONE, TWO, THREE)), armed={"failure": "FAIL"}, FAIL=None)
    sent = [find(edge.receive(request("INVITE"), ALICE), "INVITE")]
    for _ in range(2):
        sent.append(find(edge.fail(sent[-1]), "INVITE"))
    assert [one.to for one in sent] == [ONE, TWO, THREE]
    assert ("FAIL", 503) not in edge.ran
    last = edge.receive(answer(sent[-1], 503), THREE)
    assert whats(last) == ["ACK", "500 INVITE"]
    assert edge.ran.count(("FAIL", 503)) == 1


def test_a_request_other_than_invite_fails_over_too() -> None:
    edge = Edge(Names(gw_test=udp(ONE, TWO)), tm={"fr_timer": 2000})
    first = find(edge.receive(request("MESSAGE"), ALICE), "MESSAGE")
    second = next(one for one in edge.wait(3) if one.to == TWO)
    assert (second.what, second.to) == ("MESSAGE", TWO)
    assert edge.receive(answer(first, 200), ONE) == []  # too late
    assert whats(edge.receive(answer(second, 200), TWO)) == ["200 MESSAGE"]


@pytest.mark.parametrize("status", [404, 486, 500, 603])
def test_other_failures_are_answers(status: int) -> None:
    edge = Edge(Names(gw_test=udp(ONE, TWO)))
    first = find(edge.receive(request("INVITE"), ALICE), "INVITE")
    assert f"{status} INVITE" in whats(edge.receive(answer(first, status), ONE))


def test_a_server_that_has_answered_provisionally_is_not_left_for_another_one() -> None:
    edge = Edge(Names(gw_test=udp(ONE, TWO)), tm={"fr_inv_timer": 3000})
    first = find(edge.receive(request("INVITE"), ALICE), "INVITE")
    edge.receive(answer(first, 180), ONE)
    assert all(one.to != TWO for one in edge.wait(40))


def test_a_canceled_call_does_not_fail_over() -> None:
    edge = Edge(Names(gw_test=udp(ONE, TWO)), tm={"fr_timer": 2000})
    edge.receive(request("INVITE"), ALICE)
    edge.receive(request("CANCEL"), ALICE)
    assert all(one.to != TWO for one in edge.wait(10))


def test_the_life_of_the_transaction_bounds_the_search() -> None:
    edge = Edge(Names(gw_test=udp(ONE, TWO)), tm={"fr_timer": 2000, "max_inv_lifetime": 1500})
    edge.receive(request("INVITE"), ALICE)
    assert all(one.to != TWO for one in edge.wait(10))


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_script_can_switch_it_off(when: str) -> None:
    def route(proxy: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = NAME
        if when == "before":
            assert proxy.tm.t_set_disable_failover(ctx, 1) == 1
        proxy.relay(ctx)
        if when == "after":
            proxy.tm.t_set_disable_failover(ctx, 1)

    edge = Edge(Names(gw_test=udp(ONE, TWO)), route=route)
    first = find(edge.receive(request("INVITE"), ALICE), "INVITE")
    assert whats(edge.fail(first)) == ["500 INVITE"]


def test_the_configuration_can_switch_it_off() -> None:
    edge = Edge(Names(gw_test=udp(ONE, TWO)), given={"dns_failover": False})
    first = find(edge.receive(request("INVITE"), ALICE), "INVITE")
    assert whats(edge.fail(first)) == ["500 INVITE"]


def test_a_failure_route_can_call_a_name_of_its_own() -> None:
    def fail(proxy: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = "sip:bob@other.test"
        proxy.relay(ctx)

    edge = Edge(Names(gw_test=udp(ONE), other_test=udp(TWO, THREE)), armed={"failure": "FAIL"}, FAIL=fail)
    first = find(edge.receive(request("INVITE"), ALICE), "INVITE")
    second = find(edge.fail(first), "INVITE")
    third = find(edge.fail(second), "INVITE")
    assert (second.to, third.to, third.request.uri) == (TWO, THREE, "sip:bob@other.test")


def test_an_error_of_icmp_quotes_the_beginning_and_that_is_enough() -> None:
    edge = Edge(Names(gw_test=udp(ONE, TWO)))
    first = find(edge.receive(request("INVITE", "X: " + "y" * 2000), ALICE), "INVITE")
    process = edge.tm.transport_error(first.flow, first.data[:548], edge.now)
    assert process is not None
    edge.run(process)
    assert find(edge.sent(), "INVITE").to == TWO


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 40, b"INVITE sip:x SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKno", b"SIP/2.0 200"]
)
def test_an_error_about_something_else_changes_nothing(data: bytes) -> None:
    edge = Edge(Names(gw_test=udp(ONE, TWO)))
    first = find(edge.receive(request("INVITE"), ALICE), "INVITE")
    assert edge.tm.transport_error(first.flow, data, edge.now) is None


@pytest.mark.parametrize("waits", [False, True])
def test_a_call_that_failed_over_leaves_nothing_to_the_garbage_collector(waits: bool) -> None:
    def call() -> None:
        edge = Edge(Names() if waits else Names(gw_test=udp(ONE, TWO)))
        sent = edge.receive(request("INVITE"), ALICE)
        first = find(edge.answer(udp(ONE, TWO)) if waits else sent, "INVITE")
        second = find(edge.receive(answer(first, 503), ONE), "INVITE")
        edge.receive(answer(second, 200), TWO)
        edge.wait(300)
        assert len(edge.tm.layer) == 0

    def branches() -> set[int]:
        return {id(one) for one in gc.get_objects() if isinstance(one, Branch)}

    gc.collect()
    gc.disable()
    try:
        before = branches()
        call()
        assert branches() <= before
    finally:
        gc.enable()


# ---- t_relay with a destination of its own, copies
def test_t_relay_to_proxy_a_name() -> None:
    def route(proxy: Proxy, ctx: RouteContext) -> None:
        assert proxy.run(proxy.tm.t_relay_to_proxy(ctx, "tcp:gw.test")) == 1

    edge = Edge(Names(), route=route)
    edge.receive(request("INVITE"), ALICE)
    assert edge.names.asked[0][0] == Destination("gw.test", 0, "tcp")
    assert edge.answer([Place("tcp", *ONE)])[0].flow.listener == TCP


def test_t_relay_to_proto_keeps_the_name_and_takes_the_transport() -> None:
    def route(proxy: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = "sip:bob@gw.test:5070;transport=udp"
        proxy.run(proxy.tm.t_relay_to_proto(ctx, "TCP"))

    edge = Edge(Names(), route=route)
    edge.receive(request("INVITE"), ALICE)
    assert edge.names.asked[0][0] == Destination("gw.test", 5070, "tcp")


def test_a_copy_to_a_name_leaves_when_dns_has_answered_and_its_answers_are_nobody_s() -> None:
    def route(proxy: Proxy, ctx: RouteContext) -> None:
        proxy.run(proxy.tm.t_replicate(ctx, NAME))

    edge = Edge(Names(), route=route)
    edge.receive(request("MESSAGE"), ALICE)
    (copy,) = edge.answer(udp(ONE))
    assert copy.to == ONE
    assert edge.receive(answer(copy, 200), ONE) == []


# ---- requests of our own
class Uac(Edge):
    """Sends requests of its own and keeps how they ended."""

    def __init__(self, names: Names, **more: Any) -> None:
        super().__init__(names, BOB_URI, **more)
        self.ends: list[LocalReply] = []

    def send(self, method: str = "OPTIONS") -> int:
        made = LocalRequest(method, NAME, "sip:me@example.test", "<sip:bob@example.test>")
        return self.tm.request(made, self.now, self.ends.append)


def test_a_request_of_our_own_waits_for_dns() -> None:
    uac = Uac(Names())
    assert uac.send() == 1
    assert uac.sent() == []
    (options,) = uac.answer([Place("tcp", *ONE)])
    assert (options.to, options.flow.listener) == (ONE, TCP)
    uac.receive(answer(options, 200), ONE)
    assert [end.status for end in uac.ends] == [200]


def test_a_request_of_our_own_to_a_name_that_leads_nowhere_ends_with_503() -> None:
    uac = Uac(Names())
    uac.send()
    assert uac.answer([]) == []
    assert [(end.status, end.response) for end in uac.ends] == [(503, None)]
    assert Uac(Names(gw_test=[])).send() == -478


@pytest.mark.parametrize("how", ["error", "503", "silence"])
def test_a_request_of_our_own_tries_the_next_place(how: str) -> None:
    uac = Uac(Names(gw_test=[*udp(ONE), Place("tcp", *TWO)]), tm={"fr_timer": 2000})
    uac.send("INVITE" if how == "503" else "OPTIONS")
    (first,) = uac.sent()
    if how == "error":
        sent = uac.fail(first)
    elif how == "503":
        sent = uac.receive(answer(first, 503), ONE)
    else:
        sent = uac.wait(2.5)
    (second,) = [one for one in sent if one.to == TWO]
    assert branch_of(second) != branch_of(first)
    assert second.message.via.transport == "TCP"
    assert uac.ends == []
    uac.fail(second)
    assert [end.status for end in uac.ends] == [503]


def test_the_ack_of_our_own_invite_finds_its_name() -> None:
    uac = Uac(Names(gw_test=udp(ONE)))
    uac.send("INVITE")
    (invite,) = uac.sent()
    assert uac.receive(answer(invite, 200, "Contact: <sip:far@phone.test>"), ONE) == []
    (ack,) = uac.answer(udp(TWO))
    assert (ack.what, ack.to, ack.request.uri) == ("ACK", TWO, "sip:far@phone.test")


# ---- the blocklist
def blocking(*addresses: tuple[str, int], **more: Any) -> Edge:
    listed = Blocklist(enabled=True, expire=60)
    return Edge(Names(gw_test=udp(*addresses)), given={"blocklist": listed}, tm={"fr_timer": 2000, **more})


def test_a_place_that_has_failed_is_passed_over_until_its_time_is_up() -> None:
    edge = blocking(ONE, TWO)
    second = find(edge.fail(find(edge.receive(request("INVITE"), ALICE), "INVITE")), "INVITE")
    edge.receive(answer(second, 200), TWO)
    assert [(place.host, place.flags) for place in edge.services.blocklist.view(edge.now)] == [(ONE[0], ERR_SEND)]
    other = find(edge.receive(request("INVITE", branch="b2", cseq=2), ALICE), "INVITE")
    assert other.to == TWO
    edge.now += 61
    third = find(edge.receive(request("INVITE", branch="b3", cseq=3), ALICE), "INVITE")
    assert third.to == ONE


def test_a_silent_place_is_put_on_the_list() -> None:
    edge = blocking(ONE)
    edge.receive(request("INVITE"), ALICE)
    edge.wait(3)
    assert [(place.host, place.flags) for place in edge.services.blocklist.view(edge.now)] == [(ONE[0], ERR_TIMEOUT)]
    sent = edge.receive(request("INVITE", branch="b2", cseq=2), ALICE)
    assert whats(sent)[-1] == "477 INVITE"


def test_an_address_is_passed_over_too() -> None:
    edge = Edge(Names(), BOB_URI, given={"blocklist": Blocklist(enabled=True)})
    edge.fail(find(edge.receive(request("INVITE"), ALICE), "INVITE"))
    assert whats(edge.receive(request("INVITE", branch="b2", cseq=2), ALICE))[-1] == "477 INVITE"


def test_a_place_that_has_answered_something_is_not_put_on_the_list() -> None:
    edge = blocking(ONE)
    invite = find(edge.receive(request("INVITE"), ALICE), "INVITE")
    edge.receive(answer(invite, 180), ONE)
    edge.wait(200)
    assert list(edge.services.blocklist.view(edge.now)) == []


@pytest.mark.parametrize(
    ("headers", "params", "seconds"),
    [
        (("Retry-After: 20",), {}, 20),
        (("Retry-After: 20 (busy)",), {"blst_503_max_timeout": 10}, 10),
        (("Retry-After: 2",), {"blst_503_min_timeout": 5}, 5),
        ((), {"blst_503_def_timeout": 7}, 7),
        ((), {}, 0),
    ],
)
def test_503_blocks_for_as_long_as_it_says(headers: tuple[str, ...], params: dict[str, int], seconds: int) -> None:
    edge = blocking(ONE, TWO, blst_503=1, **params)
    first = find(edge.receive(request("INVITE"), ALICE), "INVITE")
    assert find(edge.receive(answer(first, 503, *headers), ONE), "INVITE").to == TWO
    listed = [(place.host, place.flags, place.until - edge.now) for place in edge.services.blocklist.view(edge.now)]
    assert listed == ([(ONE[0], STATUS_503, seconds)] if seconds else [])


def test_a_list_that_is_off_stays_empty() -> None:
    edge = Edge(Names(gw_test=udp(ONE, TWO)))
    edge.fail(find(edge.receive(request("INVITE"), ALICE), "INVITE"))
    assert len(edge.services.blocklist) == 0


@pytest.mark.pure
def test_the_list_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polykemi.transaction.blocklist._MOST", 4)
    listed = Blocklist()
    for i in range(20):
        listed.put("udp", f"192.0.2.{i}", 5060, ERR_SEND, 0.0)
    assert [place.host for place in listed.view(0.0)] == [f"192.0.2.{i}" for i in range(16, 20)]
    listed.put("udp", "192.0.2.99", 5060, ERR_SEND, 100.0)
    assert [place.host for place in listed.view(100.0)] == ["192.0.2.99"]
    assert len(listed) == 1
