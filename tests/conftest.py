"""What all tests share: hypothesis draws the same every time; some cannot run on the compiled form (``make testcompiled``)."""

from __future__ import annotations

import gc

import pytest
from hypothesis import HealthCheck, settings

import polykemi

# what fails here fails everywhere, and how long an example takes is the machine's business
settings.register_profile(
    "same", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``pure`` with the compiled form."""
    if polykemi.compiled:
        skip = pytest.mark.skip(reason="compiled modules take no substitutes")
        for item in items:
            if item.get_closest_marker("pure"):
                item.add_marker(skip)


def pytest_collection_finish() -> None:
    """Spare the collector what is there before the first test: some measure CPU time, and it would take as long as they allow."""
    gc.collect()
    gc.freeze()
