"""STUN Binding requests (RFC 8489) on the SIP port: the keep-alives of phones over UDP (RFC 5626 section 4.4.2). No sockets here."""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

_COOKIE: Final = 0x2112A442
_BINDING: Final = 0x0001
_SUCCESS: Final = 0x0101
_ERROR: Final = 0x0111
_ERROR_CODE: Final = 0x0009
_UNKNOWN_ATTRIBUTES: Final = 0x000A
_XOR_MAPPED_ADDRESS: Final = 0x0020
_OPTIONAL: Final = 0x8000  # attributes from here on may be ignored
_HEADER: Final = struct.Struct("!HHI12s")  # type, length behind the header, cookie, transaction
_ATTRIBUTE: Final = struct.Struct("!HH")  # type, length without padding
_REASON: Final = b"Unknown Attribute"
_MOST_UNKNOWN: Final = 8  # named in an error: what goes back is not much longer than what came


def binding_response(data: bytes, host: str, port: int) -> bytes:
    """Return the answer to a Binding request from ``host:port``; b"" for what is none, or is malformed.

    It says where the request came from. One that wants an attribute to be understood gets an error: we know none.
    """
    if len(data) < _HEADER.size:
        return b""
    kind, length, cookie, transaction = _HEADER.unpack_from(data)
    if kind != _BINDING or cookie != _COOKIE or length != len(data) - _HEADER.size or length % 4:
        return b""
    unknown, at = [], _HEADER.size
    while at < len(data):
        attribute, size = _ATTRIBUTE.unpack_from(data, at)
        at += _ATTRIBUTE.size + (size + 3) // 4 * 4
        if attribute < _OPTIONAL:
            unknown.append(attribute)
    if at != len(data):
        return b""
    if unknown:
        named = struct.pack(f"!{len(unknown[:_MOST_UNKNOWN])}H", *unknown[:_MOST_UNKNOWN])
        body = _attribute(_ERROR_CODE, b"\0\0\x04\x14" + _REASON) + _attribute(_UNKNOWN_ATTRIBUTES, named)
        return _HEADER.pack(_ERROR, len(body), _COOKIE, transaction) + body
    address = ipaddress.ip_address(host)
    mask = struct.pack("!I", _COOKIE) + transaction
    octets = bytes(a ^ b for a, b in zip(address.packed, mask, strict=False))
    value = struct.pack("!HH", 1 if address.version == 4 else 2, port ^ (_COOKIE >> 16)) + octets
    body = _attribute(_XOR_MAPPED_ADDRESS, value)
    return _HEADER.pack(_SUCCESS, len(body), _COOKIE, transaction) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(kind, len(value)) + value + bytes(-len(value) % 4)
