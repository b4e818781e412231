"""tls: what variables and functions tell of a connection, and the commands; the connections are made up."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from polykemi.errors import ConfigError, RpcError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.network import NoTls, TlsConnection, TlsState
from polykemi.kemi.route import Route
from polykemi.kemi.rpc import commands_of
from polykemi.modules.base import Services
from polykemi.modules.tls import TlsModule
from polykemi.sip.flow import Flow, Listener
from polykemi.sip.message import parse
from tests.pki import Pki
from tests.support import NOW, message, services

LISTENER = Listener("tls", "192.0.2.1", 5061)
FLOW = Flow(LISTENER, "192.0.2.10", 40000)
DESCRIPTION = "TLS_AES_256_GCM_SHA384         TLSv1.3 Kx=any      Au=any   Enc=AESGCM(256)            Mac=AEAD"


class Connections(NoTls):
    """One connection, with these certificates."""

    def __init__(self, own: bytes, peer: bytes) -> None:
        self.state = TlsState(
            "TLSv1.3", "TLS_AES_256_GCM_SHA384", 256, DESCRIPTION, "Sip.example.test", own, peer, bool(peer)
        )
        self.server_id = ""
        self.error = ""

    def tls_state(self, flow: Flow) -> TlsState | None:
        """Return it."""
        return self.state if flow[1:] == FLOW[1:] else None

    def most_connections(self) -> int:
        return 100

    def tls_connections(self, now: float) -> list[TlsConnection]:
        """Return it, and another whose handshake is not over."""
        half = TlsConnection(4, FLOW._replace(port=4), 9, 100, False, None)
        return [TlsConnection(3, FLOW, int(now - NOW) + 7, 20, True, self.state), half]

    def use_server_id(self, server_id: str) -> None:
        """Note it."""
        self.server_id = server_id

    def reread_tls(self) -> Callable[[], None]:
        """Fail as the test wants it."""
        if self.error:
            raise ConfigError(self.error)
        return lambda: None


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Ours and the peer's."""
    pki = Pki(tmp_path_factory.mktemp("pki"))
    names = "DNS:sip.example.test,DNS:b.test,IP:192.0.2.1"
    own, _ = pki.issue("own", names, "/C=DE/ST=Hessen/L=Bad Homburg/O=Tests, Inc/OU=Lab/CN=own")
    peer, _ = pki.issue("peer", "URI:sip:alice@example.test,email:alice@example.test", "/CN=alice/UID=u1")
    return own, peer


def made(own: Path, peer: Path | None) -> tuple[Services, Connections]:
    one = services(TlsModule, listeners=(LISTENER,))
    der = [ssl.PEM_cert_to_DER_cert(path.read_text()) if path is not None else b"" for path in (own, peer)]
    one.tls = connections = Connections(*der)
    return one, connections


def context(flow: Flow = FLOW, now: float = NOW) -> RouteContext:
    return RouteContext(Route.REQUEST, "ksr_request_route", parse(message("OPTIONS sip:a SIP/2.0")), flow, now)


def value(one: Services, name: str, ctx: RouteContext) -> Any:
    accessor = one.variables.compile(name)
    assert accessor is not None, name
    return accessor.get(ctx)


@pytest.mark.parametrize(
    ("name", "expected"),
    [  # all as seen from Kamailio 5.6, but for what docs/differences.md says
        ("$tls_version", "TLSv1.3"),
        ("$tls_cipher_info", "TLS_AES_256_GCM_SHA384"),
        ("$tls_cipher_bits", "256"),
        ("$tls_description", DESCRIPTION),
        ("$tls_peer_server_name", "Sip.example.test"),
        ("$tls_my_subject", "/C=DE/ST=Hessen/L=Bad Homburg/O=Tests, Inc/OU=Lab/CN=own"),
        ("$tls_my_subject_organization", "Tests, Inc"),
        ("$tls_my_subject_country", "DE"),
        ("$tls_my_subject_uid", None),
        ("$tls_my_san_hostname", "sip.example.test"),
        ("$(tls_my_san_hostname[1])", "b.test"),
        ("$(tls_my_san_hostname[2])", None),
        ("$tls_my_san_ip", "192.0.2.1"),
        ("$tls_my_san_count(DNS)", 2),
        ("$tls_my_version", "2"),
        ("$tls(m_issuer_line)", "/O=Tests/CN=Test CA"),
        ("$tls(p_subject_line)", "/CN=alice/UID=u1"),
        ("$tls_peer_subject_cn", "alice"),
        ("$tls_peer_subject_uid", "u1"),
        ("$tls_peer_issuer_cn", "Test CA"),
        ("$tls_peer_issuer_unit", None),
        ("$tls_peer_san_uri", "sip:alice@example.test"),
        ("$tls_peer_san_email", "alice@example.test"),
        ("$tls_peer_san_count(DNS)", 0),
        ("$tls_peer_verified", "1"),
        ("$tls_peer_revoked", "0"),
        ("$tls_peer_selfsigned", "0"),
    ],
)
def test_variables(certificates: tuple[Path, Path], name: str, expected: Any) -> None:
    one, _ = made(*certificates)
    assert value(one, name, context()) == expected
    assert value(one, name, context(FLOW._replace(listener=LISTENER._replace(proto="udp")))) is None
    assert value(one, name, context(FLOW._replace(port=1))) is None  # the connection is gone


def test_the_certificate_itself(certificates: tuple[Path, Path]) -> None:
    one, _ = made(*certificates)
    pem = certificates[1].read_text()
    assert value(one, "$tls_peer_raw_cert", context()) == pem
    escaped = value(one, "$tls_peer_urlencoded_cert", context())
    assert escaped.startswith("-----BEGIN%20CERTIFICATE-----%0a")
    assert not set(escaped) & set("+/= \n")


def test_a_certificate_that_is_over(certificates: tuple[Path, Path]) -> None:
    one, _ = made(*certificates)
    assert value(one, "$tls_peer_expired", context(now=0.0)) == "0"
    assert value(one, "$tls_peer_expired", context(now=1e11)) == "1"
    text = value(one, "$tls_peer_notAfter", context())
    assert ssl.cert_time_to_seconds(text) > ssl.cert_time_to_seconds(value(one, "$tls_peer_notBefore", context()))


def test_a_peer_without_certificate(certificates: tuple[Path, Path]) -> None:
    one, _ = made(certificates[0], None)
    for name in ("verified", "expired", "revoked", "selfsigned"):
        assert value(one, f"$tls_peer_{name}", context()) == "0"
    for name in ("subject_cn", "san_hostname", "raw_cert", "notAfter", "serial"):
        assert value(one, f"$tls_peer_{name}", context()) is None
    assert one.modules["tls"].is_peer_verified(context()) == -1


def test_functions(certificates: tuple[Path, Path]) -> None:
    one, connections = made(*certificates)
    module = one.modules["tls"]
    assert module.is_peer_verified(context()) == 1
    assert module.is_peer_verified(context(FLOW._replace(listener=LISTENER._replace(proto="wss")))) == 1
    assert module.is_peer_verified(context(FLOW._replace(listener=LISTENER._replace(proto="tcp")))) == -1
    assert [module.cget(context(), name) for name in ("tls_version", "tls_cipher_bits")] == ["TLSv1.3", "256"]
    assert [module.cget(context(), name) for name in ("version", "$tls_version", "tls_x", "")] == [""] * 4
    assert module.set_connect_server_id(context(), "lab") == 1
    assert connections.server_id == "lab"


def test_commands(certificates: tuple[Path, Path]) -> None:
    one, connections = made(*certificates)
    commands = {command.name: command for command in commands_of(one.modules["tls"])}
    assert commands["tls.reload"].run([], NOW) == "Ok. TLS configuration reloaded."
    connections.error = "polykemi.toml:3: [tls] key: a.key: No such file or directory"
    with pytest.raises(RpcError, match="\\[tls\\] key: a"):
        commands["tls.reload"].run([], NOW)
    assert commands["tls.info"].run([], NOW) == {
        "max_connections": 100,
        "opened_connections": 2,
        "clear_text_write_queued_bytes": 120,
    }
    first, second = commands["tls.list"].run([], NOW)
    assert first == {
        "id": 3,
        "timeout": 7,
        "src_ip": "192.0.2.10",
        "src_port": 40000,
        "dst_ip": "192.0.2.1",
        "dst_port": 5061,
        "cipher": DESCRIPTION,
        "ct_wq_size": 20,
        "state": "established",
    }
    assert (second["state"], second["cipher"]) == ("connect", "unknown")


def test_without_tls_nothing_is_reloaded() -> None:
    with pytest.raises(RpcError, match="there is no listener for TLS"):
        services(TlsModule).modules["tls"].reload()
