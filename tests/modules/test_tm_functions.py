"""The functions of tm and tmx that set and ask: what they answer and what they change."""

from __future__ import annotations

from typing import Any

import pytest

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.route import Route
from polykemi.transaction.forking import Transaction
from polykemi.transaction.target import Target
from tests.modules.tm_driver import ALICE, BOB, BOB_URI, CAROL, CAROL_URI, Proxy, Sent, answer, find, request, to, whats
from tests.support import NOW


def ringing(**routes: Any) -> tuple[Proxy, Sent]:
    """Return a proxy with a call that rings, and its INVITE as Bob got it."""
    p = Proxy(to(BOB_URI, **{"reply": "REPLY"} if "REPLY" in routes else {}), **routes)
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    p.receive(answer(invite, 180), BOB)
    return p, invite


@pytest.mark.parametrize(
    ("relay", "code", "target"),
    [
        (lambda p, ctx: p.tm.t_relay_to_proto(ctx, "udp"), 1, BOB),
        (lambda p, ctx: p.tm.t_relay_to_proto(ctx, "tls"), -7, None),
        (lambda p, ctx: p.tm.t_relay_to_proto_addr(ctx, "udp", "", 5060), -1, None),
        (lambda p, ctx: p.tm.t_relay_to_proto_addr(ctx, "sctp", "192.0.2.7", 0), -7, None),
        (lambda p, ctx: p.tm.t_relay_to_proxy_flags(ctx, "192.0.2.30", 1), 1, CAROL),
        (lambda p, ctx: p.tm.t_replicate(ctx, "nonsense"), -1, None),
    ],
)
def test_relaying_elsewhere(relay: Any, code: int, target: tuple[str, int] | None) -> None:
    results: list[int] = []

    def route(p: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = BOB_URI
        results.append(p.run(relay(p, ctx)))

    out = Proxy(route).receive(request("OPTIONS"), ALICE)
    assert results == [code]
    assert [s.to for s in out if s.what == "OPTIONS"] == ([target] if target else [])


def test_relay_flags_leave_100_and_the_failure_answer_to_the_script() -> None:
    def route(p: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = BOB_URI
        p.run(p.tm.t_relay_to_flags(ctx, 1))

    assert whats(Proxy(route).receive(request("INVITE"), ALICE)) == ["INVITE"]

    def failing(p: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = "sip:bob@192.0.2.20;transport=tcp"
        assert p.run(p.tm.t_relay_to_flags(ctx, 3)) == -7
        assert p.tm.t_reply_error(ctx) == 1

    assert whats(Proxy(failing).receive(request("INVITE"), ALICE)) == ["500 INVITE"]


@pytest.mark.parametrize("state", [0, 1])
def test_the_script_says_whether_an_invite_gets_a_100(state: int) -> None:
    def route(p: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = BOB_URI
        assert p.tm.t_set_auto_inv_100(ctx, state) == 1
        p.relay(ctx)

    out = Proxy(route, tm={"auto_inv_100": 1 - state}).receive(request("INVITE"), ALICE)
    assert whats(out) == ["100 INVITE", "INVITE"][1 - state :]


def test_timers_can_be_changed_while_it_rings() -> None:
    def onreply(p: Proxy, ctx: RouteContext) -> None:
        assert p.tm.t_set_fr_inv(ctx, 2000) == 1

    p, _ = ringing(REPLY=onreply)
    assert "408 INVITE" in whats(p.wait(2.1))


def test_changed_timers_can_be_reset() -> None:
    def onreply(p: Proxy, ctx: RouteContext) -> None:
        p.tm.t_set_fr(ctx, 2000, 1000)
        assert p.tm.t_reset_fr(ctx) == 1
        p.tm.t_set_retr(ctx, 100, 200)
        assert p.tm.t_reset_retr(ctx) == 1
        assert p.tm.t_set_retr(ctx, -1, 0) == -1

    p, _ = ringing(REPLY=onreply)
    assert p.wait(119) == []
    assert "408 INVITE" in whats(p.wait(2))


def test_the_script_limits_the_life_of_a_transaction() -> None:
    def onreply(p: Proxy, ctx: RouteContext) -> None:
        assert p.tm.t_is_expired(ctx) == -1
        assert p.tm.t_set_max_lifetime(ctx, 5000, 1000) == 1
        assert p.tm.t_set_max_lifetime(ctx, -1, 0) == -1

    p, _ = ringing(REPLY=onreply)
    assert p.wait(4.9) == []
    assert "408 INVITE" in whats(p.wait(0.2))

    def undo(p: Proxy, ctx: RouteContext) -> None:
        p.tm.t_set_max_lifetime(ctx, 5000, 1000)
        assert p.tm.t_reset_max_lifetime(ctx) == 1

    p, _ = ringing(REPLY=undo)
    assert p.wait(100) == []

    def before(p: Proxy, ctx: RouteContext) -> None:
        p.tm.t_set_max_lifetime(ctx, 5000, 1000)
        to(BOB_URI)(p, ctx)

    p = Proxy(before)
    p.receive(request("OPTIONS"), ALICE)
    assert "408 OPTIONS" in whats(p.wait(1))


def test_disabling_6xx_and_internal_replies_works_on_a_running_transaction() -> None:
    def route(p: Proxy, ctx: RouteContext) -> None:
        p.tm.t_newtran(ctx)
        assert p.tm.t_set_disable_6xx(ctx, 1) == 1
        assert p.tm.t_set_disable_internal_reply(ctx, 1) == 1
        ctx.ruri = "sip:bob@192.0.2.20;transport=tcp"
        p.run(p.tm.t_relay_to_flags(ctx, 3))

    assert Proxy(route).receive(request("INVITE"), ALICE) == []


def test_status_questions_in_each_kind_of_block() -> None:
    seen: dict[str, tuple[int, ...]] = {}

    def ask(p: Proxy, ctx: RouteContext) -> None:
        tm, tmx = p.tm, p.tmx
        seen[ctx.callback] = (
            tm.t_get_status_code(ctx),
            tm.t_check_status(ctx, "^4"),
            tm.t_check_status(ctx, "(bad"),
            tm.t_grep_status(ctx, 486),
            tm.t_get_branch_index(ctx),
            tmx.t_is_request_route(ctx),
            tmx.t_is_reply_route(ctx),
            tmx.t_is_failure_route(ctx),
            tmx.t_is_branch_route(ctx),
        )

    def route(p: Proxy, ctx: RouteContext) -> None:
        ask(p, ctx)
        to(BOB_URI, branch="BRANCH", reply="REPLY", failure="FAIL")(p, ctx)

    p = Proxy(route, BRANCH=ask, REPLY=ask, FAIL=ask, ksr_reply_route=ask)
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    p.receive(answer(invite, 486), BOB)
    assert seen == {
        "ksr_request_route": (-1, -1, -1, -1, 0, 1, -1, -1, -1),
        "BRANCH": (100, -1, -1, -1, 0, -1, -1, -1, 1),
        "ksr_reply_route": (486, 1, -1, -1, -1, -1, 1, -1, -1),
        "REPLY": (486, 1, -1, -1, 0, -1, 1, -1, -1),
        "FAIL": (486, 1, -1, -1, 1, -1, -1, 1, -1),
    }


def test_replies_of_the_last_leg_only_can_be_dropped() -> None:
    legs: list[int] = []

    def failure(p: Proxy, ctx: RouteContext) -> None:
        legs.append(ctx.reply_status)
        assert p.tm.t_drop_replies(ctx, "n") == 1
        if len(legs) == 1:
            ctx.ruri = CAROL_URI
            p.tm.t_on_failure(ctx, "FAIL")
            p.relay(ctx)
        else:
            p.tm.t_drop_replies(ctx, "l")

    p = Proxy(to(BOB_URI, failure="FAIL"), tm={"failure_reply_mode": 0}, FAIL=failure)
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    second = find(p.receive(answer(invite, 486), BOB), "INVITE")
    assert whats(p.receive(answer(second, 404), CAROL)) == ["ACK", "486 INVITE"]


def test_mode_2_forgets_the_leg_before_this_one() -> None:
    def failure(p: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = CAROL_URI
        p.relay(ctx)

    p = Proxy(to(BOB_URI, failure="FAIL"), tm={"failure_reply_mode": 2}, FAIL=failure)
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    second = find(p.receive(answer(invite, 401), BOB), "INVITE")
    assert whats(p.receive(answer(second, 480), CAROL)) == ["ACK", "480 INVITE"]


def test_saved_lumps_are_what_a_failure_route_starts_from() -> None:
    def route(p: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = BOB_URI
        assert p.tm.t_save_lumps(ctx) == -1
        p.tm.t_on_failure(ctx, "FAIL")
        p.relay(ctx)
        ctx.edits.inserts.append((0, "X-Late: yes"))
        assert p.tm.t_save_lumps(ctx) == 1

    def failure(p: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = CAROL_URI
        p.relay(ctx)

    p = Proxy(route, FAIL=failure)
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    assert find(p.receive(answer(invite, 486), BOB), "INVITE").message.get("x-late") == "yes"


def test_the_last_reply_can_be_sent_again() -> None:
    def route(p: Proxy, ctx: RouteContext) -> None:
        assert p.tm.t_retransmit_reply(ctx) == -1
        p.tm.t_send_reply(ctx, 183, "Progress")
        assert p.tm.t_retransmit_reply(ctx) == 1
        p.tm.t_reply(ctx, 480, "Gone")

    assert whats(Proxy(route).receive(request("INVITE"), ALICE)) == ["183 INVITE", "183 INVITE", "480 INVITE"]


def test_a_cancel_sees_the_flags_of_its_invite_when_it_asks() -> None:
    seen: list[tuple[int, int]] = []

    def route(p: Proxy, ctx: RouteContext) -> None:
        if ctx.method == "CANCEL":
            seen.append((p.tm.t_lookup_cancel_flags(ctx, 0), ctx.shared.flags))
            seen.append((p.tm.t_lookup_cancel_flags(ctx, 1), ctx.shared.flags))
            p.relay(ctx)
        else:
            assert p.tm.t_lookup_cancel_flags(ctx, 1) == -1
            assert p.tm.t_lookup_cancel(ctx) == -1
            assert p.tm.t_set_no_e2e_cancel_reason(ctx, 1) == 1
            ctx.shared.flags = 6
            to(BOB_URI)(p, ctx)

    p = Proxy(route)
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    p.receive(answer(invite, 180), BOB)
    out = p.receive(request("CANCEL", "Reason: SIP;cause=200"), ALICE)
    assert seen == [(1, 0), (1, 6)]
    assert find(out, "CANCEL").message.get("reason") is None


def test_another_request_cancels_or_answers_a_call_by_its_call_id() -> None:
    results: list[int] = []

    def route(p: Proxy, ctx: RouteContext) -> None:
        if ctx.method == "INVITE":
            to(BOB_URI)(p, ctx)
            return
        call = "call-1@192.0.2.10"
        results.append(p.tmx.t_cancel_callid_reason(ctx, call, "2", 3, 0))
        results.append(p.tmx.t_cancel_callid_reason(ctx, call, "1", 3, 410))
        results.append(p.tmx.t_reply_callid(ctx, call, "1", 99, "x"))
        results.append(p.tmx.t_reply_callid(ctx, call, "1", 410, "Gone"))
        results.append(p.tmx.t_reply_callid(ctx, call, "1", 410, "Gone"))
        results.append(p.tmx.t_cancel_callid(ctx, call, "1", 3))

    p = Proxy(route)
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    p.receive(answer(invite, 180), BOB)
    out = p.receive(request("OPTIONS", branch="o"), CAROL)
    assert whats(out) == ["CANCEL", "410 INVITE"]
    assert out[0].message.get("reason") == "SIP;cause=410"
    assert results == [-1, 1, -1, 1, -1, -1]


def test_cancelling_one_branch_or_all_from_a_route() -> None:
    def onreply(p: Proxy, ctx: RouteContext) -> None:
        assert p.tmx.t_cancel_branches(ctx, "nonsense") == -1
        assert p.tmx.t_cancel_branches(ctx, "this" if ctx.reply_status == 180 else "all") == 1

    p = Proxy(to(BOB_URI, CAROL_URI, reply="REPLY"), REPLY=onreply)
    out = p.receive(request("INVITE"), ALICE)
    bob, carol = find(out, "INVITE", BOB), find(out, "INVITE", CAROL)
    assert [(s.what, s.to) for s in p.receive(answer(bob, 180), BOB)] == [("CANCEL", BOB), ("180 INVITE", ALICE)]
    assert [(s.what, s.to) for s in p.receive(answer(carol, 183), CAROL)] == [("CANCEL", CAROL), ("183 INVITE", ALICE)]

    def request_route(p: Proxy, ctx: RouteContext) -> None:
        assert p.tmx.t_cancel_branches(ctx, "all") == -1
        p.tm.t_newtran(ctx)
        assert p.tmx.t_cancel_branches(ctx, "this") == -1

    Proxy(request_route).receive(request("INVITE"), ALICE)


def test_a_branch_failure_route_tries_the_same_branch_again() -> None:
    def failure(p: Proxy, ctx: RouteContext) -> None:
        assert p.tmx.t_reuse_branch(ctx) == 1
        assert p.relay(ctx) == 1

    def branch(p: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = CAROL_URI

    def route(p: Proxy, ctx: RouteContext) -> None:
        p.tm.t_on_branch_failure(ctx, "FAIL")
        to(BOB_URI, branch="BR")(p, ctx)

    p = Proxy(route, FAIL=failure, BR=branch)
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE", CAROL)
    again = find(p.receive(answer(invite, 486), CAROL), "INVITE", CAROL)
    assert again.request.uri == CAROL_URI
    ctx = RouteContext(Route.FAILURE, "FAIL", again.request, again.flow, p.now)
    assert p.tmx.t_reuse_branch(ctx) == -1


def test_a_request_is_suspended_once_and_continued_once() -> None:
    def route(p: Proxy, ctx: RouteContext) -> None:
        if ctx.method == "OPTIONS":
            assert p.run(p.tmx.t_continue(ctx, 1, 999, "X")) == -1
            return
        results.extend([p.tmx.t_suspend(ctx), p.tmx.t_suspend(ctx)])
        if ctx.method == "MESSAGE":
            assert p.tm.t_reply(ctx, 202, "Accepted") == 1

    results: list[int] = []
    p = Proxy(route)
    assert whats(p.receive(request("INVITE"), ALICE)) == ["100 INVITE"]
    p.receive(request("OPTIONS", branch="o"), CAROL)
    assert p.receive(request("ACK", branch="k", to_tag="x"), ALICE) == []  # an ACK cannot have a transaction
    assert whats(p.receive(request("MESSAGE", branch="m"), ALICE)) == ["202 MESSAGE"]
    assert results == [1, 1, -1, -1, 1, 1]
    assert set(whats(p.wait(121))) == {"408 INVITE"}  # the answered MESSAGE is over


def test_flags_flushed_into_the_transaction() -> None:
    def route(p: Proxy, ctx: RouteContext) -> None:
        assert (p.tmx.t_flush_flags(ctx), p.tmx.t_flush_xflags(ctx)) == (-1, -1)
        p.tm.t_newtran(ctx)
        ctx.shared.flags, ctx.shared.xflags = 3, 4
        assert (p.tmx.t_flush_flags(ctx), p.tmx.t_flush_xflags(ctx)) == (1, 1)
        t = ctx.transaction
        assert t is not None
        assert (t.shared.flags, t.shared.xflags) == (3, 4)

    Proxy(route).receive(request("OPTIONS"), ALICE)


def test_contacts_one_by_one_even_with_the_same_q() -> None:
    def route(p: Proxy, ctx: RouteContext) -> None:
        from polykemi.transaction.target import Target

        ctx.ruri = BOB_URI
        assert p.tm.ki_t_load_contacts_mode(ctx, 1) == 1
        ctx.branches = [Target(CAROL_URI)]
        assert p.tm.ki_t_load_contacts_mode(ctx, 1) == 1
        assert p.tm.t_next_contacts(ctx) == 1
        assert (ctx.ruri, ctx.branches) == (BOB_URI, [])
        assert p.tm.t_next_contacts(ctx) == 1
        assert ctx.ruri == CAROL_URI
        assert p.tm.t_next_contacts(ctx) == -2

    Proxy(route).receive(request("OPTIONS"), ALICE)


def test_a_script_that_fails_is_answered_once_and_not_when_the_call_is_on_its_way() -> None:
    def failing(p: Proxy, ctx: RouteContext) -> None:
        p.tm.t_newtran(ctx)
        p.tm.fail(ctx, 500, "Server Internal Error")
        p.tm.fail(ctx, 500, "Server Internal Error")

    assert whats(Proxy(failing).receive(request("INVITE"), ALICE)) == ["500 INVITE"]

    def relaying(p: Proxy, ctx: RouteContext) -> None:
        to(BOB_URI)(p, ctx)
        p.tm.fail(ctx, 500, "Server Internal Error")

    assert whats(Proxy(relaying).receive(request("INVITE"), ALICE)) == ["100 INVITE", "INVITE"]


def test_a_transport_error_of_something_unknown_changes_nothing() -> None:
    p, invite = ringing()
    assert p.fail(invite) == []  # it rings already
    assert p.tm.transport_error(invite.flow, b"not SIP") is None
    p.receive(answer(invite, 486), BOB)
    p.wait(100)
    assert p.fail(invite) == []


def test_a_request_with_a_malformed_length_is_answered_400_and_not_forwarded() -> None:
    bad = request("OPTIONS").replace("Content-Length: 0", "Content-Length: x")
    assert whats(Proxy(to(BOB_URI)).receive(bad, ALICE)) == ["400 OPTIONS"]


def test_a_response_with_a_malformed_length_is_refused_before_it_moves_anything() -> None:
    p, invite = ringing()
    bad = answer(invite, 486).replace("Content-Length: 0", "Content-Length: x")
    with pytest.raises(ParseError):
        p.receive(bad, BOB)
    assert whats(p.receive(answer(invite, 486), BOB)) == ["ACK", "486 INVITE"]


def test_a_call_with_a_malformed_from_still_gets_its_200() -> None:
    p = Proxy(to(BOB_URI))
    bad = request("INVITE").replace("From: <sip:alice@example.test>", "From: <sip:alice@example.test")
    invite = find(p.receive(bad, ALICE), "INVITE")
    assert whats(p.receive(answer(invite, 200), BOB)) == ["200 INVITE"]


def test_rport_asked_for_after_the_transaction_was_made_still_counts() -> None:
    def route(p: Proxy, ctx: RouteContext) -> None:
        p.tm.t_newtran(ctx)
        ctx.force_rport = True
        to(BOB_URI)(p, ctx)

    p = Proxy(route)
    options = find(p.receive(request("OPTIONS"), ("192.0.2.10", 9999)), "OPTIONS")
    assert p.receive(answer(options, 200), BOB)[0].to == ("192.0.2.10", 9999)


def test_a_200_of_our_own_that_got_lost_is_sent_again_when_the_invite_comes_again() -> None:
    p = Proxy(lambda p, ctx: p.tm.t_send_reply(ctx, 200, "OK"))
    assert whats(p.receive(request("INVITE"), ALICE)) == ["200 INVITE"]
    assert whats(p.receive(request("INVITE"), ALICE)) == ["200 INVITE"]


def test_counters_tell_what_tm_did() -> None:
    p, invite = ringing()
    p.receive(answer(invite, 486), BOB)
    p.receive(answer(invite, 486), BOB)
    counters = {name: n for name, n in p.services.counters.items() if n and name.startswith("tmx.")}
    assert counters == {
        "tmx.UAS_transactions": 1,
        "tmx.UAC_transactions": 1,
        "tmx.rpl_generated": 1,
        "tmx.rpl_sent": 3,
        "tmx.rpl_received": 3,
        "tmx.rpl_relayed": 2,
        "tmx.rpl_absorbed": 1,
        "tmx.4xx_transactions": 1,
    }


# ---- further flows of one phone
def test_flows_to_one_phone_are_tried_one_after_the_other() -> None:
    results: list[int] = []

    def route(p: Proxy, ctx: RouteContext) -> None:
        ctx.ruri, ctx.instance = BOB_URI, "<urn:1>"
        ctx.branches = [Target(CAROL_URI), Target("sip:bob@192.0.2.40", instance="<urn:1>", flags=4, ruid="r")]
        p.tm.t_load_contacts(ctx)
        assert p.tm.t_next_contacts(ctx) == 1
        p.tm.t_on_branch_failure(ctx, "LOST")
        p.relay(ctx)

    def lost(p: Proxy, ctx: RouteContext) -> None:
        results.append(p.tm.t_next_contact_flow(ctx))
        if results[-1] == 1:
            p.relay(ctx)

    p = Proxy(route, tm={"contact_flows_avp": "flows"}, LOST=lost)
    out = p.receive(request("INVITE"), ALICE)
    assert {s.to for s in out if s.what == "INVITE"} == {BOB, CAROL}
    out = p.receive(answer(find(out, "INVITE", BOB), 430), BOB)
    assert [s.to for s in out if s.what == "INVITE"] == [("192.0.2.40", 5060)]
    assert results == [1]


def test_without_a_phone_or_the_parameter_there_are_no_flows() -> None:
    results: list[int] = []

    def route(p: Proxy, ctx: RouteContext) -> None:
        ctx.shared.xavps["flows"] = [{"uri": [BOB_URI], "instance": ["<urn:1>"]}]
        results.append(p.tm.t_next_contact_flow(ctx))

    Proxy(route).receive(request("INVITE"), ALICE)
    Proxy(route, tm={"contact_flows_avp": "flows"}).receive(request("INVITE"), ALICE)
    assert results == [-1, -2]


# ---- transactions that end without a response
def test_a_dropped_transaction_absorbs_retransmissions_and_ends() -> None:
    runs: list[int] = []

    def route(p: Proxy, ctx: RouteContext) -> None:
        p.tm.t_newtran(ctx)
        runs.append(p.tmx.t_drop_rcode(ctx, 404))

    p = Proxy(route)
    assert p.receive(request("OPTIONS"), ALICE) == []
    assert p.receive(request("OPTIONS"), ALICE) == []
    assert runs == [0]
    assert p.wait(40) == []
    assert p.tm.active() == 0
    assert len(p.tm.layer) == 0


def test_what_is_overdue_is_cleaned_away() -> None:
    p, _ = ringing()
    (t,) = [x for x in p.tm.layer.server_transactions() if isinstance(x, Transaction)]
    results: list[int] = []
    p.request = lambda p, ctx: results.append(p.tm.t_clean(ctx))
    p.receive(request("OPTIONS"), ALICE)
    assert not t.is_terminated
    t.expires = NOW - 100
    p.receive(request("OPTIONS", branch="other"), ALICE)
    assert results == [1, 1]
    assert t.is_terminated
    assert p.tm.active() == 0
    assert len(p.tm.layer) == 0
