"""HEPv3 packets, taken apart as their specification says."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from polykemi.sip.hep import LONGEST, Hep

MESSAGE = b"OPTIONS sip:example.test SIP/2.0\r\n\r\n"


def chunks(packet: bytes) -> Iterator[tuple[int, bytes]]:
    """Give type and value of each chunk; all are generic ones."""
    assert packet[:4] == b"HEP3"
    assert int.from_bytes(packet[4:6], "big") == len(packet)
    at = 6
    while at < len(packet):
        vendor, kind, length = struct.unpack(">HHH", packet[at : at + 6])
        assert vendor == 0
        assert length >= 6
        yield kind, packet[at + 6 : at + length]
        at += length
    assert at == len(packet)


def test_over_udp_and_ipv4() -> None:
    hep = Hep(0x01020304)
    packet = hep.packet(MESSAGE, "udp", ("192.0.2.1", 5060), ("192.0.2.200", 65535), 1_800_000_000.000_25, b"call@1")
    assert dict(chunks(packet)) == {
        1: b"\x02",
        2: b"\x11",
        3: b"\xc0\x00\x02\x01",
        4: b"\xc0\x00\x02\xc8",
        7: b"\x13\xc4",
        8: b"\xff\xff",
        9: (1_800_000_000).to_bytes(4, "big"),
        10: (250).to_bytes(4, "big"),
        11: b"\x01",
        12: b"\x01\x02\x03\x04",
        15: MESSAGE,
        17: b"call@1",
    }


def test_over_connections_and_ipv6_with_key_and_node() -> None:
    hep = Hep(1, b"secret", b"edge-1")
    for transport in ("tcp", "tls", "ws", "wss"):
        found = dict(chunks(hep.packet(MESSAGE, transport, ("2001:db8::1", 1), ("fe80::2%eth0", 2), 1.0)))
        assert (found[1], found[2]) == (b"\x0a", b"\x06")
        assert found[5] == bytes.fromhex("20010db8000000000000000000000001")
        assert found[6] == bytes.fromhex("fe800000000000000000000000000002")
        assert (found[14], found[19]) == (b"secret", b"edge-1")
        assert not found.keys() & {3, 4, 17}


def test_what_does_not_fit_is_left_out() -> None:
    hep = Hep(1, b"k" * 255, b"n" * 255)

    def packet(length: int, call_id: bytes = b"") -> bytes:
        return hep.packet(b"x" * length, "tcp", ("192.0.2.1", 1), ("192.0.2.2", 2), 1.0, call_id)

    most = LONGEST - len(packet(0))
    assert len(packet(most)) == LONGEST
    assert packet(most + 1) == b""
    assert packet(100, b"c" * LONGEST) == b""
    assert packet(LONGEST * 2) == b""
    assert hep.packet(MESSAGE, "udp", ("192.0.2.1", 1), ("a.name.test", 2), 1.0) == b""
    assert hep.packet(MESSAGE, "udp", ("192.0.2.1", 1), ("::1", 2), 1.0) == b""
