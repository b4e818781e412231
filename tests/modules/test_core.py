"""core: the functions on KSR itself."""

from __future__ import annotations

import logging
import re
from collections.abc import Generator
from typing import Any

import pytest

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.network import NoConnections
from polykemi.kemi.registry import exports_of
from polykemi.kemi.route import Route
from polykemi.modules.base import Services
from polykemi.modules.core import Core
from polykemi.sip.flow import Flow, LastFlow, Listener, OpenFlow
from polykemi.sip.locate import Destination, Draw, Place, Usable
from polykemi.sip.message import Response, parse
from polykemi.transaction.target import Target
from tests.modules.tm_driver import Names
from tests.support import LISTENER, NoRoutes, message, request_context, services

INVITE = "INVITE sip:bob@example.test:5060;transport=udp SIP/2.0"


def context(start_line: str = INVITE, *headers: str, **fields: str) -> RouteContext:
    return request_context(message(start_line, *headers, **fields))


def core() -> Core:
    return Core(services())


def run(process: Generator[RouteContext, None, Any], drop: bool = False) -> tuple[Any, list[RouteContext]]:
    """Run a process whose route blocks do nothing, or drop; return its value and the blocks."""
    blocks = []
    try:
        while True:
            block = next(process)
            block.dropped = drop
            blocks.append(block)
    except StopIteration as end:
        return end.value, blocks


@pytest.mark.parametrize(
    ("function", "level"),
    [
        ("dbg", "DEBUG"),
        ("info", "INFO"),
        ("notice", "Level 25"),
        ("warn", "WARNING"),
        ("err", "ERROR"),
        ("crit", "CRITICAL"),
    ],
)
def test_log_functions_log_plain_text_at_their_level(
    function: str, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "polykemi.script"):
        getattr(core(), function)(context(), "100 %s done\n")
    [record] = caplog.records
    assert (record.levelname, record.getMessage()) == (level, "100 %s done")


def test_log_takes_the_level_by_name_and_unknown_ones_as_err(caplog: pytest.LogCaptureFixture) -> None:
    for level in ("warn", "whatever"):
        core().log(context(), level, "x")
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]


@pytest.mark.parametrize(
    ("level", "debug"), [(logging.DEBUG, 3), (logging.INFO, 2), (logging.WARNING, 0), (logging.ERROR, -1), (60, -2)]
)
def test_get_debug_counts_levels_as_kamailio(level: int, debug: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(level, "polykemi.script"):
        assert core().get_debug(context()) == debug


def test_set_drop_marks_the_context() -> None:
    ctx = context()
    core().set_drop(ctx)
    assert ctx.dropped


@pytest.mark.parametrize(
    ("uri", "ours"),
    [
        ("sip:alice@example.test", True),
        ("sip:EXAMPLE.TEST:5090", True),  # a domain is ours with any port
        ("sips:example.test", True),
        ("example.test", True),
        ("192.0.2.1", True),
        ("sip:192.0.2.1", True),
        ("sip:192.0.2.1:5060", True),
        ("sip:192.0.2.1:5061", False),
        ("sip:192.0.2.1;transport=tcp", False),
        ("sip:alice@other.test", False),
        ("other.test", False),
    ],
)
def test_is_myself(uri: str, ours: bool) -> None:
    assert core().is_myself(context(), uri) is ours


def test_is_myself_of_the_message() -> None:
    ctx = context(from_="<sip:a@other.test>;tag=1")
    module = core()
    assert module.is_myself_ruri(ctx)
    assert module.is_myself_turi(ctx)
    assert not module.is_myself_furi(ctx)
    assert not module.is_myself_srcip(ctx)
    assert not module.is_myself_suri(ctx)
    assert not module.is_myself_duri(ctx)
    assert module.is_myself_nhuri(ctx)
    ctx.dst_uri = "sip:192.0.2.1:5060"
    ctx.ruri = "sip:bob@other.test"
    assert module.is_myself_duri(ctx)
    assert module.is_myself_nhuri(ctx)
    assert not module.is_myself_ruri(ctx)
    ctx.flow = Flow(LISTENER, "192.0.2.1", 5070)
    assert module.is_myself_srcip(ctx)
    assert not module.is_myself_suri(ctx)


def test_a_tel_uri_is_not_ours() -> None:
    ctx = context()
    ctx.ruri = "tel:+4930123"
    assert not core().is_myself_ruri(ctx)


def test_message_flags_are_shared_and_script_flags_are_not() -> None:
    ctx, module = context(), core()
    assert module.setflag(ctx, 31)
    assert module.setsflag(ctx, 3)
    later = context()
    later.shared = ctx.shared
    assert module.isflagset(later, 31)
    assert not module.issflagset(later, 3)
    assert module.resetflag(later, 31)
    assert not module.isflagset(ctx, 31)
    assert module.issflagset(ctx, 3)
    assert module.resetsflag(ctx, 3)
    assert not module.issflagset(ctx, 3)


def test_branch_flags_belong_to_one_branch() -> None:
    ctx, module = context(), core()
    ctx.branches.append(Target("sip:second@example.test"))
    assert module.setbflag(ctx, 6)
    assert module.setbiflag(ctx, 7, 1)
    assert [module.isbflagset(ctx, 6), module.isbflagset(ctx, 7)] == [True, False]
    assert [module.isbiflagset(ctx, 6, 1), module.isbiflagset(ctx, 7, 1)] == [False, True]
    assert ctx.branches[0].flags == 1 << 7
    assert module.resetbflag(ctx, 6)
    assert module.resetbiflag(ctx, 7, 1)
    assert (ctx.bflags, ctx.branches[0].flags) == (0, 0)


@pytest.mark.parametrize("flag", [-1, 32])
def test_flags_run_from_0_to_31(flag: int) -> None:
    ctx, module = context(), core()
    for name in ("flag", "bflag", "sflag"):
        assert not getattr(module, f"set{name}")(ctx, flag)
        assert not getattr(module, f"is{name}set")(ctx, flag)
        assert not getattr(module, f"reset{name}")(ctx, flag)
    assert module.setbiflag(ctx, 1, 1)  # there is no such branch: nothing happens, as in Kamailio
    assert not module.isbiflagset(ctx, 1, 1)


def test_the_request_uri_changes_in_parts() -> None:
    ctx, module = context(), core()
    assert module.setuser(ctx, "carol")
    assert ctx.ruri == "sip:carol@example.test:5060;transport=udp"
    assert module.sethost(ctx, "other.test")
    assert ctx.ruri == "sip:carol@other.test:5060;transport=udp"
    assert module.setuser(ctx, "")
    assert ctx.ruri == "sip:other.test:5060;transport=udp"
    assert module.seturi(ctx, "sip:dave@example.test")
    assert ctx.ruri == "sip:dave@example.test"


def test_a_request_uri_that_cannot_stand_in_a_request_line_is_refused() -> None:
    ctx, module = context(), core()
    assert not module.seturi(ctx, "sip:a@b SIP/2.0\r\nX: y")
    assert not module.seturi(ctx, "")
    assert not module.sethost(ctx, "")
    ctx.ruri = "tel:123"
    with pytest.raises(ParseError):
        module.setuser(ctx, "x")


def test_the_destination_uri_is_set_and_reset() -> None:
    ctx, module = context(), core()
    assert not module.isdsturiset(ctx)
    assert module.setdsturi(ctx, "sip:192.0.2.7:5070")
    assert module.isdsturiset(ctx)
    assert ctx.dst_uri == "sip:192.0.2.7:5070"
    assert module.resetdsturi(ctx)
    assert not module.isdsturiset(ctx)


def test_methods_have_a_test_each_and_letters() -> None:
    module = core()
    info, invite = context("INFO sip:bob@example.test SIP/2.0"), context()
    assert module.is_INFO(info)
    assert not module.is_INFO(invite)
    assert module.is_method(invite, "INVITE")
    assert module.is_method_in(invite, "IABC")
    assert module.is_method_in(invite, "bi")
    assert not module.is_method_in(invite, "ABC")
    assert not module.is_method_in(info, "IABCMREPSNOFGUKDTV")  # INFO has no letter
    reply = request_context(message("SIP/2.0 200 OK", cseq="1 BYE"), kind=Route.REPLY)
    assert module.is_BYE(reply)
    assert module.is_method_in(reply, "B")


def test_method_tests_are_documented_exports() -> None:
    rows = exports_of(Core)
    row, _ = rows["is_REGISTER"]
    assert (str(row), row.constant, row.by_method) == ("KSR.is_REGISTER() -> bool", True, True)
    assert "REGISTER" in row.doc


def test_transport_and_addresses() -> None:
    module, udp, wss = core(), context(), context()
    wss.flow = Flow(Listener("wss", "2001:db8::1", 443), "2001:db8::9", 4000)
    assert [module.is_UDP(udp), module.is_TCPX(udp), module.is_IPv4(udp), module.is_IPv6(udp)] == [
        True,
        False,
        True,
        False,
    ]
    assert [module.is_WSS(wss), module.is_WSX(wss), module.is_TCPX(wss), module.is_IPv6(wss)] == [True] * 4
    assert module.is_proto(udp, "tU")
    assert not module.is_proto(udp, "TE")
    assert module.is_proto(wss, "w")
    assert module.is_src_port(udp, 5060)
    assert module.is_dst_port(wss, 443)
    assert not module.is_dst_port(wss, 5060)


def test_connection_flags_change_nothing_on_udp() -> None:
    ctx, module = context(), core()
    for name in ("set_forward_close", "set_forward_no_connect", "set_reply_close", "set_reply_no_connect"):
        assert getattr(module, name)(ctx) is True
    assert not ctx.edits


class OneConnection(NoConnections):
    """A connection with the number 26 and what it is called besides."""

    def __init__(self) -> None:
        self.aliases: list[int] = []

    def ident(self, flow: Flow) -> int:
        """Return the number."""
        return 26

    def flow_of(self, ident: int) -> Flow | None:
        """Return the flow of that number."""
        return Flow(TCP, "192.0.2.10", 40000) if ident == 26 else None

    def alias(self, flow: Flow, port: int) -> bool:
        """Take two aliases."""
        self.aliases.append(port)
        return len(self.aliases) < 3


TCP = Listener("tcp", "192.0.2.1", 5060)


def over_tcp(made: Services, via: str = "SIP/2.0/TCP 10.0.0.1:5070;branch=z9hG4bKa") -> RouteContext:
    made.connections = OneConnection()
    return RouteContext(Route.REQUEST, "", parse(message(INVITE, via=via)), Flow(TCP, "192.0.2.10", 40000), 0.0)


def test_what_is_said_of_connections_goes_with_the_flow() -> None:
    made = services(listeners=(LISTENER, TCP))
    ctx, module = over_tcp(made), Core(made)
    assert module.set_reply_no_connect(ctx)
    assert isinstance(ctx.flow, OpenFlow)
    assert ctx.flow == Flow(TCP, "192.0.2.10", 40000)
    for say, kind in ((module.set_forward_no_connect, OpenFlow), (module.set_forward_close, LastFlow)):
        assert say(ctx)
        run(module.forward_uri(ctx, "sip:192.0.2.7;transport=tcp"))
        assert type(made.outbox.items.pop()[1]) is kind


def test_a_connection_gets_other_names() -> None:
    made = services(listeners=(LISTENER, TCP))
    ctx, module = over_tcp(made), Core(made)
    assert [module.add_tcp_alias(ctx, 5062), module.add_tcp_alias_via(ctx), module.add_tcp_alias(ctx, 1)] == [1, 1, 0]
    assert isinstance(made.connections, OneConnection)
    assert made.connections.aliases == [5062, 5070, 1]
    assert module.add_tcp_alias_via(over_tcp(made, "SIP/2.0/TCP 10.0.0.1;branch=z9hG4bKa")) == 1
    assert made.connections.aliases == [5060]


def test_forward_over_another_transport_and_the_reply_finds_back() -> None:
    made = services(listeners=(LISTENER, TCP))
    ctx = over_tcp(made)
    assert run(Core(made).forward_uri(ctx, "sip:192.0.2.7"))[0] == 1
    [(data, flow)] = made.outbox.items
    assert flow == Flow(LISTENER, "192.0.2.7", 5060)
    via = data.decode().split("\r\n")[1]
    assert via.startswith("Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK")
    assert via.endswith(";i=1a")
    response = parse(data.replace(INVITE.encode(), b"SIP/2.0 200 OK"))
    assert isinstance(response, Response)
    assert made.response_target(response, LISTENER) == Flow(TCP, "192.0.2.10", 40000)
    for other in (b";i=1b", b";i=x", b";i=999999999", b""):
        response = parse(response.raw.replace(b";i=1a", other))
        assert isinstance(response, Response)
        assert made.response_target(response, LISTENER) == Flow(TCP, "192.0.2.10", 5070)
        response = parse(response.raw.replace(other or b"#", b";i=1a"))
        assert isinstance(response, Response)


def test_forward_to_a_name_leaves_when_dns_has_answered_by_the_transport_that_it_says() -> None:
    names = Names()
    made = services(listeners=(LISTENER, TCP), locator=names)
    module = Core(made)
    assert run(module.forward_uri(context(), "sip:gw.test"))[0] == 1
    assert not made.outbox.items
    ((destination, answer),) = names.asked
    assert destination == Destination("gw.test")
    answer([Place("tcp", "192.0.2.7", 5070)], 0.0)
    (process,) = made.work
    list(process)
    [(data, flow)] = made.outbox.items
    assert flow == Flow(TCP, "192.0.2.7", 5070)
    assert b"\r\nVia: SIP/2.0/TCP 192.0.2.1;branch=" in data


def test_forward_to_a_name_that_leads_nowhere() -> None:
    names = Names(none_test=[])
    made = services(locator=names)
    assert run(Core(made).forward_uri(context(), "sip:none.test"))[0] == -1
    assert run(Core(made).forward_uri(context(), "sip:gw.test"))[0] == 1
    names.asked[0][1]([], 0.0)
    assert (made.work, made.outbox.items) == ([], [])


def test_a_retransmission_is_forwarded_to_the_same_server_of_many() -> None:
    """The numbers that decide between servers come of the branch: other calls go elsewhere."""

    class Weighted(Names):
        def locate(
            self, destination: Destination, usable: Usable, now: float, draw: Draw | None = None
        ) -> list[Place] | None:
            assert draw is not None
            return [Place("udp", f"192.0.2.{draw(200)}", 5060)]

    made = services(locator=Weighted())
    module = Core(made)
    went = []
    for call in range(20):
        for _ in range(2):
            run(module.forward_uri(context(via=f"SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK{call}"), "sip:gw.test"))
            went.append(made.outbox.items.pop()[1].host)
    assert went[::2] == went[1::2]
    assert len(set(went)) > 10


def test_a_response_names_no_connection_unless_its_request_came_over_it() -> None:
    """Else anybody could send responses over the connections of others, by counting."""
    made = services(listeners=(LISTENER, TCP))
    run(Core(made).forward_uri(over_tcp(made), "sip:192.0.2.7"))
    good = made.outbox.items[0][0].replace(INVITE.encode(), b"SIP/2.0 200 OK")
    ours = re.findall(rb"branch=(z9hG4bK\w+);i=1a", good)[0]
    for forged in (b"z9hG4bK" + b"0" * 24, ours[:-1], b"z9hG4bK", b"\xff"):
        response = parse(good.replace(ours, forged))
        assert isinstance(response, Response)
        assert made.response_target(response, LISTENER) == Flow(TCP, "192.0.2.10", 5070)
    for data in (good.replace(b"10.0.0.1", b"10.0.0.2"), good.replace(b"SIP/2.0/TCP 10.0.0.1", b"SIP/2.0/TCP")):
        response = parse(data)
        assert isinstance(response, Response)
        target = made.response_target(response, LISTENER)
        assert target is None or target.host != "192.0.2.10" or target.port != 40000


def test_forward_needs_a_listener_of_the_transport() -> None:
    made = services()
    assert run(Core(made).forward_uri(context(), "sip:192.0.2.7;transport=tcp")) == (-1, [])
    assert not made.outbox.items


def test_forward_sends_the_request_on_with_our_via_and_its_own_marked() -> None:
    made = services()
    ctx = context(INVITE, via="SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKa;rport")
    ctx.dst_uri = "sip:192.0.2.7:5070"
    assert run(Core(made).forward(ctx)) == (1, [])
    [(data, flow)] = made.outbox.items
    assert (flow.host, flow.port) == ("192.0.2.7", 5070)
    lines = data.decode().split("\r\n")
    assert lines[0] == INVITE
    assert lines[1].startswith("Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK")
    assert "rport=5060" in lines[2]
    assert "received=192.0.2.10" in lines[2]


def test_add_local_rport_asks_the_next_hop_for_rport() -> None:
    made = services()
    module, ctx = Core(made), context()
    assert module.add_local_rport(ctx)
    run(module.forward(ctx))
    assert made.outbox.items[0][0].split(b"\r\n")[1].endswith(b";rport")


def test_a_retransmission_and_its_cancel_are_forwarded_with_the_same_branch() -> None:
    made = services()
    branches = []
    for start_line in (INVITE, INVITE, INVITE.replace("INVITE", "CANCEL")):
        run(Core(made).forward_uri(context(start_line), "sip:192.0.2.7"))
        branches.append(made.outbox.items.pop()[0].split(b"\r\n")[1])
    assert branches[0] == branches[1] == branches[2]
    run(Core(made).forward_uri(context(via="SIP/2.0/UDP 192.0.2.10;branch=z9hG4bKother"), "sip:192.0.2.7"))
    assert made.outbox.items.pop()[0].split(b"\r\n")[1] != branches[0]


def test_requests_without_magic_cookie_are_told_apart_by_their_headers() -> None:
    made = services()
    seen = set()
    for call_id in ("a", "b"):
        run(Core(made).forward(context(via="SIP/2.0/UDP 192.0.2.10;branch=1", call_id=call_id)))
        seen.add(made.outbox.items.pop()[0].split(b"\r\n")[1])
    assert len(seen) == 2


def test_the_onsend_route_sees_what_is_about_to_go_and_may_drop_it() -> None:
    made = services(routes=NoRoutes("ksr_onsend_route"))
    result, [block] = run(Core(made).forward(context()))
    assert (result, block.kind, made.outbox.items[0][0]) == (1, Route.ONSEND, block.wire)
    made.outbox.items.clear()
    result, _ = run(Core(made).forward(context()), drop=True)
    assert (result, made.outbox.items) == (-1, [])


def test_forward_needs_a_sip_destination() -> None:
    ctx = context()
    ctx.ruri = "tel:123"
    assert run(core().forward(ctx)) == (-1, [])
