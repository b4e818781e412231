"""tm: how transactions end: late answers, CANCELs that cross something, life times, 2xx of our own, scripts that never stop."""

from __future__ import annotations

import pytest

from polykemi.kemi.context import RouteContext
from polykemi.kemi.route import Route
from polykemi.modules.tm_reply import TmParams
from polykemi.sip.message import parse
from polykemi.transaction.forking import Transaction
from polykemi.transaction.target import Target
from tests.modules.tm_driver import (
    ALICE,
    BOB,
    BOB_URI,
    CAROL,
    CAROL_URI,
    Proxy,
    ack_of,
    answer,
    find,
    request,
    to,
    whats,
)


def test_the_487_of_a_call_that_outlived_max_inv_lifetime_is_acknowledged_and_goes_no_further() -> None:
    p = Proxy(to(BOB_URI))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    p.receive(answer(invite, 180), BOB)
    p.wait(100)
    p.receive(answer(invite, 180), BOB)  # Timer C would end at 220, the life of the transaction does at 180
    assert sorted(whats(p.wait(80.1))) == ["408 INVITE", "CANCEL"]
    p.wait(1)
    assert whats(p.receive(answer(invite, 487), BOB)) == ["ACK"]


def test_a_200_that_comes_after_the_408_still_goes_to_the_caller() -> None:
    p = Proxy(to(BOB_URI))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    p.receive(answer(invite, 180), BOB)
    assert sorted(whats(p.wait(120.1))) == ["408 INVITE", "CANCEL"]
    assert whats(p.receive(answer(invite, 200), BOB)) == ["200 INVITE"]
    assert whats(p.receive(answer(invite, 200), BOB)) == ["200 INVITE"]  # until somebody acknowledges it
    p.wait(100)
    assert len(p.tm.layer) == 0


def test_a_2xx_of_our_own_is_sent_until_its_ack_comes() -> None:
    def route(p: Proxy, ctx: RouteContext) -> None:
        if ctx.method == "INVITE":
            p.tm.t_send_reply(ctx, 180, "Ringing")
            p.tm.t_send_reply(ctx, 200, "OK")

    p = Proxy(route)
    ok = find(p.receive(request("INVITE"), ALICE), "200 INVITE")
    assert whats(p.wait(0.6)) == ["200 INVITE"]
    assert whats(p.wait(1)) == ["200 INVITE"]
    ack = request("ACK", branch="ack", to_tag=ok.response.to.tag or "")
    assert p.receive(ack, ALICE) == []
    assert p.ran[-1][0] == "ksr_request_route"  # the script sees it as ever
    assert p.wait(31) == []
    p.wait(2)
    assert len(p.tm.layer) == 0
    assert p.tm.next_timeout() is None


def test_a_2xx_of_our_own_that_nobody_acknowledges_is_given_up_after_64_t1() -> None:
    p = Proxy(lambda p, ctx: p.tm.t_send_reply(ctx, 200, "OK"))
    p.receive(request("INVITE"), ALICE)
    assert whats(p.wait(60)) == ["200 INVITE"] * 10  # at 0.5, 1.5, 3.5, 7.5 and then every 4 s
    assert len(p.tm.layer) == 0
    assert p.receive(request("ACK", branch="late"), ALICE) == []


def test_the_callees_200_is_sent_again_by_the_callee_alone() -> None:
    p = Proxy(to(BOB_URI))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    p.receive(answer(invite, 200), BOB)
    assert p.wait(10) == []


def test_a_cancel_that_had_to_wait_says_why_all_the_same() -> None:
    p = Proxy(to(BOB_URI, CAROL_URI))
    out = p.receive(request("INVITE"), ALICE)
    p.receive(answer(find(out, "INVITE", BOB), 200), BOB)
    cancel = find(p.receive(answer(find(out, "INVITE", CAROL), 180), CAROL), "CANCEL")
    assert cancel.message.get("reason") == 'SIP;cause=200;text="Call completed elsewhere"'
    p = Proxy(to(BOB_URI))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    p.receive(request("CANCEL", 'Reason: SIP;cause=600;text="Busy"'), ALICE)
    cancel = find(p.receive(answer(invite, 180), BOB), "CANCEL")
    assert cancel.message.get("reason") == 'SIP;cause=600;text="Busy"'


@pytest.mark.parametrize("what", ["relay", "suspend"])
def test_a_failure_route_gets_nothing_more_from_a_transaction_that_has_lived_too_long(what: str) -> None:
    results = []

    def failed(p: Proxy, ctx: RouteContext) -> None:
        p.tm.t_on_failure(ctx, "failed")
        ctx.ruri = CAROL_URI
        results.append(p.tmx.t_suspend(ctx) if what == "suspend" else p.relay(ctx))

    p = Proxy(to(BOB_URI, failure="failed"), tm={"max_inv_lifetime": 20000}, failed=failed)
    p.receive(request("INVITE"), ALICE)
    sent = p.wait(20.1)
    assert results == [-1]
    assert whats(sent[-1:]) == ["408 INVITE"]
    assert not [s for s in sent if s.to == CAROL]


def test_a_canceled_call_cannot_be_suspended_by_its_failure_route() -> None:
    results = []
    p = Proxy(
        to(BOB_URI, failure="failed"),
        failed=lambda p, ctx: results.append(p.tmx.t_suspend(ctx)),
    )
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    p.receive(answer(invite, 180), BOB)
    p.receive(request("CANCEL"), ALICE)
    assert "487 INVITE" in whats(p.receive(answer(invite, 487), BOB))
    assert results == [-1]


@pytest.mark.parametrize(("disabled", "code"), [(0, -1), (1, 1)])
def test_behind_a_6xx_a_branch_failure_route_adds_no_branch(disabled: int, code: int) -> None:
    results = []

    def branch_failed(p: Proxy, ctx: RouteContext) -> None:
        if ctx.reply_status == 487:
            ctx.branches = [Target("sip:dave@192.0.2.40")]
            results.append(p.relay(ctx))
        else:
            p.tm.t_on_branch_failure(ctx, "branch_failed")

    p = Proxy(
        to(BOB_URI, CAROL_URI, branch_failure="branch_failed"),
        tm={"disable_6xx_block": disabled},
        branch_failed=branch_failed,
    )
    out = p.receive(request("INVITE"), ALICE)
    bob, carol = find(out, "INVITE", BOB), find(out, "INVITE", CAROL)
    p.receive(answer(carol, 180), CAROL)
    p.receive(answer(bob, 603), BOB)
    p.receive(answer(carol, 487), CAROL)
    assert results == [code]


@pytest.mark.parametrize("when", ["at once", "ringing", "answered", "refused"])
def test_a_cancel_that_comes_twice_is_answered_twice_and_does_its_work_once(when: str) -> None:
    p = Proxy(to(BOB_URI))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    if when != "at once":
        p.receive(answer(invite, {"ringing": 180, "answered": 200, "refused": 486}[when]), BOB)
    first, second = (p.receive(request("CANCEL"), ALICE) for _ in range(2))
    assert whats(first) == ["200 CANCEL", *["CANCEL"] * (when == "ringing")]
    assert whats(second) == ["200 CANCEL"]
    p.wait(400)
    assert len(p.tm.layer) == 0


def test_a_phone_that_rings_after_it_was_given_up_is_canceled() -> None:
    p = Proxy(to(BOB_URI))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    assert "408 INVITE" in whats(p.wait(30.1))
    cancel = find(p.receive(answer(invite, 180), BOB), "CANCEL", BOB)
    assert p.receive(answer(cancel, 200), BOB) == []
    assert whats(p.receive(answer(invite, 487), BOB)) == ["ACK"]


def test_a_final_response_that_comes_after_the_408_is_acknowledged_and_goes_no_further() -> None:
    p = Proxy(to(BOB_URI))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    p.wait(30.1)
    assert whats(p.receive(answer(invite, 486), BOB)) == ["ACK"]
    assert whats(p.receive(answer(invite, 486), BOB)) == ["ACK"]
    p = Proxy(to(BOB_URI))
    options = find(p.receive(request("OPTIONS"), ALICE), "OPTIONS")
    p.wait(30.1)
    assert p.receive(answer(options, 404), BOB) == []
    p.wait(60)
    assert len(p.tm.layer) == 0


@pytest.mark.parametrize(
    ("restarts", "status", "ends_at"), [(1, 180, 220), (1, 183, 220), (1, 100, 120), (0, 180, 120), (0, 183, 220)]
)
def test_timer_c_starts_anew_with_a_provisional_response_but_100(restarts: int, status: int, ends_at: int) -> None:
    p = Proxy(to(BOB_URI), tm={"max_inv_lifetime": 0, "restart_fr_on_each_reply": restarts})
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    p.receive(answer(invite, 180), BOB)
    p.wait(100)
    p.receive(answer(invite, status), BOB)
    assert p.wait(ends_at - 100.1) == []
    assert sorted(whats(p.wait(0.2))) == ["408 INVITE", "CANCEL"]


def test_wt_timer_is_how_long_an_acknowledged_failure_is_remembered() -> None:
    p = Proxy(to(BOB_URI), tm={"wt_timer": 2000})
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    busy = find(p.receive(answer(invite, 486), BOB), "486 INVITE")
    p.receive(ack_of(busy), ALICE)
    p.wait(1.9)
    assert whats(p.receive(request("INVITE"), ALICE)) == []
    p.wait(0.2)
    assert "INVITE" in whats(p.receive(request("INVITE"), ALICE))  # a new call, for all that anybody knows


@pytest.mark.parametrize(
    ("key", "value"),
    [("fr_timer", 0), ("max_breadth", -1), ("cancel_b_method", 3), ("default_code", 200), ("default_reason", "a\r\nb")],
)
def test_parameters_that_make_no_sense_are_refused(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{key}: expected"):
        TmParams(**{key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("where", ["request", "failure"])
def test_a_cancel_of_a_suspended_call_is_answered_at_once_and_nothing_goes_on(where: str) -> None:
    def route(p: Proxy, ctx: RouteContext) -> None:
        if ctx.method != "INVITE" or where == "failure":
            to(BOB_URI, failure="failed")(p, ctx)
        else:
            p.tmx.t_suspend(ctx)

    p = Proxy(route, failed=lambda p, ctx: p.tmx.t_suspend(ctx))
    out = p.receive(request("INVITE"), ALICE)
    if where == "failure":
        p.receive(answer(find(out, "INVITE"), 486), BOB)
    (t,) = p.tm.layer.server_transactions()
    assert isinstance(t, Transaction)
    ids, ran = (t.id_index, t.label), len(p.ran)
    assert whats(p.receive(request("CANCEL"), ALICE)) == ["487 INVITE", "200 CANCEL"]
    assert [name for name, _ in p.ran[ran:]] == ["ksr_request_route"]  # of the CANCEL
    other = RouteContext(Route.REQUEST, "other", parse(request("OPTIONS").encode()), t.source, p.now)
    assert p.run(p.tmx.t_continue(other, *ids, "resumed")) == -1
    p.wait(100)
    assert len(p.tm.layer) == 0


def test_prack_and_update_pass_while_it_rings_and_do_not_touch_the_invite() -> None:
    p = Proxy(to(BOB_URI))
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    ringing = find(p.receive(answer(invite, 183, "Require: 100rel", "RSeq: 1"), BOB), "183 INVITE")
    assert ringing.message.get("rseq") == "1"
    for cseq, method in ((2, "PRACK"), (3, "UPDATE")):
        sent = p.receive(request(method, "RAck: 1 1 INVITE", branch=method, cseq=cseq, to_tag="callee"), ALICE)
        assert whats(sent) == [method]
        assert whats(p.receive(answer(sent[0], 200), BOB)) == [f"200 {method}"]
    assert whats(p.receive(answer(invite, 183, "RSeq: 1"), BOB)) == ["183 INVITE"]  # sent again until the PRACK came
    update = find(p.receive(request("UPDATE", branch="glare", cseq=4, to_tag="callee"), ALICE), "UPDATE")
    assert whats(p.receive(answer(update, 491), BOB)) == ["491 UPDATE"]
    assert whats(p.receive(answer(invite, 200), BOB)) == ["200 INVITE"]
