"""rtpengine: the flags of a script, and what Kamailio makes of them in a question to the relay.

Flags are words with a space between them, ``name`` or ``name=value``. Some have a meaning here, the others are handed on:
words in the list ``flags``, the rest as entries of the question.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from typing import Final

from polykemi.kemi.numbers import leading_number
from polykemi.modules.rtpengine_bencode import Bencoded

log = logging.getLogger("polykemi.rtpengine")

Question = dict[str, Bencoded]

_FLAG: Final = re.compile(r"([^ =]*)(?:=([^ ]*))?")
_DIGITS: Final = re.compile(r"[0-9]{0,9}")

# transport-protocol: bits, as flags set and clear them one by one
_SRTP: Final = 1
_FEEDBACK: Final = 2
_DTLS: Final = 4
_GIVEN: Final = 0x100
_TRANSPORTS: Final = {
    0: "RTP/AVP",
    _SRTP: "RTP/SAVP",
    _FEEDBACK: "RTP/AVPF",
    _SRTP | _FEEDBACK: "RTP/SAVPF",
    _DTLS: "UDP/TLS/RTP/SAVP",
    _DTLS | _FEEDBACK: "UDP/TLS/RTP/SAVPF",
}
_SET_TRANSPORT: Final = {
    "RTP/AVP": _GIVEN,
    "RTP/SAVP": _GIVEN | _SRTP,
    "RTP/AVPF": _GIVEN | _FEEDBACK,
    "RTP/SAVPF": _GIVEN | _SRTP | _FEEDBACK,
    "UDP/TLS/RTP/SAVP": _GIVEN | _DTLS,
    "UDP/TLS/RTP/SAVPF": _GIVEN | _DTLS | _FEEDBACK,
}
_ADD_TRANSPORT: Final = {"SRTP": _SRTP, "AVPF": _FEEDBACK, "DTLS": _DTLS}
_TAKE_TRANSPORT: Final = {"RTP": _SRTP, "AVP": _FEEDBACK}

# flags with a list of their own: NAME=value or NAME-value -> the list's name
_LISTS: Final = {"replace": "replace", "SDES": "SDES", "T38": "T.38", "T.38": "T.38", "rtcp-mux": "rtcp-mux"}
_CODEC_LISTS: Final = {
    "transcode": "transcode",
    "codec-transcode": "transcode",
    "codec-strip": "strip",
    "codec-offer": "offer",
    "codec-mask": "mask",
    "codec-set": "set",
    "codec-except": "except",
}
VIA_BRANCHES: Final = {
    "auto": "auto",
    "extra": "extra",
    "next": "next",
    "auto-next": "auto-next",
    "next-auto": "auto-next",
    "auto-extra": "auto-extra",
    "extra-auto": "auto-extra",
}


class BadFlag(ValueError):
    """A flag that makes the whole call fail."""


@dataclass
class Flags:
    """What the flags of one call say. ``with_sdp``: those about a session description have a meaning."""

    command: str
    with_sdp: bool
    call_id: str
    from_tag: str
    to_tag: str
    send_to_tag: bool  # set by the flag to-tag where it is not so by itself
    entries: Question = field(default_factory=dict)  # of the question, in the order in which they came
    words: list[Bencoded] = field(default_factory=list)
    directions: list[Bencoded] = field(default_factory=list)
    lists: dict[str, list[Bencoded]] = field(default_factory=dict)
    codecs: dict[str, Bencoded] = field(default_factory=dict)
    from_tags: list[Bencoded] = field(default_factory=list)
    transport: int = 0
    via_branch: str = ""
    directional: bool = False

    def read(self, text: str) -> None:
        """Take in the flags. Raise BadFlag."""
        at = 0
        while True:
            while text[at : at + 1] == " ":
                at += 1
            match = _FLAG.match(text, at)
            if match is None or not match[1]:
                return
            at = match.end()
            self._take(match[1], match[2])

    def _take(self, key: str, value: str | None) -> None:
        if self._in_list(key, value) or self._is_transport(key, value) or self._is_tag(key, value):
            return
        if key == "TOS" and value is not None:
            self.entries["TOS"] = leading_number(value)
        elif key in ("internal", "external"):
            self.directions.append(key)
        elif key == "direction":
            self.directions.append(value or "")
        elif key == "via-branch":
            self.via_branch = via_branch(_needed(key, value))
        elif key == "repacketize":
            milliseconds = int(_DIGITS.match(_needed(key, value))[0] or 0)  # type: ignore[index]
            if not milliseconds:
                raise BadFlag(f"{key}={value}: invalid value")
            self.entries["repacketize"] = milliseconds
        elif key == "directional":
            self.directional = True
        elif key == "force-answer":
            if self.command != "offer":
                raise BadFlag(f"{key}: only an offer can be made an answer")
            self.command = "answer"
        else:
            if key == "delete-delay" and value is not None:
                self.entries["delete delay"] = leading_number(value)  # and as it came, as Kamailio does
            if value is None:
                self.words.append(key)
            else:
                self.entries[key] = value

    def _in_list(self, key: str, value: str | None) -> bool:
        """Put ``replace-origin``, ``replace=origin``, ``codec-strip-PCMA`` and the like into their list."""
        for prefix, name in _LISTS.items():
            rest = _after(prefix, key, value)
            if rest:
                self.lists.setdefault(name, []).append(rest)
                return True
        for prefix, name in _CODEC_LISTS.items():
            rest = _after(prefix, key, value)
            if rest:
                codecs = self.codecs.setdefault(name, [])
                assert isinstance(codecs, list)
                codecs.append(rest)
                return True
        return False

    def _is_transport(self, key: str, value: str | None) -> bool:
        if value is not None:
            return False
        if key in _SET_TRANSPORT:
            self.transport = _SET_TRANSPORT[key]
        elif key in _ADD_TRANSPORT:
            self.transport |= _GIVEN | _ADD_TRANSPORT[key]
        elif key in _TAKE_TRANSPORT:
            self.transport = (self.transport | _GIVEN) & ~_TAKE_TRANSPORT[key]
        else:
            return False
        return True

    def _is_tag(self, key: str, value: str | None) -> bool:
        if key == "call-id":
            self.call_id = _needed(key, value)
        elif key == "from-tag":
            self.from_tag = _needed(key, value)
            self.directional = True
        elif key == "from-tags" and self.command == "subscribe request":  # newer than the other flags
            self.from_tags.append(_needed(key, value))
        elif key == "to-tag":
            self.send_to_tag = True
            if value is not None:
                self.to_tag = value
        else:
            return False
        return True

    def put(self, question: Question) -> None:
        """Add what was read to ``question``, in Kamailio's order."""
        question.update(self.entries)
        if self.with_sdp and self.directions:
            question["direction"] = self.directions
        if self.words:
            question["flags"] = self.words
        if self.with_sdp and "replace" in self.lists:
            question["replace"] = self.lists["replace"]
        if self.with_sdp and self.codecs:
            question["codec"] = self.codecs
        if self.transport & _GIVEN:
            secure = ~_SRTP if self.transport & _DTLS else ~0  # DTLS and SRTP both: Kamailio reads beside its table
            question["transport-protocol"] = _TRANSPORTS[self.transport & 7 & secure]
        for name in ("rtcp-mux", "SDES", "T.38"):
            if self.with_sdp and name in self.lists:
                question[name] = self.lists[name]
        question["call-id"] = self.call_id


def via_branch(value: str) -> str:
    """Return which branch ``via-branch`` means: 1, 2, auto, extra, next, auto-next, auto-extra. Raise BadFlag."""
    found = value[:1] if value[:1] in ("1", "2") else VIA_BRANCHES.get(value, "")
    if not found:
        raise BadFlag(f"via-branch={value}: invalid value")
    return found


def _after(prefix: str, key: str, value: str | None) -> str:
    """Return what ``prefix-REST`` or ``prefix=REST`` says, "" for another flag."""
    if key == prefix:
        return value or ""
    return key[len(prefix) + 1 :] if key.startswith(f"{prefix}-") else ""


def _needed(key: str, value: str | None) -> str:
    if value is None:
        raise BadFlag(f"{key}: missing value")
    return value
