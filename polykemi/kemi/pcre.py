"""Perl-compatible regular expressions (regex, dialplan, lcr), compiled once to what the library understands.

The library knows nearly all of PCRE by itself; here is what it writes differently and what it has besides.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import regex

from polykemi.kemi.pattern import MAX_SOURCE, MAX_WEIGHT, BadPattern, Pattern, bad

# PCRE_CASELESS, PCRE_MULTILINE, PCRE_DOTALL and PCRE_EXTENDED
CASELESS: Final = int(re.IGNORECASE)
MULTILINE: Final = int(re.MULTILINE)
DOTALL: Final = int(re.DOTALL)
EXTENDED: Final = int(re.VERBOSE)

_OPTIONS: Final = (
    (CASELESS, regex.IGNORECASE),
    (MULTILINE, regex.MULTILINE),
    (DOTALL, regex.DOTALL),
    (EXTENDED, regex.VERBOSE),
)
_INTERVAL: Final = re.compile(r"\{(\d{1,5})(?:,(\d{0,5}))?\}", re.ASCII)
_REFERENCE: Final = re.compile(r"\\(?:g(?:\{(\d{1,2})\}|(\d{1,2}))|k[<{'](\w+)[>}'])", re.ASCII)
_MAX_DEPTH: Final = 200
_ESCAPES: Final = {  # PCRE's meaning, for the library
    "h": "[ \\t\\xa0]",
    "H": "[^ \\t\\xa0]",
    "v": "[\\n\\x0b\\f\\r\\x85]",
    "V": "[^\\n\\x0b\\f\\r\\x85]",
    "N": "[^\\n]",
    "z": "\\Z",
    "Z": "(?=\\n?\\Z)",
    "e": "\\x1b",
}
_OWN: Final = frozenset("LmMX")  # escapes that only the library has: in PCRE they are letters, or unknown


@lru_cache(maxsize=1024)
def compile_pcre(pattern: str, flags: int = 0) -> Pattern:
    """Compile ``pattern``; cached. ``flags``: CASELESS, MULTILINE, DOTALL, EXTENDED. Raise BadPattern."""
    options = 0
    for flag, option in _OPTIONS:
        if flags & flag:
            options |= option
    return Pattern(pattern, _translate(pattern), options, longest=False)


def _translate(pattern: str) -> str:
    """Return the pattern in the library's words, with its size when all is repeated checked. Raise BadPattern."""
    if len(pattern) > MAX_SOURCE:
        raise bad(pattern, f"longer than {MAX_SOURCE} octets")
    out: list[str] = []
    outer: list[int] = []  # the weights around the open groups
    weight, atom, i = 0, 0, 0  # of the group so far, of its last piece
    while i < len(pattern):
        c, previous = pattern[i], atom
        atom = 1
        if c == "\\":
            text, i = _escape(pattern, i)
            out.append(text)
        elif c == "[":
            end = _class_end(pattern, i)
            out.append(_class(pattern[i:end]))
            i = end
        elif c == "(":
            outer.append(weight + previous)
            if len(outer) > _MAX_DEPTH:
                raise bad(pattern, "groups are nested too deeply")
            weight = atom = 0
            previous = 0
            out.append(c)
            i += 1
        elif c == ")" and outer:
            atom = weight + previous + 1
            weight, previous = outer.pop(), 0
            out.append(c)
            i += 1
        elif c in "*+?{" and (interval := _repetition(pattern, i)):
            least, end = interval
            atom, previous = previous * (least + 1), 0
            out.append(pattern[i:end])
            i = end
        else:
            out.append(
                "\\{" if c == "{" else c
            )  # a brace that begins no interval is a brace; the library has more in them
            i += 1
        weight += previous
        if weight + atom > MAX_WEIGHT:
            raise bad(pattern, "too many repetitions")
    return "".join(out)


def _repetition(pattern: str, at: int) -> tuple[int, int] | None:
    """Return how often at least the repetition at ``at`` repeats and where it ends; None for a brace that is none."""
    c = pattern[at]
    if c != "{":
        return (1 if c == "+" else 0), at + 1
    found = _INTERVAL.match(pattern, at)
    return (int(found[1]), found.end()) if found else None


def _escape(pattern: str, at: int) -> tuple[str, int]:
    """Translate the escape at ``at``; return it and the place behind it."""
    c = pattern[at + 1 : at + 2]
    if not c:
        raise bad(pattern, "it ends in a backslash")
    if c == "Q":
        end = pattern.find("\\E", at + 2)
        end = len(pattern) if end < 0 else end
        return regex.escape(pattern[at + 2 : end]), min(end + 2, len(pattern))
    if c == "E":
        return "", at + 2
    if c in _OWN:
        return c, at + 2
    if c in "gk" and (named := _REFERENCE.match(pattern, at)):
        name = named[1] or named[2] or named[3]
        return (f"(?:\\{name})" if name.isdecimal() else f"(?P={name})"), named.end()
    return _ESCAPES.get(c, "\\" + c), at + 2


def _class_end(pattern: str, start: int) -> int:
    """Return the place behind the character class at ``start``. Raise BadPattern."""
    at = start + 1
    if pattern[at : at + 1] == "^":
        at += 1
    first = at
    while at < len(pattern):
        c = pattern[at]
        if c == "\\":
            at += 2
        elif pattern[at : at + 2] == "[:" and (end := pattern.find(":]", at)) > 0:
            at = end + 2
        elif c == "]" and at > first:
            return at + 1
        else:
            at += 1
    raise bad(pattern, "a [ without ]")


def _class(text: str) -> str:
    """Translate a whole class: an opening bracket inside of it, but of ``[:name:]``, is a character."""
    inner = re.sub(r"\\h", r" \\t\\xa0", text[1:-1])
    start = 1 if inner[:1] == "^" else 0
    if inner[start : start + 1] == "]":
        inner = inner[:start] + "\\" + inner[start:]
    return "[" + re.sub(r"\[(?!:)", r"\\[", inner) + "]"


__all__ = ["CASELESS", "DOTALL", "EXTENDED", "MULTILINE", "BadPattern", "Pattern", "compile_pcre"]
