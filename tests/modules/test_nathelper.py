"""nathelper: who is behind NAT, and what the next hop is told. Results as Kamailio 5.6 gives them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from polykemi.errors import DataError
from polykemi.kemi.context import RouteContext
from polykemi.modules.base import Services
from polykemi.modules.nathelper import NatHelper
from polykemi.modules.nathelper_pinger import NatHelperParams
from polykemi.modules.registrar import Registrar
from polykemi.modules.sl import Sl
from polykemi.modules.usrloc import Usrloc
from polykemi.sip.flow import Flow, Listener
from polykemi.sip.message import parse
from polykemi.storage.location import Binding
from tests.support import LISTENER, NOW, message, request_context, services

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
    assert len(sent) == 25
    outbox = module.services.outbox
    for second in range(2, 6):
        module.handle_timer(NOW + second)
    assert len(outbox.items) == 120
    assert module.next_timeout() == NOW + 6
    module.handle_timer(NOW + 6)
    assert len(outbox.items) == 145


@pytest.mark.pure  # it replaces a method of a compiled class
def test_very_many_contacts_are_pinged_a_few_at_a_time() -> None:
    """A million in a minute, 20,000 of them here: no tick does more than some milliseconds of work, all get their turn."""
    made = services(Usrloc, NatHelper, params={"nathelper": {"natping_interval": 60}})
    location: Any = made.location
    for n in range(20_000):
        location.put("location", f"u{n}", [binding()])
    location.count = lambda table: 1_000_000  # the spacing is that of a million
    module, outbox = made.modules["nathelper"], made.outbox
    times: list[tuple[float, int]] = []
    while not times or len(outbox.items) > times[-1][1]:
        now = module.next_timeout()
        times.append((now, len(outbox.items)))
        module.handle_timer(now)
    assert len(outbox.items) == 20_000
    steps = [after[1] - before[1] for before, after in itertools.pairwise(times)]
    assert max(steps) <= 101
    assert times[-1][0] - times[0][0] == pytest.approx(1.2, abs=0.02)  # 16,667 a second
    module.handle_timer(NOW + 600)  # nothing is caught up on in one go
    assert len(outbox.items) <= 20_200


def keepalives(timeout: int = 30) -> tuple[Services, NatHelper]:
    params = {
        "natping_interval": 10,
        "sipping_bflag": 7,
        "sipping_from": "sip:pinger@e.test",
        "keepalive_timeout": timeout,
    }
    made = services(Sl, Usrloc, Registrar, NatHelper, params={"nathelper": params})
    made.location.put("location", "alice", [Binding("sip:a@10.0.0.1", NOW + 500, ruid="uloc-1", modified=NOW)])
    return made, made.modules["nathelper"]


def run_until(module: NatHelper, now: float) -> None:
    """Let time pass, tick by tick."""
    while (due := module.next_timeout()) is not None and due <= now:
        module.handle_timer(due)


def answer_to(request: bytes) -> Any:
    ping = parse(request)
    lines = [f"{name}: {ping.get(name.lower())}" for name in ("Via", "From", "To", "Call-ID", "CSeq")]
    return parse("\r\n".join(["SIP/2.0 200 OK", *lines, "", ""]).encode())


def test_a_contact_that_does_not_answer_is_removed() -> None:
    made, module = keepalives()
    expiries = []
    for second in (1, 11, 21, 31, 41):
        run_until(module, NOW + second)
        expiries.append(made.location.get("location", "alice")[0].expires - NOW)
    assert expiries == [500, 500, 500, 41, 41]
    assert len(made.outbox.items) == 3
    assert made.counters["usrloc.keepalive_timeouts"] == 1
    made.modules["usrloc"].handle_timer(NOW + 60)
    assert made.location.get("location", "alice") == []


def test_a_contact_that_answers_stays() -> None:
    made, module = keepalives()
    for tick in range(1, 200, 10):
        run_until(module, NOW + tick)
        (absorbs,) = made.strays
        if tick % 20 == 1:  # every other time: packets get lost
            assert absorbs(answer_to(made.outbox.items[-1][0]))
    assert made.location.get("location", "alice")[0].expires == NOW + 500
    assert len(made.outbox.items) == 20


def test_a_contact_that_registers_again_has_time_anew_and_who_is_gone_is_forgotten() -> None:
    made, module = keepalives()
    run_until(module, NOW + 21)
    made.location.put("location", "alice", [Binding("sip:a@10.0.0.1", NOW + 500, ruid="uloc-1", modified=NOW + 25)])
    run_until(module, NOW + 41)
    assert made.location.get("location", "alice")[0].expires == NOW + 500
    made.location.put("location", "alice", [])
    run_until(module, NOW + 200)
    assert len(module._pinger._silence) == 0


def test_an_answer_that_cannot_be_read_is_still_ours() -> None:
    made, module = keepalives()
    module.handle_timer(NOW + 1)
    broken = made.outbox.items[-1][0].replace(b"\r\nFrom: ", b"\r\nFrom: <")
    (absorbs,) = made.strays
    assert absorbs(answer_to(broken))
    assert not absorbs(parse(b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h\r\n\r\n"))  # type: ignore[arg-type]


OTHER = Listener("udp", "192.0.2.2", 5080)
TCP = Listener("tcp", "192.0.2.1", 5060)


@pytest.mark.parametrize(
    ("contact", "params", "source"),
    [
        (binding(), {}, LISTENER),
        (Binding("sip:a@h", NOW + 100, listener=str(OTHER)), {}, OTHER),
        (Binding("sip:a@h", NOW + 100, listener=str(TCP), received="sip:h:1"), {}, LISTENER),
        (binding(), {"force_socket": str(OTHER)}, OTHER),
        (binding(), {"natping_socket": "192.0.2.2:5080"}, OTHER),
        (binding(path="<sip:192.0.2.9;lr>,<sip:t@192.0.2.2:5080;lr>"), {"udpping_from_path": 1}, OTHER),
        (binding(path="<sip:192.0.2.2:5080;lr>,<sip:192.0.2.9;lr>"), {"udpping_from_path": 2}, OTHER),
        (binding(path="<sip:192.0.2.9;lr>"), {"udpping_from_path": 1}, None),
    ],
)
def test_pings_leave_from_the_socket_that_lets_them_through(
    contact: Binding, params: dict[str, Any], source: Listener | None
) -> None:
    given = {"nathelper": {"natping_interval": 2, **params}}
    made = services(Usrloc, NatHelper, params=given, listeners=(TCP, LISTENER, OTHER))
    made.location.put("location", "alice", [contact])
    made.modules["nathelper"].handle_timer(NOW + 1)
    assert [flow.listener for _, flow in made.outbox.items] == ([source] if source is not None else [])


def test_a_socket_that_is_none_of_ours_stops_the_start() -> None:
    for name in ("force_socket", "natping_socket"):
        with pytest.raises(DataError, match=f"{name}: 192.0.2.99:5060 is no UDP listener"):
            services(NatHelper, params={"nathelper": {"natping_interval": 2, name: "192.0.2.99:5060"}})


def test_pings_pause_on_command() -> None:
    made, module = keepalives()
    module.enable_ping(0)
    module.handle_timer(NOW + 1)
    assert made.outbox.items == []
    module.enable_ping(1)
    run_until(module, NOW + 11)
    assert len(made.outbox.items) == 1


def test_without_an_interval_there_is_no_timer() -> None:
    assert services(NatHelper).modules["nathelper"].next_timeout() is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("natping_interval", -1), ("sipping_bflag", 32), ("received_avp", "x"), ("natping_disable_bflag", 40)],
)
def test_a_wrong_parameter_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        NatHelperParams(**{name: value})
