"""Every KSR function, called with odd arguments on odd messages, in every kind of route block.

Nothing of it may end in an exception of ours, and what leaves is framed as it should be: the lines of the header are
headers, Content-Length is the length of the body, no line break came out of an argument that is no header.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import process_time
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Export, exports_of
from polykemi.kemi.route import Route
from polykemi.modules import MODULES
from polykemi.sip.flow import Flow
from polykemi.sip.message import parse
from polykemi.testing import Sent, ServerUnderTest

EXPORTS: Final = {row.path: row for module in MODULES.values() for row, _ in exports_of(module).values()}
PATHS: Final = sorted(EXPORTS)
TORTURE: Final = [path.read_bytes() for path in sorted((Path(__file__).parent / "data" / "rfc4475").glob("*.dat"))]

SECONDS: Final = 5.0  # that no message takes, on a slow machine
INJECTED: Final = "X-Injected"
# these change the text of the header itself, as it stands there: what comes of it is the script's
ON_TEXT: Final = re.compile(r"KSR\.textops\.(replace|subst|search_append)|KSR\.textopsx\.msg_set_buffer")
# these take whole header lines, also several
LINES_OF_HEADERS: Final = re.compile(
    r"KSR\.(hdr|textopsx?)\.\w*(append|insert)|KSR\.(sl|tm|tmx|uac|dialog|acc)\..*(hdr|req)"
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
SCRIPTS: Final = {
    "lua": """
local plan, at, where = {}, 0, ""
function add(path, ...)
    local f = KSR
    for name in string.gmatch(path:sub(5), "[^.]+") do f = f[name] end
    local arguments = { ... }
    for i, one in ipairs(arguments) do
        arguments[i] = one:byte() == 105 and tonumber(one:sub(2)) or one:sub(2)
    end
    plan[#plan + 1] = { path, f, arguments }
end
function clear(name) plan, at, where = {}, 0, name end
local function go_on()
    while at < #plan do
        at = at + 1
        local path, f, arguments = unpack(plan[at])
        local ok, problem = pcall(f, unpack(arguments))
        if not ok then print("PROBLEM " .. path .. " " .. tostring(problem)) end
    end
end
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
""",
    "js": """
let plan = [], at = 0;
function add(path, ...given) {
    plan.push([path, given.map(one => one[0] == "i" ? Number(one.slice(1)) : one.slice(1))]);
}
function clear(name) { plan = []; at = 0; }
function ksr_request_route() {
    while (at < plan.length) {
        const [path, given] = plan[at++];
        let f = KSR;
        for (const name of path.slice(4).split(".")) f = f[name];
        try { f(...given); } catch (problem) {
            if (problem !== "~~ksr~exit~~") console.log("PROBLEM " + path + " " + problem);
        }
    }
}
""",
    "python": """
import json
import KSR

plan = []

def add(msg, told):
    path, *given = json.loads(told)
    plan.append((path, [(float if "e" in one else int)(one[1:]) if one[0] == "i" else one[1:] for one in given]))

def clear(msg, name):
    plan.clear()

def ksr_request_route(msg):
    while plan:
        path, given = plan.pop(0)
        f = KSR
        for name in path[4:].split("."):
            f = getattr(f, name)
        try:
            f(*given)
        except Exception as problem:
            KSR.info(f"PROBLEM {path} {problem!r}")
""",
}

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
    (
        b"application/sdp",
        b"m=audio x RTP/AVP \xff\r\nm=audio 99999999999 a\r\nc=IN IP6 ::::\r\na=rtpmap:\r\na=crypto:x inline:\r\n",
    ),
    (b"application/sdp", b"\r\n\r\n\r\n"),
    (b"multipart/mixed;boundary=b", b"--b\r\nContent-Type: application/sdp\r\n\r\n" + SDP + b"--b\r\nX\r\n--b--"),
    (b"multipart/mixed;boundary=", b"--\r\n\r\n----"),
    (b"multipart/mixed", b"--b\r\n\r\nno end"),
    (b'multipart/mixed;boundary="b', b"--b--b--b"),
    (b"application/json", b'{"jsonrpc":"2.0","method":1,"id":[[[['),
    (b"application/json", b"[" * 2000),
    (b"text/xml", b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]><methodCall>&b;"),
    (b"application/dtmf-relay", b"Signal=\r\nDuration"),
    (b"\xff/;;,", b"\x00\xff" * 20),
)
ODD_HEADERS: Final = (
    b"",
    b"X:\r\nUser-Agent:\r\nSupported:\r\nContact:\r\nRoute:\r\nRecord-Route:\r\nExpires:\r\nEvent:\r\nDiversion:\r\n",
    b'Route: <\r\nRecord-Route: ,,\r\nP-Asserted-Identity: "\r\nRPID: <>\r\nRefer-To: <sip:\r\nSession-Expires: x;refresher=\r\n',
    b'Authorization: Digest\r\nProxy-Authorization: Digest username="\\\r\nAuthorization: Basic ==\r\nDate: x\r\n',
    b"Contact: *\r\nExpires: 99999999999999999999\r\nMin-Expires: -1\r\nq: ;q=9\r\nm: <sip:a@[::1>;q=2;expires=x\r\nPath: <sip:;lr\r\n",
    b"Route: <sip:192.0.2.1;lr;ftag=\xff;vst=AAAA;did=x.y>\r\nReason: \x00\r\nX-A: a\r\n \r\n\tb\r\nVia: SIP/2.0/UDP\r\nRAck: x\r\n",
    b"P-Charging-Vector: icid-value=\r\nAllow: ,\r\nRequire: \xff\r\nIdentity: ..;\r\nAccept: a/b;q=\r\nContent-Disposition: ;\r\n",
)
LINES: Final = (b"", *[line + b"\r\n" for text in ODD_HEADERS for line in text.split(b"\r\n") if line.strip()])
METHODS: Final = (b"INVITE", b"REGISTER", b"OPTIONS", b"ACK", b"CANCEL", b"BYE", b"SUBSCRIBE", b"PRACK", b"X-\xc3")


WHERE: Final = {
    "request": Route.REQUEST,
    "branch": Route.BRANCH,
    "onreply": Route.ONREPLY,
    "failure": Route.FAILURE,
    "branch_failure": Route.BRANCH_FAILURE,
    "reply": Route.REPLY,
    "event": Route.EVENT,
}
Calls = Sequence[tuple[Export, Sequence[Any]]]


class Log(logging.Handler):
    """Keeps what tells of an exception of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.problems: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one, if it is such."""
        text = record.getMessage()
        if record.exc_info or text.startswith(("PROBLEM ", "Traceback ")):
            frames = traceback.format_tb(record.exc_info[2])[-3:] if record.exc_info else []
            self.problems.append(f"{text} {record.exc_info[1]!r} {frames}" if record.exc_info else text)


class Hostile:
    """A server whose script does what it is told; each message that it is given is another."""

    def __init__(self, directory: Path, engine: str = "lua") -> None:
        script = directory / f"hostile.{engine}"
        script.write_text(SCRIPTS[engine])
        self.engine = engine
        self.server = ServerUnderTest(
            {engine: script}, domains=["example.test"], modules={"htable": {"htable": ["t=>size=4;"]}}
        )
        self.log = Log()
        self.called: set[str] = set()
        self._number = 0

    def try_calls(self, calls: Calls, where: str, message: bytes) -> None:
        """Make the calls in a block of this kind that runs on ``message``; see to it that nothing goes wrong."""
        start = process_time()
        sent = self._play(calls, where, message)
        shown = [f"{export.path}{tuple(arguments)!r}" for export, arguments in calls]
        problems, self.log.problems = self.log.problems, []
        assert not problems, f"{problems[:3]} {shown} {message!r}"
        assert process_time() - start < SECONDS, (shown, message)
        self.called.update(call.path for call in self.server.calls)
        self.server.calls.clear()
        if any(ON_TEXT.match(export.path) for export, _ in calls):
            self.server.advance(400)  # until it is sent no more
            return
        lines = any(LINES_OF_HEADERS.match(export.path) for export, _ in calls)
        texts = {one.encode("latin-1") for _, arguments in calls for one in arguments if isinstance(one, str)}
        for one in sent:
            wrong = "" if one.data in texts else framing(one.data, message, lines=lines)  # KSR.corex.send_data
            assert not wrong, f"{wrong} {one.data!r} {shown} {message!r}"

    def _play(self, calls: Calls, where: str, message: bytes) -> list[Sent]:
        server = self.server
        invoke = server.node.router.invoke
        invoke(self.engine, "clear", [where])
        for export, arguments in calls:
            told = [export.path, *(f"s{a}" if isinstance(a, str) else f"i{a!r}" for a in arguments)]
            invoke(
                self.engine, "add", told if self.engine != "python" else [json.dumps(told)]
            )  # takes one, as in Kamailio
        if where == "event":
            self._event(message)
            sent = server.receive(b"\r\n\r\n", "192.0.2.10:5060")
        elif where == "request":
            sent = server.receive(message, "192.0.2.10:5060")
        else:
            sent = server.receive(self.request(), "192.0.2.10:5060")
            status = b"486 Busy" if "failure" in where else b"183 Early"
            for one in [one for one in sent if one.data[:7] == b"INVITE "][:1]:
                sent += server.receive(answer(one.data, status, message), "192.0.2.20:5060")
        sent += server.advance(0.5)
        if self._number % 64 == 0:
            sent += server.advance(200)
        return sent

    def _event(self, message: bytes) -> None:
        with contextlib.suppress(ParseError):
            flow = Flow(self.server.node.services.listeners[0], "192.0.2.10", 5060)
            ctx = RouteContext(Route.EVENT, "event", parse(message), flow, self.server.now)
            ctx.event = "hostile:event"
            self.server.node.services.events.append(ctx)

    def request(self, method: bytes = b"INVITE", odd: bytes = b"", media: tuple[bytes, bytes] = (b"", b"")) -> bytes:
        """Return a request of a transaction of its own."""
        self._number += 1
        n, (kind, body) = self._number, media
        if kind:
            odd += b"Content-Type: " + kind + b"\r\n"
        tag = b";tag=x" if n % 3 == 0 else b""
        return HEAD % (method, n, tag, n, method, odd, len(body), body)


OF_A_REQUEST: Final = re.compile(rb"(?i)(via|v|from|f|to|t|call-id|i|cseq|content-length|l|max-forwards)[ \t]*:|[ \t]")


def answer(data: bytes, status: bytes, message: bytes) -> bytes:
    """Return a reply to the request ``data`` with the odd headers and the body of ``message``."""
    head = data.partition(b"\r\n\r\n")[0].split(b"\r\n")
    kept = [line for line in head[1:] if line[:4] in (b"Via:", b"From", b"To: ", b"Call", b"CSeq", b"Reco")]
    header, _, body = message.partition(b"\r\n\r\n")
    odd = [line for line in header.split(b"\r\n")[1:] if not OF_A_REQUEST.match(line)]
    return b"\r\n".join([b"SIP/2.0 " + status, *kept, *odd, b"Content-Length: %d" % len(body), b"", body])


START: Final = re.compile(rb"SIP/2\.0 [1-6]\d\d [^\r\n]*|[^\s:]+ [^ \r\n]+ SIP/2\.0", re.IGNORECASE)
HEADER: Final = re.compile(rb"[!-9;-~]+[ \t]*:[^\r\n]*|[ \t].*")


def framing(data: bytes, message: bytes, *, lines: bool) -> str:
    """Return what is wrong with the framing of a message that leaves; ``message`` is what came in, as odd as it may be."""
    if not data.strip(b"\r\n\0"):
        return ""
    head, end, body = data.partition(b"\r\n\r\n")
    start, *header = head.split(b"\r\n")
    if not lines and re.search(rb"[\r\n][ \t]*" + INJECTED.encode(), head):
        return "injected"
    if not end:
        return "no end of the header"
    if not START.fullmatch(start):
        return f"start-line {start!r}"
    for line in header:
        if not HEADER.fullmatch(line) and line not in message:
            return f"header line {line!r}"
    lengths = {
        int(line.partition(b":")[2])
        for line in header
        if re.match(rb"(?i)(content-length|l)[ \t]*:[ \t]*\d+[ \t]*$", line)
    }
    if lengths != {len(body)}:
        return f"lengths {lengths}, the body has {len(body)}"
    return ""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    """A server with a Lua script."""
    yield from served(Hostile(tmp_path_factory.mktemp("lua")))


def served(one: Hostile) -> Iterator[Hostile]:
    """Keep the log of the server as long as it is used."""
    logger = logging.getLogger("polykemi")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(one.log)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    with one.server:
        yield one
    logger.removeHandler(one.log)
    logger.setLevel(level)
    logger.propagate = propagate


RELAY: Final[Calls] = [(EXPORTS["KSR.tm.t_relay"], [])]  # shows what was done to the message


def arguments(export: Export, n: int) -> list[Any]:
    """Return the arguments number ``n`` for the function: the first takes each value in turn, the others go past it."""
    return [
        INTEGERS[(n + 5 * i) % len(INTEGERS)] if param.type == "int" else TEXTS[(n * (1 + 7 * i)) % len(TEXTS)]
        for i, param in enumerate(export.params)
    ]


@pytest.mark.parametrize("where", WHERE)
def test_every_function_takes_every_odd_value(hostile: Hostile, where: str) -> None:
    values = len(TEXTS) if where == "request" else 12
    hostile.called.clear()
    for number, export in enumerate(EXPORTS.values()):
        count = values if export.params else 2
        calls = [(export, arguments(export, n + number)) for n in range(count)]
        for i in range(0, count, 24):
            end = RELAY if where == "request" else []
            odd, media = ODD_HEADERS[(number + i) % len(ODD_HEADERS)], BODIES[(number + i) % len(BODIES)]
            method = METHODS[(number // 3) % len(METHODS)] if i % 2 else b"INVITE"
            hostile.try_calls([*calls[i : i + 24], *end], where, hostile.request(method, odd, media))
    assert hostile.called >= set(EXPORTS)


@st.composite
def odd_messages(draw: st.DrawFn) -> tuple[bytes, bytes, tuple[bytes, bytes]]:
    """Draw method, header lines, and media type with body."""
    headers = [draw(st.sampled_from(ODD_HEADERS)), draw(st.sampled_from(LINES)), draw(st.sampled_from(LINES))]
    return draw(st.sampled_from(METHODS)), b"".join(headers), draw(st.sampled_from(BODIES))


texts = st.one_of(
    st.sampled_from(TEXTS),
    st.text(st.sampled_from('$(){}[]<>=,;:@/"\\.?*+-sip rv1x\r\n\x00\xff'), max_size=30),
    st.builds("".join, st.lists(st.sampled_from(TEXTS[:70]), min_size=2, max_size=3)),
)
integers = st.one_of(st.sampled_from(INTEGERS), st.integers(-(2**53), 2**53))


@st.composite
def calls_with_values(draw: st.DrawFn) -> tuple[Export, list[Any]]:
    """Draw one call."""
    export = EXPORTS[draw(st.sampled_from(PATHS))]
    return export, [draw(integers if param.type == "int" else texts) for param in export.params]


@settings(
    max_examples=1500,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    phases=[Phase.generate],
)
@given(
    where=st.sampled_from(list(WHERE)),
    calls=st.lists(calls_with_values(), min_size=1, max_size=8),
    odd=odd_messages(),
    torture=st.one_of(st.none(), st.sampled_from(TORTURE)),
)
def test_functions_called_one_after_the_other(
    hostile: Hostile, where: str, calls: Calls, odd: tuple[bytes, bytes, tuple[bytes, bytes]], torture: bytes | None
) -> None:
    hostile.try_calls([*calls, *(RELAY if where == "request" else [])], where, torture or hostile.request(*odd))


@pytest.mark.parametrize("engine", ["js", "python"])
def test_a_sample_in_the_other_languages(tmp_path: Path, engine: str) -> None:
    for hostile in served(Hostile(tmp_path, engine)):
        for number, path in enumerate(PATHS[::2]):
            export = EXPORTS[path]
            calls = [(export, arguments(export, 5 * n + number)) for n in range(15 if export.params else 1)]
            odd, media = ODD_HEADERS[number % len(ODD_HEADERS)], BODIES[number % len(BODIES)]
            hostile.try_calls([*calls, *RELAY], "request", hostile.request(b"INVITE", odd, media))
        assert hostile.called >= set(PATHS[::2])
