"""URIs: parsed, escaped, compared."""

from __future__ import annotations

import pytest

from polykemi.errors import ParseError
from polykemi.sip.uri import parse_uri, same_uri, unescape


@pytest.mark.parametrize(
    ("text", "scheme", "user", "password", "host", "port", "params", "headers"),
    [
        ("sip:atlanta.com", "sip", "", "", "atlanta.com", 0, "", ""),
        ("SIPS:alice@atlanta.com:5062", "sips", "alice", "", "atlanta.com", 5062, "", ""),
        (
            "sip:alice:secretword@atlanta.com;transport=tcp",
            "sip",
            "alice",
            "secretword",
            "atlanta.com",
            0,
            "transport=tcp",
            "",
        ),
        (
            "sips:alice@atlanta.com?subject=a%20b&priority=urgent",
            "sips",
            "alice",
            "",
            "atlanta.com",
            0,
            "",
            "subject=a%20b&priority=urgent",
        ),
        (
            "sip:atlanta.com;method=REGISTER?to=alice%40atlanta.com",
            "sip",
            "",
            "",
            "atlanta.com",
            0,
            "method=REGISTER",
            "to=alice%40atlanta.com",
        ),
        ("sip:alice;day=tuesday@atlanta.com", "sip", "alice;day=tuesday", "", "atlanta.com", 0, "", ""),
        ("sip:a?b=c;d@h;p", "sip", "a?b=c;d", "", "h", 0, "p", ""),
        ("sip:sips%3Auser%40example.com@example.net", "sip", "sips%3Auser%40example.com", "", "example.net", 0, "", ""),
        ("sip:[2001:db8::1]:5070;lr", "sip", "", "", "[2001:db8::1]", 5070, "lr", ""),
        ("sip:a@[::ffff:192.0.2.1]", "sip", "a", "", "[::ffff:192.0.2.1]", 0, "", ""),
        ("sip:a:@h", "sip", "a", "", "h", 0, "", ""),
        ("sip:j\xc3\xbc\xff@h", "sip", "j\xc3\xbc\xff", "", "h", 0, "", ""),
        ("sip:a_b.example.com.", "sip", "", "", "a_b.example.com.", 0, "", ""),
        ("sip:a@h?x:y", "sip", "a", "", "h", 0, "", "x:y"),
        ("tel:+49-30-1234;phone-context=x", "tel", "+49-30-1234", "", "", 0, "phone-context=x", ""),
        ("urn:service:sos", "urn", "", "", "service:sos", 0, "", ""),
        ("soap.beep://192.0.2.103:3002", "soap.beep", "", "", "//192.0.2.103:3002", 0, "", ""),
        ("sip:" + "u" * 300 + "@h", "sip", "u" * 300, "", "h", 0, "", ""),
    ],
)
def test_uri_is_taken_apart(
    text: str, scheme: str, user: str, password: str, host: str, port: int, params: str, headers: str
) -> None:
    uri = parse_uri(text)
    assert (uri.scheme, uri.user, uri.password, uri.host) == (scheme, user, password, host)
    assert (uri.port, uri.params, uri.headers, str(uri)) == (port, params, headers, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sip",
        "sip:",
        ":a@b",
        "*",
        "sip:@h",
        "sip:a@",
        "sip:a@b@c",
        "sip:a@b?x=c@d",
        "sip:a b@h",
        "sip:a@h;x=\r\nVia: y",
        "sip:a\x00@h",
        "<sip:a@h>",
        'sip:"a"@h',
        "sip:a@h:",
        "sip:a@h:x",
        "sip:a@h:65536",
        "sip:a@[::1",
        "sip:a@[::1]5060",
        "sip:a@[x]",
        "sip:a@h\xe9",
        "sip:a@::1",
        "1ip:a@h",
        "s\xefp:a@h",
        "tel:",
        "tel:;x=y",
    ],
)
def test_malformed_uri_is_refused_each_time_alike(text: str) -> None:
    for _ in range(2):
        with pytest.raises(ParseError):
            parse_uri(text)


def test_parameters_are_found_in_any_case() -> None:
    uri = parse_uri("sip:a@h;Transport=TCP;lr;maddr=10.0.0.1")
    assert (uri.transport, uri.is_loose, uri.param("maddr"), uri.param("ttl")) == ("tcp", True, "10.0.0.1", None)
    assert uri.parsed_params == {"transport": "TCP", "lr": None, "maddr": "10.0.0.1"}
    plain = parse_uri("sip:h")
    assert (plain.transport, plain.is_loose, plain.param("lr"), plain.parsed_params) == ("", False, None, {})


def test_port_follows_from_scheme_and_transport() -> None:
    assert parse_uri("sip:h").effective_port == 5060
    assert parse_uri("sips:h").effective_port == 5061
    assert parse_uri("sip:h;transport=TLS").effective_port == 5061
    assert parse_uri("sips:h:5060").effective_port == 5060


def test_wrong_escapes_stay_as_they_are() -> None:
    assert unescape("%61%6Cice%40h") == "alice@h"
    assert unescape("100%") == "100%"
    assert unescape("%zz%4%%41") == "%zz%4%A"
    assert unescape("plain") == "plain"


# the first nine pairs are the examples of RFC 3261 section 19.1.4
@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp", True),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5", True),
        ("sip:carol@chicago.com;newparam=5", "sip:carol@chicago.com;security=on", True),
        (
            "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
            "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
            True,
        ),
        (
            "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
            "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
            True,
        ),
        ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP", False),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060", False),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp", False),
        ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting", False),
        ("sip:bob@biloxi.com:6000;transport=tcp", "sip:bob@biloxi.com:6000;transport=TCP", True),
        ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off", False),
        ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4", False),
        ("sip:a@h", "sips:a@h", False),
        ("sip:a@h", "sip:a:b@h", False),
        ("sip:a%3Bb@h", "sip:a;b@h", False),
        ("sip:a%3bb@h", "sip:a%3Bb@h", True),
        ("sip:a%2541@h", "sip:a%41@h", False),
        ("sip:a@h;lr", "sip:a@h;LR;x=1", True),
        ("sip:a@h;maddr=1", "sip:a@h", False),
        ("sip:a@h?x=1&y=2", "sip:a@h?X=1&y=3", False),
        ("tel:+1-201-555-0123", "tel:+1(201)5550123", True),
        ("tel:+1-201-555-0123;ext=5;a=b", "tel:+12015550123;A=b;EXT=5", True),
        ("tel:+12015550123;ext=5", "tel:+12015550123", False),
        ("tel:+12015550123", "tel:+12015550124", False),
        ("urn:service:sos", "urn:service:sos", True),
        ("urn:service:sos", "urn:service:SOS", False),
        ("not a uri", "not a uri", True),
        ("not a uri", "sip:a@h", False),
    ],
)
def test_uris_are_compared_by_the_rules(one: str, other: str, same: bool) -> None:
    assert same_uri(one, other) is same
    assert same_uri(other, one) is same


def test_parts_of_a_uri_are_replaced_and_taken_away() -> None:
    uri = parse_uri("SIP:a:pw@h:5070;lr?x=y")
    assert uri.changed() == "sip:a:pw@h:5070;lr?x=y"
    assert uri.changed(user="b", host="[::1]", port=0, params="") == "sip:b:pw@[::1]?x=y"
    assert uri.changed(user="") == "sip:h:5070;lr?x=y"
    assert parse_uri("sip:h").changed(user="a", port=5062, params="lr") == "sip:a@h:5062;lr"
    with pytest.raises(ParseError):
        parse_uri("tel:+49").changed(user="x")
