"""Every KSR function, called with odd arguments on odd messages, in every kind of route block.

Nothing of it may end in an exception of ours, and what leaves is framed as it should be: the lines of the header are
headers, Content-Length is the length of the body, no line break came out of an argument that is no header.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Export, exports_of
from polykemi.kemi.route import Route
from polykemi.modules import MODULES
from polykemi.modules.base import Services
from polykemi.sip.flow import Flow
from polykemi.sip.message import parse
from polykemi.testing import Sent, ServerUnderTest

EXPORTS: Final = {
    row.path: row for module in MODULES.values() for row, _ in exports_of(module).values()
}
TORTURE: Final = [path.read_bytes() for path in sorted((Path(__file__).parent / "data" / "rfc4475").glob("*.dat"))]

INJECTED: Final = "X-Injected"
# these put whole header lines, or octets, where the script says: it is the script that answers for their framing
RAW: Final = re.compile(
    r"KSR\.(hdr\.|textops\.|textopsx\.|kx\.|corex\.send|pv\.|pvx\.|uac\.uac_req|tm\.t_uac|sdpops\.|app_|xhttp\.)"
)

INTEGERS: Final = (0, 1, -1, 5, 64, 200, 2**31 - 1, -(2**31), 2**32, 2**53, -(2**53), 1e30)
TEXTS: Final = (
    "",
    "a",
    "0",
    "-1",
    "1" * 40,
    "a" * 3000,
    "\x00",
    "\x01\x7f\x85",
    "\xff\xfe\xa0",
    "caf\xc3\xa9",
    " ",
    "$",
    "$ru",
    "$var(x)",
    "$avp(s:x)",
    "$xavp(x=>y)",
    "$hdr(Via)",
    "$rb",
    "$(ru",
    "$var(",
    "$(var(x){s.",
    "$(ru{s.substr,9999999999,-1})",
    "$(hdr(X)[-99999999999]{re.subst,/(a+)+$/b/g})",
    "$sht(t=>",
    "$sht(t=>$var(x))",
    "$sel(",
    "$T_rpl(",
    "$$",
    "sip:",
    "sip:@",
    "sip:a@h",
    "sip:a@192.0.2.20:5060;transport=udp",
    "sip:a@h:99999",
    "<sip:a@h",
    '"a <sip:a@h>;tag="',
    "tel:+1",
    "no uri",
    "*",
    "udp:192.0.2.1:5060",
    "192.0.2.1",
    "192.0.2.0/33",
    "::1",
    "[::1",
    "(",
    "[a",
    "(a+)+$",
    "/a/b/g",
    "/(/\\9/",
    "a,b;c=d&e",
    "a=b;c",
    "a=>b=>c",
    "t",
    "location",
    "t=>",
    "'; drop table subscriber; --",
    '{"a":[1,{"b":null}]}',
    '{"a":',
    "[" * 500,
    "<?xml",
    "%s%n%d",
    "../../etc/passwd",
    "X-A",
    "X-A: b",
    "ksr_nothing",
    "plan",
    f"a\r\n{INJECTED}: 1",
    f"a\n{INJECTED}: 1",
    f"a\r\n\r\n{INJECTED}: 1",
)
BREAKS: Final = tuple(text for text in TEXTS if "\n" in text)
WHOLE: Final = tuple(text for text in TEXTS if "\n" not in text)

SCRIPT: Final = """
local plan, at = {}, 0
function add(path, ...)
    local f = KSR
    for name in string.gmatch(path:sub(5), "[^.]+") do f = f[name] end
    local arguments = { ... }
    for i, one in ipairs(arguments) do
        arguments[i] = one:byte() == 105 and tonumber(one:sub(2)) or one:sub(2)
    end
    plan[#plan + 1] = { path, f, arguments }
end
function clear() plan, at = {}, 0 end
local function go_on()
    while at < #plan do
        at = at + 1
        local path, f, arguments = unpack(plan[at])
        local ok, problem = pcall(f, unpack(arguments))
        if not ok then print("PROBLEM " .. path .. " " .. tostring(problem)) end
    end
end
local where
function choose(name) where = name end
local function block(name)
    return function()
        if where == name then go_on() end
    end
end
branch, onreply, failure, branch_failure = block("branch"), block("onreply"), block("failure"), block("branch_failure")
event, ksr_reply_route = block("event"), block("reply")
function ksr_request_route()
    if where == "request" then return go_on() end
    KSR.tm.t_on_branch("branch")
    KSR.tm.t_on_reply("onreply")
    KSR.tm.t_on_failure("failure")
    KSR.tm.t_on_branch_failure("branch_failure")
    KSR.pv.sets("$du", "sip:192.0.2.20:5060")
    KSR.tm.t_relay()
end
"""

HEAD: Final = (
    b"%b sip:bob@example.test SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK%d\r\n"
    b"From: <sip:alice@example.test>;tag=a1\r\nTo: <sip:bob@example.test>%b\r\nCall-ID: hostile%d\r\nCSeq: 1 %b\r\n"
    b"Max-Forwards: 70\r\nContact: <sip:alice@192.0.2.10:5060>\r\n%bContent-Length: %d\r\n\r\n%b"
)
SDP: Final = b"v=0\r\no=a 1 1 IN IP4 192.0.2.10\r\ns=-\r\nc=IN IP4 192.0.2.10\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0 8\r\na=sendrecv\r\n"
BODIES: Final = (
    (b"", b""),
    (b"application/sdp", SDP),
    (b"application/sdp", SDP.replace(b"\r\n", b"\n")),
    (b"application/sdp", b"m=\r\nc=\r\no=\r\na\r\nv"),
    (b"application/sdp", b"m=audio x RTP/AVP \xff\r\nm=audio 99999999999 a\r\nc=IN IP6 ::::\r\na=rtpmap:\r\na=crypto:x inline:\r\n"),
    (b"application/sdp", b"\r\n\r\n\r\n"),
    (b"multipart/mixed;boundary=b", b"--b\r\nContent-Type: application/sdp\r\n\r\n" + SDP + b"--b\r\nX\r\n--b--"),
    (b"multipart/mixed;boundary=", b"--\r\n\r\n----"),
    (b"multipart/mixed", b"--b\r\n\r\nno end"),
    (b"multipart/mixed;boundary=\"b", b"--b--b--b"),
    (b"application/json", b'{"jsonrpc":"2.0","method":1,"id":[[[['),
    (b"application/json", b"[" * 2000),
    (b"text/xml", b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]><methodCall>&b;"),
    (b"application/dtmf-relay", b"Signal=\r\nDuration"),
    (b"\xff/;;,", b"\x00\xff" * 20),
)
ODD_HEADERS: Final = (
    b"",
    b"X:\r\nUser-Agent:\r\nSupported:\r\nContact:\r\nRoute:\r\nRecord-Route:\r\nExpires:\r\nEvent:\r\nDiversion:\r\n",
    b"Route: <\r\nRecord-Route: ,,\r\nP-Asserted-Identity: \"\r\nRPID: <>\r\nRefer-To: <sip:\r\nSession-Expires: x;refresher=\r\n",
    b"Authorization: Digest\r\nProxy-Authorization: Digest username=\"\\\r\nAuthorization: Basic ==\r\nDate: x\r\n",
    b"Contact: *\r\nExpires: 99999999999999999999\r\nMin-Expires: -1\r\nq: ;q=9\r\nm: <sip:a@[::1>;q=2;expires=x\r\nPath: <sip:;lr\r\n",
    b"Route: <sip:192.0.2.1;lr;ftag=\xff;vst=AAAA;did=x.y>\r\nReason: \x00\r\nX-A: a\r\n \r\n\tb\r\nVia: SIP/2.0/UDP\r\nCSeq: x\r\n",
    b"P-Charging-Vector: icid-value=\r\nAllow: ,\r\nRequire: \xff\r\nIdentity: ..;\r\nAccept: a/b;q=\r\nContent-Disposition: ;\r\n",
)
METHODS: Final = (b"INVITE", b"REGISTER", b"OPTIONS", b"ACK", b"CANCEL", b"BYE", b"SUBSCRIBE", b"PRACK", b"X-\xc3")


class Log(logging.Handler):
    """Keeps what tells of an exception of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.problems: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one, if it is such."""
        text = record.getMessage()
        if record.exc_info or text.startswith(("PROBLEM ", "Traceback ")):
            self.problems.append(f"{text} {record.exc_info[1]!r}" if record.exc_info else text)


class Hostile:
    """A server whose script does what it is told, and what went wrong there."""

    def __init__(self, directory: Path) -> None:
        script = directory / "hostile.lua"
        script.write_text(SCRIPT)
        self.server = ServerUnderTest(
            {"lua": script},
            domains=["example.test"],
            modules={"htable": {"htable": ["t=>size=4;"]}, "rtpengine": {}, "sqlops": {}},
        )
        self.log = Log()
        self.number = 0

    @property
    def services(self) -> Services:
        return self.server.node.services

    def tell(self, function: str, *arguments: str) -> None:
        """Call a function of the script."""
        assert self.server.node.router.invoke("lua", function, arguments) is None

    def ask(self, calls: Sequence[tuple[Export, Sequence[Any]]], where: str, message: bytes) -> list[Sent]:
        """Make the calls in a block of this kind that runs on ``message``; return what left."""
        server = self.server
        self.number += 1
        self.tell("clear")
        self.tell("choose", where)
        for export, arguments in calls:
            texts = [f"s{one}" if isinstance(one, str) else f"i{one!r}" for one in arguments]
            self.tell("add", export.path, *texts)
        sent: list[Sent] = []
        if where == "event":
            self.event(message)
            sent += server.receive(b"\r\n\r\n\0", "192.0.2.10:5060")
        elif where == "request":
            sent += server.receive(message, "192.0.2.10:5060")
        else:
            start, headers = message.split(b"\r\n", 1)
            sent += server.receive(self.request(b"INVITE", b"", b"", b""), "192.0.2.10:5060")
            asked = [one.data for one in sent if one.data[:7] == b"INVITE "]
            status = b"486 Busy" if "failure" in where else b"183 Early"
            for data in asked[:1]:
                sent += server.receive(answer(data, status, message), "192.0.2.20:5060")
        sent += server.advance(0.5)
        if self.number % 50 == 0:
            server.advance(40)
            server.calls.clear()
        return sent

    def event(self, message: bytes) -> None:
        """Let an event block come, on ``message``."""
        try:
            parsed = parse(message)
        except Exception:
            return
        flow = Flow(self.services.listeners[0], "192.0.2.10", 5060)
        ctx = RouteContext(Route.EVENT, "event", parsed, flow, self.server.now)
        ctx.event = "hostile:event"
        self.services.events.append(ctx)

    def request(self, method: bytes, odd: bytes, kind: bytes, body: bytes, tag: bytes = b"") -> bytes:
        """Return a request that no other is like."""
        n = self.number
        if kind:
            odd += b"Content-Type: " + kind + b"\r\n"
        return HEAD % (method, n, tag, n, method, odd, len(body), body)

    def check(self, calls: Sequence[tuple[Export, Sequence[Any]]], sent: Sequence[Sent], message: bytes) -> None:
        """See to it that nothing went wrong."""
        shown = [f"{export.path}{tuple(arguments)!r}" for export, arguments in calls]
        problems, self.log.problems = self.log.problems, []
        assert not problems, (problems[:3], shown, message)
        texts = {one.encode("latin-1") for _, arguments in calls for one in arguments if isinstance(one, str)}
        for one in sent:
            wrong = "" if one.data in texts else framing(one.data, message)
            assert not wrong, (wrong, one.data, shown, message)


def answer(data: bytes, status: bytes, message: bytes) -> bytes:
    """Return a reply to the request ``data`` with the odd headers and the body of ``message``."""
    head = data.partition(b"\r\n\r\n")[0].split(b"\r\n")
    kept = [line for line in head[1:] if line[:4] in (b"Via:", b"From", b"To: ", b"Call", b"CSeq", b"Reco")]
    lines = message.partition(b"\r\n\r\n")
    odd = [
        line
        for line in lines[0].split(b"\r\n")[1:]
        if not re.match(rb"(?i)(via|v|from|f|to|t|call-id|i|cseq|content-length|l|max-forwards)[ \t]*:", line)
    ]
    odd = [line for line in odd if line[:1] not in (b" ", b"\t")]
    return b"\r\n".join([b"SIP/2.0 " + status, *kept, *odd, b"Content-Length: %d" % len(lines[2]), b"", lines[2]])


START: Final = re.compile(rb"SIP/2\.0 [1-6]\d\d [^\r\n]*|[^\s:]+ [^ \r\n]+ SIP/2\.0", re.IGNORECASE)
HEADER: Final = re.compile(rb"[!-9;-~]+[ \t]*:[^\r\n]*|[ \t].*")


def framing(data: bytes, message: bytes) -> str:
    """Return what is wrong with the framing of a message that leaves; ``message`` is what came in, as odd as it may be."""
    if not data.strip(b"\r\n\0"):
        return ""
    head, end, body = data.partition(b"\r\n\r\n")
    start, *lines = head.split(b"\r\n")
    if re.search(rb"[\r\n][ \t]*" + INJECTED.encode(), head):
        return "injected"
    if not end:
        return "no end of the header"
    if not START.fullmatch(start):
        return f"start-line {start!r}"
    for line in lines:
        if not HEADER.fullmatch(line) and line not in message:
            return f"header line {line!r}"
    lengths = {int(line.partition(b":")[2]) for line in lines if re.match(rb"(?i)(content-length|l)[ \t]*:[ \t]*\d+[ \t]*$", line)}
    if lengths != {len(body)} and b"Content-Length: %d\r\n" % len(message.partition(b"\r\n\r\n")[2]) in message:
        return f"lengths {lengths}, the body has {len(body)}"
    return ""
