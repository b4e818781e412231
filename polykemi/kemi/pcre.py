"""Perl-compatible regular expressions (regex, dialplan, lcr), compiled once to what the library understands.

The library knows nearly all of PCRE by itself; here is what it writes differently and what it has besides.
"""

from __future__ import annotations

import re
import unicodedata
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
_REFERENCE: Final = re.compile(r"\\(?:g(?:\{(-?\d{1,2})\}|(-?\d{1,2}))|k[<{'](\w+)[>}'])", re.ASCII)
_OCTET: Final = re.compile(r"\\(?:x\{([0-9A-Fa-f]*)|o\{([0-7]+))\}")
_PROPERTY: Final = re.compile(r"\\([pP])(?:\{(\^?)([A-Za-z&_]+)\}|([A-Z]))")
_QUOTED_NAME: Final = re.compile(r"\(\?'(\w+)'", re.ASCII)
_NO_GROUP: Final = re.compile(r"\((?:\?(?!P?<[A-Za-z_]|')|\*)")  # a parenthesis that captures nothing
_OUTSIDE: Final = re.compile(r"\[([:.=])[^]]*?\1\]")  # what has its meaning inside of a class alone
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
_LETTERS: Final = frozenset("FIJMOTYijmqy_")  # escapes that are the character itself
_REFUSED: Final = frozenset("LlNUu")  # of Perl, which PCRE does not have
_IN_CLASS: Final = {
    "h": " \\t\\xa0",
    "H": "\\x00-\\x08\\x0a-\\x1f\\x21-\\x9f\\xa1-\\xff",
    "v": "\\n\\x0b\\f\\r\\x85",
    "V": "\\x00-\\x09\\x0e-\\x84\\x86-\\xff",
    "e": "\\x1b",
    **{c: c for c in "BRX"},
}
_LATIN: Final = ("LATIN", "FEMININE", "MASCULINE")  # how the names of its letters begin
_CATEGORIES: Final = frozenset({unicodedata.category(chr(n)) for n in range(0x3000)} | {"L&", "Co", "Cs", "Cn"})


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
    groups = 0  # opened so far that capture
    weight, atom, i = 0, 0, 0  # of the group so far, of its last piece
    while i < len(pattern):
        c, previous = pattern[i], atom
        atom = 1
        if c == "\\":
            text, i = _escape(pattern, i, groups)
            out.append(text)
        elif c == "[":
            text, i = _class(pattern, i)
            out.append(text)
        elif c == "(":
            outer.append(weight + previous)
            if len(outer) > _MAX_DEPTH:
                raise bad(pattern, "groups are nested too deeply")
            weight = atom = previous = 0
            groups += _NO_GROUP.match(pattern, i) is None
            named = _QUOTED_NAME.match(pattern, i)
            out.append(f"(?P<{named[1]}>" if named else c)
            i = named.end() if named else i + 1
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
            # a brace that begins no interval is a brace; the library has more in them
            out.append("\\{" if c == "{" else c)
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


def _escape(pattern: str, at: int, groups: int) -> tuple[str, int]:
    """Translate the escape at ``at``, behind so many groups; return it and the place behind it. Raise BadPattern."""
    c = pattern[at + 1 : at + 2]
    if c == "Q":
        return _quoted(pattern, at)
    if c in ("g", "k") and (named := _REFERENCE.match(pattern, at)):
        name = named[1] or named[2] or named[3]
        if name[0] == "-":
            name = str(groups + 1 + int(name))
            if int(name) < 1:
                raise bad(pattern, "there are not as many groups")
        return (f"(?:\\{name})" if name.isdecimal() else f"(?P={name})"), named.end()
    if c in ("p", "P"):
        octets, end = _property(pattern, at)
        return f"[{octets}]" if octets else "(?!)", end
    if c == "N":  # that it is not in a class, see _character
        return _ESCAPES["N"], at + 2
    text, end = _character(pattern, at)
    if c in "XC":
        return "[\\x00-\\xff]", end
    return _ESCAPES.get(c, text), end


def _quoted(pattern: str, at: int) -> tuple[str, int]:
    """Return the text of ``\\Q...\\E``, each character by itself, and the place behind it."""
    end = pattern.find("\\E", at + 2)
    end = len(pattern) if end < 0 else end
    return regex.escape(pattern[at + 2 : end]), min(end + 2, len(pattern))


def _character(pattern: str, at: int) -> tuple[str, int]:
    """Translate an escape that means the same inside of classes and outside; return it and the place behind it."""
    c = pattern[at + 1 : at + 2]
    if not c:
        raise bad(pattern, "it ends in a backslash")
    if c == "E":
        return "", at + 2
    if c in _REFUSED:
        raise bad(pattern, f"there is no \\{c}")
    if c in _LETTERS:
        return c, at + 2
    if c == "c":
        control = pattern[at + 2 : at + 3].upper()
        if not control or not control.isascii():
            raise bad(pattern, "\\c wants a character")
        return f"\\x{ord(control) ^ 0x40:02x}", at + 3
    if c in "xo" and (braces := _OCTET.match(pattern, at)):
        number = int(braces[2], 8) if braces[2] else int(braces[1] or "0", 16)
        if number > 0xFF:
            raise bad(pattern, f"{braces[0]} is no octet")
        return f"\\x{number:02x}", braces.end()
    if c == "o":
        raise bad(pattern, "\\o wants an octal number in braces")
    if c == "x":
        digits = re.match("[0-9A-Fa-f]{0,2}", pattern[at + 2 :])
        assert digits is not None
        return f"\\x{int(digits[0] or '0', 16):02x}", at + 2 + len(digits[0])
    return "\\" + c, at + 2


def _property(pattern: str, at: int) -> tuple[str, int]:
    """Return the octets that have the Unicode property at ``at``, as they stand in a class, and the place behind it."""
    found = _PROPERTY.match(pattern, at)
    if found is None:
        raise bad(pattern, "a property is written \\p{L}")
    name = found[3] or found[4]
    wanted = _octets_of(name)
    if wanted is None:
        raise bad(pattern, f"unknown property {name}")
    negated = (found[1] == "P") != (found[2] == "^")
    return "".join(f"\\x{n:02x}" for n in range(256) if (n in wanted) != negated), found.end()


@lru_cache(maxsize=64)
def _octets_of(name: str) -> frozenset[int] | None:
    """Return the octets of a Unicode category, None for one that there is not; of scripts Latin is known."""
    if name == "Any":
        return frozenset(range(256))
    if name == "Latin":
        return frozenset(n for n in range(256) if unicodedata.name(chr(n), "").startswith(_LATIN))
    if name not in _CATEGORIES and name not in {category[0] for category in _CATEGORIES}:
        return None
    kinds = ("Lu", "Ll", "Lt") if name == "L&" else (name,)
    return frozenset(n for n in range(256) if unicodedata.category(chr(n)).startswith(kinds))


def _class(pattern: str, start: int) -> tuple[str, int]:
    """Translate the character class at ``start``; return it and the place behind it. Raise BadPattern.

    An opening bracket inside of it, but of ``[:name:]``, is a character.
    """
    if _OUTSIDE.match(pattern, start):
        raise bad(pattern, "classes with a name stand inside of brackets alone")
    out, at = "[", start + 1
    if pattern[at : at + 1] == "^":
        out, at = "[^", at + 1
    first = at
    while at < len(pattern):
        c = pattern[at]
        following = pattern[at + 1 : at + 2]
        if c == "]" and at > first:
            return out + "]", at + 1
        if c == "[" and following == ":" and (end := pattern.find(":]", at)) > 0:
            out, at = out + pattern[at : end + 2], end + 2
        elif c == "[" and following in (".", "=") and pattern.find(following + "]", at + 2) > 0:
            raise bad(pattern, "collating elements are not supported")
        elif c == "\\" and following == "Q":
            text, at = _quoted(pattern, at)
            out += text
        elif c == "\\" and following in ("p", "P"):
            text, at = _property(pattern, at)
            out += text
        elif c == "\\":
            text, at = _character(pattern, at)
            out += _IN_CLASS.get(following, text)
        else:
            out += "\\" + c if c in "[]" else c
            at += 1
    raise bad(pattern, "a [ without ]")


__all__ = ["CASELESS", "DOTALL", "EXTENDED", "MULTILINE", "BadPattern", "Pattern", "compile_pcre"]
