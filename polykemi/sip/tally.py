"""Counting messages by method and status, as cheaply as can be: what runs for a message is one look-up in a dict."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from polykemi.sip.constants import METHODS as KNOWN_METHODS

METHODS: Final[tuple[str, ...]] = tuple(sorted(KNOWN_METHODS))  # all others are counted together
OTHER: Final = "other"
UNKNOWN_METHOD: Final = "core.unsupported_methods"

REQUEST_COUNTERS: Final = {method: f"core.rcv_requests_{method.lower()}" for method in METHODS}

# Kamailio counts the responses to these by themselves, under these names
_REPLIED: Final = {
    "BYE": "bye",
    "CANCEL": "cancel",
    "INVITE": "invite",
    "MESSAGE": "message",
    "PRACK": "prack",
    "REFER": "refer",
    "REGISTER": "reg",
    "UPDATE": "update",
}
_ALONE: Final = (401, 404, 407, 480, 486)
_HEAD: Final = 12  # octets: "SIP/2.0 200 ", or a method and the beginning of a URI
_MOST: Final = 4096  # beginnings of requests, which hold a bit of the user's name
_FIRST_LINE: Final = re.compile(rb"(?:SIP/2\.0 ([1-6][0-9]{2}) |([!#-~]+) [!-~]+ SIP/2\.0\r?\n)")


def reply_counters(method: str, status: int) -> tuple[str, ...]:
    """Return Kamailio's counters for a received response, besides that for all."""
    names = [f"core.rcv_replies_{status // 100}xx"]
    if method in _REPLIED:
        names.append(f"{names[0]}_{_REPLIED[method]}")
    if 180 <= status <= 189:
        names.append("core.rcv_replies_18x")
    if status in _ALONE:
        names.append(f"core.rcv_replies_{status}")
    return tuple(names)


RECEIVED_COUNTERS: Final = (
    "core.rcv_requests",
    *REQUEST_COUNTERS.values(),
    UNKNOWN_METHOD,
    "core.rcv_replies",
    *sorted(
        {
            name
            for status in (*range(100, 700, 100), 180, *_ALONE)
            for m in _REPLIED
            for name in reply_counters(m, status)
        }
    ),
)


class MessageTally:
    """How many messages have passed, by their first octets: ``requests`` and ``responses`` work out what these were."""

    __slots__ = ("_heads", "_others")

    def __init__(self) -> None:
        self._heads: dict[bytes, int] = {}
        self._others: dict[bytes, int] = {}  # by method, of what begins in more ways than are kept

    def count(self, data: bytes) -> None:
        """Count a message; what is none (keep-alives, HTTP) is left out."""
        head = data[:_HEAD]
        known = self._heads.get(head)
        if known is not None:
            self._heads[head] = known + 1
            return
        line = _FIRST_LINE.match(data)
        if line is None:
            return
        if line[1] is not None or (b" " in head and len(self._heads) < _MOST):
            self._heads[head] = 1
        else:
            method = data[: data.find(b" ")]
            if str(method, "latin-1") not in METHODS:
                method = b""
            self._others[method] = self._others.get(method, 0) + 1

    def requests(self) -> dict[str, int]:
        """Return method -> number; unknown methods stand together under OTHER."""
        found: dict[str, int] = {}
        for head, number in (*self._heads.items(), *self._others.items()):
            method = str(head.partition(b" ")[0], "latin-1")
            if method != "SIP/2.0":
                key = method if method in METHODS else OTHER
                found[key] = found.get(key, 0) + number
        return found

    def responses(self) -> Iterator[tuple[int, int]]:
        """Give status and number."""
        for head, number in sorted(self._heads.items()):
            if head[:8] == b"SIP/2.0 ":
                yield int(head[8:11]), number
