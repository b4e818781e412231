"""binrpc: kamcmd's requests and the answers that it can read. What comes is bounded, and never an exception."""

from __future__ import annotations

import random
from typing import Any

import pytest

from polykemi.control import binrpc
from polykemi.control.jsonrpc import JsonRpc
from polykemi.errors import RpcError
from polykemi.kemi.rpc import rpc

# what kamcmd sends for: core.echo a 5 s:5 1.5 300
ECHO = bytes.fromhex("a1031a2df751cc910a636f72652e6563686f00216100100521350022 05dc20012c".replace(" ", ""))


class Calls:
    @rpc("core.echo")
    def echo(self, *text: str) -> list[str]:
        """Return what came."""
        return list(text)

    @rpc("core.uptime")
    def uptime(self) -> dict[str, Any]:
        """Return what Kamailio's binrpc was seen to give for this."""
        return {"name": "debug", "type": "int", "value": 1}

    @rpc("test.more")
    def more(self) -> Any:
        """Return all kinds of values."""
        return [0, -1, 2.5, None, True, 1 << 40, "\xe4" * 300, {"a": [{"b": 1}, "c"]}]

    @rpc("test.fails")
    def fails(self) -> Any:
        """Fail."""
        raise RpcError(500, "AOR not found")


@pytest.fixture
def server() -> JsonRpc:
    server = JsonRpc()
    server.add(Calls())
    return server


def request(method: str) -> bytes:
    value = method.encode() + b"\0"
    payload = bytes((0x91, len(value))) + value
    return bytes((0xA1, 0x03, len(payload))) + b"\x11\x22\x33\x44" + payload


def test_a_request_of_kamcmd_is_answered(server: JsonRpc) -> None:
    texts = b"".join(bytes((len(t) + 1 << 4 | 1,)) + t + b"\0" for t in (b"a", b"5", b"5", b"1.5", b"300"))
    assert binrpc.answer(ECHO, server) == bytes((0xA1, 0x13, len(texts))) + ECHO[3:7] + texts


def test_an_answer_has_kamailios_octets(server: JsonRpc) -> None:
    expected = "a1132311223344 03 556e616d6500 61646562756700 557479706500 41696e7400 6576616c756500 1001 83"
    assert binrpc.answer(request("core.uptime"), server) == bytes.fromhex(expected.replace(" ", ""))


def test_an_error_is_a_fault(server: JsonRpc) -> None:
    text = b"AOR not found\0"
    payload = bytes.fromhex("2001f4") + bytes((0x91, len(text))) + text
    assert binrpc.answer(request("test.fails"), server) == bytes((0xA1, 0x33, len(payload))) + ECHO[3:3] + (
        b"\x11\x22\x33\x44" + payload
    )
    unknown = binrpc.answer(request("core.ech"), server)
    assert isinstance(unknown, bytes)
    assert b"did you mean core.echo?\0" in unknown


def test_every_kind_of_value_has_a_form(server: JsonRpc) -> None:
    answer = binrpc.answer(request("test.more"), server)
    assert isinstance(answer, bytes)
    values = bytes.fromhex("00 40ffffffff 2209c4 1100 1001 910e".replace(" ", "")) + b"1099511627776\0"
    values += (
        bytes.fromhex("a1012d")
        + b"\xe4" * 300
        + b"\0"
        + bytes.fromhex("03 256100 03 03 256200 1001 83 216300 83 83".replace(" ", ""))
    )
    assert answer[4:8] == b"\x11\x22\x33\x44"
    assert answer[8:] == values
    assert answer[:4] == bytes((0xA1, 0x17)) + len(values).to_bytes(2, "big")


def test_whatever_comes_is_answered_or_dropped(server: JsonRpc) -> None:
    draw = random.Random(7)
    for _ in range(3000):
        data = bytearray(ECHO)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        answer = binrpc.answer(bytes(data[: draw.randint(0, len(data))]), server)
        assert answer is None or (isinstance(answer, bytes) and answer[0] == binrpc.MAGIC)
    assert binrpc.answer(b"\xa1", server) is None
