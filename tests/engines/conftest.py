"""JavaScript engines for the tests of their life, in both ways of living with an event loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.js_bench import Bench, benches


@pytest.fixture
def hosted(tmp_path: Path) -> Iterator[Bench]:
    """An engine that is called from the event loop."""
    yield from benches("hosted", tmp_path)


@pytest.fixture
def resident(tmp_path: Path) -> Iterator[Bench]:
    """An engine that hosts the event loop."""
    yield from benches("resident", tmp_path)
