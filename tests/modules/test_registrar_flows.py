"""registrar: phones with an instance: GRUUs (RFC 5627), several flows (RFC 5626); what Contact parameters and xavps say."""

from __future__ import annotations

import re
from typing import Any

import pytest

from polykemi.kemi.context import RouteContext
from polykemi.modules.base import Services
from polykemi.modules.registrar_params import RegistrarParams
from polykemi.sip.flow import Flow, Listener
from polykemi.storage.provisioned import Database
from tests.modules.test_registrar import contact, invite, register, server, status, uris
from tests.support import LISTENER, NOW, headers, request_context

PHONE = 'Contact: <sip:alice@10.0.0.1>;+sip.instance="<urn:uuid:1>"'
VIAS = "SIP/2.0/UDP 192.0.2.10;branch=z9hG4bKedge\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKphone"


def gruus(reply: str) -> tuple[str, str]:
    """Return the public and the temporary GRUU of a 200."""
    found = re.search(r'pub-gruu="([^"]+)";temp-gruu="([^"]+)"', contact(reply))
    assert found is not None
    return found[1], found[2]


def lookup(made: Services, uri: str, now: float = NOW) -> tuple[int, str, int]:
    """Return the result of lookup, the Request-URI, and how many branches there are."""
    ctx = invite(uri, now=now)
    return made.modules["registrar"].lookup(ctx, "location"), ctx.ruri, len(ctx.branches)


# ---- GRUU
def test_both_gruus_of_a_phone_reach_it_alone() -> None:
    made = server()
    _, reply = register(made, PHONE, "Supported: gruu, path")
    register(made, 'Contact: <sip:alice@10.0.0.2>;q=1;+sip.instance="<urn:uuid:2>"', call_id="other")
    public, temporary = gruus(reply)
    assert public == "sip:alice@example.test;gr=urn:uuid:1"
    assert "alice" not in temporary
    for uri in (public, temporary, temporary.replace("example", "EXAMPLE")):
        assert lookup(made, uri) == (1, "sip:alice@10.0.0.1", 0)
    assert lookup(made, "sip:alice@example.test") == (1, "sip:alice@10.0.0.2", 1)


def test_only_who_supports_gruus_gets_them() -> None:
    for params, lines in (({}, []), ({}, ["Supported: path"]), ({"gruu_enabled": 0}, ["Supported: gruu"])):
        _, reply = register(server(params), PHONE, *lines)
        assert contact(reply) == '<sip:alice@10.0.0.1>;expires=3600;+sip.instance="<urn:uuid:1>"'
    _, reply = register(server(), "Contact: <sip:alice@10.0.0.1>", "Supported: gruu")
    assert contact(reply) == "<sip:alice@10.0.0.1>;expires=3600"


def test_temporary_gruus_differ_and_hold_as_long_as_the_call_id_does() -> None:
    made = server()
    first = gruus(register(made, PHONE, "Supported: gruu")[1])[1]
    second = gruus(register(made, PHONE, "Supported: gruu", cseq=2, now=NOW + 60)[1])[1]
    assert first != second
    assert [lookup(made, uri)[0] for uri in (first, second)] == [1, 1]
    assert register(made, PHONE, "Supported: gruu", call_id="begun anew")[0] == 2
    assert [lookup(made, uri)[0] for uri in (first, second)] == [-1, -1]


def test_a_gruu_that_nobody_was_given_finds_nobody() -> None:
    made = server()
    public, temporary = gruus(register(made, PHONE, "Supported: gruu")[1])
    user, _, host = temporary.partition("@")
    changed = user[:-4] + ("A" if user[-4] != "A" else "B") + user[-3:]
    assert lookup(made, f"{changed}@{host}")[0] == -1
    assert lookup(made, public + "0")[0] == -1
    for bad in ("sip:tgruu.@h;gr", "sip:tgruu.****@h;gr", "sip:alice@h;gr", "sip:h;gr"):
        assert lookup(made, bad)[0] == -3
    assert lookup(made, public, NOW + 4000)[0] == lookup(made, temporary, NOW + 4000)[0] == -1


def test_gruus_hold_beyond_a_restart() -> None:
    kept = Database()
    kept.secret("registrar.gruu", bytes(32))  # as the first of all starts has made it
    made = server(database=kept)
    temporary = gruus(register(made, PHONE, "Supported: gruu")[1])[1]
    again = server(location=made.location, database=kept)
    assert lookup(again, temporary)[0] == 1
    assert lookup(server(location=made.location), temporary)[0] == -1  # another server's


def test_odd_users_and_instances_are_escaped() -> None:
    made = server()
    line = r'Contact: <sip:alice@10.0.0.1>;+sip.instance="<a;b \"c\">"'
    public = gruus(register(made, line, "Supported: gruu", to="<sip:a%3cb@example.test>")[1])[0]
    assert public == "sip:a%3Cb@example.test;gr=a%3Bb%20%22c%22"
    assert lookup(made, public) == (1, "sip:alice@10.0.0.1", 0)


# ---- flows
def test_a_phone_with_an_instance_is_registered_once_wherever_it_is() -> None:
    made = server()
    register(made, PHONE)
    assert register(made, PHONE.replace("10.0.0.1", "10.0.0.9"), call_id="moved")[0] == 2
    assert register(made, PHONE.replace("uuid:1", "uuid:2"), call_id="another phone")[0] == 1
    assert uris(made) == ["sip:alice@10.0.0.9", "sip:alice@10.0.0.1"]
    assert (
        register(made, PHONE.replace('"<urn:uuid:1>"', '"urn:uuid:1"') + ";expires=0", cseq=5, call_id="moved")[0] == 3
    )
    assert uris(made) == ["sip:alice@10.0.0.1"]


@pytest.mark.parametrize("reg_id", ["0", "x", "-1", "2147483648", "99999999999999999999"])
def test_a_reg_id_that_is_none_is_refused(reg_id: str) -> None:
    made = server()
    result, reply = register(made, f"{PHONE};reg-id={reg_id}")
    assert (result, status(reply), headers(reply, "P-Registrar-Error")) == (-1, 400, ["Invalid Reg-Id number"])
    assert uris(made) == []


def answer(params: dict[str, Any], *lines: str, **more: Any) -> tuple[int, dict[str, list[str]]]:
    _, reply = register(server(params), f"{PHONE};reg-id=1", *lines, **more)
    names = ("Require", "Supported", "Unsupported", "Flow-Timer")
    return status(reply), {name: found for name in names if (found := headers(reply, name))}


def test_what_a_registrar_says_about_outbound() -> None:
    both = {"Require": ["outbound"], "Supported": ["outbound"], "Flow-Timer": ["25"]}
    may, must = {"outbound_mode": 1, "flow_timer": 25}, {"outbound_mode": 2, "flow_timer": 25}
    assert answer({}, "Supported: outbound") == (200, {})
    assert answer({}, "Require: outbound") == (420, {"Unsupported": ["outbound"]})
    assert answer(may) == (200, {"Supported": ["outbound"]})
    assert answer(may, "Supported: path, Outbound") == (200, both)
    assert answer(must, "Supported: outbound") == (200, both)
    assert (
        answer(must) == answer(must, "Supported: path") == (421, {"Require": ["outbound"], "Supported": ["outbound"]})
    )


def test_behind_a_first_hop_without_outbound_there_are_no_flows() -> None:
    params = {"outbound_mode": 1, "use_path": 1, "path_mode": 1}
    assert answer(params, "Supported: outbound", via=VIAS)[0] == 439
    assert answer(params, "Supported: outbound", "Path: <sip:edge.test;lr>", via=VIAS)[0] == 439
    assert answer(params, "Supported: outbound", "Path: <sip:t@edge.test;lr;ob>", via=VIAS)[0] == 200
    assert answer({**params, "regid_mode": 1}, "Supported: outbound", via=VIAS)[0] == 200
    made = server(params)
    register(made, f"{PHONE};reg-id=1", via=VIAS)  # does not ask for it: its reg-id does not count
    assert made.location.get("location", "alice")[0].reg_id == 0


def test_parameters_of_registrar_are_checked() -> None:
    bad: list[dict[str, Any]] = [{"outbound_mode": 3}, {"regid_mode": 2}, {"flow_timer": 10}]
    for wrong in (*bad, {"flow_timer": 1000, "outbound_mode": 1}):
        with pytest.raises(ValueError, match=r"expected"):
            RegistrarParams(**wrong)


# ---- Contact parameters and xavps
def test_a_contact_says_which_methods_it_takes_and_where_it_came_from() -> None:
    made = server({"method_filtering": 1})
    line = 'Contact: <sip:alice@10.0.0.1>;methods="MESSAGE, OPTIONS";received="sip:198.51.100.7:1024"'
    register(made, line, "Allow: INVITE", cache={"received": "sip:192.0.2.10:5060"})
    assert lookup(made, "sip:alice@example.test")[0] == -2
    assert made.location.get("location", "alice")[0].received == "sip:198.51.100.7:1024"
    assert status(register(made, 'Contact: <sip:a@10.0.0.1>;received="no uri"', call_id="x")[1]) == 400


def test_the_xavp_says_for_how_long_and_with_which_q() -> None:
    made = server({"xavp_cfg": "reg", "min_expires": 100})

    def told(**fields: int) -> Any:
        return lambda ctx: ctx.shared.xavps.update(reg=[dict(fields)])

    register(made, PHONE + ";expires=500;q=0.1", setup=told(expires=50, q=700))
    assert [(b.expires, b.q) for b in made.location.get("location", "alice")] == [(NOW + 100, 700)]
    assert status(register(made, PHONE, cseq=2, setup=told(q=1001))[1]) == 400
    assert register(made, PHONE + ";expires=500", cseq=3, setup=told(expires=0))[0] == 3


def test_lookup_leaves_out_what_the_filter_does_not_let_pass() -> None:
    tcp = Listener("tcp", "192.0.2.1", 5060)
    made = server({"xavp_cfg": "reg", "lookup_filter_mode": 3}, listeners=(LISTENER, tcp))

    def over_tcp(ctx: RouteContext) -> None:
        ctx.flow, ctx.bflags = Flow(tcp, "192.0.2.10", 4000), 4

    register(made, "Contact: <sip:alice@192.0.2.10>", setup=lambda ctx: setattr(ctx, "bflags", 4))
    register(made, "Contact: <sip:alice@192.0.2.11>", call_id="2", setup=lambda ctx: setattr(ctx, "bflags", 8))
    register(made, "Contact: <sip:alice@192.0.2.12;transport=tcp>", call_id="3", setup=over_tcp)
    ctx = request_context(invite().message.raw)
    ctx.shared.xavps["reg"] = [{"rlf_bflags": 4}]
    assert made.modules["registrar"].lookup(ctx, "location") == 1
    assert (ctx.ruri, ctx.branches) == ("sip:alice@192.0.2.10", [])  # the last one's connection is gone
