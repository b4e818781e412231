"""A short form of `make reloads`: no caller notices a reload, good or broken. Answers may be late on a machine that has much to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.reload_scripts import BROKEN
from bench.reloads import measure


@pytest.mark.parametrize("engine", BROKEN)
def test_nobody_notices(engine: str, tmp_path: Path) -> None:
    tally, told = measure(engine, 10, registrations=400, calls=15, directory=tmp_path, patient=True)
    noticed = {what for what, n in tally.counts.items() if n} - {"registrations", "calls", "late"}
    assert noticed == set(), tally.faults
    assert (told["taken"], told["refused"]) == (5, 5)
    assert tally.counts["registrations"] > 1000
    assert tally.counts["calls"] > 20
