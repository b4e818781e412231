"""A contact that was answered 200 is there after kill -9 and a restart, wherever it is kept; with db_mode 0 it is not."""

from __future__ import annotations

import signal
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.conftest import ServerProcess
from tests.waiting import PATIENCE

SCRIPT = """
function ksr_request_route()
    if KSR.is_method("REGISTER") then
        KSR.registrar.save("location", 0)
    elseif KSR.registrar.lookup("location") > 0 then
        KSR.sl.send_reply(200, KSR.pv.get("$ru"))
    else
        KSR.sl.send_reply(404, "Not Found")
    end
end
"""
LOST, FOUND = "SIP/2.0 404 Not Found", "SIP/2.0 200 sip:alice@192.0.2.7"


@pytest.fixture
def phone() -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(PATIENCE)
        yield sock


def ask(phone: socket.socket, server: ServerProcess, method: str, uri: str, *headers: str) -> str:
    """Send a request; return the status line of its answer."""
    host, port = phone.getsockname()
    lines = [f"{method} {uri} SIP/2.0", f"Via: SIP/2.0/UDP {host}:{port};branch=z9hG4bK{method}", "Max-Forwards: 70"]
    lines += ["From: <sip:alice@e2e.test>;tag=a", "To: <sip:alice@e2e.test>", f"Call-ID: {method}", f"CSeq: 1 {method}"]
    message = "\r\n".join([*lines, *headers, "Content-Length: 0", "", ""])
    phone.sendto(message.encode(), ("127.0.0.1", server.port))
    return phone.recv(65536).decode().partition("\r\n")[0]


@pytest.mark.parametrize(
    ("mode", "in_sql", "answer"),
    [(1, False, FOUND), (0, False, LOST), (1, True, FOUND), (2, True, FOUND), (3, True, FOUND)],
)
def test_what_a_kill_leaves(tmp_path: Path, phone: socket.socket, mode: int, in_sql: bool, answer: str) -> None:
    script, config, file = tmp_path / "registrar.lua", tmp_path / "polykemi.toml", tmp_path / "location.sqlite"
    script.write_text(SCRIPT)
    url = f'db_url = "sqlite://{file}"' if in_sql else ""
    config.write_text(f'[engines]\nlua = "{script}"\n[modules.usrloc]\ndb_mode = {mode}\n{url}\n')
    server = ServerProcess(tmp_path, ["--config", str(config)])
    try:
        contact = "Contact: <sip:alice@192.0.2.7>;expires=600"
        assert ask(phone, server, "REGISTER", "sip:e2e.test", contact) == "SIP/2.0 200 OK"
        server.stop(signal.SIGKILL)
        if in_sql and mode != 2:  # written back only later
            with closing(sqlite3.connect(file)) as connection:
                assert connection.execute("SELECT contact FROM location").fetchall() == [("sip:alice@192.0.2.7",)]
        server.start()
        assert ask(phone, server, "OPTIONS", "sip:alice@e2e.test") == answer
    finally:
        server.stop()
    if in_sql:
        with closing(sqlite3.connect(file)) as connection:
            assert connection.execute("SELECT contact FROM location").fetchall() == [("sip:alice@192.0.2.7",)]
