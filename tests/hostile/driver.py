"""A server of its own with a script of hostile parts, each of which is asked for by the user of a request."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from polykemi.control.client import SOCKET, call
from tests.support import message
from tests.waiting import PATIENCE, cpu_time, until

ROOT: Final = Path(__file__).parents[2]
LIMIT: Final = 0.2  # seconds of a route block
MARGIN: Final = 1.5  # seconds of CPU time more until the answer
QUICK: Final = 0.1  # seconds of CPU time until the answer to the next request
ANY: Final = -1  # status: there is an answer; which one is another test's business
TRIES: Final = 3  # one of them is that quick: threads that collect garbage count as well


@dataclass(frozen=True, slots=True)
class Case:
    """A hostile part: what it is, and what comes of it.

    ``status``: of the answer to the request that asked for it; 0: there is none. ``log``: what the log tells then.
    """

    name: str
    body: str  # statements of a function
    status: int = 500
    log: str = ""
    prelude: str = ""  # in front of all functions
    more: float = 0.0  # seconds more until the answer


class HostileServer:
    """A `polykemi serve` with one script; the time limit is short."""

    def __init__(self, directory: Path, script: Path, host: str, more: str = "") -> None:
        """``more``: lines of the engine's table."""
        self.directory = directory
        engine = {".lua": "lua", ".js": "js", ".py": "python"}[script.suffix]
        config = directory / "polykemi.toml"
        config.write_text(  # what waits behind a hostile part is not refused: it is asked how it fares
            f'data = "data"\nlisten = ["udp:{host}:0"]\n[engines.{engine}]\nscript = "{script}"\ntimeout = {LIMIT}\n{more}\n'
            + ("" if "[overload]" in more else "[overload]\ndelay = 0\n")
        )
        self._log = directory / "server.log"
        with self._log.open("wb") as log:
            command = [sys.executable, "-m", "polykemi", "serve", "--config", str(config)]
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
        self.port = 0
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("listening on udp:"):
                self.port = int(line.rpartition(":")[2])
            if line == "ready\n":
                break
        else:
            raise AssertionError(f"the server did not start: {self.log()}")
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect((host, self.port))
        self._number = 0

    def log(self) -> str:
        """Return what it has logged so far."""
        return self._log.read_text(errors="replace")

    def ask(self, user: str, wait: float) -> tuple[int, float]:
        """Send a request to ``user``; return the status of its answer (0: none within ``wait`` seconds).

        And the seconds of CPU time that the server has used until then: the machine may be busy with other things.
        """
        self._number += 1
        call_id, used = f"hostile-{self._number}", cpu_time(self.process.pid)
        self._socket.send(
            message(
                f"OPTIONS sip:{user}@example.test SIP/2.0",
                via=f"SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK{call_id};rport",
                call_id=call_id,
            )
        )
        end = time.monotonic() + wait
        while (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                reply = self._socket.recv(65535)
            except TimeoutError:
                break
            if f": {call_id}\r\n".encode() in reply:
                return int(reply.split(b" ")[1]), cpu_time(self.process.pid) - used
        return 0, cpu_time(self.process.pid) - used

    def rpc(self, method: str, *params: Any) -> Any:
        """Return what an RPC command gives."""
        return call(self.directory / "data" / SOCKET, method, params)

    def memory(self) -> int:
        """Return how many octets of the process are resident."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * 4096

    def try_case(self, case: Case) -> None:
        """Ask for a hostile part, then for a good one."""
        told = len(self.log())
        status, seconds = self.ask(case.name, PATIENCE if case.status else LIMIT)
        assert self.process.poll() is None, f"the server has ended: {self.process.returncode} {self.log()[-2000:]}"
        assert status == case.status or (status and case.status == ANY), (
            f"{status} after {seconds:.2f} s {self.log()[told:][:2000]}"
        )
        assert seconds < LIMIT + MARGIN + case.more
        used = []
        for _ in range(TRIES):
            status, seconds = self.ask("good", PATIENCE)
            assert status == 200
            used.append(seconds)
            if seconds < QUICK:
                break
        assert min(used) < QUICK, used
        until(lambda: case.log in self.log()[told:], case.log)

    def close(self) -> int:
        """End it and return its exit code."""
        self._socket.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            assert self.process.stdout is not None
            self.process.stdout.close()


def script(cases: Sequence[Case], frame: Mapping[str, str]) -> str:
    """Return the text of a script: ``frame`` has begin, case (with NAME and BODY) and end."""
    preludes = [case.prelude for case in cases if case.prelude]
    parts = [frame["case"].replace("NAME", case.name).replace("BODY", _indented(case.body, frame)) for case in cases]
    return "\n".join([frame["begin"], *preludes, *parts, frame["end"]])


def _indented(body: str, frame: Mapping[str, str]) -> str:
    line = next(line for line in frame["case"].splitlines() if "BODY" in line)
    return body.strip("\n").replace("\n", "\n" + line.partition("BODY")[0])
