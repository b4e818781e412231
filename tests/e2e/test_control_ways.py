"""The ways to a running server: another socket, HTTP with a token, and what a start says of them."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from polykemi.control.unix import connect
from tests.e2e.conftest import ROOT, SCRIPTS, ServerProcess
from tests.udp_phone import UdpPhone

TOKEN = "0123456789abcdef0123456789abcdef"
CONFIG = f"""
[control]
socket = "ways/control"
datagram = "ways/datagram"
http = "127.0.0.1:0"
token = "{TOKEN}"
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that is asked in other ways than by default."""
    (tmp_path / "ways").mkdir()
    (tmp_path / "polykemi.toml").write_text(CONFIG)
    process = ServerProcess(tmp_path, ["--config", str(tmp_path / "polykemi.toml"), "--engine", "lua", SCRIPTS["lua"]])
    yield process
    assert process.stop() == 0
    assert list((tmp_path / "ways").iterdir()) == []
    assert TOKEN not in process.log()


def post(url: str, method: str, *params: Any, token: str = TOKEN) -> tuple[int, Any]:
    """Ask over HTTP; return the status, and the answer when there is one."""
    body = json.dumps({"jsonrpc": "2.0", "method": method, "params": params, "id": 7}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, None


def test_every_way_leads_to_the_same_server(server: ServerProcess) -> None:
    lines = [line.removeprefix("JSON-RPC on ") for line in server.greeting if line.startswith("JSON-RPC on ")]
    url, datagram = lines
    assert url.startswith("http://127.0.0.1:")
    assert url.endswith("/RPC")
    ways = server.data / "ways"
    assert datagram == str(ways / "datagram")
    assert [stat.S_IMODE((ways / name).stat().st_mode) for name in ("control", "datagram")] == [0o600, 0o600]
    assert not (server.data / "control.sock").exists()
    status, answer = post(url, "ul.add", "location", "carol", "sip:carol@192.0.2.9", 60, 1, "0", 0, 0, 0)
    assert (status, answer) == (200, {"jsonrpc": "2.0", "result": {}, "id": 7})
    assert post(url, "ul.lookup", "location", "nobody")[1]["error"]["code"] == 500
    assert post(url, "core.version", token="0" * 32) == (401, None)
    for place in (["--config", str(server.data / "polykemi.toml")], ["--socket", str(ways / "control")]):
        command = [sys.executable, "-m", "polykemi", "rpc", *place, "ul.lookup", "location", "carol"]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
        assert (ran.returncode, ran.stdout.splitlines()[0], ran.stderr) == (0, "AoR: carol", "")
        assert "sip:carol@192.0.2.9" in ran.stdout


def test_who_waits_for_an_answer_holds_up_nobody(server: ServerProcess) -> None:
    url = next(line for line in server.greeting if line.startswith("JSON-RPC on http")).removeprefix("JSON-RPC on ")
    phone = UdpPhone(("127.0.0.1", server.port), "bob", "example.test")
    with closing(phone) as bob, ThreadPoolExecutor() as beside:
        headers = "From: <sip:ops@example.test>\r\nTo: <sip:bob@example.test>\r\n"
        given = ["OPTIONS", f"sip:bob@{bob.host}:{bob.port}", ".", ".", headers]
        waiting = beside.submit(post, url, "tm.t_uac_wait_block", *given)
        request = bob.receive("OPTIONS")
        uptime = {"jsonrpc": "2.0", "method": "core.uptime", "id": 1}
        with connect(server.data / "ways" / "control", 10) as sock, sock.makefile("rb") as lines:
            sock.sendall(json.dumps([uptime, {**uptime, "id": 2}]).encode() + b"\n")
            assert [one["id"] for one in json.loads(lines.readline())] == [1, 2]
        assert not waiting.done()
        bob.answer(request, 480)
        assert waiting.result(15)[1]["result"]["code"] == 480


def test_http_for_everybody_without_a_token_does_not_start(tmp_path: Path) -> None:
    config = tmp_path / "polykemi.toml"
    config.write_text('[control]\nhttp = "0.0.0.0:8080"\n')
    command = [sys.executable, "-m", "polykemi", "serve", "--config", str(config), SCRIPTS["lua"]]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(
        f"polykemi: {config}:2: [control] http: whoever reaches 0.0.0.0 could command the server"
    )
