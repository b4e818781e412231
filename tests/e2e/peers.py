"""What the peers of the tests have in common: are they installed, run them, wait for what they say, and end them."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.waiting import PATIENCE


def missing(reason: str) -> NoReturn:
    """Skip the test; where all peers have to be there (POLYKEMI_PEERS=required, as .ci/run has it), fail."""
    if os.environ.get("POLYKEMI_PEERS") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


def tool(name: str, package: str) -> str:
    """Return the path of a program; without it the test is skipped."""
    return shutil.which(name) or missing(f"{name} is not installed ({package})")


class PeerProcess:
    """A program that runs beside the server; what it prints is in ``output()``."""

    def __init__(self, command: list[str], directory: Path, *, pass_fds: tuple[int, ...] = ()) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.name, self._output = Path(command[0]).name, directory / f"{Path(command[0]).name}.out"
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                command, cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=pass_fds
            )

    def output(self) -> str:
        """Return what it has printed so far."""
        return self._output.read_text(errors="replace")

    def until(self, text: str, seconds: float = PATIENCE) -> None:
        """Wait until it has printed ``text``."""
        self.wait(lambda: text in self.output(), repr(text), seconds)

    def wait(self, found: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
        """Wait until ``found`` says so; it must not end before."""
        end = time.monotonic() + seconds
        while not found():
            if self.process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"{self.name}: no {what}\n{self.output()[-3000:]}")
            time.sleep(0.01)

    def stop(self) -> None:
        """End it, kindly at first."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
