"""bench/soak.py in a short form: all kinds of load, and nothing is stuck, left, or told of in the log."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from bench.servers import ROOT
from bench.soak_phones import malformed
from polykemi.errors import ParseError
from polykemi.sip.message import parse


@pytest.mark.soak
def test_a_short_soak() -> None:
    command = [sys.executable, "-m", "bench.soak", "--minutes", "0.13", "--phones", "30", "--pace", "0.3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rubbish_is_mostly_refused() -> None:
    chance, refused = random.Random(1), 0
    for _ in range(500):
        try:
            parse(malformed(chance, "example.test"))
        except ParseError:
            refused += 1
    assert 100 < refused < 500
