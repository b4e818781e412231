"""Bindings of addresses of record (RFC 3261 section 10): the interface, their encoding, and a store in memory."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import islice
from struct import Struct, error
from typing import Final, Protocol, final

from polykemi.errors import DataError

MAX_AOR: Final = 480  # octets; LMDB holds keys of up to 511
NEVER: Final = float("inf")
# a flag of bindings that SQL databases do not get (Kamailio's FL_MEM): registrar.save with flag 1
MEMORY_ONLY: Final = 1


@final
class Binding:  # noqa: PLW1641 - it changes
    """One contact of an AoR: the columns of Kamailio's location table.

    No dataclass, as mypyc makes objects of a plain class in half the time.
    """

    __slots__ = (
        "bflags",
        "call_id",
        "cseq",
        "expires",
        "flags",
        "instance",
        "listener",
        "methods",
        "modified",
        "path",
        "q",
        "received",
        "reg_id",
        "ruid",
        "uri",
        "user_agent",
    )

    def __init__(
        self,
        uri: str,
        expires: float,
        q: int = -1,
        call_id: str = "",
        cseq: int = 0,
        user_agent: str = "",
        received: str = "",
        path: str = "",
        listener: str = "",
        methods: int = 0xFFFFFFFF,
        flags: int = 0,
        bflags: int = 0,
        instance: str = "",
        reg_id: int = 0,
        ruid: str = "",
        modified: float = 0.0,
    ) -> None:
        self.uri = uri  # the contact's URI as registered
        self.expires = expires  # seconds since the epoch, 0: permanent
        self.q = q  # thousandths, -1: not given
        self.call_id = call_id
        self.cseq = cseq
        self.user_agent = user_agent
        self.received = received  # source URI when the phone is behind NAT, "" when not
        self.path = path  # Path values, comma-separated
        self.listener = listener  # the listener that took the REGISTER: udp:127.0.0.1:5060
        self.methods = methods
        self.flags = flags
        self.bflags = bflags
        self.instance = instance
        self.reg_id = reg_id
        self.ruid = ruid
        self.modified = modified  # seconds since the epoch

    def fields(self) -> tuple[str, float, int, str, int, str, str, str, str, int, int, int, str, int, str, float]:
        """Return all fields in the constructor's order."""
        return (
            self.uri,
            self.expires,
            self.q,
            self.call_id,
            self.cseq,
            self.user_agent,
            self.received,
            self.path,
            self.listener,
            self.methods,
            self.flags,
            self.bflags,
            self.instance,
            self.reg_id,
            self.ruid,
            self.modified,
        )

    def copy(self) -> Binding:
        """Return another binding with the same fields."""
        return Binding(*self.fields())

    def __eq__(self, other: object) -> bool:
        """Tell whether all fields are the same."""
        return isinstance(other, Binding) and self.fields() == other.fields()

    def __repr__(self) -> str:
        """Show all fields."""
        return f"Binding{self.fields()}"


# AoRs that wait for a disk or a database which takes nothing; then all of them are forgotten
MOST_STAGED: Final = 100_000


class LocationStore(Protocol):
    """Bindings by table ("location") and AoR ("user" or "user@domain", lower case where case does not matter).

    Writes are staged and seen by later reads; they are durable after ``commit``. What ``get`` returns belongs to the
    caller. An AoR has 1 to ``MAX_AOR`` octets: others have no bindings, and ``put`` raises DataError for them.
    """

    def get(self, table: str, aor: str) -> list[Binding]:
        """Return the bindings, expired ones included; an empty list for an unknown AoR."""

    def put(self, table: str, aor: str, bindings: list[Binding]) -> None:
        """Replace the bindings of an AoR; an empty list removes it. NUL octets in texts are left out."""

    def commit(self) -> None:
        """Make what was staged durable, in one transaction. Cheap when nothing was staged."""

    def discard(self) -> None:
        """Forget what was staged, where anything is."""

    def items(self, table: str) -> Iterator[tuple[str, list[Binding]]]:
        """Iterate over (AoR, bindings)."""

    def expired(self, table: str, now: float, limit: int) -> list[str]:
        """Return up to ``limit`` AoRs that have a binding whose expiry is not after ``now``, the earliest first."""

    def next_expiry(self, table: str) -> float | None:
        """Return the time before which no binding of ``table`` expires, None when none ever will."""

    def count(self, table: str) -> int:
        """Return about how many AoRs have bindings. Cheap."""

    def sizes(self, table: str) -> Iterator[int]:
        """Give how many bindings there are, some hundred AoRs at a time."""

    def clear(self, table: str) -> None:
        """Remove all bindings of ``table``, at once."""

    def close(self) -> None:
        """Commit and close."""


# One binding: the numbers, then the texts joined by NUL. The last number is the length of the texts.
_NUMBERS: Final = Struct("<ddhIIIIII")
_SIZE: Final = _NUMBERS.size
_pack: Final = _NUMBERS.pack
_unpack_from: Final = _NUMBERS.unpack_from
_length_at: Final = Struct("<I").unpack_from


def encode(bindings: list[Binding]) -> bytes:
    """Return ``bindings`` as octets: compact, and readable by any later version."""
    out = b""  # nearly always there is one binding, and nothing to join
    for b in bindings:
        texts = (b.uri, b.call_id, b.user_agent, b.received, b.path, b.listener, b.instance, b.ruid)
        joined = "\0".join(texts)
        if joined.count("\0") != 7:
            joined = "\0".join([text.replace("\0", "") for text in texts])
        octets = joined.encode("latin-1")
        out += _pack(b.expires, b.modified, b.q, b.cseq, b.methods, b.flags, b.bflags, b.reg_id, len(octets)) + octets
    return out


def decode(data: bytes, at: int = 0) -> list[Binding]:
    """Return the bindings that stand in ``data`` from offset ``at`` on. Raise DataError for what ``encode`` never made."""
    out: list[Binding] = []
    end = len(data)
    try:
        while at < end:
            expires, modified, q, cseq, methods, flags, bflags, reg_id, size = _unpack_from(data, at)
            at += _SIZE + size
            uri, call_id, agent, received, path, listener, instance, ruid = (
                data[at - size : at].decode("latin-1").split("\0")
            )
            binding = Binding(
                uri,
                expires,
                q,
                call_id,
                cseq,
                agent,
                received,
                path,
                listener,
                methods,
                flags,
                bflags,
                instance,
                reg_id,
                ruid,
                modified,
            )
            out.append(binding)
    except (error, ValueError) as cause:
        raise DataError(f"not a record of bindings: {cause}") from None
    return out


def number_of(data: bytes, at: int = 0) -> int:
    """Return how many bindings stand in ``data`` from offset ``at`` on."""
    end, number = len(data), 0
    while at + _SIZE <= end:
        at += _SIZE + int(_length_at(data, at + _SIZE - 4)[0])
        number += 1
    return number


def earliest_expiry(bindings: list[Binding]) -> float:
    """Return when the first of ``bindings`` expires, ``NEVER`` when all are permanent."""
    if len(bindings) == 1:
        return bindings[0].expires or NEVER
    return min((b.expires for b in bindings if b.expires), default=NEVER)


class MemoryLocation:
    """A LocationStore that forgets: for tests and for servers that need no persistence (usrloc db_mode 0)."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[str, bytes]] = {}

    def get(self, table: str, aor: str) -> list[Binding]:
        """Return copies of the bindings of ``aor``."""
        data = self._tables.get(table, {}).get(aor)
        return decode(data) if data is not None else []

    def put(self, table: str, aor: str, bindings: list[Binding]) -> None:
        """Replace the bindings of ``aor``."""
        check_aor(aor)
        rows = self._tables.setdefault(table, {})
        if bindings:
            rows[aor] = encode(bindings)
        else:
            rows.pop(aor, None)

    def commit(self) -> None:
        """Do nothing: there is nowhere to write to."""

    def discard(self) -> None:
        """Do nothing: what was put is there."""

    def items(self, table: str) -> Iterator[tuple[str, list[Binding]]]:
        """Iterate over a snapshot."""
        for aor, data in list(self._tables.get(table, {}).items()):
            yield aor, decode(data)

    def expired(self, table: str, now: float, limit: int) -> list[str]:
        """Look at every AoR; a store for many of them keeps an index."""
        due = ((earliest_expiry(bindings), aor) for aor, bindings in self.items(table))
        return [aor for _, aor in heapq.nsmallest(limit, (row for row in due if row[0] <= now))]

    def next_expiry(self, table: str) -> float | None:
        """Return the earliest expiry."""
        first = min((earliest_expiry(bindings) for _, bindings in self.items(table)), default=NEVER)
        return None if first == NEVER else first

    def count(self, table: str) -> int:
        """Return how many AoRs have bindings."""
        return len(self._tables.get(table, ()))

    def sizes(self, table: str) -> Iterator[int]:
        """Count a snapshot."""
        rows = iter(list(self._tables.get(table, {}).values()))
        while piece := list(islice(rows, 1000)):
            yield sum(map(number_of, piece))

    def clear(self, table: str) -> None:
        """Remove all bindings of ``table``."""
        self._tables.pop(table, None)

    def close(self) -> None:
        """Do nothing; the bindings stay until the store is gone."""


def check_aor(aor: str) -> None:
    """Raise DataError when ``aor`` cannot be a key."""
    if not 0 < len(aor) <= MAX_AOR:
        raise DataError(f"address of record of {len(aor)} octets, expected 1 to {MAX_AOR}")
