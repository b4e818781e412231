"""SIP over TLS: registrations and calls of phones and browsers, certificates that change, servers that we call.

Debian's sipp is built without TLS, so the phones are Python's.
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from bench.ports import free_port
from tests.e2e.conftest import DOMAIN, ROOT, SCRIPTS, ServerProcess, make_data
from tests.e2e.stream_phone import SecureBrowser, SecurePhone, StreamPhone, values
from tests.e2e.test_websocket import CONFIG, ENDED
from tests.pki import Pki
from tests.waiting import PATIENCE

TLS = """
[tls]
certificate = "now.pem"
key = "now.key"
[tls.client]
ca = "pki/ca.pem"
"""


class SecureServer:
    """A server with a TLS listener, the certificate of which can be changed."""

    def __init__(self, data: Path, engine: str) -> None:
        self.data, self.pki = make_data(data), Pki(data / "pki")
        self.pki.issue("new", "IP:127.0.0.1")
        self.use("server")
        sample = Path(SCRIPTS[engine])
        script = data / sample.name
        script.write_text((ROOT / sample).read_text() + ENDED[engine])
        (data / "polykemi.toml").write_text(CONFIG + TLS)
        self.port = free_port()
        arguments = ["--config", str(data / "polykemi.toml"), "--engine", engine, str(script)]
        self.process = ServerProcess(data, [*arguments, "--listen", f"tls:127.0.0.1:{self.port}"])

    def use(self, name: str) -> None:
        """Put the certificate ``name`` in place."""
        for suffix in ("pem", "key"):
            (self.data / f"now.{suffix}").write_bytes(self.pki.path(f"{name}.{suffix}").read_bytes())

    def rpc(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Ask it."""
        arguments = [sys.executable, "-m", "polykemi", "rpc", *command, "--data", str(self.data)]
        return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)

    def phone(self, kind: type[StreamPhone], user: str) -> StreamPhone:
        """Return a phone of ``user`` that is connected."""
        context = self.pki.client()
        if kind in (SecurePhone, SecureBrowser):
            return kind(user, self.port, context=context)
        return kind(user, self.process.port)


@pytest.fixture(scope="module", params=list(SCRIPTS))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureServer]:
    """A server for each engine, with its sample script."""
    made = SecureServer(tmp_path_factory.mktemp(f"tls-{request.param}"), request.param)
    yield made
    assert made.process.stop() == 0
    log = made.process.log()
    assert "Traceback" not in log
    assert "script error" not in log
    assert "PRIVATE KEY" not in log


@pytest.mark.parametrize(
    ("caller", "callee"),
    [
        (SecurePhone, SecurePhone),
        (StreamPhone, SecurePhone),
        (SecurePhone, SecureBrowser),
        (SecureBrowser, StreamPhone),
    ],
    ids=lambda kind: kind.transport,
)
def test_a_call_over_the_connections_that_they_have_opened(
    server: SecureServer, caller: type[StreamPhone], callee: type[StreamPhone]
) -> None:
    with ExitStack() as stack:
        alice = stack.enter_context(closing(server.phone(caller, "alice")))
        bob = stack.enter_context(closing(server.phone(callee, "bob")))
        alice.register()
        bob.register()
        alice.authorized("INVITE", f"sip:bob@{DOMAIN}", f"<sip:bob@{DOMAIN}>")
        invite = bob.expect(f"INVITE {bob.contact.strip('<>')} SIP/2.0")
        ports = {"TLS": server.port, "WSS": server.port, "TCP": server.process.port}
        us = f"127.0.0.1:{ports[bob.transport]}"
        assert values(invite, "Via")[0].startswith(f"SIP/2.0/{bob.transport} {us};branch=z9hG4bK")
        transports = {"TLS": "tls", "WSS": "ws", "TCP": "tcp"}  # as URIs name them
        sides = [(bob, 0)] if caller is callee else [(bob, 1), (alice, 1)]
        expected = [f"<sip:127.0.0.1:{ports[p.transport]};transport={transports[p.transport]}" for p, _ in sides]
        found = [value for line in values(invite, "Record-Route") for value in line.split(",")]
        assert [value.partition(";r2=on")[0].partition(";lr")[0] for value in found] == expected
        bob.answer(invite, "200 OK")
        ok = alice.expect("SIP/2.0 200")
        alice.in_dialog("ACK", ok, cseq=2, caller=True)
        bob.expect("ACK ")
        bob.in_dialog("BYE", invite, cseq=1, caller=False)
        alice.answer(alice.expect("BYE "), "200 OK")
        bob.expect("SIP/2.0 200")
        for one in (alice, bob):
            one.contact = "*"
            one.authorized("REGISTER", f"sip:{DOMAIN}", f"<sip:{one.user}@{DOMAIN}>", "Expires: 0")
            one.expect("SIP/2.0 200")


def subject(phone: StreamPhone) -> str:
    assert isinstance(phone.socket, ssl.SSLSocket)
    certificate: Any = phone.socket.getpeercert()
    return str(dict(pair for (pair,) in certificate["subject"])["commonName"])


def test_certificates_change_and_connections_stay(server: SecureServer) -> None:
    with ExitStack() as stack:
        before = stack.enter_context(closing(server.phone(SecurePhone, "alice")))
        before.register()
        server.use("new")
        assert "reloaded" in server.rpc("tls.reload").stdout
        after = stack.enter_context(closing(server.phone(SecurePhone, "bob")))
        after.register()
        assert [subject(before), subject(after)] == ["server", "new"]
        before.register()  # over the connection that it has
        (server.data / "now.key").write_bytes(server.pki.path("server.key").read_bytes())
        refused = server.rpc("tls.reload")
        assert refused.returncode != 0
        assert "now.key is not the key of" in refused.stderr
        assert "polykemi.toml:" in refused.stderr
        with closing(server.phone(SecurePhone, "carol")) as still:
            assert subject(still) == "new"
        listed = json.loads(server.rpc("--json", "tls.list").stdout)
        ports = {one["src_port"]: (one["dst_port"], one["state"]) for one in listed}
        for phone in (before, after):
            assert ports[phone.socket.getsockname()[1]] == (server.port, "established")
    server.use("server")
    assert server.rpc("tls.reload").returncode == 0


def test_a_phone_that_does_not_speak_tls_is_dropped(server: SecureServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as sock:
        sock.sendall(b"OPTIONS sip:a SIP/2.0\r\nContent-Length: 0\r\n\r\n")
        assert sock.recv(4096) == b""
    assert "tcp:tls_not_spoken = 1" in server.rpc("stats.get_statistics", "tcp:").stdout


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "not trusted"])
def test_a_contact_that_is_called_over_tls(server: SecureServer, trusted: bool, tmp_path: Path) -> None:
    """Bob's phone waits for connections; only with a certificate that [tls.client] trusts it gets the call."""
    context = (server.pki if trusted else Pki(tmp_path)).server()
    with socket.create_server(("127.0.0.1", 0)) as listening, ExitStack() as stack:
        listening.settimeout(PATIENCE)
        bob = stack.enter_context(closing(server.phone(StreamPhone, "bob")))
        bob.contact = f"<sip:bob@127.0.0.1:{listening.getsockname()[1]};transport=tls>"
        bob.register()
        alice = stack.enter_context(closing(server.phone(SecurePhone, "alice")))
        alice.authorized("INVITE", f"sip:bob@{DOMAIN}", f"<sip:bob@{DOMAIN}>")
        accepted = listening.accept()[0]
        accepted.settimeout(PATIENCE)
        if trusted:
            with context.wrap_socket(accepted, server_side=True) as secure:
                assert secure.recv(65536).startswith(b"INVITE sip:bob@127.0.0.1:")
        else:
            with pytest.raises(ssl.SSLError), context.wrap_socket(accepted, server_side=True) as secure:
                secure.recv(65536)
            answer = alice.expect("SIP/2.0 ")
            assert answer.startswith(("SIP/2.0 500", "SIP/2.0 503", "SIP/2.0 477")), answer
        bob.contact = "*"
        bob.authorized("REGISTER", f"sip:{DOMAIN}", f"<sip:bob@{DOMAIN}>", "Expires: 0")
        bob.expect("SIP/2.0 200")
