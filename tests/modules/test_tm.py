"""Stories of the stateful proxy: what the caller, the callees and the script see (RFC 3261 section 16, RFC 6026, tm)."""

from __future__ import annotations

from typing import Any

import pytest

from polykemi.kemi.context import RouteContext
from polykemi.kemi.route import Route
from polykemi.transaction.target import Target
from tests.modules.tm_driver import (
    ALICE,
    BOB,
    BOB_URI,
    CAROL,
    CAROL_URI,
    Proxy,
    answer,
    find,
    request,
    to,
    whats,
)


def ack_of(final: Any, branch: str = "a1") -> str:
    """Return the ACK of the caller's transaction layer to a final response of 300 and above."""
    return request("ACK", branch=branch, to_tag=final.message.to.tag)


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
    assert p.tm.client_of(answer_of(answer(invite, 200))) is None


def answer_of(text: str) -> Any:
    from polykemi.sip.message import parse

    return parse(text.encode("latin-1"))


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
        ("sip:bob@[2001:db8::1]:5070", ("2001:db8::1", 5070)),
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
        assert whats(p.receive(answer(invite, 180), BOB)) == ["CANCEL", "180 INVITE"]
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
    assert whats(out) == ["200 CANCEL", "487 INVITE"]
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


# ---- failure routes
def test_the_failure_route_sends_the_call_to_voicemail() -> None:
    seen: list[Any] = []

    def failure(p: Proxy, ctx: RouteContext) -> None:
        seen.append(
            (
                ctx.kind,
                ctx.reply_status,
                ctx.ruri,
                p.tm.t_check_status(ctx, "48[06]"),
                p.tm.t_is_set(ctx, "failure_route"),
            )
        )
        ctx.ruri = CAROL_URI
        assert p.relay(ctx) == 1

    p = Proxy(to(BOB_URI, failure="FAIL"), FAIL=failure)
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    out = p.receive(answer(invite, 486), BOB)
    assert [(s.what, s.to) for s in out] == [("ACK", BOB), ("INVITE", CAROL)]
    assert seen == [(Route.FAILURE, 486, BOB_URI, 1, -1)]
    assert out[1].request.uri == CAROL_URI
    assert whats(p.receive(answer(out[1], 200), CAROL)) == ["200 INVITE"]


def test_the_new_branch_of_a_failure_route_decides_the_answer() -> None:
    def failure(p: Proxy, ctx: RouteContext) -> None:
        ctx.branches.append(Target(CAROL_URI))
        p.relay(ctx)

    p = Proxy(to(BOB_URI, failure="FAIL"), FAIL=failure)
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    second = find(p.receive(answer(invite, 302), BOB), "INVITE", CAROL)
    assert whats(p.receive(answer(second, 404), CAROL)) == ["ACK", "404 INVITE"]
    p = Proxy(to(BOB_URI, failure="FAIL"), tm={"failure_reply_mode": 0}, FAIL=failure)
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    second = find(p.receive(answer(invite, 302), BOB), "INVITE", CAROL)
    assert whats(p.receive(answer(second, 404), CAROL)) == ["ACK", "302 INVITE"]


def test_no_answer_runs_the_failure_route_which_rings_another_phone() -> None:
    def failure(p: Proxy, ctx: RouteContext) -> None:
        assert (p.tm.t_branch_timeout(ctx), p.tm.t_branch_replied(ctx)) == (1, 1)
        assert (p.tm.t_any_timeout(ctx), p.tm.t_any_replied(ctx), ctx.reply) == (1, 1, None)
        ctx.ruri = CAROL_URI
        p.relay(ctx)

    p = Proxy(to(BOB_URI, failure="FAIL"), tm={"fr_inv_timer": 5000}, FAIL=failure)
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    p.receive(answer(invite, 180), BOB)
    out = p.wait(5)
    assert sorted((s.what, s.to) for s in out) == [("CANCEL", BOB), ("INVITE", CAROL)]
    assert p.ran[-1] == ("FAIL", 408)
    assert whats(p.receive(answer(invite, 487), BOB)) == ["ACK"]
    assert whats(p.receive(answer(find(out, "INVITE"), 200), CAROL)) == ["200 INVITE"]


def test_the_failure_route_answers_by_itself() -> None:
    def failure(p: Proxy, ctx: RouteContext) -> None:
        assert p.tm.t_reply(ctx, 499, "Mine") == 1
        assert p.tm.t_reply(ctx, 498, "Too late") == -1

    p = Proxy(to(BOB_URI, failure="FAIL"), FAIL=failure)
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    assert whats(p.receive(answer(invite, 486), BOB)) == ["ACK", "499 INVITE"]


def test_a_failure_route_that_does_nothing_lets_the_reply_pass_and_runs_once() -> None:
    results: list[int] = []

    def failure(p: Proxy, ctx: RouteContext) -> None:
        p.tm.t_on_failure(ctx, "FAIL")
        results.append(p.relay(ctx))  # nothing new to send to

    p = Proxy(to(BOB_URI, failure="FAIL"), FAIL=failure)
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    assert whats(p.receive(answer(invite, 486), BOB)) == ["ACK", "486 INVITE"]
    assert results == [-1]


def test_a_canceled_call_is_not_sent_on_by_its_failure_route() -> None:
    results: list[int] = []

    def failure(p: Proxy, ctx: RouteContext) -> None:
        assert p.tm.t_is_canceled(ctx) == 1
        ctx.ruri = CAROL_URI
        results.append(p.relay(ctx))

    p = Proxy(to(BOB_URI, failure="FAIL"), FAIL=failure)
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    p.receive(answer(invite, 180), BOB)
    p.receive(request("CANCEL"), ALICE)
    assert whats(p.receive(answer(invite, 487), BOB)) == ["ACK", "487 INVITE"]
    assert results == [-1]


def test_dropped_replies_are_not_what_the_caller_gets() -> None:
    def failure(p: Proxy, ctx: RouteContext) -> None:
        assert p.tm.t_drop_replies(ctx, "x") == -1
        assert p.tm.t_drop_replies_all(ctx) == 1

    p = Proxy(to(BOB_URI, failure="FAIL"), FAIL=failure)
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    assert whats(p.receive(answer(invite, 486), BOB)) == ["ACK", "500 INVITE"]


def test_a_branch_failure_route_replaces_one_branch_while_the_other_rings() -> None:
    def failed(p: Proxy, ctx: RouteContext) -> None:
        assert (ctx.kind, ctx.event, ctx.branch_index) == (Route.BRANCH_FAILURE, "tm:branch-failure:BF", 0)
        ctx.ruri = "sip:dave@192.0.2.40"
        assert p.relay(ctx) == 1

    p = Proxy(to(BOB_URI, CAROL_URI, branch_failure="BF"), BF=failed)
    out = p.receive(request("INVITE"), ALICE)
    bob, carol = find(out, "INVITE", BOB), find(out, "INVITE", CAROL)
    p.receive(answer(carol, 180), CAROL)
    out = p.receive(answer(bob, 486), BOB)
    assert [(s.what, s.to) for s in out] == [("ACK", BOB), ("INVITE", ("192.0.2.40", 5060))]
    out = p.receive(answer(out[1], 200), ("192.0.2.40", 5060))
    assert whats(out) == ["200 INVITE", "CANCEL"]


# ---- branch, onreply, onsend routes
def test_the_branch_route_changes_each_branch_by_itself() -> None:
    def branch(p: Proxy, ctx: RouteContext) -> None:
        ctx.ruri += f";b={ctx.branch_index}"
        ctx.edits.inserts.append((0, f"X-Branch: {ctx.branch_index}"))

    p = Proxy(to(BOB_URI, CAROL_URI, branch="BR"), BR=branch)
    out = p.receive(request("INVITE"), ALICE)
    bob, carol = find(out, "INVITE", BOB).request, find(out, "INVITE", CAROL).request
    assert (bob.uri, bob.all("x-branch")) == (BOB_URI + ";b=0", ["0"])
    assert (carol.uri, carol.all("x-branch")) == (CAROL_URI + ";b=1", ["1"])


def test_a_branch_that_the_script_drops_is_not_sent() -> None:
    def branch(p: Proxy, ctx: RouteContext) -> None:
        ctx.dropped = ctx.ruri == BOB_URI

    p = Proxy(to(BOB_URI, CAROL_URI, branch="BR"), BR=branch)
    out = p.receive(request("INVITE"), ALICE)
    assert [s.to for s in out if s.what == "INVITE"] == [CAROL]
    p = Proxy(to(BOB_URI, branch="BR"), BR=branch)
    assert whats(p.receive(request("OPTIONS"), ALICE)) == ["500 OPTIONS"]


def test_the_onsend_route_sees_the_bytes_and_can_hold_them_back() -> None:
    wires: list[bytes] = []

    def onsend(p: Proxy, ctx: RouteContext) -> None:
        wires.append(ctx.wire)
        ctx.dropped = b"carol" in ctx.wire.split(b"\r\n")[0]

    p = Proxy(to(BOB_URI, CAROL_URI), ksr_onsend_route=onsend)
    out = p.receive(request("INVITE"), ALICE)
    assert [s.to for s in out if s.what == "INVITE"] == [BOB]
    assert find(out, "INVITE").data in wires
    p = Proxy(to(CAROL_URI), ksr_onsend_route=onsend)
    assert p.receive(request("ACK", to_tag="x"), ALICE) == []


def test_the_onreply_route_sees_every_response_changes_it_and_drops_provisional_ones() -> None:
    def onreply(p: Proxy, ctx: RouteContext) -> None:
        assert p.tm.t_check_trans(ctx) == 1
        ctx.edits.inserts.append((0, "X-Seen: yes"))
        ctx.dropped = True

    p = Proxy(to(BOB_URI, reply="REPLY"), REPLY=onreply)
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    assert p.receive(answer(invite, 100), BOB) == []
    assert p.receive(answer(invite, 180), BOB) == []
    final = p.receive(answer(invite, 200), BOB)
    assert whats(final) == ["200 INVITE"]
    assert final[0].message.get("x-seen") == "yes"
    assert p.ran[1:] == [("REPLY", 100), ("REPLY", 180), ("REPLY", 200)]
    assert whats(p.receive(answer(invite, 200), BOB)) == ["200 INVITE"]
    assert p.ran[-1] == ("REPLY", 200)


def test_what_reply_routes_changed_in_a_failure_is_in_what_the_caller_gets() -> None:
    def onreply(p: Proxy, ctx: RouteContext) -> None:
        ctx.edits.inserts.append((0, "X-Seen: yes"))

    p = Proxy(to(BOB_URI, CAROL_URI, reply="REPLY"), REPLY=onreply)
    out = p.receive(request("INVITE"), ALICE)
    p.receive(answer(find(out, "INVITE", BOB), 486), BOB)
    assert p.receive(answer(find(out, "INVITE", CAROL), 486), CAROL)[1].message.get("x-seen") == "yes"


def test_flags_and_avps_are_shared_by_all_blocks_of_a_transaction() -> None:
    def route(p: Proxy, ctx: RouteContext) -> None:
        ctx.shared.flags = 5
        ctx.shared.avps["s:x"] = ["1"]
        to(BOB_URI, branch="BLOCK", reply="BLOCK", failure="BLOCK")(p, ctx)

    seen: list[Any] = []
    p = Proxy(route, BLOCK=lambda p, ctx: seen.append((ctx.kind, ctx.shared.flags, ctx.shared.avps)))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    p.receive(answer(invite, 486), BOB)
    assert seen == [(kind, 5, {"s:x": ["1"]}) for kind in (Route.BRANCH, Route.ONREPLY, Route.FAILURE)]


# ---- the functions
def test_the_transaction_functions_answer_like_kamailio() -> None:
    seen: dict[str, int] = {}

    def route(p: Proxy, ctx: RouteContext) -> None:
        tm, tmx = p.tm, p.tmx
        seen["check before"] = tm.t_check_trans(ctx)
        seen["exists before"] = tm.t_exists(ctx)
        seen["precheck"] = tmx.t_precheck_trans(ctx)
        seen["reply before"] = tm.t_reply(ctx, 404, "No")
        seen["newtran"] = tm.t_newtran(ctx)
        seen["newtran again"] = tm.t_newtran(ctx)
        seen["check after"] = tm.t_check_trans(ctx)
        seen["lookup"] = tm.t_lookup_request(ctx)
        seen["set"] = tm.t_is_set(ctx, "failure_route")
        tm.t_on_failure(ctx, "FAIL")
        seen["set after"] = tm.t_is_set(ctx, "failure_route")
        tm.t_on_failure(ctx, "")
        seen["cleared"] = tm.t_is_set(ctx, "failure_route")
        seen["no such"] = tm.t_is_set(ctx, "nonsense")
        seen["provisional"] = tm.t_reply(ctx, 183, "Progress")
        seen["final"] = tm.t_send_reply(ctx, 404, "Not Found")
        seen["release"] = tm.t_release(ctx)
        seen["relay after"] = p.relay(ctx)

    p = Proxy(route)
    out = p.receive(request("INVITE"), ALICE)
    assert seen == {
        "check before": -1,
        "exists before": -1,
        "precheck": -1,
        "reply before": -1,
        "newtran": 1,
        "newtran again": -10,
        "check after": 0,
        "lookup": 1,
        "set": -1,
        "set after": 1,
        "cleared": -1,
        "no such": -1,
        "provisional": 1,
        "final": 1,
        "release": 1,
        "relay after": -1,
    }
    assert whats(out) == ["183 INVITE", "404 INVITE"]
    assert out[0].message.to.tag == out[1].message.to.tag
    assert p.receive(ack_of(out[1]), ALICE) == []


def test_a_transaction_that_the_script_never_answers_is_forgotten() -> None:
    p = Proxy(lambda p, ctx: p.tm.t_newtran(ctx))
    assert p.receive(request("INVITE"), ALICE) == []
    assert len(p.tm.layer) == 0
    assert p.tm.active() == 0


def test_t_check_trans_knows_the_invite_of_a_cancel_and_of_the_ack_to_a_200() -> None:
    seen: list[tuple[str, int, int]] = []

    def route(p: Proxy, ctx: RouteContext) -> None:
        seen.append((ctx.method, p.tm.t_check_trans(ctx), p.tmx.t_precheck_trans(ctx)))
        if ctx.method == "INVITE":
            to(BOB_URI)(p, ctx)

    p = Proxy(route, ksr_reply_route=lambda p, ctx: seen.append(("reply", p.tm.t_check_trans(ctx), 0)))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    p.receive(request("CANCEL"), ALICE)
    p.receive(request("CANCEL", branch="other"), ALICE)
    p.receive(answer(invite, 200), BOB)
    p.receive(request("ACK", branch="a2", to_tag="callee"), ALICE)
    p.receive(request("ACK", branch="a3", to_tag="callee", cseq=7), ALICE)
    assert seen == [
        ("INVITE", -1, -1),
        ("CANCEL", 1, -2),
        ("CANCEL", -1, -2),
        ("reply", 1, 0),
        ("ACK", 1, -1),
        ("ACK", -1, -1),
    ]


def test_a_stateful_reply_carries_the_headers_and_body_that_the_script_gave() -> None:
    def route(p: Proxy, ctx: RouteContext) -> None:
        ctx.reply_headers.append("X-Mine: yes")
        ctx.cache["reply_body"] = b"hello"
        assert p.tm.t_send_reply(ctx, 200, "OK") == 1

    out = Proxy(route).receive(request("OPTIONS"), ALICE)
    assert out[0].message.get("x-mine") == "yes"
    assert out[0].message.body == b"hello"


def test_bad_status_lines_are_refused() -> None:
    results: list[int] = []

    def route(p: Proxy, ctx: RouteContext) -> None:
        p.tm.t_newtran(ctx)
        results.extend([p.tm.t_reply(ctx, 99, "x"), p.tm.t_reply(ctx, 700, "x"), p.tm.t_reply(ctx, 200, "a\r\nX: b")])

    assert Proxy(route).receive(request("OPTIONS"), ALICE) == []
    assert results == [-1, -1, -1]


def test_t_relay_twice_sends_once() -> None:
    results: list[int] = []

    def route(p: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = BOB_URI
        results.extend([p.relay(ctx), p.relay(ctx)])

    assert whats(Proxy(route).receive(request("OPTIONS"), ALICE)) == ["OPTIONS"]
    assert results == [1, -1]


def test_relaying_to_a_given_address_leaves_the_request_uri() -> None:
    def route(p: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = BOB_URI
        p.run(p.tm.t_relay_to_proto_addr(ctx, "udp", "192.0.2.77", 5077))

    out = Proxy(route).receive(request("OPTIONS"), ALICE)[0]
    assert (out.to, out.request.uri) == (("192.0.2.77", 5077), BOB_URI)

    def by_proxy(p: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = BOB_URI
        p.run(p.tm.t_relay_to_proxy(ctx, "udp:192.0.2.78:5078"))

    assert Proxy(by_proxy).receive(request("OPTIONS"), ALICE)[0].to == ("192.0.2.78", 5078)


def test_a_replicated_request_is_sent_and_its_answer_goes_nowhere() -> None:
    def route(p: Proxy, ctx: RouteContext) -> None:
        assert p.run(p.tm.t_replicate(ctx, CAROL_URI)) == 1
        p.tm.t_reply(ctx, 202, "Accepted")

    p = Proxy(route)
    out = p.receive(request("MESSAGE"), ALICE)
    assert sorted((s.what, s.to) for s in out) == [("202 MESSAGE", ALICE), ("MESSAGE", CAROL)]
    assert p.receive(answer(find(out, "MESSAGE"), 200), CAROL) == []


def test_contacts_are_tried_one_q_after_the_other() -> None:
    def route(p: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = BOB_URI
        ctx.branches = [Target(CAROL_URI, q=500), Target("sip:dave@192.0.2.40", q=500)]
        assert p.tm.t_load_contacts(ctx) == 1
        assert p.tm.t_next_contacts(ctx) == 1
        p.tm.t_on_failure(ctx, "FAIL")
        p.relay(ctx)

    def failure(p: Proxy, ctx: RouteContext) -> None:
        if p.tm.t_next_contacts(ctx) == 1:
            p.tm.t_on_failure(ctx, "FAIL")
            p.relay(ctx)

    p = Proxy(route, FAIL=failure)
    out = p.receive(request("INVITE"), ALICE)
    assert [s.to for s in out if s.what == "INVITE"] == [BOB]
    out = p.receive(answer(find(out, "INVITE"), 486), BOB)
    assert [s.to for s in out if s.what == "INVITE"] == [CAROL, ("192.0.2.40", 5060)]
    assert whats(p.receive(answer(find(out, "INVITE", CAROL), 480), CAROL)) == ["ACK"]
    out = p.receive(answer(find(out, "INVITE", ("192.0.2.40", 5060)), 404), ("192.0.2.40", 5060))
    assert whats(out) == ["ACK", "480 INVITE"]
    assert p.ran[-1][0] == "FAIL"


def test_a_suspended_request_goes_on_when_it_is_continued() -> None:
    ids: list[tuple[int, int]] = []

    def route(p: Proxy, ctx: RouteContext) -> None:
        if ctx.method == "OPTIONS":
            ids.append((p.run(p.tmx.t_continue(ctx, *ids[0], "GO_ON")), 0))
            p.tm.t_send_reply(ctx, 200, "OK")
            return
        ctx.ruri = BOB_URI
        assert p.tmx.t_suspend(ctx) == 1
        t = ctx.transaction
        assert t is not None
        ids.append((t.id_index, t.label))

    def go_on(p: Proxy, ctx: RouteContext) -> None:
        assert p.relay(ctx) == 1

    p = Proxy(route, GO_ON=go_on)
    assert p.receive(request("INVITE"), ALICE) == []
    assert p.wait(10) == []
    out = p.receive(request("OPTIONS", branch="o1"), CAROL)
    assert [(s.what, s.to) for s in out if s.what == "INVITE"] == [("INVITE", BOB)]
    assert whats(p.receive(answer(find(out, "INVITE"), 200), BOB)) == ["200 INVITE"]


def test_a_suspended_request_that_nobody_continues_gives_408() -> None:
    p = Proxy(lambda p, ctx: p.tmx.t_suspend(ctx))
    p.receive(request("MESSAGE"), ALICE)
    assert whats(p.wait(121)) == ["408 MESSAGE"]


def test_the_script_cancels_the_other_branches_from_a_reply_route() -> None:
    def onreply(p: Proxy, ctx: RouteContext) -> None:
        if ctx.reply_status == 183:
            assert p.tmx.t_cancel_branches(ctx, "others") == 1

    p = Proxy(to(BOB_URI, CAROL_URI, reply="REPLY"), REPLY=onreply)
    out = p.receive(request("INVITE"), ALICE)
    bob, carol = find(out, "INVITE", BOB), find(out, "INVITE", CAROL)
    p.receive(answer(carol, 180), CAROL)
    out = p.receive(answer(bob, 183), BOB)
    assert [(s.what, s.to) for s in out] == [("CANCEL", CAROL), ("183 INVITE", ALICE)]


def test_memory_of_answered_transactions_is_small() -> None:
    p = Proxy(to(BOB_URI))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    ctx_t = p.tm.layer.server_of(answer_of(request("INVITE")))
    p.receive(answer(invite, 486), BOB)
    assert ctx_t is not None
    with pytest.raises(LookupError):
        _ = ctx_t.request  # type: ignore[attr-defined]
    assert ctx_t.branches == []  # type: ignore[attr-defined]
