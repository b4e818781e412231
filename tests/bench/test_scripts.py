"""The bench's scripts do what is measured: they check passwords, save contacts, relay calls. On each engine."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.polykemi_server import CONFIG
from bench.servers import DOMAIN, MEMORY_DOMAIN, SCRIPTS, make_database
from polykemi.sip import digest
from polykemi.storage.provisioned import Database
from polykemi.testing import ServerUnderTest

PHONE, CALLER = "192.0.2.10:5060", "192.0.2.20:5060"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_database(tmp_path_factory.mktemp("data")).parent


@pytest.fixture(params=SCRIPTS)
def server(request: pytest.FixtureRequest, data: Path) -> Iterator[ServerUnderTest]:
    modules = tomllib.loads(CONFIG)["modules"]
    load = modules.pop("load")
    with ServerUnderTest(
        {request.param: SCRIPTS[request.param]},
        domains=[DOMAIN, MEMORY_DOMAIN],
        modules=modules,
        load=load,
        database=Database.at(data),
    ) as server:
        yield server


def request(method: str, uri: str, cseq: int, *headers: str, user: str = "u00001", domain: str = DOMAIN) -> bytes:
    lines = [
        f"{method} {uri} SIP/2.0",
        f"Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK{method}{cseq}",
        "Max-Forwards: 70",
        f"From: <sip:{user}@{domain}>;tag=1",
        f"To: <sip:{user}@{domain}>",
        "Call-ID: call-1",
        f"CSeq: {cseq} {method}",
        *headers,
        "Content-Length: 0",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def register(server: ServerUnderTest, password: str, domain: str = DOMAIN, user: str = "u00001") -> str:
    """Register ``user`` at PHONE; return the last status line."""
    uri, contact = f"sip:{domain}", f"Contact: <sip:{user}@{PHONE}>"
    (challenge,) = server.receive(request("REGISTER", uri, 1, contact, user=user, domain=domain), PHONE)
    assert challenge.start_line == "SIP/2.0 401 Unauthorized"
    found = re.search(rb'nonce="([^"]+)"', challenge.data)
    assert found is not None
    nonce = found[1].decode()
    answer = digest.response(digest.ha1(user, domain, password), nonce, "REGISTER", uri)
    line = (
        f'Authorization: Digest username="{user}", realm="{domain}", nonce="{nonce}", uri="{uri}", response="{answer}"'
    )
    (reply,) = server.receive(request("REGISTER", uri, 2, contact, line, user=user, domain=domain), PHONE)
    return reply.start_line


def test_options_are_answered_statelessly(server: ServerUnderTest) -> None:
    (reply,) = server.receive(request("OPTIONS", f"sip:{DOMAIN}", 1), CALLER)
    assert reply.start_line == "SIP/2.0 200 OK"


@pytest.mark.parametrize("domain", [DOMAIN, MEMORY_DOMAIN])
def test_only_the_right_password_registers(server: ServerUnderTest, domain: str) -> None:
    assert register(server, "pw-00002", domain) == "SIP/2.0 401 Unauthorized"
    assert register(server, "pw-00001", domain) == "SIP/2.0 200 OK"
    check = "KSR.auth.pv_auth_check" if domain == MEMORY_DOMAIN else "KSR.auth_db.auth_check"
    assert [c.result for c in server.calls if c.path == check] == [-5, -2, -5, 1]


def test_a_call_is_located_record_routed_and_relayed(server: ServerUnderTest) -> None:
    assert register(server, "pw-00001") == "SIP/2.0 200 OK"
    trying, invite = server.receive(request("INVITE", f"sip:u00001@{DOMAIN}", 1, user="caller"), CALLER)
    assert trying.start_line.startswith("SIP/2.0 100 ")
    assert (invite.to, invite.start_line) == (PHONE, f"INVITE sip:u00001@{PHONE} SIP/2.0")
    assert b"\r\nRecord-Route: <sip:192.0.2.1;" in invite.data
    assert "KSR.tm.t_relay" in [call.path for call in server.calls]


def test_who_is_not_registered_cannot_be_called(server: ServerUnderTest) -> None:
    (reply,) = server.receive(request("INVITE", f"sip:u00009@{DOMAIN}", 1), CALLER)
    assert reply.start_line == "SIP/2.0 404 Not Found"
