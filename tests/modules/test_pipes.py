"""Pipes: what the intervals do, and the load that RED, FEEDBACK and NETWORK look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from polykemi.errors import RpcError
from polykemi.modules.pipes import Pipe, Pipes, setpoint_error


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "net").mkdir()
    cpu(tmp_path, 0, 0)
    waiting(tmp_path, 0)
    return tmp_path


def cpu(proc: Path, busy: int, idle: int) -> None:
    (proc / "stat").write_text(f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 2 3\n")


def waiting(proc: Path, octets: int) -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n"
    line = f"   0: 0100007F:13C4 00000000:0000 07 00000000:{octets:08X} 00:00000000\n"
    (proc / "net" / "udp").write_text(head + line)


def answers(pipes: Pipes, name: str, n: int, now: float) -> list[int]:
    return [pipes.push(pipes.pipes[name], now) for _ in range(n)]


def test_taildrop_counts_anew_in_each_interval(proc: Path) -> None:
    pipes = Pipes(10, per=10, proc=proc)
    pipes.pipes["a"] = Pipe("TAILDROP", 1)
    assert answers(pipes, "a", 12, 100.0) == [1] * 10 + [-1, -1]
    assert answers(pipes, "a", 1, 109.9) == [-1]
    assert answers(pipes, "a", 1, 110.0) == [1]
    assert pipes.pipes["a"].last_counter == 13


def test_red_spreads_over_the_interval_what_the_one_before_had_too_much(proc: Path) -> None:
    pipes = Pipes(1, per=1, proc=proc)
    pipes.pipes["a"] = Pipe("RED", 2)
    assert answers(pipes, "a", 8, 0.0) == [1] * 8  # no load is known yet
    assert answers(pipes, "a", 8, 1.0) == [-1, -1, -1, 1, -1, -1, -1, 1]  # four times the limit: one of four
    assert answers(pipes, "a", 3, 5.0) == [1, 1, 1]  # the interval before was idle


def test_network_looks_at_what_waits_in_the_sockets(proc: Path) -> None:
    pipes = Pipes(1, per=1, proc=proc)
    pipes.pipes["a"] = Pipe("NETWORK", 1000)
    assert answers(pipes, "a", 1, 0.0) == [0]
    waiting(proc, 2000)
    assert answers(pipes, "a", 2, 1.0) == [-1, -1]
    waiting(proc, 1000)
    assert answers(pipes, "a", 1, 2.0) == [1]


def test_feedback_refuses_more_the_longer_the_load_is_too_high(proc: Path) -> None:
    pipes = Pipes(1, per=1, proc=proc)
    pipes.pipes["a"] = Pipe("FEEDBACK", 50)
    assert answers(pipes, "a", 100, 0.0) == [1] * 100
    cpu(proc, 0, 100)
    answers(pipes, "a", 1, 1.0)  # the first look at the CPU
    refused = []
    for second in range(2, 7):
        cpu(proc, 90 * second, 100 + 10 * second)
        refused.append(answers(pipes, "a", 100, float(second)).count(-1))
    assert refused == sorted(refused)
    assert refused[0] > 0
    for second in range(7, 30):
        cpu(proc, 540 + 10 * second, 160 + 90 * second)
        answers(pipes, "a", 1, float(second))
    assert pipes.controller.drop_rate == 0.0
    assert answers(pipes, "a", 100, 30.0) == [1] * 100


def test_pipes_that_nobody_uses_are_forgotten_when_that_is_wanted(proc: Path) -> None:
    pipes = Pipes(1, per=1, clean_unused=2, proc=proc)
    pipes.pipes["a"], pipes.pipes["b"] = Pipe("RED", 2), Pipe("RED", 2)
    for second in range(5):
        answers(pipes, "a", 1, float(second))
    assert list(pipes.pipes) == ["a"]


def test_pipes_are_changed_by_commands(proc: Path) -> None:
    pipes = Pipes(1, per=1, proc=proc)
    pipes.pipes["a"] = Pipe("FEEDBACK", 50)
    pipes.set("a", "FEEDBACK", 60)
    assert pipes.setpoint == 0.6
    pipes.push_load(0.9)
    assert pipes.controller.drop_rate == pytest.approx(7.5)
    for name, algorithm, limit, reason in (
        ("b", "RED", 1, "Unknown pipe id b"),
        ("a", "GREEN", 1, "Unknown algorithm"),
        ("a", "FEEDBACK", 101, "the limit of FEEDBACK is a CPU load from 0 to 100"),
    ):
        with pytest.raises(RpcError, match=reason):
            pipes.set(name, algorithm, limit)
    with pytest.raises(RpcError, match="Value out of range"):
        pipes.push_load(1.5)
    assert setpoint_error([Pipe("FEEDBACK", 1), Pipe("FEEDBACK", 2)]) == "all pipes with FEEDBACK need the same limit"
