"""The sample scripts let browsers in: whose handshakes they take is the same in the three languages."""

from __future__ import annotations

from pathlib import Path

import pytest

from polykemi.kemi.network import NoConnections
from polykemi.sip.flow import Flow, Listener
from polykemi.testing import Call, ServerUnderTest
from tests.parity.test_parity import ROOT, SCRIPTS

TCP = Listener("tcp", "192.0.2.1", 5060)
NO_SITES = {"lua": "ORIGINS = {}", "js": "ORIGINS = []", "python": "ORIGINS = ()"}
SITES = {
    "lua": 'ORIGINS = { "https://phone.test" }',
    "js": 'ORIGINS = ["https://phone.test"]',
    "python": 'ORIGINS = ("https://phone.test",)',
}


class OneConnection(NoConnections):
    """A connection that may become a WebSocket."""

    def ident(self, flow: Flow) -> int:
        """Return its number."""
        return 7

    def upgrade(self, flow: Flow, *, client: bool = False) -> bool:
        """Let it."""
        return True


def handshake(engine: str, script: Path, host: str, origin: str, upgrade: str) -> tuple[bytes, list[Call]]:
    """Return the response to a handshake and the calls that the script has made."""
    lines = ["GET / HTTP/1.1", "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: sip"]
    lines += [f"{name}: {value}" for name, value in (("Host", host), ("Origin", origin), ("Upgrade", upgrade)) if value]
    with ServerUnderTest(
        {engine: script},
        domains=["example.test"],
        listeners=[TCP],
        modules={"xhttp": {"event_callback": "ksr_xhttp_event"}},
        connections=OneConnection(),
    ) as server:
        [sent] = server.receive("\r\n".join([*lines, "", ""]).encode(), "192.0.2.10:4000")
        return sent.data, server.calls


@pytest.mark.parametrize(
    ("host", "origin", "sites", "status"),
    [
        ("example.test", "https://example.test", NO_SITES, 101),
        ("example.test:5060", "https://example.test:8443", NO_SITES, 101),
        ("192.0.2.1:5060", "http://192.0.2.1:8000", NO_SITES, 101),
        ("example.test", "", NO_SITES, 101),
        ("example.test", "https://elsewhere.test", NO_SITES, 403),
        ("example.test", "https://phone.test", NO_SITES, 403),
        ("example.test", "https://example.test.elsewhere.test", NO_SITES, 403),
        ("example.test", "null", NO_SITES, 403),
        ("example.test", "file://", NO_SITES, 403),
        ("elsewhere.test:5060", "https://example.test", NO_SITES, 403),
        ("", "https://example.test", NO_SITES, 403),
        ("[::1", "https://example.test", NO_SITES, 403),
        ("example.test", "https://phone.test", SITES, 101),
        ("example.test", "", SITES, 101),
        ("example.test", "https://example.test", SITES, 403),
        ("example.test", "http://phone.test", SITES, 403),
        ("elsewhere.test", "https://phone.test", SITES, 403),
    ],
)
def test_whose_pages_may_connect(tmp_path: Path, host: str, origin: str, sites: dict[str, str], status: int) -> None:
    seen = []
    for engine, sample in SCRIPTS.items():
        script = tmp_path / Path(sample).name
        source = (ROOT / sample).read_text()
        assert NO_SITES[engine] in source
        script.write_text(source.replace(NO_SITES[engine], sites[engine]))
        seen.append(handshake(engine, script, host, origin, "websocket"))
    assert seen[0][0].startswith(f"HTTP/1.1 {status} ".encode())
    assert seen[1] == seen[0]
    assert seen[2] == seen[0]


@pytest.mark.parametrize("engine", SCRIPTS)
@pytest.mark.parametrize("upgrade", ["", "h2c"])
def test_other_http_is_not_found(engine: str, upgrade: str) -> None:
    response, _ = handshake(engine, ROOT / SCRIPTS[engine], "example.test", "", upgrade)
    assert response.startswith(b"HTTP/1.1 404 Not Found\r\n")
