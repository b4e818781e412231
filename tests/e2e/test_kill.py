"""What was confirmed survives ``kill -9`` at any moment; the long form is ``make kills``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.kills import run


@pytest.mark.parametrize("seed", [1])
def test_nothing_that_was_confirmed_is_lost_by_kill_9(tmp_path: Path, seed: int) -> None:
    assert run(tmp_path, 5, seed) > 100
