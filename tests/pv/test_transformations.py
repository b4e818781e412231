"""Transformations beyond what ``answers/`` holds: edges, and those that Kamailio 5.6 does not have."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polykemi.kemi.registry import Xval
from polykemi.pv.classes.times import format_time, local
from polykemi.pv.compiler import Variables
from polykemi.pv.transformations import STEPS
from tests import support

CTX = support.request_context(support.message("INVITE sip:bob@h.test SIP/2.0"))


def transform(value: Xval, step: str) -> Xval:
    variables = Variables()
    name = f"$(vn(x){{{step}}})"
    accessor = variables.compile("$vn(x)")
    assert accessor is not None
    assert accessor.set is not None
    accessor.set(CTX, value)
    assert variables.compile(name) is not None, step
    return variables.getters[name](CTX)


@pytest.mark.parametrize(
    ("value", "step", "result"),
    [
        ("abc", "s.sha1", "a9993e364706816aba3e25717850c26c9cd0d89d"),
        ("abc", "s.sha3,256", "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532"),
        ("abc", "s.sha3,7", None),
        ("abc", "s.crc32", 891568578),
        ("\xff\xfe", "s.encode.hexa", "fffe"),
        ("fffe", "s.decode.hexa", "\xff\xfe"),
        ("fff", "s.decode.hexa", None),
        ("hello", "s.encode.7bit", "E8329BFD06"),
        ("E8329BFD06", "s.decode.7bit", "hello"),
        ("x", "s.decode.7bit", None),
        ("\0\0ab", "s.encode.base58", "118Qq"),
        ("118Qq", "s.decode.base58", "\0\0ab"),
        ("0", "s.decode.base58", None),
        ("\xff\xef", "s.encode.base64", "/+8="),
        ("\xff\xef", "s.encode.base64url", "_-8="),
        ("\xff\xef", "s.encode.base64urlt", "_-8"),
        ("_-8", "s.decode.base64urlt", "\xff\xef"),
        ("_-8=", "s.decode.base64url", "\xff\xef"),
        ("*", "s.decode.base64", None),
        ("A\xc4z", "s.tolower", "a\xc4z"),
        ("a\xe4z", "s.toupper", "A\xe4Z"),
        ("a\r\n\t b  c", "s.rmhdws", "a b c"),
        ("a\r\n  b\r\nc", "s.rmhlws", "ab\r\nc"),
        ("a\r\nb", "s.escape.crlf", r"a\r\nb"),
        (r"a\r\nb", "s.unescape.crlf", "a\r\nb"),
        ("a\0'b", "s.escape.common", r"a\0\'b"),
        (r"a\0\'b\x", "s.unescape.common", "a\0'b\\x"),
        ("a+b%20c%zz", "s.urldecode.param", "a b c%zz"),
        ("a b/\xff", "s.urlencode.param", "a%20b%2f%ff"),
        ("a%41%4", "s.unescape.user", None),
        ("abcdefgh", "s.fmtlines,3,2", "abc\r\n  def\r\n  gh"),
        ("abcdefgh", "s.fmtlinet,3,1", "abc\r\n\tdef\r\n\tgh"),
        ("", "s.fmtlines,3", ""),
        ("abc", "s.fmtlines,0", None),
        ("abc", "s.fmtlines,1,99999", None),
        ("abc", "s.charat,1", "b"),
        ("abc", "s.charat,3", None),
        ("abc", "s.byteat,0", 97),
        ("abc", "s.byteat,-1", None),
        ("a:b;c", "s.selectsw,2,:;", "c"),
        ("a:b;c", "s.selectsw,2,", None),
        ("abcdefcgh", "s.rafter,c", "gh"),
        ("abcdefcgh", "s.rbefore,c", "abcdef"),
        ("abc", "s.rbefore,x", "abc"),
        ("abc", "s.rafter,x", ""),
        ("abc", "s.prefixes,0", "a,ab,abc"),
        ("aaa", "s.replace,a,bb", "bbbbbb"),
        ("aaa", "s.replace,,b", "aaa"),
        ("a" * 40000, "s.replace,a,bb", None),
        ("aaa", "s.rm,", "aaa"),
        ("'x'", "s.unquote", "x"),
        ("\"x'", "s.unquote", "\"x'"),
        ("{x}", "s.unbracket", "x"),
        ("<x)", "s.unbracket", "<x)"),
        ("", "s.int", 0),
        ("-5", "s.int", -5),
        ("+5", "s.intv", 5),
        ("5x", "s.int", None),
        ("9" * 30, "s.int", None),
        ("x", "s.ftime,%Y", None),
        ("1" * 15, "s.ftime,%Y", None),
        ("5", "s.len", 1),
        (500, "s.len", 3),
        ("a\nb\r\nc\n", "line.count", "3"),
        ("a\nb\r\nc\n", "line.at,1", "b"),
        ("a\nb\r\nc\n", "line.at,-1", "c"),
        ("a\nb\r\nc\n", "line.at,3", ""),
        ("", "line.count", None),
        ("sip:a@h:5;x=y;lr;transport=tcp?q=1", "uri.rmparam,x", "sip:a@h:5;lr;transport=tcp?q=1"),
        ("sip:a@h;x=y", "uri.rmparam,X", "sip:a@h"),
        ("sip:a@h", "uri.rmparam,x", "sip:a@h"),
        ("sip:a:p@h:5;x=y;transport=tcp", "uri.saor", "sip:a@h"),
        ("sip:a:p@h:5;x=y;transport=tcp", "uri.suri", "sip:a@h:5;transport=tcp"),
        ("sip:a:p@h:5;x=y;transport=tcp", "uri.duri", "sip:h:5;transport=tcp"),
        ("sip:h", "uri.suri", "sip:h"),
        ("tel:+1", "uri.saor", "tel:+1"),
        ("sip:h:5;transport=ws", "uri.tosocket", "ws:h:5"),
        ("sip:h:5", "uri.tosocket", ""),
        ("sip:h", "uri.param,LR", ""),
        ("rubbish", "uri.suri", None),
        ("urn:service:sos", "uri.host", "sos"),
        ("a=1;b", "param.value,b", ""),
        ("a=1;a=2", "param.value,a", "2"),
        ("a=1&b=2", "param.value,b,&", "2"),
        ("", "param.count", None),
        ('"A, B" <sip:a@b>;x, <sip:c@d>', "nameaddr.uri", "sip:a@b"),
        ('"A > B" <sip:a@b>;x', "nameaddr.len", 17),
        ("sip:a@b", "nameaddr.len", 7),
        ("<sip:a", "nameaddr.uri", None),
        ("<sip:a", "nameaddr.len", None),
        ("notauri", "tobody.user", None),
        ("sip:h;transport=tcp", "urialias.encode", "h~5060~2"),
        ("rubbish", "urialias.encode", ""),
        ("tel:+1", "urialias.encode", ""),
        ("127.0.0.1~5060~2", "urialias.decode", "sip:127.0.0.1:5060;transport=tcp"),
        ("127.0.0.1~5060~1", "urialias.decode", "sip:127.0.0.1:5060"),
        ("h~5060~9", "urialias.decode", None),
        ("h~x~1", "urialias.decode", None),
        ("udp:h:5", "sock.host", "h"),
        ("udp:h:5", "sock.port", "5"),
        ("udp:[::1]", "sock.host", "[::1]"),
        ("udp:h", "sock.proto", "udp"),
        ("tcp:[::1]:5", "sock.touri", "sip:[::1]:5;transport=tcp"),
        ("tcp:h", "sock.touri", "sip:h;transport=tcp"),
        ("h:5", "sock.host", "h"),
        (None, "val.n0", 0),
        (7, "val.n0", 7),
        (None, "val.ne", ""),
        ("x", "val.ne", "x"),
        (None, "val.json", ""),
        (7, "val.json", 7),
        ('"a"\n\x01\xff', "val.json", '\\"a\\"\\n\\u0001\xff'),
        (None, "val.jsonqe", '""'),
        ("a\\", "val.jsonqe", '"a\\\\"'),
        (7, "val.jsonqe", 7),
        ("a12b3", "num.fdigit", 1),
        (-456, "num.ldigit", 6),
        (None, "num.fdigit", None),
        ("abc", "num.ldigit", None),
    ],
)
def test_a_transformation(value: Xval, step: str, result: Xval) -> None:
    assert transform(value, step) == result


def test_all_documented_string_transformations_give_null_for_null() -> None:
    arguments = {
        "s.replace": ",a,b",
        "s.substr": ",0,1",
        "s.select": ",0,:",
        "s.selectsw": ",0,:",
        "re.subst": ",/a/b/",
    }
    for name in STEPS:
        step = name
        if name.startswith(("val.", "num.")):
            continue
        for more in (arguments.get(name, ""), ",1", ",x"):
            if Variables().compile(f"$(null{{{name}{more}}})") is not None:
                step = name + more
                break
        assert transform(None, step) is None, name


def test_seconds_are_formatted_in_local_time() -> None:
    expected = dt.datetime.fromtimestamp(86400).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    assert transform("86400", "s.ftime,%Y-%m-%d %H:%M:%S") == expected


def test_a_format_that_the_locale_does_not_take_gives_null() -> None:
    assert format_time(local(0), "\ud800") is None


@given(st.text(st.characters(max_codepoint=255), max_size=40))
def test_what_is_encoded_is_decoded_again(text: str) -> None:
    for code in ("hexa", "base58", "base64", "base64t", "base64url", "base64urlt"):
        encoded = transform(text, f"s.encode.{code}")
        assert isinstance(encoded, str)
        assert encoded.isascii()
        nothing = None if "url" in code else ""  # base64url has no code of an empty text
        assert transform(encoded, f"s.decode.{code}") == (text or nothing)
    printable = all(" " <= c <= "~" for c in text)
    for code in ("user", "param"):
        assert transform(transform(text, f"s.escape.{code}"), f"s.unescape.{code}") == (text if printable else None)
    assert transform(transform(text, "s.escape.common"), "s.unescape.common") == text


@given(st.text(st.characters(max_codepoint=255), max_size=40), st.sampled_from(sorted(STEPS)))
def test_no_value_makes_a_transformation_fail(text: str, name: str) -> None:
    for more in ("", ",1", ",x", ",1,2", ",1,x", ",x,y", ",/a/b/g"):
        variables = Variables()
        if variables.compile(f"$(vn(x){{{name}{more}}})") is not None:
            assert isinstance(transform(text, name + more), (str, int, type(None)))
            break
    else:
        raise AssertionError(f"{name} takes none of the parameters tried")


@pytest.mark.parametrize(
    "uri, parts",  # as Kamailio 5.6.3 gives them
    [
        ("msrp://alice@atlanta.test:7654/jshA;tcp;x=1", "alice atlanta.test 7654 jshA tcp msrp tcp;x=1 alice"),
        ("msrps://host.test/s1;ws", "- host.test - s1 ws msrps - -"),
        ("msrp://host.test:99;tcp", "- host.test 99 - tcp msrp - -"),
        ("msrp://[2001:db8::1]:99/x;tcp", "- [2001:db8::1] 99 x tcp msrp - -"),
        ("msrp://u:p@host/x", "u host - x - msrp - u:p"),
        ("msrp://u:p@host/x;sctp;y", "u host - x sctp msrp y u:p"),
    ],
)
def test_the_parts_of_msrp_uris(uri: str, parts: str) -> None:
    names = ("user", "host", "port", "session", "proto", "scheme", "params", "userinfo")
    assert [transform(uri, f"msrpuri.{name}") or "-" for name in names] == parts.split(" ")
    assert transform("sip:a@b", "msrpuri.host") is None
    assert transform("", "msrpuri.host") is None
