"""What the servers tell about themselves, the database they share, and the options."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from bench import kamailio_server, polykemi_server
from bench.__main__ import chosen_subjects, parse
from bench.maximum import highest_rate
from bench.servers import CALLEES, ROOT, USERS, RouteTime, Subject, copy_database, make_database
from polykemi.storage.provisioned import Database


def test_kamailios_log_tells_the_time_in_the_request_route() -> None:
    log = (
        "NOTICE: {1 1 REGISTER a} <core> [x]: request-route executed in: 30 usec\n"
        "NOTICE: {1 1 REGISTER a} <core> [x]: reply-route executed in: 900 usec\n"
        "NOTICE: {1 2 REGISTER a} <core> [x]: request-route executed in: 50 usec\n"
    )
    assert kamailio_server.route_time(log) == (2, 80)
    assert kamailio_server.route_time(log).since(RouteTime(1, 30)).average == 50
    assert RouteTime(0, 0).average == 0


def test_polykemis_answer_tells_the_time_in_the_request_route() -> None:
    blocks = [
        {"kind": "request_route", "block": "ksr_request_route", "engine": "lua", "cnt": 10, "sum_us": 300.0},
        {"kind": "reply_route", "block": "ksr_reply_route", "engine": "lua", "cnt": 5, "sum_us": 100.0},
        {"kind": "request_route", "block": "ksr_request_route", "engine": "js", "cnt": 10, "sum_us": 500.5},
    ]
    assert polykemi_server.request_route_time(blocks) == (20, 800.5)
    assert polykemi_server.request_route_time([]) == (0, 0)


def test_the_form_is_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "anything")
    assert polykemi_server.environment("")["PYTHONPATH"] == "anything"
    assert polykemi_server.environment("pure")["PYTHONPATH"] == str(ROOT)
    assert polykemi_server.environment("compiled")["PYTHONPATH"] == str(ROOT / "build" / "compiled")


def test_both_servers_find_their_tables_in_one_database(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    path = copy_database(make_database(tmp_path), tmp_path / "copy")
    with Database.at(path.parent) as database:
        assert database.credentials("subscriber", "password", "u00007") == "pw-00007"
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM passwords").fetchone() == (USERS + CALLEES,)
    assert connection.execute("SELECT key_value FROM passwords WHERE key_name = 'u10001'").fetchone() == ("pw-10001",)
    assert dict(connection.execute("SELECT * FROM version"))["location"] == 9
    connection.close()


def test_without_kamailio_polykemi_is_measured_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kamailio_server, "modules_directory", lambda: None)
    subjects, skipped = chosen_subjects(["lua"], ["pure"], peer=True)
    assert subjects == [Subject("polykemi", "lua", "pure")]
    assert skipped == [
        "kamailio lua: Kamailio is not installed (Debian: kamailio)",
        "kamailio native: Kamailio is not installed (Debian: kamailio)",
    ]


def test_an_engine_whose_module_is_missing_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in ("db_sqlite.so", "app_lua.so"):
        (tmp_path / module).touch()
    monkeypatch.setattr(kamailio_server, "modules_directory", lambda: tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: name)
    subjects, skipped = chosen_subjects(["lua", "js"], ["pure"], peer=True)
    assert [str(s) for s in subjects] == [
        "polykemi lua (pure)",
        "kamailio lua",
        "polykemi js (pure)",
        "kamailio native",
    ]
    assert skipped == ["kamailio js: Kamailio's app_jsdt.so is not installed (Debian: kamailio-extra-modules)"]


@pytest.mark.parametrize(
    "arguments", [["--engines", "lua,perl"], ["--tests", ""], ["--rounds", "0"], ["--rate", "-1"], ["--n", "x"]]
)
def test_a_wrong_option_ends_with_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    assert "bench: error: " in capsys.readouterr().err


def test_options_are_lists_of_names() -> None:
    options = parse(["--engines", "lua,js", "--tests", "call", "--forms", "pure,compiled", "--no-peer", "--quick"])
    assert (options.engines, options.tests, options.forms) == (["lua", "js"], ["call"], ["pure", "compiled"])
    assert (options.peer, options.rounds) == (False, 1)


@pytest.mark.parametrize("limit", [100, 3999, 4000, 11_111])
def test_the_highest_rate_is_found_to_5_percent(limit: float) -> None:
    assert limit / 1.06 <= highest_rate(4000, lambda rate: rate <= limit) <= limit


def test_a_rate_that_fails_once_may_be_noise() -> None:
    tried: list[float] = []

    def keeps(rate: float) -> bool:
        tried.append(rate)
        return rate <= 6000 and tried.count(rate) == 2

    assert 6000 / 1.06 <= highest_rate(4000, keeps) <= 6000


def test_a_server_that_keeps_nothing_has_no_highest_rate() -> None:
    assert highest_rate(4000, lambda rate: False) == 0
