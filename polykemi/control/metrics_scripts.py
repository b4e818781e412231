"""Metrics of the scripts: what route blocks cost, and what they do."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from prometheus_client import Metric

from polykemi.control.families import counter, gauge, histogram
from polykemi.kemi.route import ROUTE_NAMES
from polykemi.kemi.route_stats import BlockStats, RouteStats

_BLOCK: Final = ("kind", "block", "engine")
MOST: Final = 200  # blocks that are shown: their names come from scripts


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


def _labels(block: BlockStats) -> tuple[str, str, str]:
    return ROUTE_NAMES[block.kind], block.callback, block.engine
