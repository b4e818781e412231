"""enum: numbers to URIs, with a name server that knows what the tests tell it."""

from __future__ import annotations

from typing import Any

import pytest

from polykemi.kemi.context import RouteContext
from polykemi.kemi.network import Offline
from polykemi.modules.enum import Enum, EnumParams
from polykemi.sip.locate import Naptr
from tests.support import message, request_context, services

SIP = "!^\\+43(.*)$!sip:\\1@gw.example.test!"


class NameServer(Offline):
    """Records by name; ``asked`` keeps the names."""

    def __init__(self, **records: Any) -> None:
        self.records = {"4.3.2.1.3.4.e164.arpa.": [Naptr(10, 10, "u", "E2U+sip", SIP, "")]}
        self.texts: list[str] = []
        self.ebl: list[bytes] = []
        self.asked: list[str] = []

    def naptr(self, name: str, seconds: float) -> list[Naptr]:
        """Answer from the table."""
        self.asked.append(name)
        return self.records.get(name, [])

    def txt(self, name: str, seconds: float) -> list[str]:
        """Answer the texts."""
        self.asked.append(name)
        return self.texts

    def raw(self, name: str, kind: int, seconds: float) -> list[bytes]:
        """Answer the EBL record."""
        self.asked.append(f"{kind} {name}")
        return self.ebl

    def addresses(self, host: str, seconds: float) -> list[str]:
        """Know one host."""
        return ["192.0.2.10"] if host == "gw.example.test" else []


def made(dns: NameServer, **params: Any) -> Enum:
    module: Enum = services(Enum, params={"enum": params}, dns=dns).modules["enum"]
    return module


def invite(user: str = "+431234", from_user: str = "+431234") -> RouteContext:
    uri = f"<sip:{from_user}@example.test>;tag=a"
    return request_context(message(f"INVITE sip:{user}@example.test SIP/2.0", from_=uri))


def test_a_number_becomes_a_uri() -> None:
    ctx = invite()
    assert made(NameServer()).enum_query(ctx) == 1
    assert ctx.ruri == "sip:1234@gw.example.test"
    assert made(NameServer()).enum_pv_query(ctx, "+431234") == 1
    assert made(NameServer()).enum_query(invite("+431235")) == -1


def test_all_uris_become_the_destination_set_by_preference() -> None:
    dns = NameServer()
    dns.records["4.3.2.1.3.4.e164.arpa."] = [
        Naptr(10, 20, "u", "E2U+sip", "!^.*$!sip:c@x!", ""),
        Naptr(10, 10, "U", "e2u+SIP", "!^.*$!sip:a@x?h=1!", ""),
        Naptr(10, 10, "u", "sip+E2U", "!^.*$!sip:b@x!", ""),
        Naptr(5, 5, "u", "E2U+mail", "!^.*$!mailto:no@x!", ""),
        Naptr(5, 5, "u", "E2U+sip", "!^.*$!broken", ""),
        Naptr(5, 5, "u", "E2U+sip", "!(!sip:broken@x!", ""),
        Naptr(5, 5, "u", "E2U+sip", "!^9!sip:other@x!", ""),
    ]
    ctx = invite()
    assert made(dns, tel_uri_params=";npdi").enum_query(ctx) == 1
    assert ctx.ruri == "sip:a@x;npdi?h=1"
    assert [(b.uri, b.q) for b in ctx.branches] == [("sip:b@x;npdi", 990), ("sip:c@x;npdi", 980)]


@pytest.mark.parametrize(
    "service, offered, found",
    [
        ("voice", "E2U+voice:sip", 1),
        ("voice", "E2U+sip", -1),
        ("+a+b", "E2U+c+b", 1),
        ("+a+b", "E2U+c", -1),
        ("+sip", "sip+E2U", -1),
    ],
)
def test_services(service: str, offered: str, found: int) -> None:
    dns = NameServer()
    dns.records = {"4.3.2.1.3.4.x.": [Naptr(1, 1, "u", offered, SIP, "")]}
    assert made(dns).enum_query_suffix_service(invite(), "x.", service) == found


@pytest.mark.parametrize(
    "number, name",
    [("+431234", "4.3.2.1.i.3.4"), ("+12025", "5.2.0.2.i.1"), ("+35312", "2.1.i.3.5.3"), ("+4212", "2.i.1.2.4")],
)
def test_the_label_of_carriers_stands_behind_the_country_code(number: str, name: str) -> None:
    dns = NameServer()
    assert made(dns).i_enum_query(invite(number)) == -1
    assert dns.asked == [f"{name}.e164.arpa."]


def test_the_label_of_carriers_stands_where_a_text_says() -> None:
    dns = NameServer()
    dns.texts = ["4"]
    made(dns, bl_algorithm="txt").i_enum_query(invite())
    assert dns.asked == ["i.3.4.e164.arpa.", "4.3.i.2.1.3.4.e164.arpa."]


def test_the_label_of_carriers_stands_where_an_ebl_record_says() -> None:
    dns = NameServer()
    dns.ebl = [b"\x03\x05carry\x01x\x04test\x00"]
    made(dns, bl_algorithm="ebl").i_enum_query(invite())
    assert dns.asked == ["65300 i.3.4.e164.arpa.", "4.3.2.carry.1.3.4.x.test"]
    dns.ebl, dns.asked = [b"\xff\x00"], []
    made(dns, bl_algorithm="ebl").i_enum_query(invite())
    assert dns.asked[1] == "4.3.2.1.3.4.e164.arpa."


def test_the_caller_is_where_its_number_leads() -> None:
    assert made(NameServer()).is_from_user_enum(invite()) == 1
    assert made(NameServer()).is_from_user_enum(invite(from_user="+431235")) == -3
    assert made(NameServer()).is_from_user_enum(invite(from_user="alice")) == -1
    dns = NameServer()
    for rule, answer in (("!^.*$!sip:a@elsewhere.test!", -8), ("broken", -5), ("!^.*$!nothing!", -7)):
        dns.records["4.3.2.1.3.4.e164.arpa."] = [Naptr(1, 1, "u", "E2U+sip", rule, "")]
        assert made(dns).is_from_user_enum(invite()) == answer


def test_a_bad_parameter_is_told() -> None:
    with pytest.raises(ValueError, match="expected cc, txt or ebl"):
        EnumParams(bl_algorithm="x")
