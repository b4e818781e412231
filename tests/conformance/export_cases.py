r"""The case files under ``exports/``: what each KSR function answers and sends, the same on every engine.

One file a module (``core.txt``: the functions on KSR itself), a list of cases; ``#`` lines before the first are comments:

    === what it does, in words; unique in the file
    --- config              TOML with tables [modules.<name>]
    --- message INVITE      a default message: OPTIONS (also without the section), INVITE (with SDP), REGISTER, 180
    --- message             ... or the lines of one, an empty line before its body. Via, From, To, Call-ID and CSeq are
                            those of the default unless they are given, Content-Length is added; lines end with CRLF
    --- from 192.0.2.77:5080
                            where the message comes from; 192.0.2.10:5060 otherwise
    --- route branch        the block that makes the calls: request (also without the section), reply, event, or one of a
                            surrounding INVITE that is relayed to 192.0.2.20: branch, onreply (of a 180), failure (of a 486)
    --- calls
    KSR.pv.get("$rU") -> "bob"
                            arguments are integers and texts with the escapes \" \\ \r \n. Results: an integer, a text, true,
                            false, null, none (a function without parameters that gives nothing), ends (the block ends
                            here), * (cannot be foretold; a comment says why). ``#`` lines are comments
    --- sent                what leaves, in order; without the section nothing does but what the surrounding call sends
    192.0.2.10:5060 SIP/2.0 200 OK
    + Server: ...           a header line that is there; "..." stands for any text
    - Contact: ...          a header line that is not there
    = "v=0\r\n"             the body
    --- log                 texts that occur in the log

The server listens on 192.0.2.1:5060, its domain is example.test, its subscriber alice with the password wonderland.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

ROUTES: Final = ("request", "reply", "event", "branch", "onreply", "failure")
SOURCE: Final = "192.0.2.10:5060"
CALLEE: Final = "192.0.2.20:5060"

_SDP: Final = "v=0\no=alice 1 1 IN IP4 192.0.2.10\ns=-\nc=IN IP4 192.0.2.10\nt=0 0\nm=audio 4000 RTP/AVP 0"
MESSAGES: Final = {
    "OPTIONS": "OPTIONS sip:bob@example.test SIP/2.0\nMax-Forwards: 70\nContact: <sip:alice@192.0.2.10:5060>\nUser-Agent: phone",
    "INVITE": "INVITE sip:bob@example.test SIP/2.0\nMax-Forwards: 70\nContact: <sip:alice@192.0.2.10:5060>\nUser-Agent: phone\n"
    f"Content-Type: application/sdp\n\n{_SDP}",
    "REGISTER": "REGISTER sip:example.test SIP/2.0\nTo: <sip:alice@example.test>\nMax-Forwards: 70\n"
    "Contact: <sip:alice@192.0.2.10:5060>\nExpires: 3600\nUser-Agent: phone",
    "180": "SIP/2.0 180 Ringing\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKours\n"
    "Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKcase\nTo: <sip:bob@example.test>;tag=b1\n"
    "Contact: <sip:bob@192.0.2.20:5060>",
}
_MANDATORY: Final = {
    "via": "Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKcase",
    "from": "From: <sip:alice@example.test>;tag=a1",
    "to": "To: <sip:bob@example.test>",
    "call-id": "Call-ID: case@192.0.2.10",
    "cseq": "CSeq: 1 {method}",
    "content-length": "Content-Length: {length}",
}
_COMPACT: Final = {"v": "via", "f": "from", "t": "to", "i": "call-id", "l": "content-length"}

_TEXT: Final = r'"(?:[^"\\]|\\["\\rn])*"'
_LITERAL: Final = rf"(?:{_TEXT}|-?\d+)"
_CALL: Final = re.compile(rf"((KSR(?:\.\w+)+)\((?:{_LITERAL}(?:, {_LITERAL})*)?\)) -> (.+)")
_RESULT: Final = re.compile(rf"{_LITERAL}|true|false|null|none|ends|\*")
_SENT: Final = re.compile(r"\S+:\d+ .+")
_SECTIONS: Final = ("config", "message", "from", "route", "calls", "sent", "log")


class CaseError(Exception):
    """A case file that cannot be read: ``file:line: cause``."""


@dataclass(frozen=True)
class Call:
    """One line of ``--- calls``."""

    source: str  # the expression, the same text in all three languages
    path: str
    expected: str  # what ``seen`` makes of the result; "ends" and "*" as written


@dataclass
class Expected:
    """One datagram of ``--- sent``."""

    line: str  # host:port start-line
    present: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    body: str | None = None


@dataclass
class Case:
    """One case."""

    module: str
    name: str
    where: str  # file:line
    config: dict[str, dict[str, Any]] = field(default_factory=dict)
    message: bytes = b""
    source: str = SOURCE
    route: str = "request"
    calls: list[Call] = field(default_factory=list)
    sent: list[Expected] | None = None
    log: list[str] = field(default_factory=list)


@dataclass
class _Section:
    number: int  # of the line that begins it
    name: str
    argument: str
    lines: list[tuple[int, str]] = field(default_factory=list)


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
            if line.startswith("=== "):
                titles.append((number, line[4:].strip(" "), []))
            elif line.startswith("--- "):
                if not titles:
                    self.fail(number, "a section before the first case")
                name, _, argument = line[4:].strip(" ").partition(" ")
                if name not in _SECTIONS:
                    self.fail(number, f"no section {name!r}, only {', '.join(_SECTIONS)}")
                if any(s.name == name for s in titles[-1][2]):
                    self.fail(number, f"a second section {name!r}")
                titles[-1][2].append(_Section(number, name, argument.strip(" ")))
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

    def _case(self, number: int, name: str, sections: list[_Section]) -> Case:
        case = Case(self._path.stem, name, f"{self._path.name}:{number}")
        given = {s.name: s for s in sections}
        if "calls" not in given:
            self.fail(number, "a case without calls")
        for section in sections:
            if section.argument and section.name not in ("message", "from", "route"):
                self.fail(section.number, f"{section.name} takes no argument")
            if section.name in ("from", "route"):
                self._lines(section, most=0)
        if "route" in given:
            case.route = given["route"].argument
            if case.route not in ROUTES:
                self.fail(given["route"].number, f"no route {case.route!r}, only {', '.join(ROUTES)}")
        if "from" in given:
            case.source = given["from"].argument
            if not re.fullmatch(r"\S+:\d+", case.source):
                self.fail(given["from"].number, "expected host:port")
        if "config" in given:
            case.config = self._config(given["config"])
        case.message = self._message(given.get("message"), case.route)
        case.calls = self._calls(given["calls"])
        if "sent" in given:
            case.sent = self._sent(given["sent"])
        if "log" in given:
            case.log = [line for _, line in self._lines(given["log"])]
        return case

    def _lines(self, section: _Section, most: int | None = None) -> list[tuple[int, str]]:
        """Return the lines of a section that hold something: no comment, not empty."""
        lines = [(n, line) for n, line in section.lines if line and not line.startswith("#")]
        if most is not None and len(lines) > most:
            self.fail(lines[most][0], f"{section.name} takes no lines")
        return lines

    def _config(self, section: _Section) -> dict[str, dict[str, Any]]:
        try:
            given = tomllib.loads("\n".join(line for _, line in section.lines))
        except tomllib.TOMLDecodeError as error:
            self.fail(section.number, str(error))
        modules = given.pop("modules", None)
        if given or not isinstance(modules, dict) or not all(isinstance(m, dict) for m in modules.values()):
            self.fail(section.number, "expected tables [modules.<name>]")
        return modules

    def _message(self, section: _Section | None, route: str) -> bytes:
        default = {"request": "OPTIONS", "event": "OPTIONS", "reply": "180"}.get(route, "INVITE")
        text = MESSAGES[default]
        if section is not None and section.argument:
            if section.argument not in MESSAGES:
                self.fail(section.number, f"no default message {section.argument!r}, only {', '.join(MESSAGES)}")
            self._lines(section, most=0)
            text = MESSAGES[section.argument]
        elif section is not None:
            text = "\n".join(line for _, line in section.lines).strip("\n")
            if not text:
                self.fail(section.number, "a message without lines")
        return complete(text)

    def _calls(self, section: _Section) -> list[Call]:
        calls: list[Call] = []
        for number, line in self._lines(section):
            match = _CALL.fullmatch(line)
            if match is None:
                self.fail(number, 'expected KSR.module.function("text", 1) -> result')
            source, path, result = match.groups()
            if not _RESULT.fullmatch(result):
                self.fail(number, f"no result {result!r}")
            if calls and calls[-1].expected == "ends":
                self.fail(number, "a call after one that ends the block")
            calls.append(Call(source, path, _seen(result)))
        if not calls:
            self.fail(section.number, "no calls")
        return calls

    def _sent(self, section: _Section) -> list[Expected]:
        sent: list[Expected] = []
        for number, line in self._lines(section):
            mark, rest = line[:2], line[2:]
            if mark not in ("+ ", "- ", "= "):
                if not _SENT.fullmatch(line):
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


def read_cases(path: Path) -> list[Case]:
    """Return the cases of a file. Raise CaseError."""
    return _Reader(path).read()


def unescape(literal: str) -> str:
    """Return the octets, one a character, of a text in double quotes."""
    text = re.sub(r"\\(.)", lambda m: {"r": "\r", "n": "\n"}.get(m[1], m[1]), literal[1:-1])
    return text.encode().decode("latin-1")


def _seen(result: str) -> str:
    """Return the result as scripts show it."""
    if result.startswith('"'):
        return f"str {unescape(result)}"
    return f"num {result}" if result.lstrip("-").isdecimal() else result


def complete(text: str) -> bytes:
    """Return the message, with the mandatory headers that ``text`` lacks."""
    head, _, body = text.partition("\n\n")
    if body:
        body += "\n"
    lines = head.split("\n")
    names = {name for line in lines[1:] if (name := line.partition(":")[0].strip(" ").lower())}
    names = {_COMPACT.get(name, name) for name in names}
    method = "INVITE" if lines[0].startswith("SIP/") else lines[0].partition(" ")[0]
    body_octets = body.replace("\n", "\r\n").encode()
    for name, line in _MANDATORY.items():
        if name not in names:
            lines.append(line.format(method=method, length=len(body_octets)))
    return "\r\n".join([*lines, "", ""]).encode() + body_octets


def holds(pattern: str, line: str) -> bool:
    """Tell whether ``line`` is ``pattern``, in which ``...`` stands for any text."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("..."))), line, re.DOTALL) is not None
