"""What a server with several listeners, advertised addresses and names of them tells its peers and its script."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from polykemi.modules.base import Services
from polykemi.pv.accessor import Environment
from polykemi.pv.compiler import Variables
from polykemi.sip.flow import Flow, Listener
from polykemi.testing import ServerUnderTest
from tests.support import message, request_context, services

INSIDE = Listener("udp", "192.0.2.1", 5060, "203.0.113.5", 5070, "inside")
OUTSIDE = Listener("udp", "192.0.2.2", 5062, "edge.example.net")
SIX = Listener("udp", "2001:db8::1", 5060)
SCRIPT = """
import KSR as KSR
def ksr_request_route(msg):
    rm = KSR.pv.get("$rm")
    if rm == "OPTIONS":
        names = ("Ri", "Rp", "RAi", "RAp", "Ru", "RAu", "Rut", "RAut", "Rn", "Ras")
        for name in names:
            KSR.hdr.append_to_reply("X-%s: %s\\r\\n" % (name, KSR.pv.get("$" + name)))
        KSR.sl.send_reply(200, "OK")
        return
    if rm == "REGISTER":
        KSR.path.add_path()
    elif KSR.rr.loose_route() < 0:
        KSR.rr.record_route()
    if KSR.hdr.is_present("X-Socket") > 0:
        KSR.pv.sets("$fsn", KSR.hdr.get("X-Socket"))
        KSR.hdr.append("X-Sent-From: %s %s\\r\\n" % (KSR.pv.get("$fs"), KSR.pv.get("$fsn")))
    KSR.tm.t_relay()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerUnderTest]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with ServerUnderTest({"python": script}, listeners=[INSIDE, OUTSIDE, SIX], domains=["example.test"]) as one:
        yield one


def request(method: str, uri: str, *headers: str, via: str = "192.0.2.10:5060") -> bytes:
    lines = [
        f"{method} {uri} SIP/2.0",
        f"Via: SIP/2.0/UDP {via};branch=z9hG4bK{method}{len(headers)}",
        "From: <sip:alice@example.test>;tag=1",
        "To: <sip:bob@example.test>",
        f"Call-ID: {method}",
        f"CSeq: 1 {method}",
        "Max-Forwards: 70",
        *headers,
        "Content-Length: 0\r\n\r\n",
    ]
    return "\r\n".join(lines).encode()


def values(data: bytes, name: str) -> list[str]:
    head = data.decode("latin-1").split("\r\n")
    return [line[len(name) + 2 :] for line in head if line.startswith(f"{name}: ")]


@pytest.mark.parametrize(
    ("at", "told"),
    [
        (
            INSIDE,
            """Ri=192.0.2.1 Rp=5060 RAi=203.0.113.5 RAp=5070 Ru=sip:192.0.2.1:5060 RAu=sip:203.0.113.5:5070
            Rut=sip:192.0.2.1:5060;transport=udp RAut=sip:203.0.113.5:5070;transport=udp Rn=inside
            Ras=udp:192.0.2.1:5060""",
        ),
        (
            OUTSIDE,
            """Ri=192.0.2.2 Rp=5062 RAi=edge.example.net RAp=5062 Ru=sip:192.0.2.2:5062 RAu=sip:edge.example.net:5062
            Rut=sip:192.0.2.2:5062;transport=udp RAut=sip:edge.example.net:5062;transport=udp Rn=None
            Ras=udp:192.0.2.2:5062""",
        ),
    ],
    ids=["address", "name"],
)
def test_a_script_sees_the_real_address_and_the_advertised_one(
    server: ServerUnderTest, at: Listener, told: str
) -> None:
    (reply,) = server.receive(request("OPTIONS", "sip:example.test"), "192.0.2.10:5060", at=at)
    for pair in told.split():
        name, _, value = pair.partition("=")
        assert values(reply.data, f"X-{name}") == [value]


def test_peers_are_told_the_advertised_address_and_replies_to_it_are_ours(server: ServerUnderTest) -> None:
    (out,) = server.receive(request("MESSAGE", "sip:bob@192.0.2.20"), "192.0.2.10:5060")
    (via, came) = values(out.data, "Via")
    assert via.startswith("SIP/2.0/UDP 203.0.113.5:5070;branch=z9hG4bK")
    assert values(out.data, "Record-Route") == ["<sip:203.0.113.5:5070;lr;ftag=1>"]
    assert out.flow == Flow(INSIDE, "192.0.2.20", 5060)
    reply = (
        f"SIP/2.0 200 OK\r\nVia: {via}\r\nVia: {came}\r\nFrom: <sip:alice@example.test>;tag=1\r\n"
        "To: <sip:bob@example.test>;tag=2\r\nCall-ID: MESSAGE\r\nCSeq: 1 MESSAGE\r\nContent-Length: 0\r\n\r\n"
    )
    (back,) = server.receive(reply.encode(), "192.0.2.20:5060")
    assert (back.start_line, back.flow) == ("SIP/2.0 200 OK", Flow(INSIDE, "192.0.2.10", 5060))


def test_the_path_of_a_registration_names_the_advertised_address(server: ServerUnderTest) -> None:
    (out,) = server.receive(request("REGISTER", "sip:192.0.2.20"), "192.0.2.10:5060")
    assert values(out.data, "Path") == ["<sip:203.0.113.5:5070;lr>"]


@pytest.mark.parametrize("ours", ["203.0.113.5:5070", "192.0.2.1", "[2001:DB8:0:0::1]"])
def test_a_route_to_an_address_of_ours_is_taken_away(server: ServerUnderTest, ours: str) -> None:
    (out,) = server.receive(request("INFO", "sip:bob@192.0.2.20", f"Route: <sip:{ours};lr>"), "192.0.2.10:5060")
    assert not values(out.data, "Route")
    assert out.flow.host == "192.0.2.20"


def test_a_socket_is_chosen_by_its_name(server: ServerUnderTest) -> None:
    sent = server.receive(request("INFO", "sip:bob@192.0.2.20", "X-Socket: inside"), "192.0.2.10:5060", at=OUTSIDE)
    (out,) = sent
    assert out.flow.listener == INSIDE
    assert values(out.data, "X-Sent-From") == ["udp:192.0.2.1:5060 inside"]
    (out,) = server.receive(request("INFO", "sip:b@192.0.2.20", "X-Socket: no", "A: b"), "192.0.2.10:5060", at=OUTSIDE)
    assert out.flow.listener == OUTSIDE
    assert values(out.data, "X-Sent-From") == ["None None"]


def test_a_request_crosses_between_ipv4_and_ipv6_with_both_sides_recorded(server: ServerUnderTest) -> None:
    (out,) = server.receive(request("MESSAGE", "sip:bob@[2001:db8::20]:5080"), "192.0.2.10:5060")
    assert out.flow == Flow(SIX, "2001:db8::20", 5080)
    assert values(out.data, "Via")[0].startswith("SIP/2.0/UDP [2001:db8::1];branch=")
    assert values(out.data, "Record-Route") == [
        "<sip:[2001:db8::1];r2=on;lr;ftag=1>",
        "<sip:203.0.113.5:5070;r2=on;lr;ftag=1>",
    ]
    route = "Route: <sip:[2001:db8::1];r2=on;lr>, <sip:203.0.113.5:5070;r2=on;lr>"
    back = request("INFO", "sip:alice@192.0.2.10", route, via="[2001:db8::20]:5080;rport")
    (out,) = server.receive(back, "[2001:db8::20]:5090", at=SIX)
    assert (out.flow, values(out.data, "Route")) == (Flow(INSIDE, "192.0.2.10", 5060), [])
    ours, theirs = values(out.data, "Via")
    assert ours.startswith("SIP/2.0/UDP 203.0.113.5:5070;branch=")
    assert theirs == "SIP/2.0/UDP [2001:db8::20]:5080;rport=5090;branch=z9hG4bKINFO1;received=2001:db8::20"


@pytest.fixture
def parts() -> Services:
    """The services of a server with these listeners."""
    return services(listeners=(INSIDE, OUTSIDE, SIX))


@pytest.mark.parametrize(
    ("host", "port", "ours"),
    [
        ("192.0.2.1", 5060, True),
        ("192.0.2.1", 5070, False),
        ("203.0.113.5", 0, True),
        ("203.0.113.5", 5070, True),
        ("203.0.113.5", 5060, True),
        ("203.0.113.5", 5080, False),
        ("EDGE.example.net", 5062, True),
        ("edge.example.net", 5060, False),
        ("2001:db8::1", 5060, True),
        ("[2001:DB8:0000::0:1]", 5060, True),
        ("[2001:db8:0::1]", 5061, False),
        ("[2001:db8::2]", 5060, False),
        ("[nonsense::]", 5060, False),
        ("example.test", 9999, True),
    ],
)
def test_is_myself_knows_all_our_addresses_in_every_spelling(parts: Services, host: str, port: int, ours: bool) -> None:
    assert parts.is_myself(host, port, "udp") is ours


def test_a_connection_has_a_number_for_scripts() -> None:
    environment = Environment(ident=lambda flow: 7 if flow.listener.proto == "tcp" else -1)
    get = Variables(environment=environment).getters["$conid"]
    assert get(request_context(message("OPTIONS sip:x SIP/2.0"))) is None
    ctx = request_context(message("OPTIONS sip:x SIP/2.0"))
    ctx.flow = ctx.flow._replace(listener=INSIDE._replace(proto="tcp"))
    assert get(ctx) == 7
