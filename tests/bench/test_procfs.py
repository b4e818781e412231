"""What /proc says."""

from __future__ import annotations

import os

from bench.procfs import TICK, Process, Watch, family, memory, parse_stat, processes


def test_a_stat_line_is_read_whatever_the_command_is_called() -> None:
    line = "42 (a (b) c) 1) S 7 42 42 0 -1 4194560 1 0 0 0 30 20 99 99 20 0 1 0 100 1 1"
    assert parse_stat(line) == Process(7, 50 / TICK)


def test_a_family_is_a_process_and_all_below_it() -> None:
    among = {pid: Process(parent, 0.0) for pid, parent in ((1, 0), (2, 1), (3, 2), (4, 3), (5, 1), (6, 5))}
    assert family(2, among) == {2, 3, 4}
    assert family(1, among) == set(among)


def test_this_process_has_memory_and_is_there() -> None:
    assert os.getpid() in processes()
    held = memory([os.getpid()])
    assert held.rss >= held.pss > 0
    assert memory([]) == (0, 0)


def test_a_watch_counts_what_the_server_used() -> None:
    watch = Watch(os.getpid())
    sum(i * i for i in range(300_000))
    watch.end()
    assert os.getpid() in watch.members
    assert 0.001 < watch.server_cpu < 60
    assert watch.others([]) >= 0
