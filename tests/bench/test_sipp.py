"""What sipp's statistics say."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.ports import free_port
from bench.sipp import SCENARIOS, statistics, write_users

HEAD = "StartTime;LastResetTime;CurrentTime;ElapsedTime(P);SuccessfulCall(P);SuccessfulCall(C);FailedCall(P);FailedCall(C);Retransmissions(P);Retransmissions(C);"


def line(now: float, successful: int, failed: int, again: int) -> str:
    start = "2026-01-02\t10:00:00.500000\t1767348000.500000"
    moment = f"2026-01-02\t10:00:00.000000\t{now:.6f}"
    return f"{start};{moment};{moment};00:00:02;1;{successful};0;{failed};0;{again};"


def test_the_totals_are_those_of_the_last_line() -> None:
    text = "\n".join([HEAD, line(1767348001.5, 900, 0, 0), line(1767348003.0, 1997, 3, 5), ""])
    assert statistics(text) == (1997, 3, 5, 2.5)


@pytest.mark.parametrize("text", ["", HEAD, HEAD + "\n"])
def test_a_file_without_figures_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="no statistics"):
        statistics(text)


def test_users_are_written_as_the_scenarios_read_them(tmp_path: Path) -> None:
    write_users(tmp_path / "users.csv", [("u1", "p1"), ("u2", "p2")])
    assert (tmp_path / "users.csv").read_text().splitlines() == [
        "SEQUENTIAL",
        "u1;[authentication username=u1 password=p1]",
        "u2;[authentication username=u2 password=p2]",
    ]


def test_ports_are_not_given_twice_in_a_row() -> None:
    assert len({free_port() for _ in range(20)}) == 20


def test_each_scenario_that_a_load_names_is_there() -> None:
    from bench.loads import TESTS

    for test in TESTS.values():
        assert (SCENARIOS / f"{test.scenario}.xml").exists()
