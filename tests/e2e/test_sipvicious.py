"""SIPVicious scans the server: its tools get what the sample script says, and everybody else is served meanwhile.

The scans are bounded and stay on loopback. Needs the extra ``peers``.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bench.ports import free_port
from tests.e2e.conftest import DOMAIN, PASSWORDS, ROOT, SCRIPTS, ServerProcess, make_data
from tests.e2e.peers import missing
from tests.e2e.stream_phone import StreamPhone
from tests.waiting import PATIENCE

HOST = "127.0.18.1"  # of the server: SIPVicious comes from 127.0.0.1, which is none of its own, that the script would trust
NOBODY = ["mallory", "nobody", "1000"]


@pytest.fixture(scope="module", autouse=True)
def _sipvicious() -> None:
    if importlib.util.find_spec("sipvicious") is None:
        missing("SIPVicious is not installed (PyPI: sipvicious, in the extra peers)")


def serve(data: Path, *changes: tuple[str, str]) -> Iterator[ServerProcess]:
    """Run a server with the Lua sample script, changed; in the end a phone registers."""
    source = (ROOT / SCRIPTS["lua"]).read_text()
    for old, new in changes:
        assert old in source
        source = source.replace(old, new)
    (make_data(data) / "route.lua").write_text(source)
    server = ServerProcess(data, ["--engine", "lua", str(data / "route.lua")], HOST)
    yield server
    with closing(StreamPhone("carol", server.port, HOST, source="127.0.18.9")) as carol:
        carol.register()
    assert server.stop() == 0
    assert "Traceback" not in server.log()
    assert "script error" not in server.log()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server with the sample script."""
    yield from serve(tmp_path / "data")


@pytest.fixture
def unaware(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server whose script does not know SIPVicious by its name."""
    yield from serve(tmp_path / "data", ('"friendly-scanner", ', ""))


def scan(server: ServerProcess, directory: Path, name: str, *arguments: str) -> str:
    """Run one of SIPVicious's tools against the server and return what it has printed."""
    command = [sys.executable, "-m", f"sipvicious.{name}", "-p", str(server.port)]
    command += ["-P", str(free_port()), *arguments, HOST]
    environment = {**os.environ, "HOME": str(directory)}
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=PATIENCE,
        check=False,
    )
    return done.stdout + done.stderr


def words(directory: Path, *listed: str) -> str:
    """Write a dictionary and return its path."""
    path = directory / f"{len(listed)}.txt"
    path.write_text("".join(f"{word}\n" for word in listed))
    return str(path)


def test_who_names_himself_a_scanner_gets_no_answer(server: ServerProcess, tmp_path: Path) -> None:
    assert "found nothing" in scan(server, tmp_path, "svmap")
    text = scan(server, tmp_path, "svwar", "-d", words(tmp_path, *PASSWORDS, *NOBODY))
    assert "timed out" in text
    assert "found nothing" in text


def test_another_scanner_sees_the_server(unaware: ServerProcess, tmp_path: Path) -> None:
    assert f"{HOST}:{unaware.port} | polykemi" in scan(unaware, tmp_path, "svmap")


@pytest.mark.parametrize("method", ["REGISTER", "INVITE", "OPTIONS"])
def test_users_cannot_be_enumerated(unaware: ServerProcess, tmp_path: Path, method: str) -> None:
    with closing(StreamPhone("bob", unaware.port, HOST)) as bob:
        bob.register()  # one who is there looks like all others
        text = scan(unaware, tmp_path, "svwar", "-m", method, "-d", words(tmp_path, *PASSWORDS, *NOBODY))
    assert "SIP server replied with an authentication request for an unknown extension" in text
    assert "found nothing" in text


def test_a_weak_password_is_found_but_not_in_a_long_list(unaware: ServerProcess, tmp_path: Path) -> None:
    crack = ["-u", "alice", "--domain", DOMAIN, "-d"]
    short = ["secret", "1234", PASSWORDS["alice"]]
    assert PASSWORDS["alice"] in scan(
        unaware, tmp_path, "svcrack", "--maximumtime=60", *crack, words(tmp_path, *short)
    )  # it can do so
    long = words(tmp_path, *(str(n) for n in range(200)), *short)
    assert "found nothing" in scan(unaware, tmp_path, "svcrack", "--maximumtime=1", *crack, long)
    assert "too many requests: banning 127.0.0.1" in unaware.log()
