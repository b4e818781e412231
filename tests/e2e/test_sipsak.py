"""sipsak, which administrators and monitoring systems use: it pings, registers, and floods."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import SCRIPTS, ServerProcess, make_data
from tests.e2e.peers import tool
from tests.waiting import PATIENCE, until

FLOOD = 300  # requests, within a few ms


def sipsak(server: ServerProcess, *arguments: str) -> tuple[int, str]:
    """Run sipsak and return its exit code, 0 when all went well, and what it has printed."""
    command = [tool("sipsak", "Debian: sipsak"), "-v", "-r", str(server.port), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("transport", ["udp", "tcp"])  # its TLS of 0.9.8 takes the tickets of TLS 1.3 for a failure
def test_a_ping(server: ServerProcess, transport: str) -> None:
    code, text = sipsak(server, "-E", transport, "-s", "sip:127.0.0.1")
    assert code == 0, text
    assert "SIP/2.0 200 Keepalive" in text


def test_a_ping_of_nobody(server: ServerProcess) -> None:
    code, text = sipsak(server, "-s", "sip:nobody@127.0.0.1")
    assert code == 1, text
    assert "SIP/2.0 404 Not Found" in text


def test_registrations(server: ServerProcess) -> None:
    register = ["-U", "-x", "1", "-s", "sip:alice@127.0.0.1", "-a"]  # for 1 s: it does not unregister
    code, text = sipsak(server, *register, "wonderland")
    assert code == 0, text
    assert "All usrloc tests completed successful" in text
    code, text = sipsak(server, *register, "looking-glass")
    assert code == 2, text
    assert "authorization failed" in text


@pytest.mark.parametrize("engine", SCRIPTS)
def test_who_floods_is_banned_and_all_others_are_served(engine: str, tmp_path: Path) -> None:
    server = ServerProcess(make_data(tmp_path / "data"), ["--engine", engine, SCRIPTS[engine]])
    try:
        # the sample does not count what comes from its own addresses; -k sets that of sipsak
        code, text = sipsak(server, "-k", "127.0.18.7", "-F", "-e", str(FLOOD), "-s", "sip:127.0.0.1")
        assert code == 0, text
        until(lambda: "too many requests: banning 127.0.18.7" in server.log(), "a ban")
        until(
            lambda: sipsak(server, "-s", "sip:127.0.0.1")[0] == 0, "an answer"
        )  # not 503, should it have been too much
        code, text = sipsak(server, "-k", "127.0.18.7", "-Z", "5", "-s", "sip:127.0.0.1")
        assert code == 3, text  # no answer
    finally:
        assert server.stop() == 0
    assert server.log().count("banning") == 1
