"""POSIX extended regular expressions, as Kamailio's functions take them, compiled to Python's.

Python's ``re`` finds the first alternative that matches where POSIX finds the longest; scripts hardly ever notice.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from polykemi.errors import PolykemiError

# with REG_ICASE and REG_NEWLINE, as textops, rr and siputils compile
FLAGS: Final = re.IGNORECASE | re.MULTILINE | re.ASCII

_CLASSES: Final = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": " \\t",
    "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9",
    "graph": "\\x21-\\x7e",
    "lower": "a-z",
    "print": "\\x20-\\x7e",
    "punct": "!-/:-@\\[-`{-~",
    "space": " \\t\\n\\r\\f\\v",
    "upper": "A-Z",
    "xdigit": "0-9a-fA-F",
}


class BadPattern(PolykemiError):
    """A regular expression that does not compile."""


@lru_cache(maxsize=1024)
def compile_posix(pattern: str, flags: re.RegexFlag = FLAGS) -> re.Pattern[str]:
    """Compile ``pattern``; cached. Raise BadPattern."""
    try:
        return re.compile(_translate(pattern), flags)
    except (re.error, OverflowError, RecursionError) as error:
        raise BadPattern(f"bad regular expression {pattern!r}: {error}") from None


def _translate(pattern: str) -> str:
    out, i, n = [], 0, len(pattern)
    while i < n:
        c = pattern[i]
        if c == "\\" and i + 1 < n:
            out.append(_escape(pattern[i + 1]))
            i += 2
        elif c == "[":
            text, i = _bracket(pattern, i)
            out.append(text)
        elif c == "(" and pattern[i + 1 : i + 2] == "?":
            out.append("(\\?")  # means something to Python only
            i += 2
        elif c == "$" and (i + 1 == n or pattern[i + 1] in ")|"):
            out.append("(?=\\r?\\n|\\Z)")  # lines of SIP end in CRLF
            i += 1
        else:
            out.append(c)
            i += 1
    return "".join(out)


def _escape(c: str) -> str:
    """Translate a backslash and ``c``: the GNU library knows words and back-references, all else is the character itself."""
    return "\\" + c if c in "wWsSbB123456789" or not c.isalnum() else re.escape(c)


def _bracket(pattern: str, start: int) -> tuple[str, int]:
    """Translate the bracket expression at ``start``; return it and the place behind it."""
    i = start + 1
    out = ["["]
    if pattern[i : i + 1] == "^":
        out.append("^")
        i += 1
    first = True
    while i < len(pattern):
        c = pattern[i]
        if c == "]" and not first:
            if out[0] == "[" and len(out) > 1 and out[1] == "^":
                out.append("\\n")  # REG_NEWLINE: a list that excludes does not match the end of a line
            return "".join(out) + "]", i + 1
        first = False
        if pattern[i : i + 2] == "[:":
            end = pattern.find(":]", i)
            name = pattern[i + 2 : end] if end > 0 else ""
            if name not in _CLASSES:
                raise BadPattern(f"bad regular expression {pattern!r}: unknown class [:{name}:]")
            out.append(_CLASSES[name])
            i = end + 2
        else:
            out.append("\\" + c if c in "\\[]^&~|" else c)  # a backslash is itself in there
            i += 1
    raise BadPattern(f"bad regular expression {pattern!r}: no ] for [")
