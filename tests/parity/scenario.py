"""Scenario files: messages in, at given times, and the start lines that must leave.

A file is a list of sections, each begun by a line with ``---``:

    --- subscriber alice wonderland        a user of the domain example.test
    --- 0.0 from 192.0.2.10:5060           a message that comes at 0.0 seconds; its lines follow
    --- 0.5 reply 192.0.2.20:5060 180 Ringing
                                           the peer there answers the last request that it was sent; header lines may follow
    --- 0.5 reply-to-INVITE 192.0.2.20:5060 487 Request Terminated
                                           ... the last INVITE that it was sent
    --- 32 wait                            time passes
    --- expect                             all that left since the last expect: "host:port start-line" each, in order

In messages ``{user password}`` behind Authorization or Proxy-Authorization is replaced by the answer to the last
challenge that was sent to this peer, ``{to-tag}`` and ``{contact}`` by those of the last response sent to it, a line
``{routes}`` by its route set.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from polykemi.sip import build, digest
from polykemi.sip.header import parse_name_addr, parse_params, unquote
from polykemi.sip.message import Request, Response, parse
from polykemi.testing import Call, Sent, ServerUnderTest

_CSEQ = re.compile(r"^CSeq: *(\d+)", re.MULTILINE)


@dataclass
class Run:
    """What one run of a scenario gave."""

    sent: list[Sent] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)


def sections(path: Path) -> list[tuple[str, str]]:
    """Return (heading, text) of each section of a scenario file."""
    parts = re.split(r"^--- *(.*)\n", path.read_text(), flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def play(path: Path, server: ServerUnderTest) -> Run:
    """Run the scenario against ``server``; an ``expect`` that does not hold is an AssertionError."""
    run, start = Run(), server.now
    waiting: list[Sent] = []
    for heading, text in sections(path):
        words = heading.split()
        if words[0] == "subscriber":
            server.database.add_subscriber(words[1], "example.test", words[2])
            continue
        if words[0] == "expect":
            got = [f"{s.to} {s.start_line}" for s in waiting]
            assert got == text.splitlines(), path.name
            waiting = []
            continue
        now = server.advance(start + float(words[0]) - server.now)
        if words[1] == "from":
            now += server.receive(message_of(text, words[2], run.sent), words[2])
        elif words[1].startswith("reply"):
            method = words[1].removeprefix("reply").removeprefix("-to-")
            reply = reply_of(text, words[2], int(words[3]), " ".join(words[4:]), method, run.sent)
            now += server.receive(reply, words[2])
        run.sent += now
        waiting += now
    assert not waiting, (path.name, [f"{s.to} {s.start_line}" for s in waiting])
    run.calls = server.calls
    return run


def _last(peer: str, sent: list[Sent], kind: type[Request | Response]) -> Request | Response:
    return next(m for s in reversed(sent) if s.to == peer and isinstance(m := parse(s.data), kind))


def message_of(text: str, peer: str, sent: list[Sent]) -> bytes:
    """Return the message that ``text`` describes, which comes from ``peer`` when ``sent`` has left."""
    head, _, body = text.strip("\n").partition("\n\n")
    lines: list[str] = []
    for line in head.split("\n"):
        match = re.fullmatch(r"((?:Proxy-)?Authorization): \{(\S+) (\S+)\}", line)
        if match:
            lines.append(f"{match[1]}: {_credentials(head, match[2], match[3], _challenge(peer, sent))}")
        elif line == "{routes}":
            lines += [f"Route: {r}" for r in reversed(_last(peer, sent, Response).list("record-route"))]
        else:
            if "{to-tag}" in line:
                line = line.replace("{to-tag}", _last(peer, sent, Response).to.tag or "")
            if "{contact}" in line:
                line = line.replace("{contact}", parse_name_addr(_last(peer, sent, Response).list("contact")[0]).uri)
            lines.append(line)
    if not any(line.startswith("Content-Length:") for line in lines):
        lines.append(f"Content-Length: {len(body.encode())}")
    return "\r\n".join([*lines, "", ""]).encode() + body.encode()


def _challenge(peer: str, sent: list[Sent]) -> Response:
    """Return the last challenge that ``peer`` was sent: phones use its nonce for as long as it is taken."""
    responses = (m for s in reversed(sent) if s.to == peer and isinstance(m := parse(s.data), Response))
    return next(r for r in responses if r.status in (401, 407))


def _credentials(head: str, user: str, password: str, challenge: Request | Response) -> str:
    """Answer a challenge as a phone does."""
    value = challenge.get("www-authenticate") or challenge.get("proxy-authenticate") or ""
    given = {name: unquote(v or "") for name, v in parse_params(value.partition(" ")[2].replace(", ", ";")).items()}
    method, uri = head.split(" ")[:2]
    ha1 = digest.ha1(user, given["realm"], password, "MD5")
    if given.get("qop"):
        nc = f"{int(_CSEQ.search(head)[1]):08x}"  # type: ignore[index]  # grows with each request, as it has to
        more, answer = (
            f', qop=auth, nc={nc}, cnonce="c0"',
            digest.response(ha1, given["nonce"], method, uri, algorithm="MD5", qop="auth", nc=nc, cnonce="c0"),
        )
    else:
        more, answer = "", digest.response(ha1, given["nonce"], method, uri, algorithm="MD5", qop="", nc="", cnonce="")
    return (
        f'Digest username="{user}", realm="{given["realm"]}", nonce="{given["nonce"]}", uri="{uri}", '
        f'response="{answer}", algorithm=MD5{more}'
    )


def reply_of(text: str, peer: str, status: int, reason: str, method: str, sent: list[Sent]) -> bytes:
    """Return the answer of ``peer`` to the last request ("" or with ``method``) that was sent to it."""
    requests = (m for s in reversed(sent) if s.to == peer and isinstance(m := parse(s.data), Request))
    request = next(r for r in requests if method in ("", r.method))
    headers, _, body = text.strip("\n").partition("\n\n")
    return build.response(
        request, status, reason, to_tag="callee", headers=[h for h in headers.split("\n") if h], body=body.encode()
    )
