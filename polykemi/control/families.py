"""How metrics are written: short ways to make the families of Prometheus's client library, and labels that cannot break them."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    UntypedMetricFamily,
)

from polykemi.kemi.histogram import Histogram

Rows = Iterable[tuple[tuple[str, ...], float]]  # values of the labels, and the metric's


def counter(name: str, text: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    """Return a counter; ``_total`` is put behind its name."""
    return _filled(CounterMetricFamily(name, text, labels=labels), rows)


def gauge(name: str, text: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    """Return a gauge."""
    return _filled(GaugeMetricFamily(name, text, labels=labels), rows)


def untyped(name: str, text: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    """Return what may be either."""
    return _filled(UntypedMetricFamily(name, text, labels=labels), rows)


def histogram(
    name: str, text: str, labels: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], Histogram]]
) -> Metric:
    """Return a histogram of seconds."""
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, one in rows:
        buckets = [("+Inf" if bound == float("inf") else str(bound), float(total)) for bound, total in one.up_to()]
        family.add_metric([label(value) for value in values], buckets, one.sum)
    return family


def _filled(
    family: CounterMetricFamily | GaugeMetricFamily | UntypedMetricFamily, rows: Rows
) -> CounterMetricFamily | GaugeMetricFamily | UntypedMetricFamily:
    for values, value in rows:
        family.add_metric([label(one) for one in values], value)
    return family


def label(octets: str) -> str:
    """Return text as Unicode that can be written, whatever a script has put into it."""
    return octets.encode("latin-1").decode("utf-8", "backslashreplace")
