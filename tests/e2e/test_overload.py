"""More calls than the server can do: some get 503, all others are whole, and afterwards nothing is left of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.ports import free_port
from tests.e2e.conftest import ROOT, PhoneFactory, ServerProcess
from tests.waiting import until

# some 8 ms for a new call: 100 of them a second and no more
SCRIPT = """
function ksr_request_route()
  if KSR.siputils.has_totag() > 0 then
    KSR.rr.loose_route()
    KSR.tm.t_relay()
    return 1
  end
  local until_ms = os.clock() + 0.008
  while os.clock() < until_ms do end
  KSR.rr.record_route()
  KSR.pv.sets("$du", "sip:127.0.0.1:%d")
  KSR.tm.t_relay()
end
"""
CALLS, RATE = 450, 300


@pytest.fixture
def callee() -> int:
    return free_port()


@pytest.fixture
def server(tmp_path: Path, callee: int) -> Iterator[ServerProcess]:
    (tmp_path / "route.lua").write_text(SCRIPT % callee)
    (tmp_path / "polykemi.toml").write_text("[overload]\ndelay = 0.1\nretry_after = 2\n")
    config = str(tmp_path / "polykemi.toml")
    process = ServerProcess(tmp_path, ["--config", config, "--engine", "lua", str(tmp_path / "route.lua")])
    yield process
    assert process.stop() == 0
    assert "Traceback" not in process.log()


def counters(server: ServerProcess) -> dict[str, int]:
    command = [sys.executable, "-m", "polykemi", "rpc", "--data", str(server.data), "--json", "stats.fetchn", "all"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("transport", ["u1", "t1"], ids=["udp", "tcp"])
def test_what_cannot_be_done_is_refused_and_what_has_begun_is_finished(
    server: ServerProcess, callee: int, phone: PhoneFactory, transport: str
) -> None:
    phone(server, "answer", port=callee, calls=CALLS)
    phone(server, "call_or_503", calls=CALLS, rate=RATE, transport=transport).done()
    during = counters(server)
    refused = during["core.overload_refused"]
    assert refused > CALLS // 4  # some of them more than once: a phone sends again what it had no answer for
    assert during["tmx.2xx_transactions"] > 20  # not all of them: an INVITE and a BYE for each call
    assert during["sl.5xx_replies"] == refused
    assert re.search(r"overload: messages wait \d+\.\d+ s", server.log())

    until(lambda: server.log().count("overload is over") == server.log().count("refused with 503"), "the end")
    assert server.log().count("polykemi.overload") == 2 * server.log().count("overload is over")
    phone(server, "call_or_503", calls=5, rate=5).done()
    assert counters(server)["core.overload_refused"] == refused
