"""What the process says of itself: shapes as in Kamailio, figures of the system."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from polykemi.control.jsonrpc import JsonRpc
from polykemi.control.process import Core, Memory
from polykemi.errors import RpcError

STARTED = 1_800_000_000.0
GB = 1 << 30


@pytest.fixture
def server() -> JsonRpc:
    server = JsonRpc()
    core = Core("9.9.9", STARTED, ["core", "pv", "hdr", "x", "sl", "tm"], clock=lambda: STARTED + 90061.7)
    server.add(core, Memory(4 * GB))
    return server


def call(server: JsonRpc, method: str, *params: Any) -> Any:
    return server.commands[method].run(params, 0.0)


def test_version_and_uptime(server: JsonRpc) -> None:
    assert call(server, "core.version") == "polykemi 9.9.9"
    up, now = time.ctime(STARTED), time.ctime(STARTED + 90061)
    assert call(server, "core.uptime") == {"now": now, "up_since": up, "uptime": 90061}
    info, run = call(server, "core.info"), call(server, "core.runinfo")
    assert info["version"] == "polykemi 9.9.9"
    assert info["flags"] == call(server, "core.flags")
    assert (run["version"], run["time_now"], run["time_started"]) == ("9.9.9", now, up)
    assert (run["uptime_secs"], run["utime_days"]) == (90061, "1d 1h 1m 1s")
    assert (run["sourceid"], run["compiler"], run["compiled"]) == (info["id"], info["compiler"], info["compiled"])


def test_a_working_directory_that_is_gone_is_told(
    server: JsonRpc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(RpcError, match="the working directory: No such file or directory"):
        call(server, "core.pwd")
    monkeypatch.chdir(tmp_path)


def test_what_was_started_where_with_which_modules(server: JsonRpc) -> None:
    assert call(server, "core.modules") == ["tm", "sl", "pv"]
    assert call(server, "core.pwd") == [os.fsencode(os.getcwd()).decode("latin-1")]  # noqa: PTH109
    assert call(server, "core.arg") == sys.orig_argv


def test_threads_are_listed_with_their_names(server: JsonRpc) -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="spinner")
    thread.start()
    rows, flat, full = (call(server, method) for method in ("core.psx", "core.ps", "core.psa"))
    end.set()
    thread.join()
    assert rows[0] == {"IDX": 0, "PID": os.getpid(), "DSC": "main process - event loop"}
    assert [row["IDX"] for row in rows] == list(range(len(rows)))
    assert (thread.native_id, "spinner") in [(row["PID"], row["DSC"]) for row in rows]
    described = {"index": 0, "pid": os.getpid(), "status": 1, "rank": 0, "description": "main process - event loop"}
    assert (full[0], len(full)) == (described, len(rows))
    assert flat == [value for row in rows for value in (row["PID"], row["DSC"])]


def test_what_is_echoed(server: JsonRpc) -> None:
    assert call(server, "core.echo", "a", 1) == ["a", "1"]
    assert call(server, "core.prints", "a") == ["a"]
    assert call(server, "core.printi", 5, "6") == [5, 6]
    assert call(server, "core.echo") == []


def test_memory_is_what_the_system_says(server: JsonRpc) -> None:
    before = call(server, "core.shmmem")
    assert set(before) == {"total", "free", "used", "real_used", "max_used", "fragments"}
    block = b"x" * (64 << 20)
    during = call(server, "shm.stats")
    assert len(block) >> 20 == 64
    del block
    assert during["used"] - before["used"] > 60 << 20
    assert during["total"] == during["free"] + during["real_used"] == 4 * GB
    assert during["used"] <= during["real_used"] <= during["max_used"]
    (row,) = call(server, "pkg.stats")
    assert (row["entry"], row["pid"], row["rank"], row["total_size"]) == (0, os.getpid(), 0, 4 * GB)
    assert set(row) == {*("entry", "pid", "rank", "used", "free", "real_used", "total_size", "total_frags", "desc")}


def test_the_server_is_sent_a_signal_that_there_is() -> None:
    sent: list[int] = []
    server = JsonRpc()
    server.add(Core("9.9.9", STARTED, kill=sent.append))
    assert call(server, "core.kill") == call(server, "core.kill", 1) == {}
    assert sent == [15, 1]
    with pytest.raises(RpcError, match="expected a signal such as 15, got 99"):
        call(server, "core.kill", 99)
