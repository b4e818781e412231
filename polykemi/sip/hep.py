"""Packets of HEP, version 3: a SIP message and where it was seen (github.com/sipcapture/HEP, "HEP3 Network Protocol").

A packet is ``HEP3``, its length, and chunks: two octets each for vendor (0), type and length, head included, then the value.
"""

from __future__ import annotations

import struct
from typing import Final

from polykemi.sip.grammar import to_ip

LONGEST: Final = 0xFFFF  # octets of a packet: its length is two of them
_MOST_ADDRESSES: Final = 4096  # pairs whose chunks are kept
_MOST: Final = LONGEST - 128  # of them for message and correlation ID

_INET, _INET6 = 2, 10  # families
_UDP: Final = 17  # IP protocol numbers: WebSocket and TLS go over TCP
_TCP: Final = 6
_SIP: Final = 1  # protocol type

# chunk types
_FAMILY, _PROTOCOL, _SOURCE_4, _DESTINATION_4, _SOURCE_6, _DESTINATION_6 = 1, 2, 3, 4, 5, 6
_SOURCE_PORT, _DESTINATION_PORT, _SECONDS, _MICROSECONDS, _TYPE = 7, 8, 9, 10, 11
_CAPTURE_ID, _AUTH_KEY, _PAYLOAD, _CORRELATION_ID, _NODE = 12, 14, 15, 17, 19

_CHUNK: Final = struct.Struct(">HHH")
_CHUNK_8: Final = struct.Struct(">HHHB")
_CHUNK_32: Final = struct.Struct(">HHHI")
_FIXED: Final = struct.Struct(">HHHB HHHH HHHH HHHI HHHI HHHB")  # what no message is without


def chunk(kind: int, value: bytes) -> bytes:
    """Return a chunk with octets in it."""
    return _CHUNK.pack(0, kind, 6 + len(value)) + value


class Hep:
    """Makes the packets of one node."""

    __slots__ = ("_addresses", "_last")

    def __init__(self, capture_id: int, auth_key: bytes = b"", node: bytes = b"") -> None:
        """``capture_id``: 32 bits. ``auth_key`` and ``node``: empty for none; they are left out then."""
        self._addresses: dict[tuple[str, str], bytes] = {}
        self._last = _CHUNK_32.pack(0, _CAPTURE_ID, 10, capture_id)
        if auth_key:
            self._last += chunk(_AUTH_KEY, auth_key)
        if node:
            self._last += chunk(_NODE, node)

    def packet(
        self,
        message: bytes,
        transport: str,
        source: tuple[str, int],
        destination: tuple[str, int],
        at: float,
        correlation_id: bytes = b"",
    ) -> bytes:
        """Return the packet for ``message``, b"" when it is too long for one or an address is no IP address.

        ``source`` and ``destination``: IP address and port. ``at``: seconds since the epoch. ``correlation_id``: what the
        messages of one call have in common, their Call-ID.
        """
        hosts = (source[0], destination[0])
        addresses = self._addresses.get(hosts)
        if addresses is None:
            if len(self._addresses) >= _MOST_ADDRESSES:
                self._addresses.clear()
            addresses = self._addresses[hosts] = _addresses(*hosts)
        if not addresses or len(message) + len(correlation_id) > _MOST:
            return b""
        seconds = int(at)
        fixed = _FIXED.pack(
            *(0, _PROTOCOL, 7, _UDP if transport == "udp" else _TCP),
            *(0, _SOURCE_PORT, 8, source[1]),
            *(0, _DESTINATION_PORT, 8, destination[1]),
            *(0, _SECONDS, 10, seconds & 0xFFFFFFFF),
            *(0, _MICROSECONDS, 10, int((at - seconds) * 1_000_000)),
            *(0, _TYPE, 7, _SIP),
        )
        body = addresses + fixed + self._last
        if correlation_id:
            body += chunk(_CORRELATION_ID, correlation_id)
        body += chunk(_PAYLOAD, message)
        length = 6 + len(body)
        return b"HEP3" + length.to_bytes(2, "big") + body if length <= LONGEST else b""


def _addresses(source: str, destination: str) -> bytes:
    """Return the chunks of the family and both IP addresses, b"" when they are none."""
    from_, to = to_ip(source.partition("%")[0]), to_ip(destination.partition("%")[0])
    if from_ is None or to is None or from_.version != to.version:
        return b""
    family, kinds = (
        (_INET, (_SOURCE_4, _DESTINATION_4)) if from_.version == 4 else (_INET6, (_SOURCE_6, _DESTINATION_6))
    )
    return _CHUNK_8.pack(0, _FAMILY, 7, family) + chunk(kinds[0], from_.packed) + chunk(kinds[1], to.packed)
