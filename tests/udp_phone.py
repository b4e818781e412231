"""A phone that speaks UDP: a test says what it sends and answers."""

from __future__ import annotations

import socket

from tests.waiting import PATIENCE


class UdpPhone:
    """Sends and receives datagrams from and to one server."""

    def __init__(
        self, server: tuple[str, int], user: str, domain: str, address: tuple[str, int] = ("127.0.0.1", 0)
    ) -> None:
        self.user, self.domain, self._server = user, domain, server
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(PATIENCE)
        self.host, self.port = self.socket.getsockname()

    @property
    def aor(self) -> str:
        """The address of record, in angle brackets."""
        return f"<sip:{self.user}@{self.domain}>"

    def send(self, method: str, uri: str, to: str, *headers: str, call: str = "", branch: str = "") -> None:
        """Send a request."""
        lines = [
            f"{method} {uri} SIP/2.0",
            f"Via: SIP/2.0/UDP {self.host}:{self.port};branch=z9hG4bK{branch or method}{self.user}{call}",
            f"From: {self.aor};tag=from{self.user}",
            f"To: {to}",
            f"Call-ID: {call or f'{method}-{self.user}'}",
            f"CSeq: 1 {method}",
            "Max-Forwards: 70",
            f"Contact: <sip:{self.user}@{self.host}:{self.port}>",
            *headers,
            "Content-Length: 0",
        ]
        self.socket.sendto("\r\n".join([*lines, "", ""]).encode(), self._server)

    def receive(self, beginning: str) -> str:
        """Return the next message that begins so; others are passed over."""
        while not (text := self.socket.recv(65536).decode()).startswith(beginning):
            pass
        return text

    def answer(self, request: str, status: int) -> None:
        """Answer a request."""
        head = request.split("\r\n\r\n", maxsplit=1)[0].split("\r\n")[1:]
        kept = [line for line in head if line.partition(":")[0] in ("Via", "From", "Call-ID", "CSeq", "Record-Route")]
        (to,) = (line for line in head if line.startswith("To:"))
        contact = f"Contact: <sip:{self.user}@{self.host}:{self.port}>"
        lines = [f"SIP/2.0 {status} Reason", *kept, f"{to};tag=callee", contact, "Content-Length: 0", "", ""]
        self.socket.sendto("\r\n".join(lines).encode(), self._server)

    def register(self, *headers: str) -> None:
        """Register, and wait until that is confirmed."""
        self.send("REGISTER", f"sip:{self.domain}", self.aor, *headers)
        self.receive("SIP/2.0 200")

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()
