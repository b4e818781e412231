"""What Prometheus reads. All of it is worked out when Prometheus asks; until then nothing is done for it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from prometheus_client import Metric, ProcessCollector
from prometheus_client.core import InfoMetricFamily

from polykemi import __version__, compiled
from polykemi.control import metrics_network, metrics_scripts
from polykemi.control.families import untyped, written
from polykemi.control.sources import Sources

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_FRESH: Final = 0.25  # seconds that a page is good for: a busy reader does not keep the server busy
_MOST: Final = 2000  # counters of modules that are shown: some of them are named by scripts


class Metrics:
    """The metrics of one server."""

    def __init__(self, sources: Sources, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` shows seconds."""
        self._sources, self._clock = sources, clock
        self._page, self._made = b"", -math.inf
        self._process = ProcessCollector(registry=None)

    def page(self) -> bytes:
        """Return all metrics in the text format: made anew, unless somebody asks more often than that is worth."""
        now = self._clock()
        if now - self._made >= _FRESH:
            self._page, self._made = written([*self.collect(), *self._process.collect()]), now
        return self._page

    def collect(self) -> Iterator[Metric]:
        """Give what there is to be seen now."""
        sources = self._sources
        router = sources.router
        form = "compiled" if compiled else "pure"
        about = {"version": __version__, "form": form, "engines": ",".join(sorted(sources.engines))}
        yield InfoMetricFamily("polykemi", "This server.", about)
        yield from metrics_network.messages(router)
        yield from metrics_network.state(router)
        if sources.transports is not None:
            yield from metrics_network.sockets(sources.transports)
        yield from metrics_scripts.routes(router.stats)
        yield from metrics_scripts.calls(sources.probes)
        yield from metrics_scripts.versions(router, sources.engines)
        shown = islice(router.services.statistics.items(), _MOST)
        rows = (((group, name), value) for key, value in shown for group, _, name in [key.partition(".")])
        yield untyped("polykemi_statistic", "Kamailio's statistics, by group and name.", ("group", "name"), rows)
