"""nathelper: who is behind NAT, and what the next hop is told. Results as Kamailio 5.6 gives them."""

from __future__ import annotations

from typing import Any

import pytest

from polykemi.kemi.context import RouteContext
from polykemi.modules.nathelper import NatHelper
from polykemi.modules.nathelper_pinger import NatHelperParams
from polykemi.modules.registrar import Registrar
from polykemi.modules.sl import Sl
from polykemi.modules.usrloc import Usrloc
from polykemi.sip.flow import Flow, Listener
from polykemi.sip.message import parse
from polykemi.storage.location import Binding
from tests.support import NOW, message, request_context, services

SDP = "v=0\r\no=u 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
PUBLIC_CONTACT = "Contact: <sip:alice@192.0.2.10:5060>"


def context(
    *headers: str, via: str = "192.0.2.10:5060", body: str = "", uri: str = "sip:bob@example.test"
) -> RouteContext:
    return request_context(
        message(f"INVITE {uri} SIP/2.0", *headers, via=f"SIP/2.0/UDP {via};branch=z9hG4bKx", body=body)
    )


def nathelper(**params: Any) -> NatHelper:
    return NatHelper(services(), NatHelperParams(**params))


def contact(ctx: RouteContext) -> list[str]:
    return [line[9:] for line in ctx.edits.apply(ctx.message.lines) if line.startswith("Contact: ")]


def positive_tests(ctx: RouteContext) -> set[int]:
    module = nathelper()
    return {1 << bit for bit in range(9) if module.nat_uac_test(ctx, 1 << bit) == 1}


def test_a_phone_on_a_public_address_passes_all_tests() -> None:
    assert positive_tests(context(PUBLIC_CONTACT)) == set()
    assert positive_tests(context()) == set()
    assert nathelper().nat_uac_test(context(PUBLIC_CONTACT), 0x1FF) == -1


@pytest.mark.parametrize(
    ("ctx", "found"),
    [
        (context("Contact: <sip:alice@10.0.0.1:5060>"), {1}),
        (context("Contact: <sip:alice@10.0.0.1:7777>"), {1, 128}),
        (context("Contact: *", via="10.0.0.1:5060"), {2, 4}),
        (context(via="phone.example.test"), {2}),
        (context(via="192.0.2.10:5062"), {16}),
        (context(PUBLIC_CONTACT, body=SDP), {8, 256}),
        (context(body=SDP.replace("c=IN IP4 10.0.0.1", "c=IN IP4 192.0.2.10")), set()),
    ],
)
def test_each_test_finds_its_sign_of_nat(ctx: RouteContext, found: set[int]) -> None:
    assert positive_tests(ctx) == found


def test_private_source_and_websocket() -> None:
    ctx = context(via="10.0.0.9:5060")
    ctx.flow = Flow(Listener("ws", "192.0.2.1", 80), "10.0.0.9", 5060)
    assert positive_tests(ctx) == {4, 32, 64}


@pytest.mark.parametrize("address", ["10.0.0.1", "172.16.0.1", "172.31.9.9", "192.168.1.1", "100.64.0.1", "192.0.0.1"])
def test_private_addresses(address: str) -> None:
    assert nathelper().is_rfc1918(context(), address) == 1


@pytest.mark.parametrize(
    "address", ["172.32.0.1", "100.128.0.1", "192.0.2.1", "127.0.0.1", "10.0.0", "10.0.0.256", "10.a.0.1", "::1", ""]
)
def test_other_addresses_are_not_private(address: str) -> None:
    assert nathelper().is_rfc1918(context(), address) == -1


def test_fix_nated_contact_puts_the_source_into_the_uri() -> None:
    ctx = context("Contact: Al <sip:alice@10.0.0.1:7777;x=y>;expires=3")
    assert nathelper().fix_nated_contact(ctx) == 1
    assert contact(ctx) == ["Al <sip:alice@192.0.2.10:5060;x=y>;expires=3"]


@pytest.mark.parametrize(
    ("header", "alias"),
    [
        ("Contact: <sip:a@10.0.0.1;x=y>;q=1", "<sip:a@10.0.0.1;x=y;alias=192.0.2.10~5060~1>;q=1"),
        ("Contact: sip:a@10.0.0.1;q=0.5", "<sip:a@10.0.0.1;alias=192.0.2.10~5060~1>;q=0.5"),
        ("Contact: <sip:a@10.0.0.1?h=1>", "<sip:a@10.0.0.1;alias=192.0.2.10~5060~1?h=1>"),
    ],
)
def test_set_contact_alias_says_where_the_phone_is(header: str, alias: str) -> None:
    ctx = context(header)
    assert nathelper().set_contact_alias(ctx) == 1
    assert contact(ctx) == [alias]


def test_an_alias_is_trimmed_on_request() -> None:
    header = "Contact: <sip:a@10.0.0.1;alias=1.1.1.1~1~1>"
    twice, trimmed = context(header), context(header)
    nathelper().set_contact_alias(twice)
    nathelper().set_contact_alias_trim(trimmed)
    assert contact(twice) == ["<sip:a@10.0.0.1;alias=1.1.1.1~1~1;alias=192.0.2.10~5060~1>"]
    assert contact(trimmed) == ["<sip:a@10.0.0.1;alias=192.0.2.10~5060~1>"]


def test_add_contact_alias_only_where_the_contact_names_another_address() -> None:
    other, same = context("Contact: <sip:a@10.0.0.1>"), context("Contact: <sip:a@192.0.2.10>")
    assert [nathelper().add_contact_alias(other), nathelper().add_contact_alias(same)] == [1, 2]
    assert contact(same) == ["<sip:a@192.0.2.10>"]
    given = context("Contact: <sip:a@10.0.0.1>")
    assert nathelper().add_contact_alias_addr(given, "1.1.1.1", "99", "TCP") == 1
    assert contact(given) == ["<sip:a@10.0.0.1;alias=1.1.1.1~99~2>"]
    assert nathelper().add_contact_alias_addr(given, "1.1.1.1", "0", "tcp") == -1
    assert nathelper().add_contact_alias_addr(given, "1.1.1.1", "99", "carrier-pigeon") == -1
    assert nathelper().add_contact_alias_addr(given, "a>\r\n", "99", "udp") == -1


@pytest.mark.parametrize("headers", [[], ["Contact: *"]])
def test_without_a_contact_there_is_nothing_to_change(headers: list[str]) -> None:
    module, ctx = nathelper(), context(*headers)
    results = [module.fix_nated_contact(ctx), module.set_contact_alias(ctx), module.add_contact_alias(ctx)]
    assert results == [-1, -1, 2]
    assert not ctx.edits


@pytest.mark.parametrize(
    ("uri", "result", "ruri", "dst_uri"),
    [
        ("sip:u@1.1.1.1;x;alias=2.2.2.2~99~1;y", 1, "sip:u@1.1.1.1;x;y", "sip:2.2.2.2:99"),
        ("sip:u@1.1.1.1;alias=2.2.2.2~99~2", 1, "sip:u@1.1.1.1", "sip:2.2.2.2:99;transport=tcp"),
        ("sip:u@1.1.1.1;alias=[2001:db8::1]~99~1", 1, "sip:u@1.1.1.1", "sip:[2001:db8::1]:99"),
        ("sip:u@1.1.1.1", 2, "sip:u@1.1.1.1", ""),
        ("sip:alias=u@1.1.1.1", 2, "sip:alias=u@1.1.1.1", ""),
        ("sip:u@1.1.1.1;alias=2.2.2.2~99", -1, "sip:u@1.1.1.1;alias=2.2.2.2~99", ""),
        ("sip:u@1.1.1.1;alias=2.2.2.2~0~1", -1, "sip:u@1.1.1.1;alias=2.2.2.2~0~1", ""),
        ("sip:u@1.1.1.1;alias=[~5060~1", -1, "sip:u@1.1.1.1;alias=[~5060~1", ""),
    ],
)
def test_handle_ruri_alias(uri: str, result: int, ruri: str, dst_uri: str) -> None:
    ctx = context(uri=uri)
    assert nathelper().handle_ruri_alias(ctx) == result
    assert (ctx.ruri, ctx.dst_uri) == (ruri, dst_uri)


def test_the_first_or_the_last_alias_is_taken() -> None:
    uri = "sip:u@1.1.1.1;alias=2.2.2.2~1~1;alias=3.3.3.3~1~1"
    first, last = context(uri=uri), context(uri=uri)
    nathelper().handle_ruri_alias_mode(first, 0)
    nathelper().handle_ruri_alias_mode(last, 1)
    assert (first.dst_uri, last.dst_uri) == ("sip:2.2.2.2:1", "sip:3.3.3.3:1")


def test_the_alias_of_the_contact_goes_into_a_variable() -> None:
    made = services()
    module, ctx = NatHelper(made), context("Contact: <sip:a@10.0.0.1;alias=1.1.1.1~99~2>")
    assert module.set_alias_to_pv(ctx, "$var(alias)") == 1
    assert made.variables.getters["$var(alias)"](ctx) == "sip:1.1.1.1:99;transport=tcp"
    assert module.set_alias_to_pv(ctx, "$si") == -1  # read-only
    assert module.set_alias_to_pv(context(PUBLIC_CONTACT), "$var(alias)") == -1


def test_received_is_added_for_another_registrar() -> None:
    in_header, in_uri = context("Contact: <sip:a@b>;expires=5, sip:c@d"), context("Contact: <sip:a@b>;expires=5")
    assert [nathelper().add_rcv_param(in_header, 0), nathelper().add_rcv_param(in_uri, 1)] == [1, 1]
    received = 'received="sip:192.0.2.10:5060"'
    assert contact(in_header) == [f"<sip:a@b>;expires=5;{received}, <sip:c@d>;{received}"]
    assert contact(in_uri) == ["<sip:a@b;received=sip:192.0.2.10:5060>;expires=5"]


def test_fix_nated_register_notes_the_source_for_the_registrar() -> None:
    ctx, tcp = context(), context()
    tcp.flow = Flow(Listener("tcp", "2001:db8::9", 5060), "2001:db8::1", 4000)
    assert [nathelper().fix_nated_register(ctx), nathelper().fix_nated_register(tcp)] == [1, 1]
    assert ctx.cache["received"] == "sip:192.0.2.10:5060"
    assert tcp.cache["received"] == "sip:[2001:db8::1]:4000;transport=tcp"


def fixed(flags: int, body: str = SDP, address: str = "", **params: int) -> tuple[int, list[str]]:
    ctx = context(body=body)
    module = nathelper(**params)
    result = module.fix_nated_sdp_ip(ctx, flags, address) if address else module.fix_nated_sdp(ctx, flags)
    new = ctx.edits.body
    return result, [] if new is None else new.decode().split("\r\n")


def test_fix_nated_sdp_rewrites_addresses_and_adds_lines() -> None:
    result, lines = fixed(15)
    assert result == 1
    assert lines[1] == "o=u 1 1 IN IP4 192.0.2.10"
    assert lines[3] == "c=IN IP4 192.0.2.10"
    added = ["a=direction:active", "a=nortpproxy:yes", "a=oldmediaip:10.0.0.1", "a=oldmediaip:10.0.0.1", ""]
    assert lines[6:] == added


def test_fix_nated_sdp_with_a_given_address_or_lines_only() -> None:
    result, lines = fixed(2, address="203.0.113.9", append_sdp_oldmediaip=0)
    assert (result, lines[1], lines[3], lines[6:]) == (1, "o=u 1 1 IN IP4 10.0.0.1", "c=IN IP4 203.0.113.9", [""])
    assert fixed(1)[0] == 2  # no address was replaced
    assert fixed(0) == (2, [])
    assert fixed(2, body="") == (-1, [])
    assert fixed(2, address="1.1.1.1\r\nm=evil") == (-1, [])


def test_a_reply_gets_its_contact_alias_too() -> None:
    ctx = request_context(message("SIP/2.0 200 OK", "Contact: <sip:b@10.0.0.2>", cseq="1 INVITE"))
    assert not parse(ctx.message.raw).is_request
    assert nathelper().set_contact_alias(ctx) == 1
    assert contact(ctx) == ["<sip:b@10.0.0.2;alias=192.0.2.10~5060~1>"]


def pinging(*bindings: Binding, nat_bflag: int = -1, **params: Any) -> tuple[NatHelper, list[tuple[str, bytes]]]:
    """Return a nathelper that has pinged the bindings of one second, and what it sent."""
    given = {"usrloc": {"nat_bflag": nat_bflag}, "nathelper": {"natping_interval": 2, **params}}
    made = services(Sl, Usrloc, Registrar, NatHelper, params=given)
    for number, binding in enumerate(bindings):
        made.location.put("location", f"user{number}", [binding])
    module: NatHelper = made.modules["nathelper"]
    module.handle_timer(NOW + 1)
    return module, [(f"{flow.host}:{flow.port}", data) for data, flow in made.outbox.items]


def binding(uri: str = "sip:alice@10.0.0.1:5062", **fields: Any) -> Binding:
    return Binding(uri, NOW + 100, listener="udp:192.0.2.1:5060", ruid="uloc-1", **fields)


def test_contacts_are_pinged_where_they_really_are() -> None:
    _, sent = pinging(binding(received="sip:192.0.2.50:4000"), binding())
    assert sent == [("192.0.2.50:4000", b"\0\0\0\0"), ("10.0.0.1:5062", b"\0\0\0\0")]


def test_only_contacts_behind_nat_are_pinged_and_some_never() -> None:
    params: dict[str, Any] = {"ping_nated_only": 1, "natping_disable_bflag": 3, "nat_bflag": 6}
    _, sent = pinging(binding(bflags=1 << 6), binding(), binding(bflags=1 << 6 | 1 << 3), **params)
    assert [peer for peer, _ in sent] == ["10.0.0.1:5062"]


def test_contacts_that_expired_or_are_not_udp_are_not_pinged() -> None:
    gone = binding()
    gone.expires = NOW - 1
    _, sent = pinging(gone, binding("sip:bob@10.0.0.2;transport=tcp"), binding("nonsense"))
    assert sent == []


def test_a_request_keeps_the_way_open_and_its_answer_is_nobody_elses() -> None:
    params: dict[str, Any] = {
        "ping_nated_only": 1,
        "nat_bflag": 6,
        "sipping_bflag": 7,
        "sipping_from": "sip:pinger@example.test",
    }
    module, sent = pinging(binding(bflags=1 << 6 | 1 << 7), binding(bflags=1 << 6), **params)
    (_, request), (_, octets) = sent
    assert octets == b"\0\0\0\0"
    ping = parse(request)
    assert ping.start_line == "OPTIONS sip:alice@10.0.0.1:5062 SIP/2.0"
    assert ping.from_.uri == "sip:pinger@example.test"
    answer = f"SIP/2.0 200 OK\r\nVia: {ping.get('via')}\r\nCall-ID: {ping.call_id}\r\nCSeq: 1 OPTIONS\r\n\r\n".encode()
    (absorbs,) = module.services.strays
    assert absorbs(parse(answer))  # type: ignore[arg-type]
    assert not absorbs(parse(answer.replace(b"Call-ID: ", b"Call-ID: x")))  # type: ignore[arg-type]


def test_each_contact_is_pinged_once_in_an_interval() -> None:
    module, sent = pinging(*(binding(f"sip:u{i}@10.0.0.1") for i in range(120)), natping_interval=5)
    assert len(sent) == 50
    outbox = module.services.outbox
    for second in range(2, 6):
        module.handle_timer(NOW + second)
    assert len(outbox.items) == 120
    module.handle_timer(NOW + 6)
    assert len(outbox.items) == 170


def test_without_an_interval_there_is_no_timer() -> None:
    assert services(NatHelper).modules["nathelper"].next_timeout() is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("natping_interval", -1), ("sipping_bflag", 32), ("received_avp", "x"), ("natping_disable_bflag", 40)],
)
def test_a_wrong_parameter_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        NatHelperParams(**{name: value})
