"""TLS of one connection (RFC 8446, RFC 5246): octets to octets by OpenSSL, over buffers in memory. No sockets here.

A connection that has been made and has said nothing costs no state of OpenSSL: that begins with the whole ClientHello, for the
name in it (RFC 6066 section 3) chooses the profile.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Final, NamedTuple

from polykemi.errors import ParseError
from polykemi.kemi.network import TlsState

_LONGEST_HELLO: Final = 1 << 14  # octets of a ClientHello: those of browsers have 2,000
_MOST_RECORDS: Final = 16  # that it may come in
_RECORD: Final = 1 << 14  # octets in one record (RFC 8446 section 5.1)


class Credentials(NamedTuple):
    """What a connection is made with: a context of OpenSSL, and our certificate in it (DER), empty for none."""

    context: ssl.SSLContext
    certificate: bytes


class Tls:
    """What has to be known of a connection over TLS.

    ``to_send`` are octets that the protocol wants sent; ``error`` says what has ended it, "" until then; ``is_open`` is set
    when the handshake is over, ``is_closed`` when the peer sends no more (close_notify). ``is_waiting``: a ClientHello has
    come, and ``proceed`` is to be called, which takes a millisecond.
    """

    __slots__ = (
        "_certificate",
        "_choose",
        "_hello",
        "_incoming",
        "_object",
        "_outgoing",
        "error",
        "is_closed",
        "is_open",
        "is_plain",
        "is_waiting",
        "server_name",
        "to_send",
    )

    def __init__(self, server_name: str = "") -> None:
        """Begin nothing yet: see ``accepting`` and ``calling``."""
        self._choose: Callable[[str], Credentials] | None = None
        self._certificate = b""  # ours
        self._hello = b""
        self._incoming: ssl.MemoryBIO | None = None
        self._outgoing: ssl.MemoryBIO | None = None
        self._object: ssl.SSLObject | None = None
        self.server_name = server_name  # that the client has asked for, "" for none
        self.to_send = b""
        self.error = ""
        self.is_open = False
        self.is_closed = False
        self.is_plain = False  # the peer does not speak TLS
        self.is_waiting = False

    def receive(self, data: bytes) -> bytes:
        """Take octets; return those that the peer has encrypted."""
        if self.error:
            return b""
        if self._object is not None:
            return self._take(data)
        self._hello += data
        try:
            name = client_hello(self._hello)
            if len(self._hello) > 2 * _LONGEST_HELLO:
                raise ParseError("too much before the handshake")
        except ParseError as error:
            self.error, self.is_plain = str(error), True
        else:
            if name is not None:
                self.server_name, self.is_waiting = name, True
        return b""

    def proceed(self) -> None:
        """Answer the ClientHello that has come."""
        choose, data = self._choose, self._hello
        assert choose is not None
        self.is_waiting, self._hello, self._choose = False, b"", None
        self._begin(choose(self.server_name.lower()), True, None)  # noqa: FBT003
        self._take(data)

    def _begin(self, credentials: Credentials, is_server: bool, name: str | None) -> None:
        context, self._certificate = credentials
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=is_server, server_hostname=name)

    def _take(self, data: bytes) -> bytes:
        incoming, outgoing, connection = self._incoming, self._outgoing, self._object
        assert incoming is not None
        assert outgoing is not None
        assert connection is not None
        found: list[bytes] = []
        try:
            incoming.write(data)
            if not self.is_open:
                connection.do_handshake()
                self.is_open = True
            while True:
                octets = connection.read(_RECORD)
                if not octets:
                    self.is_closed = True
                    break
                found.append(octets)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.is_closed = True
        except ssl.SSLError as error:
            self.error = told(error)
        self.to_send += outgoing.read()
        return found[0] if len(found) == 1 else b"".join(found)

    def send(self, data: bytes) -> bytes:
        """Return the octets that carry ``data``; none when the connection cannot take it any more."""
        connection, outgoing, at = self._object, self._outgoing, 0
        if connection is None or outgoing is None or self.error:
            return b""
        records: list[bytes] = []
        try:
            while at < len(data):
                at += connection.write(data[at : at + _RECORD])
                records.append(outgoing.read())
        except ssl.SSLError as error:
            self.error = told(error)
        return records[0] if len(records) == 1 else b"".join(records)

    def close(self) -> bytes:
        """Return the octets that tell the peer that no more comes (close_notify)."""
        if self._object is None or self._outgoing is None or not self.is_open or self.error:
            return b""
        try:
            self._object.unwrap()
        except ssl.SSLError:
            pass  # it waits for the peer's, which nobody needs
        return self._outgoing.read()

    def state(self) -> TlsState | None:
        """Return what is known of it, None until the handshake is over."""
        connection = self._object
        cipher = connection.cipher() if connection is not None and self.is_open else None
        if connection is None or cipher is None:
            return None
        name, context = cipher[0], connection.context
        description = next((str(one["description"]) for one in context.get_ciphers() if one["name"] == name), name)
        peer = connection.getpeercert(True) or b""  # noqa: FBT003
        is_verified = bool(peer) and context.verify_mode != ssl.CERT_NONE
        version, bits = connection.version() or "", cipher[2]
        return TlsState(version, name, bits, description, self.server_name, self._certificate, peer, is_verified)


def accepting(choose: Callable[[str], Credentials]) -> Tls:
    """Return the side of a server; ``choose`` gives its credentials by the name that the client asks for, in lower case, "" when it names none."""
    tls = Tls()
    tls._choose = choose
    return tls


def calling(credentials: Credentials, server_name: str) -> Tls:
    """Return the side of a client that calls ``server_name``, or an IP address; its ClientHello is in ``to_send``."""
    tls = Tls(server_name)
    tls._begin(credentials, False, server_name or None)  # noqa: FBT003
    tls._take(b"")
    return tls


def told(error: ssl.SSLError) -> str:
    """Say what has happened, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate: {error.verify_message}"
    reason: str | None = getattr(error, "reason", None)  # which may be None, though its type does not say so
    return (reason or str(error)).lower().replace("_", " ")


def client_hello(data: bytes) -> str | None:
    """Return the server name (RFC 6066 section 3) in the ClientHello at the beginning of ``data``.

    "" when it names none, or cannot be read further: OpenSSL refuses that. None when more has to come. Raise ParseError for
    what is no TLS.
    """
    hello, at = b"", 0
    for _ in range(_MOST_RECORDS):
        if data[at : at + 1] not in (b"", b"\x16") or data[at + 1 : at + 2] not in (b"", b"\x03"):
            raise ParseError("it does not speak TLS")
        if len(data) < at + 5:
            return None
        length = int.from_bytes(data[at + 3 : at + 5], "big")
        hello += data[at + 5 : at + 5 + length]
        at += 5 + length
        if hello[:1] not in (b"", b"\x01"):
            raise ParseError("no ClientHello")
        wanted = 4 + int.from_bytes(hello[1:4], "big") if len(hello) >= 4 else 4
        if wanted > _LONGEST_HELLO:
            raise ParseError(f"a ClientHello of {wanted} octets")
        if len(hello) >= wanted > 4:
            return _server_name(hello[:wanted])
        if len(data) < at:
            return None
    raise ParseError("a ClientHello in too many pieces")


def _server_name(hello: bytes) -> str:
    """Return the name in a whole ClientHello (RFC 8446 section 4.1.2), "" when there is none."""
    at = 4 + 2 + 32
    at += 1 + int.from_bytes(hello[at : at + 1], "big")  # legacy_session_id
    at += 2 + int.from_bytes(hello[at : at + 2], "big")  # cipher_suites
    at += 1 + int.from_bytes(hello[at : at + 1], "big") + 2  # legacy_compression_methods, the length of the extensions
    while at + 4 <= len(hello):
        kind, length = int.from_bytes(hello[at : at + 2], "big"), int.from_bytes(hello[at + 2 : at + 4], "big")
        if kind == 0:  # server_name: a list of one entry, of the type host_name
            size = int.from_bytes(hello[at + 7 : at + 9], "big")
            name = hello[at + 9 : at + 9 + size]
            return str(name, "latin-1") if hello[at + 6 : at + 7] == b"\0" and len(name) == size else ""
        at += 4 + length
    return ""
