"""What Prometheus reads. All of it is worked out when Prometheus asks; until then nothing is done for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest
from prometheus_client.core import InfoMetricFamily
from prometheus_client.registry import Collector

from polykemi import __version__, compiled
from polykemi.control import metrics_network, metrics_scripts
from polykemi.control.families import untyped
from polykemi.router import Router
from polykemi.transport.manager import Transports

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_MOST: Final = 2000  # counters of modules that are shown: some of them are named by scripts


class Metrics(Collector):
    """The metrics of one server."""

    def __init__(self, router: Router, transports: Transports | None = None) -> None:
        """Without ``transports`` there are none about sockets."""
        self._router, self._transports = router, transports
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def page(self) -> bytes:
        """Return all metrics in the text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Give what there is to be seen now."""
        router = self._router
        form = "compiled" if compiled else "pure"
        about = {"version": __version__, "form": form, "engines": ",".join(sorted(router.engines))}
        yield InfoMetricFamily("polykemi", "This server.", about)
        yield from metrics_network.messages(router)
        yield from metrics_network.state(router)
        if self._transports is not None:
            yield from metrics_network.sockets(self._transports)
        yield from metrics_scripts.routes(router.stats)
        counters = router.services.counters
        shown = list(counters.items())[:_MOST]
        rows = (((group, name), value) for key, value in shown for group, _, name in [key.partition(".")])
        yield untyped("polykemi_statistic", "Kamailio's statistics, by group and name.", ("group", "name"), rows)
