"""Header values: lists, parameters, name-addr, Via."""

from __future__ import annotations

import pytest

from polykemi.errors import ParseError
from polykemi.sip.header import (
    FOLDED,
    Via,
    canonical_names,
    first_value,
    is_header_lines,
    parse_name_addr,
    parse_params,
    split_exact,
    split_quoted,
    unfold,
    unquote,
)


# ---- names
@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Via", "via"),
        ("v", "via"),
        ("CALL-ID \t", "call-id"),
        ("i", "call-id"),
        ("X-Any.Thing", "x-any.thing"),
        ("T ", "to"),
        ("", ""),
        ("no name", ""),
        ("F\xe4x", ""),
        ("X-" + "n" * 100, "x-" + "n" * 100),
        (" via", FOLDED),
        ("\tvia", FOLDED),
    ],
)
def test_names_are_long_and_lower_case(written: str, name: str) -> None:
    assert canonical_names[written] == name
    assert canonical_names[written] == name


def test_names_that_never_repeat_do_not_fill_the_memory() -> None:
    for i in range(5000):
        assert canonical_names[f"X-{i}"] == f"x-{i}"
    assert len(canonical_names) <= 2048
    assert canonical_names["Via"] == "via"


# ---- text
def test_folding_is_read_as_one_space() -> None:
    assert unfold("I know\r\n \t you're\r\n there") == "I know you're there"
    assert unfold("a\r\n \r\n b") == "a b"
    assert unfold("a  b") == "a  b"


def test_unquote_undoes_escapes() -> None:
    assert unquote('"a \\"b\\" \\\\c"') == 'a "b" \\c'
    assert unquote('"plain"') == "plain"
    assert unquote("token") == "token"
    assert unquote('"') == '"'


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a, b ,c", ["a", "b", "c"]),
        ("", [""]),
        ("a,", ["a", ""]),
        (',"a"', ["", '"a"']),
        ('"a,b",<c,d>,e', ['"a,b"', "<c,d>", "e"]),
        ('"a\\",b",c', ['"a\\",b"', "c"]),
        ('"a\\\\",b', ['"a\\\\"', "b"]),
        ('a,"open,b', ["a", '"open,b']),
        ('a,"open\\', ["a", '"open\\']),
        ("a,<open,b", ["a", "<open,b"]),
        ('<a">,b,<c">', ['<a">', "b", '<c">']),  # no quoted-string starts inside of a URI
        ("a>,b", ["a>", "b"]),
        ('"Watson, T." <sip:t@x>;a, sip:b', ['"Watson, T." <sip:t@x>;a', "sip:b"]),
    ],
)
def test_lists_are_split_outside_of_quotes_and_brackets(text: str, parts: list[str]) -> None:
    assert split_quoted(text, ",") == parts
    assert ",".join(split_exact(text, ",")) == text
    assert first_value(text).strip() == parts[0]


def test_other_separators_are_plain_text_to_a_list() -> None:
    assert split_quoted('a="x;y";b|c', ";") == ['a="x;y"', "b|c"]
    assert split_quoted('"a|b"|c', "|") == ['"a|b"', "c"]


def test_parameters() -> None:
    assert parse_params(';Tag=1a ; lr;x= "a;b" ;;empty=;=y') == {"tag": "1a", "lr": None, "x": '"a;b"', "empty": ""}
    assert parse_params("") == {}
    assert parse_params("a=1;A=2") == {"a": "2"}


# ---- name-addr
@pytest.mark.parametrize(
    ("text", "display", "uri", "params"),
    [
        ("<sip:a@b>", "", "sip:a@b", ""),
        ("sip:a@b;tag=1", "", "sip:a@b", "tag=1"),
        ('"Bob" <sip:a@b;lr>;tag=1', '"Bob"', "sip:a@b;lr", "tag=1"),
        ("Bob  B. <sip:a@b> ; tag=1", "Bob  B.", "sip:a@b", "tag=1"),
        ("Bob<sip:a@b>;tag=1", "Bob", "sip:a@b", "tag=1"),
        ('"<x>, \\"y\\"" <sip:a@b>', '"<x>, \\"y\\""', "sip:a@b", ""),
        ('"a" "<b" <sip:a@b>', '"a" "<b"', "sip:a@b", ""),
        ('<sip:a@b>;+sip.instance="<urn:uuid:1>"', "", "sip:a@b", '+sip.instance="<urn:uuid:1>"'),
        ('sip:a@b;+sip.instance="<urn:uuid:1>"', "", "sip:a@b", '+sip.instance="<urn:uuid:1>"'),
        ("< sip:a@b >", "", "sip:a@b", ""),
        ("*", "", "*", ""),
        ("tel:+49301234;tag=x", "", "tel:+49301234", "tag=x"),
        ("<sip:a@b?Subject=x,y>", "", "sip:a@b?Subject=x,y", ""),
        ("<sip:a@b>;", "", "sip:a@b", ""),
        ('"J\xc3\xbcrgen\xff" <sip:a@b>', '"J\xc3\xbcrgen\xff"', "sip:a@b", ""),
        ('"' + "x" * 300 + '" <sip:a@b>', '"' + "x" * 300 + '"', "sip:a@b", ""),
    ],
)
def test_name_addr_is_taken_apart(text: str, display: str, uri: str, params: str) -> None:
    got = parse_name_addr(text)
    assert (got.display, got.uri, got.params) == (display, uri, params)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ";tag=1",
        "<>",
        "<sip:a@b",
        '"Bob <sip:a@b>',
        '"Bob" sip:a@b',
        '"Bob"',
        "<sip:a@b> x",
        "sip:a@b x",
        "sip:a@b>",
        "sip:a@b?Route=x",
        "sip:a,b@c",
        '"Bob" <sip:a@b',
    ],
)
def test_malformed_name_addr_is_refused_each_time_alike(text: str) -> None:
    for _ in range(2):
        with pytest.raises(ParseError):
            parse_name_addr(text)


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("<sip:a@b>", None),
        ("<sip:a@b>;tag=1x", "1x"),
        ("<sip:a@b>;tag= 1x", "1x"),
        ("<sip:a@b>;TAG=1x", "1x"),
        ("<sip:a@b>;x=y;tAg = 1x", "1x"),
        ("<sip:a@b>;tag=1x;x=y", "1x"),
        ("<sip:a@b;tag=no>", None),
        ("<sip:a@b>;tag=", None),
        ("<sip:a@b>;tag", None),
        ('"tag=no" <sip:a@b>;x="tag=no;tag=neither"', None),
        ("sip:a@b;tag=1x", "1x"),
    ],
)
def test_tag_is_found_in_any_case_and_place(text: str, tag: str | None) -> None:
    assert parse_name_addr(text).tag == tag


def test_header_parameters_with_and_without_value() -> None:
    got = parse_name_addr("<sip:a@b>;q=0.5;x")
    assert (got.param("q"), got.param("x"), got.param("y")) == ("0.5", "", None)


# ---- Via
@pytest.mark.parametrize(
    ("text", "transport", "host", "port", "branch"),
    [
        ("SIP/2.0/UDP 10.0.0.1:5062;branch=z9hG4bK1;rport", "UDP", "10.0.0.1", 5062, "z9hG4bK1"),
        ("SIP/2.0/UDP 10.0.0.1;rport;branch=z9hG4bK1", "UDP", "10.0.0.1", 0, "z9hG4bK1"),
        ("SIP/2.0/TCP [2001:db8::1]:5060;branch=z9hG4bK1", "TCP", "[2001:db8::1]", 5060, "z9hG4bK1"),
        ("SIP/2.0/TCP [2001:db8::1]", "TCP", "[2001:db8::1]", 0, ""),
        ("SIP/2.0/TCP [::1] : 5060 ;a", "TCP", "[::1]", 5060, ""),
        (
            "SIP / 2.0 / UDP first.example.com: 4000;ttl=16 ;maddr=224.2.0.1 ;branch = b.1",
            "UDP",
            "first.example.com",
            4000,
            "b.1",
        ),
        ("sip/2.0/udp host.example.com", "UDP", "host.example.com", 0, ""),
        ("SIP/2.0/UDP\thost : 5061", "UDP", "host", 5061, ""),
        ("SIP/2.0/UDP   host", "UDP", "host", 0, ""),
        ("SIP/2.0/tls-sctp host", "TLS-SCTP", "host", 0, ""),
        ("SIP/2.0/UDP df7jal23ls0d.invalid;BRANCH=x", "UDP", "df7jal23ls0d.invalid", 0, "x"),
        ('SIP/2.0/UDP h;x=";branch=no";branch=yes', "UDP", "h", 0, "yes"),
        ("SIP/2.0/UDP h;branch", "UDP", "h", 0, ""),
        ("SIP/2.0/UDP h;branch=", "UDP", "h", 0, ""),
        ("SIP/2.0/UDP h;branch= z9hG4bK1 ", "UDP", "h", 0, "z9hG4bK1"),
        ("SIP/2.0/UDP h:0", "UDP", "h", 0, ""),
        ("SIP/2.0/UDP " + "h" * 100, "UDP", "h" * 100, 0, ""),
    ],
)
def test_via_is_read_in_all_its_forms(text: str, transport: str, host: str, port: int, branch: str) -> None:
    via = Via(text)
    assert (via.transport, via.host, via.port, via.branch, via.text) == (transport, host, port, branch, text)


def test_via_parameters() -> None:
    via = Via("SIP/2.0/UDP h;rport;received=10.1.1.1;branch=z9hG4bK1")
    assert (via.param("rport"), via.param("received"), via.param("ttl")) == ("", "10.1.1.1", None)
    assert via.params == "rport;received=10.1.1.1;branch=z9hG4bK1"
    alone = Via("SIP/2.0/UDP h;branch=z9hG4bK1")
    assert (alone.param("branch"), alone.param("rport"), alone.param("received")) == ("z9hG4bK1", None, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SIP/2.0/UDP",
        "SIP/2.0/UDP ",
        "SIP/2.0/UDP ;branch=x",
        "SIP/3:0/UDP host",
        "HTTP/2.0/UDP host",
        "SIP/2.0/U=P host",
        "SIP/2.0/\xff host",
        "SIP/2.0 host",
        "SIP/2.0/UDP host:",
        "SIP/2.0/UDP host:x",
        "SIP/2.0/UDP host:65536",
        "SIP/2.0/UDP host:000005060",
        "SIP/2.0/UDP ho st",
        "SIP/2.0/UDP h@st",
        "SIP/2.0/UDP [::1",
        "SIP/2.0/UDP [::1]5060",
        "SIP/2.0/UDP [::1]:x",
        "SIP/2.0/UDP [host]",
        "SIP/2.0/UDP \xe9",
        "SIP/2.0/UDP 1:2:3",
        'SIP/2.0/UDP host;branch="z9hG4bK1;rport',  # received, written behind it, would stand inside of the quotes
        "SIP/2.0/UDP host;branch=z9h<bK1;rport",
    ],
)
def test_malformed_via_is_refused_each_time_alike(text: str) -> None:
    for _ in range(2):
        with pytest.raises(ParseError):
            Via(text)


@pytest.mark.parametrize(
    ("text", "are_lines"),
    [
        ("A: b", True),
        ("A: b\r\nC:", True),
        ("A :\tb\r\n c\r\n\td\r\nE: f", True),
        ("A\r\n : b", True),
        ("A: b\r\n", False),
        ("A: b\r\n\r\nC: d", False),
        ("A: b\nC: d", False),
        ("A: b\rC: d", False),
        ("A: b\r\nno header", False),
        (" A: b", False),
        ("", False),
        ("A: b\r\n:c", False),
    ],
)
def test_header_lines_are_whole(text: str, are_lines: bool) -> None:
    assert is_header_lines(text) is are_lines
    assert not is_header_lines(text + "\r\nX" * 10_000)  # and that takes no time
