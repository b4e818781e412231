"""What the guard counts: registrations through a whole node without sockets, with LMDB, SQLite and the bench's Lua script.

Run under callgrind, which begins a new count at each ``mark``: N challenges are one section, N saved contacts another, and
rounds of a fixed piece of Python a third, the measure for the other two. What the phone does stands between the sections.
Nothing here depends on chance or on the clock.
"""

from __future__ import annotations

import gc
import os
import re
import sys
import tempfile
from collections.abc import Iterable
from hashlib import md5
from pathlib import Path

from bench.node import NOW, PHONE, make_node, register
from bench.servers import DOMAIN, SCRIPTS
from polykemi.sip import digest
from polykemi.sip.flow import Flow

SECTIONS = ("challenge", "save", "calibration")  # each between a mark and the next
WARM = 50  # registrations and rounds before anything is counted: the interpreter has specialised its code then
N = 200  # counted ones
STEP = 0.000_25  # seconds; 4,000 messages a second

_NONCE = re.compile(rb'nonce="([^"]+)"')
_HEADERS = "\r\n".join(f"Name-{i}: value {i}; parameter={i * 7}" for i in range(10))


def mark() -> None:
    """Call a function of the C library that nothing else here calls: callgrind writes its count there and begins at 0."""
    os.getpgid(0)


class Phones:
    """The far end: requests out, answers in, time in steps."""

    def __init__(self, data: Path, users: int) -> None:
        self.now, self.answers = NOW, list[bytes]()
        self.node = make_node(data, "lua", SCRIPTS["lua"], self._take, users)

    def _take(self, items: list[tuple[bytes, Flow]]) -> None:
        self.answers += [data for data, _ in items]

    def exchange(self, requests: list[bytes]) -> list[bytes]:
        """Let ``requests`` come in, one in each pass over the socket, and return the answers."""
        self.answers = []
        receive, pump = self.node.router.receive, self.node.router.pump
        for request in requests:
            self.now += STEP
            receive(request, PHONE, self.now)
            pump()
        return self.answers


def authorization(i: int, challenge: bytes) -> str:
    """Answer a challenge with user ``i``'s password."""
    nonce = _must(_NONCE.search(challenge))[1].decode()
    user, uri = f"u{i:05}", f"sip:{DOMAIN}"
    response = digest.response(digest.ha1(user, DOMAIN, f"pw-{i:05}"), nonce, "REGISTER", uri)
    names = f'username="{user}",realm="{DOMAIN}",uri="{uri}",nonce="{nonce}",response="{response}",algorithm=MD5'
    return f"Authorization: Digest {names}"


def registrations(phones: Phones, users: Iterable[int], *, counted: bool) -> None:
    """Register ``users``; the node's work is ``counted`` in two sections. Raise AssertionError for a wrong answer."""
    users = list(users)
    first = [register(i, 1) for i in users]
    if counted:
        mark()
    challenges = phones.exchange(first)
    if counted:
        mark()
    second = [register(i, 2, authorization(i, c)) for i, c in zip(users, challenges, strict=True)]
    if counted:
        mark()
    saved = phones.exchange(second)
    if counted:
        mark()
    if not all(answer.startswith(b"SIP/2.0 200 ") for answer in saved) or len(saved) != len(users):
        raise AssertionError("a registration was not answered 200")


def calibrate(rounds: int) -> int:
    """Do what every Python does in the same way, in about the mix of the path: calls, dicts, slicing, joining, hashing."""
    done = 0
    for number in range(rounds):
        values: dict[str, str] = {}
        for line in _HEADERS.split("\r\n"):
            name, _, value = line.partition(":")
            values[name.lower()] = value.strip(" ")
        record = _Record(number, values)
        text = "\r\n".join([record.line(name) for name in values])
        done += len(md5(text.encode("latin-1")).hexdigest()) + len(text.encode("latin-1").decode("latin-1"))
    return done


class _Record:
    __slots__ = ("number", "values")

    def __init__(self, number: int, values: dict[str, str]) -> None:
        self.number, self.values = number, values

    def line(self, name: str) -> str:
        value = self.values.get(name)
        if value is None or ";" not in value:
            return ""
        return f"{name}: {value[: value.index(';')]} {self.number}"


def main() -> None:
    """Take the three sections."""
    with tempfile.TemporaryDirectory() as data:
        phones = Phones(Path(data), WARM + N)
        registrations(phones, range(WARM), counted=False)
        gc.collect()
        gc.freeze()
        gc.disable()  # when a collection happens would depend on all that was before
        registrations(phones, range(WARM, WARM + N), counted=True)
        calibrate(WARM)
        mark()
        calibrate(N)
        mark()
        phones.node.close()


def _must(found: re.Match[bytes] | None) -> re.Match[bytes]:
    if found is None:
        sys.exit("no nonce in a challenge")
    return found


if __name__ == "__main__":
    main()
