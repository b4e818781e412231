"""The blocks that the core runs by itself, under the names that the configuration gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polykemi.errors import ScriptLoadError
from polykemi.modules.core_events import CoreParams
from polykemi.testing import ServerUnderTest

OPTIONS = (
    b"OPTIONS sip:bob@example.test SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK1\r\n"
    b"From: <sip:alice@example.test>;tag=a\r\nTo: <sip:bob@example.test>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\n"
    b"Content-Length: 0\r\n\r\n"
)
SCRIPTS = {
    "lua": """
function ksr_request_route() KSR.sl.send_reply(200, KSR.pv.gete("$avp(seen)")) end
function ksr_events(evname) KSR.is_method(evname) end
function ksr_before(evname) KSR.pv.sets("$avp(seen)", evname) if KSR.pv.get("$rU") == "drop" then KSR.x.drop() end end
function ksr_octets() KSR.is_method(KSR.pv.get("$rcv(srcip)")) if KSR.pv.get("$rcv(len)") < 5 then KSR.set_drop() end end
""",
    "js": """
function ksr_request_route() { KSR.sl.send_reply(200, KSR.pv.gete("$avp(seen)")); }
function ksr_events(evname) { KSR.is_method(evname); }
function ksr_before(evname) { KSR.pv.sets("$avp(seen)", evname); if (KSR.pv.get("$rU") == "drop") KSR.x.drop(); }
function ksr_octets() { KSR.is_method(KSR.pv.get("$rcv(srcip)")); if (KSR.pv.get("$rcv(len)") < 5) KSR.set_drop(); }
""",
    "python": """
import KSR
def ksr_request_route(): KSR.sl.send_reply(200, KSR.pv.gete("$avp(seen)"))
def ksr_events(evname): KSR.is_method(evname)
def ksr_before(evname):
    KSR.pv.sets("$avp(seen)", evname)
    if KSR.pv.get("$rU") == "drop": KSR.x.drop()
def ksr_octets():
    KSR.is_method(KSR.pv.get("$rcv(srcip)"))
    if KSR.pv.get("$rcv(len)") < 5: KSR.set_drop()
""",
}


def server(tmp_path: Path, engine: str, **core: Any) -> ServerUnderTest:
    """A server whose core has these parameters."""
    script = tmp_path / f"script.{engine}"
    script.write_text(SCRIPTS[engine])
    return ServerUnderTest({engine: script}, domains=["example.test"], modules={"core": core})


def said(under_test: ServerUnderTest) -> list[str]:
    """What the script has shown."""
    return [call.arguments[0] for call in under_test.calls if call.path == "KSR.is_method"]


@pytest.mark.parametrize("engine", SCRIPTS)
def test_the_first_event_comes_once_when_the_server_has_started(tmp_path: Path, engine: str) -> None:
    with server(tmp_path, engine, kemi={"event_route_callback": "ksr_events"}) as under_test:
        under_test.receive(OPTIONS, "192.0.2.10:5060")
        under_test.receive(OPTIONS.replace(b"z9hG4bK1", b"z9hG4bK2"), "192.0.2.10:5060")
        assert said(under_test) == ["core:worker-one-init"]


@pytest.mark.parametrize("engine", SCRIPTS)
def test_a_block_runs_before_each_message_and_may_drop_it(tmp_path: Path, engine: str) -> None:
    with server(tmp_path, engine, kemi={"pre_routing_callback": "ksr_before"}) as under_test:
        (reply,) = under_test.receive(OPTIONS, "192.0.2.10:5060")
        assert reply.start_line == "SIP/2.0 200 core:pre-routing"
        assert under_test.receive(OPTIONS.replace(b"sip:bob", b"sip:drop"), "192.0.2.10:5060") == []


@pytest.mark.parametrize("engine", SCRIPTS)
def test_a_block_runs_for_the_octets_of_each_datagram_where_that_is_wanted(tmp_path: Path, engine: str) -> None:
    kemi = {"received_route_callback": "ksr_octets"}
    with server(tmp_path, engine, kemi=kemi) as under_test:
        under_test.receive(OPTIONS, "192.0.2.10:5060")
        assert said(under_test) == []
    with server(tmp_path, engine, kemi=kemi, received_route_mode=1) as under_test:
        (reply,) = under_test.receive(OPTIONS, "192.0.2.10:5060")
        assert reply.start_line.startswith("SIP/2.0 200 ")
        assert under_test.receive(b"\r\n\r\n", "192.0.2.10:5060") == []
        assert said(under_test) == ["192.0.2.10", "192.0.2.10"]
        assert "core.keepalives" not in under_test.node.services.counters


def test_a_callback_that_the_script_does_not_have_is_passed_over(tmp_path: Path) -> None:
    kemi = {"pre_routing_callback": "none_such", "received_route_callback": "none_such", "event_route_callback": "nope"}
    with server(tmp_path, "lua", kemi=kemi, received_route_mode=1) as under_test:
        (reply,) = under_test.receive(OPTIONS, "192.0.2.10:5060")
        assert reply.start_line.startswith("SIP/2.0 200 ")


def test_the_request_route_may_have_another_name(tmp_path: Path) -> None:
    with server(tmp_path, "lua", kemi={"request_route_callback": "ksr_events"}) as under_test:
        assert under_test.receive(OPTIONS, "192.0.2.10:5060") == []
    with pytest.raises(ScriptLoadError, match="defines no function main"):
        server(tmp_path, "lua", kemi={"request_route_callback": "main"})


def test_none_switches_a_block_off() -> None:
    callbacks = CoreParams(kemi={"reply_route_callback": "None", "onsend_route_callback": "mine"}).callbacks()
    assert (callbacks.reply, callbacks.onsend, callbacks.request) == ("", "mine", "ksr_request_route")


@pytest.mark.parametrize(
    ("kemi", "what"),
    [
        ({"nope": "x"}, "kemi.nope: expected one of request_route_callback"),
        ({"request_route_callback": "none"}, "expected the name of a function, got 'none'"),
    ],
)
def test_a_wrong_callback_is_named(kemi: dict[str, str], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        CoreParams(kemi=kemi)
