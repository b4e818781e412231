"""SIP over WebSocket as browsers speak it: the handshake on a SIP port, registrations, calls to browsers and to phones."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from wsproto.frame_protocol import Opcode

from tests.e2e.conftest import DOMAIN, ROOT, SCRIPTS, ServerProcess, make_data
from tests.e2e.stream_phone import HANDSHAKE, Browser, StreamPhone, values
from tests.waiting import PATIENCE

ENDED = {  # what the tests add to the sample scripts
    "lua": """
function ksr_ended(event) KSR.info("ended: " .. KSR.pv.gete("$ws_conid") .. "\\n") end
""",
    "python": """
def ksr_ended(server, msg, event):
    KSR.info(f"ended: {KSR.pv.gete('$ws_conid')}\\n")
    return 1
Server.ksr_ended = ksr_ended
""",
    "js": """
function ksr_ended(event) { KSR.info("ended: " + KSR.pv.gete("$ws_conid") + "\\n"); }
""",
}
CONFIG = """
[modules.xhttp]
event_callback = "ksr_xhttp_event"
[modules.websocket]
event_callback = "ksr_ended"
[modules.pike]
reqs_density_per_unit = 10000
"""


@pytest.fixture(scope="module", params=list(ENDED))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with its engine's sample script."""
    data = make_data(tmp_path_factory.mktemp(f"websocket-{request.param}"))
    sample = Path(SCRIPTS[request.param])
    script = data / sample.name
    script.write_text((ROOT / sample).read_text() + ENDED[request.param])
    (data / "polykemi.toml").write_text(CONFIG)
    process = ServerProcess(data, ["--config", str(data / "polykemi.toml"), "--engine", request.param, str(script)])
    yield process
    assert process.stop() == 0
    assert "Traceback" not in process.log()
    assert "script error" not in process.log()


def test_the_handshake(server: ServerProcess) -> None:
    with closing(Browser("alice", server.port)) as alice:
        assert alice.handshake.startswith("HTTP/1.1 101 Switching Protocols\r\n")
        assert values(alice.handshake, "Sec-WebSocket-Accept") == [
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        ]  # RFC 6455 section 1.3
        assert values(alice.handshake, "Sec-WebSocket-Protocol") == ["sip"]


@pytest.mark.parametrize(
    ("without", "status"),
    [("Upgrade: websocket", "404"), ("Protocol: sip", "400"), ("Version: 13", "426"), (f"Host: {DOMAIN}", "403")],
)
def test_another_handshake_is_refused_and_the_connection_ends(server: ServerProcess, without: str, status: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as sock:
        sock.sendall(HANDSHAKE.format(domain=DOMAIN).replace(without, without[:-2] + "xx").encode())
        reply = b""
        while data := sock.recv(4096):
            reply += data
    assert reply.startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize(
    ("caller", "callee"),
    [(Browser, Browser), (Browser, StreamPhone), (StreamPhone, Browser)],
    ids=lambda k: k.transport,
)
def test_a_call_over_the_connections_that_they_have_opened(
    server: ServerProcess, caller: type[StreamPhone], callee: type[StreamPhone]
) -> None:
    """As seen from Kamailio 5.6 with the same script, but for the branches and the ``;i=`` in its Via."""
    with ExitStack() as stack:
        alice = stack.enter_context(closing(caller("alice", server.port)))
        bob = stack.enter_context(closing(callee("bob", server.port)))
        received = f'received="sip:127.0.0.1:{bob.socket.getsockname()[1]};transport=ws"'
        assert (received in bob.register()) == (callee is Browser)
        alice.authorized("INVITE", f"sip:bob@{DOMAIN}", f"<sip:bob@{DOMAIN}>")
        invite = bob.expect(f"INVITE {bob.contact.strip('<>')} SIP/2.0")
        us = f"127.0.0.1:{server.port}"
        assert values(invite, "Via")[0].startswith(f"SIP/2.0/{bob.transport} {us};branch=z9hG4bK")
        protos = [one.transport.lower() for one in ((bob,) if caller is callee else (bob, alice))]
        double = ";r2=on" * (caller is not callee)
        for proto, route in zip(protos, values(invite, "Record-Route"), strict=True):
            begin = f"<sip:{us};transport={proto}{double};lr;ftag=alice1;ticket="
            assert re.fullmatch(rf"{begin}[0-9a-f]{{24}};nat=yes>", route)
        bob.answer(invite, "200 OK")
        ok = alice.expect("SIP/2.0 200")
        assert ("alias=" in values(ok, "Contact")[0]) == (callee is Browser)
        alice.in_dialog("ACK", ok, cseq=2, caller=True)
        bob.expect("ACK ")
        bob.in_dialog("BYE", invite, cseq=1, caller=False)
        bye = alice.expect(f"BYE {alice.contact.strip('<>')} SIP/2.0")
        alice.answer(bye, "200 OK")
        bob.expect("SIP/2.0 200")
        bob.contact = "*"
        bob.authorized("REGISTER", f"sip:{DOMAIN}", f"<sip:bob@{DOMAIN}>", "Expires: 0")
        bob.expect("SIP/2.0 200")


def test_a_browser_that_is_gone_is_not_reached(server: ServerProcess) -> None:
    with closing(Browser("carol", server.port)) as carol:
        carol.register()
        carol.socket.sendall(carol.frames.close(1000, "bye"))
        assert carol.control() == (Opcode.CLOSE, (1000, "bye"))
    with closing(Browser("alice", server.port)) as alice:
        alice.authorized("INVITE", f"sip:carol@{DOMAIN}", f"<sip:carol@{DOMAIN}>")
        alice.acknowledge(alice.expect("SIP/2.0 500"), f"sip:carol@{DOMAIN}")
        alice.socket.sendall(alice.frames.ping(b"still here"))
        assert alice.control() == (Opcode.PONG, b"still here")
    assert "INFO polykemi.script: ended: " in server.log()
