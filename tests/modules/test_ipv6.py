"""IPv6 sources in modules: whatever the spelling in a header, an address is the same one."""

from __future__ import annotations

import pytest

from polykemi.kemi.context import RouteContext
from polykemi.modules.htable import Htable
from polykemi.modules.nathelper import NatHelper
from polykemi.modules.pike import Pike
from polykemi.modules.registrar import Registrar
from polykemi.modules.sl import Sl
from polykemi.modules.usrloc import Usrloc
from polykemi.sip.message import Request
from polykemi.sip.reply_path import reply_path
from tests.support import message, request_context, services

SOURCE = ("2001:db8::9", 5080)


def from_six(*headers: str, via: str = "[2001:db8::9]:5080", body: str = "", method: str = "OPTIONS") -> RouteContext:
    via = f"SIP/2.0/UDP {via};branch=z9hG4bK1"
    return request_context(message(f"{method} sip:example.test SIP/2.0", *headers, via=via, body=body), source=SOURCE)


@pytest.mark.parametrize(
    ("via", "tests"),
    [
        ("[2001:db8::9]:5080", set()),
        ("[2001:DB8:0:0::9]:5080", set()),
        ("[2001:db8::8]:5080", {2}),
        ("[2001:db8::9]:5081", {16}),
        ("[2001:db8::9]", {16}),
    ],
)
def test_a_nat_is_found_by_the_address_and_not_by_its_spelling(via: str, tests: set[int]) -> None:
    nathelper: NatHelper = services(NatHelper).modules["nathelper"]
    contact, sdp = "Contact: <sip:a@[2001:Db8::0:9]:5080>", "v=0\r\nc=IN IP6 2001:DB8::9\r\n"
    ctx = from_six(contact, via=via, body=sdp)
    assert {1 << bit for bit in range(9) if nathelper.nat_uac_test(ctx, 1 << bit) == 1} == tests


def test_an_alias_is_added_where_the_contact_is_another_address() -> None:
    nathelper: NatHelper = services(NatHelper).modules["nathelper"]
    assert nathelper.add_contact_alias(from_six("Contact: <sip:a@[2001:DB8:0::9]:5080>")) == 2
    ctx = from_six("Contact: <sip:a@[fd00::1]:5080>")
    assert nathelper.add_contact_alias(ctx) == 1
    assert list(ctx.edits.replaced.values()) == ["Contact: <sip:a@[fd00::1]:5080;alias=[2001:db8::9]~5080~1>"]
    ctx.ruri = "sip:a@[fd00::1]:5080;alias=[2001:db8::9]~5080~1"
    assert nathelper.handle_ruri_alias(ctx) == 1
    assert (ctx.ruri, ctx.dst_uri) == ("sip:a@[fd00::1]:5080", "sip:[2001:db8::9]:5080")


@pytest.mark.parametrize(("via", "received"), [("[2001:DB8::0:9]:5080", ""), ("[2001:db8::8]:5080", "2001:db8::9")])
def test_received_is_said_for_another_address_only(via: str, received: str) -> None:
    ctx = from_six(via=via)
    assert isinstance(ctx.message, Request)
    assert reply_path(ctx.message, ctx.flow)[0] == received


def test_a_contact_is_registered_from_where_it_says() -> None:
    made = services(Sl, Usrloc, Registrar)
    registrar: Registrar = made.modules["registrar"]
    assert registrar.save(from_six("Contact: <sip:alice@[2001:DB8:0::9]:5080>", method="REGISTER"), "location", 0) > 0
    assert registrar.reg_from_user(from_six(), "location", "sip:alice@example.test", 1) == 1


def test_sources_are_counted_by_their_address() -> None:
    made = services(Pike, Htable, params={"pike": {"reqs_density_per_unit": 2}})
    pike: Pike = made.modules["pike"]
    assert [pike.pike_check_req(from_six()) for _ in range(3)] == [1, 1, -2]
    assert pike.pike_check_ip(from_six(), "[2001:DB8::0:9]") == -1
    assert pike.pike_check_ip(from_six(), "2001:db8::8") == 1


def test_an_address_is_a_key_of_a_hash_table() -> None:
    made = services(Htable, params={"htable": {"htable": ("ban=>size=4",)}})
    ctx = from_six()
    assert made.variables.put(ctx, "$sht(ban=>$si)", 3)
    assert made.variables.getters["$sht(ban=>2001:db8::9)"](ctx) == 3
