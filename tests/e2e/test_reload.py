"""Scripts of a running server are changed as an operator does it: by command, by SIGHUP, by saving a file."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, ServerProcess
from tests.e2e.test_bad_scripts import Peer
from tests.waiting import PATIENCE

SUFFIXES = {"lua": "lua", "js": "js", "python": "py"}
SCRIPTS = {
    "lua": "function ksr_request_route()\n  if KSR.is_REGISTER() then KSR.registrar.save('location', 0) return end\n"
    "  KSR.sl.send_reply(200, '@')\nend\n",
    "js": "function ksr_request_route() {\n  if (KSR.is_REGISTER()) { KSR.registrar.save('location', 0); return; }\n"
    "  KSR.sl.send_reply(200, '@');\n}\n",
    "python": "import KSR\ndef ksr_request_route():\n    if KSR.is_REGISTER():\n        KSR.registrar.save('location', 0)\n"
    "        return\n    KSR.sl.send_reply(200, '@')\n",
}
FAILS = {
    "lua": "function ksr_request_route()\n  local nothing = KSR.pv.get('$avp(x)')\n  nothing.at_all()\nend\n",
    "js": "function ksr_request_route() {\n  const nothing = KSR.pv.get('$avp(x)');\n  nothing.at_all();\n}\n",
    "python": "import KSR\ndef ksr_request_route():\n    KSR.pv.get('$avp(x)').at_all()\n",
}
SILENT = {
    "lua": "function ksr_request_route() end\n",
    "js": "function ksr_request_route() {}\n",
    "python": "def ksr_request_route():\n    pass\n",
}
SMOKE = """\
REGISTER sip:example.test SIP/2.0
Via: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bKsmoke
From: <sip:smoke@example.test>;tag=s
To: <sip:smoke@example.test>
Call-ID: smoke
CSeq: 1 REGISTER
Contact: <sip:smoke@127.0.0.1:5060>
Content-Length: 0

"""


class Lab:
    """A server whose script is written anew."""

    def __init__(self, engine: str, directory: Path, more: str = "", *flags: str) -> None:
        self.engine = engine
        self.script = directory / f"route.{SUFFIXES[engine]}"
        self.write("A")
        self.config = directory / "polykemi.toml"
        self.config.write_text(f"[engines]\n{engine} = '{self.script}'\n{more}")
        self.server = ServerProcess(directory, ["--config", str(self.config), *flags])
        self.peer = Peer(self.server)

    def write(self, letter: str) -> None:
        """Write version ``letter``."""
        self.script.write_text(SCRIPTS[self.engine].replace("@", letter))

    def version(self) -> str:
        """Return the letter of the version that answers."""
        return self.peer.ask("OPTIONS").removeprefix("SIP/2.0 200 ")

    def rpc(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `polykemi rpc`."""
        command = [sys.executable, "-m", "polykemi", "rpc", "--data", str(self.server.data), *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)

    def until(self, told: Callable[[], bool]) -> None:
        """Wait until something is so."""
        end = time.monotonic() + PATIENCE
        while not told():
            assert time.monotonic() < end, self.server.log()
            time.sleep(0.02)

    def close(self) -> None:
        """End it."""
        self.peer.close()
        assert self.server.stop() == 0
        assert "internal error" not in self.server.log()


@pytest.fixture(params=SUFFIXES)
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    """A server that tries what it is about to take."""
    smoke = tmp_path / "smoke.sip"
    smoke.write_text(SMOKE)
    made = Lab(request.param, tmp_path, "[reload]\nsmoke = 'smoke.sip'\nkeep = 3\n")
    yield made
    made.close()


def test_what_fails_with_the_smoke_message_does_not_get_in(lab: Lab) -> None:
    lab.script.write_text(FAILS[lab.engine])
    refused = lab.rpc("app.reload")
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"polykemi: {lab.script}:3: ")
    assert f"(with {lab.script.parent / 'smoke.sip'})" in refused.stderr
    lab.script.write_text(SILENT[lab.engine])
    assert "smoke.sip: gets no answer and is sent nowhere" in lab.rpc("app.reload").stderr
    assert lab.version() == "A"


def test_the_smoke_message_changes_nothing(lab: Lab) -> None:
    lab.write("B")
    taken = lab.rpc("app.reload")
    assert taken.stdout.splitlines()[:2] == ["version: 2", "reloaded: yes"]
    assert "SIP/2.0 200 OK" in taken.stdout
    assert lab.version() == "B"
    assert "smoke" not in lab.rpc("ul.dump").stdout


def test_versions_and_rollback_by_command(lab: Lab) -> None:
    for letter in "BC":
        lab.write(letter)
        assert lab.rpc("app.reload").returncode == 0
    assert [line.split()[:2] for line in lab.rpc("app.versions").stdout.splitlines()[1:]] == [
        ["1", "kept"],
        ["2", "kept"],
        ["3", "current"],
    ]
    assert lab.rpc("app.rollback").stdout == "version: 2\n"
    assert lab.version() == "B"
    assert lab.rpc("app.rollback", "1").stdout == "version: 1\n"
    assert lab.version() == "A"
    missing = lab.rpc("app.rollback", "7")
    assert (missing.returncode, missing.stderr) == (1, "polykemi: no version 7; kept: 1, 2, 3\n")


def test_a_dry_run_by_command(lab: Lab) -> None:
    lab.write("B")
    assert lab.rpc("app.reload", "--dry-run").stdout.splitlines()[:2] == ["version: 1", "reloaded: no"]
    assert lab.version() == "A"
    wrong = lab.rpc("app.reload", "--dry")
    assert (wrong.returncode, wrong.stderr) == (1, "polykemi: expected --dry-run or --force, got --dry\n")


def test_sighup_takes_scripts_and_configuration(lab: Lab) -> None:
    other = lab.script.with_name(f"other.{SUFFIXES[lab.engine]}")
    other.write_text(SCRIPTS[lab.engine].replace("@", "other"))
    lab.config.write_text(lab.config.read_text().replace(str(lab.script), str(other)))
    lab.server.process.send_signal(signal.SIGHUP)
    lab.until(lambda: lab.version() == "other")
    other.write_text("this is no script (")
    lab.server.process.send_signal(signal.SIGHUP)
    lab.until(lambda: f"version 2 goes on: {other}:" in lab.server.log())
    assert lab.version() == "other"


class Hasty(Lab):
    """A server whose script is changed while it is starting; ``told`` gives the process that hears of it."""

    told = "getpid"

    def write(self, letter: str) -> None:
        """Write the script that changes itself."""
        change = f"import os, signal\nopen(__file__, 'w').write({SCRIPTS['python'].replace('@', 'B')!r})\n"
        told = f"os.kill(os.{self.told}(), signal.SIGHUP)\n"
        self.script.write_text(f"{change}{told}{SCRIPTS['python'].replace('@', letter)}")


class Supervised(Hasty):
    """One with a parent process, which is told."""

    told = "getppid"


@pytest.mark.parametrize(("kind", "flags"), [(Hasty, ()), (Supervised, ("--supervise",))])
def test_a_sighup_while_it_starts_is_no_end_and_not_forgotten(
    tmp_path: Path, kind: type[Hasty], flags: tuple[str, ...]
) -> None:
    lab = kind("python", tmp_path, "", *flags)
    lab.until(lambda: lab.version() == "B")
    lab.close()


@pytest.mark.parametrize("engine", SUFFIXES)
def test_files_that_are_saved_are_taken(tmp_path: Path, engine: str) -> None:
    (tmp_path / "scripts").mkdir()
    lab = Lab(engine, tmp_path / "scripts", "", "--watch")
    assert "watching the files of the scripts" in lab.server.greeting
    lab.script.write_text("this is no script (")
    lab.until(lambda: "version 1 goes on" in lab.server.log())
    assert lab.version() == "A"
    new = lab.script.with_suffix(".new")  # as many editors do it
    new.write_text(SCRIPTS[engine].replace("@", "B"))
    new.replace(lab.script)
    lab.until(lambda: lab.version() == "B")
    assert "watchfiles" not in lab.server.log()
    lab.close()
