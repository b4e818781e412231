"""Settings that an operator changes while the server runs: what was changed holds for the next message."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polykemi.errors import RpcError
from polykemi.testing import ServerUnderTest
from tests.test_router import PEER, request

SCRIPT = """
function ksr_request_route()
  if KSR.is_method("REGISTER") then KSR.registrar.save("location", 0); return end
  if KSR.is_method("PUBLISH") then
    KSR.sl.sl_send_reply(KSR.pike.pike_check_req() < 0 and 503 or 200, "OK")
    return
  end
  KSR.maxfwd.process_maxfwd(70)
  KSR.pv.sets("$du", "sip:192.0.2.77")
  KSR.tm.t_relay()
end
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerUnderTest]:
    (tmp_path / "route.lua").write_text(SCRIPT)
    modules: dict[str, dict[str, Any]] = {
        "registrar": {"max_expires": 7200},
        "rtpengine": {"rtpengine_sock": "udp:192.0.2.9:2223"},
    }
    with ServerUnderTest({"lua": tmp_path / "route.lua"}, domains=["example.test"], modules=modules) as one:
        level = logging.getLogger("polykemi").level
        yield one
        logging.getLogger("polykemi").setLevel(level)


def call(server: ServerUnderTest, method: str, *params: Any) -> Any:
    return server.node.rpc.commands[method].run(params, 0.0)


def refused(server: ServerUnderTest, method: str, *params: Any) -> str:
    with pytest.raises(RpcError) as error:
        call(server, method, *params)
    return str(error.value)


def register(server: ServerUnderTest, cseq: int) -> str:
    data = request(
        "REGISTER", Contact="<sip:a@192.0.2.10>", CSeq=f"{cseq} REGISTER", Via=f"SIP/2.0/UDP h;branch=z9hG4bK{cseq}"
    )
    reply = server.receive(data, PEER)[0].data
    return next(line for line in reply.decode().split("\r\n") if line.startswith("Contact"))


def test_a_change_of_registrar_holds_for_the_next_register(server: ServerUnderTest) -> None:
    assert ";expires=3600" in register(server, 1)
    assert call(server, "cfg.set", "registrar", "default_expires", "60") == {}
    assert ";expires=60" in register(server, 2)
    assert call(server, "cfg.get", "registrar", "default_expires") == 60
    assert call(server, "cfg.get", "registrar")["max_expires"] == 7200
    assert call(server, "cfg.reset", "registrar") == {}
    assert ";expires=3600" in register(server, 3)


def test_a_change_of_a_timer_holds_for_the_next_transaction_and_not_for_open_ones(server: ServerUnderTest) -> None:
    server.receive(request("INFO", Via="SIP/2.0/UDP h;branch=z9hG4bKold"), PEER)
    call(server, "cfg.seti", "tm", "fr_timer", 2000)
    server.receive(request("INFO", Via="SIP/2.0/UDP h;branch=z9hG4bKnew"), PEER)
    ended = [sent for sent in server.advance(3) if sent.start_line.startswith("SIP/2.0 408")]
    assert [b"z9hG4bKnew" in sent.data for sent in ended] == [True]
    assert any(b"z9hG4bKold" in s.data for s in server.advance(40) if s.start_line.startswith("SIP/2.0 408"))


def test_t1_changes_the_intervals_of_retransmissions(server: ServerUnderTest) -> None:
    call(server, "cfg.set_now_int", "tm", "retr_timer1", 100)
    server.receive(request("INFO"), PEER)
    assert [round(sent.at, 1) for sent in server.advance(1) if "INFO" in sent.start_line] == [0.1, 0.3, 0.7]


def test_other_modules_read_what_was_changed(server: ServerUnderTest) -> None:
    call(server, "cfg.set", "maxfwd", "max_limit", "9")
    assert b"Max-Forwards: 9\r\n" in server.receive(request("INFO"), PEER)[0].data
    call(server, "cfg.set", "pike", "reqs_density_per_unit", "1")
    codes = [server.receive(request("PUBLISH"), PEER)[0].start_line[8:11] for _ in range(3)]
    assert codes == ["200", "503", "503"]
    modules: Any = server.node.modules
    call(server, "cfg.set", "rtpengine", "rtpengine_tout_ms", "250")
    assert modules["rtpengine"].nodes.patience.seconds == 0.25
    call(server, "cfg.set", "dispatcher", "ping_reply_codes", "code=404")
    assert modules["dispatcher"].reply_codes == {404}
    call(server, "cfg.set", "core", "use_dst_blocklist", "1")
    call(server, "cfg.set", "core", "dst_blocklist_expire", "7")
    assert (server.node.services.blocklist.enabled, server.node.services.blocklist.expire) == (True, 7)
    assert call(server, "cfg.get", "core", "dst_blocklist_expire") == 7


def test_what_cannot_be_set_changes_nothing_and_says_why(server: ServerUnderTest) -> None:
    assert refused(server, "cfg.set", "tm", "nope", "1") == "Failed to set the variable"
    assert refused(server, "cfg.set", "tm", "fr_timer", "soon") == (
        "Failed to set the variable: fr_timer: expected a number, got 'soon'"
    )
    assert refused(server, "cfg.seti", "maxfwd", "max_limit", 256) == (
        "Failed to set the variable: max_limit: expected 0 to 255, got 256"
    )
    assert refused(server, "cfg.set", "core", "use_dst_blocklist", "2").endswith("expected 0 or 1, got 2")
    assert refused(server, "cfg.set", "core", "dns_retr_time", "nan").endswith("expected a number, got 'nan'")
    assert (
        refused(server, "cfg.get", "tm", "nope") == refused(server, "cfg.get", "x", "y") == "Failed to get the variable"
    )
    assert refused(server, "cfg.help", "x", "y") == "Failed to get the variable description"
    assert call(server, "cfg.get", "tm", "fr_timer") == 30000
    assert call(server, "cfg.get", "maxfwd") == {"max_limit": 70}
    assert call(server, "cfg.get", "nope") == {}


def test_noted_changes_wait_for_the_commit_and_come_together(server: ServerUnderTest) -> None:
    call(server, "cfg.set_delayed_int", "core", "dns_cache_max_ttl", 100)
    call(server, "cfg.set_delayed", "core", "dns_cache_min_ttl", "50")
    call(server, "cfg.set_delayed_string", "registrar", "realm_pref", "sip.")
    assert call(server, "cfg.get", "registrar", "realm_pref") == ""
    assert call(server, "cfg.diff")[1:] == [
        {"group name": "core", "variable name": "dns_cache_min_ttl", "old value": 0, "new value": "50"},
        {"group name": "registrar", "variable name": "realm_pref", "old value": "", "new value": "sip."},
    ]
    assert "at most cache_max_ttl" in refused(server, "cfg.set_delayed", "core", "dns_cache_min_ttl", "500")
    call(server, "cfg.set", "core", "dns_cache_min_ttl", "90")
    call(server, "cfg.commit")
    assert call(server, "cfg.get", "core", "dns_cache_min_ttl") == 50
    assert call(server, "cfg.get", "registrar", "realm_pref") == "sip."
    assert call(server, "cfg.diff") == []
    call(server, "cfg.set_delayed", "tm", "fr_timer", "5")
    call(server, "cfg.rollback")
    call(server, "cfg.commit")
    assert call(server, "cfg.get", "tm", "fr_timer") == 30000


def test_a_commit_that_does_not_fit_any_more_changes_nothing(server: ServerUnderTest) -> None:
    call(server, "cfg.set_delayed", "core", "dns_cache_min_ttl", "500")
    call(server, "cfg.set_delayed", "tm", "fr_timer", "5")
    call(server, "cfg.set", "core", "dns_cache_max_ttl", "100")
    assert "at most cache_max_ttl" in refused(server, "cfg.commit")
    assert call(server, "cfg.get", "tm", "fr_timer") == 30000


def test_every_variable_can_be_listed_read_explained_and_set_to_what_it_is(server: ServerUnderTest) -> None:
    listed = call(server, "cfg.list")
    assert len(listed) == len(set(listed)) > 70
    assert call(server, "cfg.list", "maxfwd") == ["maxfwd: max_limit"]
    assert call(server, "cfg.list", "nope") == []
    for group, name in (one.split(": ") for one in listed):
        value = call(server, "cfg.get", group, name)
        text, kind = call(server, "cfg.help", group, name)
        if (group, name) == ("overload", "memory"):
            assert value == ""  # as the server decides
            value = 1 << 30
        assert text
        assert kind == f"(parameter type is {'string' if isinstance(value, str) else 'integer'})"
        assert call(server, "cfg.set", group, name, value) == {}
        assert call(server, "cfg.get", group, name) == value


def test_the_level_of_the_log_is_the_same_wherever_it_is_changed(server: ServerUnderTest) -> None:
    levels = server.node.services.levels
    call(server, "cfg.seti", "core", "debug", 3)
    assert logging.getLogger("polykemi").level == logging.DEBUG
    levels.set(logging.ERROR)
    assert call(server, "cfg.get", "core", "debug") == -1
    call(server, "cfg.seti", "core", "debug", 3)
    assert call(server, "cfg.get", "core")["debug"] == 3
