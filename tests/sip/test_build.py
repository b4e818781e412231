"""Messages that leave: spliced from the lines that came."""

from __future__ import annotations

import pytest

from polykemi.errors import ParseError
from polykemi.sip.build import ack, cancel, forward_request, forward_response, mark_via, response, with_edits
from polykemi.sip.flow import Listener
from polykemi.sip.message import Edits, Request, Response, parse
from polykemi.sip.reply_path import response_target

REGISTER = (
    b"REGISTER sip:h SIP/2.0\r\n"
    b"v:SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK1;rport\r\n"
    b"Via: SIP/2.0/UDP 10.0.0.2\r\n"
    b"Record-Route: <sip:p;lr>\r\n"
    b"f : <sip:a@h>;tag=1\r\n"
    b"To: <sip:a@h>\r\n"
    b"Call-ID:  x\r\n"
    b"CSeq: 1\r\n REGISTER\r\n"
    b"Subject: \xff\r\n"
    b"Content-Length: 3\r\n"
    b"\r\n"
    b"abc"
)
OURS = "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKp"


def request(data: bytes = REGISTER) -> Request:
    message = parse(data)
    assert isinstance(message, Request)
    return message


def reply(*lines: str, body: bytes = b"") -> Response:
    message = parse("\r\n".join(["SIP/2.0 200 OK", *lines, "", ""]).encode("latin-1") + body)
    assert isinstance(message, Response)
    return message


# ---- responses
def test_a_response_echoes_what_rfc_3261_section_8_2_6_says() -> None:
    assert response(request(), 404, "Not Found", to_tag="t") == (
        b"SIP/2.0 404 Not Found\r\n"
        b"v:SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK1;rport\r\n"
        b"Via: SIP/2.0/UDP 10.0.0.2\r\n"
        b"f : <sip:a@h>;tag=1\r\n"
        b"To: <sip:a@h>;tag=t\r\n"
        b"Call-ID:  x\r\n"
        b"CSeq: 1\r\n REGISTER\r\n"
        b"Content-Length: 0\r\n\r\n"
    )


def test_a_2xx_echoes_record_route_and_carries_headers_and_body() -> None:
    data = response(
        request(),
        200,
        "OK",
        to_tag="t",
        received="192.0.2.9",
        rport=4242,
        headers=["Expires: 5"],
        body=b"xyz",
        server="polykemi",
    )
    head, _, body = data.partition(b"\r\n\r\n")
    assert body == b"xyz"
    lines = head.split(b"\r\n")
    assert b"Record-Route: <sip:p;lr>" in lines
    assert lines[1] == b"v:SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK1;rport=4242;received=192.0.2.9"
    assert lines[2] == b"Via: SIP/2.0/UDP 10.0.0.2"
    assert lines[-3:] == [b"Expires: 5", b"Server: polykemi", b"Content-Length: 3"]


def test_only_a_100_goes_without_to_tag_and_record_route() -> None:
    assert b"tag=t" not in response(request(), 100, "Trying", to_tag="t")
    assert b"Record-Route" not in response(request(), 100, "Trying", to_tag="t")
    assert b"tag=t" in response(request(), 180, "Ringing", to_tag="t")
    assert b"Record-Route" in response(request(), 180, "Ringing", to_tag="t")


@pytest.mark.parametrize("to", [b"<sip:a@h>;TAG=x", b"<sip:a@h>;a=b;tag = x", b'"broken <sip:a@h>'])
def test_a_to_with_a_tag_or_beyond_repair_goes_back_as_it_came(to: bytes) -> None:
    data = response(request(REGISTER.replace(b"<sip:a@h>\r\n", to + b"\r\n")), 200, "OK", to_tag="t")
    assert b"\r\nTo: " + to + b"\r\n" in data
    assert b"tag=t" not in data


def test_only_the_first_to_is_tagged() -> None:
    data = response(request(REGISTER.replace(b"Subject: \xff", b"t: <sip:b@h>")), 200, "OK", to_tag="t")
    assert data.count(b"tag=t") == 1


def test_a_response_without_to_tag_leaves_the_to_alone() -> None:
    assert b"To: <sip:a@h>\r\n" in response(request(), 200, "OK", to_tag="")


# ---- the top Via
@pytest.mark.parametrize(
    ("line", "received", "rport", "expected"),
    [
        ("Via: SIP/2.0/UDP h;branch=b", "192.0.2.9", 0, "Via: SIP/2.0/UDP h;branch=b;received=192.0.2.9"),
        ("Via: SIP/2.0/UDP h;rport;branch=b", "", 9, "Via: SIP/2.0/UDP h;rport=9;branch=b"),
        ("v:SIP/2.0/UDP h; RPORT = 7 ;x", "1.2.3.4", 9, "v:SIP/2.0/UDP h;rport=9;x;received=1.2.3.4"),
        ("Via: SIP/2.0/UDP h;rport;x;rport=7", "", 9, "Via: SIP/2.0/UDP h;rport=9;x"),
        ("Via: SIP/2.0/UDP h;x", "1.2.3.4", 9, "Via: SIP/2.0/UDP h;x;rport=9;received=1.2.3.4"),
        ("Via: SIP/2.0/UDP h;Received =9.9.9.9;rport=7", "1.2.3.4", 0, "Via: SIP/2.0/UDP h;rport=7;received=1.2.3.4"),
        (
            "Via: SIP/2.0/UDP h ,\tSIP/2.0/UDP i;rport",
            "1.2.3.4",
            0,
            "Via: SIP/2.0/UDP h ;received=1.2.3.4,\tSIP/2.0/UDP i;rport",
        ),
        ('Via: SIP/2.0/UDP h;x="a;rport,";rport,b', "", 9, 'Via: SIP/2.0/UDP h;x="a;rport,";rport=9,b'),
        ("Via: SIP/2.0/UDP h\r\n ;rport\r\n ,b", "::1", 9, "Via: SIP/2.0/UDP h\r\n ;rport=9;received=::1,b"),
    ],
)
def test_only_the_first_value_of_a_via_is_marked(line: str, received: str, rport: int, expected: str) -> None:
    assert mark_via(line, received, rport) == expected


# ---- forwarded requests
def test_a_request_is_forwarded_octet_for_octet_under_our_via() -> None:
    data = forward_request(request(), Edits(), uri="sip:b@192.0.2.3", via=OURS)
    assert data == REGISTER.replace(
        b"REGISTER sip:h SIP/2.0\r\n", b"REGISTER sip:b@192.0.2.3 SIP/2.0\r\nVia: " + OURS.encode() + b"\r\n"
    )


def test_a_request_is_forwarded_with_all_that_was_asked_for() -> None:
    edits = Edits()
    edits.removed.add(2)
    edits.replaced[7] = "Subject: new"
    edits.inserts.append((9, "P-Hint: x"))
    routes = ["sip:p1;lr", "<sip:p2;lr>;x"]
    data = forward_request(request(), edits, uri="sip:b", via=OURS, received="1.2.3.4", rport=9, routes=routes)
    assert data.split(b"\r\n")[1:6] == [
        b"Via: " + OURS.encode(),
        b"Route: <sip:p1;lr>",
        b"Route: <sip:p2;lr>;x",
        b"v:SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK1;rport=9;received=1.2.3.4",
        b"Via: SIP/2.0/UDP 10.0.0.2",
    ]
    assert b"Record-Route" not in data
    assert b"\r\nSubject: new\r\nContent-Length: 3\r\nP-Hint: x\r\n\r\nabc" in data


def test_a_new_body_gets_its_length() -> None:
    edits = Edits()
    edits.body = b"longer"
    data = forward_request(request(REGISTER.replace(b"Content-Length", b"L ")), edits, uri="sip:b", via=OURS)
    assert data.endswith(b"\r\nContent-Length: 6\r\n\r\nlonger")
    assert b"\r\nL" not in data


def test_content_length_says_how_long_the_body_is() -> None:
    short = request(REGISTER.replace(b"Content-Length: 3", b"Content-Length: 50"))
    assert forward_request(short, Edits(), uri="sip:b", via=OURS).endswith(b"Content-Length: 3\r\n\r\nabc")
    edits, message = Edits(), request(REGISTER)
    edits.removed.update(message.indexes("content-length"))
    assert forward_request(message, edits, uri="sip:b", via=OURS).endswith(b"Content-Length: 3\r\n\r\nabc")
    edits.inserts.append((len(message.lines), "Content-Length: 2"))
    data = forward_request(message, edits, uri="sip:b", via=OURS)
    assert data.count(b"Content-Length") == 1
    assert b"Content-Length: 3\r\n" in data


def test_content_length_is_added_when_it_was_missing_and_excess_octets_are_cut() -> None:
    without = request(REGISTER.replace(b"Content-Length: 3\r\n", b""))
    assert forward_request(without, Edits(), uri="sip:b", via=OURS).endswith(b"Content-Length: 3\r\n\r\nabc")
    assert forward_request(request(REGISTER + b"def"), Edits(), uri="sip:b", via=OURS).endswith(b"3\r\n\r\nabc")


def test_a_request_with_a_bad_content_length_is_not_forwarded() -> None:
    with pytest.raises(ParseError):
        forward_request(request(REGISTER.replace(b"h: 3", b"h: -3")), Edits(), uri="sip:b", via=OURS)


def test_a_request_without_via_cannot_be_marked() -> None:
    with pytest.raises(ParseError):
        forward_request(request(b"OPTIONS sip:h SIP/2.0\r\n\r\n"), Edits(), uri="sip:b", via=OURS, received="::1")


# ---- forwarded responses
def test_a_response_loses_our_via_and_nothing_else() -> None:
    r = reply("Server: s", f"Via: {OURS}", "v: SIP/2.0/UDP 10.0.0.1;rport=9", "To: x", "Content-Length: 0")
    assert forward_response(r, Edits()) == (
        b"SIP/2.0 200 OK\r\nServer: s\r\nv: SIP/2.0/UDP 10.0.0.1;rport=9\r\nTo: x\r\nContent-Length: 0\r\n\r\n"
    )


def test_vias_on_one_line_lose_the_first_only() -> None:
    rest = 'SIP/2.0/UDP a;x="1,2" ,SIP/2.0/UDP b'
    r = reply(f"v: {OURS} , {rest}", "Via: SIP/2.0/UDP c", "l: 1", body=b"x")
    assert (
        forward_response(r, Edits()) == f"SIP/2.0 200 OK\r\nv: {rest}\r\nVia: SIP/2.0/UDP c\r\nl: 1\r\n\r\nx".encode()
    )
    edits = Edits()
    edits.removed.add(1)
    assert forward_response(r, edits) == f"SIP/2.0 200 OK\r\nv: {rest}\r\nl: 1\r\n\r\nx".encode()


def test_a_comma_behind_our_via_leaves_no_empty_header() -> None:
    assert b"Via" not in forward_response(reply(f"Via: {OURS} , ", "l: 0"), Edits())


def test_edits_of_a_response_keep_their_line_numbers() -> None:
    edits = Edits()
    edits.replaced[1] = "To: y"
    edits.inserts.append((3, "X: 1"))
    r = reply(f"Via: {OURS}", "To: x", "l: 0")
    assert forward_response(r, edits) == b"SIP/2.0 200 OK\r\nTo: y\r\nl: 0\r\nX: 1\r\n\r\n"
    assert edits.removed == set()


def test_a_response_without_via_is_not_forwarded() -> None:
    with pytest.raises(ParseError):
        forward_response(reply("To: x"), Edits())


# ---- CANCEL and ACK of our hop
SENT = [
    "Via: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK1",
    "Route: <sip:p1;lr>",
    "Route: <sip:p2;lr>",
    "Max-Forwards: 3",
    "Contact: <sip:a@h>",
    "f: <sip:a@h>",
    " ;tag=1",
    "Subject: a",
    " b",
    "To: <sip:b@h>",
    "Call-ID: x",
    "CSeq:\t7\tINVITE",
    "Require: 100rel",
    "Content-Length: 9",
]


def test_a_cancel_is_made_as_rfc_3261_section_9_1_says() -> None:
    expected = (
        "CANCEL sip:b@192.0.2.3 SIP/2.0\r\n"
        f"Via: {OURS}\r\n"
        "Route: <sip:p1;lr>\r\n"
        "Route: <sip:p2;lr>\r\n"
        "f: <sip:a@h>\r\n ;tag=1\r\n"
        "To: <sip:b@h>\r\n"
        "Call-ID: x\r\n"
        "CSeq: 7 CANCEL\r\n"
        "Max-Forwards: 70\r\n"
        "Content-Length: 0\r\n\r\n"
    )
    assert cancel(SENT, "sip:b@192.0.2.3", OURS) == expected.encode()
    together = parse(b"INVITE sip:b SIP/2.0\r\n" + "\r\n".join(SENT).encode() + b"\r\n\r\n")
    assert cancel(together.lines, "sip:b@192.0.2.3", OURS) == expected.encode()


def test_an_ack_has_the_to_of_the_response() -> None:
    data = ack(SENT, "sip:b@192.0.2.3", OURS, "<sip:b@h>;tag=2")
    assert data.startswith(b"ACK sip:b@192.0.2.3 SIP/2.0\r\nVia: " + OURS.encode() + b"\r\nRoute: <sip:p1;lr>\r\n")
    assert b"\r\nTo: <sip:b@h>;tag=2\r\n" in data
    assert b"\r\nCSeq: 7 ACK\r\n" in data
    assert data.count(b"To:") == 1


def test_a_folded_cseq_keeps_its_number() -> None:
    assert b"\r\nCSeq: 7 ACK\r\n" in ack(["CSeq:", " 7", " INVITE"], "sip:b", OURS, "x")


def test_our_via_does_not_come_back_by_an_edit() -> None:
    r = reply(f"Via: {OURS}", "To: x", "l: 1", body=b"x")
    edits = Edits()
    edits.replaced[0] = "Via: SIP/2.0/UDP changed"
    edits.inserts += [(0, "A: 1"), (1, "B: 1"), (1, "B: 2"), (3, "Z: 1")]
    assert forward_response(r, edits) == b"SIP/2.0 200 OK\r\nA: 1\r\nB: 1\r\nB: 2\r\nTo: x\r\nl: 1\r\nZ: 1\r\n\r\nx"
    edits.body = b"new"
    expected = b"SIP/2.0 200 OK\r\nA: 1\r\nB: 1\r\nB: 2\r\nTo: x\r\nContent-Length: 3\r\nZ: 1\r\n\r\nnew"
    assert forward_response(r, edits) == expected


def test_what_arrived_behind_the_content_length_of_a_response_is_cut() -> None:
    via = f"Via: {OURS}"
    assert forward_response(reply(via, "l: 2", body=b"abcd"), Edits()) == b"SIP/2.0 200 OK\r\nl: 2\r\n\r\nab"
    assert (
        forward_response(reply(via, "l: 9", body=b"abcd"), Edits())
        == b"SIP/2.0 200 OK\r\nContent-Length: 4\r\n\r\nabcd"
    )
    assert forward_response(reply(via, body=b"abcd"), Edits()) == b"SIP/2.0 200 OK\r\nContent-Length: 4\r\n\r\nabcd"
    folded = parse(b"SIP/2.0 200 OK\r\nA: 1\r\n 2\r\nVia: SIP/2.0/UDP h\r\n ;branch=1\r\nl: 0\r\n\r\n")
    assert isinstance(folded, Response)
    assert forward_response(folded, Edits()) == b"SIP/2.0 200 OK\r\nA: 1\r\n 2\r\nl: 0\r\n\r\n"


def test_what_goes_before_the_first_via_goes_before_ours() -> None:
    r = request(b"OPTIONS sip:b@h SIP/2.0\r\nVia: SIP/2.0/UDP phone\r\nTo: x\r\nContent-Length: 0\r\n\r\n")
    edits = Edits()
    edits.inserts += [(1, "B: 1"), (0, "A: 1"), (0, "A: 2")]
    data = forward_request(r, edits, uri="sip:b@h", via="SIP/2.0/UDP us", routes=["sip:p;lr"])
    assert data == (
        b"OPTIONS sip:b@h SIP/2.0\r\nA: 1\r\nA: 2\r\nVia: SIP/2.0/UDP us\r\nRoute: <sip:p;lr>\r\n"
        b"Via: SIP/2.0/UDP phone\r\nB: 1\r\nTo: x\r\nContent-Length: 0\r\n\r\n"
    )
    assert len(edits.inserts) == 3


def test_edits_can_be_applied_to_a_message() -> None:
    r = request(b"OPTIONS sip:b@h SIP/2.0\r\nVia: SIP/2.0/UDP phone\r\nl: 4\r\nTo: x\r\n\r\nbody")
    edits = Edits()
    edits.inserts.append((0, "A: 1"))
    edits.body = b"longer body"
    assert with_edits(r, edits, "OPTIONS sip:c@h SIP/2.0") == (
        b"OPTIONS sip:c@h SIP/2.0\r\nA: 1\r\nVia: SIP/2.0/UDP phone\r\nContent-Length: 11\r\nTo: x\r\n\r\nlonger body"
    )


def test_no_headers_stand_in_a_request_uri() -> None:
    sent = forward_request(request(), Edits(), uri="sip:b?c@h:5070;lr?Route=%3Csip:x%3E&a=b", via=OURS)
    assert sent.startswith(b"REGISTER sip:b?c@h:5070;lr SIP/2.0\r\n")
    for bad in ("<sip:b@h>", "sip:b@h>?a", "sip:@?"):
        with pytest.raises(ParseError):
            forward_request(request(), Edits(), uri=bad, via=OURS)


@pytest.mark.parametrize(
    "host", ["255.255.255.255", "224.0.0.1", "0.0.0.0", "[ff02::1]", "[::]", "[::ffff:255.255.255.255]"]
)
def test_a_response_is_forwarded_to_one_only(host: str) -> None:
    reply = parse(f"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP us\r\nVia: SIP/2.0/UDP {host}\r\n\r\n".encode())
    assert isinstance(reply, Response)
    assert response_target(reply, Listener("udp", "192.0.2.1", 5060)) is None
