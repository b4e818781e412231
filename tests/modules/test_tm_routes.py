"""The route blocks of a transaction, and what the script may do in them (Kamailio's tm)."""

from __future__ import annotations

from typing import Any

import pytest

from polykemi.kemi.context import RouteContext
from polykemi.kemi.route import Route
from polykemi.sip.message import Request
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
    answer_of,
    find,
    request,
    to,
    whats,
)


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
        if ctx.transaction is not None and len(ctx.transaction.branches) == 1:
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
        assert p.tm.t_drop_replies_all(ctx) == 1

    p = Proxy(to(BOB_URI, failure="FAIL"), FAIL=failure)
    invite = find(p.receive(request("INVITE"), ALICE), "INVITE")
    assert whats(p.receive(answer(invite, 486), BOB)) == ["ACK", "500 INVITE"]


def test_a_branch_failure_route_replaces_one_branch_while_the_other_rings() -> None:
    def failed(p: Proxy, ctx: RouteContext) -> None:
        assert (ctx.kind, ctx.branch_index) == (Route.BRANCH_FAILURE, 0)
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


def test_a_branch_route_that_answers_the_request_sends_nothing_on() -> None:
    results: list[int] = []

    def start(p: Proxy, ctx: RouteContext) -> None:
        p.tm.t_on_branch(ctx, "BRANCH")
        ctx.branches.append(Target(CAROL_URI))
        ctx.ruri = BOB_URI
        results.append(p.relay(ctx))

    p = Proxy(start, BRANCH=lambda p, ctx: p.tm.t_reply(ctx, 403, "No"))
    assert whats(p.receive(request("INVITE"), ALICE)) == ["100 INVITE", "403 INVITE"]
    assert results[0] < 0


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
        ctx.cache["ruri_q"] = 1000  # as registrar.lookup leaves it
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
    assert whats(p.receive(request("INVITE"), ALICE)) == ["100 INVITE"]
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
    message = answer_of(request("INVITE"))
    assert isinstance(message, Request)
    ctx_t = p.tm.layer.server_of(message)
    p.receive(answer(invite, 486), BOB)
    assert ctx_t is not None
    with pytest.raises(LookupError):
        _ = ctx_t.request  # type: ignore[attr-defined]
    assert ctx_t.branches == []  # type: ignore[attr-defined]


def test_a_failure_route_that_never_gives_up_is_stopped() -> None:
    codes: list[int] = []

    def failure(p: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = BOB_URI
        p.tm.t_on_failure(ctx, "FAIL")
        ctx.cache.pop("tm.consumed", None)
        codes.append(p.relay(ctx))

    p = Proxy(to(BOB_URI, failure="FAIL"), FAIL=failure)
    out = p.receive(request("INVITE"), ALICE)
    while (invites := [s for s in out if s.what == "INVITE"]) and len(codes) < 100:
        out = p.receive(answer(invites[0], 404), BOB)
    assert codes == [1] * 31 + [-12]
    assert whats(out) == ["ACK", "404 INVITE"]
