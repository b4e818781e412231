"""rr: Record-Route that is added, Route that is followed. Results as Kamailio 5.6 gives them, unless the name says otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.modules.rr import Params, Rr
from polykemi.sip.flow import Listener
from tests.support import LISTENER, message, request_context, services

BOB = "sip:bob@192.0.2.20:5070"
OURS = "<sip:192.0.2.1;lr;ftag=from>"
NEXT = "<sip:192.0.2.30;lr>"
STRICT = "<sip:192.0.2.31>"
OTHER_LISTENER = Listener("udp", "198.51.100.1", 5060)


def context(uri: str = BOB, *routes: str, tag: bool = True, headers: tuple[str, ...] = ()) -> RouteContext:
    to = "<sip:bob@example.test>;tag=to" if tag else "<sip:bob@example.test>"
    lines = [*headers, *(f"Route: {route}" for route in routes)]
    return request_context(message(f"INVITE {uri} SIP/2.0", *lines, to=to))


def rr(**params: Any) -> Rr:
    return Rr(services(listeners=(LISTENER, OTHER_LISTENER)), Params(**params))


def lines(ctx: RouteContext, name: str) -> list[str]:
    out = "\r\n".join(ctx.edits.apply(ctx.message.lines)).split("\r\n")
    return [line.partition(": ")[2] for line in out if line.startswith(name + ":")]


def test_record_route_carries_lr_and_the_callers_tag_before_all_others() -> None:
    ctx = context(headers=("Record-Route: <sip:192.0.2.9;lr>",), tag=False)
    assert rr().record_route(ctx) == 1
    assert lines(ctx, "Record-Route") == ["<sip:192.0.2.1;lr;ftag=from>", "<sip:192.0.2.9;lr>"]


def test_record_route_is_added_once() -> None:
    ctx, module = context(tag=False), rr()
    assert [module.record_route(ctx), module.record_route(ctx)] == [1, -1]
    assert len(lines(ctx, "Record-Route")) == 1


def test_parameters_come_before_or_after_record_route() -> None:
    ctx, module = context(tag=False), rr()
    assert module.add_rr_param(ctx, ";before=1") == 1
    assert module.record_route_params(ctx, ";x=y") == 1
    assert module.add_rr_param(ctx, ";after=1") == 1
    assert lines(ctx, "Record-Route") == ["<sip:192.0.2.1;lr;ftag=from;x=y;before=1;after=1>"]


def test_a_parameter_added_in_a_branch_route_stays_in_that_branch() -> None:
    ctx, branch, module = context(tag=False), context(tag=False), rr()
    module.record_route(ctx)
    branch.edits, branch.shared = ctx.edits.copy(), ctx.shared
    assert module.add_rr_param(branch, ";nat=yes") == 1
    assert lines(branch, "Record-Route") == ["<sip:192.0.2.1;lr;ftag=from;nat=yes>"]
    assert lines(ctx, "Record-Route") == ["<sip:192.0.2.1;lr;ftag=from>"]


def test_what_would_break_out_of_the_uri_is_refused() -> None:
    ctx, module = context(), rr()
    assert module.add_rr_param(ctx, ">\r\nX: y") == -1
    assert module.record_route_preset_one(ctx, "a>,<sip:b") == -1


def test_full_lr_and_no_ftag_by_parameter() -> None:
    ctx = context(tag=False)
    rr(enable_full_lr=1, append_fromtag=0).record_route(ctx)
    assert lines(ctx, "Record-Route") == ["<sip:192.0.2.1;lr=on>"]


def test_two_record_routes_when_the_request_leaves_by_another_listener() -> None:
    ctx = context(tag=False)
    ctx.force_listener = OTHER_LISTENER
    rr().record_route(ctx)
    assert lines(ctx, "Record-Route") == [
        "<sip:198.51.100.1;r2=on;lr;ftag=from>",
        "<sip:192.0.2.1;r2=on;lr;ftag=from>",
    ]
    single = context(tag=False)
    single.force_listener = OTHER_LISTENER
    rr(enable_double_rr=0).record_route(single)
    assert lines(single, "Record-Route") == ["<sip:192.0.2.1;lr;ftag=from>"]


def test_preset_addresses_and_sips() -> None:
    module = rr()
    two, one, advertised, sips = (
        context(tag=False),
        context(tag=False),
        context(tag=False),
        context("sips:bob@example.test"),
    )
    assert module.record_route_preset(two, "203.0.113.1:5090;r2=on", "203.0.113.2") == 1
    assert module.record_route_preset_one(one, "203.0.113.1:5090") == 1
    assert module.record_route_advertised_address(advertised, "203.0.113.9:5080") == 1
    assert module.record_route(sips) == 1
    assert lines(two, "Record-Route") == ["<sip:203.0.113.1:5090;r2=on;ftag=from;lr>", "<sip:203.0.113.2;ftag=from;lr>"]
    assert lines(one, "Record-Route") == ["<sip:203.0.113.1:5090;ftag=from;lr>"]
    assert lines(advertised, "Record-Route") == ["<sip:203.0.113.9:5080;ftag=from;lr>"]
    assert lines(sips, "Record-Route") == ["<sips:192.0.2.1;lr;ftag=from>"]
    ignoring = context("sips:bob@example.test")
    rr(ignore_sips=1).record_route(ignoring)
    assert lines(ignoring, "Record-Route") == ["<sip:192.0.2.1;lr;ftag=from>"]


def test_remove_record_route_takes_back_ours_only() -> None:
    ctx, module = context(headers=("Record-Route: <sip:192.0.2.9;lr>",)), rr()
    module.record_route(ctx)
    assert [module.remove_record_route(ctx), module.remove_record_route(ctx)] == [1, 1]
    assert lines(ctx, "Record-Route") == ["<sip:192.0.2.9;lr>"]


@pytest.mark.parametrize(
    ("uri", "routes", "tag", "result", "ruri", "dst_uri", "left"),
    [
        (BOB, (), True, -1, BOB, "", []),
        (BOB, (OURS,), True, 1, BOB, "", []),
        (BOB, (OURS,), False, -3, BOB, "", []),  # nothing but us, outside of a dialog
        (BOB, (OURS, NEXT), True, 1, BOB, "sip:192.0.2.30;lr", [NEXT]),
        (BOB, (f"{OURS}, {NEXT}",), True, 1, BOB, "sip:192.0.2.30;lr", [NEXT]),
        (BOB, (OURS, NEXT), False, 1, BOB, "sip:192.0.2.30;lr", [NEXT]),
        (BOB, (NEXT,), True, 1, BOB, "sip:192.0.2.30;lr", [NEXT]),
        # the next hop is a strict router: it goes into the Request-URI, which goes to the end of the route
        (BOB, (OURS, STRICT), True, 1, "sip:192.0.2.31", "", [f"<{BOB}>"]),
        (BOB, (OURS, STRICT, NEXT), True, 1, "sip:192.0.2.31", "", [NEXT, f"<{BOB}>"]),
        # the hop before was one: our URI is the Request-URI, the target is the last Route
        ("sip:192.0.2.1;lr", (NEXT, f"<{BOB}>"), True, 1, BOB, "sip:192.0.2.30;lr", [NEXT]),
        ("sip:192.0.2.1", (STRICT, NEXT), True, 1, "sip:192.0.2.31", "", ["<sip:192.0.2.30;lr>"]),
        ("sip:192.0.2.1;lr", (OURS, f"<{BOB}>"), True, 1, BOB, "", []),
    ],
)
def test_loose_route(
    uri: str, routes: tuple[str, ...], tag: bool, result: int, ruri: str, dst_uri: str, left: list[str]
) -> None:
    ctx, module = context(uri, *routes, tag=tag), rr()
    assert module.loose_route(ctx) == result
    assert (ctx.ruri, ctx.dst_uri, lines(ctx, "Route")) == (ruri, dst_uri, left)


def test_both_of_our_double_routes_go_and_the_other_listener_sends() -> None:
    first, second = "<sip:192.0.2.1;lr;r2=on;ftag=from>", "<sip:198.51.100.1;lr;r2=on;ftag=from>"
    ctx = context(BOB, first, second, NEXT)
    assert rr().loose_route(ctx) == 1
    assert (ctx.dst_uri, lines(ctx, "Route")) == ("sip:192.0.2.30;lr", [NEXT])
    assert ctx.force_listener == OTHER_LISTENER


def test_another_server_on_our_address_is_not_us() -> None:
    ctx = context(BOB, "<sip:192.0.2.1:5090;lr>")
    assert rr().loose_route(ctx) == 1
    assert ctx.dst_uri == "sip:192.0.2.1:5090;lr"


@pytest.mark.parametrize("uri", ["sip:192.0.2.1;transport=tcp;lr", "sip:192.0.2.1;lr;Transport=TCP"])
def test_our_address_with_a_transport_that_we_have_not_is_not_us(uri: str) -> None:
    ctx = context(BOB, f"<{uri}>")
    assert rr().loose_route(ctx) == 1
    assert (ctx.dst_uri, lines(ctx, "Route")) == (uri, [f"<{uri}>"])


@pytest.mark.parametrize(
    "route", ["<sip:192.0.2.1:5060;lr;ftag=a>", '"us" <sip:192.0.2.1;lr>', "<sip:x@192.0.2.1;lr?a=b>"]
)
def test_our_route_is_known_however_it_is_written(route: str) -> None:
    ctx = context(BOB, route)
    assert rr().loose_route(ctx) == 1
    assert (ctx.dst_uri, lines(ctx, "Route")) == ("", [])


def test_mode_1_takes_our_own_request_uri_for_the_target() -> None:
    ctx = context("sip:service@example.test", OURS)
    assert rr().loose_route_mode(ctx, 1) == 1
    assert (ctx.ruri, ctx.dst_uri) == ("sip:service@example.test", "")


def test_only_requests_outside_of_a_dialog_are_preloaded() -> None:
    module = rr()
    assert module.loose_route_preloaded(context(BOB, OURS, tag=False)) == 1
    assert module.loose_route_preloaded(context(BOB, OURS, tag=False)) == 1
    assert module.loose_route_preloaded(context(BOB, OURS, NEXT)) == -1
    assert module.loose_route_preloaded(context(BOB, tag=False)) == -1


@pytest.mark.parametrize(
    "route", ["<sip:garbage", "<>", "<sip:>", "<sip:192.0.2.1;lr;r2=on>, <sip:192.0.2.1;lr>, <sip:>"]
)
def test_a_malformed_route_is_an_error_that_leaves_the_message_alone(route: str) -> None:
    ctx = context(BOB, route)
    with pytest.raises(ParseError):
        rr().loose_route(ctx)
    assert (ctx.ruri, ctx.dst_uri, bool(ctx.edits)) == (BOB, "", False)


def test_parameters_of_our_route_tell_nat_and_direction() -> None:
    module = rr()
    downstream = context(BOB, "<sip:192.0.2.1;lr;ftag=from;nat=yes>")
    assert module.check_route_param(downstream, "nat=yes") == -1  # before loose_route
    module.loose_route(downstream)
    assert module.check_route_param(downstream, "nat=yes") == 1
    assert module.check_route_param(downstream, "NAT=[[:alpha:]]+") == 1
    assert module.check_route_param(downstream, "nat=no") == -1
    assert module.check_route_param(downstream, "nat=(") == -1
    assert [module.is_direction(downstream, d) for d in ("downstream", "upstream", "sideways")] == [1, -1, -6]
    branch = context(BOB, "<sip:192.0.2.1;lr;ftag=from;nat=yes>")
    branch.shared = downstream.shared  # a branch route of the same transaction
    assert module.check_route_param(branch, "nat=yes") == 1
    upstream = context(BOB, "<sip:192.0.2.1;lr;ftag=to>")
    module.loose_route(upstream)
    assert [module.is_direction(upstream, d) for d in ("downstream", "upstream")] == [-1, 1]


def test_a_request_from_the_callee_is_recorded_with_the_callers_tag() -> None:
    module, ctx = rr(), context(BOB, "<sip:192.0.2.1;lr;ftag=to>")
    module.loose_route(ctx)
    module.record_route(ctx)
    assert lines(ctx, "Record-Route") == ["<sip:192.0.2.1;lr;ftag=to>"]


def test_next_hop_route_tells_whether_a_route_names_the_next_hop() -> None:
    module, routed, last = rr(), context(BOB, OURS, NEXT), context(BOB, OURS)
    module.loose_route(routed)
    module.loose_route(last)
    assert [module.next_hop_route(routed), module.next_hop_route(last)] == [1, -1]
