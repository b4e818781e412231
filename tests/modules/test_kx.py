"""KSR.kx says what KSR.pv says, without names of variables."""

from __future__ import annotations

import pytest

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import exports_of
from polykemi.kemi.route import Route
from polykemi.modules.kx import Kx
from polykemi.sip.flow import Flow
from polykemi.sip.message import parse
from tests.support import LISTENER, NOW, message, request_context, services

FULL = message(
    "INVITE sip:bob@rhost.test SIP/2.0",
    "User-Agent: phone",
    "Contact: <sip:al@192.0.2.10>;q=1",
    'Proxy-Authorization: Digest username="al", realm="r", nonce="n", uri="u", response="0123456789abcdef0123456789abcdef"',
    from_="<sip:al@fhost.test>;tag=f",
    to="<sip:bo@thost.test>",
    body="hello",
)
EMPTY = message("INVITE sip:192.0.2.1 SIP/2.0", from_="<x>", to="<x>").replace(b"Call-Id", b"X-Call-Id")


@pytest.fixture
def kx() -> Kx:
    module = services(Kx).modules["kx"]
    assert isinstance(module, Kx)
    return module


def test_getters_of_a_request(kx: Kx) -> None:
    ctx = request_context(FULL)
    ctx.dst_uri, ctx.force_listener = "sip:next.test", LISTENER
    expected = {
        "get_ruri": "sip:bob@rhost.test",
        "get_ruser": "bob",
        "get_rhost": "rhost.test",
        "get_ouri": "sip:bob@rhost.test",
        "get_furi": "sip:al@fhost.test",
        "get_fuser": "al",
        "get_fhost": "fhost.test",
        "get_turi": "sip:bo@thost.test",
        "get_tuser": "bo",
        "get_thost": "thost.test",
        "get_duri": "sip:next.test",
        "get_cturi": "sip:al@192.0.2.10",
        "get_nhuri": "sip:next.test",
        "get_srcuri": "sip:192.0.2.10:5060",
        "get_srcaddr_sock": "udp:192.0.2.10:5060",
        "get_ua": "phone",
        "get_srcip": "192.0.2.10",
        "get_srcport": 5060,
        "get_send_sock": "udp:192.0.2.1:5060",
        "get_send_sock_name": None,
        "get_send_sock_port": 5060,
        "get_rcvip": "192.0.2.1",
        "get_rcv_sock_name": None,
        "get_rcvport": 5060,
        "get_rcvadvip": "192.0.2.1",
        "get_rcvadvport": 5060,
        "get_rcvaddr_sock": "udp:192.0.2.1:5060",
        "get_proto": "udp",
        "get_protoid": 1,
        "get_au": "al",
        "get_method": "INVITE",
        "get_status": -1,
        "gets_status": None,
        "get_body": "hello",
        "get_bodylen": 5,
        "get_timestamp": int(NOW),
        "get_callid": "call-1@192.0.2.10",
        "get_conid": -1,
        "get_msgbuf": FULL.decode(),
        "get_msglen": len(FULL),
        "get_msgtype": 1,
    }
    assert {name: getattr(kx, name)(ctx) for name in expected} == expected
    for name, value in expected.items():
        for other in ("getw_", "gete_"):
            if name.startswith("get_") and hasattr(kx, other + name[4:]):
                assert getattr(kx, other + name[4:])(ctx) == value


def test_null_is_shown_as_each_getter_says(kx: Kx) -> None:
    ctx = request_context(EMPTY)
    nothing = ["ruser", "fuser", "fhost", "tuser", "thost", "duri", "cturi", "ua", "au"]
    assert [getattr(kx, f"get_{name}")(ctx) for name in [*nothing, "callid", "send_sock"]] == [None] * 11
    assert [getattr(kx, f"getw_{name}")(ctx) for name in nothing] == ["<null>"] * 9
    assert [getattr(kx, f"gete_{name}")(ctx) for name in nothing] == [""] * 9
    assert kx.get_send_sock_port(ctx) == 0
    broken = request_context(EMPTY.replace(b"Content-Length: 0", b"Content-Length: x"))
    assert (kx.get_body(broken), kx.getw_body(broken), kx.gete_body(broken), kx.get_bodylen(broken)) == (
        None,
        "<null>",
        "",
        0,
    )


def test_status_and_type_of_a_reply(kx: Kx) -> None:
    reply = parse(message("SIP/2.0 486 Busy Here", cseq="1 INVITE"))
    ctx = RouteContext(Route.REPLY, "r", reply, Flow(LISTENER, "192.0.2.5", 5060), NOW)
    assert (kx.get_status(ctx), kx.gets_status(ctx), kx.get_msgtype(ctx), kx.get_method(ctx)) == (
        486,
        "486",
        2,
        "INVITE",
    )


def test_definitions_and_environment(kx: Kx) -> None:
    ctx = request_context(FULL)
    environment = kx.services.variables.environment
    environment.definitions, environment.process = {"A": "12"}, {"HOME": "/h", "N": "3"}
    assert (kx.get_def(ctx, "A"), kx.get_defn(ctx, "A"), kx.ifdef(ctx, "A"), kx.ifndef(ctx, "A")) == (
        "12",
        12,
        True,
        False,
    )
    assert (kx.get_def(ctx, "B"), kx.get_defn(ctx, "B"), kx.ifdef(ctx, "B"), kx.ifndef(ctx, "B")) == (
        "",
        0,
        False,
        True,
    )
    assert (kx.get_env(ctx, "HOME"), kx.get_env(ctx, "B"), kx.get_envn(ctx, "N"), kx.get_envn(ctx, "B")) == (
        "/h",
        None,
        3,
        0,
    )


def test_what_a_script_can_change_is_not_constant() -> None:
    constant = {name for name, (row, _) in exports_of(Kx).items() if row.constant}
    assert not constant & {"get_ruri", "get_ruser", "gete_rhost", "get_duri", "get_nhuri", "get_send_sock"}
    assert {"get_method", "get_srcip", "get_furi", "gete_ua"} <= constant
