"""Messages: what is read of them, and what is refused."""

from __future__ import annotations

import pytest

from polykemi.errors import ParseError
from polykemi.sip.message import Edits, Message, Request, Response, join_folded, parse

INVITE = (
    b"INVITE sip:bob@biloxi.com SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP pc33.atlanta.com;branch=z9hG4bK776asdhds\r\n"
    b"Max-Forwards: 70\r\n"
    b"To: Bob <sip:bob@biloxi.com>\r\n"
    b"From: Alice <sip:alice@atlanta.com>;tag=1928301774\r\n"
    b"Call-ID: a84b4c76e66710@pc33.atlanta.com\r\n"
    b"CSeq: 314159 INVITE\r\n"
    b"Contact: <sip:alice@pc33.atlanta.com>\r\n"
    b"Content-Type: application/sdp\r\n"
    b"Content-Length: 4\r\n"
    b"\r\n"
    b"v=0\n"
)


def request(*lines: str, start: str = "OPTIONS sip:h SIP/2.0") -> Request:
    message = parse("\r\n".join([start, *lines, "", ""]).encode("latin-1"))
    assert isinstance(message, Request)
    return message


def test_the_invite_of_rfc_3261_is_read() -> None:
    m = parse(INVITE)
    assert isinstance(m, Request)
    assert m.is_request
    assert (m.method, m.uri, m.version) == ("INVITE", "sip:bob@biloxi.com", "SIP/2.0")
    assert m.parsed_uri.host == "biloxi.com"
    assert (m.via.host, m.via.branch) == ("pc33.atlanta.com", "z9hG4bK776asdhds")
    assert m.via is m.via
    assert (m.from_.uri, m.from_.tag, m.from_.display) == ("sip:alice@atlanta.com", "1928301774", "Alice")
    assert (m.to.uri, m.to.tag) == ("sip:bob@biloxi.com", None)
    assert m.to is m.to
    assert m.from_ is m.from_
    assert m.cseq == (314159, "INVITE")
    assert m.cseq == m.cseq
    assert m.call_id == "a84b4c76e66710@pc33.atlanta.com"
    assert (m.content_length, m.body, m.has_whole_body) == (4, b"v=0\n", True)
    assert m.raw == INVITE


def test_a_response_is_read() -> None:
    m = parse(b"SIP/2.0 180 Es klingelt\r\nCSeq: 1 INVITE\r\n\r\n")
    assert isinstance(m, Response)
    assert not m.is_request
    assert (m.status, m.reason, m.cseq) == (180, "Es klingelt", (1, "INVITE"))
    for data, reason in ((b"SIP/2.0 200 \r\n\r\n", ""), (b"sip/2.0 200\r\n\r\n", "")):
        bare = parse(data)
        assert isinstance(bare, Response)
        assert bare.reason == reason


# ---- headers
def test_compact_forms_are_their_long_names() -> None:
    m = request(
        "v: SIP/2.0/UDP h;branch=b", "f: <sip:a@h>;tag=1", "t: <sip:b@h>", "i: x", "m: <sip:c@h>", "l: 0", "k: path"
    )
    assert list(m.names) == ["via", "from", "to", "call-id", "contact", "content-length", "supported"]
    assert (m.via.branch, m.from_.tag, m.call_id, m.content_length, m.get("supported")) == ("b", "1", "x", 0, "path")


def test_white_space_around_name_and_value_does_not_count() -> None:
    m = request("TO :\tsip:a@h ", "subject:", "CSeq \t :  7\t INFO ")
    assert (m.get("to"), m.get("subject"), m.get("expires"), m.cseq) == ("sip:a@h", "", None, (7, "INFO"))


def test_folded_headers_are_one() -> None:
    m = request("Subject: I know you're there,", "\t pick up", "  the phone", "To: x:", " y", "Via:", " SIP/2.0/UDP h")
    assert list(m.names) == ["subject", "to", "via"]
    assert m.get("subject") == "I know you're there, pick up the phone"
    assert m.get("to") == "x: y"
    assert m.via.host == "h"
    assert m.lines[0] == "Subject: I know you're there,\r\n\t pick up\r\n  the phone"


def test_values_on_one_line_and_on_several_are_one_list() -> None:
    m = request(
        'Contact: "A, B" <sip:a@h;x=","> , sip:b@h', "To: sip:t@h", "m: <sip:c@h?d,e>,,", "Contact:", "Contact: *"
    )
    assert m.list("contact") == ['"A, B" <sip:a@h;x=",">', "sip:b@h", "<sip:c@h?d,e>", "*"]
    assert m.indexes("contact") == [0, 2, 3, 4]
    assert m.all("contact")[1:] == ["<sip:c@h?d,e>,,", "", "*"]
    assert (m.list("route"), m.indexes("route"), m.all("route")) == ([], [], [])


def test_the_top_via_is_the_first_of_a_line() -> None:
    m = request("Via: SIP/2.0/UDP a;branch=1 , SIP/2.0/UDP b;branch=2", "Via: SIP/2.0/UDP c;branch=3")
    assert (m.via.host, m.via.text) == ("a", "SIP/2.0/UDP a;branch=1")
    assert len(m.list("via")) == 3


def test_octets_are_kept_as_they_came() -> None:
    m = parse(b"OPTIONS sip:h SIP/2.0\r\nSubject: \xc3\xbc \xff\x00\x85\xa0\r\n\r\n")
    assert m.get("subject") == "\xc3\xbc \xff\x00\x85\xa0"
    assert m.lines == ["Subject: \xc3\xbc \xff\x00\x85\xa0"]


def test_lines_that_are_no_headers_have_no_name() -> None:
    m = request("no colon here", "Via\x00: x", ": x", "To: sip:a@h")
    assert list(m.names) == ["", "", "", "to"]
    assert m.lines[0] == "no colon here"


# ---- framing
@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\nOPTIONS sip:h SIP/2.0\r\nSubject: a\r\n b\r\n\r\nbody",
        b"OPTIONS sip:h SIP/2.0\nSubject: a\n b\n\nbody",
        b"\nOPTIONS sip:h SIP/2.0\nSubject: a\r\n b\r\n\nbody",
        b"OPTIONS sip:h SIP/2.0\r\nSubject: a\n b\r\n\r\nbody",
    ],
)
def test_empty_lines_before_and_bare_line_feeds_are_put_right(data: bytes) -> None:
    m = parse(data)
    assert m.lines == ["Subject: a\r\n b"]
    assert m.body == b"body"
    assert m.raw == b"OPTIONS sip:h SIP/2.0\r\nSubject: a\r\n b\r\n\r\nbody"


def test_headers_end_at_the_first_empty_line_however_it_is_written() -> None:
    m = parse(b"OPTIONS sip:h SIP/2.0\nSubject: a\n\nVia: hidden\r\n\r\n")
    assert list(m.names) == ["subject"]
    assert m.body == b"Via: hidden\r\n\r\n"


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_the_empty_line_may_be_missing_without_a_body(end: bytes) -> None:
    m = parse(b"OPTIONS sip:h SIP/2.0\r\nSubject: a" + end)
    assert (m.lines, m.body) == (["Subject: a"], b"")


def test_octets_behind_content_length_are_not_part_of_the_body() -> None:
    m = parse(b"OPTIONS sip:h SIP/2.0\r\nContent-Length: 3\r\n\r\nabcdef")
    assert (m.body, m.has_whole_body) == (b"abc", True)


def test_a_body_that_was_cut_off_is_known() -> None:
    m = parse(b"OPTIONS sip:h SIP/2.0\r\nContent-Length: 7\r\n\r\nabcdef")
    assert (m.body, m.body_size, m.has_whole_body) == (b"abcdef", 6, False)


def test_without_content_length_the_body_is_the_rest() -> None:
    m = parse(b"OPTIONS sip:h SIP/2.0\r\n\r\nabc")
    assert (m.content_length, m.body, m.has_whole_body) == (None, b"abc", True)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"\r\n\r\n", 400),
        (b"\x00", 400),
        (b"OPTIONS sip:h SIP/2.0\r\nVia: cut o", 400),
        (b"OPTIONS\r\n\r\n", 400),
        (b"OPTIONS sip:h\r\n\r\n", 400),
        (b" OPTIONS sip:h SIP/2.0\r\n\r\n", 400),
        (b"OPT/IONS sip:h SIP/2.0\r\n\r\n", 400),
        (b"OPTIONS  sip:h SIP/2.0\r\n\r\n", 400),
        (b"OPTIONS sip:h SIP/2.0 \r\n\r\n", 400),
        (b"OPTIONS sip:h;x y SIP/2.0\r\n\r\n", 400),
        (b"GET /index.html HTTP/1.1\r\n\r\n", 400),
        (b"OPTIONS sip:h SIP/2.x\r\n\r\n", 400),
        (b"OPTIONS sip:h SIP/3.0\r\n\r\n", 505),
        (b"OPTIONS sip:h sip/1.0\r\n\r\n", 505),
        (b"OPTIONS sip:h SIP/2.0\r\n Via: x\r\n\r\n", 400),
        (b"SIP/2.0 20 OK\r\n\r\n", 400),
        (b"SIP/2.0 2000 OK\r\n\r\n", 400),
        (b"SIP/2.0 099 OK\r\n\r\n", 400),
        (b"SIP/2.0 700 OK\r\n\r\n", 400),
        (b"SIP/2.0 2\xb20 OK\r\n\r\n", 400),
        (b"SIP/2.0  200 OK\r\n\r\n", 400),
        (b"SIP/3.0 200 OK\r\n\r\n", 400),
        (b"OPTIONS sip:h SIP/2.0\r\n" + b"a:b\r\n" * 5000 + b"\r\n", 513),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, status: int) -> None:
    with pytest.raises(ParseError) as error:
        parse(data)
    assert error.value.status == status


def test_the_version_is_read_in_any_case() -> None:
    assert request(start="OPTIONS sip:h sip/2.0").method == "OPTIONS"


def test_methods_are_tokens() -> None:
    assert request(start="!Method0123456789_*+`.%'~ sip:h SIP/2.0").method == "!Method0123456789_*+`.%'~"


# ---- parsed headers that are missing or malformed
PARSED = ("via", "from_", "to", "cseq", "call_id")


@pytest.mark.parametrize("name", PARSED)
def test_a_missing_header_is_an_error_when_it_is_asked_for(name: str) -> None:
    m = request("Subject: x")
    for _ in range(2):
        with pytest.raises(ParseError):
            getattr(m, name)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("Via:", "via"),
        ("Via: x", "via"),
        ("Via: ,SIP/2.0/UDP h", "via"),
        ("From:", "from_"),
        ('From: "x', "from_"),
        ("To: <x", "to"),
        ("Call-ID: ", "call_id"),
        ("CSeq: 1", "cseq"),
        ("CSeq: INVITE", "cseq"),
        ("CSeq: 1 INV ITE", "cseq"),
        ("CSeq: 1 INV\xecTE", "cseq"),
        ("CSeq: -1 INVITE", "cseq"),
        ("CSeq: \xb2 INVITE", "cseq"),
        ("CSeq: 4294967296 INVITE", "cseq"),
        ("CSeq: " + "1" * 5000 + " INVITE", "cseq"),
        ("Content-Length: -1", "content_length"),
        ("Content-Length: -1", "body"),
        ("Content-Length: x", "has_whole_body"),
        ("Content-Length: ", "content_length"),
        ("Content-Length: \xb2", "content_length"),
        ("Content-Length: " + "1" * 5000, "content_length"),
        ("Content-Length: 1, 1", "content_length"),
        ("Content-Length: 1\r\nl: 2", "content_length"),
    ],
)
def test_a_malformed_header_is_an_error_each_time_alike(line: str, name: str) -> None:
    m = request(line)
    for _ in range(2):
        with pytest.raises(ParseError):
            getattr(m, name)


def test_cseq_numbers_reach_to_32_bits() -> None:
    assert request("CSeq: 2147483648 INVITE").cseq == (2147483648, "INVITE")
    assert request("CSeq: 4294967295 INVITE").cseq == (4294967295, "INVITE")
    assert request("CSeq: 0009 NEW-METHOD").cseq == (9, "NEW-METHOD")


def test_content_length_may_stand_twice_when_it_says_the_same() -> None:
    assert request("Content-Length: 0", "l: 0").content_length == 0


# ---- edits
LINES = ["A: 1", "B: 2", "C: 3"]


def test_no_edits_change_nothing() -> None:
    edits = Edits()
    assert not edits
    assert edits.apply(LINES) == LINES


def test_edits_replace_remove_and_insert() -> None:
    edits = Edits()
    edits.replaced[1] = "B: two"
    assert edits.apply(LINES) == ["A: 1", "B: two", "C: 3"]
    edits.removed.add(0)
    edits.inserts += [(0, "X: 1"), (3, "Z: 1"), (0, "X: 2"), (2, "Y: 1\r\nY: 2")]
    assert edits
    assert edits.apply(LINES) == ["X: 1", "X: 2", "B: two", "Y: 1\r\nY: 2", "C: 3", "Z: 1"]
    assert LINES == ["A: 1", "B: 2", "C: 3"]


def test_a_copy_of_edits_is_independent() -> None:
    edits = Edits()
    edits.body = b"x"
    copy = edits.copy()
    copy.removed.add(0)
    copy.replaced[1] = "B: two"
    copy.inserts.append((3, "D: 4"))
    copy.body = b"y"
    assert edits
    assert (edits.apply(LINES), edits.body) == (LINES, b"x")


@pytest.mark.parametrize("edit", ["removed", "replaced", "inserts", "body"])
def test_edits_of_each_kind_count(edit: str) -> None:
    edits = Edits()
    if edit == "removed":
        edits.removed.add(0)
    elif edit == "replaced":
        edits.replaced[0] = "A: x"
    elif edit == "inserts":
        edits.inserts.append((0, "X: 1"))
    else:
        edits.body = b""
    assert edits


def test_join_folded_needs_a_line_to_continue() -> None:
    assert join_folded(["a", " b", "c"]) == ["a\r\n b", "c"]
    with pytest.raises(ParseError):
        join_folded([" a"])


@pytest.mark.pure
def test_messages_share_one_base() -> None:
    assert not Message.is_request
    assert issubclass(Request, Message)
    assert issubclass(Response, Message)
