"""The torture messages of RFC 4475 and RFC 5118 through a whole server: what the RFCs say of each, and the server goes on.

Each message gets its verdict twice: of a script that checks requests (sanity, as Kamailio's default scripts do), and of one
that relays whatever the core lets through. RELAYED: it goes to the next hop with all of its header lines and its body; DROPPED:
nothing leaves. ``FREE`` says in which cases the RFC leaves the choice to the element, and what was chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from polykemi.sip.flow import Listener
from polykemi.sip.message import Request, parse
from polykemi.storage.provisioned import Database
from polykemi.testing import Sent, ServerUnderTest
from tests.support import message

DATA: Final = Path(__file__).parent / "data"
SOURCE, NEXT_HOP = "192.0.2.10:5060", "192.0.2.20:5060"
# the addresses that the responses of RFC 4475 were sent to are ours
LISTENERS: Final = [Listener("udp", host, 5060) for host in ("192.0.2.200", "192.0.2.198", "192.0.2.105")]

SCRIPT: Final = """
function ksr_request_route()
    if KSR.maxfwd.process_maxfwd(70) < 0 then
        KSR.sl.sl_send_reply(483, "Too Many Hops")
    elseif %s and KSR.sanity.sanity_check(2023, 15) < 0 then
        return
    elseif KSR.is_OPTIONS() and KSR.is_myself_ruri() and KSR.corex.has_ruri_user() < 0 then
        KSR.sl.sl_send_reply(200, "Keepalive")
    elseif not KSR.is_REGISTER() then
        KSR.pv.sets("$du", "sip:192.0.2.20")
        if KSR.tm.t_relay() < 0 then KSR.sl.sl_reply_error() end
    elseif KSR.hdr.is_present("Authorization") > 0 and KSR.auth_db.auth_check("example.com", "subscriber", 0) < 0 then
        KSR.auth.auth_challenge("example.com", 0)
    elseif KSR.registrar.save("location", 0) < 0 then
        KSR.sl.sl_reply_error()
    end
end
"""
SCRIPTS: Final = {"checks": "true", "relays": "false"}

RELAYED, DROPPED = "relayed", "dropped"
SAVED, CHALLENGED = "200 OK", "401 Unauthorized"

# name -> what the checking script makes of it, and the relaying one where that differs
RFC_4475: Final = {
    # 3.1.1 valid messages
    "wsinv": (RELAYED,),
    "intmeth": (RELAYED,),
    "esc01": (RELAYED,),
    "escnull": (SAVED,),
    "esc02": (RELAYED,),  # RE%47IST%45R is a method of its own, no REGISTER
    "lwsdisp": (RELAYED,),
    "longreq": (RELAYED,),
    "dblreq": ("400 Content-Length Does Not Match", SAVED),
    "semiuri": (RELAYED,),
    "transports": (RELAYED,),
    "mpart01": (RELAYED,),
    "unreason": (DROPPED,),  # responses that we have not asked for; what is understood of them: below
    "noreason": (DROPPED,),
    # 3.1.2 invalid messages
    "badinv01": ("400 Bad Via",),
    "clerr": ("400 Content-Length Does Not Match",),
    "ncl": ("400 Bad Content-Length",),
    "scalar02": ("400 Bad CSeq",),
    "scalarlg": (DROPPED,),
    "quotbal": ("400 Bad addr-spec", RELAYED),
    "ltgtruri": ("400 Bad URI",),
    "lwsruri": ("400 Bad Request-Line",),
    "lwsstart": ("400 Bad Request-Line",),
    "trws": ("400 Bad Request-Line",),
    "escruri": (RELAYED,),  # without the headers in its Request-URI
    "baddate": (RELAYED,),
    "regbadct": ("400 Bad addr-spec", "400 Bad Request"),
    "badaspec": (RELAYED,),
    "baddn": (RELAYED,),
    "badvers": ("505 Version Not Supported",),
    "mismatch01": ("400 CSeq method does not match",),
    "mismatch02": ("400 CSeq method does not match",),
    "bigcode": (DROPPED,),
    # 3.2 transaction layer semantics
    "badbranch": (RELAYED,),  # as of RFC 2543: below
    # 3.3 application layer semantics
    "insuf": ("400 Missing From",),
    "unkscm": ("416 Unsupported URI Scheme", RELAYED),
    "novelsc": ("416 Unsupported URI Scheme", RELAYED),
    "unksm2": ("400 Bad Request",),  # To is no SIP URI, so there is no AoR
    "bext01": ("420 Bad Proxy Require Extension", RELAYED),
    "invut": (RELAYED,),
    "regaut01": (CHALLENGED,),  # credentials of an unknown scheme are none
    "multi01": ("400 More Than One From",),
    "mcl01": ("400 Bad Content-Length",),
    "bcast": (DROPPED,),  # it would go to everybody
    "zeromf": ("483 Too Many Hops",),
    "cparam01": (SAVED,),
    "cparam02": (SAVED,),
    "regescrt": (SAVED,),
    "sdp01": (RELAYED,),
    # 3.4 backward compatibility
    "inv2543": (RELAYED,),
}
RFC_5118: Final = {
    "ipv6-good": (SAVED,),  # 4.1
    "ipv6-bad": ("400 Bad Request URI", "200 OK"),  # 4.2 no brackets
    "port-ambiguous": (SAVED,),  # 4.3 [2001:db8::10:5070] is an address without a port
    "port-unambiguous": (SAVED,),  # 4.4
    "via-received-param-with-delim": (RELAYED,),  # 4.5
    "via-received-param-no-delim": (RELAYED,),
    "ipv6-in-sdp": (RELAYED,),  # 4.6
    "mult-ip-in-header": (RELAYED,),  # 4.7
    "mult-ip-in-sdp": (RELAYED,),  # 4.8
    "ipv4-mapped-ipv6": (RELAYED,),  # 4.9
    "ipv6-bug-abnf-3-colons": (RELAYED,),  # 4.10
    "ipv6-correct-abnf-2-colons": (RELAYED,),
}
FREE: Final = {
    "trws": "white space behind the request line may be ignored: refused",
    "ltgtruri": "the brackets may be ignored: refused",
    "lwsruri": "what stands behind the space may be taken for a part of the URI: refused",
    "escruri": "refuse it, or ignore the headers in the Request-URI, which a proxy must not hand on: ignored",
    "baddate": "refuse it, or ignore the Date: ignored",
    "badaspec": "refuse it, or forgive the white space in the brackets: forgiven",
    "baddn": "refuse it, or forgive the missing quotes: forgiven",
    "ipv6-bad": "a registrar that does not look at the Request-URI does not see what is wrong with it",
    "quotbal": "a proxy need not read To: who relays only does not",
    "mismatch02": "400 or 501: 400",
    "novelsc": "416 of a proxy that resolves the URI; one that has a next hop may relay",
    "unkscm": "the same",
    "dblreq": "what stands behind Content-Length is ignored (RFC 3261 section 18.3); Kamailio's sanity check 128 is stricter",
    "inv2543": "may be refused: accepted",
}
TABLES: Final = {"rfc4475": RFC_4475, "rfc5118": RFC_5118}
MESSAGES: Final = [(rfc, name) for rfc, table in TABLES.items() for name in table]


@pytest.fixture(scope="module", params=list(SCRIPTS))
def script(request: pytest.FixtureRequest) -> str:
    """One of the scripts."""
    return str(request.param)


@pytest.fixture(scope="module")
def server(script: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerUnderTest]:
    """A server with that script."""
    path = tmp_path_factory.mktemp("torture") / "script.lua"
    path.write_text(SCRIPT % SCRIPTS[script])
    database = Database()
    database.add_subscriber("user", "example.com", "secret")
    with ServerUnderTest({"lua": path}, domains=["example.com"], listeners=LISTENERS, database=database) as one:
        yield one


def octets(rfc: str, name: str) -> bytes:
    return (DATA / rfc / f"{name}.dat").read_bytes()


def outcome(data: bytes, sent: list[Sent]) -> str:
    """Return what has become of a message: RELAYED, DROPPED, or status and reason of the reply."""
    final = [one for one in sent if not one.start_line.startswith("SIP/2.0 100 ")]
    if not final:
        return DROPPED
    (one,) = final
    if one.data[:8] != b"SIP/2.0 ":
        assert one.to == NEXT_HOP
        must_be_whole(data, one.data)
        return RELAYED
    assert one.flow.host == SOURCE.partition(":")[0]
    assert len(one.data) < len(data) + 250
    return one.start_line[8:]


ON_THE_WAY: Final = ("via", "max-forwards", "content-length")


def must_be_whole(data: bytes, relayed: bytes) -> None:
    """See to it that all lines and the body of ``data`` are in what was relayed, the Vias below ours."""
    came, went = parse(data), parse(relayed)
    assert isinstance(came, Request)
    assert isinstance(went, Request)
    kept = [[line for line, name in zip(m.lines, m.names, strict=True) if name not in ON_THE_WAY] for m in (came, went)]
    assert kept[0] == kept[1]
    assert went.method == came.method
    assert went.uri == came.uri.partition("?Route")[0]
    assert went.body == came.body
    assert went.content_length == len(came.body)
    ours, theirs, *others = went.list("via")
    assert ours.startswith("SIP/2.0/UDP 192.0.2.200;branch=z9hG4bK")
    assert theirs.startswith(came.via.text.rstrip(" ;\t\r\n").partition(" received")[0][:20])
    assert [other.split() for other in others] == [via.split() for via in came.list("via")[1:]]


@pytest.mark.parametrize(("rfc", "name"), MESSAGES)
def test_a_torture_message_gets_its_verdict_and_the_server_goes_on(
    server: ServerUnderTest, script: str, rfc: str, name: str
) -> None:
    verdicts = TABLES[rfc][name]
    verdict = verdicts[0 if script == "checks" else -1]
    data = octets(rfc, name)
    assert outcome(data, server.receive(data, SOURCE)) == verdict
    server.advance(4000)  # transactions and registrations end
    probe = message(
        "OPTIONS sip:example.com SIP/2.0", via=f"SIP/2.0/UDP {SOURCE};branch=z9hG4bK{rfc}{name}", call_id=name
    )
    assert [one.start_line for one in server.receive(probe, SOURCE)] == ["SIP/2.0 200 Keepalive"]
    counters = server.node.services.counters
    assert (counters.get("core.internal_errors"), counters.get("core.script_errors")) == (None, None)


def test_every_torture_message_has_a_verdict() -> None:
    assert [len(RFC_4475), len(RFC_5118)] == [49, 12]
    for rfc, table in TABLES.items():
        assert {path.stem for path in (DATA / rfc).glob("*.dat")} == set(table)
    assert FREE.keys() <= RFC_4475.keys() | RFC_5118.keys()


def answered(server: ServerUnderTest, data: bytes) -> list[str]:
    """Relay an INVITE, let the start line and the fields of ``data`` come as its response; return what goes to the caller."""
    server.advance(400)
    sent = server.receive(message("INVITE sip:bob@example.com SIP/2.0", "Max-Forwards: 70"), SOURCE)
    asked = next(one for one in sent if one.data.startswith(b"INVITE ")).data
    head, _, body = data.partition(b"\r\n\r\n")
    start, *lines = head.split(b"\r\n")
    of_ours = [line for line in asked.split(b"\r\n") if line[:4] in (b"Via:", b"From", b"To: ", b"Call")]
    others = [line for line in lines if line.partition(b":")[0] not in (b"Via", b"From", b"To", b"Call-ID")]
    others = [line.replace(b"35 INVITE", b"1 INVITE").replace(b"353494 INVITE", b"1 INVITE") for line in others]
    reply = b"\r\n".join([start, *of_ours, *others, b"", body])
    return [one.start_line for one in server.receive(reply, NEXT_HOP) if one.to == SOURCE]


def test_a_response_that_was_asked_for_gets_its_verdict(server: ServerUnderTest) -> None:
    unreason = octets("rfc4475", "unreason")
    assert answered(server, unreason) == [unreason.partition(b"\r\n")[0].decode("latin-1")]
    assert answered(server, octets("rfc4475", "noreason")) == []  # a 100 stays at each hop
    assert answered(server, octets("rfc4475", "noreason").replace(b" 100 ", b" 183 ", 1)) == ["SIP/2.0 183 "]
    assert answered(server, octets("rfc4475", "scalarlg")) == []
    assert answered(server, octets("rfc4475", "bigcode")) == []


def test_requests_with_the_bare_cookie_for_a_branch_are_told_apart_as_rfc_2543_does(server: ServerUnderTest) -> None:
    first = octets("rfc4475", "badbranch")
    other = first.replace(b"badbranch.", b"another.")
    assert other != first
    assert [outcome(data, server.receive(data, SOURCE)) for data in (first, other)] == [RELAYED, RELAYED]
    assert server.receive(first, SOURCE) == []  # a retransmission
    server.advance(300)


def test_an_escaped_nul_makes_two_contacts_of_what_a_c_string_would_make_one(server: ServerUnderTest) -> None:
    (reply,) = server.receive(octets("rfc4475", "escnull"), SOURCE)
    assert b"<sip:%00@host5.example.com>" in reply.data
    assert b"<sip:%00%00@host5.example.com>" in reply.data
    server.advance(4000)


def test_the_headers_of_a_contact_come_back_as_they_were_registered(server: ServerUnderTest) -> None:
    (reply,) = server.receive(octets("rfc4475", "regescrt"), SOURCE)
    assert b"<sip:user@example.com?Route=%3Csip:sip.example.com%3E>" in reply.data
    assert b"\r\nRoute:" not in reply.data
    server.advance(4000)


def test_a_port_without_end_in_a_description_is_no_port(tmp_path: Path) -> None:
    script = tmp_path / "script.lua"
    script.write_text("function ksr_request_route() KSR.is_method(KSR.pv.gete('$sdp(m0:rtcp:port)')) end")
    with ServerUnderTest({"lua": script}) as one:
        for port, expected in (("4000", "4001"), ("65535", ""), ("4" * 5000, "")):
            body = f"v=0\r\no=a 1 1 IN IP4 192.0.2.10\r\nc=IN IP4 192.0.2.10\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n"
            data = message(
                "INVITE sip:h SIP/2.0", "Content-Type: application/sdp", body=body, call_id=port[:9] + expected
            )
            one.receive(data.replace(b"z9hG4bKtest", b"z9hG4bK%d" % len(body)), SOURCE)
            assert one.calls.pop(0).result in (expected, None)
            assert one.calls.pop(0).arguments == (expected,)
        assert one.node.services.counters.get("core.script_errors") is None
