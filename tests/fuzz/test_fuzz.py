"""The short form of ``make fuzz``: the same targets, the same changes, the same every time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz import seeds, server
from tests.fuzz.mutator import REPEATED, Mutator
from tests.fuzz.targets import OF_LINES, TARGETS, be_quiet
from tests.waiting import cpu_seconds

SIZE = 60_000
SECONDS = 1.0  # ten times what a slow machine needs for SIZE octets, and far below what is quadratic


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """No lines in the log about what is odd."""
    logger = logging.getLogger("polykemi")
    level = logger.level
    be_quiet()
    yield
    logger.setLevel(level)


@pytest.mark.parametrize("name", TARGETS)
@settings(
    max_examples=120,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(octets=st.binary(max_size=300), seed=st.integers(0, 1 << 32))
def test_whatever_comes_is_read_or_refused(name: str, octets: bytes, seed: int) -> None:
    """Never another exception than the declared one; the assertions of the targets hold."""
    target, corpus = TARGETS[name]
    target(octets)
    random = Random(seed)
    mutator = Mutator(random)
    for _ in range(2):
        chosen = random.choice(corpus)
        target(mutator.change(chosen) if name in OF_LINES else mutator.value(chosen))


@pytest.mark.parametrize(
    "name", [name for name in TARGETS if name != "pattern"]
)  # scripts give patterns: they are short
def test_what_is_long_takes_no_longer_than_its_length(name: str) -> None:
    target, corpus = TARGETS[name]
    for what in (*REPEATED, b"\r\n", b"--b1\r\n", b"m=a 1 b c\r\n", b"l", b"$(", b"\xc0\x0c", b"\x01\x80abcd"):
        for data in (
            what * (SIZE // len(what)),
            corpus[0] + what * (SIZE // len(what)),
            b"a" + what * (SIZE // len(what)) + b"b",
        ):
            assert cpu_seconds(partial(target, data)) < SECONDS, (what, data[:40])


def test_the_same_seed_makes_the_same_messages() -> None:
    one, other = (Mutator(Random(5)) for _ in range(2))
    messages = [one.change(data) for data in seeds.MESSAGES]
    assert messages == [other.change(data) for data in seeds.MESSAGES]
    assert len(set(messages) - set(seeds.MESSAGES)) > 60


def test_a_server_lives_on_with_what_is_nearly_valid(tmp_path: Path) -> None:
    run = server.fuzz(tmp_path, seed=1, messages=600)
    assert sum(run.sent.values()) == 600
    assert run.probes == 8
    # it was not all refused at the door: scripts ran, requests went on, transactions failed
    assert {"request", "200", "400", "407"} <= set(run.received), run
    assert {"302", "404", "486", "503"} & set(run.received), run
