"""tm: scripts that fail at any point, and faults of our own: the caller gets one final response, nothing stays behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polykemi.config import RouteSettings
from polykemi.testing import Sent, ServerUnderTest
from polykemi.transaction.forking import Transaction
from tests.modules.tm_driver import ALICE, BOB_URI, CAROL_URI, Proxy, answer_of, to
from tests.modules.tm_driver import request as invite

SCRIPT = """
import KSR as KSR

PLACE, SUSPENDS, suspended = "", "", []

def broken(place):
    if PLACE == place:
        raise RuntimeError(place)

def ksr_request_route():
    global PLACE, SUSPENDS
    if KSR.is_INVITE():
        PLACE, SUSPENDS = KSR.hdr.get("X-Place"), KSR.hdr.get("X-Suspends")
        suspended.clear()
    broken("request")
    if KSR.is_ACK() or KSR.is_CANCEL():
        KSR.tm.t_relay()
        return
    if KSR.is_OPTIONS():
        if suspended:
            KSR.tmx.t_continue(*suspended, "resumed")
        return
    KSR.tm.t_newtran()
    broken("newtran")
    KSR.tm.t_on_branch("branch")
    KSR.tm.t_on_reply("reply")
    KSR.tm.t_on_failure("failure")
    KSR.tm.t_on_branch_failure("branch_failure")
    if SUSPENDS:
        KSR.tmx.t_suspend()
        suspended[:] = [KSR.pv.get("$T(id_index)"), KSR.pv.get("$T(id_label)")]
        broken("suspended")
        return
    KSR.seturi("sip:bob@192.0.2.20")
    KSR.corex.append_branch_uri("sip:bob@192.0.2.30")
    KSR.tm.t_relay()
    broken("relayed")

def resumed():
    broken("resumed")
    KSR.seturi("sip:bob@192.0.2.20")
    KSR.tm.t_relay()
    broken("resumed and relayed")

def branch():
    broken("branch")

def reply():
    broken("reply")

def ksr_reply_route():
    broken("reply_route")

def ksr_onsend_route():
    broken("onsend")

def branch_failure():
    broken("branch_failure")

def failure():
    broken("failure")
    if SUSPENDS:
        KSR.tmx.t_suspend()
        broken("suspended in failure")
    KSR.seturi("sip:bob@192.0.2.40")
    KSR.tm.t_relay()
    broken("relayed in failure")
"""
PLACES = [
    "request",
    "newtran",
    "suspended",
    "relayed",
    "resumed",
    "resumed and relayed",
    "branch",
    "reply",
    "reply_route",
]
PLACES += ["onsend", "branch_failure", "failure", "suspended in failure", "relayed in failure"]
KEPT = ("via", "from", "to", "call-id", "cseq")


class Server:
    """A server with the script above, and phones that answer at once."""

    def __init__(self, directory: Path) -> None:
        script = directory / "script.py"
        script.write_text(SCRIPT)
        self.server = ServerUnderTest({"python": script}, routes=RouteSettings(default="python"))
        services = self.server.node.router.services
        self.tm, self.counters = services.modules["tm"], services.counters
        self.status = 0  # that the phones answer, 0: they do not
        self.finals: list[str] = []
        self.calls = 0

    def call(self, status: int, place: str = "", suspends: str = "") -> None:
        """Make a call and let it end."""
        self.status, self.finals = status, []
        self.calls += 1
        for name in ("core.script_errors", "core.internal_errors"):
            self.counters[name] = 0
        headers = [f"X-Place: {place}"] * bool(place) + [f"X-Suspends: {suspends}"] * bool(suspends)
        self.take(self.server.receive(request("INVITE", self.calls, *headers), "192.0.2.10:5060"))
        self.take(self.server.receive(request("OPTIONS", self.calls), "192.0.2.10:5060"))
        self.take(self.server.advance(400))
        assert len(self.tm.layer) == 0
        assert self.tm.active() == 0

    def take(self, sent: list[Sent]) -> None:
        """Let the phones answer what is sent to them, and note what the caller gets."""
        while sent:
            one = sent.pop(0)
            if one.flow.host == "192.0.2.10":
                if int(one.start_line[8:11]) >= 200 and b"CSeq: 1 INVITE" in one.data:
                    self.finals.append(one.start_line)
            elif self.status and not one.data.startswith(b"ACK"):
                request = answer_of(one.data.decode())
                lines = [f"SIP/2.0 {self.status} Reason"]
                lines += [line for line, name in zip(request.lines, request.names, strict=True) if name in KEPT]
                reply = "\r\n".join([*lines, "Content-Length: 0", "", ""])
                sent += self.server.receive(
                    reply.replace("<sip:bob@example.test>", "<sip:bob@example.test>;tag=b").encode(), one.to
                )


def request(method: str, number: int, *headers: str) -> bytes:
    """Return a request of the caller."""
    lines = [f"{method} sip:bob@example.test SIP/2.0", f"Via: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK{method}{number}"]
    lines += ["From: <sip:alice@example.test>;tag=a", "To: <sip:bob@example.test>", f"Call-ID: {number}"]
    lines += [f"CSeq: 1 {method}", "Max-Forwards: 70", *headers, "Content-Length: 0", "", ""]
    return "\r\n".join(lines).encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return the server of all these calls."""
    one = Server(tmp_path_factory.mktemp("broken"))
    with one.server:
        yield one


@pytest.mark.parametrize("status", [200, 486])
@pytest.mark.parametrize("suspends", ["", "yes"])
@pytest.mark.parametrize("place", PLACES)
def test_a_script_that_fails_anywhere_leaves_no_stuck_transaction(
    server: Server, place: str, suspends: str, status: int
) -> None:
    server.call(status, place, suspends)
    assert len(set(server.finals)) == 1, server.finals
    assert not server.counters["core.internal_errors"]
    if not suspends and place in ("request", "newtran", "relayed", "branch", "reply", "reply_route", "onsend"):
        assert server.counters["core.script_errors"]


@pytest.mark.parametrize(
    "fault",
    [
        "polykemi.modules.tm_request.forward_request",
        "polykemi.modules.tm_reply.forward_response",
        "polykemi.modules.tm_responses.Responses.conclude",
        "polykemi.modules.tm_responses.Responses._context",
    ],
)
@pytest.mark.parametrize("status", [200, 486, 0])
def test_a_fault_of_our_own_costs_one_call_a_500(
    server: Server, fault: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fails(*arguments: Any, **more: Any) -> Any:
        calls.append(arguments)
        raise RuntimeError(fault)

    try:
        monkeypatch.setattr(fault, fails)
    except (AttributeError, TypeError):
        pytest.skip("compiled code cannot be made to fail")
    server.call(status)
    if calls:
        assert set(server.finals) == {"SIP/2.0 500 Server Internal Error"}


def test_a_fault_between_two_branches_leaves_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def hop(*arguments: Any) -> Any:
        if CAROL_URI in arguments:
            raise RuntimeError(CAROL_URI)
        return there(*arguments)

    p = Proxy(to(BOB_URI, CAROL_URI))
    there = p.tm.relayer.hops.next_hop
    try:
        monkeypatch.setattr(p.tm.relayer.hops, "next_hop", hop)
    except (AttributeError, TypeError):
        pytest.skip("compiled code cannot be made to fail")
    with pytest.raises(RuntimeError):
        p.receive(invite("INVITE"), ALICE)
    (t,) = p.tm.layer.server_transactions()
    assert isinstance(t, Transaction)
    assert not t.is_waiting
