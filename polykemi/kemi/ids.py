"""Identifiers that the server makes: branches, tags, unique ids (RFC 3261 sections 8.1.1.7 and 19.3)."""

from __future__ import annotations

import random
import zlib

from polykemi.sip.message import Request


class Ids:
    """Makes identifiers from one source of randomness; a test gives ``random.Random(0)``.

    They are unique, not secret: nonces come from ``modules/auth`` with a key of their own.
    """

    def __init__(self, source: random.Random | None = None) -> None:
        self._bits = (source or random.SystemRandom()).getrandbits
        if source is None:  # one read of the system's randomness seeds a fast generator
            self._bits = random.Random(random.SystemRandom().getrandbits(256)).getrandbits
        self.secret = self._bits(256).to_bytes(32, "big")  # keys the module's HMACs (nonces)
        self._coming = ""
        self._tag_prefix = f"{self._bits(48):012x}."

    def branch(self) -> str:
        """Return a new Via branch with the magic cookie of RFC 3261."""
        coming = self._coming
        if coming:
            self._coming = ""
            return coming
        return "z9hG4bK" + hex(self._bits(80))[2:]

    def coming_branch(self) -> str:
        """Return what ``branch`` will return next: for who has to name a branch before it is made."""
        self._coming = self.branch()
        return self._coming

    @property
    def is_named(self) -> bool:
        """Whether somebody knows already what ``branch`` will return next."""
        return self._coming != ""

    def tag(self) -> str:
        """Return a new From or To tag."""
        return hex(self._bits(64))[2:]

    def unique(self) -> str:
        """Return a new id without other meaning (Call-ID, ruid)."""
        return hex(self._bits(96))[2:]

    def octets(self, n: int) -> bytes:
        """Return ``n`` random octets."""
        return self._bits(8 * n).to_bytes(n, "big")

    def stateless_tag(self, request: Request) -> str:
        """Return the To tag of stateless replies: the same for each retransmission (RFC 3261 section 8.2.7)."""
        seed = (request.get("call-id") or "") + request.via.text
        return self._tag_prefix + hex(zlib.crc32(seed.encode("latin-1")))[2:]
