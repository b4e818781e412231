"""KSR.xlog: lines with variables in them."""

from __future__ import annotations

import logging

import pytest

from polykemi.modules.xlog import Xlog
from tests.support import message, request_context, services

CTX = request_context(message("INVITE sip:bob@example.test SIP/2.0"))


@pytest.fixture
def xlog(caplog: pytest.LogCaptureFixture) -> Xlog:
    caplog.set_level(logging.DEBUG, "polykemi.script")
    module = services(Xlog).modules["xlog"]
    assert isinstance(module, Xlog)
    return module


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("xdbg", logging.DEBUG),
        ("xinfo", logging.INFO),
        ("xnotice", 25),
        ("xwarn", logging.WARNING),
        ("xerr", logging.ERROR),
        ("xcrit", logging.CRITICAL),
        ("xalert", logging.CRITICAL),
    ],
)
def test_variables_are_expanded_at_each_level(
    xlog: Xlog, caplog: pytest.LogCaptureFixture, name: str, level: int
) -> None:
    assert getattr(xlog, name)(CTX, "$rm to $rU: $du 100%s\r\n") == 1
    assert caplog.record_tuples == [("polykemi.script", level, "INVITE to bob: <null> 100%s")]


@pytest.mark.parametrize("name", ["INFO", "L_INFO", "l_info"])
def test_the_level_may_be_named(xlog: Xlog, caplog: pytest.LogCaptureFixture, name: str) -> None:
    assert xlog.xlog(CTX, name, "x") == 1
    assert caplog.record_tuples == [("polykemi.script", logging.INFO, "x")]


def test_an_unknown_level_is_an_error(xlog: Xlog, caplog: pytest.LogCaptureFixture) -> None:
    assert xlog.xlog(CTX, "LOUD", "x") == 1
    assert xlog.xlog_facility(CTX, "LOG_LOCAL0", "LOUD", "y") == 1
    assert [(level, text) for _, level, text in caplog.record_tuples] == [
        (logging.ERROR, "x"),
        (logging.ERROR, "[LOG_LOCAL0] y"),
    ]


def test_the_facility_stands_in_front(xlog: Xlog, caplog: pytest.LogCaptureFixture) -> None:
    assert xlog.xlog_facility(CTX, "$LOCAL0", "L_WARN", "$rm") == 1
    assert caplog.messages == ["[$LOCAL0] INVITE"]


def test_a_text_that_cannot_be_expanded_is_an_error(xlog: Xlog, caplog: pytest.LogCaptureFixture) -> None:
    assert xlog.xinfo(CTX, "costs 5$") == -1
    assert [r.levelno for r in caplog.records] == [logging.ERROR]


def test_nothing_is_compiled_when_the_level_is_off(xlog: Xlog, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "polykemi.script")
    assert xlog.xdbg(CTX, "$nosuch") == 1
    assert xlog.xlog_facility(CTX, "LOG_LOCAL0", "L_DBG", "$nosuch") == 1
    assert not caplog.records
