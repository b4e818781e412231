"""outbound, with path and rr: a flow is named by a token, found again by it, and nothing else is taken for it (RFC 5626)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from polykemi.errors import DataError
from polykemi.kemi.context import RouteContext
from polykemi.modules.base import Services
from polykemi.modules.outbound import Outbound, OutboundParams
from polykemi.modules.path import PathModule
from polykemi.modules.rr import Rr
from polykemi.modules.sl import Sl
from polykemi.modules.tm import Tm
from polykemi.sip.flow import Flow, Listener, TokenFlow
from polykemi.storage.provisioned import Database
from polykemi.testing import ServerUnderTest
from tests.support import LISTENER, message, request_context, services

TCP = Listener("tcp", "192.0.2.1", 5060)
PHONE = Flow(LISTENER, "198.51.100.7", 1024)
REGISTER = ['Contact: <sip:alice@10.0.0.1>;+sip.instance="<urn:uuid:1>";reg-id=1', "Supported: path, outbound"]


def edge(params: dict[str, Any] | None = None, rr: dict[str, Any] | None = None, **more: Any) -> Services:
    given = {"outbound": params or {"flow_token_secret": "secret"}, "rr": rr or {"append_fromtag": 0}}
    return services(Sl, Tm, Rr, Outbound, PathModule, params=given, listeners=(LISTENER, TCP), **more)


def request(start: str, *lines: str, flow: Flow = PHONE, **more: Any) -> RouteContext:
    ctx = request_context(message(f"{start} SIP/2.0", *lines, **more))
    ctx.flow = flow
    return ctx


def added(ctx: RouteContext) -> list[str]:
    return [text for _, text in ctx.edits.inserts]


def path_of(made: Services, *lines: str, flow: Flow = PHONE, **more: Any) -> str:
    """Return the Path that a REGISTER leaves with."""
    ctx = request("REGISTER sip:example.test", *lines, flow=flow, **more)
    assert made.modules["path"].add_path(ctx) == 1
    return added(ctx)[0].removeprefix("Path: ")


def routed(
    made: Services, *routes: str, flow: Flow | None = None, to: str = "<sip:alice@example.test>"
) -> tuple[int, Any]:
    """Return what loose_route gives for a request with these Routes, and where it is sent then: None when by its URI."""
    source = flow or Flow(LISTENER, "192.0.2.20", 5060)
    ctx = request("INVITE sip:alice@10.0.0.1", f"Route: {', '.join(routes)}", flow=source, to=to)
    result = made.modules["rr"].loose_route(ctx)
    if not ctx.dst_uri:
        return result, None
    hop = made.modules["tm"].relayer.hops.hop(ctx.dst_uri, ctx.force_listener or source.listener, ctx.now)
    return result, ctx.cache["onward"](*hop) if "onward" in ctx.cache else hop


def test_the_path_of_a_register_leads_back_over_its_flow() -> None:
    made = edge()
    path = path_of(made, *REGISTER)
    assert re.fullmatch(r"<sip:ob\.[\w-]+@192\.0\.2\.1;lr;ob>", path)
    result, flow = routed(made, path)
    assert (result, flow, type(flow)) == (-3, PHONE, TokenFlow)
    result, flow = routed(made, path, "<sip:192.0.2.30;lr>")  # whatever stands behind it
    assert (result, flow) == (1, PHONE)


def test_what_comes_from_the_phone_itself_goes_its_own_way() -> None:
    made = edge()
    path = path_of(made, *REGISTER)
    assert routed(made, path, flow=PHONE) == (-3, None)
    result, flow = routed(made, path, "<sip:192.0.2.30;lr>", flow=PHONE)
    assert (result, flow[1:]) == (1, ("192.0.2.30", 5060))


@pytest.mark.parametrize(
    ("lines", "via"),
    [
        (["Contact: <sip:alice@10.0.0.1>", "Supported: outbound"], ""),
        ([], ""),
        (REGISTER, "SIP/2.0/UDP 192.0.2.30;branch=z9hG4bK1, SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK2"),
    ],
)
def test_registers_that_use_no_flow_get_a_plain_path(lines: list[str], via: str) -> None:
    more: dict[str, Any] = {"via": via} if via else {}
    assert path_of(edge(), *lines, **more) == "<sip:192.0.2.1;lr>"


def test_flags_force_and_forbid() -> None:
    made = edge({"force_outbound_flag": 1, "force_no_outbound_flag": 2})
    for flags, lines, used in ((2, [], 1), (4, REGISTER, 0), (6, REGISTER, 1), (0, REGISTER, 1)):
        ctx = request("REGISTER sip:example.test", *lines)
        ctx.shared.flags = flags
        assert made.modules["outbound"].use_outbound(ctx) == used
    with pytest.raises(ValueError, match="force_outbound_flag: expected"):
        OutboundParams(force_outbound_flag=32)


def test_record_route_of_both_directions_names_the_phones_flow() -> None:
    made = edge()
    ctx = request("INVITE sip:bob@192.0.2.20", "Contact: <sip:alice@10.0.0.1;ob>", "Supported: outbound")
    assert made.modules["rr"].record_route(ctx) == 1
    (route,) = added(ctx)
    assert re.fullmatch(r"Record-Route: <sip:ob\.[\w-]+@192\.0\.2\.1;lr>", route)
    own = route.removeprefix("Record-Route: ")
    assert routed(made, own, to="<sip:alice@example.test>;tag=1") == (1, PHONE)
    # a request towards the phone keeps the token that it came with
    path = path_of(made, *REGISTER)
    ctx = request("INVITE sip:alice@10.0.0.1", f"Route: {path}", flow=Flow(LISTENER, "192.0.2.20", 5060))
    assert made.modules["rr"].loose_route(ctx) == -3
    assert made.modules["rr"].record_route(ctx) == 1
    assert added(ctx)[-1].partition("@")[0] == "Record-Route: " + path.partition("@")[0]
    ctx = request("INVITE sip:bob@192.0.2.20", "Contact: <sip:alice@10.0.0.1>", "Supported: outbound")
    made.modules["rr"].record_route(ctx)
    assert added(ctx) == ["Record-Route: <sip:192.0.2.1;lr>"]


def test_a_forged_token_is_refused() -> None:
    made = edge()
    token = path_of(made, *REGISTER).partition("@")[0].removeprefix("<sip:")
    foreign = path_of(edge({"flow_token_secret": "another"}), *REGISTER).partition("@")[0].removeprefix("<sip:")
    for bad in (foreign, token[:-1], token[:3] + "AAAA" + token[7:], "ob.", "ob.AAAA", "ob.****"):
        assert routed(made, f"<sip:{bad}@192.0.2.1;lr;ob>") == (-2, None)
    assert routed(made, "<sip:edge@192.0.2.1;lr;ob>") == (-3, None)  # no token at all


def test_without_a_secret_the_servers_own_holds_beyond_a_restart() -> None:
    kept = Database()
    kept.secret("outbound.flow_token", bytes(32))  # as the first of all starts has made it
    path = path_of(edge({"force_outbound_flag": 1}, database=kept), *REGISTER)
    assert routed(edge({"force_outbound_flag": 1}, database=kept), path) == (-3, PHONE)
    assert routed(edge({"force_outbound_flag": 1}), path) == (-2, None)


class OneConnection:
    """A server with one connection, or none."""

    def __init__(self) -> None:
        self.ident_of: dict[Flow, int] = {}

    def ident(self, flow: Flow) -> int:
        """Return its number."""
        return self.ident_of.get(flow, -1)

    def flow_of(self, ident: int) -> Flow | None:
        """Return its flow."""
        return next((flow for flow, one in self.ident_of.items() if one == ident), None)


def test_a_token_names_one_connection_and_not_the_next_from_the_same_port() -> None:
    made, connections = edge(), OneConnection()
    made.connections = connections  # type: ignore[assignment]
    phone = Flow(TCP, "198.51.100.7", 1024)
    connections.ident_of = {phone: 7}
    path = path_of(made, *REGISTER, flow=phone)
    assert routed(made, path) == (-3, phone)
    for later in ({}, {phone: 8}):
        connections.ident_of = later
        result, flow = routed(made, path)
        assert (result, flow, type(flow)) == (-3, (TCP, "198.51.100.7", 0), TokenFlow)


@pytest.mark.parametrize(
    ("listener", "host"),
    [(Listener("wss", "192.0.2.1", 443), "198.51.100.7"), (Listener("udp", "2001:db8::1", 5060), "2001:db8::7")],
)
def test_flows_over_secure_websocket_and_ipv6(listener: Listener, host: str) -> None:
    given: dict[str, dict[str, Any]] = {"outbound": {"flow_token_secret": "secret"}, "rr": {"append_fromtag": 0}}
    made = services(Sl, Tm, Rr, Outbound, PathModule, params=given, listeners=(LISTENER, listener))
    phone, connections = Flow(listener, host, 1024), OneConnection()
    connections.ident_of = {phone: 7}
    made.connections = connections  # type: ignore[assignment]
    path = path_of(made, *REGISTER, flow=phone)
    assert path.endswith(f"@{listener.route};lr;ob>")
    assert routed(made, path) == (-3, phone)


def test_a_destination_that_the_script_sets_afterwards_is_no_flow() -> None:
    made = edge()
    ctx = request("INVITE sip:a@b", f"Route: {path_of(made, *REGISTER)}", flow=Flow(LISTENER, "192.0.2.20", 5060))
    made.modules["rr"].loose_route(ctx)
    assert type(ctx.cache["onward"](LISTENER, "192.0.2.40", 5060)) is Flow


def test_outbound_does_not_go_with_add_username() -> None:
    with pytest.raises(DataError, match="add_username"):
        edge(rr={"add_username": 1})


SCRIPT = """
function ksr_request_route()
    if KSR.rr.loose_route() == -2 then KSR.sl.send_reply(403, "Forbidden") return end
    KSR.tm.t_relay()
end
"""


def test_what_cannot_be_sent_over_the_flow_is_answered_430(tmp_path: Path) -> None:
    script = tmp_path / "edge.lua"
    script.write_text(SCRIPT)
    caller = "192.0.2.20:5060"
    with ServerUnderTest({"lua": script}, modules={"outbound": {}}) as server:
        outbound = server.node.modules["outbound"]
        assert isinstance(outbound, Outbound)
        route = f"Route: <sip:{outbound.token(PHONE)}@192.0.2.1;lr;ob>"
        invite = message("INVITE sip:alice@10.0.0.1 SIP/2.0", route, via="SIP/2.0/UDP 192.0.2.20;branch=z9hG4bKcaller")
        _, sent = server.receive(invite, caller)
        assert (sent.flow, sent.start_line) == (PHONE, "INVITE sip:alice@10.0.0.1 SIP/2.0")
        assert b"Route" not in sent.data
        tm: Any = server.node.modules["tm"]
        server.node.router.put(tm.transport_error(sent.flow, sent.data, server.now))
        (answer,) = server._turn()
        assert (answer.to, answer.start_line) == (caller, "SIP/2.0 430 Flow Failed")
        forged = (
            invite.replace(b"ob.", b"ob.x").replace(b"call-1@", b"call-2@").replace(b"z9hG4bKcaller", b"z9hG4bKother")
        )
        assert [one.start_line for one in server.receive(forged, caller)] == ["SIP/2.0 403 Forbidden"]


REGISTRAR = """
function ksr_request_route()
    if KSR.is_method("REGISTER") then KSR.registrar.save("location", 0) return end
    KSR.registrar.lookup("location")
    KSR.tm.t_load_contacts()
    KSR.tm.t_next_contacts()
    KSR.tm.t_on_branch_failure("ksr_branch_failure_flow")
    KSR.tm.t_relay()
end
function ksr_branch_failure_flow()
    if KSR.tm.t_check_status("430") > 0 then
        KSR.registrar.unregister_ruid("location", KSR.pv.get("$ou"), KSR.pv.get("$T_reply_ruid"))
        if KSR.tm.t_next_contact_flow() > 0 then
            KSR.tm.t_on_branch_failure("ksr_branch_failure_flow")
            KSR.tm.t_relay()
        end
    end
end
"""


def test_one_flow_of_a_phone_is_called_and_the_next_when_it_has_failed(tmp_path: Path) -> None:
    script = tmp_path / "registrar.lua"
    script.write_text(REGISTRAR)
    params: dict[str, dict[str, Any]] = {
        "registrar": {"use_path": 1, "path_mode": 1, "outbound_mode": 1},
        "tm": {"contact_flows_avp": "flows"},
    }
    with ServerUnderTest({"lua": script}, modules=params) as server:
        for number in (1, 2):
            lines = [REGISTER[0][:-1] + str(number), REGISTER[1], f"Path: <sip:t{number}@192.0.2.3{number};lr;ob>"]
            via = f"SIP/2.0/UDP 192.0.2.3{number};branch=z9hG4bK{number}, SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKp"
            register = message("REGISTER sip:e.test SIP/2.0", *lines, via=via, cseq=f"{number} REGISTER")
            (answer,) = server.receive(register, f"192.0.2.3{number}:5060")
            assert b"Require: outbound" in answer.data
        invite = message("INVITE sip:alice@example.test SIP/2.0", call_id="call")
        trying, first = server.receive(invite, "192.0.2.10:5060")
        assert (trying.start_line, first.to) == ("SIP/2.0 100 Trying", "192.0.2.31:5060")
        assert b"Route: <sip:t1@192.0.2.31;lr;ob>" in first.data
        failed = reply_to(first.data, "430 Flow Failed")
        _, second = server.receive(failed, first.to)
        assert second.to == "192.0.2.32:5060"
        left = server.node.services.location.get("location", "alice")
        assert [(b.reg_id, b.path) for b in left] == [(2, "<sip:t2@192.0.2.32;lr;ob>")]
        assert [one.start_line for one in server.receive(reply_to(second.data, "200 OK"), second.to)] == [
            "SIP/2.0 200 OK"
        ]


def reply_to(data: bytes, status: str) -> bytes:
    """Return a reply to a request."""
    lines = data.decode().partition("\r\n\r\n")[0].split("\r\n")
    kept = [line for line in lines if line.partition(":")[0] in ("Via", "From", "To", "Call-Id", "Cseq")]
    kept = [f"{line};tag=callee" if line.startswith("To:") else line for line in kept]
    return "\r\n".join([f"SIP/2.0 {status}", *kept, "Content-Length: 0", "", ""]).encode()


def test_outbound_is_loaded_only_where_the_configuration_names_it(tmp_path: Path) -> None:
    script = tmp_path / "edge.lua"
    script.write_text(SCRIPT)
    for modules, load, loaded in (({}, None, False), ({"outbound": {}}, None, True), ({}, ["outbound", "sl"], True)):
        with ServerUnderTest({"lua": script}, modules=modules, load=load) as server:
            assert ("outbound" in server.node.modules) is loaded
