"""A running server is asked what it does, on each engine: by `polykemi rpc`, by many at once, and by Prometheus."""

from __future__ import annotations

import json
import re
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ROOT, SCRIPTS, ServerProcess
from tests.e2e.test_bad_scripts import Peer
from tests.waiting import PATIENCE


@pytest.fixture(params=SCRIPTS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server with its sample script and the metrics on a port that is free."""
    config = tmp_path / "polykemi.toml"
    config.write_text('[metrics]\nlisten = "127.0.0.1:0"\n')
    process = ServerProcess(tmp_path, ["--config", str(config), "--engine", request.param, SCRIPTS[request.param]])
    process.engine = request.param
    yield process
    assert process.stop() == 0
    assert not (tmp_path / "control.sock").exists()
    assert "Traceback" not in process.log()


@pytest.fixture
def peer(server: ServerProcess) -> Iterator[Peer]:
    """A phone of that server."""
    one = Peer(server)
    yield one
    one.close()


def rpc(server: ServerProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `polykemi rpc`."""
    command = [sys.executable, "-m", "polykemi", "rpc", "--data", str(server.data), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_route_blocks_are_counted_and_the_counters_begin_anew(server: ServerProcess, peer: Peer) -> None:
    for _ in range(5):
        assert peer.ask("OPTIONS") == "SIP/2.0 200 Keepalive"
    (row,) = json.loads(rpc(server, "route.stats", "--json").stdout)
    assert (row["kind"], row["block"], row["engine"]) == ("request_route", "ksr_request_route", server.engine)
    assert row["cnt"] == 5
    assert 0 < row["min_us"] <= row["avg_us"] <= row["max_us"] <= row["sum_us"] < 5e6
    asked = rpc(server, "stats.get_statistics", "rcv_requests", "rcv_requests_options", "rcv_requests_invite").stdout
    assert asked == "core:rcv_requests = 5\ncore:rcv_requests_options = 5\ncore:rcv_requests_invite = 0\n"
    assert rpc(server, "route.reset").returncode == 0
    assert rpc(server, "route.stats").stdout == ""
    assert peer.ask("OPTIONS") == "SIP/2.0 200 Keepalive"
    heading, line = rpc(server, "route.stats").stdout.splitlines()
    assert heading.split() == ["kind", "block", "engine", "cnt", "sum_us", "min_us", "max_us", "avg_us"]
    assert line.split()[:4] == ["request_route", "ksr_request_route", server.engine, "1"]


def test_an_error_is_one_line_and_exit_code_1(server: ServerProcess) -> None:
    ran = rpc(server, "route.stat")
    expected = "polykemi: method route.stat: unknown, did you mean route.stats?\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", expected)


def test_only_the_owner_may_ask(server: ServerProcess) -> None:
    assert stat.S_IMODE((server.data / "control.sock").stat().st_mode) == 0o600


def test_requests_between_messages_are_answered_on_one_connection(server: ServerProcess, peer: Peer) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(server.data / "control.sock"))
        with sock.makefile("rwb") as stream:
            for n in range(1, 20):
                assert peer.ask("OPTIONS") == "SIP/2.0 200 Keepalive"
                request: dict[str, Any] = {"jsonrpc": "2.0", "method": "route.stats", "id": n}
                stream.write(json.dumps(request).encode() + b"\n")
                stream.flush()
                answer = json.loads(stream.readline())
                assert (answer["id"], answer["result"][0]["cnt"]) == (n, n)


def test_prometheus_reads_what_rpc_says(server: ServerProcess, peer: Peer) -> None:
    assert peer.ask("OPTIONS") == "SIP/2.0 200 Keepalive"
    (line,) = [line for line in server.greeting if line.startswith("metrics on ")]
    with urllib.request.urlopen(line.removeprefix("metrics on "), timeout=PATIENCE) as response:
        page = response.read().decode()
    labels = f'kind="request_route",block="ksr_request_route",engine="{server.engine}"'
    assert f"polykemi_route_seconds_count{{{labels}}} 1.0\n" in page
    assert 'polykemi_statistic{group="core",name="rcv_requests"} 1\n' in page
    assert re.search(r'polykemi_ksr_calls_total\{function="KSR\.sl\.sl_send_reply"\} 1\n', page)
    assert re.search(rf'polykemi_engine_memory_bytes\{{engine="{server.engine}"\}} \d+', page)
    (row,) = json.loads(rpc(server, "route.stats", "--json").stdout)
    found = re.search(r"polykemi_route_max_seconds\{.*\} (.*)\n", page)
    assert found is not None
    assert float(found[1]) * 1e6 == pytest.approx(row["max_us"], abs=0.1)


def test_a_second_server_on_the_same_data_is_refused_and_a_killed_one_replaced(server: ServerProcess) -> None:
    command = [sys.executable, "-m", "polykemi", "serve", "--engine", "lua", SCRIPTS["lua"]]
    command += ["--listen", "udp:127.0.0.1:0", "--data", str(server.data)]
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert second.returncode == 2
    expected = (
        f"polykemi: {server.data}: a server that runs already (process {server.process.pid}) has this data directory\n"
    )
    assert (second.stdout, second.stderr) == ("", expected)
    assert rpc(server, "core.version").returncode == 0
    server.stop(signal.SIGKILL)
    ran = rpc(server, "core.version")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == f"polykemi: cannot reach a server: none runs behind {server.data}/control.sock any more\n"
    server.start()
    assert rpc(server, "core.version").stdout.startswith("polykemi ")
