"""Digest: the RFCs' own examples, and what phones send."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from polykemi.errors import ParseError
from polykemi.sip import digest
from polykemi.sip.digest import challenge, check, ha1, is_supported, parse_credentials, quote, response

RFC2617 = (
    'Digest username="Mufasa", realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", '
    'uri="/dir/index.html", qop=auth, nc=00000001, cnonce="0a4f113b", '
    'response="6629fae49393a05397450978507c4ef1", opaque="5ccc069c403ebaf9f0171e9517f40e41"'
)
RFC7616: dict[str, Any] = {
    "nonce": "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
    "method": "GET",
    "uri": "/dir/index.html",
    "qop": "auth",
    "nc": "00000001",
    "cnonce": "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
}


def h(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def test_rfc_2617_section_3_5_is_accepted() -> None:
    credentials = parse_credentials(RFC2617)
    password = ha1("Mufasa", "testrealm@host.com", "Circle Of Life")
    assert password == "939e7578ed9e3c518a452acee763bce9"
    assert check(credentials, password, "GET")
    assert not check(credentials, password, "POST")
    assert not check(credentials, ha1("Mufasa", "testrealm@host.com", "Circle of Life"), "GET")


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_rfc_7616_section_3_9_1_gives_its_responses(algorithm: str, expected: str) -> None:
    password = ha1("Mufasa", "http-auth@example.org", "Circle of Life", algorithm)
    assert response(password, algorithm=algorithm, **RFC7616) == expected


def test_response_without_qop_is_that_of_rfc_2069() -> None:
    assert response("a" * 32, "n", "REGISTER", "sip:x") == h(f"{'a' * 32}:n:{h('REGISTER:sip:x')}")


@pytest.mark.parametrize("algorithm", ["MD5-sess", "md5-SESS"])
def test_session_algorithms_mix_nonce_and_cnonce_into_the_stored_hash(algorithm: str) -> None:
    stored = ha1("bob", "biloxi.com", "zanzibar", algorithm)
    assert stored == ha1("bob", "biloxi.com", "zanzibar", "MD5")
    expected = h(f"{h(f'{stored}:n:c')}:n:00000001:c:auth:{h('INVITE:sip:x')}")
    got = response(stored, "n", "INVITE", "sip:x", algorithm=algorithm, qop="auth", nc="00000001", cnonce="c")
    assert got == expected


def test_auth_int_covers_the_body() -> None:
    password = ha1("bob", "biloxi.com", "zanzibar", "SHA-256")
    body_hash = hashlib.sha256(b"v=0\r\n").hexdigest()
    answer = response(
        password,
        "n",
        "INVITE",
        "sip:x",
        algorithm="SHA-256",
        qop="auth-int",
        nc="00000001",
        cnonce="c",
        body_hash=body_hash,
    )
    credentials = parse_credentials(
        'Digest username="bob",realm="biloxi.com",nonce="n",uri="sip:x",qop=auth-int,nc=00000001,cnonce="c",'
        f'algorithm=SHA-256,response="{answer.upper()}"'
    )
    assert check(credentials, password, "INVITE", b"v=0\r\n")
    assert not check(credentials, password, "INVITE", b"v=1\r\n")


def test_a_request_uri_of_any_length_is_hashed() -> None:
    uri = "sip:" + "x" * 5000
    assert response("a", "n", "INVITE", uri) == h(f"a:n:{h('INVITE:' + uri)}")


def test_octets_above_ascii_are_hashed_as_they_came() -> None:
    username = "jürgen".encode().decode("latin-1")
    assert ha1(username, "x", "p") == hashlib.md5("jürgen:x:p".encode()).hexdigest()


def test_every_field_is_read() -> None:
    c = parse_credentials(RFC2617)
    assert (c.username, c.user, c.domain) == ("Mufasa", "Mufasa", "")
    assert (c.realm, c.nonce) == ("testrealm@host.com", "dcd98b7102dd2f0e8b11d0f600bfb0c093")
    assert (c.uri, c.response) == ("/dir/index.html", "6629fae49393a05397450978507c4ef1")
    assert (c.algorithm, c.qop, c.nc, c.cnonce) == ("", "auth", "00000001", "0a4f113b")
    assert c.opaque == "5ccc069c403ebaf9f0171e9517f40e41"


BASE = 'username="bob",realm="x",nonce="n",uri="sip:x",response="r"'


@pytest.mark.parametrize(
    ("value", "field", "expected"),
    [
        (f"digest {BASE}", "username", "bob"),
        (f"Digest\t{BASE}", "username", "bob"),
        ('Digest Username = "bob" , REALM= "x",nonce ="n",uri="sip:x",response="r"', "realm", "x"),
        ("Digest username=bob,realm=x,nonce=n,uri=sip:x,response=r", "uri", "sip:x"),
        (f'Digest {BASE},algorithm="MD5"', "algorithm", "MD5"),
        (f'Digest {BASE},qop="auth",nc="00000001",cnonce=""', "qop", "auth"),
        (f"Digest algorithm=SHA-256,{BASE}", "algorithm", "SHA-256"),
        (f"Digest ,, {BASE},, opaque=o ,", "opaque", "o"),
        (f'Digest {BASE},unheard="of", of=too', "opaque", ""),
        (f"Digest {BASE}".replace('"x"', '"a, b=c"'), "realm", "a, b=c"),
        (f"Digest {BASE}".replace('"x"', '"a\\",\\\\"'), "realm", 'a\\",\\\\'),
        (f"Digest {BASE}".replace('"n"', '""'), "nonce", ""),  # the first REGISTER of an IMS phone
        (f"Digest {BASE}".replace('"n"', "a="), "nonce", "a="),
        (f"Digest {BASE}".replace('"bob"', '"bob@b@iloxi.com"'), "domain", "iloxi.com"),
        (f"Digest {BASE}".replace('"bob"', '"bob@b@iloxi.com"'), "user", "bob@b"),
        (f"Digest {BASE}, {'x' * 300}=1", "username", "bob"),
    ],
)
def test_credentials_are_read_as_phones_write_them(value: str, field: str, expected: str) -> None:
    assert getattr(parse_credentials(value), field) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Digest",
        "Digest ",
        f"Basic {BASE}",
        f"Digestx {BASE}",
        'Digest realm="x",nonce="n",uri="sip:x",response="r"',
        'Digest username="bob",realm="x",nonce="n",uri="sip:x"',
        f'Digest {BASE},realm="y"',
        f"Digest {BASE},realm=y",
        f'Digest realm=y,{BASE},realm="z"',
        f'Digest {BASE},opaque="open',
        f'Digest {BASE},opaque="open\\"',
        f'Digest {BASE},opaque="open\\',
        f'Digest {BASE} opaque="o"',
        f'Digest {BASE}"',
        f'Digest {BASE},"o"',
        f'Digest {BASE},o"o"',
        f'Digest {BASE},a=b"o"',
        f"Digest {BASE},o",
        f"Digest {BASE},=o",
        f"Digest {BASE},o o=o",
        f"Digest {BASE},o=o o",
        f"Digest {BASE}o",
        f"Digest {BASE},qop=auth",
        f'Digest {BASE},qop=auth,cnonce="c"',
        f"Digest {BASE},qop=auth,nc=00000001",
        f'Digest {BASE},qop=auth,nc=1,cnonce="c"',
        f'Digest {BASE},qop=auth,nc=0000000g,cnonce="c"',
        f"Digest {BASE}\\",
    ],
)
def test_malformed_credentials_are_refused_each_time_alike(value: str) -> None:
    for _ in range(2):
        with pytest.raises(ParseError) as error:
            parse_credentials(value)
        assert error.value.status == 400


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ParseError, match="Missing uri in credentials"):
        parse_credentials('Digest username="bob",realm="x",nonce="n",response="r"')


@pytest.mark.parametrize("extra", ["algorithm=SHA-1", "algorithm=token", 'qop=token,nc=00000001,cnonce="c"'])
def test_unknown_algorithm_or_qop_never_fits(extra: str) -> None:
    assert not check(parse_credentials(f"Digest {BASE},{extra}"), "a" * 32, "REGISTER")


def test_a_response_of_broken_bytes_does_not_fit() -> None:
    assert not check(parse_credentials(f"Digest {BASE}".replace('"r"', '"\xff\xe9"')), "a" * 32, "REGISTER")


def test_hashing_with_an_unknown_algorithm_is_an_error() -> None:
    assert not is_supported("SHA-1")
    assert is_supported("")
    assert is_supported("sha-256-sess")
    with pytest.raises(ParseError, match="Unsupported digest algorithm"):
        ha1("bob", "x", "p", "SHA-1")


def test_challenge_has_what_was_asked_for() -> None:
    assert challenge("x.org", "n0") == 'Digest realm="x.org", nonce="n0", qop="auth"'
    assert (
        challenge("x", "n", algorithm="SHA-256", qop="auth,auth-int", opaque="o", stale=True)
        == 'Digest realm="x", nonce="n", opaque="o", qop="auth,auth-int", algorithm=SHA-256, stale=true'
    )
    assert challenge("x", "n", qop="") == 'Digest realm="x", nonce="n"'


def test_a_realm_cannot_break_out_of_its_quotes_or_its_line() -> None:
    assert quote('a"b\\c\r\nVia: x') == '"a\\"b\\\\c  Via: x"'


def test_shapes_that_never_end_do_not_fill_the_memory() -> None:

    for i in range(3000):
        parse_credentials(f"Digest {BASE},x{i}=1")
    assert len(digest._shapes) <= 1024
    assert parse_credentials(RFC2617).nc == "00000001"
