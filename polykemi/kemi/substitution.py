"""sed-like substitution expressions: ``/regex/replacement/flags`` (Kamailio: core/re.c)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from polykemi.kemi.posix import ICASE, NEWLINE, BadPattern, Match, compile_posix

_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t"}
_URI: Final = "$ru"  # what ``\u`` stands for


class _Variable(NamedTuple):
    """A part of a replacement that is a variable."""

    source: str


class _Empty(Exception):
    """The expression matched nothing at all, which Kamailio takes for an error."""


_Part = str | int | _Variable


class Substitution:
    """A parsed expression; flags are ``g`` (all matches), ``i`` (either case) and ``s`` (``^`` and ``$`` know no lines).

    The first character is the separator. In the replacement ``\\0`` stands for the match, ``\\1`` to ``\\9`` for groups, ``\\u``
    for the Request-URI, ``\\$`` for a dollar sign; variables are expanded by ``expand``, which ``apply`` is given.
    """

    __slots__ = ("_parts", "every", "pattern")

    def __init__(self, expression: str) -> None:
        """Parse. Raise BadPattern."""
        fields = _split(expression)
        if fields is None:
            raise BadPattern(f"bad substitution {expression!r}: expected /regex/replacement/flags")
        pattern, self._parts, flags = fields
        if flags.strip("gis"):
            raise BadPattern(f"bad substitution {expression!r}: flags are g, i and s")
        self.pattern = compile_posix(pattern, (ICASE if "i" in flags else 0) | (0 if "s" in flags else NEWLINE))
        self.every = "g" in flags

    @property
    def variables(self) -> list[str]:
        """The variables in the replacement, as written."""
        return [part.source for part in self._parts if isinstance(part, _Variable)]

    def apply(self, text: str, expand: Callable[[str], str]) -> tuple[str, int]:
        """Return ``text`` after the substitution and how many matches were replaced; -1 when one of them was empty."""
        try:
            return self.pattern.subn(self._replacement(expand), text, count=0 if self.every else 1)
        except _Empty:
            return text, -1

    def places(self, text: str, expand: Callable[[str], str]) -> list[tuple[int, int, str]]:
        """Return where ``text`` would be changed and what would stand there; nothing when one of the matches was empty."""
        replacement, found = self._replacement(expand), list[tuple[int, int, str]]()

        def take(match: Match) -> str:
            found.append((match.start(), match.end(), replacement(match)))
            return ""

        try:
            self.pattern.subn(take, text, count=0 if self.every else 1)
        except _Empty:
            return []
        return found

    def _replacement(self, expand: Callable[[str], str]) -> Callable[[Match], str]:
        """Return what gives the text that takes the place of a match. It raises _Empty."""
        parts = [expand(part.source) if isinstance(part, _Variable) else part for part in self._parts]
        groups = self.pattern.groups

        def replacement(match: Match) -> str:
            if match.start() == match.end():
                raise _Empty
            return "".join(
                [part if isinstance(part, str) else (match[part] or "") if part <= groups else "" for part in parts]
            )

        return replacement


def _split(expression: str) -> tuple[str, list[_Part], str] | None:
    """Split at the separator, the first character: regular expression, parts of the replacement, flags."""
    separator = expression[:1]
    if len(expression) < 3 or separator == "\\":
        return None
    at = 1
    while at < len(expression) and (expression[at] != separator or expression[at - 1] == "\\"):
        at += 1
    parts, end = _replacement(expression, at + 1, separator)
    return (expression[1:at], parts, expression[end + 1 :]) if end < len(expression) else None


def _replacement(source: str, at: int, separator: str) -> tuple[list[_Part], int]:
    """Return the parts of the replacement at ``at``, and where its separator is."""
    parts: list[_Part] = []
    while at < len(source) and source[at] != separator:
        c, following = source[at], source[at + 1 : at + 2]
        if c == "\\":
            if "0" <= following <= "9":
                parts.append(int(following))
            elif following == "u":
                parts.append(_Variable(_URI))
            else:
                parts.append(_ESCAPES.get(following, following))
            at += 2
        elif c == "$":
            end = _variable_end(source, at)
            parts.append(_Variable(source[at:end]))
            at = end
        else:
            parts.append(c)
            at += 1
    return _joined(parts), at


def _variable_end(source: str, at: int) -> int:
    """Return where the variable at ``at`` ends: behind its name and what is in parentheses."""
    at += 1
    while at < len(source) and (source[at].isascii() and (source[at].isalnum() or source[at] in "_.?")):
        at += 1
    depth = 0
    for end in range(at, len(source)):
        depth += (source[end] == "(") - (source[end] == ")")
        if depth <= 0:
            return end + 1 if source[end] == ")" and end > at else at
    return at


def _joined(parts: list[_Part]) -> list[_Part]:
    """Put neighbouring texts together."""
    out: list[_Part] = []
    for part in parts:
        if isinstance(part, str) and out and isinstance(out[-1], str):
            out[-1] += part
        else:
            out.append(part)
    return out
