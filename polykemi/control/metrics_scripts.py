"""Metrics of the scripts: what route blocks cost, and what they do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final

from prometheus_client import Metric

from polykemi.control.families import counter, gauge, histogram
from polykemi.engines.base import Engine
from polykemi.kemi.probes import Probes
from polykemi.kemi.route import ROUTE_NAMES
from polykemi.kemi.route_stats import BlockStats, RouteStats
from polykemi.router import Router

_BLOCK: Final = ("kind", "block", "engine")
MOST: Final = 100  # blocks that are shown: their names come from scripts


def routes(stats: RouteStats) -> Iterator[Metric]:
    """Give how often route blocks ran, how long, and how often they failed."""
    blocks = [(_labels(block), block) for block in islice(stats, MOST)]
    yield histogram("polykemi_route_seconds", "Wall time of route blocks, with those that ran inside.", _BLOCK, blocks)
    since = "since the start or route.reset"
    yield gauge(
        "polykemi_route_min_seconds",
        f"Quickest run of a route block {since}.",
        _BLOCK,
        ((labels, block.min) for labels, block in blocks),
    )
    yield gauge(
        "polykemi_route_max_seconds",
        f"Slowest run of a route block {since}.",
        _BLOCK,
        ((labels, block.max) for labels, block in blocks),
    )
    yield counter(
        "polykemi_route_failures",
        "Runs of route blocks that ended early: by an error, by the limit of time, by that of memory.",
        (*_BLOCK, "cause"),
        (
            ((*labels, cause), number)
            for labels, block in blocks
            for cause, number in (
                ("error", block.errors),
                ("timeout", block.timeouts),
                ("memory", block.memory_stops),
            )
        ),
    )


def calls(probes: Probes) -> Iterator[Metric]:
    """Give how often each KSR function was called."""
    tallies = sorted(probes.tallies.items())
    yield counter(
        "polykemi_ksr_calls",
        "Calls of KSR functions; in JavaScript what cannot change within a block is asked once for it.",
        ("function",),
        (((path,), tally.calls) for path, tally in tallies if tally.calls),
    )
    yield counter(
        "polykemi_ksr_errors",
        "Calls of KSR functions that could not be made or failed: wrong arguments, not in this block, an error.",
        ("function",),
        (((path,), tally.errors) for path, tally in tallies if tally.calls or tally.errors),
    )


def versions(router: Router, engines: Mapping[str, Engine]) -> Iterator[Metric]:
    """Give which version of the scripts runs, how it came to that, and what memory they take."""
    count = router.services.counters.get
    version = router.version
    yield gauge("polykemi_version", "Version of the scripts that routes what begins now.", (), [((), version.number)])
    yield gauge(
        "polykemi_version_loaded_timestamp_seconds", "When that version was loaded.", (), [((), version.loaded)]
    )
    results = (("done", "app.reloads"), ("failed", "app.failed_reloads"), ("rollback", "app.rollbacks"))
    yield counter(
        "polykemi_reloads",
        "Reloads of the scripts by what came of them, and rollbacks.",
        ("result",),
        (((result,), count(name, 0)) for result, name in results),
    )
    yield gauge(
        "polykemi_engine_memory_bytes",
        "Memory that the scripts of an engine hold, 0 where it cannot be told.",
        ("engine",),
        (((name,), engine.memory()) for name, engine in sorted(engines.items())),
    )


def _labels(block: BlockStats) -> tuple[str, str, str]:
    return ROUTE_NAMES[block.kind], block.callback, block.engine
