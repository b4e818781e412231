"""Messages as large as they may be, made of very many small parts, through what sample scripts do with messages.

Each is done in a bounded time, far below what anything quadratic takes; and afterwards nothing is left of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial

import pytest

from polykemi.testing import ServerUnderTest
from polykemi.testing.harness import Sent
from tests.waiting import cpu_seconds

SIZE = 64_000  # octets
SECONDS = 0.5  # CPU; a slow machine takes a tenth of it
PEER = "192.0.2.10:5060"
_serial = itertools.count()

# what the sample scripts call, and more of what reads headers and bodies; no question who it is
SCRIPT = """
local names = { "$ru", "$fu", "$tu", "$ct", "$ci", "$ua", "$rb", "$du", "$rr_count", "$ai", "$pu", "$di", "$hdr(Via)",
  "$(hdr(Via)[-1])", "$(hdr(Route)[5])", "$(ct{s.len})", "$(ru{uri.params})", "$(ct{nameaddr.uri})", "$cnt($hdr(Via))",
  "$(tu{uri.param,b})", "$(ru{param.value,b})", "$(ct{param.count})", "$au", "$ar", "$(hdr(Contact){s.md5})", "$sdp(body)" }

function ksr_request_route()
  KSR.force_rport()
  KSR.maxfwd.process_maxfwd(70)
  KSR.sanity.sanity_check(17895, 7)
  KSR.nathelper.nat_uac_test(63)
  for _, name in ipairs(names) do KSR.pv.get(name) end
  KSR.textops.search("x+y+z")
  KSR.textops.is_present_hf("Contact")
  KSR.hdr.get("Contact")
  KSR.sdpops.sdp_with_media("audio")
  KSR.sdpops.remove_codecs_by_name("PCMU", "audio")
  if KSR.is_method_in("R") then
    KSR.nathelper.fix_nated_register()
    if KSR.registrar.save("location", 0) < 0 then KSR.sl.sl_reply_error() end
    KSR.registrar.lookup("location")
    return 1
  end
  KSR.nathelper.fix_nated_contact()
  KSR.nathelper.fix_nated_sdp(3)
  KSR.rr.record_route()
  if KSR.siputils.has_totag() > 0 then KSR.rr.loose_route() end
  KSR.hdr.remove("Route")
  KSR.hdr.append("X-Y: z\\r\\n")
  KSR.pv.sets("$du", "sip:192.0.2.20")
  if KSR.tm.t_relay() < 0 then KSR.sl.sl_reply_error() end
end

function ksr_reply_route()
  for _, name in ipairs(names) do KSR.pv.get(name) end
  KSR.nathelper.fix_nated_contact()
end
"""


def fill(part: str, size: int = SIZE - 2000) -> str:
    """Repeat ``part`` up to ``size``; ``%d`` in it is a number of its own."""
    if "%d" not in part:
        return part * (size // len(part))
    out, length = [], 0
    for n in itertools.count():
        out.append(part.replace("%d", str(n)))
        length += len(out[-1])
        if length > size:
            return "".join(out[:-1])
    raise AssertionError


HEADERS = {
    "one header of 64 KB": "X: " + "a" * (SIZE - 2000) + "\r\n",
    "Vias": fill("Via: SIP/2.0/UDP h\r\n"),
    "Vias in one line": "Via: " + fill("SIP/2.0/UDP h,") + "SIP/2.0/UDP h\r\n",
    "compact Vias": fill("v:a\r\n"),
    "Routes": fill("Route: <sip:h%d;lr>\r\n"),
    "Routes in one line": "Route: " + fill("<sip:h;lr>,") + "<sip:h>\r\n",
    "Routes of ours": "Route: " + fill("<sip:192.0.2.1;lr>,") + "<sip:h>\r\n",
    "Record-Routes": fill("Record-Route: <sip:h%d;lr>\r\n"),
    "Record-Routes in one line": "Record-Route: " + fill("<sip:h;lr>,") + "<sip:h>\r\n",
    "Contacts": fill("m:<sip:a%d@h>\r\n"),
    "Contacts in one line": "Contact: " + fill("<sip:a%d@h>,") + "<sip:b@h>\r\n",
    "parameters of a Contact": "Contact: <sip:a@h>" + fill(";a=b") + "\r\n",
    "parameters of a Contact's URI": "Contact: <sip:a@h" + fill(";a=b") + ">\r\n",
    "headers of a Contact's URI": "Contact: <sip:a@h?" + fill("a=b&") + ">\r\n",
    "quotes in a Contact": "Contact: " + fill('"a" ') + "<sip:a@h>\r\n",
    "instances": "Contact: <sip:a@h>" + fill(';+sip.instance="<x>"') + "\r\n",
    "empty headers": fill("X:\r\n"),
    "names of their own": fill("X%d:\r\n"),
    "folded lines": "X: " + fill("\r\n a") + "\r\n",
    "credentials": fill('Authorization: Digest a="b"\r\n'),
    "parameters of credentials": "Proxy-Authorization: Digest " + fill('a%d="b",') + "a=b\r\n",
    "Max-Forwards": fill("Max-Forwards: 70\r\n"),
    "Supported": "Supported: " + fill("a,") + "b\r\n",
    "Proxy-Require": "Proxy-Require: " + fill("a,") + "b\r\n",
    "Allow": "Allow: " + fill("INVITE,") + "b\r\n",
    "Paths": fill("Path: <sip:h;lr>\r\n"),
    "User-Agent": "User-Agent: " + fill("x ") + "\r\n",
    "P-Asserted-Identity": "P-Asserted-Identity: " + fill("<sip:a@h>,") + "<sip:b@h>\r\n",
    "Diversion": fill("Diversion: <sip:a@h>;reason=x\r\n"),
}
URIS = {
    "parameters": "sip:a@h" + fill(";a=b"),
    "parameters without values": "sip:a@h" + fill(";a"),
    "headers": "sip:a@h?" + fill("a=b&"),
    "user": "sip:" + fill("a") + "@h",
    "escapes": "sip:" + fill("%61") + "@h",
    "dots": "sip:a@" + fill("a.") + "h",
    "dashes": "sip:a@" + fill("-") + "h",
    "digits": "sip:a@" + fill("1"),
    "dotted digits": "sip:a@" + fill("1.") + "1",
    "port": "sip:a@h:" + fill("1"),
    "IPv6": "sip:a@[" + fill("1:") + "1]",
    "brackets": "sip:a@" + fill("["),
    "tel": "tel:" + fill("1-") + "1",
    "unknown": fill("x") + ":y",
}
SDP_LINES = {
    "media": fill("m=audio 1 RTP/AVP 0\r\n"),
    "payloads": "m=audio 1 RTP/AVP" + fill(" 0") + "\r\n",
    "codecs": "m=audio 1 RTP/AVP 0 8\r\n" + fill("a=rtpmap:%d PCMU/8000\r\n"),
    "addresses": fill("c=IN IP4 10.0.0.1\r\n"),
    "attributes": "m=audio 1 RTP/AVP 0\r\n" + fill("a=x\r\n"),
    "line feeds": fill("\n"),
    "one line": "m=" + fill("a "),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerUnderTest]:
    script = tmp_path_factory.mktemp("floods") / "route.lua"
    script.write_text(SCRIPT)
    with ServerUnderTest({"lua": script}, domains=["example.test"]) as one:
        yield one


def message(
    method: str, headers: str, *, uri: str = "sip:b@example.test", body: str = "", tag: str = "", to: str = ""
) -> bytes:
    """Return a request of its own."""
    n = next(_serial)
    head = (
        f"{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {PEER};branch=z9hG4bK{n}\r\nFrom: <sip:a@example.test>;tag=1\r\n"
    )
    head += f"To: <sip:{to or n}@example.test>{tag}\r\nCall-ID: {n}\r\nCSeq: 1 {method}\r\n{headers}"
    kind = "Content-Type: application/sdp\r\n" if body else ""
    return f"{head}{kind}Content-Length: {len(body)}\r\n\r\n{body}".encode("latin-1")


def answered(server: ServerUnderTest, data: bytes) -> float:
    """Give the server a request, and its answer when it was forwarded; return the CPU seconds that it took."""
    assert len(data) < 65_536

    def play() -> None:
        for one in server.receive(data, PEER):
            if one.to == "192.0.2.20:5060" and not one.data.startswith((b"SIP/2.0", b"ACK")):
                reply = b"SIP/2.0 486 Busy\r\n" + one.data.partition(b"\r\n")[2]
                server.receive(reply, "192.0.2.20:5060")

    took = cpu_seconds(play)
    server.advance(200)
    server.calls.clear()
    assert len(server.node.modules["tm"].layer) == 0  # type: ignore[attr-defined]
    return took


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_of_very_many_parts(server: ServerUnderTest, kind: str) -> None:
    for method, tag in (("INVITE", ""), ("INVITE", ";tag=2"), ("REGISTER", "")):
        assert answered(server, message(method, HEADERS[kind], tag=tag)) < SECONDS, method


@pytest.mark.parametrize("kind", URIS)
def test_a_uri_of_very_many_parts(server: ServerUnderTest, kind: str) -> None:
    assert answered(server, message("INVITE", "", uri=URIS[kind])) < SECONDS
    for name in ("Contact", "Route", "P-Asserted-Identity", "Refer-To"):
        for method in ("INVITE", "REGISTER"):
            assert answered(server, message(method, f"{name}: <{URIS[kind]}>\r\n", tag=";tag=2")) < SECONDS, name


@pytest.mark.parametrize("kind", SDP_LINES)
def test_a_body_of_very_many_parts(server: ServerUnderTest, kind: str) -> None:
    body = "v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\ns=-\r\nt=0 0\r\n" + SDP_LINES[kind]
    assert answered(server, message("INVITE", "Contact: <sip:a@h>\r\n", body=body)) < SECONDS


def test_an_aor_has_no_more_contacts_than_a_thousand(server: ServerUnderTest) -> None:
    replies: list[Sent] = []

    def register(data: bytes) -> None:
        replies.extend(server.receive(data, PEER))

    for n in range(12):
        contacts = ",".join(f"<sip:a{i}@h{n}>" for i in range(100))
        data = message("REGISTER", f"Contact: {contacts}\r\nExpires: 600\r\n", to="many")
        assert cpu_seconds(partial(register, data)) < SECONDS
        assert replies[-1].start_line == ("SIP/2.0 200 OK" if n < 10 else "SIP/2.0 503 Service Unavailable")
    server.advance(1000)
    server.calls.clear()
