"""sed-like substitution expressions: ``/regex/replacement/flags`` (Kamailio: core/re.c)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from polykemi.kemi.posix import BadPattern, compile_posix

_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t"}


class Substitution:
    """A parsed expression; flags are ``g`` (all matches), ``i`` (either case) and ``s`` (``^`` and ``$`` know no lines).

    The first character is the separator. In the replacement ``\\0`` stands for the match, ``\\1`` to ``\\9`` for groups;
    variables are expanded by ``expand``, which ``apply`` is given.
    """

    __slots__ = ("_parts", "every", "pattern")

    def __init__(self, expression: str) -> None:
        """Parse. Raise BadPattern."""
        fields = _split(expression)
        if fields is None:
            raise BadPattern(f"bad substitution {expression!r}: expected /regex/replacement/flags")
        pattern, replacement, flags = fields
        if flags.strip("gis"):
            raise BadPattern(f"bad substitution {expression!r}: flags are g, i and s")
        options = re.ASCII
        if "i" in flags:
            options |= re.IGNORECASE
        options |= re.DOTALL if "s" in flags else re.MULTILINE
        self.pattern = compile_posix(pattern, options)
        self.every = "g" in flags
        self._parts = _parts(replacement)
        if any(isinstance(part, int) and part > self.pattern.groups for part in self._parts):
            raise BadPattern(f"bad substitution {expression!r}: no such group")

    def apply(self, text: str, expand: Callable[[str], str]) -> tuple[str, int]:
        """Return ``text`` after the substitution and how many matches were replaced."""
        parts = [part if isinstance(part, int) else expand(part) if "$" in part else part for part in self._parts]

        def replacement(match: re.Match[str]) -> str:
            return "".join((match[part] or "") if isinstance(part, int) else part for part in parts)

        return self.pattern.subn(replacement, text, count=0 if self.every else 1)


def _split(expression: str) -> tuple[str, str, str] | None:
    """Split at the separator, the first character; behind a backslash it stands for itself."""
    if len(expression) < 3:
        return None
    separator, fields, field, i = expression[0], [], [], 1
    while i < len(expression):
        c = expression[i]
        if c == "\\" and i + 1 < len(expression):
            following = expression[i + 1]
            field.append(following if following == separator else c + following)
            i += 2
            continue
        if c == separator:
            fields.append("".join(field))
            field = []
        else:
            field.append(c)
        i += 1
    return (fields[0], fields[1], "".join(field)) if len(fields) == 2 and fields[0] else None


def _parts(replacement: str) -> list[str | int]:
    """Split a replacement into text and numbers of groups."""
    parts: list[str | int] = []
    text, i = "", 0
    while i < len(replacement):
        c = replacement[i]
        if c == "\\" and i + 1 < len(replacement):
            following = replacement[i + 1]
            i += 2
            if following.isdecimal():
                if text:
                    parts.append(text)
                    text = ""
                parts.append(int(following))
            else:
                text += _ESCAPES.get(following, following)
            continue
        text += c
        i += 1
    if text:
        parts.append(text)
    return parts
