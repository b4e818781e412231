"""auth: challenges out, credentials in."""

from __future__ import annotations

from hashlib import md5, sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polykemi.kemi.context import RouteContext
from polykemi.modules.auth import Auth
from polykemi.modules.base import Services
from polykemi.modules.sl import Sl
from tests.support import NOW, headers, message, replies, request_context, services

REALM = "example.test"
HASHES = {"MD5": md5, "SHA-256": sha256}


def server(**params: Any) -> Services:
    return services(Sl, Auth, params={"auth": params})


def request(method: str = "REGISTER", *lines: str, now: float = NOW, **more: Any) -> RouteContext:
    return request_context(message(f"{method} sip:example.test SIP/2.0", *lines, **more), now=now)


def challenge(made: Services, flags: int = 0, now: float = NOW, method: str = "REGISTER") -> dict[str, str]:
    """Let the server challenge; return the parameters of the first challenge."""
    assert made.modules["auth"].auth_challenge(request(method, now=now), REALM, flags) == 1
    (reply,) = replies(made)
    (value, *_) = headers(reply, "WWW-Authenticate") or headers(reply, "Proxy-Authenticate")
    return {k: v.strip('"') for k, _, v in (p.strip().partition("=") for p in value.removeprefix("Digest ").split(","))}


def authorization(
    nonce: str,
    *,
    user: str = "alice",
    password: str = "secret",
    realm: str = REALM,
    method: str = "REGISTER",
    nc: int = 0,
    algorithm: str = "",
    header: str = "Authorization",
) -> str:
    """Answer a challenge as RFC 2617 says, written down once more here; ``nc`` 0 is without qop."""
    h = HASHES[algorithm or "MD5"]

    def digest(text: str) -> str:
        return h(text.encode("latin-1")).hexdigest()

    ha1, ha2 = digest(f"{user}:{realm}:{password}"), digest(f"{method}:sip:example.test")
    out = f'{header}: Digest username="{user}", realm="{realm}", nonce="{nonce}", uri="sip:example.test"'
    if nc:
        out += f', qop=auth, cnonce="c", nc={nc:08x}, response="{digest(f"{ha1}:{nonce}:{nc:08x}:c:auth:{ha2}")}"'
    else:
        out += f', response="{digest(f"{ha1}:{nonce}:{ha2}")}"'
    return out + (f", algorithm={algorithm}" if algorithm else "")


def check(made: Services, *lines: str, now: float = NOW, method: str = "REGISTER", checks: int = 1, **more: Any) -> int:
    result = made.modules["auth"].pv_auth_check(request(method, *lines, now=now, **more), REALM, "secret", 0, checks)
    assert isinstance(result, int)
    return result


# ---- challenges
@pytest.mark.parametrize(
    "method, function, status, name",
    [
        ("REGISTER", "auth_challenge", "401 Unauthorized", "WWW-Authenticate"),
        ("INVITE", "auth_challenge", "407 Proxy Authentication Required", "Proxy-Authenticate"),
        ("INVITE", "www_challenge", "401 Unauthorized", "WWW-Authenticate"),
        ("REGISTER", "proxy_challenge", "407 Proxy Authentication Required", "Proxy-Authenticate"),
    ],
)
def test_a_challenge_is_401_or_407(method: str, function: str, status: str, name: str) -> None:
    made = server()
    ctx = request(method)
    assert getattr(made.modules["auth"], function)(ctx, REALM, 0) == 1
    (reply,) = replies(made)
    assert reply.startswith(f"SIP/2.0 {status}\r\n")
    (value,) = headers(reply, name)
    assert value.startswith('Digest realm="example.test", nonce="')
    assert "qop" not in value
    assert "stale" not in value
    assert ctx.reply_headers == []


@pytest.mark.parametrize(
    "flags, expected",
    [(1, {"qop": "auth"}), (2, {"qop": "auth-int"}), (16, {"stale": "true"}), (17, {"qop": "auth", "stale": "true"})],
)
def test_flags_say_what_stands_in_a_challenge(flags: int, expected: dict[str, str]) -> None:
    found = challenge(server(), flags)
    assert {k: v for k, v in found.items() if k in ("qop", "stale")} == expected


def test_ack_and_cancel_are_never_challenged_and_always_authorized() -> None:
    made = server()
    for method in ("ACK", "CANCEL"):
        assert check(made, method=method) == 1
        assert made.modules["auth"].auth_challenge(request(method), REALM, 0) == -3
    assert replies(made) == []


def test_every_challenge_has_its_own_nonce() -> None:
    made = server()
    assert len({challenge(made)["nonce"] for _ in range(100)}) == 100


# ---- checks
def test_the_right_password_is_accepted_without_and_with_qop() -> None:
    made = server()
    assert check(made) == -5
    assert check(made, authorization(challenge(made)["nonce"])) == 1
    assert check(made, authorization(challenge(made, 1)["nonce"], nc=1)) == 1
    nonce = challenge(made, method="INVITE")["nonce"]
    line = authorization(nonce, method="INVITE", header="Proxy-Authorization")
    assert check(made, line, method="INVITE") == 1


def test_what_is_wrong_is_told_by_the_return_code() -> None:
    made = server()
    nonce = challenge(made)["nonce"]
    assert check(made, authorization(nonce, password="wrong")) == -2
    assert check(made, authorization(nonce, realm="other.test")) == -5
    assert check(made, authorization(nonce, user="bob")) == -8
    assert check(made, authorization(nonce, user="bob"), checks=0) == 1
    assert check(made, authorization(nonce, header="Proxy-Authorization")) == -5
    for malformed in (
        "Authorization: Basic YTpi",
        'Authorization: Digest username="alice"',
        "Authorization:",
        'Authorization: Digest "',
    ):
        assert check(made, malformed) == -5


def test_the_user_must_be_that_of_to_in_register_and_of_from_elsewhere() -> None:
    made = server()
    line = authorization(challenge(made)["nonce"])
    assert check(made, line, to="<sip:bob@example.test>") == -8
    assert check(made, line, from_="<sip:bob@example.test>;tag=1") == 1
    assert check(made, line, to="<sip:%61lice@elsewhere.test>") == 1
    line = authorization(challenge(made)["nonce"], method="INVITE", header="Proxy-Authorization")
    assert check(made, line, method="INVITE", from_="<sip:bob@example.test>;tag=1") == -8
    assert check(made, line, method="INVITE", to="<sip:bob@example.test>") == 1
    made = server(use_domain=1)
    line = authorization(challenge(made)["nonce"])
    assert check(made, line, to="<sip:alice@elsewhere.test>") == -8
    assert check(made, line) == 1


def test_credentials_are_found_among_those_of_other_realms() -> None:
    made = server()
    nonce = challenge(made)["nonce"]
    assert check(made, authorization("x", realm="other.test"), authorization(nonce)) == 1


def test_an_ha1_does_instead_of_a_password() -> None:
    made = server()
    ctx = request("REGISTER", authorization(challenge(made)["nonce"]))
    ha1 = md5(b"alice:example.test:secret").hexdigest()
    assert made.modules["auth"].pv_www_authenticate(ctx, REALM, ha1.upper(), 1) == 1
    assert made.modules["auth"].pv_www_authenticate(ctx, REALM, ha1, 0) == -2


def test_functions_for_one_header_and_for_another_method() -> None:
    made = server()
    auth = made.modules["auth"]
    nonce = challenge(made)["nonce"]
    ctx = request("REGISTER", authorization(nonce, header="Proxy-Authorization"))
    assert auth.pv_proxy_authenticate(ctx, REALM, "secret", 0) == 1
    assert auth.pv_www_authenticate(ctx, REALM, "secret", 0) == -5
    ctx = request("REGISTER", authorization(nonce, method="INVITE"))
    assert auth.pv_www_authenticate_method(ctx, REALM, "secret", 0, "INVITE") == 1
    assert auth.pv_www_authenticate(ctx, REALM, "secret", 0) == -2


def test_auth_int_covers_the_body() -> None:
    made = server()
    nonce = challenge(made, 2)["nonce"]

    def digest(text: str) -> str:
        return md5(text.encode()).hexdigest()

    ha1, ha2 = digest("alice:example.test:secret"), digest("REGISTER:sip:example.test:" + digest("hello"))
    response = digest(f"{ha1}:{nonce}:00000001:c:auth-int:{ha2}")
    line = (
        f'Authorization: Digest username="alice", realm="{REALM}", nonce="{nonce}", uri="sip:example.test", '
        f'qop=auth-int, nc=00000001, cnonce="c", response="{response}"'
    )
    assert check(made, line, body="hellO") == -2
    assert check(made, line, body="hello") == 1


# ---- nonces
def test_a_nonce_expires_and_the_next_challenge_says_stale() -> None:
    made = server()
    nonce = challenge(made)["nonce"]
    assert check(made, authorization(nonce), now=NOW + 300) == 1
    ctx = request("REGISTER", authorization(nonce), now=NOW + 301)
    auth = made.modules["auth"]
    assert auth.pv_auth_check(ctx, REALM, "secret", 0, 1) == -4
    assert auth.auth_challenge(ctx, REALM, 0) == 1
    assert headers(replies(made)[0], "WWW-Authenticate")[0].endswith(", stale=true")
    assert check(server(nonce_expire=10), authorization(nonce), now=NOW + 11) == -4


def test_a_nonce_from_the_future_is_stale() -> None:
    made = server()
    nonce = challenge(made, now=NOW + 100)["nonce"]
    assert check(made, authorization(nonce), now=NOW + 97) == 1
    assert check(made, authorization(nonce), now=NOW + 96) == -4


def test_a_nonce_that_is_not_ours_is_refused_whatever_its_response() -> None:
    made = server()
    nonce = challenge(made)["nonce"]
    later = f"{int(NOW) + 100000:08x}" + nonce[8:]
    for forged in ("", "x", "0" * 40, nonce[:-1] + ("0" if nonce[-1] != "0" else "1"), later, nonce + "0", "\xff" * 40):
        assert check(made, authorization(forged)) == (-4 if len(forged) >= 40 else -1)
    assert check(server(secret="other"), authorization(nonce)) == -4


def test_a_nonce_is_good_in_the_realm_that_it_was_made_for() -> None:
    made = server()
    nonce = challenge(made)["nonce"]
    ctx = request("REGISTER", authorization(nonce, realm="other.test"))
    assert made.modules["auth"].pv_auth_check(ctx, "other.test", "secret", 0, 1) == -4
    assert check(made, authorization(nonce)) == 1


def test_credentials_for_another_uri_do_not_pass() -> None:
    made = server()
    line = authorization(challenge(made, 1)["nonce"], nc=1)
    assert check(made, line.replace('uri="sip:example.test"', 'uri="sip:other.test"')) == -2
    assert check(made, line.replace("qop=auth,", "qop=auth-int,")) == -2
    assert check(made, line.replace("qop=auth,", "qop=x,")) == -2
    assert check(made, line.replace("qop=auth, ", "")) == -2  # as of RFC 2069
    assert check(made, line.replace('cnonce="c", ', "")) == -5
    assert check(made, line.replace("nc=00000001", "nc=1")) == -5
    assert check(made, line + ", algorithm=MD5-sess") == -2
    assert check(made, line) == 1  # none of these has used it up


def test_a_user_name_with_quotes_is_what_it_says() -> None:
    made = server()
    nonce = challenge(made)["nonce"]
    good = authorization(nonce, user='a\\"b')
    assert check(made, good, checks=0) == 1
    assert check(made, authorization(nonce, user='a"b'), checks=0) == -5  # the quotes end too early
    assert check(made, authorization(nonce, user='a", username="alice'), checks=0) == -5  # twice the same parameter


def test_servers_with_the_same_secret_take_each_others_nonces() -> None:
    one, other = server(secret="shared"), server(secret="shared")
    assert check(other, authorization(challenge(one)["nonce"])) == 1


def test_the_nonce_count_must_grow() -> None:
    made = server()
    nonce = challenge(made, 1)["nonce"]
    assert check(made, authorization(nonce, nc=1)) == 1
    assert check(made, authorization(nonce, nc=2), cseq="2 REGISTER") == 1
    assert check(made, authorization(nonce, nc=2), cseq="3 REGISTER") == -4
    assert check(made, authorization(nonce, nc=1), cseq="4 REGISTER") == -4
    assert check(made, authorization(nonce, nc=9), cseq="5 REGISTER") == 1
    assert check(server(nonce_count=0, secret="s"), authorization(challenge(server(secret="s"), 1)["nonce"], nc=1)) == 1


def test_a_retransmission_passes_and_a_replay_with_another_contact_does_not() -> None:
    made = server()
    line = authorization(challenge(made, 1)["nonce"], nc=1)
    assert check(made, line, "Contact: <sip:alice@192.0.2.10>") == 1
    assert check(made, line, "Contact: <sip:alice@192.0.2.10>") == 1
    assert check(made, line, "Contact: <sip:mallory@192.0.2.66>") == -4


def test_a_wrong_response_does_not_use_a_nonce_count_up() -> None:
    made = server()
    nonce = challenge(made, 1)["nonce"]
    assert check(made, authorization(nonce, nc=0xFFFFFFFF, password="wrong")) == -2
    assert check(made, authorization(nonce, nc=1)) == 1


def test_the_counts_of_nonces_take_bounded_memory_and_a_forgotten_one_cannot_be_replayed() -> None:
    made = server(nc_array_size=10)
    auth = made.modules["auth"]
    lines = [authorization(challenge(made, 1, now=NOW + n)["nonce"], nc=1) for n in range(20)]
    for n, line in enumerate(lines):
        assert check(made, line, now=NOW + n) == 1
    assert len(auth.nonces) == 10
    assert check(made, lines[0], now=NOW + 20, cseq="2 REGISTER") == -4
    assert check(made, authorization(challenge(made, 1, now=NOW + 400)["nonce"], nc=1), now=NOW + 400) == 1
    assert len(auth.nonces) == 1  # the others have expired


def test_a_one_time_nonce_is_good_once() -> None:
    made = server(one_time_nonce=1)
    line = authorization(challenge(made)["nonce"])
    assert check(made, line) == 1
    assert check(made, line, cseq="2 REGISTER") == -6


@pytest.mark.parametrize(
    "checks, changed",
    [(2, {"call_id": "other"}), (4, {"from_": "<sip:alice@example.test>;tag=other"})],
)
def test_a_nonce_can_be_bound_to_parts_of_the_request(checks: int, changed: dict[str, Any]) -> None:
    made = server(auth_checks_register=checks)
    line = authorization(challenge(made)["nonce"])
    assert check(made, line) == 1
    assert check(made, line, **changed) == -4


def test_a_nonce_can_be_bound_to_source_and_request_uri() -> None:
    made = server(auth_checks_register=9)
    line = authorization(challenge(made)["nonce"])
    auth = made.modules["auth"]
    elsewhere = request_context(message("REGISTER sip:example.test SIP/2.0", line), source=("198.51.100.1", 5060))
    assert auth.pv_auth_check(elsewhere, REALM, "secret", 0, 1) == -4
    another = request_context(message("REGISTER sip:other.test SIP/2.0", line))
    assert auth.pv_auth_check(another, REALM, "secret", 0, 1) == -4
    assert check(made, line) == 1


# ---- algorithms
def test_sha_256() -> None:
    made = server(algorithm="SHA-256")
    found = challenge(made, 1)
    assert found["algorithm"] == "SHA-256"
    assert check(made, authorization(found["nonce"], nc=1, algorithm="SHA-256")) == 1
    assert check(made, authorization(found["nonce"], nc=2, algorithm="SHA-256", password="wrong")) == -2


def test_both_algorithms_are_offered_the_better_one_first() -> None:
    made = server(algorithm="SHA-256,MD5")
    made.modules["auth"].auth_challenge(request(), REALM, 0)
    values = headers(replies(made)[0], "WWW-Authenticate")
    assert [value.rpartition("algorithm=")[2] for value in values] == ["SHA-256", "MD5"]
    for algorithm in ("SHA-256", "MD5"):
        assert check(made, authorization(challenge(made)["nonce"], algorithm=algorithm)) == 1


def test_an_algorithm_that_was_not_offered_is_refused() -> None:
    made = server()
    assert check(made, authorization(challenge(made)["nonce"], algorithm="SHA-256")) == -1
    made = server(algorithm="SHA-256")
    assert check(made, authorization(challenge(made)["nonce"], algorithm="MD5")) == -1


def test_the_algorithm_can_be_changed_by_the_script() -> None:
    made = server()
    auth = made.modules["auth"]
    assert auth.auth_algorithm(request(), "SHA-1") == -1
    assert "algorithm" not in challenge(made)
    assert auth.auth_algorithm(request(), "SHA-256") == 1
    assert challenge(made)["algorithm"] == "SHA-256"
    with pytest.raises(ValueError, match="SHA-1"):
        Auth.Params(algorithm="SHA-1")


# ---- the rest
def test_consumed_credentials_do_not_go_downstream() -> None:
    made = server()
    auth = made.modules["auth"]
    other = authorization("x", realm="other.test", method="INVITE", header="Proxy-Authorization")
    mine = authorization(challenge(made)["nonce"], method="INVITE", header="Proxy-Authorization")
    ctx = request("INVITE", other, mine)
    assert auth.consume_credentials(ctx) == -1
    assert auth.pv_auth_check(ctx, REALM, "wrong", 0, 1) == -2
    assert auth.consume_credentials(ctx) == -1
    assert auth.pv_auth_check(ctx, REALM, "secret", 0, 1) == 1
    assert auth.consume_credentials(ctx) == 1
    left = ctx.edits.apply(ctx.message.lines)
    assert other in left
    assert mine not in left


def test_has_credentials_asks_for_a_realm() -> None:
    auth = server().modules["auth"]
    for header in ("Authorization", "Proxy-Authorization"):
        ctx = request("INVITE", authorization("x", header=header))
        assert (auth.has_credentials(ctx, REALM), auth.has_credentials(ctx, "other.test")) == (1, -1)


def test_a_challenge_can_be_had_in_a_variable() -> None:
    made = server()
    ctx = request()
    auth = made.modules["auth"]
    assert auth.auth_get_www_authenticate(ctx, REALM, 1, "$avp(x)") == 1
    accessor = made.variables.compile("$avp(x)")
    assert accessor is not None
    text = accessor.get(ctx)
    assert isinstance(text, str)
    assert text.startswith('WWW-Authenticate: Digest realm="example.test", nonce="')
    assert text.endswith(', qop="auth"\r\n')
    assert auth.auth_get_www_authenticate(ctx, REALM, 1, "$si") == -1


@given(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=80))
def test_no_credentials_whatever_stop_the_check(text: str) -> None:
    made = server()
    for line in (f"Authorization: {text}", f"Authorization: Digest {text}", authorization(text)):
        assert check(made, line) < 0
