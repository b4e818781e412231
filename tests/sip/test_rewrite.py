"""URIs that change inside of header values."""

from __future__ import annotations

import pytest

from polykemi.errors import ParseError
from polykemi.sip.flow import Flow, Listener, bracketed
from polykemi.sip.header import NameAddr, parse_name_addr
from polykemi.sip.message import Edits, Message, parse
from polykemi.sip.rewrite import contact_alias, edited_value, rewrite_uris, with_uri, with_uri_param


def message(*contacts: str) -> Message:
    return parse("\r\n".join(["OPTIONS sip:h SIP/2.0", "To: sip:t@h", *contacts, "", ""]).encode())


def shout(value: NameAddr) -> str | None:
    return value.uri.replace("a@h", "A@H") if "a@h" in value.uri else None


def test_each_value_of_each_line_is_offered_and_those_that_change_are_rewritten() -> None:
    m = message('m :"A, B" <sip:a@h>;q=1 , sip:b@h', "Contact: sip:c@h", "Contact: sip:a@h", "Contact: *")
    edits = Edits()
    assert rewrite_uris(m, edits, "contact", shout) == 4
    assert edits.apply(m.lines) == [
        "To: sip:t@h",
        'm: "A, B" <sip:A@H>;q=1, sip:b@h',
        "Contact: sip:c@h",
        "Contact: <sip:A@H>",
        "Contact: *",
    ]


def test_a_second_change_sees_the_first_and_removed_lines_are_left_alone() -> None:
    m = message("Contact: <sip:a@h>", "Contact: <sip:a@h>")
    edits = Edits()
    edits.removed.add(2)
    assert rewrite_uris(m, edits, "contact", lambda value: f"{value.uri};x") == 1
    assert rewrite_uris(m, edits, "contact", lambda value: f"{value.uri};y") == 1
    assert edited_value(m, edits, 1) == "<sip:a@h;x;y>"
    assert edited_value(m, edits, 2) == "<sip:a@h>"


def test_only_the_first_value_is_offered_when_that_is_wanted() -> None:
    m = message("Contact: *", "Contact: sip:c@h, sip:d@h", "Contact: sip:e@h")
    edits = Edits()
    assert rewrite_uris(m, edits, "contact", lambda value: "<sip:x@h>;new", first_only=True) == 1
    assert edits.apply(m.lines)[2:] == ["Contact: <sip:x@h>;new, sip:d@h", "Contact: sip:e@h"]


def test_a_malformed_value_is_a_parse_error() -> None:
    with pytest.raises(ParseError):
        rewrite_uris(message("Contact: <sip:a"), Edits(), "contact", shout)


@pytest.mark.parametrize("uri", ["sip:a\r\nX: y", "sip:a\nX: y", "<sip:a>\r"])
def test_a_uri_of_several_lines_is_a_parse_error(uri: str) -> None:
    message = parse(b"OPTIONS sip:h SIP/2.0\r\nm: <sip:b@h>\r\n\r\n")
    edits = Edits()
    with pytest.raises(ParseError):
        rewrite_uris(message, edits, "contact", lambda value: uri)
    assert not edits


def test_another_uri_keeps_display_name_and_parameters() -> None:
    value = parse_name_addr('"A" <sip:a@h;lr>;tag=1')
    assert with_uri(value, "sip:b@h") == '"A" <sip:b@h>;tag=1'
    assert with_uri(value, "sip:b@h", "") == '"A" <sip:b@h>'
    assert with_uri(parse_name_addr("sip:a@h"), "sip:b@h", "x") == "<sip:b@h>;x"


def test_a_parameter_goes_before_the_headers_of_a_uri() -> None:
    assert with_uri_param("sip:a@h;lr", "alias=1") == "sip:a@h;lr;alias=1"
    assert with_uri_param("sip:a@h?x=y", "alias=1") == "sip:a@h;alias=1?x=y"
    assert with_uri_param("sip:a?b@h?x=y", "alias=1") == "sip:a?b@h;alias=1?x=y"


def test_an_alias_says_where_the_peer_really_is() -> None:
    assert contact_alias(Flow(Listener("udp", "192.0.2.1", 5060), "10.0.0.9", 4242)) == "alias=10.0.0.9~4242~1"
    assert contact_alias(Flow(Listener("tcp", "::1", 5060), "2001:db8::9", 4242)) == "alias=[2001:db8::9]~4242~2"
    assert bracketed("h") == "h"
