"""Contacts in LMDB and subscribers in SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, cycle
from pathlib import Path
from typing import Any

import pytest

from bench.node import NOW
from polykemi.storage.lmdb_location import LmdbLocation
from polykemi.storage.location import Binding
from polykemi.storage.provisioned import Database

TABLE, AORS, BATCH = "location", 10_000, 32


def binding(i: int) -> Binding:
    return Binding(
        uri=f"sip:u{i:05}@192.0.2.10:5060",
        expires=NOW + 3600,
        call_id=f"{i}-4711@192.0.2.10",
        cseq=2,
        user_agent="bench",
        listener="udp:192.0.2.1:5060",
        ruid=f"{i:024x}",
        modified=NOW,
    )


@pytest.fixture
def location(tmp_path: Path) -> Iterator[LmdbLocation]:
    """AORS contacts, as many as the users of `make bench`."""
    store = LmdbLocation(tmp_path / "location")
    for i in range(AORS):
        store.put(TABLE, f"u{i:05}", [binding(i)])
    store.commit()
    yield store
    store.close()


def test_lmdb_get(benchmark: Any, location: LmdbLocation) -> None:
    """Read an AoR and decode its contact."""
    aors = cycle([f"u{i:05}" for i in range(AORS)])
    assert len(benchmark(lambda: location.get(TABLE, next(aors)))) == 1


def test_lmdb_get_of_nobody(benchmark: Any, location: LmdbLocation) -> None:
    assert benchmark(location.get, TABLE, "nobody") == []


def test_lmdb_refresh_and_commit(benchmark: Any, location: LmdbLocation) -> None:
    """One contact in one transaction, as when a pass over the socket found one REGISTER."""
    numbers = cycle(range(AORS))

    def refresh() -> None:
        i = next(numbers)
        location.put(TABLE, f"u{i:05}", [binding(i)])
        location.commit()

    benchmark(refresh)


def test_lmdb_refresh_32_and_commit(benchmark: Any, location: LmdbLocation) -> None:
    """32 contacts in one transaction."""
    numbers = cycle(range(AORS))

    def refresh() -> None:
        for _ in range(BATCH):
            i = next(numbers)
            location.put(TABLE, f"u{i:05}", [binding(i)])
        location.commit()

    benchmark(refresh)


def test_lmdb_new_and_commit(benchmark: Any, location: LmdbLocation) -> None:
    """A contact of an AoR that was not there: an index entry too."""
    numbers = count(AORS)

    def add() -> None:
        i = next(numbers)
        location.put(TABLE, f"u{i:05}", [binding(i)])
        location.commit()

    benchmark(add)


def test_subscriber_look_up(benchmark: Any, tmp_path: Path) -> None:
    """The password of one of 10,000 subscribers, with the read transaction renewed as the server does it."""
    rows = tmp_path / "subscribers.csv"
    rows.write_text("".join(f"u{i:05},bench.test,pw-{i:05}\n" for i in range(AORS)))
    names, times = cycle([f"u{i:05}" for i in range(AORS)]), count(NOW, 0.000_25)
    with Database.at(tmp_path) as database:
        database.import_csv(rows)

        def look_up() -> str | None:
            database.refresh(next(times))
            return database.credentials("subscriber", "password", next(names))

        assert str(benchmark(look_up)).startswith("pw-")
