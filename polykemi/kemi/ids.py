"""Identifiers that the server makes: branches, tags, unique ids (RFC 3261 sections 8.1.1.7 and 19.3)."""

from __future__ import annotations

import random
import zlib
from hashlib import blake2b
from hmac import compare_digest

from polykemi.errors import ParseError
from polykemi.sip.header import Via
from polykemi.sip.message import Request, Response


class Ids:
    """Makes identifiers from one source of randomness; a test gives ``random.Random(0)``.

    They are unique, not secret: nonces come from ``modules/auth`` with a key of their own.
    """

    def __init__(self, source: random.Random | None = None) -> None:
        self._bits = (source or random.SystemRandom()).getrandbits
        self.secret = self._bits(256).to_bytes(32, "big")  # keys the module's HMACs (nonces)
        if source is None:  # one read of the system's randomness seeds a fast generator: what that gives is not secret,
            self._bits = random.Random(
                random.SystemRandom().getrandbits(256)
            ).getrandbits  # and tells what it gave before
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

    def stateless_branch(self, request: Request, index: int = 0) -> str:
        """Return the branch of a stateless proxy: the same for a retransmission and for the CANCEL (section 16.11).

        Nobody else can make it, so that a response tells by it whether its request went through here.
        """
        via = request.via
        if via.branch.startswith("z9hG4bK"):
            branch = self._keyed(f"{via.branch} {via.host} {via.port}")
        else:
            seed = f"{via.text} {request.call_id} {request.from_.tag} {request.cseq[0]} {request.uri}"
            branch = self._keyed(seed)
        return f"{branch}.{index}" if index else branch

    def is_stateless_branch(self, response: Response) -> bool:
        """Tell whether the top Via of ``response`` has the branch that a request with its second Via gets here."""
        try:
            sender = Via(response.list("via")[1])
        except (IndexError, ParseError):
            return False
        ours = response.via.branch.partition(".")[0]
        return compare_digest(
            ours.encode("latin-1"), self._keyed(f"{sender.branch} {sender.host} {sender.port}").encode()
        )

    def _keyed(self, seed: str) -> str:
        return "z9hG4bK" + blake2b(seed.encode("latin-1"), digest_size=12, key=self.secret).hexdigest()
