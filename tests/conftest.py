"""What all tests share: some cannot run on the compiled form (``make testcompiled``)."""

from __future__ import annotations

import pytest

import polykemi


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``pure`` with the compiled form."""
    if polykemi.compiled:
        skip = pytest.mark.skip(reason="compiled modules take no substitutes")
        for item in items:
            if item.get_closest_marker("pure"):
                item.add_marker(skip)
