"""A compiled regular expression with a time bound, so that a hostile pattern or text costs one call, not the server.

Kamailio compiles at every call and has no bound; here ``compile_posix`` (kemi/posix.py) and ``compile_pcre`` (kemi/pcre.py)
are the two ways to a Pattern, both with a bounded cache. Nothing else compiles what a script gives.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, Protocol

import regex

from polykemi.errors import PolykemiError
from polykemi.kemi.literals import broken_up

log = logging.getLogger("polykemi.script")

SECONDS: Final = 0.05  # of CPU time that one use of a pattern may take; ordinary ones take some microseconds
_LEAST: Final = 0.002  # a pattern that ran into its bound gets half of it from then on, down to this
MAX_SOURCE: Final = 16384  # octets of a pattern
MAX_WEIGHT: Final = 16384  # characters and sets of a pattern when its repetitions are written out


class BadPattern(PolykemiError):
    """A regular expression that does not compile."""


class Match(Protocol):
    """What was found: ``match[0]`` is all of it, ``match[n]`` a group, None when that took no part."""

    def __getitem__(self, group: int) -> str | None: ...

    def start(self, group: int = 0) -> int:
        """Return where the group begins, -1 when it took no part."""

    def end(self, group: int = 0) -> int:
        """Return where the group ends, -1 when it took no part."""


class Pattern:
    """A compiled pattern. A use that takes too long is logged and counts as no match."""

    __slots__ = ("_first", "_longest", "_seconds", "groups", "source")

    def __init__(self, source: str, translated: str, flags: int, *, longest: bool) -> None:
        """Compile ``translated``, in the words of the library; errors name ``source``. Raise BadPattern.

        ``longest``: of the matches at one place the longest is the match (POSIX), else the first (Perl).
        """
        self.source = source
        self._seconds = SECONDS
        self._first = _compile(source, translated, flags)
        self._longest = _compile(source, translated, flags | regex.POSIX) if longest else None
        self.groups: int = self._first.groups

    def matches(self, text: str) -> bool:
        """Tell whether the pattern occurs in ``text``."""
        try:
            return self._first.search(text, timeout=self._seconds) is not None
        except TimeoutError:
            self._took_too_long(text)
            return False

    def search(self, text: str) -> Match | None:
        """Return the leftmost match."""
        found: Match | None
        if self._longest is not None:
            try:
                found = self._longest.search(text, timeout=self._seconds)
                return found
            except TimeoutError:  # to look for the longest can take far longer than to look for any
                pass
        try:
            found = self._first.search(text, timeout=self._seconds)
            return found
        except TimeoutError:
            self._took_too_long(text)
            return None

    def subn(self, replacement: Callable[[Match], str], text: str, count: int = 0) -> tuple[str, int]:
        """Replace the first ``count`` matches (0: all); return the new text and how many there were."""
        for compiled in (self._longest, self._first):
            if compiled is not None:
                try:
                    changed: tuple[str, int] = compiled.subn(replacement, text, count=count, timeout=self._seconds)
                    return changed
                except TimeoutError:
                    pass
        self._took_too_long(text)
        return text, 0

    def _took_too_long(self, text: str) -> None:
        if self._seconds > _LEAST:  # or a stream of hostile messages would fill the log
            log.error(
                "regular expression %r: stopped after %.0f ms on a text of %d octets, taken as no match",
                self.source,
                self._seconds * 1000,
                len(text),
            )
        self._seconds = max(self._seconds / 2, _LEAST)


def bad(source: str, cause: object) -> BadPattern:
    """Return the error for a pattern."""
    return BadPattern(f"bad regular expression {source[:200]!r}: {cause}")


def _compile(source: str, translated: str, flags: int) -> Any:
    try:
        return regex.compile(broken_up(translated), flags | regex.VERSION0 | regex.ASCII, cache_pattern=False)
    except (regex.error, OverflowError, RecursionError, ValueError, IndexError, KeyError, TypeError) as error:
        raise bad(source, error) from None
