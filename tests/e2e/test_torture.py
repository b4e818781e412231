"""The torture messages over real sockets: whatever comes, the server goes on, and logs no traceback."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from polykemi.sip.framing import Framer
from tests.e2e.conftest import DOMAIN, ServerProcess
from tests.waiting import PATIENCE

DATA = Path(__file__).parents[1] / "data"
MESSAGES = {rfc: sorted((DATA / rfc).glob("*.dat")) for rfc in ("rfc4475", "rfc5118")}
SCRIPT = """
function ksr_request_route()
    KSR.force_rport()
    if KSR.is_OPTIONS() and KSR.is_myself_ruri() then
        KSR.sl.sl_send_reply(200, "OK")
    elseif KSR.is_REGISTER() then
        KSR.registrar.save("location", 0)
    else
        local source = KSR.kx.get_srcip()
        KSR.pv.sets("$du", string.find(source, ":", 1, true) and "sip:[::1]:%d" or "sip:127.0.0.1:%d")
        KSR.tm.t_relay()
    end
end
"""
OPTIONS = (
    "OPTIONS sip:{domain} SIP/2.0\r\nVia: SIP/2.0/{transport} {host}:9;branch=z9hG4bK{n};rport\r\nFrom: <sip:a@b>;tag=1\r\n"
    "To: <sip:b@b>\r\nCall-ID: probe{n}\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
)


@pytest.fixture(scope="module")
def next_hops(ipv6_port: int) -> Iterator[dict[str, socket.socket]]:
    """Where requests are relayed to, by the address that they came to; nobody answers there."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ipv4,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as ipv6,
    ):
        ipv4.bind(("127.0.0.1", 0))
        ipv6.bind(("::1", 0))
        yield {"127.0.0.1": ipv4, "::1": ipv6}


@pytest.fixture(scope="module")
def ipv6_port() -> int:
    """Return a port of ``::1``; skip where there is no IPv6."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
            return int(sock.getsockname()[1])
    except OSError:
        pytest.skip("no IPv6 on the loopback interface")


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, next_hops: dict[str, socket.socket], ipv6_port: int
) -> Iterator[ServerProcess]:
    """A server that relays what the core lets through."""
    data = tmp_path_factory.mktemp("torture")
    (data / "route.lua").write_text(SCRIPT % tuple(next_hops[host].getsockname()[1] for host in ("::1", "127.0.0.1")))
    (data / "polykemi.toml").write_text("[overload]\ndelay = 0 # a busy machine is not what is tested\n")
    arguments = ["--config", str(data / "polykemi.toml"), "--engine", "lua", str(data / "route.lua")]
    for proto in ("udp", "tcp"):
        arguments += ["--listen", f"{proto}:[::1]:{ipv6_port}"]
    process = ServerProcess(data, arguments)
    yield process
    process.process.send_signal(signal.SIGINT)  # two signals end it at once: what was relayed is still open
    assert process.stop() == 0
    for sign in ("Traceback", "internal error", "script error"):
        assert sign not in process.log()


def options(host: str, transport: str, n: str) -> bytes:
    """Return a request that is answered whatever happened before."""
    host = f"[{host}]" if ":" in host else host
    return OPTIONS.format(domain=DOMAIN, transport=transport, host=host, n=n).encode()


def answers(address: tuple[str, int], transport: str, n: str) -> bool:
    """Send an OPTIONS as somebody else and tell whether the answer is that of the script."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    kind = socket.SOCK_DGRAM if transport == "UDP" else socket.SOCK_STREAM
    with closing(socket.socket(family, kind)) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(address)
        sock.sendall(options(address[0], transport, n))
        return sock.recv(4096).startswith(b"SIP/2.0 200 OK\r\n")


@pytest.mark.parametrize("rfc", MESSAGES)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_torture_over_udp(server: ServerProcess, ipv6_port: int, rfc: str, host: str) -> None:
    address = (host, ipv6_port if ":" in host else server.port)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        for path in MESSAGES[rfc]:
            sock.sendall(path.read_bytes())
            assert answers(address, "UDP", f"{rfc}{path.stem}{ipv6_port}"), path


@pytest.mark.parametrize("rfc", MESSAGES)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_torture_over_tcp(server: ServerProcess, ipv6_port: int, rfc: str, host: str) -> None:
    """What cannot be followed in a stream ends its connection; all else keeps it, and is answered over it."""
    address = (host, ipv6_port if ":" in host else server.port)
    for path in MESSAGES[rfc]:
        data = path.read_bytes()
        framer = Framer()
        whole = framer.feed(data)
        with closing(socket.create_connection(address, PATIENCE)) as sock, suppress(ConnectionError):
            sock.sendall(data)
            if framer.error:
                while sock.recv(4096):  # answers to what was whole before
                    pass
            elif whole and framer.is_empty:
                sock.sendall(options(host, "TCP", f"{path.stem}same"))
                received = b""
                while b"probe" not in received:
                    octets = sock.recv(4096)
                    assert octets, path
                    received += octets
        assert answers(address, "TCP", f"{rfc}{path.stem}tcp"), path


def test_what_comes_over_ipv6_is_relayed_with_its_source(
    server: ServerProcess, next_hops: dict[str, socket.socket], ipv6_port: int
) -> None:
    """``received`` has no brackets, as RFC 5118 section 4.5 wants it."""
    next_hops["::1"].settimeout(PATIENCE)
    data = (DATA / "rfc5118" / "mult-ip-in-sdp.dat").read_bytes().replace(b"SSG9559905523997077", b"marker")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.connect(("::1", ipv6_port))
        sock.sendall(data.replace(b"as3-111", b"marker"))
        while b"Call-ID: marker" not in (relayed := next_hops["::1"].recv(65536)):
            pass
    ours, theirs = [line for line in relayed.split(b"\r\n") if line[:4] == b"Via:"]
    assert ours.startswith(b"Via: SIP/2.0/UDP [::1]:%d;branch=" % ipv6_port)
    assert theirs.startswith(b"Via: SIP/2.0/UDP [2001:db8::9:1];branch=z9hG4bKmarker;rport=")
    assert theirs.endswith(b";received=::1")
    assert relayed.endswith(data.partition(b"\r\n\r\n")[2])
