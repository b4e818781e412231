"""Medians, ratios and warnings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.loads import TESTS, Figures
from bench.servers import Subject
from bench.tables import aligned, highest_table, rows, summary, table, warnings

LUA, PEER, NATIVE = Subject("polykemi", "lua"), Subject("kamailio", "lua"), Subject("kamailio", "native")
RUN = Figures(
    n=1000,
    offered=100.0,
    failed=0,
    retransmissions=0,
    achieved=99.0,
    cpu=50.0,
    server_busy=0.5,
    sipp_busy=0.3,
    others_busy=0.0,
    stolen=0.0,
    rss=40_000,
    pss=20_480,
    route=None,
    route_runs=None,
)


def runs(*cpus: float, route: float | None = None) -> list[Figures]:
    return [replace(RUN, cpu=cpu, route=route) for cpu in cpus]


def test_a_ratio_is_taken_within_a_round() -> None:
    """The second round was slow for all: medians of both lines alone would give 60 / 80."""
    ours, peer, native = rows({LUA: runs(40, 120, 60), PEER: runs(80, 150, 60), NATIVE: runs(40, 60, 60)})
    assert (ours.cpu, ours.cpu_least, ours.cpu_most) == (60, 40, 120)
    assert ours.cpu_peer == 0.8  # of 0.5, 0.8 and 1.0
    assert ours.cpu_native == 1.0  # of 1.0, 2.0 and 1.0
    assert (peer.cpu_peer, peer.cpu_native) == (None, 2.0)
    assert (native.cpu_peer, native.cpu_native) == (None, None)


def test_the_time_in_the_route_is_compared_where_both_tell_it() -> None:
    (ours, _), (silent, _) = (
        rows({LUA: runs(1, 1, route=30.0), PEER: runs(1, 1, route=60.0)}),
        rows({LUA: runs(1, 1), PEER: runs(1, 1, route=60.0)}),
    )
    assert (ours.route, ours.route_peer) == (30.0, 0.5)
    assert (silent.route, silent.route_peer) == (None, None)


def test_without_a_peer_there_are_no_ratios() -> None:
    (alone,) = rows({LUA: runs(10, 20, 30)})
    assert (alone.cpu, alone.cpu_peer, alone.cpu_native) == (20, None, None)
    assert summary({LUA: runs(10)})[0]["subject"] == "polykemi lua"


def test_both_forms_have_the_same_peer() -> None:
    pure, compiled = Subject("polykemi", "lua", "pure"), Subject("polykemi", "lua", "compiled")
    first, second, _ = rows({pure: runs(80), compiled: runs(40), PEER: runs(80)})
    assert (first.subject, first.cpu_peer, second.subject, second.cpu_peer) == (
        "polykemi lua (pure)",
        1.0,
        "polykemi lua (compiled)",
        0.5,
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"failed": 1}, "did not keep up in 1 of 2 rounds"),
        ({"achieved": 94.0}, "did not keep up in 1 of 2 rounds (94 of 100/s)"),
        ({"sipp_busy": 0.95}, "sipp used 0.95 of its core"),
        ({"others_busy": 0.2, "stolen": 0.1}, "in 1 of 2 runs other processes or guests used up to 0.30 cores"),
    ],
)
def test_what_makes_figures_doubtful_is_said(change: dict[str, float], words: str) -> None:
    (warning,) = warnings({LUA: [RUN, replace(RUN, **change)]})  # type: ignore[arg-type]
    assert words in warning
    assert words in table(TESTS["call"], 100, 1000, {LUA: [RUN, replace(RUN, **change)]})  # type: ignore[arg-type]


def test_good_figures_need_no_warning() -> None:
    assert warnings({LUA: [RUN]}) == []


def test_columns_stand_below_each_other() -> None:
    assert aligned([["", "a"], ["name", "100"], ["x", "-"]]) == ["        a", "name  100", "x       -"]


def test_the_table_names_unit_rate_and_rounds() -> None:
    title, _, heading, ours, _ = table(
        TESTS["register"], 4000, 12000, {LUA: runs(40, 41), PEER: runs(80, 82)}
    ).splitlines()
    assert title == "REGISTER, password in the database: 4000/s, 12000 in each of 2 rounds; medians"
    assert heading.split()[:2] == ["CPU", "us/message"]
    assert ours.split()[:6] == ["polykemi", "lua", "40.5", "(40.0..41.0)", "0.50", "-"]


def test_highest_rates_are_compared() -> None:
    def at(*rates: float) -> list[Figures]:
        return [replace(RUN, offered=rate, achieved=rate, server_busy=0.98) for rate in rates]

    text = highest_table(
        TESTS["register"],
        {LUA: at(9000, 12000), PEER: at(9000, 8000), NATIVE: at(9000, 10000), Subject("kamailio", "js"): []},
    )
    ours = text.splitlines()[3].split()
    assert ours == ["polykemi", "lua", "10500", "(9000..12000)", "1.25", "1.10", "0.98", "0.30"]
    assert "js" not in text  # it kept no rate at all
