"""Stories of the stateful proxy: what the caller, the callees and the script see (RFC 3261 section 16, RFC 6026, tm)."""

from __future__ import annotations

import pytest

from polykemi.kemi.context import RouteContext
from polykemi.sip.message import Response
from tests.modules.tm_driver import (
    ALICE,
    BOB,
    BOB_URI,
    CAROL,
    CAROL_URI,
    Proxy,
    ack_of,
    answer,
    answer_of,
    find,
    request,
    to,
    whats,
)


# ---- a call
def test_a_call_passes_with_ringing_answer_ack_and_bye() -> None:
    p = Proxy(to(BOB_URI))
    out = p.receive(request("INVITE"), ALICE)
    assert [(s.what, s.to) for s in out] == [("100 INVITE", ALICE), ("INVITE", BOB)]
    invite = out[1]
    assert invite.request.uri == BOB_URI
    assert invite.request.via.host == "192.0.2.1"
    assert len(invite.request.list("via")) == 2
    assert p.receive(answer(invite, 100), BOB) == []
    ringing = p.receive(answer(invite, 180), BOB)
    assert [(s.what, s.to) for s in ringing] == [("180 INVITE", ALICE)]
    assert len(ringing[0].message.list("via")) == 1
    ok = p.receive(answer(invite, 200), BOB)
    assert [(s.what, s.to) for s in ok] == [("200 INVITE", ALICE)]
    ack = p.receive(request("ACK", branch="a2", to_tag="callee"), ALICE)
    assert [(s.what, s.to) for s in ack] == [("ACK", BOB)]
    bye = find(p.receive(request("BYE", branch="a3", cseq=2, to_tag="callee"), ALICE), "BYE")
    assert whats(p.receive(answer(bye, 200), BOB)) == ["200 BYE"]
    p.wait(300)
    assert p.sent() == []
    assert len(p.tm.layer) == 0
    assert p.tm.active() == 0


def test_a_retransmitted_request_is_answered_with_the_last_response_and_forwarded_once() -> None:
    p = Proxy(to(BOB_URI))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    assert whats(p.receive(request("INVITE"), ALICE)) == ["100 INVITE"]
    p.receive(answer(invite, 180), BOB)
    assert whats(p.receive(request("INVITE"), ALICE)) == ["180 INVITE"]
    p.receive(answer(invite, 200), BOB)
    assert p.receive(request("INVITE"), ALICE) == []  # RFC 6026: absorbed
    bye = find(p.receive(request("BYE", branch="b1", cseq=2, to_tag="x"), ALICE), "BYE")
    assert p.receive(request("BYE", branch="b1", cseq=2, to_tag="x"), ALICE) == []
    p.receive(answer(bye, 200), BOB)
    assert whats(p.receive(request("BYE", branch="b1", cseq=2, to_tag="x"), ALICE)) == ["200 BYE"]
    assert [name for name, _ in p.ran] == ["ksr_request_route"] * 2


def test_the_invite_is_sent_again_until_something_comes_back() -> None:
    p = Proxy(to(BOB_URI))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    assert whats(p.wait(0.5)) == ["INVITE"]
    assert whats(p.wait(1)) == ["INVITE"]
    p.receive(answer(invite, 100), BOB)
    assert p.wait(20) == []


def test_every_retransmission_of_the_200_is_forwarded_and_so_is_every_ack() -> None:
    p = Proxy(to(BOB_URI))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    for _ in range(3):
        assert whats(p.receive(answer(invite, 200), BOB)) == ["200 INVITE"]
        assert whats(p.receive(request("ACK", branch="a2", to_tag="callee"), ALICE)) == ["ACK"]
    p.wait(32)
    late = answer_of(answer(invite, 200))
    assert isinstance(late, Response)
    assert p.tm.client_of(late) is None


def test_a_second_200_of_a_fork_further_down_reaches_the_caller_too() -> None:
    p = Proxy(to(BOB_URI))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    p.receive(answer(invite, 200, tag="one"), BOB)
    second = find(p.receive(answer(invite, 200, tag="two"), BOB), "200 INVITE")
    assert second.message.to.tag == "two"


def test_a_busy_callee_is_acked_by_the_proxy_and_the_callers_ack_ends_here() -> None:
    p = Proxy(to(BOB_URI))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    out = p.receive(answer(invite, 486), BOB)
    assert [(s.what, s.to) for s in out] == [("ACK", BOB), ("486 INVITE", ALICE)]
    assert out[0].request.via.text == invite.request.via.text
    assert out[0].request.uri == invite.request.uri
    assert out[0].request.to.tag == "callee"
    assert whats(p.receive(answer(invite, 486), BOB)) == ["ACK"]  # retransmitted by the callee
    assert whats(p.wait(0.5)) == ["486 INVITE"]  # Timer G, until the caller's ACK comes
    assert p.receive(ack_of(out[1]), ALICE) == []
    assert p.wait(60) == []
    assert len(p.tm.layer) == 0


def test_a_late_provisional_response_after_the_end_reaches_nobody() -> None:
    p = Proxy(to(BOB_URI))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    p.receive(answer(invite, 486), BOB)
    assert p.receive(answer(invite, 180), BOB) == []
    assert p.receive(answer(invite, 200), BOB) == []


def test_responses_go_to_the_port_that_rport_asks_for() -> None:
    p = Proxy(to(BOB_URI))
    text = request("OPTIONS").replace("Via: SIP/2.0/UDP 192.0.2.10;", "Via: SIP/2.0/UDP 10.0.0.1:5099;rport;")
    options = find(p.receive(text, ("198.51.100.7", 1234)), "OPTIONS")
    assert "received=198.51.100.7" in options.message.list("via")[1]
    assert "rport=1234" in options.message.list("via")[1]
    assert p.receive(answer(options, 200), BOB)[0].to == ("198.51.100.7", 1234)


def test_max_forwards_is_added_when_it_is_missing() -> None:
    p = Proxy(to(BOB_URI))
    out = p.receive(request("OPTIONS").replace("Max-Forwards: 70\r\n", ""), ALICE)
    assert out[0].message.get("max-forwards") == "70"
    out = p.receive(request("OPTIONS", branch="a2"), ALICE)
    assert out[0].message.all("max-forwards") == ["70"]


# ---- where it goes
@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sip:bob@phone.example.net", ("phone.example.net", 5060)),
        ("sip:bob@192.0.2.20:5088", ("192.0.2.20", 5088)),
        ("sip:bob@example.net;maddr=192.0.2.99", ("192.0.2.99", 5060)),
    ],
)
def test_the_request_goes_to_the_host_and_port_of_the_uri(uri: str, expected: tuple[str, int]) -> None:
    assert find(Proxy(to(uri)).receive(request("OPTIONS"), ALICE), "OPTIONS").to == expected


def test_the_destination_uri_comes_before_the_path_and_a_route_before_the_request_uri() -> None:
    def by_du(p: Proxy, ctx: RouteContext) -> None:
        ctx.ruri, ctx.dst_uri = BOB_URI, CAROL_URI
        p.relay(ctx)

    assert Proxy(by_du).receive(request("OPTIONS"), ALICE)[0].to == CAROL

    def by_path(p: Proxy, ctx: RouteContext) -> None:
        ctx.ruri, ctx.path = BOB_URI, "<sip:192.0.2.70;lr>,<sip:192.0.2.71;lr>"
        p.relay(ctx)

    out = Proxy(by_path).receive(request("OPTIONS"), ALICE)[0]
    assert out.to == ("192.0.2.70", 5060)
    assert out.message.list("route") == ["<sip:192.0.2.70;lr>", "<sip:192.0.2.71;lr>"]
    route = request("OPTIONS", "Route: <sip:192.0.2.60;lr>")
    assert Proxy(to(BOB_URI)).receive(route, ALICE)[0].to == ("192.0.2.60", 5060)
    own = request("OPTIONS", "Route: <sip:192.0.2.1;lr>")
    assert Proxy(to(BOB_URI)).receive(own, ALICE)[0].to == BOB


def test_a_route_that_the_script_has_removed_does_not_count() -> None:
    def route(p: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = BOB_URI
        ctx.edits.removed.add(ctx.message.names.index("route"))
        p.relay(ctx)

    two = request("OPTIONS", "Route: <sip:192.0.2.60;lr>", "Route: <sip:192.0.2.61;lr>")
    assert Proxy(route).receive(two, ALICE)[0].to == ("192.0.2.61", 5060)
    assert Proxy(route).receive(request("OPTIONS", "Route: <sip:192.0.2.60;lr>"), ALICE)[0].to == BOB


@pytest.mark.parametrize(
    ("uri", "code", "status"),
    [("sip:bob@192.0.2.20;transport=tcp", -7, "500"), ("sips:bob@192.0.2.20", -7, "500"), ("tel:+4930", -400, None)],
)
def test_a_destination_that_cannot_be_reached_is_answered_when_the_route_ends(
    uri: str, code: int, status: str | None
) -> None:
    results: list[int] = []

    def route(p: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = uri
        results.append(p.relay(ctx))

    p = Proxy(route)
    out = p.receive(request("OPTIONS"), ALICE)
    assert results == [code]
    assert whats(out) == ([f"{status} OPTIONS"] if status else [])
    assert p.tm.active() == 0


def test_the_scripts_own_answer_to_a_failed_relay_is_the_only_one() -> None:
    def route(p: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = "sip:bob@192.0.2.20;transport=tls"
        if p.relay(ctx) < 0:
            p.services.modules["sl"].sl_reply_error(ctx)

    p = Proxy(route)
    assert whats(p.receive(request("INVITE"), ALICE)) == ["100 INVITE", "500 INVITE"]
    assert p.tm.active() == 0
    assert len(p.tm.layer) == 0


# ---- forking
def test_the_first_200_of_a_parallel_fork_wins_and_the_others_are_canceled() -> None:
    p = Proxy(to(BOB_URI, CAROL_URI))
    out = p.receive(request("INVITE"), ALICE)
    bob, carol = find(out, "INVITE", BOB), find(out, "INVITE", CAROL)
    assert bob.request.via.branch != carol.request.via.branch
    assert whats(p.receive(answer(bob, 180), BOB)) == ["180 INVITE"]
    assert whats(p.receive(answer(carol, 180), CAROL)) == ["180 INVITE"]
    out = p.receive(answer(bob, 200), BOB)
    assert [(s.what, s.to) for s in out] == [("200 INVITE", ALICE), ("CANCEL", CAROL)]
    cancel = out[1]
    assert cancel.request.via.text == carol.request.via.text
    assert cancel.request.uri == CAROL_URI
    assert cancel.message.cseq == (1, "CANCEL")
    assert cancel.message.get("reason") == 'SIP;cause=200;text="Call completed elsewhere"'
    assert p.receive(answer(cancel, 200), CAROL) == []
    assert whats(p.receive(answer(carol, 487), CAROL)) == ["ACK"]
    assert p.wait(100) == []
    assert len(p.tm.layer) == 0


def test_a_loser_that_has_not_answered_yet_is_canceled_when_it_rings() -> None:
    p = Proxy(to(BOB_URI, CAROL_URI))
    out = p.receive(request("INVITE"), ALICE)
    bob, carol = find(out, "INVITE", BOB), find(out, "INVITE", CAROL)
    assert whats(p.receive(answer(bob, 200), BOB)) == ["200 INVITE"]
    assert whats(p.receive(answer(carol, 180), CAROL)) == ["CANCEL"]
    assert whats(p.receive(answer(carol, 487), CAROL)) == ["ACK"]


def test_a_cancel_that_gets_lost_is_sent_again() -> None:
    p = Proxy(to(BOB_URI, CAROL_URI))
    out = p.receive(request("INVITE"), ALICE)
    bob, carol = find(out, "INVITE", BOB), find(out, "INVITE", CAROL)
    p.receive(answer(carol, 180), CAROL)
    cancel = find(p.receive(answer(bob, 200), BOB), "CANCEL")
    assert whats(p.wait(0.5)) == ["CANCEL"]
    p.receive(answer(cancel, 200), CAROL)
    assert p.wait(3) == []


@pytest.mark.parametrize(
    ("bob", "carol", "best"),
    [
        (486, 404, 486),
        (503, 404, 404),
        (500, 302, 302),
        (480, 401, 401),
        (487, 480, 480),
        (404, 603, 603),
        (503, 500, 500),
    ],
)
def test_when_all_have_failed_the_best_response_goes_to_the_caller(bob: int, carol: int, best: int) -> None:
    p = Proxy(to(BOB_URI, CAROL_URI))
    out = p.receive(request("INVITE"), ALICE)
    assert whats(p.receive(answer(find(out, "INVITE", BOB), bob), BOB)) == ["ACK"]
    assert whats(p.receive(answer(find(out, "INVITE", CAROL), carol), CAROL)) == ["ACK", f"{best} INVITE"]


def test_a_503_goes_to_the_caller_as_500() -> None:
    p = Proxy(to(BOB_URI))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    assert whats(p.receive(answer(invite, 503), BOB)) == ["ACK", "500 INVITE"]
    p = Proxy(to(BOB_URI), tm={"remap_503_500": 0})
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    assert whats(p.receive(answer(invite, 503), BOB)) == ["ACK", "503 INVITE"]


def test_a_6xx_cancels_the_other_branches_and_waits_for_them() -> None:
    p = Proxy(to(BOB_URI, CAROL_URI))
    out = p.receive(request("INVITE"), ALICE)
    bob, carol = find(out, "INVITE", BOB), find(out, "INVITE", CAROL)
    p.receive(answer(carol, 180), CAROL)
    out = p.receive(answer(bob, 603), BOB)
    assert [(s.what, s.to) for s in out] == [("ACK", BOB), ("CANCEL", CAROL)]
    assert whats(p.receive(answer(carol, 487), CAROL)) == ["ACK", "603 INVITE"]


def test_a_6xx_is_like_any_other_failure_when_the_script_says_so() -> None:
    def route(p: Proxy, ctx: RouteContext) -> None:
        p.tm.t_set_disable_6xx(ctx, 1)
        to(BOB_URI, CAROL_URI)(p, ctx)

    p = Proxy(route)
    out = p.receive(request("INVITE"), ALICE)
    bob, carol = find(out, "INVITE", BOB), find(out, "INVITE", CAROL)
    p.receive(answer(carol, 180), CAROL)
    assert whats(p.receive(answer(bob, 603), BOB)) == ["ACK"]
    assert whats(p.receive(answer(carol, 200), CAROL)) == ["200 INVITE"]


def test_the_challenges_of_all_branches_go_to_the_caller_in_one_response() -> None:
    p = Proxy(to(BOB_URI, CAROL_URI))
    out = p.receive(request("INVITE"), ALICE)
    p.receive(answer(find(out, "INVITE", BOB), 407, 'Proxy-Authenticate: Digest realm="a"'), BOB)
    out = p.receive(answer(find(out, "INVITE", CAROL), 401, 'WWW-Authenticate: Digest realm="b"'), CAROL)
    final = out[1].message
    assert {final.get("www-authenticate"), final.get("proxy-authenticate")} == {'Digest realm="b"', 'Digest realm="a"'}


# ---- CANCEL
def test_a_canceled_call_ends_with_487_for_the_caller() -> None:
    p = Proxy(to(BOB_URI))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    p.receive(answer(invite, 180), BOB)
    out = p.receive(request("CANCEL", "Reason: SIP;cause=200"), ALICE)
    assert [(s.what, s.to) for s in out] == [("200 CANCEL", ALICE), ("CANCEL", BOB)]
    assert out[1].message.get("reason") == "SIP;cause=200"
    assert whats(p.receive(request("CANCEL"), ALICE)) == ["200 CANCEL"]  # retransmitted
    p.receive(answer(out[1], 200), BOB)
    assert whats(p.receive(answer(invite, 487), BOB)) == ["ACK", "487 INVITE"]


def test_a_call_canceled_before_the_callee_answered_anything_waits_for_its_first_response() -> None:
    p = Proxy(to(BOB_URI))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    assert whats(p.receive(request("CANCEL"), ALICE)) == ["200 CANCEL"]
    assert whats(p.wait(0.5)) == ["INVITE"]
    assert whats(p.receive(answer(invite, 100), BOB)) == ["CANCEL"]
    assert whats(p.receive(answer(invite, 487), BOB)) == ["ACK", "487 INVITE"]


def test_a_call_canceled_that_nobody_ever_answers_ends_with_487() -> None:
    p = Proxy(to(BOB_URI))
    p.receive(request("INVITE"), ALICE)
    p.receive(request("CANCEL"), ALICE)
    assert "487 INVITE" in whats(p.wait(30))


@pytest.mark.parametrize(("method", "out"), [(0, ["200 CANCEL", "487 INVITE"]), (2, ["200 CANCEL", "CANCEL"])])
def test_cancel_b_method_says_what_becomes_of_a_branch_without_response(method: int, out: list[str]) -> None:
    p = Proxy(to(BOB_URI), tm={"cancel_b_method": method})
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    assert sorted(whats(p.receive(request("CANCEL"), ALICE))) == sorted(out)
    if method == 2:
        assert "INVITE" not in whats(p.wait(0.5))
        assert whats(p.receive(answer(invite, 180), BOB)) == ["CANCEL"]
        assert "487 INVITE" in whats(p.receive(answer(invite, 487), BOB))


def test_a_cancel_after_the_answer_changes_nothing() -> None:
    p = Proxy(to(BOB_URI))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    p.receive(answer(invite, 200), BOB)
    assert whats(p.receive(request("CANCEL"), ALICE)) == ["200 CANCEL"]


def test_a_200_that_crosses_the_cancel_reaches_the_caller() -> None:
    p = Proxy(to(BOB_URI))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    p.receive(answer(invite, 180), BOB)
    p.receive(request("CANCEL"), ALICE)
    assert whats(p.receive(answer(invite, 200), BOB)) == ["200 INVITE"]


@pytest.mark.parametrize(("mode", "out"), [(0, ["CANCEL"]), (1, ["CANCEL"]), (2, [])])
def test_a_cancel_without_invite_is_treated_as_unmatched_cancel_says(mode: int, out: list[str]) -> None:
    def route(p: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = BOB_URI
        p.relay(ctx)

    p = Proxy(route, tm={"unmatched_cancel": mode})
    sent = p.receive(request("CANCEL"), ALICE)
    assert whats(sent) == out
    if mode == 0:
        assert whats(p.receive(answer(sent[0], 481), BOB)) == ["481 CANCEL"]


def test_the_to_tag_of_the_cancels_200_is_that_of_the_invites_487() -> None:
    def route(p: Proxy, ctx: RouteContext) -> None:
        if ctx.method == "CANCEL":
            p.relay(ctx)
        else:
            p.tm.t_newtran(ctx)
            p.tmx.t_suspend(ctx)

    p = Proxy(route)
    p.receive(request("INVITE"), ALICE)
    out = p.receive(request("CANCEL"), ALICE)
    assert whats(out) == ["487 INVITE", "200 CANCEL"]
    assert out[0].message.to.tag == out[1].message.to.tag


# ---- timeouts
def test_a_callee_that_never_answers_gives_408_after_fr_timer() -> None:
    p = Proxy(to(BOB_URI))
    p.receive(request("INVITE"), ALICE)
    assert "408 INVITE" not in whats(p.wait(29.9))
    assert "408 INVITE" in whats(p.wait(0.2))
    p = Proxy(to(BOB_URI), tm={"fr_timer": 2000})
    p.receive(request("OPTIONS"), ALICE)
    assert whats(p.wait(2)) == ["OPTIONS", "OPTIONS", "408 OPTIONS"]


def test_a_phone_that_rings_too_long_is_canceled_and_the_caller_gets_408() -> None:
    p = Proxy(to(BOB_URI))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    p.receive(answer(invite, 180), BOB)
    assert p.wait(119) == []
    assert sorted(whats(p.wait(1.1))) == ["408 INVITE", "CANCEL"]
    assert whats(p.receive(answer(invite, 487), BOB)) == ["ACK"]


def test_max_inv_lifetime_ends_what_keeps_on_ringing() -> None:
    p = Proxy(to(BOB_URI))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    p.receive(answer(invite, 180), BOB)
    p.wait(100)
    p.receive(answer(invite, 180), BOB)
    assert "408 INVITE" not in whats(p.wait(79))
    assert "408 INVITE" in whats(p.wait(2))


def test_the_script_sets_timers_for_one_transaction() -> None:
    def route(p: Proxy, ctx: RouteContext) -> None:
        assert p.tm.t_set_fr(ctx, 10000, 3000) == 1
        assert p.tm.t_set_fr(ctx, -1, 0) == -1
        assert p.tm.t_set_retr(ctx, 1000, 2000) == 1
        to(BOB_URI)(p, ctx)

    p = Proxy(route)
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    assert p.wait(0.9) == []
    assert whats(p.wait(0.2)) == ["INVITE"]
    p.receive(answer(invite, 180), BOB)
    assert p.wait(9) == []
    assert "408 INVITE" in whats(p.wait(1.1))


def test_a_destination_that_cannot_be_sent_to_counts_as_503() -> None:
    p = Proxy(to(BOB_URI, CAROL_URI))
    out = p.receive(request("INVITE"), ALICE)
    assert p.fail(find(out, "INVITE", BOB)) == []
    assert p.fail(find(out, "100 INVITE")) == []  # a response: nobody is told
    assert whats(p.receive(answer(find(out, "INVITE", CAROL), 486), CAROL)) == ["ACK", "486 INVITE"]
    p = Proxy(to(BOB_URI))
    out = p.receive(request("OPTIONS"), ALICE)
    assert whats(p.fail(out[0])) == ["500 OPTIONS"]


def test_a_canceled_phone_that_keeps_on_ringing_does_not_hold_the_caller() -> None:
    p = Proxy(to(BOB_URI))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    p.receive(answer(invite, 180), BOB)
    p.receive(request("CANCEL"), ALICE)
    for _ in range(2):
        p.wait(14)
        p.receive(answer(invite, 180), BOB)
    assert "487 INVITE" in whats(p.wait(2.1))  # 30 s after the CANCEL
