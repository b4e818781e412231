"""rtpproxy: relays that answer and do not, what they cannot do, ICE candidates, and what an operator sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from polykemi.errors import RpcError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.route import Route
from polykemi.modules.rtpproxy import Rtpproxy, RtpproxyParams
from polykemi.storage.provisioned import Database
from tests.support import NOW, message, request_context, services

SDP = "v=0\r\no=u 1 1 IN IP4 192.0.2.10\r\ns=-\r\nc=IN IP4 192.0.2.10\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
A, B = "udp:192.0.2.31:7722", "udp:192.0.2.32:7722"


class Relays:
    """Relays that answer; ``silent`` ones do not. ``asked`` keeps who was asked what."""

    def __init__(self) -> None:
        self.silent: set[str] = set()
        self.capabilities = {"20050322", "20071116", "20081102"}
        self.answer = "40000 192.0.2.30\n"
        self.asked: list[str] = []

    def ask(self, address: str, data: bytes, seconds: float, accept: Callable[[bytes], bool]) -> bytes | None:
        """Answer as RTPproxy does."""
        cookie, _, question = data.partition(b" ")
        text = question.decode()
        self.asked.append(f"{address[-7:-5]} {text}")
        if address in self.silent:
            return None
        answer = self.answer
        if text == "V":
            answer = "20040107\n"
        elif text.startswith("VF "):
            answer = f"{int(text[3:] in self.capabilities)}\n"
        return cookie + b" " + answer.encode()

    def since(self) -> list[str]:
        """Return what was asked since the last call of this."""
        asked, self.asked = self.asked, []
        return asked


def module(relays: Relays, database: Database | None = None, **params: Any) -> Rtpproxy:
    params.setdefault("rtpproxy_sock", (f"{A} {B}",))
    made = services(Rtpproxy, params={"rtpproxy": params}, peers=relays, database=database)
    relays.since()
    found: Rtpproxy = made.modules["rtpproxy"]
    return found


def invite(call_id: str = "1", *, body: str = SDP, now: float = NOW, kind: Route = Route.REQUEST) -> RouteContext:
    data = message("INVITE sip:bob@example.test SIP/2.0", "Content-Type: application/sdp", body=body, call_id=call_id)
    return request_context(data, now=now, kind=kind)


def body(ctx: RouteContext) -> str:
    assert ctx.edits.body is not None
    return str(ctx.edits.body, "latin-1")


def test_calls_are_spread_and_a_dead_relay_is_passed_over() -> None:
    relays = Relays()
    rtpproxy = module(relays, rtpproxy_retr=2)
    assert [rtpproxy.rtpproxy_offer0(invite(call_id)) for call_id in "01"] == [1, 1]
    assert [one[:3] for one in relays.since()] == ["31 ", "32 "]
    relays.silent = {A}
    assert rtpproxy.rtpproxy_offer0(invite("0")) == 1
    assert [one[:4] for one in relays.since()] == ["31 U", "31 U", "32 U"]
    assert rtpproxy.rtpproxy_offer0(invite("0", now=NOW + 59)) == 1
    assert [one[:4] for one in relays.since()] == ["32 U"]
    relays.silent = set()
    assert rtpproxy.rtpproxy_offer0(invite("0", now=NOW + 60)) == 1
    assert [one[:4] for one in relays.since()] == ["31 V", "31 V", "31 V", "31 V", "31 U"]


def test_a_relay_that_is_too_old_is_not_used() -> None:
    relays = Relays()
    relays.capabilities = set()
    rtpproxy = module(relays)
    assert rtpproxy.rtpproxy_offer0(invite()) == -3
    assert [p["disabled"] for p in rtpproxy.list_proxies()] == [1, 1]


def test_what_a_relay_cannot_do_is_not_asked_of_it() -> None:
    relays = Relays()
    relays.capabilities = {"20050322"}
    rtpproxy = module(relays)
    assert rtpproxy.rtpproxy_offer(invite("0"), "z20") == 1
    assert relays.since() == ["31 U 0 192.0.2.10 4000 from;1"]
    assert rtpproxy.rtpproxy_stream2uac(invite("0"), "/tmp/x", 1) == -1


@pytest.mark.parametrize("answer", ["", "E8\n", "0\n", "70000\n", "x y\n"])
def test_answers_that_make_no_sense_fail(answer: str) -> None:
    relays = Relays()
    rtpproxy = module(relays)
    relays.answer = answer
    ctx = invite()
    assert rtpproxy.rtpproxy_offer0(ctx) == -1
    assert ctx.edits.body is None


def test_a_relay_may_answer_in_another_family() -> None:
    relays = Relays()
    rtpproxy = module(relays, nortpproxy_str="")
    relays.answer = "40000 2001:db8::9 6\n"
    ctx = invite()
    assert rtpproxy.rtpproxy_offer0(ctx) == 1
    assert body(ctx) == SDP.replace("IP4 192.0.2.10", "IP6 2001:db8::9").replace("4000 ", "40000 ")


def test_candidates_of_ice() -> None:
    relays = Relays()
    rtpproxy = module(relays, ice_candidate_priority_avp="$avp(ice)", nortpproxy_str="")
    own = "a=candidate:1 1 UDP 2130706431 192.0.2.10 4000 typ host\r\n"
    ctx = invite(body=SDP + own)
    assert rtpproxy.rtpproxy_offer0(ctx) == 1
    assert body(ctx).endswith(
        "a=candidate:1920230 2 UDP 16777214 192.0.2.30 40001 typ relay\r\n"
        f"a=candidate:1920230 1 UDP 16777215 192.0.2.30 40000 typ relay\r\n{own}"
    )
    ctx.shared.avps["ice"] = [7]
    assert rtpproxy.rtpproxy_offer0(ctx) == -1
    relays.since()
    assert rtpproxy.rtpproxy_offer0(invite(body=SDP + "a=remote-candidates:1 192.0.2.9 5000\r\n")) == 1
    assert relays.since() == []


def test_failure_routes_destroy_and_branch_failure_routes_leave_it_to_them() -> None:
    relays = Relays()
    rtpproxy = module(relays)
    assert rtpproxy.rtpproxy_manage0(invite("0", kind=Route.FAILURE)) == 1
    assert rtpproxy.rtpproxy_manage0(invite("0", kind=Route.BRANCH_FAILURE)) == 1
    assert relays.since() == ["31 D 0 from"]


def test_relays_of_the_database_and_what_an_operator_says() -> None:
    database = Database()
    database.query(f"INSERT INTO rtpproxy (setid, url, flags) VALUES ('0', '{A}', 0), ('0', '{B}', 1)")
    rtpproxy = module(Relays(), database, rtpproxy_sock=(), db_url="polykemi")
    assert [(p["url"], p["disabled"]) for p in rtpproxy.list_proxies()] == [(A, 0), (B, 1)]
    rtpproxy.enable(B, 1)
    rtpproxy.enable(A, 0)
    assert [(p["url"], p["disabled"]) for p in rtpproxy.list_proxies()] == [(A, 1), (B, 0)]
    with pytest.raises(RpcError, match="not found"):
        rtpproxy.enable("udp:x:1", 1)


@pytest.mark.parametrize("params", [{"rtpproxy_sock": ("x",)}, {"rtp_inst_pvar": "x"}])
def test_a_bad_parameter_is_told(params: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        RtpproxyParams(**params)
