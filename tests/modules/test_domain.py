"""domain: rows that cannot be used, reloads, and what an operator asks."""

from __future__ import annotations

from typing import Any

import pytest

from polykemi.errors import DataError, RpcError
from polykemi.modules.base import Services
from polykemi.modules.domain import Domain
from polykemi.storage.provisioned import Database
from tests.support import NOW, message, request_context, services

CTX = request_context(message("OPTIONS sip:example.test SIP/2.0"))


def server(*statements: str, **params: Any) -> Services:
    database = Database()
    for statement in statements:
        database.query(statement)
    return services(Domain, params={"domain": params}, database=database)


def domain(name: str, did: str = "NULL") -> str:
    return f"INSERT INTO domain (domain, did) VALUES ('{name}', {did})"


def attribute(did: str, name: str, kind: int, value: str) -> str:
    return f"INSERT INTO domain_attrs (did, name, type, value) VALUES ('{did}', '{name}', {kind}, '{value}')"


@pytest.mark.parametrize(
    "statement, cause",
    [
        (domain(""), "table domain, row 1: domain and did must not be empty"),
        (domain("a.test", "''"), "table domain, row 1: domain and did must not be empty"),
        (attribute("", "n", 2, "v"), "table domain_attrs, row 1: did, name and value must not be empty"),
        (attribute("d", "n", 1, "v"), "row 1: expected the type 0 \\(integer\\) or 2 \\(text\\), got 1"),
        (attribute("d", "n", 0, "v"), "row 1: 'v' is no integer"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(statement: str, cause: str) -> None:
    with pytest.raises(DataError, match=cause):
        server(statement)


def test_a_reload_takes_new_domains_or_keeps_the_old_ones() -> None:
    made = server(domain("a.test"), register_myself=1)
    module: Domain = made.modules["domain"]
    made.database.query("DELETE FROM domain")
    made.database.query(domain("b.test"))
    assert made.is_myself("a.test")
    module.reload(now=NOW)
    assert module.is_domain_local(CTX, "b.test") == 1
    assert [made.is_myself(name) for name in ("a.test", "b.test", "example.test")] == [False, True, True]
    made.database.query(attribute("d", "n", 0, "v"))
    with pytest.raises(RpcError, match="Reload of domain tables failed"):
        module.reload(now=NOW)
    assert module.is_domain_local(CTX, "b.test") == 1


def test_an_operator_sees_domains_and_attributes() -> None:
    module = server(domain("A.test"), domain("b.test", "'x'"), attribute("x", "n", 0, "1"), attribute("x", "m", 2, ""))
    assert module.modules["domain"].dump() == {
        "domains": [{"domain": "A.test", "did": "A.test"}, {"domain": "b.test", "did": "x"}],
        "attributes": [{"did": "x", "attrs": ["m", "n"]}],
    }
