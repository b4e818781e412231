"""What the thread that watches Lua scripts does at each look; time is an argument."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polykemi.engines import lua_watch
from polykemi.engines.lua_watch import IDLE, Watch


class Ended(Exception):
    """The process would have ended."""


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """A watch without a thread over scripts that may run 1 s, inside of one route block."""

    def end_process(where: str, seconds: float) -> None:
        raise Ended(f"{where} {seconds:.0f}")

    monkeypatch.setattr(lua_watch, "end_process", end_process)
    monkeypatch.setattr(lua_watch, "running_calls", int)  # those of threads that other tests have left count as well
    watch = Watch(0, lambda: 1)
    watch._seconds, watch._interval = 1.0, 0.1
    return watch


class Running:
    """A script that has just begun to run."""

    path = Path("a.lua")
    loading = False
    late_in = ""

    def __init__(self, watch: Watch) -> None:
        self.deadline = 0.0
        self.hurried = 0
        self.pace: Any = self
        watch.add(self)

    def hurry(self) -> None:
        """Be hurried: ``Pace``'s."""
        self.hurried += 1


def looks(watch: Watch, begin: float, end: float) -> None:
    """Look every 0.1 s."""
    for tenth in range(round(begin * 10), round(end * 10)):
        watch.look(tenth / 10)


def test_a_script_is_hurried_when_its_time_is_over(watch: Watch) -> None:
    script = Running(watch)
    assert watch.look(100.0) == 0.1
    assert script.deadline == 101.0
    assert watch.look(100.95) == pytest.approx(0.05)
    assert script.hurried == 0
    watch.look(101.0)
    assert script.hurried == 1


def test_what_does_not_come_back_ends_the_process_two_seconds_later(watch: Watch) -> None:
    Running(watch)
    looks(watch, 100.0, 102.9)
    with pytest.raises(Ended, match=r"a\.lua 3"):
        looks(watch, 102.9, 103.3)


def test_a_pause_of_the_whole_process_is_not_counted(watch: Watch) -> None:
    script = Running(watch)
    looks(watch, 100.0, 101.2)
    watch.look(200.0)
    looks(watch, 200.1, 201.5)
    assert script.hurried > 10
    script.deadline = IDLE
    looks(watch, 201.5, 210.0)


def test_a_script_that_is_stopped_again_and_again_has_come_back(watch: Watch) -> None:
    script = Running(watch)
    for tenth in range(1000, 1100):
        watch.look(tenth / 10)
        if tenth % 10 == 0:
            script.deadline = tenth / 10 + 0.05
