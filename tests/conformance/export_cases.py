r"""The case files under ``exports/``: what each KSR function answers and sends, the same on every engine.

One file a module (``core.txt``: the functions on KSR itself), a list of cases; ``#`` lines before the first are comments:

    === what it does, in words; unique in the file
    --- config              TOML with tables [modules.<name>]; {dir} is the directory of the files
    --- file name           a file that is there when the server starts: the lines as they are
    --- sql                 statements that fill the database before the server starts, one a line
    --- address 1 192.0.2.0/24 5060 carrier
                            a row of the address table: group, net, and if given port and tag
    --- message INVITE sip:bob@192.0.2.20
                            a request comes; OPTIONS without method, to sip:example.test or sip:bob@example.test without URI.
                            Its lines change the default ones: "Name: value" replaces, "+Name: value" adds, "-Name" takes
                            away; an empty line stands before a body. Or they are a whole message, start-line and all, or a
                            request of HTTP (which takes nothing but Content-Length).
                            Via, From, To, Call-ID and CSeq are added when they are missing, Content-Length too; CRLF ends
                            lines. {credentials user password} answers the last challenge (tests/parity/scenario.py)
    --- from 192.0.2.77:5080
                            where this message comes from; 192.0.2.10:5060 otherwise
    --- reply 192.0.2.20:5060 180 Ringing
                            the peer there answers the last request that it was sent; header lines may follow
    --- reply to INVITE 192.0.2.20:5060 487 Request Terminated
                            ... the last INVITE that it was sent
    --- wait 30             seconds pass
    --- calls               the calls that the request route makes for the message above, the default one if there is none
    KSR.pv.get("$rU") -> "bob"
                            arguments are integers and texts with the escapes \" \\ \r \n. Results: an integer, a text, true,
                            false, null, none (a function without parameters that gives nothing), ends (the block ends
                            here), * (cannot be foretold; a comment beside says why). ``#`` lines are comments
    --- calls NAME          the calls of another route block: ksr_reply_route or a name given to tm.t_on_...; it has to run
    --- code lua NAME       in tests/oracle alone: statements of a block in one language, show(VALUE) gives a value; NAME as
                            for ``calls``
    --- peer 192.0.2.30:22222
                            another server that exports ask (a media relay). A question is a cookie and a text; the first line
                            "PART -> ANSWER" whose PART, in double quotes, is in the text gives the answer's text behind the
                            same cookie, or a question without a cookie one without; ANSWER nothing: there is none. A case
                            of several peers has several of these sections
    --- asked               what these peers were asked in the case, in order: "host:port TEXT", "..." stands for any text
    --- differs python: title
                            in Kamailio something else happens (in this language, in all without one): docs/differences.md
                            says why in the paragraph of this title; tests/oracle sees to it that it is so
    --- not replayed reason
                            Kamailio cannot be asked: why
    --- route branch        short for a story around one ``calls``: reply (a 180 without transaction), event, or a block of an
                            INVITE that is relayed to 192.0.2.20: branch, onreply (of a 180), failure (of a 486)
    --- sent                what leaves in this step (with ``route``: in all of them), in order; nothing if it is empty
    192.0.2.10:5060 SIP/2.0 200 OK
    + Server: ...           a header line that is there; "..." stands for any text
    - Contact: ...          a header line that is not there
    = "v=0\r\n"             the body
    --- log                 texts that occur in the log

A second message without calls must not reach the script. The server listens on 192.0.2.1:5060, its domain is example.test,
its subscriber alice with the password wonderland; its log is at level debug.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

SOURCE: Final = "192.0.2.10:5060"
CALLEE: Final = "192.0.2.20:5060"
REQUEST: Final = "ksr_request_route"
BLOCK: Final = "ksr_case"  # of ``route``

_ARM: Final = {"branch": "t_on_branch", "onreply": "t_on_reply", "failure": "t_on_failure"}
_ROUTES: Final = ("request", "reply", "event", *_ARM)
_SDP: Final = "v=0\no=alice 1 1 IN IP4 192.0.2.10\ns=-\nc=IN IP4 192.0.2.10\nt=0 0\nm=audio 4000 RTP/AVP 0"
_PHONE: Final = "Max-Forwards: 70\nContact: <sip:alice@192.0.2.10:5060>\nUser-Agent: phone"
_DEFAULTS: Final = {  # by method: URI, header lines, body
    "OPTIONS": ("sip:example.test", _PHONE, ""),
    "INVITE": ("sip:bob@example.test", f"{_PHONE}\nContent-Type: application/sdp", _SDP),
    "REGISTER": ("sip:example.test", f"To: <sip:alice@example.test>\n{_PHONE}\nExpires: 3600", ""),
}
_REPLY: Final = (  # of ``route reply``
    "SIP/2.0 180 Ringing\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKours\n"
    "Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKcase\nTo: <sip:bob@example.test>;tag=b1\n"
    "Contact: <sip:bob@192.0.2.20:5060>\nCSeq: 1 INVITE"
)
_MANDATORY: Final = {
    "via": "Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKcase",
    "from": "From: <sip:alice@example.test>;tag=a1",
    "to": "To: <sip:bob@example.test>",
    "call-id": "Call-ID: case@192.0.2.10",
    "cseq": "CSeq: 1 {method}",
    "content-length": "Content-Length: {length}",
}
_COMPACT: Final = {"v": "via", "f": "from", "t": "to", "i": "call-id", "l": "content-length", "m": "contact"}

_HTTP: Final = re.compile(r"\S+ \S+ HTTP/1\.\d$", re.MULTILINE)
_BARE: Final = ("route", "from", "wait", "address", "differs", "not")  # sections without lines

_TEXT: Final = r'"(?:[^"\\]|\\["\\rn])*"'
_LITERAL: Final = rf"(?:{_TEXT}|-?\d+)"
_CALL: Final = re.compile(rf"((KSR(?:\.\w+)+)\((?:{_LITERAL}(?:, {_LITERAL})*)?\)) -> (.+)")
_RESULT: Final = re.compile(rf"{_LITERAL}|true|false|null|none|ends|\*")
_ARGUMENTS: Final = {  # of each section
    "config": r"",
    "sql": r"",
    "file": r"\w+(\.\w+)?",
    "address": r"\d+ \S+/\d+( \d+( \S+)?)?",
    "message": r"([A-Z]+( \S+)?)?",
    "from": r"\S+:\d+",
    "reply": r"(to [A-Z]+ )?\S+:\d+ \d{3} .+",
    "wait": r"\d+",
    "calls": r"\w*",
    "code": r"(lua|js|python)( \w+)?",
    "peer": r"\S+:\d+",
    "asked": r"",
    "differs": r"((lua|js|python): )?.+",
    "not": r"replayed .+",
    "route": "|".join(_ROUTES),
    "sent": r"",
    "log": r"",
}


class CaseError(Exception):
    """A case file that cannot be read: ``file:line: cause``."""


@dataclass(frozen=True)
class Call:
    """One line of ``--- calls``."""

    source: str  # the expression, the same text in all three languages
    path: str
    expected: str  # the result as scripts show it; "none", "ends" and "*" as written


@dataclass
class Expected:
    """One datagram of ``--- sent``."""

    line: str  # host:port start-line
    present: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    body: str | None = None


@dataclass
class Step:
    """Something that comes to the server."""

    kind: str  # message, reply or wait
    head: str = ""  # of a message: start-line and headers; of a reply: its further headers
    body: str = ""
    peer: str = SOURCE
    status: str = ""  # of a reply: "180 Ringing"
    method: str = ""  # of the request that is replied to, "" for any
    seconds: int = 0
    sent: list[Expected] | None = None


@dataclass
class Case:
    """One case."""

    module: str
    name: str
    config: dict[str, dict[str, Any]] = field(default_factory=dict)
    sql: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)  # name -> text
    steps: list[Step] = field(default_factory=list)
    blocks: dict[tuple[str, int], list[Call]] = field(default_factory=dict)  # by name and step
    sent: list[Expected] | None = None  # in all steps
    log: list[str] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)  # of the functions that it tests
    code: dict[str, dict[tuple[str, int], list[str]]] = field(default_factory=dict)  # by engine, then as ``blocks``
    differs: dict[str, str] = field(default_factory=dict)  # engine ("": all) -> title in docs/differences.md
    peers: dict[str, list[tuple[str, str | None]]] = field(
        default_factory=dict
    )  # host:port -> part of question, answer
    asked: list[str] | None = None
    not_replayed: str = ""  # why Kamailio cannot be asked


@dataclass
class _Section:
    number: int  # of the line that begins it
    name: str
    argument: str
    lines: list[tuple[int, str]] = field(default_factory=list)

    @property
    def full_lines(self) -> list[tuple[int, str]]:
        """The lines that hold something: no comment, not empty."""
        return [(n, line) for n, line in self.lines if line and not line.startswith("#")]


def _is_http(case: Case) -> bool:
    """Tell whether the first message runs no request route, but the event route block of HTTP requests."""
    return bool(case.steps) and _HTTP.match(case.steps[0].head) is not None


class _Reader:
    """Reads one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.cases: list[Case] = []

    def fail(self, number: int, cause: str) -> NoReturn:
        raise CaseError(f"{self._path.name}:{number}: {cause}")

    def read(self) -> list[Case]:
        titles: list[tuple[int, str, list[_Section]]] = []
        for number, line in enumerate(self._path.read_text("utf-8").split("\n"), 1):
            if line.startswith("==="):
                titles.append((number, line[3:].strip(" "), []))
            elif line.startswith("---"):
                if not titles:
                    self.fail(number, "a section before the first case")
                titles[-1][2].append(self._section(number, line))
            elif titles and titles[-1][2]:
                titles[-1][2][-1].lines.append((number, line))
            elif line and not line.startswith("#"):
                self.fail(number, "expected a comment, '=== name' or '--- section'")
        for number, name, sections in titles:
            if not name or any(c.name == name for c in self.cases):
                self.fail(number, f"the name {name!r} is empty or taken")
            self.cases.append(self._case(number, name, sections))
        if not self.cases:
            self.fail(1, "no case")
        return self.cases

    def _section(self, number: int, line: str) -> _Section:
        name, _, argument = line[3:].strip(" ").partition(" ")
        if name not in _ARGUMENTS:
            self.fail(number, f"no section {name!r}, only {', '.join(_ARGUMENTS)}")
        if not re.fullmatch(_ARGUMENTS[name], argument):
            self.fail(number, f"{name} does not take {argument!r}")
        return _Section(number, name, argument)

    def _case(self, number: int, name: str, sections: list[_Section]) -> Case:
        case = Case(self._path.stem, name)
        route = "request"
        if not any(s.name in ("calls", "code") for s in sections):
            self.fail(number, "a case without calls")
        for one in [s for s in sections if s.name == "route"]:
            if len(sections) != len({s.name for s in sections}) or any(s.name in ("reply", "wait") for s in sections):
                self.fail(one.number, "route stands for the whole story: one section of each kind, no reply, no wait")
            route = one.argument
        for section in sections:
            if section.name in _BARE and section.full_lines:
                self.fail(section.full_lines[0][0], f"{section.name} takes no lines")
            self._add(case, section, route)
        if route != "request":
            self._surround(case, route)
        elif not (
            (REQUEST, 0) in case.blocks
            or any((REQUEST, 0) in blocks for blocks in case.code.values())
            or _is_http(case)
        ):
            self.fail(number, "the first message has no calls (sections about a message stand behind it)")
        return case

    def _add(self, case: Case, section: _Section, route: str) -> None:
        """Add what one section says to the case."""
        argument, steps = section.argument, case.steps
        if section.name == "config":
            case.config = self._config(section)
        elif section.name == "sql":
            case.sql += [line for _, line in section.full_lines]
        elif section.name == "file":
            case.files[argument] = "\n".join(line for _, line in section.lines).rstrip("\n") + "\n"
        elif section.name == "address":
            group, net, *more = argument.split(" ")
            address, _, mask = net.partition("/")
            port, tag = [*more, "0", ""][:2] if len(more) != 1 else [*more, ""]
            columns = "grp, ip_addr, mask, port, tag"
            case.sql.append(f"INSERT INTO address ({columns}) VALUES ({group}, '{address}', {mask}, {port}, '{tag}')")
        elif section.name == "differs":
            engine, colon, title = argument.partition(": ")
            known = colon and engine in ("lua", "js", "python")
            case.differs[engine if known else ""] = title if known else argument
        elif section.name == "not":
            case.not_replayed = argument.removeprefix("replayed ")
        elif section.name == "peer":
            case.peers[argument] = self._answers(section)
        elif section.name == "asked":
            case.asked = [line for _, line in section.full_lines]
        elif section.name == "log":
            case.log += [line for _, line in section.full_lines]
        elif section.name == "message":
            steps.append(Step("message", *self._message(section)))
        elif section.name == "reply":
            method = argument.split(" ")[1] if argument.startswith("to ") else ""
            peer, _, status = argument.removeprefix(f"to {method} ").partition(" ")
            head = "\n".join(line for _, line in section.full_lines)
            steps.append(Step("reply", head, peer=peer, status=status, method=method))
        elif section.name == "wait":
            steps.append(Step("wait", seconds=int(argument)))
        elif section.name != "route":
            if not steps:
                steps.append(Step("message", *self._default(route)))
            if section.name == "from":
                steps[-1].peer = argument
            elif section.name == "code":
                engine, _, block = argument.partition(" ")
                lines = [line for _, line in section.lines]
                case.code.setdefault(engine, {})[block or REQUEST, len(steps) - 1] = lines
                case.paths |= set(re.findall(r"KSR(?:\.\w+)+", "\n".join(lines)))
            elif section.name == "calls":
                key = (argument or REQUEST, len(steps) - 1)
                if key in case.blocks or (not argument and steps[-1].kind != "message"):
                    self.fail(section.number, "calls of no message, or a second time")
                case.blocks[key] = self._calls(section)
                case.paths |= {call.path for call in case.blocks[key]}
            elif steps[-1].sent is not None:
                self.fail(section.number, "sent a second time in one step")
            else:
                steps[-1].sent = self._sent(section)

    def _surround(self, case: Case, route: str) -> None:
        """Make a story out of a case whose only ``calls`` stand in a block of another kind."""
        calls = case.blocks.pop((REQUEST, 0), None)
        if calls is None or case.blocks:
            raise CaseError(f"{self._path.name}: {case.name}: with route, calls have no name")
        case.sent, case.steps[0].sent = case.steps[0].sent, None
        before: list[Call] = []
        if route == "event":
            case.config = {**case.config, "htable": {**case.config.get("htable", {}), "event_callback": BLOCK}}
        elif route in _ARM:
            before = [
                Call(f'KSR.tm.{_ARM[route]}("{BLOCK}")', "", "num 1"),
                Call('KSR.seturi("sip:bob@192.0.2.20:5060")', "", "true"),
                Call("KSR.tm.t_relay()", "", "*" if route == "branch" else "num 1"),  # the branch may drop itself
            ]
        case.blocks["ksr_reply_route" if route == "reply" else BLOCK, 0] = calls
        if route != "reply":
            case.blocks[REQUEST, 0] = before
        if route in ("onreply", "failure"):
            status = "180 Ringing" if route == "onreply" else "486 Busy Here"
            case.steps.append(Step("reply", peer=CALLEE, status=status))

    def _config(self, section: _Section) -> dict[str, dict[str, Any]]:
        try:
            given = tomllib.loads("\n".join(line for _, line in section.lines))
        except tomllib.TOMLDecodeError as error:
            self.fail(section.number, str(error))
        modules = given.pop("modules", None)
        if given or not isinstance(modules, dict) or not all(isinstance(m, dict) for m in modules.values()):
            self.fail(section.number, "expected tables [modules.<name>]")
        return modules

    def _default(self, route: str) -> tuple[str, str]:
        if route == "reply":
            return _complete(_REPLY, "")
        return self._message(_Section(0, "message", "INVITE" if route in _ARM else ""))

    def _message(self, section: _Section) -> tuple[str, str]:
        """Return head and body."""
        text = "\n".join(line for _, line in section.lines).rstrip("\n")
        head, _, body = text.partition("\n\n") if not text.startswith("\n") else ("", "", text[1:])
        if head.startswith("SIP/2.0 ") or re.match(r"\S+ .* SIP/2\.0$", head, re.MULTILINE):
            if section.argument:
                self.fail(section.number, "a start-line here and below")
            return _complete(head, body)
        if _HTTP.match(head):
            return (f"{head}\nContent-Length: {len(body.encode())}" if body else head), body
        method, _, uri = section.argument.partition(" ")
        method = method or "OPTIONS"
        default_uri, lines, default_body = _DEFAULTS.get(method, ("sip:bob@example.test", _PHONE, ""))
        headers = [m.format(method=method) for name, m in _MANDATORY.items() if name != "content-length"]
        for line in lines.split("\n"):
            _replace(headers, line)
        removed, replaced = [], set()
        for number, line in section.lines[: len(head.split("\n")) if head else 0]:
            if line.startswith("#"):
                continue
            if line.startswith("-"):
                removed.append(_name(line[1:]))
                headers = [h for h in headers if _name(h) != removed[-1]]
            elif ":" not in line:
                self.fail(number, "expected a header, +header or -name")
            elif line.startswith("+") or _name(line) in replaced:
                headers.append(line.removeprefix("+"))
            else:
                _replace(headers, line)
                replaced.add(_name(line))
        start = f"{method} {uri or default_uri} SIP/2.0"
        return _complete("\n".join([start, *headers]), body or default_body, leave=removed)

    def _calls(self, section: _Section) -> list[Call]:
        calls: list[Call] = []
        for number, line in section.full_lines:
            match = _CALL.fullmatch(line)
            if match is None:
                self.fail(number, 'expected KSR.module.function("text", 1) -> result')
            source, path, result = match.groups()
            if not _RESULT.fullmatch(result):
                self.fail(number, f"no result {result!r}")
            if result == "*" and not any(line.startswith("#") for n, line in section.lines if abs(n - number) == 1):
                self.fail(number, "a comment beside the line has to say why its result cannot be foretold")
            if calls and calls[-1].expected == "ends":
                self.fail(number, "a call after one that ends the block")
            calls.append(Call(source, path, _seen(result)))
        if not calls:
            self.fail(section.number, "no calls")
        return calls

    def _answers(self, section: _Section) -> list[tuple[str, str | None]]:
        answers: list[tuple[str, str | None]] = []
        for number, line in section.full_lines:
            match = re.fullmatch(rf"({_TEXT}) -> ({_TEXT}|nothing)", line)
            if match is None:
                self.fail(number, 'expected "part of a question" -> "answer", or -> nothing')
            answers.append((unescape(match[1]), None if match[2] == "nothing" else unescape(match[2])))
        return answers

    def _sent(self, section: _Section) -> list[Expected]:
        sent: list[Expected] = []
        for number, line in section.full_lines:
            mark, rest = line[:2], line[2:]
            if mark not in ("+ ", "- ", "= "):
                if not re.fullmatch(r"\S+:\d+ .+", line):
                    self.fail(number, "expected host:port and a start-line, or '+ ', '- ', '= '")
                sent.append(Expected(line))
            elif not sent:
                self.fail(number, "no datagram before this line")
            elif mark == "= ":
                if sent[-1].body is not None or not re.fullmatch(_TEXT, rest):
                    self.fail(number, "expected one text in double quotes")
                sent[-1].body = unescape(rest)
            else:
                (sent[-1].present if mark == "+ " else sent[-1].absent).append(rest)
        return sent


class Answering:
    """The peers of a case, as exports see them (kemi.network.Peers); ``asked`` keeps the questions."""

    def __init__(self, peers: Mapping[str, list[tuple[str, str | None]]]) -> None:
        self._peers = peers
        self.asked: list[str] = []

    def ask(self, address: str, data: bytes, seconds: float, accept: Callable[[bytes], bool]) -> bytes | None:
        """Answer a question. Raise OSError where there is nobody."""
        host = address.partition(":")[2]
        if host not in self._peers:
            raise OSError("nobody listens there")
        question, answer = answer_of(self._peers[host], data)
        self.asked.append(f"{host} {question}")
        return answer if answer is not None and accept(answer) else None


def answer_of(answers: list[tuple[str, str | None]], data: bytes) -> tuple[str, bytes | None]:
    """Return the text of a question and the octets that answer it."""
    match = re.match(r"([\w.-]+ )?(.*)", data.decode("latin-1"), re.DOTALL)
    assert match is not None
    cookie, question = match[1] or "", match[2]
    answer = next((answer for part, answer in answers if part in question), None)
    return question, None if answer is None else f"{cookie}{answer}".encode("latin-1")


def read_cases(path: Path) -> list[Case]:
    """Return the cases of a file. Raise CaseError."""
    return _Reader(path).read()


def in_directory(value: Any, directory: Path) -> Any:
    """Return a value of the configuration with the name of ``directory`` in the place of {dir}."""
    if isinstance(value, dict):
        return {key: in_directory(one, directory) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [in_directory(one, directory) for one in value]
    return value.replace("{dir}", str(directory)) if isinstance(value, str) else value


def write_files(files: Mapping[str, str], directory: Path) -> None:
    """Write the files of a case into ``directory``."""
    for name, text in files.items():
        (directory / name).write_text(text, "utf-8")


def unescape(literal: str) -> str:
    """Return the octets, one a character, of a text in double quotes."""
    text = re.sub(r"\\(.)", lambda m: {"r": "\r", "n": "\n"}.get(m[1], m[1]), literal[1:-1])
    return text.encode().decode("latin-1")


def holds(pattern: str, line: str) -> bool:
    """Tell whether ``line`` is ``pattern``, in which ``...`` stands for any text."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("..."))), line, re.DOTALL) is not None


def _seen(result: str) -> str:
    """Return the result as scripts show it."""
    if result.startswith('"'):
        return f"str {unescape(result)}"
    return f"num {result}" if result.lstrip("-").isdecimal() else result


def _name(line: str) -> str:
    name = line.partition(":")[0].strip(" ").lower()
    return _COMPACT.get(name, name)


def _replace(headers: list[str], line: str) -> None:
    """Put ``line`` where the first header of its name stands, or at the end; others of the name go."""
    places = [i for i, header in enumerate(headers) if _name(header) == _name(line)]
    for place in reversed(places[1:]):
        del headers[place]
    headers[slice(*(places[0], places[0] + 1) if places else (len(headers), None))] = [line]


def _complete(head: str, body: str, leave: list[str] | None = None) -> tuple[str, str]:
    """Return head and body, with the mandatory headers that ``head`` lacks, but those to ``leave`` out."""
    body = f"{body}\n".replace("\n", "\r\n") if body else ""
    lines = head.split("\n")
    names = {_name(line) for line in lines[1:]} | set(leave or ())
    method = lines[0].partition(" ")[0]
    for name, line in _MANDATORY.items():
        if name not in names:
            lines.append(line.format(method=method, length=len(body.encode())))
    return "\n".join(lines), body
