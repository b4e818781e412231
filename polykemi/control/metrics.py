"""Counters as Prometheus reads them. They are read when Prometheus asks; until then nothing is done for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, SummaryMetricFamily
from prometheus_client.registry import Collector

from polykemi import __version__
from polykemi.kemi.route import ROUTE_NAMES
from polykemi.kemi.route_stats import RouteStats

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_BLOCK: Final = ("kind", "block", "engine")


class Metrics(Collector):
    """The metrics of one server."""

    def __init__(self, counters: Mapping[str, int], routes: RouteStats) -> None:
        """``counters``: ``group.name`` -> number."""
        self._counters, self._routes = counters, routes
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def page(self) -> bytes:
        """Return all metrics in the text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Give what the counters show now."""
        yield InfoMetricFamily("polykemi", "This server.", {"version": __version__})
        yield from self._route_metrics()
        statistics = CounterMetricFamily("polykemi_statistics", "Kamailio's statistics.", labels=("group", "name"))
        for key, value in self._counters.items():
            group, _, name = key.partition(".")
            statistics.add_metric([_label(group), _label(name)], value)
        yield statistics

    def _route_metrics(self) -> Iterator[Metric]:
        seconds = SummaryMetricFamily("polykemi_route_seconds", "Wall time of route blocks.", labels=_BLOCK)
        since = "since the start or route.reset"
        least = GaugeMetricFamily(
            "polykemi_route_min_seconds", f"Quickest run of a route block {since}.", labels=_BLOCK
        )
        most = GaugeMetricFamily("polykemi_route_max_seconds", f"Slowest run of a route block {since}.", labels=_BLOCK)
        for block in self._routes:
            labels = [ROUTE_NAMES[block.kind], _label(block.callback), block.engine]
            seconds.add_metric(labels, block.cnt, block.sum)
            least.add_metric(labels, block.min)
            most.add_metric(labels, block.max)
        yield from (seconds, least, most)


def _label(octets: str) -> str:
    """Return text as Unicode that can be written, whatever a script has put into it."""
    return octets.encode("latin-1").decode("utf-8", "backslashreplace")
