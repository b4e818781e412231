"""auth_db: credentials against the subscriber table."""

from __future__ import annotations

from typing import Any

import pytest

from polykemi.kemi.context import RouteContext
from polykemi.modules.auth import Auth
from polykemi.modules.auth_db import AuthDb
from polykemi.modules.base import Services
from polykemi.modules.sl import Sl
from polykemi.storage.provisioned import Database
from tests.modules.test_auth import REALM, authorization, challenge
from tests.support import message, request_context, services


def server(auth: dict[str, Any] | None = None, **params: Any) -> Services:
    database = Database()
    database.add_subscriber("alice", "example.test", "secret")
    database.add_subscriber("bob", "other.test", "bobs")
    return services(Sl, Auth, AuthDb, params={"auth_db": params, "auth": auth or {}}, database=database)


def request(made: Services, method: str = "REGISTER", uri: str = "sip:example.test", **more: Any) -> RouteContext:
    """Return a request with credentials; ``more`` is theirs, or headers to be replaced."""
    replaced = {k: more.pop(k) for k in ("to", "from_") if k in more}
    more.setdefault("nonce", challenge(made)["nonce"])
    more.setdefault("header", "Authorization" if method == "REGISTER" else "Proxy-Authorization")
    line = authorization(more.pop("nonce"), method=more.pop("as_method", method), **more)
    return request_context(message(f"{method} {uri} SIP/2.0", line, **replaced))


def check(made: Services, flags: int = 0, **more: Any) -> int:
    result = made.modules["auth_db"].auth_check(request(made, **more), REALM, "subscriber", flags)
    assert isinstance(result, int)
    return result


def test_a_subscriber_is_let_in_with_the_right_password_only() -> None:
    made = server()
    assert check(made) == 1
    assert check(made, method="INVITE") == 1
    assert check(made, password="wrong") == -2
    assert check(made, user="nobody") == -3
    assert check(made, realm="other.test") == -5
    assert check(made, nonce="0" * 40) == -4
    auth_db = made.modules["auth_db"]
    assert (
        auth_db.auth_check(request_context(message("REGISTER sip:example.test SIP/2.0")), REALM, "subscriber", 0) == -5
    )


@pytest.mark.pure
def test_an_unknown_user_costs_one_response_like_a_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from polykemi.sip import digest

    made, calls, real = server(), [], digest.check

    def counted(*args: Any) -> bool:
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(digest, "check", counted)
    assert check(made, user="nobody") == -3
    assert len(calls) == 1


def test_ha1_columns_do_instead_of_passwords() -> None:
    made = server(calculate_ha1=0, password_column="ha1")
    assert check(made) == 1
    assert check(made, password="wrong") == -2
    assert check(made, user="alice@example.test") == 1  # ha1b
    assert check(made, user="nobody") == -3


def test_sha_256_needs_the_password() -> None:
    made = server({"algorithm": "SHA-256"})
    assert check(made, algorithm="SHA-256") == 1
    assert check(made, algorithm="SHA-256", password="wrong") == -2


def test_domains_separate_subscribers_when_use_domain_says_so() -> None:
    assert check(server(), user="bob", password="bobs") == 1
    made = server(use_domain=1)
    assert check(made, user="bob", password="bobs") == -3
    assert check(made, user="bob@other.test", password="bobs") == 1
    assert check(made) == 1


BOB = "<sip:bob@example.test>"


@pytest.mark.parametrize(
    "method, flags, headers, result",
    [
        ("REGISTER", 1, {}, 1),
        ("REGISTER", 1, {"to": BOB}, -8),
        ("REGISTER", 1, {"from_": f"{BOB};tag=1"}, -8),
        ("REGISTER", 0, {"to": BOB, "from_": f"{BOB};tag=1"}, 1),
        ("INVITE", 1, {"to": BOB}, 1),
        ("INVITE", 1, {"from_": f"{BOB};tag=1"}, -8),
        ("INVITE", 3, {"from_": f"{BOB};tag=1"}, 1),
        ("SUBSCRIBE", 3, {"from_": f"{BOB};tag=1"}, -8),
        ("PUBLISH", 1, {"uri": "sip:alice@example.test"}, 1),
        ("PUBLISH", 1, {"uri": "sip:bob@example.test"}, -8),
    ],
)
def test_in_whose_name_a_request_may_be_sent(method: str, flags: int, headers: dict[str, str], result: int) -> None:
    made = server()
    ctx = request(made, method, **headers)
    assert made.modules["auth_db"].auth_check(ctx, REALM, "subscriber", flags) == result
    assert made.modules["auth"].consume_credentials(ctx) == (1 if result == 1 else -1)


def test_functions_for_one_header_and_for_another_method() -> None:
    made = server()
    auth_db = made.modules["auth_db"]
    assert auth_db.www_authenticate(request(made), REALM, "subscriber") == 1
    assert auth_db.proxy_authenticate(request(made), REALM, "subscriber") == -5
    assert auth_db.proxy_authenticate(request(made, header="Proxy-Authorization"), REALM, "subscriber") == 1
    ctx = request(made, as_method="INVITE")
    assert auth_db.www_authenticate(ctx, REALM, "subscriber") == -2
    assert auth_db.www_authenticate_method(ctx, REALM, "subscriber", "INVITE") == 1


def test_columns_are_loaded_into_avps_when_the_check_succeeds() -> None:
    made = server(load_credentials="username; $avp(d)=domain")

    def values(ctx: RouteContext) -> list[Any]:
        accessors = [made.variables.compile(name) for name in ("$avp(username)", "$avp(d)")]
        return [a.get(ctx) for a in accessors if a is not None]

    ctx = request(made, password="wrong")
    made.modules["auth_db"].auth_check(ctx, REALM, "subscriber", 0)
    assert values(ctx) == [None, None]
    ctx = request(made)
    made.modules["auth_db"].auth_check(ctx, REALM, "subscriber", 0)
    assert values(ctx) == ["alice", "example.test"]


def test_is_subscriber_asks_for_a_user() -> None:
    made = server(load_credentials="domain")
    is_subscriber, ctx = made.modules["auth_db"].is_subscriber, request(made)
    assert is_subscriber(ctx, "sip:bob@anywhere.test", "subscriber", 2) == 1
    assert "domain" not in ctx.shared.avps
    assert is_subscriber(ctx, "sip:bob@anywhere.test", "subscriber", 0) == 1
    assert ctx.shared.avps["domain"] == ["other.test"]
    assert is_subscriber(ctx, "sip:bob@anywhere.test", "subscriber", 1) == -2
    assert is_subscriber(ctx, "sip:bob@other.test", "subscriber", 1) == 1
    for uri in ("sip:nobody@x", "sip:x", "sip:\xff@x"):
        assert is_subscriber(ctx, uri, "subscriber", 0) == -2
    assert is_subscriber(ctx, "bogus", "subscriber", 0) == -1


def test_a_table_or_a_column_that_does_not_exist_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    made = server()
    assert made.modules["auth_db"].auth_check(request(made), REALM, "subscribers", 0) == -1
    assert "no such table: subscribers" in caplog.text
    made = server(load_credentials="rpid")
    assert made.modules["auth_db"].auth_check(request(made), REALM, "subscriber", 0) == -1
    assert "no such column: rpid" in caplog.text


def test_columns_are_loaded_for_a_wrong_password_when_that_is_wanted() -> None:
    for force, loaded in ((0, None), (1, ["alice"])):
        made = server(load_credentials="username", force_generate_avps=force)
        ctx = request(made, password="wrong")
        assert made.modules["auth_db"].auth_check(ctx, REALM, "subscriber", 0) == -2
        assert ctx.shared.avps.get("username") == loaded
