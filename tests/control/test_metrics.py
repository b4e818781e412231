"""What Prometheus reads: checked with the parser of its own client library."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

import polykemi
from polykemi.control.metrics import Metrics
from polykemi.kemi.route import Route
from polykemi.kemi.route_stats import RouteStats

Samples = dict[tuple[str, tuple[str, ...]], float]


@pytest.fixture
def routes() -> RouteStats:
    return RouteStats(lambda kind, callback: "lua")


def samples(metrics: Metrics) -> Samples:
    """Return (name, label values in the order of their names) -> value."""
    families = text_string_to_metric_families(metrics.page().decode())
    return {(s.name, tuple(v for _, v in sorted(s.labels.items()))): s.value for f in families for s in f.samples}


def test_route_blocks_are_in_seconds(routes: RouteStats) -> None:
    for seconds in (0.25, 0.75):
        routes.of(Route.FAILURE, "ksr_failure_manage").add(seconds)
    found = samples(Metrics({}, routes))
    labels = ("ksr_failure_manage", "lua", "failure_route")
    assert found["polykemi_route_seconds_count", labels] == 2
    assert found["polykemi_route_seconds_sum", labels] == 1.0
    assert found["polykemi_route_min_seconds", labels] == 0.25
    assert found["polykemi_route_max_seconds", labels] == 0.75


def test_counters_have_group_and_name_and_are_read_when_asked(routes: RouteStats) -> None:
    counters = {"sl.sent_replies": 3, "usrloc.location-expires": 1}
    metrics = Metrics(counters, routes)
    counters["sl.sent_replies"] += 1
    found = samples(metrics)
    assert found["polykemi_statistics_total", ("sl", "sent_replies")] == 4
    assert found["polykemi_statistics_total", ("usrloc", "location-expires")] == 1


def test_version_and_process(routes: RouteStats) -> None:
    found = samples(Metrics({}, routes))
    assert found["polykemi_info", (polykemi.__version__,)] == 1
    assert found["process_cpu_seconds_total", ()] > 0


def test_a_block_that_has_not_run_has_no_samples(routes: RouteStats) -> None:
    routes.of(Route.REQUEST, "main")
    assert not [name for name, _ in samples(Metrics({}, routes)) if name.startswith("polykemi_route")]


def test_names_that_a_script_makes_up_break_nothing(routes: RouteStats) -> None:
    for callback in ('a"b\\c\nd', "j\xc3\xbcrgen", "\xff"):
        routes.of(Route.EVENT, callback).add(1.0)
    blocks = {labels[0] for name, labels in samples(Metrics({}, routes)) if name == "polykemi_route_seconds_count"}
    assert blocks == {'a"b\\c\nd', "jürgen", "\\xff"}
