"""baresip, a phone for the console, with a configuration of its own; told what to do and asked what happens over TCP."""

from __future__ import annotations

import json
import socket
import wave
from pathlib import Path
from typing import Any, Final

from bench.ports import free_port
from tests.e2e.conftest import DOMAIN, PASSWORDS, HasPort, listens
from tests.e2e.peers import PeerProcess, tool
from tests.pki import Pki
from tests.waiting import PATIENCE

_MODULES: Final = (Path("/usr/lib/baresip/modules"), Path("/usr/local/lib/baresip/modules"))
_CONFIG: Final = """\
sip_listen 127.0.0.1:{sip}
audio_player aubridge,{user}
audio_alert aubridge,{user}
audio_source aufile,{tone}
module_path {modules}
module g711.so
module aufile.so
module aubridge.so
module_tmp uuid.so
module_tmp account.so
module_app menu.so
module_app ctrl_tcp.so
ctrl_tcp_listen 127.0.0.1:{control}
"""


class Baresip:
    """A phone that registers by itself. Each event can be waited for once, in any order."""

    def __init__(self, user: str, directory: Path, server: HasPort, transport: str, pki: Pki | None = None) -> None:
        """Start it for one of the server's users; ``pki`` is needed for TLS."""
        program = tool("baresip", "Debian: baresip-core")
        directory.mkdir()
        tone, control = directory / "tone.wav", free_port()
        _write_tone(tone)
        modules = next(path for path in _MODULES if path.exists())
        lines = _CONFIG.format(sip=free_port(), user=user, tone=tone, modules=modules, control=control)
        if pki is not None:
            both = directory / "certificate.pem"
            both.write_text(pki.path("server.pem").read_text() + pki.path("server.key").read_text())
            lines += f"sip_cafile {pki.ca}\nsip_certificate {both}\n"
        (directory / "config").write_text(lines)
        port = server.port if pki is None else server.tls_port
        account = f"<sip:{user}@{DOMAIN};transport={transport}>;auth_pass={PASSWORDS[user]};regint=60;audio_codecs=pcmu"
        (directory / "accounts").write_text(f'{account};outbound="sip:127.0.0.1:{port};transport={transport}"\n')
        (directory / "contacts").touch()
        self.process = PeerProcess([program, "-4", "-s", "-f", str(directory)], directory)
        self.process.wait(lambda: listens(control), "control port")
        self._socket = socket.create_connection(("127.0.0.1", control), PATIENCE)
        self._buffer, self._events = b"", list[dict[str, Any]]()

    def registered(self) -> None:
        """Wait until it has registered; that may have been before we were there to see it."""
        self.process.until("200 OK (polykemi) [1 binding]")

    def called(self) -> None:
        """Wait for its first incoming call: seldom it says so on its console, and not in an event."""
        self.process.until("Incoming call from")

    def tell(self, command: str, parameter: str = "") -> None:
        """Give a command of its menu: dial, accept, hangup."""
        text = json.dumps({"command": command, "params": parameter}).encode()
        self._socket.sendall(b"%d:%s," % (len(text), text))

    def until(self, kind: str) -> str:
        """Wait for an event (CALL_ESTABLISHED), which may have come already, and return its parameter."""
        while not (found := [one for one in self._events if one.get("type") == kind]):
            self._events.append(self._receive())
        self._events.remove(found[0])
        return str(found[0].get("param", ""))

    def _receive(self) -> dict[str, Any]:
        """Return the next event, or answer to a command: netstrings of JSON."""
        while True:
            length, colon, rest = self._buffer.partition(b":")
            if colon and len(rest) > int(length):
                self._buffer = rest[int(length) + 1 :]
                message: dict[str, Any] = json.loads(rest[: int(length)])
                return message
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                data = b""
            assert data, self.process.output()[-3000:]
            self._buffer += data

    def close(self) -> None:
        """End it; it unregisters."""
        self._socket.close()
        self.process.stop()


def _write_tone(path: Path) -> None:
    """Write a tone, longer than anybody waits: with the end of its file baresip ends a call."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((b"\x00\x10" * 8 + b"\x00\xf0" * 8) * 500 * int(PATIENCE))
