"""Phones without sockets for a server under test: callers and callees by RFC 3261, and a link that loses what they send."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from pathlib import Path

from polykemi.sip.message import Request, Response, parse
from polykemi.testing import Sent, ServerUnderTest

T1, T2 = 0.5, 4.0  # seconds
CALLER = "192.0.2.10"


class Link:
    """A server, its phones, and the way between them: datagrams are lost, doubled, and overtake each other."""

    def __init__(self, script: Path, seed: int, *, loss: float, doubling: float = 0.1, delay: float = 0.4) -> None:
        self.server = ServerUnderTest({"lua": script}, domains=["example.test"], seed=seed)
        self.random = random.Random(seed)
        self.loss, self.doubling, self.delay = loss, doubling, delay
        self.callers: dict[str, Caller] = {}  # by Call-ID
        self.callees: dict[str, Callee] = {}  # by branch
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._serial = 0

    @property
    def now(self) -> float:
        """Seconds since the epoch."""
        return self.server.now

    def after(self, seconds: float, work: Callable[[], object]) -> None:
        """Do ``work`` in so many seconds."""
        self._serial += 1
        heapq.heappush(self._agenda, (self.now + seconds, self._serial, work))

    def resend(self, data: bytes, source: str, is_done: Callable[[], bool], *, most: float = T2) -> None:
        """Send ``data`` to the server, again and again in growing intervals until ``is_done`` or 64*T1 are over."""
        end = self.now + 64 * T1

        def again(interval: float) -> None:
            if is_done() or self.now >= end:
                return
            self.send(data, source)
            self.after(interval, lambda: again(min(2 * interval, most)))

        again(T1)

    def send(self, data: bytes, source: str) -> None:
        """Let a phone at ``source`` send ``data`` to the server."""
        self._carry(lambda: self._take(self.server.receive(data, f"{source}:5060")))

    def _carry(self, arrive: Callable[[], object]) -> None:
        if self.random.random() < self.loss:
            return
        for _ in range(2 if self.random.random() < self.doubling else 1):
            self.after(self.random.uniform(0.01, self.delay), arrive)

    def _take(self, sent: Iterable[Sent]) -> None:
        for one in sent:
            self._carry(lambda one=one: self._arrive(one))  # type: ignore[misc]

    def _arrive(self, sent: Sent) -> None:
        message = parse(sent.data)
        if sent.flow.host == CALLER:
            assert isinstance(message, Response)
            self.callers[message.call_id].take(message)
            return
        assert isinstance(message, Request)
        branch = message.via.branch
        if message.method in ("INVITE", "CANCEL"):
            callee = self.callees.get(branch)
            if callee is None and message.method == "INVITE":
                callee = self.callees[branch] = Callee(self, message, sent.flow.host)
        else:
            callee = next((c for c in self.callees.values() if c.is_meant_by(message)), None)
        if callee is not None:
            callee.take(message)

    def run(self) -> None:
        """Let all happen that is to happen."""
        tm = self.server.node.router.services.modules["tm"]
        while self._agenda or tm.next_timeout() is not None:
            times = [self.server.node.next_timeout() or self.now, *(entry[0] for entry in self._agenda[:1])]
            self._take(self.server.advance(max(min(times) - self.now, 0.0)))
            while self._agenda and self._agenda[0][0] <= self.now:
                heapq.heappop(self._agenda)[2]()


class Caller:
    """One call of a caller, who may hang up before it is answered, and talks for a while otherwise."""

    def __init__(self, link: Link, user: str, number: int) -> None:
        self.link = link
        self.user, self.call_id = user, f"call-{number}"
        self.status = 0  # of the first final response, 408 when none came
        self.rang = self.canceled = self.ended = False
        self.talks: dict[str, bool] = {}  # To tag of each 2xx -> whether a BYE has ended it
        self.finals: set[int] = set()
        self.patience = link.random.choice([1000.0, 1000.0, link.random.uniform(0.0, 40.0)])
        link.callers[self.call_id] = self
        self.branches = 0
        invite = self._request("INVITE", "z9hG4bKi", 1, f"sip:{user}@example.test", "")
        link.resend(invite, CALLER, lambda: self.rang or self.status > 0, most=100)
        link.after(64 * T1, lambda: None if self.rang or self.status else self._fail())
        link.after(self.patience, self.hang_up)

    def _request(self, method: str, branch: str, cseq: int, uri: str, to_tag: str, routes: Iterable[str] = ()) -> bytes:
        lines = [f"{method} {uri} SIP/2.0", f"Via: SIP/2.0/UDP {CALLER};branch={branch}{self.call_id}"]
        lines += [f"Route: {route}" for route in routes]
        lines += ["From: <sip:alice@example.test>;tag=alice", f"To: <sip:{self.user}@example.test>{to_tag}"]
        lines += [f"Call-ID: {self.call_id}", f"CSeq: {cseq} {method}", "Max-Forwards: 70"]
        lines += [f"Contact: <sip:alice@{CALLER}>", "Content-Length: 0", "", ""]
        return "\r\n".join(lines).encode()

    def _fail(self) -> None:
        self.status = self.status or 408

    def hang_up(self) -> None:
        """Cancel the call: once something has come back (RFC 3261 section 9.1)."""
        if self.status:
            return
        if not self.rang:
            self.link.after(1.0, self.hang_up)
            return
        self.canceled = True
        cancel = self._request("CANCEL", "z9hG4bKi", 1, f"sip:{self.user}@example.test", "")
        self.link.resend(cancel, CALLER, lambda: self.ended)
        self.link.after(64 * T1 + 10, self._fail)

    def take(self, response: Response) -> None:
        """Take a response."""
        method, status, tag = response.cseq[1], response.status, response.to.tag or ""
        if method == "CANCEL":
            self.ended = True
        elif method == "BYE":
            self.talks[tag] = True
        elif status < 200:
            self.rang = True
        elif status >= 300:
            self.finals.add(status)
            self.status = self.status or status
            to_tag = f";tag={tag}" if tag else ""
            self.link.send(self._request("ACK", "z9hG4bKi", 1, f"sip:{self.user}@example.test", to_tag), CALLER)
        else:
            self._answered(response, tag)

    def _answered(self, response: Response, tag: str) -> None:
        routes = response.list("record-route")[::-1]
        contact = response.list("contact")[0].strip("<>")
        self.branches += 1
        ack = self._request("ACK", f"z9hG4bKa{self.branches}", 1, contact, f";tag={tag}", routes)
        self.link.send(ack, CALLER)
        if tag in self.talks:
            return
        first = not self.status and not self.canceled
        self.status = self.status or 200
        self.talks[tag] = False
        bye = self._request("BYE", f"z9hG4bKb{tag}", 2, contact, f";tag={tag}", routes)
        talk = self.link.random.uniform(0.0, 60.0) if first else 0.0
        self.link.after(talk, lambda: self.link.resend(bye, CALLER, lambda: self.talks[tag]))


class Callee:
    """A phone with one INVITE: it rings or does not, and answers, refuses, or lets it ring."""

    def __init__(self, link: Link, invite: Request, host: str) -> None:
        self.link, self.invite, self.host = link, invite, host
        self.tag = f"t{len(link.callees)}"
        self.status = 0  # of its final response
        self.is_acked = self.has_bye = False
        self.last = b""
        draw = link.random
        wait = draw.choice([0.1, draw.uniform(0.0, 30.0), draw.uniform(100.0, 200.0)])
        status = draw.choice([0, 200, 200, 200, 404, 486, 503, 603])  # 0: it rings for ever, or is not there at all
        if draw.random() < 0.8 or (status and wait > 2.0):
            link.after(draw.uniform(0.0, 2.0), lambda: self.answer(draw.choice([100, 180, 183])))
        if status:
            link.after(wait, lambda: self.answer(status))

    def is_meant_by(self, request: Request) -> bool:
        """Whether an ACK or BYE is for this one."""
        return request.call_id == self.invite.call_id and request.to.tag == self.tag

    def response(self, request: Request, status: int) -> bytes:
        """Return a response of this phone."""
        lines = [f"SIP/2.0 {status} Reason"]
        for name, line in zip(request.names, request.lines, strict=True):
            if name == "to" and not request.to.tag and status > 100:
                line += f";tag={self.tag}"
            if name in ("via", "from", "to", "call-id", "cseq", "record-route"):
                lines.append(line)
        lines += [f"Contact: <sip:phone@{self.host}>", "Content-Length: 0", "", ""]
        return "\r\n".join(lines).encode("latin-1")

    def answer(self, status: int) -> None:
        """Answer the INVITE; a final response is sent until its ACK comes (sections 13.3.1.4 and 17.2.1)."""
        if self.status:
            return
        self.last = self.response(self.invite, status)
        if status < 200:
            self.link.send(self.last, self.host)
            return
        self.status = status
        self.link.resend(self.last, self.host, lambda: self.is_acked)

    def take(self, request: Request) -> None:
        """Take a request."""
        if request.method == "INVITE":
            if self.last and not 200 <= self.status < 300:
                self.link.send(self.last, self.host)
        elif request.method == "ACK":
            self.is_acked = True
        elif request.method == "CANCEL":
            self.link.send(self.response(request, 200), self.host)
            self.answer(487)
        else:
            self.has_bye = True
            self.link.send(self.response(request, 200), self.host)
