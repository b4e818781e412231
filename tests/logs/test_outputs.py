"""Where lines go: nothing ever waits, and what is lost is counted and told."""

from __future__ import annotations

import logging
import os
import pty
import re
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from polykemi.errors import ConfigError
from polykemi.logs import Log, LogSettings
from polykemi.logs.formats import LineFormat
from polykemi.logs.outputs import Datagrams, File, Handler, Output, Stream
from tests.waiting import PATIENCE


def handler(output: Output) -> Handler:
    as_line = LineFormat("{level} ")
    return Handler(output, lambda record: as_line(record).encode() + b"\n")


def say(handler: Handler, text: str) -> None:
    handler.handle(logging.LogRecord("polykemi.x", logging.INFO, "", 0, text, (), None))


@pytest.mark.parametrize("kind", ["pipe", "terminal", "socket"])
def test_a_reader_that_does_not_read_stops_nothing(kind: str) -> None:
    reader, writer = {"pipe": os.pipe, "terminal": pty.openpty, "socket": _socketpair}[kind]()
    os.set_blocking(reader, False)
    one = handler(Stream(writer))
    for n in range(5000):
        say(one, f"{n} {'x' * 1000}")
    assert 0 < one.counters["log.lost_lines"] < 5000
    told, end = "", time.monotonic() + PATIENCE
    while "again" not in told:  # a terminal takes what it has kept behind its reader's back
        assert time.monotonic() < end
        told += _drain(reader).decode()
        say(one, "again")
    told += _drain(reader).decode()
    lost = re.findall(r"WARNING (\d+) lines of the log were lost: Resource temporarily unavailable\r?\n", told)
    assert sum(map(int, lost)) == one.counters["log.lost_lines"]
    os.close(reader)
    os.close(writer)


def _socketpair() -> tuple[int, int]:
    one, other = socket.socketpair()
    return one.detach(), other.detach()


def _drain(fd: int) -> bytes:
    read = b""
    while True:
        try:
            read += os.read(fd, 65536)
        except BlockingIOError:
            return read


def test_a_line_that_was_cut_is_ended_before_the_next(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    one = handler(Stream(writer))
    while not one.counters:
        say(one, "\x1b" * 3000)  # three pages: the last finds room for one
    _drain(reader)
    say(one, "again")
    assert _drain(reader) == b"\nWARNING 1 lines of the log were lost: Resource temporarily unavailable\nINFO again\n"
    os.close(reader)
    os.close(writer)


def test_a_reader_that_is_gone_stops_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    one = handler(Stream(writer))
    say(one, "x")
    os.close(writer)
    say(one, "y")
    assert one.counters == {"log.lost_lines": 2}


def test_a_full_disk_stops_nothing() -> None:
    one = handler(File(Path("/dev/full")))
    say(one, "x")
    assert one.counters == {"log.lost_lines": 1}
    one.close()


@pytest.mark.parametrize("rotate", [lambda path: path.rename(f"{path}.1"), lambda path: path.unlink()])
def test_a_file_that_was_taken_away_is_made_anew(tmp_path: Path, rotate: Callable[[Path], object]) -> None:
    path = tmp_path / "polykemi.log"
    one = handler(File(path))
    say(one, "before")
    rotate(path)
    say(one, "behind")
    assert path.read_text() == "INFO behind\n"
    path.rename(tmp_path / "polykemi.log.2")
    path.touch(0o600)  # logrotate's create
    say(one, "in the new one")
    assert path.read_text() == "INFO in the new one\n"
    one.close()


def test_an_old_file_is_good_until_a_new_one_can_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "polykemi.log"
    one = handler(File(path))
    path.rename(tmp_path / "old.log")
    path.mkdir()  # cannot be opened for writing
    say(one, "before")
    assert (tmp_path / "old.log").read_text() == "INFO before\n"
    path.rmdir()
    say(one, "behind")
    assert path.read_text() == "INFO behind\n"
    assert one.counters == {}
    one.close()


def test_a_directory_that_vanished_stops_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    one = handler(File(directory / "a.log"))
    (directory / "a.log").unlink()
    directory.rmdir()
    say(one, "lost")
    directory.mkdir()
    say(one, "found")
    text = (directory / "a.log").read_text()
    assert text == "WARNING 1 lines of the log were lost: No such file or directory\nINFO found\n"
    one.close()


def test_syslog_that_does_not_run_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    one = handler(Datagrams(str(path)))
    say(one, "lost")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(path))
        say(one, "found")
        assert syslog.recv(4096) == b"WARNING 1 lines of the log were lost: No such file or directory\n"
        assert syslog.recv(4096) == b"INFO found\n"
    one.close()


def test_a_record_that_cannot_be_written_is_lost() -> None:
    reader, writer = os.pipe()
    one = handler(Stream(writer))
    one.handle(logging.LogRecord("polykemi.x", logging.INFO, "", 0, "%d", ("no number",), None))
    say(one, "x")
    assert (
        os.read(reader, 4096)
        == b"WARNING 1 lines of the log were lost: TypeError: %d format: a real number is required, not str\nINFO x\n"
    )
    os.close(reader)
    os.close(writer)


def settings_in(path: Path, **more: object) -> LogSettings:
    return LogSettings(to="file", file=path, **more)  # type: ignore[arg-type]


def test_a_log_is_there_while_it_is_open(tmp_path: Path) -> None:
    logger = logging.getLogger("polykemi.x")
    levels = [logging.getLogger(name).level for name in ("", "polykemi")]
    with Log(settings_in(tmp_path / "a.log", level="notice")):
        logger.warning("inside")
        logger.info("too low")
        print("a script that is loaded")  # noqa: T201
    logger.warning("outside")
    assert [logging.getLogger(name).level for name in ("", "polykemi")] == levels
    lines = (tmp_path / "a.log").read_text().splitlines()
    assert [line[24:] for line in lines] == ["WARNING polykemi.x: inside"]


def test_loggers_of_a_script_come_here_too(tmp_path: Path) -> None:
    logger = logging.getLogger("a_script_of_mine")
    with Log(settings_in(tmp_path / "a.log", level="debug")):
        logger.info("said")
        logger.debug("too low")
    assert (tmp_path / "a.log").read_text()[24:] == "INFO a_script_of_mine: said\n"


def test_what_scripts_print_is_in_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Log(settings_in(tmp_path / "a.log")):
        print("one", 2, end="\nhalf ")  # noqa: T201
        print("and grüße\n\x1b")  # noqa: T201
    with Log(settings_in(tmp_path / "b.log")):
        sys.stdout.buffer.write(b"below ")
        sys.stdout.flush()
    print("outside")  # noqa: T201
    lines = (tmp_path / "a.log").read_text().splitlines()
    assert [line[24:] for line in lines] == [
        f"INFO polykemi.script: {text}" for text in ("one 2", "half and grüße", "\\x1b")
    ]
    assert capsys.readouterr().out == "below outside\n"


def test_the_journal_behind_standard_error_is_told_the_level(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    found = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    with Log(LogSettings(), scripts=False):
        logging.getLogger("polykemi.x").error("hello")
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    with Log(LogSettings(), scripts=False):
        logging.getLogger("polykemi.x").error("hello")
    first, second = capfd.readouterr().err.splitlines()
    assert (first, second[24:]) == ("<3>polykemi.x: hello", "ERROR polykemi.x: hello")


def test_syslog_is_given_facility_and_severity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "log")
    monkeypatch.setattr("polykemi.logs.SYSLOG", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(path)
        with Log(LogSettings(to="syslog", facility="local3")):
            logging.getLogger("polykemi.x").warning("hello")
        with Log(LogSettings(to="syslog", format="json")):
            logging.getLogger("polykemi.x").error("hello")
        assert syslog.recv(4096).startswith(b"<156>")
        assert b': @cee: {"time": "' in (second := syslog.recv(4096))
        assert second.startswith(b"<27>")
        assert f" polykemi[{os.getpid()}]: ".encode() in second


@pytest.mark.parametrize(("to", "place"), [("syslog", "SYSLOG"), ("journal", "JOURNAL")])
def test_a_log_that_goes_nowhere_does_not_begin(
    to: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"polykemi.logs.{place}", str(tmp_path / "socket"))
    with pytest.raises(ConfigError, match=rf"^\[log\] to: no {to} runs here, .*/socket is not there$"):
        Log(LogSettings(to=to))


def test_a_file_that_cannot_be_opened_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"/none/a.log: cannot write the log there: No such file or directory"):
        Log(settings_in(tmp_path / "none" / "a.log"))
