"""Both location stores keep the same promises; LMDB's survive the process."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polykemi.errors import DataError
from polykemi.storage import lmdb_file
from polykemi.storage.lmdb_location import LmdbLocation
from polykemi.storage.location import MAX_AOR, Binding, LocationStore, MemoryLocation, decode, encode

NOW = 1_700_000_000.0


def binding(uri: str = "sip:alice@192.0.2.1", expires: float = NOW + 3600, **more: object) -> Binding:
    return Binding(uri, expires, **more)  # type: ignore[arg-type]


@pytest.fixture(params=["memory", "lmdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocationStore]:
    made: LocationStore = MemoryLocation() if request.param == "memory" else LmdbLocation(tmp_path / "location")
    yield made
    made.close()


@pytest.fixture(params=["mapped", "not mapped"])
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """LMDB writes through its map or with system calls; which one is otherwise up to the file system of the tests."""
    monkeypatch.setattr(lmdb_file, "_writes_in_place", lambda _: request.param == "mapped")
    return str(request.param)


@pytest.fixture
def disk(mode: str, tmp_path: Path) -> Iterator[LmdbLocation]:
    made = LmdbLocation(tmp_path / "location")
    yield made
    made.close()


def test_an_unknown_aor_has_no_bindings(store: LocationStore) -> None:
    assert store.get("location", "nobody") == []
    assert store.get("location", "") == []
    assert store.get("location", "x" * 5000) == []


def test_bindings_are_counted_piece_by_piece(store: LocationStore) -> None:
    assert sum(store.sizes("location")) == 0
    for n in range(2500):
        more = {"ruid": "r" * (n % 300), "path": "\0\xff"}
        store.put("location", f"u{n}", [binding(**more) for _ in range(1 + n % 3)])  # type: ignore[arg-type]
    store.commit()
    pieces = list(store.sizes("location"))
    assert sum(pieces) == sum(1 + n % 3 for n in range(2500))
    assert len(pieces) > 2


def test_every_field_of_every_binding_comes_back(store: LocationStore) -> None:
    one = Binding(
        "sip:alice@[2001:db8::1];transport=udp", NOW + 0.25, 700, "call@1", (1 << 32) - 1, "Phone \xc3\xa9\xff", "sip:198.51.100.7:1024",
        "<sip:edge;lr>,<sip:core;lr>", "udp:127.0.0.1:5060", 0x7, 3, 1 << 31, "<urn:uuid:1>", 2, "ruid-1", NOW,
    )  # fmt: skip
    two = binding("sip:alice@192.0.2.2", 0)
    store.put("location", "alice", [one, two])
    assert store.get("location", "alice") == [one, two]  # staged
    store.commit()
    assert store.get("location", "alice") == [one, two]
    assert list(store.items("location")) == [("alice", [one, two])]


def test_what_get_returns_belongs_to_the_caller(store: LocationStore) -> None:
    mine = binding()
    store.put("location", "alice", [mine])
    mine.uri = "sip:changed@192.0.2.9"
    store.get("location", "alice")[0].uri = "sip:changed@192.0.2.9"
    assert store.get("location", "alice")[0].uri == "sip:alice@192.0.2.1"


def test_an_empty_list_removes_the_aor(store: LocationStore) -> None:
    store.put("location", "alice", [binding()])
    store.commit()
    store.put("location", "alice", [])
    assert store.get("location", "alice") == []
    store.commit()
    assert store.get("location", "alice") == []
    assert list(store.items("location")) == []
    assert store.next_expiry("location") is None


def test_tables_do_not_see_each_other(store: LocationStore) -> None:
    store.put("location", "alice", [binding()])
    store.commit()
    assert store.get("other", "alice") == []


def test_an_aor_that_cannot_be_a_key_is_refused(store: LocationStore) -> None:
    for aor in ("", "x" * (MAX_AOR + 1)):
        with pytest.raises(DataError):
            store.put("location", aor, [binding()])
    store.put("location", "x" * MAX_AOR, [binding()])
    store.commit()
    assert store.get("location", "x" * MAX_AOR) == [binding()]


def test_nul_octets_are_left_out_and_harm_nothing(store: LocationStore) -> None:
    store.put("location", "alice", [binding(user_agent="a\0b\0"), binding("sip:b@192.0.2.3")])
    assert [b.user_agent for b in store.get("location", "alice")] == ["ab", ""]


def test_expired_names_the_earliest_first_and_no_more_than_asked_for(store: LocationStore) -> None:
    for n, name in enumerate(("carol", "alice", "bob")):
        store.put("location", name, [binding(expires=NOW + n), binding("sip:later@192.0.2.2", NOW + 999)])
    store.put("location", "dave", [binding(expires=0)])
    for _ in range(2):  # staged, then committed
        assert store.expired("location", NOW - 0.5, 10) == []
        assert store.expired("location", NOW, 10) == ["carol"]
        assert store.expired("location", NOW + 10, 10) == ["carol", "alice", "bob"]
        assert store.expired("location", NOW + 10, 2) == ["carol", "alice"]
        assert store.next_expiry("location") == NOW
        store.commit()


def test_a_refreshed_binding_does_not_expire_at_its_old_time(store: LocationStore) -> None:
    store.put("location", "alice", [binding(expires=NOW + 10)])
    store.commit()
    store.put("location", "alice", [binding(expires=NOW + 100)])
    store.commit()
    assert store.expired("location", NOW + 50, 10) == []
    store.commit()
    assert store.next_expiry("location") == NOW + 100
    assert store.expired("location", NOW + 100, 10) == ["alice"]


def test_a_binding_that_expires_earlier_than_before_is_found_in_time(store: LocationStore) -> None:
    for expires in (NOW + 1000, NOW + 10):
        store.put("location", "alice", [binding(expires=expires)])
        store.commit()
    assert store.expired("location", NOW + 10, 10) == ["alice"]
    store.put("location", "alice", [])
    store.commit()
    assert store.expired("location", NOW + 5000, 10) == []


texts = st.text(st.characters(min_codepoint=1, max_codepoint=255, exclude_characters="\r\n"), max_size=40)
bindings = st.builds(
    Binding,
    texts,
    st.floats(0, 1e11),
    st.integers(-1, 1000),
    texts,
    st.integers(0, (1 << 32) - 1),
    texts,
    texts,
    texts,
    texts,
    st.integers(0, (1 << 32) - 1),
    instance=texts,
    reg_id=st.integers(0, (1 << 32) - 1),
    ruid=texts,
)


@given(st.lists(bindings, max_size=4))
def test_encoding_loses_nothing(many: list[Binding]) -> None:
    assert decode(encode(many)) == many


@given(st.binary(max_size=200))
def test_octets_that_are_no_record_are_a_data_error_or_bindings(data: bytes) -> None:
    try:
        assert isinstance(decode(data), list)
    except DataError:
        pass


# ---- on disk
def test_bindings_are_there_after_a_restart(tmp_path: Path) -> None:
    first = LmdbLocation(tmp_path / "location")
    first.put("location", "alice", [binding()])
    first.close()
    second = LmdbLocation(tmp_path / "location")
    assert second.get("location", "alice") == [binding()]
    assert second.expired("location", NOW + 3600, 1) == ["alice"]
    second.close()


CHILD = """
import sys
from polykemi.storage import lmdb_file
from polykemi.storage.lmdb_location import LmdbLocation
from polykemi.storage.location import Binding
store = LmdbLocation(sys.argv[1])
for n in range(100):
    store.put("location", f"u{n}", [Binding(f"sip:u{n}@192.0.2.1", 1e10)])
store.commit()
store.put("location", "staged", [Binding("sip:staged@192.0.2.1", 1e10)])
print("committed", flush=True)
sys.stdin.read()
"""


def test_what_was_committed_survives_sigkill_and_what_was_staged_does_not(tmp_path: Path) -> None:
    path = tmp_path / "location"
    command = [sys.executable, "-c", CHILD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "committed\n"
        os.kill(child.pid, signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    store = LmdbLocation(path)
    assert [store.get("location", f"u{n}")[0].uri for n in range(100)] == [f"sip:u{n}@192.0.2.1" for n in range(100)]
    assert store.get("location", "staged") == []
    store.close()


def test_what_one_thread_has_read_and_staged_another_may_commit(disk: LmdbLocation) -> None:
    disk.put("location", "alice", [binding()])
    disk.commit()

    def in_a_thread(action: Callable[[], None]) -> None:
        thread = threading.Thread(target=action)
        thread.start()
        thread.join()

    def change() -> None:
        disk.put("location", "bob", disk.get("location", "alice"))

    in_a_thread(change)
    assert disk.get("location", "alice") == [binding()]
    in_a_thread(disk.commit)
    assert disk.get("location", "bob") == [binding()]


def test_two_processes_see_what_the_other_has_committed(disk: LmdbLocation) -> None:
    assert disk.get("location", "u1") == []
    command = [sys.executable, "-c", CHILD, str(disk.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "committed\n"
        assert disk.get("location", "u1") == []  # the snapshot of before
        disk.commit()
        assert disk.get("location", "u1") == [Binding("sip:u1@192.0.2.1", 1e10)]
        child.kill()


def test_the_map_grows_when_it_is_full(mode: str, tmp_path: Path) -> None:
    store = LmdbLocation(tmp_path / "location", map_size=1 << 17)
    for n in range(2000):
        store.put("location", f"u{n}", [binding(user_agent="x" * 300)])
        if n % 100 == 0:
            assert store.get("location", "u0") == [binding(user_agent="x" * 300)]
    store.commit()
    assert sum(1 for _ in store.items("location")) == 2000
    assert store.get("location", "u1999") == [binding(user_agent="x" * 300)]
    store.close()
    again = LmdbLocation(tmp_path / "location", map_size=1 << 17)  # smaller than the file is now
    assert again.get("location", "u1999") == [binding(user_agent="x" * 300)]
    again.close()


GROW = """
import sys
from polykemi.storage import lmdb_file
from polykemi.storage.lmdb_location import LmdbLocation
from polykemi.storage.location import Binding
lmdb_file._writes_in_place = lambda _: sys.argv[2] == "mapped"
lmdb_file.MIN_STEP = 1 << 17
store = LmdbLocation(sys.argv[1], map_size=1 << 17)
for n in range(int(sys.argv[3]), int(sys.argv[3]) + 2000):
    store.put("location", f"u{n}", [Binding("sip:a@192.0.2.1", 1e10, user_agent="x" * 300)])
    if n % 10 == 0:
        store.commit()
store.close()
"""


def test_a_map_that_another_process_has_grown_is_followed(mode: str, tmp_path: Path) -> None:
    store = LmdbLocation(tmp_path / "location", map_size=1 << 17)
    store.put("location", "alice", [binding()])
    store.commit()
    for start, write_first in ((0, False), (2000, True)):
        assert store.get("location", "alice") == [binding()]
        subprocess.run([sys.executable, "-c", GROW, str(store.path), mode, str(start)], check=True)
        if write_first:
            store.put("location", "bob", [binding()])
        else:
            assert store.expired("location", NOW + 3600, 5) == ["alice"]
        store.commit()
        assert store.get("location", f"u{start + 1999}")[0].user_agent == "x" * 300
    assert store.get("location", "bob") == [binding()]
    store.close()


def test_processes_that_grow_the_map_at_the_same_time_do_no_harm(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "location"
    command = [sys.executable, "-c", GROW, str(path), mode]
    children = [subprocess.Popen([*command, str(start)]) for start in (0, 2000, 4000)]
    assert [child.wait() for child in children] == [0, 0, 0]
    store = LmdbLocation(path)
    assert sum(1 for _ in store.items("location")) == 6000
    store.close()


def test_a_full_disk_is_an_error_that_loses_nothing(mode: str, tmp_path: Path) -> None:
    store = LmdbLocation(tmp_path / "location", map_size=1 << 17)
    store.put("location", "alice", [binding()])
    store.commit()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, hard))  # files of this process; the signal is ignored by Python
    try:
        for n in range(2000):
            store.put("location", f"u{n}", [binding(user_agent="x" * 300)])
        for _ in range(2):
            with pytest.raises(DataError, match=f"^{store.path}"):
                store.commit()
        assert store.get("location", "alice") == [binding()]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    store.commit()
    assert store.get("location", "u1999") == [binding(user_agent="x" * 300)]
    store.close()


@pytest.fixture
def in_place(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        if not lmdb_file._writes_in_place(file.fileno()):
            pytest.skip("the tests' file system is not known to write in place")


def has_holes(file: Path) -> bool:
    return file.stat().st_blocks * 512 < file.stat().st_size


@pytest.mark.usefixtures("in_place")
def test_a_file_that_is_written_through_the_map_has_no_holes(tmp_path: Path) -> None:
    store = LmdbLocation(tmp_path / "location", map_size=1 << 17)
    file = tmp_path / "location" / "data.mdb"
    assert not has_holes(file)
    for n in range(500):
        store.put("location", f"u{n}", [binding(user_agent="x" * 300)])
    store.commit()
    assert file.stat().st_size > 1 << 17
    assert not has_holes(file)
    store.close()


@pytest.mark.usefixtures("in_place")
def test_holes_that_a_copy_has_are_filled(tmp_path: Path) -> None:
    path = tmp_path / "location"
    store = LmdbLocation(path)
    store.put("location", "alice", [binding()])
    store.close()
    file = path / "data.mdb"
    octets = file.read_bytes()
    used = octets.rstrip(b"\0")
    file.write_bytes(used)
    os.truncate(file, len(octets))
    assert has_holes(file)
    again = LmdbLocation(path)
    assert again.get("location", "alice") == [binding()]
    assert not has_holes(file)
    again.close()


def test_other_file_systems_are_not_taken_for_one_that_writes_in_place() -> None:
    with Path("/proc/self/status").open() as file:
        assert not lmdb_file._writes_in_place(file.fileno())


def test_items_are_given_while_others_are_written(disk: LmdbLocation) -> None:
    for n in range(600):
        disk.put("location", f"u{n:03d}", [binding()])
    disk.commit()
    seen = 0
    for aor, _ in disk.items("location"):
        disk.put("location", aor, [])
        disk.commit()
        seen += 1
    assert seen == 600
    assert list(disk.items("location")) == []


def test_looking_for_expired_bindings_is_bounded(disk: LmdbLocation) -> None:
    for expires in (NOW, NOW + 1000):
        for n in range(50):
            disk.put("location", f"u{n}", [binding(expires=expires)])
        disk.commit()
    rounds = 0
    while (disk.next_expiry("location") or 0) <= NOW:
        assert disk.expired("location", NOW, 2) == []
        disk.commit()
        rounds += 1
    assert 1 < rounds <= 7  # eight early entries moved in each
    assert disk.expired("location", NOW + 1000, 100) != []


def test_a_foreign_or_damaged_file_is_an_error_that_names_the_path(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage"
    garbage.mkdir()
    (garbage / "data.mdb").write_bytes(b"no database at all" * 1000)
    foreign = tmp_path / "foreign"
    with lmdb.open(str(foreign)) as env, env.begin(write=True) as txn:
        txn.put(b"key", b"value")
    cut = tmp_path / "cut"
    store = LmdbLocation(cut)
    for n in range(500):
        store.put("location", f"u{n}", [binding()])
    store.close()
    with (cut / "data.mdb").open("r+b") as file:
        file.truncate(3 * 4096)
    a_file = tmp_path / "file"
    a_file.write_text("")
    for path in (garbage, foreign, cut, cut, a_file):
        with pytest.raises(DataError, match=str(path)):
            LmdbLocation(path)


def test_a_damaged_record_is_an_error_that_names_path_and_aor(disk: LmdbLocation) -> None:
    disk.put("location", "alice", [binding()])
    disk.commit()
    path = disk.path
    disk.close()
    with lmdb.open(str(path), max_dbs=8) as env, env.begin(write=True) as txn:
        txn.put(b"alice", b"12345678damaged", db=env.open_db(b"location", txn))
    store = LmdbLocation(path)
    with pytest.raises(DataError, match=rf"{path}: alice"):
        store.get("location", "alice")
    store.close()
