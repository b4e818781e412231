"""The log of a running server: as JSON in a file that is rotated, of one caller alone, and when nobody takes it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ServerProcess
from tests.e2e.test_bad_scripts import Peer
from tests.e2e.test_control import rpc

SCRIPTS = {
    "lua": """
print("loading")
function ksr_request_route()
    KSR.dbg("looking closely")
    KSR.info("asked by " .. KSR.pv.get("$fU"))
    print("printed")
    KSR.sl.send_reply(200, "OK")
end
""",
    "js": """
console.log("loading");
function ksr_request_route() {
    KSR.dbg("looking closely");
    KSR.info("asked by " + KSR.pv.get("$fU"));
    console.log("printed");
    KSR.sl.send_reply(200, "OK");
}
""",
    "python": """import KSR
print("loading")
def ksr_request_route(msg):
    KSR.dbg("looking closely")
    KSR.info("asked by " + KSR.pv.get("$fU"))
    print("printed")
    KSR.sl.send_reply(200, "OK")
    return 1
""",
}
LINES = {"looking closely": 4, "asked by a": 5, "printed": 6}


@pytest.fixture(params=SCRIPTS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that logs into a file."""
    config = tmp_path / "polykemi.toml"
    config.write_text('[log]\nformat = "json"\nto = "file"\nfile = "polykemi.log"\nprefix = "$cs "\n')
    script = tmp_path / "script"
    script.write_text(SCRIPTS[request.param])
    process = ServerProcess(tmp_path, ["--config", str(config), "--engine", request.param, str(script)])
    process.engine = request.param
    yield process
    assert process.stop() == 0
    assert process.log() == ""  # standard error


def entries(server: ServerProcess, name: str = "polykemi.log") -> list[dict[str, Any]]:
    """Return what scripts and the router have logged."""
    text = (server.data / name).read_text()
    found = [json.loads(line) for line in text.splitlines()]
    return [one for one in found if one["logger"] in ("polykemi.script", "polykemi.router")]


def test_what_a_script_says_is_one_object_with_its_place(server: ServerProcess) -> None:
    (server.data / "polykemi.log").rename(server.data / "old.log")  # as logrotate does
    peer = Peer(server)
    assert peer.ask("OPTIONS") == "SIP/2.0 200 OK"
    assert [one["message"] for one in entries(server, "old.log")] == ["loading"]
    told = entries(server)
    assert [one["message"] for one in told] == ["asked by a", "printed"]
    for one in told:
        assert one["at"].rpartition("/")[2] == f"script:{LINES[one['message']]}"
        assert (one["level"], one["method"], one["route"], one["version"]) == ("info", "OPTIONS", "request_route", 1)
        assert one["src"].startswith("udp:127.0.0.1:")
        assert one["call_id"]
        assert one["prefix"] == "1 "
    peer.close()


def test_one_caller_is_looked_at_closely(server: ServerProcess) -> None:
    peer = Peer(server)
    assert rpc(server, "log.watch", "user", "nobody").returncode == 0
    peer.ask("OPTIONS")
    assert [one["message"] for one in entries(server) if one["level"] == "debug"] == []
    assert rpc(server, "log.watch", "source", "127.0.0.0/8", "60").returncode == 0
    peer.ask("OPTIONS")
    told = [one for one in entries(server) if one["level"] == "debug"]
    assert [one["message"].partition(" ")[0] for one in told] == [
        "received",
        "request_route",
        "looking",
        "request_route",
        "sends",
    ]
    assert len({one["call_id"] for one in told}) == 1
    assert rpc(server, "log.unwatch", "all").stdout == "ended: 2\n"
    peer.close()


def test_a_server_goes_on_whose_log_nobody_reads(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        'import KSR\ndef ksr_request_route(msg):\n    KSR.err("x" * 5000)\n    KSR.sl.send_reply(200, "OK")\n'
    )
    pipe = tmp_path / "server.log"  # where the server's standard error goes
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    server = ServerProcess(tmp_path, [str(script)])
    peer = Peer(server)
    for _ in range(40):  # a pipe holds 64 kB
        assert peer.ask("OPTIONS") == "SIP/2.0 200 OK"
    lost = int(rpc(server, "stats.fetchn", "log.lost_lines").stdout.split()[-1])
    assert 20 < lost < 40
    told = ""
    while len(read := os.read(reader, 65536)) == 65536:
        told += read.decode()
    assert peer.ask("OPTIONS") == "SIP/2.0 200 OK"
    told += read.decode() + os.read(reader, 65536).decode()
    counts = re.findall(r"WARNING polykemi\.log: (\d+) lines of the log were lost: Resource temporarily unavail", told)
    assert sum(map(int, counts)) == lost  # shorter lines may have found room in between
    assert "ERROR polykemi.script: xxx" in told
    assert server.stop() == 0
    peer.close()
    os.close(reader)
