"""What a process takes and gives back: the data directory, the PID file. Privileges are in tests/e2e/test_life.py."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from polykemi.errors import DataError, UsageError
from polykemi.process import DataLock, PidFile, drop_privileges, locked

HOLDER = """
import sys
from pathlib import Path
from polykemi import process
taken = getattr(process, sys.argv[1])(Path(sys.argv[2]))
print("taken", flush=True)
sys.stdin.read()
"""


def holder(kind: str, path: Path) -> subprocess.Popen[str]:
    """Let another process take it, until it is killed."""
    command = [sys.executable, "-c", HOLDER, kind, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "taken\n"
    return process


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_data_directory_has_one_server_and_the_next_when_that_was_killed(tmp_path: Path) -> None:
    data = tmp_path / "new" / "data"
    other = holder("DataLock", data)
    try:
        with pytest.raises(DataError) as refused:
            DataLock(data)
        assert str(refused.value) == f"{data}: a server that runs already (process {other.pid}) has this data directory"
    finally:
        killed(other)
    with closing(DataLock(data)):
        assert (data / "lock").read_text() == f"{os.getpid()}\n"


def test_a_data_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file/data: Not a directory"):
        DataLock(tmp_path / "file" / "data")


def test_a_pid_file_is_there_as_long_as_its_process(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    with closing(PidFile(path)):
        assert path.read_text() == f"{os.getpid()}\n"
        assert [one.name for one in tmp_path.iterdir()] == ["x.pid"]
        assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == []


def test_that_of_a_living_server_is_kept_and_that_of_a_killed_one_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    other = holder("PidFile", path)
    try:
        with pytest.raises(UsageError) as refused:
            PidFile(path)
        expected = f"[service] pid_file: {path}: a server that runs already (process {other.pid}) has this file"
        assert str(refused.value) == expected
        assert path.read_text() == f"{other.pid}\n"
    finally:
        killed(other)
    assert path.exists()
    with closing(PidFile(path)):
        assert path.read_text() == f"{os.getpid()}\n"


def test_who_holds_the_directorys_lock_does_not_hold_up_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may read a directory can lock it, /run among them."""
    monkeypatch.setattr("polykemi.process.PATIENCE", 0.0)
    with (
        locked(tmp_path),
        pytest.raises(UsageError, match=f"pid_file: {tmp_path}/x.pid: another process holds a lock of {tmp_path}"),
    ):
        PidFile(tmp_path / "x.pid")
    PidFile(tmp_path / "x.pid").close()


def test_a_half_written_one_is_no_obstacle_and_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / ".x.pid.new").write_text("12")
    with closing(PidFile(tmp_path / "x.pid")):
        assert [one.name for one in tmp_path.iterdir()] == ["x.pid"]


@pytest.mark.parametrize("text", ["", "12", "99999999\n", f"{os.getpid()}\n"], ids=["empty", "gone", "never", "own"])
def test_what_a_crash_has_left_is_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.pid"
    path.write_text(text)
    with closing(PidFile(path)):
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_file_that_is_no_pid_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "polykemi.toml"
    path.write_text("[engines]\n")
    with pytest.raises(UsageError, match="there is a file that is no PID file"):
        PidFile(path)
    assert path.read_text() == "[engines]\n"
    with pytest.raises(UsageError, match=r"none/x\.pid: No such file or directory"):
        PidFile(tmp_path / "none" / "x.pid")


def test_without_a_user_nothing_changes(tmp_path: Path) -> None:
    before = os.getresuid()
    drop_privileges("", "", tmp_path / "data")
    assert os.getresuid() == before
    assert not (tmp_path / "data").exists()
