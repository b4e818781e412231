"""Kamailio's hash of texts (core/hashes.h), which scripts use to choose places."""

from __future__ import annotations


def core_hash(*texts: bytes) -> int:
    """Return the hash of one text or two, 32 bits. Octets above 0x7F count as negative numbers, as in C."""
    h = 0
    for text in texts:
        octets = [o - 256 if o > 127 else o for o in text] if not text.isascii() else list(text)
        words = len(octets) - len(octets) % 4
        for i in range(0, words, 4):
            v = ((octets[i] << 24) + (octets[i + 1] << 16) + (octets[i + 2] << 8) + octets[i + 3]) & 0xFFFFFFFF
            h = (h + (v ^ (v >> 3))) & 0xFFFFFFFF
        v = 0
        for octet in octets[words:]:
            v = ((v << 8) + octet) & 0xFFFFFFFF
        h = (h + (v ^ (v >> 3))) & 0xFFFFFFFF
    return (h + (h >> 11) + (h >> 13) + (h >> 23)) & 0xFFFFFFFF
