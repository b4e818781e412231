"""Phones for bench/soak.py: they register, call each other, send what comes to their mind, and vanish without a word.

All of one event loop. Over UDP a part of the packets is lost, both ways, and sent again (RFC 3261 section 17).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import random
import re
import ssl
import struct
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from wsproto.frame_protocol import FrameProtocol, Opcode

from polykemi.sip.framing import PING, Framer

T1: Final = 0.5  # seconds
TIMEOUT: Final = 64 * T1
HANDSHAKE: Final = (
    "GET / HTTP/1.1\r\nHost: {domain}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nOrigin: http://{domain}\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: sip\r\n\r\n"
)
SDP: Final = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
_serial = itertools.count(1)


class Gone(Exception):
    """The connection has ended, or nobody has answered."""


def values(message: str, name: str) -> list[str]:
    """Return the values of the headers ``name``, one for each line."""
    return re.findall(rf"^{name}:[ \t]*(.*?)\r$", message, re.M | re.I)


class Network:
    """What all phones share: where the server is, what came of their requests, and chance."""

    def __init__(self, server: tuple[str, int], domain: str, lost: float, seed: int) -> None:
        self.server, self.domain, self.lost = server, domain, lost
        self.tls: tuple[int, ssl.SSLContext] | None = None  # the port of TLS, and whom the phones trust
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()


class Phone:
    """One user's phone: requests with credentials, answers to what comes in."""

    transport = "UDP"

    def __init__(self, network: Network, user: str, password: str) -> None:
        self.network, self.user, self.password = network, user, password
        self.sent_by = ""
        self.contact = ""
        self._replies: dict[str, asyncio.Queue[str]] = {}  # by branch
        self._last = ""  # the answer that a retransmission of the same request gets, by its branch
        self._answered: dict[str, str] = {}

    # ---- the wire: TCP and WebSocket have their own
    async def open(self) -> None:
        """Bind a socket."""
        loop = asyncio.get_running_loop()
        phone = self

        class Protocol(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, address: Any) -> None:
                if phone.network.random.random() >= phone.network.lost:
                    phone.received(data.decode("latin-1"))

        host = self.network.server[0]
        self._udp, _ = await loop.create_datagram_endpoint(Protocol, local_addr=(host, 0))
        self._named(self._udp.get_extra_info("sockname"))

    def _named(self, address: tuple[str, int]) -> None:
        self.sent_by = f"{address[0]}:{address[1]}"
        parameter = "" if self.transport == "UDP" else f";transport={self.transport.lower()}"
        self.contact = f"<sip:{self.user}@{self.sent_by}{parameter}>"

    def send(self, text: str) -> None:
        """Send one message, or lose it."""
        if self.network.random.random() >= self.network.lost:
            self._udp.sendto(text.encode("latin-1"), self.network.server)

    def close(self) -> None:
        """Vanish."""
        self._udp.close()

    # ---- what comes in
    def received(self, text: str) -> None:
        """Take one message."""
        via = (values(text, "Via") or values(text, "v") or [""])[0]
        branch = re.search(r"branch=([^;,\s]+)", via)
        if branch is None:
            return
        if text.startswith("SIP/2.0 "):
            queue = self._replies.get(branch[1])
            if queue is not None:
                queue.put_nowait(text)
            return
        method = text.partition(" ")[0]
        if method == "ACK":
            return
        known = self._answered.get(method + branch[1])
        if known is None:
            if len(self._answered) > 50:
                self._answered.clear()
            if method == "INVITE" and self.network.random.random() < 0.2:
                known = self._answer(text, "486 Busy Here")
            else:
                if method == "INVITE":
                    self.send(self._answer(text, "180 Ringing"))
                known = self._answer(text, "200 OK", SDP if method == "INVITE" else "")
            self._answered[method + branch[1]] = known
            self.network.counts[f"{method} taken"] += 1
        self.send(known)

    def _answer(self, request: str, status: str, body: str = "") -> str:
        lines = [f"SIP/2.0 {status}"]
        for name in ("Via", "Record-Route", "From", "Call-ID", "CSeq"):
            lines += [f"{name}: {value}" for value in values(request, name)]
        to = values(request, "To")[0]
        lines.append(f"To: {to}" if ";tag=" in to else f"To: {to};tag={self.user}2")
        lines += [f"Contact: {self.contact}", f"Content-Length: {len(body)}", "", body]
        return "\r\n".join(lines)

    # ---- requests
    async def request(self, method: str, uri: str, to: str, *headers: str, body: str = "") -> str:
        """Send a request, with credentials when they are asked for, and return its final reply. Raise Gone."""
        call_id = f"{self.user}-{next(_serial)}"
        cseq, reply, more = 1, "", list(headers)
        for _ in range(3):  # a nonce may be stale
            reply = await self._once(method, uri, to, call_id, cseq, more, body)
            status = reply[8:11]
            if status not in ("401", "407"):
                break
            more, cseq = [*headers, self._credentials(reply, method, uri)], cseq + 1
        self.network.counts[f"{method} {reply[8:11]}"] += 1
        return reply

    async def _once(
        self, method: str, uri: str, to: str, call_id: str, cseq: int, headers: Iterable[str], body: str, tag: str = ""
    ) -> str:
        branch = f"z9hG4bKsoak{next(_serial)}"
        lines = [f"{method} {uri} SIP/2.0", f"Via: SIP/2.0/{self.transport} {self.sent_by};branch={branch};rport"]
        lines += [
            "Max-Forwards: 70",
            f"From: <sip:{self.user}@{self.network.domain}>;tag={tag or self.user}",
            f"To: {to}",
        ]
        lines += [f"Call-ID: {call_id}", f"CSeq: {cseq} {method}", f"Contact: {self.contact}", *headers]
        if body:
            lines.append("Content-Type: application/sdp")
        text = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", body])
        queue = self._replies[branch] = asyncio.Queue()
        try:
            reply = await self._final(queue, text, method)
        finally:
            del self._replies[branch]
        if method == "INVITE" and reply[8] != "2":
            ack = [f"ACK {uri} SIP/2.0", lines[1], *lines[2:4], f"To: {values(reply, 'To')[0]}"]
            self.send("\r\n".join([*ack, f"Call-ID: {call_id}", f"CSeq: {cseq} ACK", "Content-Length: 0", "", ""]))
        return reply

    async def _final(self, queue: asyncio.Queue[str], text: str, method: str) -> str:
        loop = asyncio.get_running_loop()
        end, wait, provisional = loop.time() + TIMEOUT, T1, False
        self.send(text)
        while loop.time() < end:
            try:
                async with asyncio.timeout(wait if self.transport == "UDP" else TIMEOUT):
                    reply = await queue.get()
            except TimeoutError:
                if self.transport == "UDP" and not (provisional and method == "INVITE"):
                    self.send(text)
                    wait = min(2 * wait, 4.0)
                continue
            if reply[8] != "1":
                return reply
            provisional = True
        self.network.counts[f"{method} without an answer"] += 1
        raise Gone

    def _credentials(self, challenge: str, method: str, uri: str) -> str:
        realm, nonce = (re.findall(rf'{name}="([^"]*)"', challenge)[0] for name in ("realm", "nonce"))

        def md5(text: str) -> str:
            return hashlib.md5(text.encode()).hexdigest()

        response = md5(f"{md5(f'{self.user}:{realm}:{self.password}')}:{nonce}:{md5(f'{method}:{uri}')}")
        name = "Proxy-Authorization" if challenge[8:11] == "407" else "Authorization"
        return f'{name}: Digest username="{self.user}", realm="{realm}", nonce="{nonce}", uri="{uri}", response="{response}"'

    async def register(self, expires: int) -> None:
        """Register, or unregister with 0."""
        domain = self.network.domain
        await self.request("REGISTER", f"sip:{domain}", f"<sip:{self.user}@{domain}>", f"Expires: {expires}")

    async def call(self, other: str, seconds: float) -> None:
        """Call another user and hang up after ``seconds``."""
        uri = f"sip:{other}@{self.network.domain}"
        reply = await self.request("INVITE", uri, f"<{uri}>", body=SDP)
        if reply[8] != "2":
            return
        target = values(reply, "Contact")[0].partition(">")[0].lstrip("<")
        routes = [one.strip() for line in values(reply, "Record-Route") for one in line.split(",")][::-1]
        headers = [f"Route: {route}" for route in routes]
        call_id, to = values(reply, "Call-ID")[0], values(reply, "To")[0]
        cseq = int(values(reply, "CSeq")[0].split()[0])
        via = f"Via: SIP/2.0/{self.transport} {self.sent_by};branch=z9hG4bKsoak{next(_serial)}"
        ack = [
            f"ACK {target} SIP/2.0",
            via,
            "Max-Forwards: 70",
            *headers,
            f"From: {values(reply, 'From')[0]}",
            f"To: {to}",
        ]
        ack += [f"Call-ID: {call_id}", f"CSeq: {cseq} ACK", "Content-Length: 0", "", ""]
        self.send("\r\n".join(ack))
        await asyncio.sleep(seconds)
        self.send("\r\n".join(ack))  # again: it may have been lost
        bye = await self._once("BYE", target, to, call_id, cseq + 1, headers, "")
        self.network.counts[f"BYE {bye[8:11]}"] += 1


class TcpPhone(Phone):
    """A phone with a connection of its own."""

    transport = "TCP"

    async def open(self) -> None:
        """Connect."""
        host, port = self.network.server
        self._reader, self._writer = await self._connect(host, port)
        self._named(self._writer.get_extra_info("sockname"))
        self._framer = Framer()
        await self._greet()
        self._reading = asyncio.create_task(self._read())

    async def _connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(host, port, local_addr=(host, 0))

    async def _greet(self) -> None:
        """Say what has to be said first."""

    async def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := await self._reader.read(65536):
                for message in self._messages(data):
                    if message != PING:
                        self.received(message.decode("latin-1"))

    def _messages(self, data: bytes) -> Iterable[bytes]:
        return self._framer.feed(data)

    def send(self, text: str) -> None:
        """Send one message."""
        self.write(text.encode("latin-1"))

    def write(self, data: bytes) -> None:
        """Send octets."""
        if not self._writer.is_closing():
            self._writer.write(data)

    def close(self) -> None:
        """Vanish: with a FIN, or with an RST."""
        self._reading.cancel()
        if self.transport != "TLS" and self.network.random.random() < 0.5:
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER
        self._writer.close()


class TlsPhone(TcpPhone):
    """A phone with a connection that nobody reads."""

    transport = "TLS"

    async def _connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        assert self.network.tls is not None
        port, context = self.network.tls
        return await asyncio.open_connection(host, port, local_addr=(host, 0), ssl=context)


class WebPhone(TcpPhone):
    """A phone in a browser (RFC 7118)."""

    transport = "WS"

    def _named(self, address: tuple[str, int]) -> None:
        self.sent_by = f"{self.user}{next(_serial)}.invalid"
        self.contact = f"<sip:{self.user}@{self.sent_by};transport=ws>"

    async def _greet(self) -> None:
        self._frames, self._text = FrameProtocol(client=True, extensions=[]), b""
        self._writer.write(HANDSHAKE.format(domain=self.network.domain).encode())
        answer = await self._reader.readuntil(b"\r\n\r\n")
        self.network.counts[f"handshake {answer[9:12].decode()}"] += 1
        if not answer.startswith(b"HTTP/1.1 101"):
            raise Gone

    def _messages(self, data: bytes) -> Iterable[bytes]:
        self._frames.receive_bytes(data)
        for frame in self._frames.received_frames():
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONTINUATION):
                self._text += frame.payload.encode() if isinstance(frame.payload, str) else bytes(frame.payload)  # type: ignore[arg-type]
                if frame.message_finished:
                    yield self._text
                    self._text = b""

    def send(self, text: str) -> None:
        """Send one message in a frame."""
        self.write(bytes(self._frames.send_data(text)))


KINDS: Final[tuple[type[Phone], ...]] = (Phone, TcpPhone, WebPhone, TlsPhone)


def malformed(chance: random.Random, domain: str) -> bytes:
    """Return a request with something wrong in it."""
    text = (
        f"OPTIONS sip:{domain} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bK{next(_serial)}\r\n"
        f"From: <sip:a@{domain}>;tag=1\r\nTo: <sip:{domain}>\r\nCall-ID: {next(_serial)}\r\nCSeq: 1 OPTIONS\r\n"
        "Contact: <sip:a@127.0.0.1:9>\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    )
    data = bytearray(text.encode())
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(data))
        match chance.randrange(4):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                del data[at : at + chance.randint(1, 30)]
            case 2:
                data[at:at] = bytes(chance.choice(b'\r\n\0;,<>"@:=% ') for _ in range(chance.randint(1, 40)))
            case _:
                data[at:at] = data[: chance.randint(1, 200)] * chance.randint(1, 20)
        if not data:
            return b"\r\n"
    return bytes(data[:60_000])


async def something(phone: Phone, other: str) -> None:
    """Do one of the things that phones do. Raise Gone."""
    network = phone.network
    uri = f"sip:{other}@{network.domain}"
    match network.random.randrange(5):
        case 0:
            await phone.register(20)
        case 1:
            await phone.call(other, network.random.uniform(0.1, 3))
        case 2:
            await phone.request("SUBSCRIBE", uri, f"<{uri}>", "Event: presence", "Expires: 60")
        case 3:
            await phone.request("MESSAGE", uri, f"<{uri}>")
        case _:
            await phone.request("OPTIONS", f"sip:{network.domain}", f"<sip:{network.domain}>")


async def life(kind: type[Phone], network: Network, user: str, password: str, users: list[str], pace: float) -> None:
    """Be a phone: open, register, call, ask, vanish, and again. ``pace``: seconds between two things, on average."""
    chance = network.random
    while True:
        phone = kind(network, user, password)
        try:
            await phone.open()
            network.counts[f"{phone.transport} opened"] += 1
            await phone.register(chance.choice((5, 10, 20)))  # who vanishes is called in vain for so long
            for _ in range(chance.randint(1, 12)):
                await asyncio.sleep(chance.expovariate(1 / pace))
                await something(phone, chance.choice(users))
            if chance.random() < 0.3:
                await phone.register(0)
        except (Gone, OSError, asyncio.IncompleteReadError):
            network.counts["gave up"] += 1
            await asyncio.sleep(pace)
        finally:
            with contextlib.suppress(AttributeError):  # it was never open
                phone.close()


async def rubbish(network: Network, pace: float) -> None:
    """Send malformed messages over everything."""
    loop = asyncio.get_running_loop()
    host, port = network.server
    udp, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=(host, 0))
    try:
        while True:
            await asyncio.sleep(network.random.expovariate(1 / pace))
            udp.sendto(malformed(network.random, network.domain), network.server)
            network.counts["rubbish"] += 1
            if network.random.random() < 0.2:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection(host, port, local_addr=(host, 0))
                    web = network.random.random() < 0.5
                    if web:
                        writer.write(HANDSHAKE.format(domain=network.domain).encode())
                    try:
                        writer.write(malformed(network.random, network.domain))
                        await asyncio.sleep(0.1)
                    finally:
                        writer.close()
    finally:
        udp.close()
