"""The torture messages of RFC 4475: what the message layer says of each.

Four verdicts, from the first look to the last: the message does not parse (with the status to answer with); one of the
headers that every element needs does not (the same); a body that is cut off; or it is taken. This is one layer's view:
what the server refuses further up (scheme, Require, Max-Forwards, CSeq method, repeated headers, ...) is tested there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from polykemi.errors import ParseError
from polykemi.sip.header import Via, parse_name_addr
from polykemi.sip.message import parse
from polykemi.sip.uri import parse_uri

DATA = Path(__file__).parent.parent / "data" / "rfc4475"

TAKEN = "taken"
CUT_OFF = "cut off"

VERDICTS = {
    # 3.1.1 valid messages
    "wsinv": TAKEN,  # white space, folding, compact and odd forms wherever they are allowed
    "intmeth": TAKEN,  # every character that a token, a user part or a display name may have
    "esc01": TAKEN,  # escapes that must not be undone before the URI is taken apart
    "escnull": TAKEN,  # %00 in user parts stays an escape
    "esc02": TAKEN,  # "%" is a plain character of methods and header names
    "lwsdisp": TAKEN,  # no white space between display name and "<"
    "longreq": TAKEN,  # long values, 34 Vias, unknown headers
    "dblreq": TAKEN,  # the second request is behind Content-Length: no part of this message
    "semiuri": TAKEN,  # ";" in the user part
    "transports": TAKEN,  # Vias of known and unknown transports
    "mpart01": TAKEN,  # a multipart body with NULs
    "unreason": TAKEN,  # UTF-8 in the reason phrase
    "noreason": TAKEN,  # empty reason phrase
    # 3.1.2 invalid messages
    "badinv01": "400 Via",  # empty parameters and values in Via; the empty parameters in Contact would pass
    "clerr": CUT_OFF,  # Content-Length is larger than the datagram
    "ncl": "400 Content-Length",  # negative Content-Length
    "scalar02": "400 CSeq",  # CSeq number over 2**32-1
    "scalarlg": "400 CSeq",  # the same in a response
    "quotbal": "400 To",  # unterminated quoted string
    "ltgtruri": "400 Request-URI",  # Request-URI in angle brackets
    "lwsruri": "400 message",  # white space in the Request-URI
    "lwsstart": "400 message",  # two spaces in the request line
    "trws": "400 message",  # white space behind the request line
    "escruri": TAKEN,  # headers in the Request-URI: the proxy's to refuse
    "baddate": TAKEN,  # Date in another zone than GMT: nobody here reads it
    "regbadct": "400 Contact",  # "?" in a URI without angle brackets
    "badaspec": TAKEN,  # white space inside of the angle brackets is forgiven
    "baddn": TAKEN,  # "," in a display name without quotes is forgiven; the empty line at the end is missing too
    "badvers": "505 message",  # SIP/7.0
    "mismatch01": TAKEN,  # CSeq method is not the request's: sanity check
    "mismatch02": TAKEN,  # the same with an unknown method
    "bigcode": "400 message",  # status code over 699
    # 3.2 transaction layer semantics
    "badbranch": TAKEN,  # branch is the bare magic cookie: the transaction layer treats it as RFC 2543
    # 3.3 application layer semantics
    "insuf": "400 From",  # From, To, Call-ID are missing
    "unkscm": TAKEN,  # unknown scheme in the Request-URI: 416 is the server's
    "novelsc": TAKEN,  # scheme with "." in it, the same
    "unksm2": TAKEN,  # unknown schemes in To, From and Contact
    "bext01": TAKEN,  # Require and Proxy-Require: 420 is the server's
    "invut": TAKEN,  # unknown content type
    "regaut01": TAKEN,  # unknown authorization scheme
    "multi01": TAKEN,  # repeated headers: sanity check
    "mcl01": "400 Content-Length",  # two Content-Lengths that differ
    "bcast": TAKEN,  # response with a broadcast address in Via
    "zeromf": TAKEN,  # Max-Forwards: 0: maxfwd
    "cparam01": TAKEN,  # unknown Contact parameter
    "cparam02": TAKEN,  # unknown URI parameter
    "regescrt": TAKEN,  # escaped Route in a Contact's URI
    "sdp01": TAKEN,  # Accept asks for something else than SDP
    # 3.4 backward compatibility
    "inv2543": TAKEN,  # no branch, no tag, no Max-Forwards, folded Via
}


# what every element reads of a message
STEPS: dict[str, Callable[[Any], object]] = {
    "From": lambda m: parse_uri(m.from_.uri),
    "To": lambda m: parse_uri(m.to.uri),
    "Call-ID": lambda m: m.call_id,
    "CSeq": lambda m: m.cseq,
    "Via": lambda m: [Via(text) for text in m.list("via")],
    "Contact": lambda m: [parse_uri(parse_name_addr(text).uri) for text in m.list("contact")],
    "Content-Length": lambda m: m.body,
    "Request-URI": lambda m: m.is_request and m.parsed_uri,
}


def verdict(data: bytes) -> str:
    try:
        message = parse(data)
    except ParseError as error:
        return f"{error.status} message"
    for step, read in STEPS.items():
        try:
            read(message)
        except ParseError as error:
            return f"{error.status} {step}"
    return TAKEN if message.has_whole_body else CUT_OFF


@pytest.mark.parametrize("name", sorted(VERDICTS))
def test_torture_message_gets_its_verdict(name: str) -> None:
    assert verdict((DATA / f"{name}.dat").read_bytes()) == VERDICTS[name]


def test_every_torture_message_has_a_verdict() -> None:
    assert len(VERDICTS) == 49
    assert {path.stem for path in DATA.glob("*.dat")} == set(VERDICTS)


def test_the_short_tortuous_invite_is_understood() -> None:
    message = parse((DATA / "wsinv.dat").read_bytes())
    assert message.cseq == (9, "INVITE")
    assert message.get("max-forwards") == "0068"
    assert message.to.tag == "1918181833n"
    assert message.from_.display == '"J Rosenberg \\\\\\""'
    assert [Via(v).host for v in message.list("via")] == ["192.0.2.2", "spindle.example.com", "192.168.255.111"]
    assert [Via(v).branch for v in message.list("via")] == ["390skdjuw", "z9hG4bK9ikj8", "z9hG4bK30239"]
    assert message.get("newfangledheader") == "newfangled value continued newfangled value"
    assert message.get("unknownheaderwithunusualvalue") == ";;,,;;,;"
    assert len(message.list("route")) == 1
    assert parse_name_addr(message.list("contact")[0]).param("newparam") == "newvalue"


def test_the_second_request_of_a_datagram_is_not_the_body_of_the_first() -> None:
    assert parse((DATA / "dblreq.dat").read_bytes()).body == b""
