"""statistics, uuid, jansson, log_systemd: what the cases of the conformance suite cannot show."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from uuid import UUID

import pytest

from polykemi.logs.formats import journal_entry
from polykemi.logs.outputs import Datagrams, Handler
from polykemi.modules.jansson import Jansson
from polykemi.modules.statistics import Statistics, StatisticsParams
from polykemi.modules.uuid import Uuid
from tests.support import NOW, message, request_context, services

OPTIONS = message("OPTIONS sip:example.test SIP/2.0")


def test_counters_of_modules_are_found_by_their_name() -> None:
    made = services(Statistics, params={"statistics": {"variable": ("mine", "kept/no_reset")}})
    module, ctx = made.modules["statistics"], request_context(OPTIONS)
    made.counters["core.rcv_requests"] = 5
    assert module.update_stat(ctx, "rcv_requests", 2) == 1
    assert made.counters["core.rcv_requests"] == 7
    assert (module.reset_stat(ctx, "rcv_requests"), made.counters["core.rcv_requests"]) == (1, 0)


def test_commands_reset_counters() -> None:
    made = services(Statistics, params={"statistics": {"variable": ("mine", "kept/no_reset")}})
    module, ctx = made.modules["statistics"], request_context(OPTIONS)
    assert [module.update_stat(ctx, name, 4) for name in ("mine", "kept")] == [1, 1]
    assert module.clear_statistics("script:") == ["script:kept = 4", "script:mine = 0 (4)"]
    assert module.update_stat(ctx, "mine", 3) == 1
    module.reset_statistics("all")
    assert made.counters == {"script.mine": 0, "script.kept": 4}


@pytest.mark.parametrize("variable", [("",), ("a/b",), ("a", "a/no_reset")])
def test_counters_are_named_rightly(variable: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="variable"):
        StatisticsParams(variable)


def test_uuids_of_the_time_follow_one_another() -> None:
    module = services(Uuid).modules["uuid"]
    made = [UUID(str(module.tget(request_context(OPTIONS, now=now)))) for now in (NOW, NOW, NOW - 5, NOW + 1)]
    assert {one.version for one in made} == {1}
    assert [one.time for one in made] == sorted({one.time for one in made})
    assert (made[0].time - 0x01B21DD213814000) / 1e7 == NOW
    assert UUID(str(module.get(request_context(OPTIONS)))).version == 4


def test_json_that_nests_deep_is_refused() -> None:
    module, ctx = services(Jansson).modules["jansson"], request_context(OPTIONS)
    for text in ("[" * 100000, "[" * 5000 + "]" * 5000, '{"a":' * 30000 + "1" + "}" * 30000):
        assert module.get(ctx, "[0]", text, "$var(x)") == -1
    assert module.get(ctx, "a", '{"a": ' + "[" * 50 + "]" * 50 + "}", "$var(x)") == 1
    assert module.get(ctx, "a", '{"a": "\xe9"}', "$var(x)") == -1  # no UTF-8
    assert module.get(ctx, "a", '{"a": 1}', "$nothing") == -1


def test_the_journal_gets_fields(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(path)
        handler = Handler(Datagrams(path), lambda record: journal_entry(record, None))
        record = logging.LogRecord("x", logging.INFO, "", 0, "text", (), None)
        record.__dict__["journal"] = {"MESSAGE": "one", "CODE": "two\nlines", "A=B\n": "c"}
        handler.emit(record)
        handler.close()
        expected = b"SYSLOG_IDENTIFIER=polykemi\nMESSAGE=one\nCODE\n\x09\0\0\0\0\0\0\0two\nlines\nA_B_=c\n"
        assert journal.recv(65536) == expected
