"""Scripts that nothing inside of the process can stop: the process ends, says where, and can be started anew."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from polykemi.errors import WEDGED
from tests.hostile.driver import ROOT, HostileServer

PYTHON: Final = """import itertools, hashlib
import KSR

def ksr_request_route(msg):
    if KSR.pv.getvs("$rU", "") == "stuck":
        {stuck}
    KSR.sl.send_reply(200, "OK")
"""
LUA: Final = """function ksr_request_route()
    if KSR.pv.getvs("$rU", "") == "stuck" then {stuck} end
    KSR.sl.send_reply(200, "OK")
end
"""
JAVASCRIPT: Final = """function ksr_request_route() {
    if (KSR.pv.getvs("$rU", "") === "stuck") { const a = 2n ** (2n ** 29n) - 1n; a * a; }
    KSR.sl.send_reply(200, "OK");
}
"""


def ended(directory: Path, file: str, text: str, more: str = "") -> tuple[int, str]:
    """Return how a server ends that is sent into it, and its log."""
    script = directory / file
    script.write_text(text)
    server = HostileServer(directory, script, "127.0.0.1", more)
    try:
        assert server.ask("good", 5.0)[0] == 200
        assert server.ask("stuck", 0.1)[0] == 0
        return server.process.wait(30), server.log()
    except subprocess.TimeoutExpired:
        pytest.fail("the server goes on")
    finally:
        server.close()


def test_python_code_that_keeps_the_gil_ends_the_process_with_a_traceback(tmp_path: Path) -> None:
    code, log = ended(tmp_path, "a.py", PYTHON.format(stuck="any(itertools.repeat(0))"))
    assert code == -signal.SIGPROF
    assert 'a.py", line 6 in ksr_request_route' in log


def test_python_code_that_keeps_the_gil_while_it_loads_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import itertools\nany(itertools.repeat(0))\n")
    config = tmp_path / "polykemi.toml"
    config.write_text('listen = ["udp:127.0.0.1:0"]\n[engines.python]\nscript = "a.py"\ntimeout = 0.01\n')
    command = [sys.executable, "-m", "polykemi", "serve", "--config", str(config), "--data", str(tmp_path / "data")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == -signal.SIGPROF
    assert 'a.py", line 2 in <module>' in ended.stderr


def test_native_code_without_the_gil_ends_the_process(tmp_path: Path) -> None:
    code, log = ended(tmp_path, "a.py", PYTHON.format(stuck="hashlib.pbkdf2_hmac('sha256', b'', b'', 10 ** 9)"))
    assert code == WEDGED
    assert "a.py:6 has been stuck in native code for " in log


def test_what_lua_is_allowed_may_end_the_process(tmp_path: Path) -> None:
    code, log = ended(tmp_path, "a.lua", LUA.format(stuck="os.execute('sleep 60')"), 'allow = ["os"]')
    assert code == WEDGED
    assert "a.lua has been stuck in native code for " in log


def test_it_may_also_inside_of_a_ksr_call(tmp_path: Path) -> None:
    text = """function ksr_request_route()
        if KSR.pv.getvs("$rU", "") == "stuck" then KSR.app_lua.run("stuck") end
        KSR.sl.send_reply(200, "OK")
    end
    function stuck() os.execute('sleep 60') end
    """
    code, log = ended(tmp_path, "a.lua", text, 'allow = ["os"]')
    assert code == WEDGED
    assert "a.lua has been stuck in native code for " in log


def test_a_server_ends_although_v8_still_works_at_what_it_was_given_up_in(tmp_path: Path) -> None:
    script = tmp_path / "a.js"
    script.write_text(JAVASCRIPT)
    server = HostileServer(tmp_path, script, "127.0.0.1")
    try:
        assert server.ask("good", 5.0)[0] == 200
        assert server.ask("stuck", 10.0)[0] == 500  # it would take V8 half a minute
        assert server.ask("good", 5.0)[0] == 200
    finally:
        code = server.close()
    assert code == 0
    assert "given up so far: 1, and still running: 1" in server.log()
