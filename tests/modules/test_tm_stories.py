"""tm under anything that callers, callees, the network, time and scripts can do, in any order: what always holds."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from polykemi.kemi.context import RouteContext
from polykemi.kemi.route import Route
from polykemi.sip.flow import Flow
from polykemi.sip.message import parse
from polykemi.transaction.target import Target
from tests.modules.tm_driver import ALICE, Proxy, Sent, ack_of, answer, request
from tests.support import LISTENER

CANCEL_LIMIT = 30.0  # seconds after a CANCEL in which the final response of its INVITE is awaited


class Callee:
    """A phone that an INVITE was sent to: what it has answered."""

    def __init__(self, invite: Sent) -> None:
        self.invite = invite
        self.rang = False
        self.status = 0  # of its final response
        self.cancel: Sent | None = None
        self.canceled_at = 0.0
        self.failed = False  # the network says that it is not there


class Call(RuleBasedStateMachine):
    """One INVITE through the proxy."""

    @initialize(
        width=st.integers(1, 3),
        failure=st.sampled_from(["", "relay", "reply", "suspend", "nothing", "cancel"]),
        branch_failure=st.sampled_from(["", "relay", "reply"]),
        reply=st.sampled_from(["", "drop", "cancel_others"]),
        suspended=st.booleans(),
        cancel_b_method=st.integers(0, 2),
    )
    def begin(
        self,
        width: int,
        failure: str,
        branch_failure: str,
        reply: str,
        suspended: bool,
        cancel_b_method: int,
    ) -> None:
        self.actions = {"failure": failure, "branch_failure": branch_failure, "reply": reply}
        self.width, self.suspends = width, suspended
        self.made = 0
        self.callees: list[Callee] = []
        self.finals: list[int] = []  # that went to the caller, without repetitions
        self.upstream: list[Sent] = []
        self.ids: tuple[int, int] = (0, 0)
        self.canceled = self.acked = False
        self.cancel_b_method = cancel_b_method
        self.proxy = Proxy(
            self.route,
            tm={"cancel_b_method": cancel_b_method},
            failed=self.on_failure,
            branch_failed=self.on_branch_failure,
            replied=self.on_reply,
            resumed=self.resume,
        )
        self.began = self.proxy.now
        self.take(self.proxy.receive(request("INVITE"), ALICE))

    # ---- the script
    def route(self, proxy: Proxy, ctx: RouteContext) -> None:
        if ctx.method == "ACK":
            return
        if ctx.method == "CANCEL":
            proxy.relay(ctx)
            return
        self.arm(ctx)
        if self.suspends:
            proxy.tmx.t_suspend(ctx)
            self.remember(ctx)
        else:
            self.fork(ctx)

    def arm(self, ctx: RouteContext) -> None:
        tm = self.proxy.tm
        tm.t_on_failure(ctx, "failed" if self.actions["failure"] else "")
        tm.t_on_branch_failure(ctx, "branch_failed" if self.actions["branch_failure"] else "")
        tm.t_on_reply(ctx, "replied" if self.actions["reply"] else "")

    def fork(self, ctx: RouteContext) -> None:
        uris = [self.uri() for _ in range(self.width)]
        ctx.ruri = uris[0]
        ctx.branches = [Target(uri) for uri in uris[1:]]
        self.proxy.relay(ctx)

    def uri(self) -> str:
        self.made += 1
        return f"sip:b@192.0.2.{20 + self.made}"

    def remember(self, ctx: RouteContext) -> None:
        assert ctx.transaction is not None
        self.ids = (ctx.transaction.id_index, ctx.transaction.label)

    def on_failure(self, proxy: Proxy, ctx: RouteContext) -> None:
        action = self.actions["failure"]
        if action == "relay" and self.made < 6:
            self.arm(ctx)
            self.fork(ctx)
        elif action == "reply":
            proxy.tm.t_reply(ctx, 480, "Nobody")
        elif action == "suspend" and self.made < 6:
            proxy.tmx.t_suspend(ctx)
            self.remember(ctx)
        elif action == "cancel":
            proxy.tmx.t_cancel_branches(ctx, "all")

    def on_branch_failure(self, proxy: Proxy, ctx: RouteContext) -> None:
        if self.actions["branch_failure"] == "relay" and self.made < 6:
            self.arm(ctx)
            ctx.branches = [Target(self.uri())]
            proxy.relay(ctx)
        elif self.actions["branch_failure"] == "reply":
            proxy.tm.t_reply(ctx, 480, "Nobody")

    def on_reply(self, proxy: Proxy, ctx: RouteContext) -> None:
        if self.actions["reply"] == "drop":
            ctx.dropped = True
        elif ctx.reply_status == 183:
            proxy.tmx.t_cancel_branches(ctx, "others")

    def resume(self, proxy: Proxy, ctx: RouteContext) -> None:
        self.arm(ctx)
        self.fork(ctx)

    # ---- what leaves
    def take(self, sent: list[Sent]) -> list[Sent]:
        for one in sent:
            if one.to == ALICE:
                if "INVITE" in one.what:
                    self.upstream.append(one)
                    status = one.response.status
                    if status >= 200 and status not in self.finals:
                        self.finals.append(status)
                continue
            branch = one.request.via.branch
            if one.what == "INVITE":
                if not any(c.invite.request.via.branch == branch for c in self.callees):
                    self.callees.append(Callee(one))
                continue
            callee = next((c for c in self.callees if c.invite.request.via.branch == branch), None)
            if callee is None:
                assert one.what == "CANCEL", "of an INVITE that has ended"
                assert self.finals
                continue
            if one.what == "CANCEL":
                assert callee.rang or self.cancel_b_method == 2, "a CANCEL before any response"
                assert not callee.status or callee.cancel is not None, "a CANCEL behind the final response"
                if callee.cancel is None:
                    callee.cancel, callee.canceled_at = one, self.proxy.now
            else:
                assert one.what == "ACK"
                assert callee.status >= 300
        return sent

    @invariant()
    def one_final_response(self) -> None:
        if hasattr(self, "finals"):
            assert len([s for s in self.finals if s >= 300]) <= 1, self.finals
            assert not self.finals or self.finals[0] < 300 or all(s < 300 for s in self.finals[1:])

    # ---- events
    def pick(self, n: int) -> Callee | None:
        return self.callees[n % len(self.callees)] if self.callees else None

    @rule()
    def the_invite_comes_again(self) -> None:
        if self.proxy.now > self.began + 32 or self.acked:
            return
        before = len(self.callees)
        sent = self.take(self.proxy.receive(request("INVITE"), ALICE))
        assert all(s.to == ALICE for s in sent)
        assert len(self.callees) == before

    @rule(n=st.integers(0, 5), status=st.sampled_from([100, 180, 183]))
    def a_callee_rings(self, n: int, status: int) -> None:
        callee = self.pick(n)
        if callee and not callee.status and not callee.failed:
            callee.rang = callee.rang or self.is_awaited(callee)
            self.take(self.proxy.receive(answer(callee.invite, status), callee.invite.to))

    @rule(n=st.integers(0, 5), status=st.sampled_from([200, 302, 401, 408, 486, 503, 603]))
    def a_callee_answers(self, n: int, status: int) -> None:
        callee = self.pick(n)
        if callee and not callee.status and not callee.failed:
            self.final(callee, status)

    def final(self, callee: Callee, status: int) -> None:
        within = not callee.cancel or self.proxy.now < callee.canceled_at + CANCEL_LIMIT
        known = callee.rang or self.is_awaited(callee)
        callee.status = status
        sent = self.take(self.proxy.receive(answer(callee.invite, status), callee.invite.to))
        if known and within and status >= 300:
            assert "ACK" in [s.what for s in sent if s.to == callee.invite.to], "a final response without its ACK"
        if known and within and status < 300:
            assert [s for s in sent if s.to == ALICE and s.what == "200 INVITE"], "a 200 that does not reach the caller"

    def is_awaited(self, callee: Callee) -> bool:
        """Whether nothing has come from this one yet, and its time is not over."""
        return self.proxy.tm.layer.client_of_request(callee.invite.request.via.branch, "INVITE") is not None

    @rule(n=st.integers(0, 5), tag=st.sampled_from(["callee", "other"]))
    def a_200_comes_again(self, n: int, tag: str) -> None:
        callee = self.pick(n)
        if callee and callee.status == 200:
            self.take(self.proxy.receive(answer(callee.invite, 200, tag=tag), callee.invite.to))

    @rule(n=st.integers(0, 5))
    def a_callee_takes_the_cancel(self, n: int) -> None:
        callee = self.pick(n)
        if callee and callee.cancel and not callee.status and not callee.failed:
            self.take(self.proxy.receive(answer(callee.cancel, 200), callee.invite.to))
            self.final(callee, 487)

    @rule(n=st.integers(0, 5))
    def a_callee_is_not_there(self, n: int) -> None:
        callee = self.pick(n)
        if callee and not callee.rang and not callee.status:
            callee.failed = True
            self.take(self.proxy.fail(callee.invite))

    @rule()
    def the_caller_hangs_up(self) -> None:
        sent = self.take(self.proxy.receive(request("CANCEL"), ALICE))
        if not self.canceled:
            assert [s for s in sent if s.what.endswith(" CANCEL") and s.to == ALICE] or self.finals
        self.canceled = True

    @precondition(lambda self: self.finals)
    @rule()
    def the_caller_acknowledges(self) -> None:
        final = next(s for s in reversed(self.upstream) if s.response.status >= 200)
        if final.response.status >= 300:
            assert self.take(self.proxy.receive(ack_of(final), ALICE)) == []
            self.acked = True

    @rule()
    def the_script_goes_on(self) -> None:
        ctx = self.other()
        self.proxy.run(self.proxy.tmx.t_continue(ctx, *self.ids, "resumed"))
        self.take(self.proxy.sent())

    def other(self) -> RouteContext:
        """Return the context of another message, whose script goes on with this call."""
        message = parse(request("OPTIONS", branch="other").encode())
        return RouteContext(Route.REQUEST, "ksr_request_route", message, Flow(LISTENER, *ALICE), self.proxy.now)

    @rule(seconds=st.sampled_from([0.6, 5.0, 29.0, 31.0, 100.0, 121.0, 181.0]))
    def time_passes(self, seconds: float) -> None:
        self.pass_time(seconds)

    def pass_time(self, seconds: float) -> None:
        end = self.proxy.now + seconds
        while (due := self.proxy.tm.next_timeout()) is not None and due <= end:
            self.take(self.proxy.wait(max(due - self.proxy.now, 0.0)))
        self.take(self.proxy.wait(end - self.proxy.now))

    def teardown(self) -> None:
        if not hasattr(self, "proxy"):
            return
        self.pass_time(600)
        self.one_final_response()
        assert self.finals, "no final response"
        assert len(self.proxy.tm.layer) == 0
        assert self.proxy.tm.active() == 0
        assert self.proxy.tm.next_timeout() is None


TestCall = Call.TestCase
TestCall.settings = settings(
    max_examples=int(os.environ.get("POLYKEMI_STORIES", "3")) * 20,
    stateful_step_count=25,
    derandomize="POLYKEMI_STORIES" not in os.environ,  # `make stories` looks for new ones
    suppress_health_check=list(HealthCheck),
)
