"""binrpc, what Kamailio's kamcmd speaks: the octets of a request to the octets of its answer.

A packet is a head (0xA1; four bits of type, two each of how many octets length and cookie have; length; cookie) and values. A
value is an octet (one bit whether its length follows, three of length, four of kind) and its content; texts end with NUL.
Found out by looking at what kamcmd and Kamailio's module ctl say to each other.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from polykemi.control.jsonrpc import INVALID_REQUEST, Answer, JsonRpc
from polykemi.errors import RpcError
from polykemi.kemi.rpc import Later

MAGIC: Final = 0xA1
_REPLY, _FAULT = 1, 3
_INT, _TEXT, _DOUBLE, _STRUCT, _NAME = 0, 1, 2, 3, 5
_END: Final = b"\x83"  # of a struct
_MOST: Final = 64  # values in a request


def answer(data: bytes, rpc: JsonRpc) -> Answer:
    """Return the answer to a request; None to what has no head that could be answered."""
    try:
        kind, cookie, payload = _packet(data)
    except (IndexError, ValueError):
        return None
    try:
        if kind != 0:
            raise ValueError("no request")
        method, *params = _values(payload)
        if not isinstance(method, str):
            raise ValueError("no method")
        result = rpc.ask(method, params)
        return result.made(partial(_reply, cookie)) if isinstance(result, Later) else _reply(cookie, result)
    except (IndexError, ValueError):
        code, text = INVALID_REQUEST, "Invalid request"
    except RpcError as error:
        code, text = error.code, str(error)
    return _head(_FAULT, cookie, _encoded(code) + _encoded(text))


# ---- in
def _packet(data: bytes) -> tuple[int, bytes, bytes]:
    """Return type, cookie and payload. Raise IndexError and ValueError."""
    kind, sizes = data[1] >> 4, data[1] & 0x0F
    start = 3 + (sizes >> 2)
    end = start + (sizes & 3) + 1
    length = int.from_bytes(data[2:start], "big")
    if data[0] != MAGIC or len(data) != end + length:
        raise ValueError("no packet")
    return kind, data[start:end], data[end:]


def _values(data: bytes) -> list[int | float | str]:
    """Return the values of a request. Raise IndexError and ValueError."""
    out: list[int | float | str] = []
    at = 0
    while at < len(data):
        kind, size = data[at] & 0x0F, data[at] >> 4
        at += 1
        if size & 8:
            more = size & 7
            size = int.from_bytes(data[at : at + more], "big")
            at += more
        content = data[at : at + size]
        at += size
        if len(content) != size or len(out) >= _MOST:
            raise ValueError("cut off, or too many")
        if kind == _TEXT and content[-1:] == b"\0":
            out.append(content[:-1].decode("latin-1"))
        elif kind in (_INT, _DOUBLE) and size <= 4:
            number = int.from_bytes(content, "big", signed=size == 4)
            out.append(number if kind == _INT else number / 1000)
        else:
            raise ValueError("a kind of value that no request has")
    return out


# ---- out
def _reply(cookie: bytes, result: Any) -> bytes:
    values = result if isinstance(result, list) else [result]
    return _head(_REPLY, cookie, b"".join(map(_encoded, values)))


def _head(kind: int, cookie: bytes, payload: bytes) -> bytes:
    size = max((len(payload).bit_length() + 7) // 8, 1)
    sizes = (size - 1) << 2 | (len(cookie) - 1)
    return bytes((MAGIC, kind << 4 | sizes)) + len(payload).to_bytes(size, "big") + cookie + payload


def _encoded(value: Any) -> bytes:
    """Return ``value``: lists and objects are structs, the latter's members have names; null is the empty text."""
    if isinstance(value, dict):
        members = (_text(_NAME, str(name)) + _encoded(inner) for name, inner in value.items())
        return bytes((_STRUCT,)) + b"".join(members) + _END
    if isinstance(value, list):
        return bytes((_STRUCT,)) + b"".join(map(_encoded, value)) + _END
    if isinstance(value, float):
        return _number(_DOUBLE, round(value * 1000))
    if isinstance(value, int):
        return _number(_INT, int(value))
    return _text(_TEXT, "" if value is None else value)


def _number(kind: int, number: int) -> bytes:
    """Return a number of 32 bits; a longer one as text, or it would be another."""
    if not -(1 << 31) <= number < 1 << 32:
        return _text(_TEXT, str(number) if kind == _INT else str(number / 1000))
    number &= 0xFFFFFFFF
    size = (number.bit_length() + 7) // 8
    return bytes((size << 4 | kind,)) + number.to_bytes(size, "big")


def _text(kind: int, text: str) -> bytes:
    content = text.encode("latin-1", "replace") + b"\0"
    if len(content) < 8:
        return bytes((len(content) << 4 | kind,)) + content
    size = (len(content).bit_length() + 7) // 8
    return bytes(((8 | size) << 4 | kind,)) + len(content).to_bytes(size, "big") + content
