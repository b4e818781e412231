"""One server, three languages: request_route in Lua, reply_route in JavaScript, failure_route in Python."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from polykemi.config import RouteSettings
from polykemi.kemi.route import Route
from polykemi.sip.build import response
from polykemi.sip.message import Request, parse
from polykemi.testing import ServerUnderTest

LUA = """
function ksr_request_route()
  KSR.hdr.append("X-Request: lua\\r\\n")
  KSR.tm.t_on_failure("ksr_failure_manage")
  KSR.tm.t_on_branch("ksr_branch_manage")
  KSR.pv.sets("$du", "sip:192.0.2.20:5060")
  KSR.tm.t_relay()
end
"""
JS = """
function ksr_reply_route() {
  KSR.hdr.append("X-Reply: js\\r\\n");
  if (KSR.kx.get_status() === 183) KSR.x.drop();
}
function ksr_branch_manage() { KSR.hdr.append("X-Branch: js\\r\\n"); }
"""
PYTHON = """
import KSR

def ksr_failure_manage():
    KSR.tm.t_reply(480, "Python says no")
"""
INVITE = (
    b"INVITE sip:bob@example.test SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n"
    b"From: <sip:alice@example.test>;tag=a\r\nTo: <sip:bob@example.test>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\n"
    b"Contact: <sip:alice@192.0.2.10>\r\nContent-Length: 0\r\n\r\n"
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerUnderTest]:
    """A server with a script in each language, each with route blocks of its own."""
    scripts = {"lua": tmp_path / "r.lua", "js": tmp_path / "r.js", "python": tmp_path / "r.py"}
    for source, path in zip((LUA, JS, PYTHON), scripts.values(), strict=True):
        path.write_text(source)
    routes = RouteSettings(
        default="lua",
        by_kind={Route.REPLY: "js", Route.BRANCH: "js"},
        by_name={(Route.FAILURE, "ksr_failure_manage"): "python"},
    )
    with ServerUnderTest(scripts, routes=routes, domains=["example.test"]) as under_test:
        yield under_test


def test_each_route_block_runs_in_the_language_that_the_configuration_names(server: ServerUnderTest) -> None:
    trying, forwarded = server.receive(INVITE, "192.0.2.10:5060")
    assert trying.start_line == "SIP/2.0 100 Trying"
    assert forwarded.to == "192.0.2.20:5060"
    assert b"\r\nX-Request: lua\r\n" in forwarded.data
    assert b"\r\nX-Branch: js\r\n" in forwarded.data
    request = parse(forwarded.data)
    assert isinstance(request, Request)
    assert server.receive(response(request, 183, "Progress", to_tag="b"), "192.0.2.20:5060") == []
    (ringing,) = server.receive(response(request, 180, "Ringing", to_tag="b"), "192.0.2.20:5060")
    assert b"\r\nX-Reply: js\r\n" in ringing.data
    sent = server.receive(response(request, 486, "Busy Here", to_tag="b"), "192.0.2.20:5060")
    assert [s.start_line for s in sent] == ["ACK sip:bob@example.test SIP/2.0", "SIP/2.0 480 Python says no"]
