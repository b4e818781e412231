"""The three sample scripts behave the same: the same octets leave, and the same KSR calls are made with the same results."""

from __future__ import annotations

from pathlib import Path

import pytest

from polykemi.testing import ServerUnderTest
from tests.parity.scenario import Run, play

ROOT = Path(__file__).parents[2]
SCRIPTS = {"lua": "routes/lua/basic.lua", "js": "routes/js/basic.js", "python": "routes/py/basic.py"}
SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


def run(scenario: Path, engine: str) -> Run:
    """Play a scenario on one engine, with the same clock and randomness each time."""
    with ServerUnderTest({engine: ROOT / SCRIPTS[engine]}, domains=["example.test"]) as server:
        return play(scenario, server)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.stem)
def test_the_three_sample_scripts_send_the_same_octets_and_make_the_same_calls(scenario: Path) -> None:
    lua, js, python = (run(scenario, engine) for engine in SCRIPTS)
    assert lua.sent
    assert lua.calls
    for other in (js, python):
        assert other.sent == lua.sent
        assert other.calls == lua.calls
