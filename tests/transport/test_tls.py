"""TLS: real handshakes over loopback, by profile; what is no TLS; limits; connections that we make; WebSocket on it."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from wsproto.frame_protocol import FrameProtocol, Opcode

from polykemi.errors import ParseError
from polykemi.sip.flow import Flow, Listener, NamedFlow, OpenFlow, onward
from polykemi.transport.connection import as_websocket
from polykemi.transport.limits import StreamLimits
from polykemi.transport.manager import Transports
from polykemi.transport.tls import client_hello
from polykemi.transport.tls_profiles import SUBDOMAINS, WITH_SUBDOMAINS, BadProfile, TlsProfile, TlsSettings
from tests.pki import Pki
from tests.waiting import PATIENCE

NAME = "sip.example.test"
MESSAGE = b"OPTIONS sip:a@example.test SIP/2.0\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """A CA with a server, another one, and a client."""
    made = Pki(tmp_path_factory.mktemp("pki"))
    made.issue("other", "DNS:other.test")
    made.issue("client", "URI:sip:alice@example.test", "/C=DE/O=Tests/OU=Phones/CN=alice")
    return made


def profile(pki: Pki, certificate: str = "server", **more: Any) -> TlsProfile:
    return TlsProfile(certificate=pki.path(f"{certificate}.pem"), key=pki.path(f"{certificate}.key"), **more)


def settings(pki: Pki, *servers: TlsProfile, **client: Any) -> TlsSettings:
    calls = TlsProfile("client", verify="require", ca=pki.ca)
    return TlsSettings(servers or (profile(pki),), (calls, *(TlsProfile(**client) for _ in range(bool(client)))))


class Loop(asyncio.SelectorEventLoop):
    """A loop whose clock can be put forward."""

    ahead = 0.0  # seconds

    def time(self) -> float:
        """Return the time that timers go by."""
        return super().time() + self.ahead


class Network:
    """A TLS listener on loopback, and what it reported."""

    def __init__(self, tls: TlsSettings, host: str = "127.0.0.1", **limits: Any) -> None:
        self.received: list[tuple[bytes, Flow]] = []
        self.failed: list[bytes] = []
        self.upgrade = False  # take WebSocket frames from the next message on
        self.transports = Transports(
            [Listener("tls", host, 0)],
            self._receive,
            lambda: None,
            lambda data, flow: self.failed.append(data),
            limits=StreamLimits(**limits),
            tls=tls,
        )
        self.loop = Loop()
        self.transports.open(self.loop)
        self.streams = self.transports.streams
        self.listener = self.transports.listeners[0]
        self.peers: list[socket.socket] = []

    def _receive(self, data: bytes, flow: Flow, now: float) -> None:
        self.received.append((data, flow))
        if self.upgrade:
            self.upgrade = False
            assert self.streams.upgrade(flow)

    def counted(self, name: str) -> int:
        """Return a counter."""
        return self.streams.counters[f"tcp.{name}"]

    def until(self, condition: Callable[[], bool]) -> None:
        """Run the loop until ``condition`` holds."""
        end = self.loop.time() + PATIENCE
        while not condition():
            assert self.loop.time() < end
            self.loop.call_later(0.002, self.loop.stop)
            self.loop.run_forever()

    def connect(self) -> socket.socket:
        """Return a connection that speaks nothing yet."""
        sock = socket.create_connection((self.listener.host, self.listener.port))
        sock.setblocking(False)
        self.peers.append(sock)
        return sock

    def peer(self, context: ssl.SSLContext, name: str = NAME) -> ssl.SSLSocket:
        """Return a connection of a peer, the handshake done."""
        return self.shaken(context.wrap_socket(self.connect(), server_hostname=name, do_handshake_on_connect=False))

    def shaken(self, sock: ssl.SSLSocket) -> ssl.SSLSocket:
        """Do a handshake."""
        self.peers.append(sock)

        def is_over() -> bool:
            try:
                sock.do_handshake()
            except ssl.SSLWantReadError:
                return False
            return True

        self.until(is_over)
        return sock

    def from_peer(self, sock: socket.socket, n: int) -> bytes:
        """Return what ``n`` octets or more come to a peer; what there is when the server closes."""
        data = b""

        def enough() -> bool:
            nonlocal data
            try:
                more = sock.recv(65536)
            except (BlockingIOError, ssl.SSLWantReadError):
                return len(data) >= n
            except ConnectionError:
                return True
            data += more
            return not more or len(data) >= n

        self.until(enough)
        return data

    def called(self, server: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
        """Take a connection of ours on ``server`` and do its handshake."""
        server.setblocking(False)
        taken: list[socket.socket] = []

        def take() -> bool:
            try:
                taken.append(server.accept()[0])
            except BlockingIOError:
                return False
            return True

        self.until(take)
        taken[0].setblocking(False)
        return self.shaken(context.wrap_socket(taken[0], server_side=True, do_handshake_on_connect=False))

    def close(self) -> None:
        """Close everything."""
        for sock in self.peers:
            sock.close()
        self.transports.close()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


@pytest.fixture
def made() -> Iterator[Callable[..., Network]]:
    """Make networks that are closed afterwards."""
    networks: list[Network] = []

    def make(*arguments: Any, **limits: Any) -> Network:
        networks.append(Network(*arguments, **limits))
        return networks[-1]

    yield make
    for one in networks:
        one.close()


Make = Callable[..., Network]


# ---- connections that come in
def test_messages_travel_both_ways(pki: Pki, made: Make) -> None:
    network = made(settings(pki))
    peer = network.peer(pki.client())
    peer.sendall(MESSAGE[:9])
    peer.sendall(MESSAGE[9:] + b"\r\n\r\n")
    network.until(lambda: len(network.received) == 1)
    assert network.from_peer(peer, 2) == b"\r\n"  # RFC 5626 section 4.4.1
    data, flow = network.received[0]
    assert (data, flow.listener, flow.port) == (MESSAGE, network.listener, peer.getsockname()[1])
    assert str(network.listener) == f"tls:127.0.0.1:{network.listener.port}"
    network.transports.send([(b"reply", flow)])
    assert network.from_peer(peer, 5) == b"reply"
    assert network.counted("tls_opened") == network.counted("established") == 1


def test_messages_longer_than_a_record(pki: Pki, made: Make) -> None:
    network = made(settings(pki))
    peer = network.peer(pki.client())
    body = bytes(range(256)) * 200
    long = b"MESSAGE sip:a@example.test SIP/2.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    sent = 0

    def send() -> bool:
        nonlocal sent
        try:
            sent += peer.send(long[sent:])
        except ssl.SSLWantWriteError:
            pass
        return sent == len(long) and bool(network.received)

    network.until(send)
    assert network.received[0][0] == long
    network.transports.send([(long, network.received[0][1])])
    assert network.from_peer(peer, len(long)) == long


def test_the_peer_ends_it(pki: Pki, made: Make) -> None:
    network = made(settings(pki))
    peer = network.peer(pki.client())
    network.until(lambda: len(network.streams) == 1)
    try:
        peer.unwrap()
    except ssl.SSLWantReadError:
        pass
    network.until(lambda: len(network.streams) == 0)


def test_the_end_is_told(pki: Pki, made: Make) -> None:
    network = made(settings(pki))
    peer = network.peer(pki.client())
    peer.sendall(MESSAGE)
    network.until(lambda: bool(network.received))
    network.streams.close_after_reply(network.received[0][1])
    network.transports.send([(b"last", network.received[0][1])])
    assert network.from_peer(peer, 99) == b"last"  # close_notify: else SSLEOFError would be raised


@pytest.mark.parametrize("first", [MESSAGE, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x04\x02\0\0\0", b"\0" * 40])
def test_what_is_no_tls_is_dropped_and_counted(pki: Pki, made: Make, first: bytes) -> None:
    network = made(settings(pki))
    peer = network.connect()
    peer.sendall(first)
    assert network.from_peer(peer, 1) == b""
    assert (network.counted("tls_not_spoken"), network.counted("tls_opened")) == (1, 0)
    assert network.received == []


def test_a_handshake_that_fails_is_counted(pki: Pki, made: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    network = made(settings(pki))
    with pytest.raises(ssl.SSLCertVerificationError):
        network.peer(ssl.create_default_context())  # does not know the CA
    network.until(lambda: len(network.streams) == 0)
    assert network.counted("tls_failed") == 1
    assert "unknown ca" in caplog.text


def test_those_who_try_and_fail_do_not_fill_the_disk(pki: Pki, made: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    network = made(settings(pki))
    for i in range(30):
        network.connect().sendall(MESSAGE)
        network.until(lambda n=i: network.counted("tls_not_spoken") == n + 1)  # type: ignore[misc]
    assert sum("closed tls:127.0.0.1:" in record.message for record in caplog.records) == 20


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01", b"hello"])
def test_a_handshake_that_never_ends_is_dropped(pki: Pki, made: Make, sent: bytes) -> None:
    network = made(settings(pki), connect_timeout=0.05)
    peer = network.connect()
    if sent == b"hello":  # a whole ClientHello, and then nothing
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        with pytest.raises(ssl.SSLWantReadError):
            pki.client().wrap_bio(incoming, outgoing, server_hostname=NAME).do_handshake()
        sent = outgoing.read()
    peer.sendall(sent)
    network.from_peer(peer, 1 << 20)
    network.until(lambda: len(network.streams) == 0)
    assert network.counted("tls_timeout") == 1


def test_one_that_is_open_outlives_the_limit_of_handshakes(pki: Pki, made: Make) -> None:
    network = made(settings(pki), connect_timeout=3600)
    peer = network.peer(pki.client())
    late = network.connect()
    network.until(lambda: len(network.streams) == 2)
    network.loop.ahead = 3600
    assert network.from_peer(late, 1) == b""  # so the time is over
    peer.sendall(MESSAGE)
    network.until(lambda: bool(network.received))


def test_handshakes_take_turns_with_all_else(pki: Pki, made: Make) -> None:
    network = made(settings(pki))
    for _ in range(3):
        network.connect()
    network.until(lambda: len(network.streams) == 3)
    connections = list(network.streams.known.by_ident.values())
    for one in connections:
        one.data_received(hello(NAME))  # all at once
    begun = []
    for _ in range(4):
        network.loop.call_soon(network.loop.stop)
        network.loop.run_forever()  # once around
        begun.append(sum(one.tls is not None and not one.tls.is_waiting for one in connections))
    assert begun == [1, 2, 3, 3]


def test_who_does_not_wait_for_the_answer_is_dropped(pki: Pki, made: Make) -> None:
    network = made(settings(pki))
    network.connect()
    network.until(lambda: len(network.streams) == 1)
    (connection,) = network.streams.known.by_ident.values()
    connection.data_received(hello(NAME) + b"x" * 10_000)
    for _ in range(2):
        connection.data_received(b"x" * 16_000)
    network.until(lambda: len(network.streams) == 0)
    assert network.counted("tls_not_spoken") == 1


def test_octets_that_cannot_be_decrypted_end_it(pki: Pki, made: Make) -> None:
    network = made(settings(pki))
    peer = network.peer(pki.client())
    raw = socket.socket(fileno=os.dup(peer.fileno()))
    raw.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
    raw.close()
    network.until(lambda: len(network.streams) == 0)
    assert network.received == []


def test_renegotiation_is_refused(pki: Pki, made: Make) -> None:
    network = made(settings(pki, profile(pki, method="TLSv1.2")))
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{network.listener.port}", "-CAfile", str(pki.ca)]
    client = asyncio.subprocess.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )

    async def renegotiate() -> bytes:
        process = await client
        assert process.stdin is not None
        process.stdin.write(b"R\n")
        await process.stdin.drain()
        out, _ = await asyncio.wait_for(process.communicate(), 10)
        return out

    out = network.loop.run_until_complete(renegotiate())
    assert b"RENEGOTIATING" in out
    assert b"no renegotiation" in out


def test_a_session_is_resumed(pki: Pki, made: Make) -> None:
    network = made(settings(pki))
    context = pki.client()
    first = network.peer(context)
    first.sendall(b"\r\n\r\n")
    network.from_peer(first, 2)  # the ticket has come before
    session = first.session
    again = context.wrap_socket(network.connect(), server_hostname=NAME, do_handshake_on_connect=False, session=session)
    assert network.shaken(again).session_reused


# ---- profiles
def common_name(sock: ssl.SSLSocket) -> str:
    certificate: Any = sock.getpeercert()
    return str(dict(pair for (pair,) in certificate["subject"])["commonName"])


def test_the_name_that_is_asked_for_chooses_the_certificate(pki: Pki, made: Make) -> None:
    network = made(settings(pki, profile(pki), profile(pki, "other", name="server.other", server_name="other.test")))
    assert common_name(network.peer(pki.client())) == "server"
    assert common_name(network.peer(pki.client(), "Other.Test")) == "other"
    assert common_name(network.peer(pki.client(), "127.0.0.1")) == "server"  # an address is no name in SNI


def test_the_name_chooses_what_is_asked_of_the_client_too(pki: Pki, made: Make) -> None:
    """OpenSSL's own way of changing certificates by name would leave the rules of the first profile."""
    strict = profile(pki, "other", name="server.other", server_name="other.test", verify="require", ca=pki.ca)
    network = made(settings(pki, profile(pki), strict))
    network.peer(pki.client()).sendall(MESSAGE)
    network.until(lambda: len(network.received) == 1)
    network.peer(pki.client("client"), "other.test").sendall(MESSAGE)
    network.until(lambda: len(network.received) == 2)
    refused = network.peer(pki.client(), "other.test")  # TLS 1.3: the client learns it later
    with pytest.raises(ssl.SSLError):
        network.from_peer(refused, 1)
    assert network.counted("tls_failed") == 1


@pytest.mark.parametrize(
    ("mode", "names"),
    [(0, {"a.test"}), (WITH_SUBDOMAINS, {"a.test", "b.a.test"}), (SUBDOMAINS, {"b.a.test"})],
)
def test_names_and_their_subdomains(mode: int, names: set[str]) -> None:
    one = TlsProfile("server.a", server_name="a.test", server_name_mode=mode)
    assert {name for name in ("a.test", "b.a.test", "aa.test", "test", "") if one.is_named(name)} == names


def test_a_listener_goes_before_any_and_a_name_before_none() -> None:
    default, named = TlsProfile(), TlsProfile("n", server_name="a.test")
    at, both = (
        TlsProfile("l", address="127.0.0.1:5061"),
        TlsProfile("b", address="127.0.0.1:5061", server_name="a.test"),
    )
    all_of = TlsSettings((default, named, at, both))
    here, there = Listener("tls", "127.0.0.1", 5061), Listener("tls", "::1", 5061)
    assert [all_of.server(here, name) for name in ("a.test", "b.test", "")] == [both, at, at]
    assert [all_of.server(there, name) for name in ("a.test", "b.test", "")] == [named, default, default]


@pytest.mark.parametrize("verify", ["optional", "require"])
def test_certificates_of_clients(pki: Pki, made: Make, verify: str) -> None:
    network = made(settings(pki, profile(pki, verify=verify, ca=pki.ca, method="TLSv1.2")))
    network.peer(pki.client("client")).sendall(MESSAGE)
    network.until(lambda: len(network.received) == 1)
    if verify == "optional":
        network.peer(pki.client()).sendall(MESSAGE)
        network.until(lambda: len(network.received) == 2)
    else:
        with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
            network.peer(pki.client())


def test_a_certificate_of_another_ca_is_refused(pki: Pki, made: Make, tmp_path: Path) -> None:
    network = made(settings(pki, profile(pki, verify="optional", ca=pki.ca, method="TLSv1.2")))
    other = Pki(tmp_path)
    context = other.client("server")
    context.load_verify_locations(pki.ca)
    with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
        network.peer(context)


def test_a_certificate_that_was_revoked_is_refused(made: Make, tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    for name in ("good", "stolen"):
        pki.issue(name, f"DNS:{name}.test")
    crl = pki.revoke("stolen")
    network = made(settings(pki, profile(pki, verify="require", ca=pki.ca, crl=crl, method="TLSv1.2")))
    network.peer(pki.client("good"))
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_REVOKED"):
        network.peer(pki.client("stolen"))


def test_version_and_ciphers(pki: Pki, made: Make) -> None:
    cipher = "ECDHE-ECDSA-AES128-GCM-SHA256"
    network = made(settings(pki, profile(pki, method="TLSv1.2", ciphers=cipher)))
    peer = network.peer(pki.client())
    assert (peer.version(), (peer.cipher() or ("",))[0]) == ("TLSv1.2", cipher)
    newer = made(settings(pki, profile(pki, method="TLSv1.3+")))
    old = pki.client()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        newer.peer(old)


# ---- reloading
def reload(network: Network) -> None:
    """Do as tls.reload."""
    use = network.streams.reread_tls()
    assert use is not None
    use()


def test_new_files_are_for_new_connections(pki: Pki, made: Make, tmp_path: Path) -> None:
    certificate, key = tmp_path / "now.pem", tmp_path / "now.key"

    def put(name: str) -> None:
        certificate.write_bytes(pki.path(f"{name}.pem").read_bytes())
        key.write_bytes(pki.path(f"{name}.key").read_bytes())

    put("server")
    now = TlsSettings((TlsProfile(certificate=certificate, key=key),), settings(pki).clients)
    network = made(now)
    old = network.peer(pki.client())
    put("other")
    reload(network)
    assert common_name(network.peer(pki.client(), "other.test")) == "other"
    old.sendall(MESSAGE)
    network.until(lambda: len(network.received) == 1)
    key.write_bytes(pki.path("client.key").read_bytes())
    with pytest.raises(BadProfile, match=r"\[tls\] key: .*now.key is not the key of .*now.pem"):
        reload(network)
    assert common_name(network.peer(pki.client(), "other.test")) == "other"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"certificate": "none.pem"}, r"certificate: .*none.pem: No such file or directory"),
        ({"certificate": "server.key"}, "certificate: .*server.key: expected a certificate in PEM"),
        ({"key": "server.pem"}, "key: .*server.pem: expected a private key in PEM"),
        ({"key": None}, "certificate: .*server.pem: expected a private key in PEM"),
        ({"key": "secret.key"}, "key: .*secret.key wants a password: expected a key without"),
        ({"key": "broken.key"}, "certificate: .*broken.key"),
        ({"ciphers": "ROT13"}, "ciphers: no cipher is named by 'ROT13'"),
        ({"verify": "require", "ca": "server.key"}, "ca: .*server.key: expected certificates in PEM"),
        ({"verify": "require", "ca": "ca.pem", "crl": "ca.pem"}, "crl: .*ca.pem: expected a list of revoked"),
    ],
)
def test_a_profile_that_cannot_be_used_is_told(pki: Pki, bad: dict[str, Any], message: str) -> None:
    secret = pki.path("secret.key")
    pki._run("ec", "-in", str(pki.path("server.key")), "-out", str(secret), "-aes128", "-passout", "pass:secret")
    lines = pki.path("server.key").read_text().splitlines()
    pki.path("broken.key").write_text("\n".join([lines[0], "AAAA", lines[-1]]))
    paths = {"certificate", "key", "ca", "crl"}
    values = {key: pki.path(value) if key in paths and value else value for key, value in bad.items()}
    fields: dict[str, Any] = {"certificate": pki.path("server.pem"), "key": pki.path("server.key"), **values}
    with pytest.raises(BadProfile, match=message):
        Network(TlsSettings((TlsProfile(**fields),)))


@pytest.mark.parametrize(("days", "says"), [(3, " ends on "), (60, "")])
def test_a_certificate_that_ends_soon(
    pki: Pki, made: Make, caplog: pytest.LogCaptureFixture, days: int, says: str
) -> None:
    pki.issue(f"short{days}", "DNS:a.test", days=days)
    made(settings(pki, profile(pki, f"short{days}")))
    assert [f"short{days}.pem{says}" in record.message for record in caplog.records] == [True] * bool(says)


# ---- connections that we make
def test_a_server_is_called_and_kept(pki: Pki, made: Make) -> None:
    network = made(settings(pki))
    with socket.create_server(("127.0.0.1", 0)) as server:
        flow = Flow(network.listener, "127.0.0.1", server.getsockname()[1])
        network.transports.send([(b"one", flow), (b"two", flow)])
        other = network.called(server, pki.server())
        assert network.from_peer(other, 6) == b"onetwo"
        other.sendall(MESSAGE)
        network.until(lambda: network.received == [(MESSAGE, flow)])
        network.transports.send([(b"three", flow)])
        assert network.from_peer(other, 5) == b"three"
        assert network.counted("connect_success") == 1


def test_a_name_is_asked_for_and_has_to_be_proved(pki: Pki, made: Make) -> None:
    network = made(settings(pki))
    context = pki.server()
    asked: list[str | None] = []
    context.sni_callback = lambda sock, name, ctx: asked.append(name)
    with socket.create_server(("127.0.0.1", 0)) as server:
        flow = Flow(network.listener, "127.0.0.1", server.getsockname()[1])
        named, wrong = NamedFlow.to(flow, NAME), NamedFlow.to(flow, "other.test")
        network.transports.send([(b"hello", named)])
        first = network.called(server, context)
        assert network.from_peer(first, 5) == b"hello"
        network.transports.send([(b"again", named)])
        assert network.from_peer(first, 5) == b"again"
        network.transports.send([(b"secret", wrong)])  # the same address is no proof
        with pytest.raises(ssl.SSLError, match="BAD_CERTIFICATE"):
            network.from_peer(network.called(server, context), 6)
        network.until(lambda: network.failed == [b"secret"])
        assert asked == [NAME, "other.test"]
        network.transports.send([(b"closed", onward(OpenFlow, wrong)), (b"here", onward(OpenFlow, named))])
        assert network.from_peer(first, 4) == b"here"
        assert network.failed == [b"secret", b"closed"]
        network.transports.send([(b"known", flow)])  # by its address alone any connection will do
        assert network.from_peer(first, 5) == b"known"
    first.close()
    network.until(lambda: len(network.streams) == 0)
    assert not network.streams.known._by_name


def test_a_host_name_of_the_resolver_is_proved(pki: Pki, made: Make) -> None:
    pki.issue("local", "DNS:localhost")
    network = made(settings(pki))
    with socket.create_server(("127.0.0.1", 0)) as server:
        network.transports.send([(b"hello", Flow(network.listener, "localhost", server.getsockname()[1]))])
        assert network.from_peer(network.called(server, pki.server("local")), 5) == b"hello"


def test_a_server_that_nobody_vouches_for_gets_nothing(pki: Pki, made: Make, tmp_path: Path) -> None:
    network = made(settings(pki))
    with socket.create_server(("127.0.0.1", 0)) as server:
        network.transports.send([(b"secret", Flow(network.listener, "127.0.0.1", server.getsockname()[1]))])
        with pytest.raises(ssl.SSLError):
            network.from_peer(network.called(server, Pki(tmp_path).server()), 6)
        network.until(lambda: network.failed == [b"secret"])
    assert network.counted("tls_failed") == 1


def test_a_common_name_proves_nothing(pki: Pki, made: Make) -> None:
    pki.issue("common", "email:a@example.test", f"/CN={NAME}")
    network = made(settings(pki))
    with socket.create_server(("127.0.0.1", 0)) as server:
        flow = Flow(network.listener, "127.0.0.1", server.getsockname()[1])
        network.transports.send([(b"secret", NamedFlow.to(flow, NAME))])
        with pytest.raises(ssl.SSLError):
            network.from_peer(network.called(server, pki.server("common")), 6)
        network.until(lambda: network.failed == [b"secret"])


def test_a_profile_for_one_server(pki: Pki, made: Make, tmp_path: Path) -> None:
    """It trusts a server that has signed its own certificate, shows one of our own, and asks for another name."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        own = {"certificate": pki.path("client.pem"), "key": pki.path("client.key"), "server_name": "own.test"}
        network = made(settings(pki, name="client.x", address=f"127.0.0.1:{port}", verify="none", **own))
        context = Pki(tmp_path).server()
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(pki.ca)
        network.transports.send([(b"hello", Flow(network.listener, "127.0.0.1", port))])
        other = network.called(server, context)
        assert network.from_peer(other, 5) == b"hello"
        assert common_name(other) == "alice"


def test_a_profile_by_its_server_id(pki: Pki, made: Make, tmp_path: Path) -> None:
    network = made(settings(pki, name="client.x", server_id="lab", verify="none"))
    network.streams.use_server_id("lab")
    with socket.create_server(("127.0.0.1", 0)) as server:
        network.transports.send([(b"hello", Flow(network.listener, "127.0.0.1", server.getsockname()[1]))])
        assert network.from_peer(network.called(server, Pki(tmp_path).server()), 5) == b"hello"


def test_a_server_that_does_not_finish_its_handshake(pki: Pki, made: Make) -> None:
    network = made(settings(pki), connect_timeout=0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:
        network.transports.send([(b"lost", Flow(network.listener, "127.0.0.1", server.getsockname()[1]))])
        network.until(lambda: network.failed == [b"lost"])
    assert network.counted("tls_timeout") == 1


def test_an_alias_of_a_connection(pki: Pki, made: Make) -> None:
    network = made(settings(pki))
    peer = network.peer(pki.client())
    peer.sendall(MESSAGE)
    network.until(lambda: bool(network.received))
    flow = network.received[0][1]
    assert network.streams.alias(flow, 5061)
    network.transports.send([(b"hello", flow._replace(port=5061))])
    assert network.from_peer(peer, 5) == b"hello"


# ---- WebSocket
def test_websocket_over_tls(pki: Pki, made: Make) -> None:
    network = made(settings(pki))
    peer, frames = network.peer(pki.client()), FrameProtocol(True, [])
    network.upgrade = True
    peer.sendall(b"GET / HTTP/1.1\r\n\r\n" + frames.send_data(MESSAGE.decode()))
    network.until(lambda: len(network.received) == 2)
    flow = as_websocket(network.received[0][1])
    assert flow.listener == network.transports.listeners[1] == network.listener._replace(proto="wss")
    assert network.received[1] == (MESSAGE, flow)
    network.transports.send([(b"reply", flow)])
    frames.receive_bytes(network.from_peer(peer, 7))
    assert [(one.opcode, one.payload) for one in frames.received_frames()] == [(Opcode.TEXT, "reply")]


def test_over_ipv6(pki: Pki, made: Make) -> None:
    network = made(settings(pki), "::1")
    network.peer(pki.client()).sendall(MESSAGE)
    network.until(lambda: bool(network.received))
    assert network.received[0][1].host == "::1"


# ---- the ClientHello
def hello(name: str) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def test_the_name_in_a_client_hello() -> None:
    data = hello("Phone.Example.test")
    assert client_hello(data) == "Phone.Example.test"
    assert [client_hello(data[:n]) for n in range(len(data))] == [None] * len(data)
    assert client_hello(hello("192.0.2.1")) == ""
    body = data[5:]
    pieces = b"".join(
        b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in (body[:1], body[1:70], body[70:])
    )
    assert client_hello(pieces + b"more") == "Phone.Example.test"


@pytest.mark.parametrize(
    "data",
    [
        b"O",
        b"\x15\x03\x01\0\2\2\x28",
        b"\x16\x02",
        b"\x16\x03\x01\0\1\2",
        b"\x16\x03\x01\0\4\1\xff\xff\xff",
        b"\x16\x03\x01\0\0" * 20,
    ],
)
def test_no_client_hello(data: bytes) -> None:
    with pytest.raises(ParseError):
        client_hello(data)


@pytest.mark.parametrize("at", range(6, 120, 7))
def test_a_client_hello_with_wrong_lengths_names_nobody_or_waits(at: int) -> None:
    data = bytearray(hello("a.test"))
    data[at] ^= 0xFF
    try:
        assert client_hello(bytes(data)) in ("", "a.test", None)
    except ParseError:
        pass
