"""What is logged changes while the server runs: for all, for one module, for one caller."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polykemi.errors import RpcError
from polykemi.testing import ServerUnderTest
from tests.support import message

SCRIPT = """
function ksr_request_route()
    KSR.dbg("asked by " .. KSR.pv.gete("$fU"))
    if KSR.is_method("INVITE") then
        KSR.tm.t_on_branch("ksr_branch")
        KSR.tm.t_on_failure("ksr_failure")
        KSR.tm.t_relay()
    else
        KSR.sl.send_reply(200, "OK")
    end
end
function ksr_branch() KSR.dbg("branch") end
function ksr_failure() KSR.dbg("failure") end
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerUnderTest]:
    script = tmp_path / "a.lua"
    script.write_text(SCRIPT)
    loggers = [logging.getLogger(name) for name in ("polykemi", "polykemi.tm", "polykemi.script")]
    before = [one.level for one in loggers]
    loggers[0].setLevel(logging.INFO)
    with ServerUnderTest({"lua": script}) as server:
        yield server
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


def rpc(server: ServerUnderTest, method: str, *params: Any) -> Any:
    return server.node.rpc.commands[method].run(params, server.now)


def send(
    server: ServerUnderTest, user: str, *, method: str = "OPTIONS", call_id: str = "", host: str = "192.0.2.10"
) -> None:
    call_id = call_id or f"call-of-{user}"
    data = message(
        f"{method} sip:bob@192.0.2.20 SIP/2.0",
        "Max-Forwards: 9",
        from_=f"<sip:{user}@example.test>;tag=1",
        to="<sip:bob@example.test>",
        call_id=call_id,
        cseq=f"1 {method}",
        via=f"SIP/2.0/UDP {host};branch=z9hG4bK{call_id}{method}",
    )
    server.receive(data, f"{host}:5060")


def debugged(caplog: pytest.LogCaptureFixture, logger: str = "polykemi.script") -> list[str]:
    texts = [one.getMessage() for one in caplog.records if one.levelno == logging.DEBUG and one.name == logger]
    caplog.clear()
    return texts


# ---- levels
def test_the_level_is_told_and_set(server: ServerUnderTest, caplog: pytest.LogCaptureFixture) -> None:
    assert rpc(server, "log.level") == {"level": "info", "loggers": {}}
    send(server, "alice")
    assert debugged(caplog) == []
    assert rpc(server, "log.level", "debug") == {"old": "info", "new": "debug"}
    send(server, "carol")
    assert debugged(caplog) == ["asked by carol"]
    assert rpc(server, "log.level", 0) == {"old": "debug", "new": "warning"}
    assert rpc(server, "log.level", "notice") == {"old": "warning", "new": "notice"}


def test_one_logger_has_a_level_of_its_own(server: ServerUnderTest, caplog: pytest.LogCaptureFixture) -> None:
    assert rpc(server, "log.level", "script", "debug") == {"old": "info", "new": "debug"}
    send(server, "alice")
    assert debugged(caplog) == ["asked by alice"]
    assert rpc(server, "log.level") == {"level": "info", "loggers": {"script": "debug"}}
    assert rpc(server, "log.level", "polykemi.script") == {"level": "debug"}
    assert rpc(server, "log.level", "script", "default") == {"old": "debug", "new": "info"}
    send(server, "carol")
    assert debugged(caplog) == []


@pytest.mark.parametrize(
    ("params", "says"),
    [
        (("loud",), "log.level: loud is no level, and as a logger unknown"),
        (
            ("script", "loud"),
            "log.level: loud is unknown, expected debug, info, notice, warning, error, critical or default",
        ),
        (("scrip", "info"), "log.level: scrip is no level, and as a logger unknown, did you mean script?"),
    ],
)
def test_what_is_no_level_is_refused(server: ServerUnderTest, params: tuple[str, ...], says: str) -> None:
    with pytest.raises(RpcError, match=says):
        rpc(server, "log.level", *params)


def test_kamailios_commands_count_as_kamailio(server: ServerUnderTest) -> None:
    assert rpc(server, "corex.debug") == {"debug": 2}
    assert rpc(server, "corex.debug", 3) == {"old": 2, "new": 3}
    assert rpc(server, "corex.debug", "x") == {"debug": 3}
    assert rpc(server, "corex.debug", -7) == {"old": 3, "new": -2}
    assert rpc(server, "corex.debug", 2) == {"old": -2, "new": 2}
    assert rpc(server, "dbg.set_mod_level", "tm", 3) == "200 ok"
    assert [rpc(server, "dbg.get_mod_level", name) for name in ("tm", "all", "dialog")] == [3, 2, 2]
    assert rpc(server, "log.level")["loggers"] == {"tm": "debug"}
    rpc(server, "log.level", "tm", "default")


def test_the_level_is_a_variable_of_the_core(server: ServerUnderTest) -> None:
    assert rpc(server, "cfg.get", "core", "debug") == 2
    rpc(server, "cfg.set_now_int", "core", "debug", 3)
    assert rpc(server, "log.level") == {"level": "debug", "loggers": {}}
    rpc(server, "corex.debug", -1)
    assert rpc(server, "cfg.get", "core", "debug") == -1
    rpc(server, "cfg.set_now_int", "core", "debug", 7)
    assert rpc(server, "cfg.get", "core", "debug") == 3


# ---- watches
def test_one_caller_is_watched_and_nobody_else(server: ServerUnderTest, caplog: pytest.LogCaptureFixture) -> None:
    assert rpc(server, "log.watch", "user", "alice") == {"kind": "user", "value": "alice", "seconds": 600.0}
    for user in ("carol", "alice", "dave"):
        send(server, user)
    assert debugged(caplog) == ["asked by alice"]
    assert rpc(server, "log.watches") == [{"kind": "user", "value": "alice", "seconds": 600.0, "messages": 1}]
    assert rpc(server, "log.unwatch", "user", "alice") == {"ended": 1}
    send(server, "alice", call_id="another")
    assert debugged(caplog) == []


def test_a_whole_call_is_watched_with_its_replies_and_timers(
    server: ServerUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    rpc(server, "log.watch", "source", "192.0.2.8/29")
    send(server, "carol", method="INVITE", call_id="other", host="192.0.2.77")
    send(server, "alice", method="INVITE")
    assert debugged(caplog) == ["asked by alice", "branch"]
    server.advance(40)  # nobody answers
    assert debugged(caplog) == ["failure"]


@pytest.mark.parametrize(
    ("kind", "value", "watched"),
    [
        ("call_id", "call-of-alice", ["asked by alice"]),
        ("source", "192.0.2.10", ["asked by alice", "asked by carol"]),
        ("source", "2001:db8::/32", []),
        ("user", "bob", ["asked by alice", "asked by carol"]),  # the callee
        ("user", "carol@example.test", ["asked by carol"]),
        ("user", "carol@example.org", []),
    ],
)
def test_what_a_watch_names(
    server: ServerUnderTest, caplog: pytest.LogCaptureFixture, kind: str, value: str, watched: list[str]
) -> None:
    rpc(server, "log.watch", kind, value)
    for user in ("alice", "carol"):
        send(server, user)
    assert debugged(caplog) == watched


@pytest.mark.parametrize("from_", ["<bad uri>;tag=1", "<sip:>;tag=1", "<sip:x@[::1>;tag=1", '"x;tag=1'])
def test_who_watches_a_user_costs_nobody_an_answer(
    server: ServerUnderTest, caplog: pytest.LogCaptureFixture, from_: str
) -> None:
    """An address that cannot be read is no reason, and another one in the message may be the one that is watched."""
    rpc(server, "log.watch", "user", "bob@EXAMPLE.test")
    data = message("OPTIONS sip:x@192.0.2.20 SIP/2.0", "Max-Forwards: 9", from_=from_, to="<sip:bob@Example.TEST>")
    (reply,) = server.receive(data, "192.0.2.10:5060")
    assert reply.start_line == "SIP/2.0 200 OK"
    assert rpc(server, "log.watches")[0]["messages"] == 1


def test_the_routers_steps_are_shown(server: ServerUnderTest, caplog: pytest.LogCaptureFixture) -> None:
    rpc(server, "log.watch", "user", "alice")
    send(server, "alice")
    steps = debugged(caplog, "polykemi.router")
    assert steps[:2] == [
        "received OPTIONS sip:bob@192.0.2.20 SIP/2.0 from udp:192.0.2.10:5060",
        "request_route ksr_request_route begins",
    ]
    assert steps[2].startswith("request_route ksr_request_route ended after ")
    assert steps[3:] == ["sends SIP/2.0 200 OK to udp:192.0.2.10:5060"]
    rpc(server, "log.unwatch", "all")
    assert server.node.router.onlookers == ()
    rpc(server, "log.level", "router", "debug")
    send(server, "carol")
    assert len(debugged(caplog, "polykemi.router")) == 4
    rpc(server, "log.level", "router", "default")
    assert server.node.router.onlookers == ()


def test_a_watch_ends_by_itself(server: ServerUnderTest, caplog: pytest.LogCaptureFixture) -> None:
    rpc(server, "log.watch", "user", "alice", 30)
    server.advance(29)
    send(server, "alice", call_id="one")
    assert debugged(caplog) == ["asked by alice"]
    server.advance(1)
    caplog.clear()
    send(server, "alice", call_id="two")
    texts = [one.getMessage() for one in caplog.records]
    assert texts == ["no longer watching user alice: 1 messages"]
    assert rpc(server, "log.watches") == []
    assert server.node.router.onlookers == ()


def test_watching_again_sets_the_end_anew(server: ServerUnderTest) -> None:
    rpc(server, "log.watch", "user", "alice", 30)
    server.advance(20)
    rpc(server, "log.watch", "user", "alice", 30)
    (watch,) = rpc(server, "log.watches")
    assert watch["seconds"] == 30.0


def test_levels_are_restored_when_a_watched_script_fails(server: ServerUnderTest, tmp_path: Path) -> None:
    rpc(server, "log.watch", "user", "alice")
    send(server, "alice", method="BAD")
    server.receive(b"OPTIONS sip:x SIP/2.0\r\nCall-ID: x\r\n\r\n", "192.0.2.10:5060")  # malformed
    assert logging.getLogger("polykemi").level == logging.INFO


def test_watches_are_bounded(server: ServerUnderTest) -> None:
    for n in range(32):
        rpc(server, "log.watch", "user", n)
    with pytest.raises(RpcError, match=r"log\.watch: there are 32 watches already"):
        rpc(server, "log.watch", "user", "one more")
    rpc(server, "log.watch", "user", 5)
    assert rpc(server, "log.unwatch", "all") == {"ended": 32}


@pytest.mark.parametrize(
    ("params", "says"),
    [
        (("users", "x"), "log.watch: users is unknown, did you mean user?"),
        (("source", "host.test"), "log.watch: expected an IP address or network, got 'host.test'"),
        (("user", ""), "log.watch: expected a value to watch"),
        (("user", "x", 0), "log.watch: expected seconds, more than 0 and at most 86400, got 0"),
        (("user", "x", 1e9), "log.watch: expected seconds, more than 0 and at most 86400, got 1e\\+09"),
    ],
)
def test_what_cannot_be_watched_is_refused(server: ServerUnderTest, params: tuple[Any, ...], says: str) -> None:
    with pytest.raises(RpcError, match=says):
        rpc(server, "log.watch", *params)


def test_what_nobody_watches_cannot_be_ended(server: ServerUnderTest) -> None:
    with pytest.raises(RpcError, match=r"log\.unwatch: nobody watches user x"):
        rpc(server, "log.unwatch", "user", "x")
