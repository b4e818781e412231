"""Patterns of file names, as fnmatch(3) of the GNU C library takes them without flags: ``*``, ``?``, ``[a-z]``, ``\\``."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

_CLASSES: Final[dict[str, Callable[[str], bool]]] = {
    "alnum": str.isalnum,
    "alpha": str.isalpha,
    "blank": lambda c: c in " \t",
    "cntrl": lambda c: c < " " or c == "\x7f",
    "digit": str.isdigit,
    "graph": lambda c: " " < c < "\x7f",
    "lower": str.islower,
    "print": lambda c: " " <= c < "\x7f",
    "punct": lambda c: " " < c < "\x7f" and not c.isalnum(),
    "space": lambda c: c in " \t\n\r\f\v",
    "upper": str.isupper,
    "xdigit": lambda c: c in "0123456789abcdefABCDEF",
}

_Test = Callable[[str], bool] | None  # of one character; None: any number of characters


def matches(text: str, pattern: str, *, ignore_case: bool = False) -> bool:
    """Tell whether all of ``text`` matches ``pattern``. It takes at most length times length steps."""
    if ignore_case:
        text, pattern = text.lower(), pattern.lower()
    tests = _tests(pattern)
    at = i = 0
    star, retry = -1, 0  # the last * and where in the text it has been tried up to
    while at < len(text):
        test = tests[i] if i < len(tests) else _never
        if test is None:
            star, retry = i, at
            i += 1
        elif test(text[at]):
            at += 1
            i += 1
        elif star >= 0:
            retry += 1
            at, i = retry, star + 1
        else:
            return False
    return all(test is None for test in tests[i:])


def _never(c: str) -> bool:
    return False


@lru_cache(maxsize=256)
def _tests(pattern: str) -> list[_Test]:
    """Return what is asked of the characters, one after the other."""
    tests: list[_Test] = []
    at = 0
    while at < len(pattern):
        c = pattern[at]
        at += 1
        if c == "*":
            tests.append(None)
        elif c == "?":
            tests.append(lambda _: True)
        elif c == "[" and (bracket := _bracket(pattern, at)) is not None:
            test, at = bracket
            tests.append(test)
        elif c == "\\" and at < len(pattern):
            tests.append(pattern[at].__eq__)
            at += 1
        elif c == "\\":  # nothing that it could stand before: it matches nothing
            tests.append(_never)
        else:
            tests.append(c.__eq__)
    return tests


def _bracket(pattern: str, at: int) -> tuple[Callable[[str], bool], int] | None:
    """Return the test of the bracket expression whose ``[`` has been read, and the place behind it; None without its end."""
    negated = pattern[at : at + 1] in ("!", "^") and at < len(pattern)
    at += negated
    first, wanted = at, list[Callable[[str], bool]]()
    while at < len(pattern) and (pattern[at] != "]" or at == first):
        if pattern.startswith("[:", at) and (end := pattern.find(":]", at)) > 0:
            wanted.append(_CLASSES.get(pattern[at + 2 : end], _never))
            at = end + 2
            continue
        at += pattern[at] == "\\" and at + 1 < len(pattern)
        low = high = pattern[at]
        at += 1
        if pattern[at : at + 1] == "-" and pattern[at + 1 : at + 2] not in ("", "]"):
            at += 1
            at += pattern[at] == "\\" and at + 1 < len(pattern)
            high = pattern[at]
            at += 1
        wanted.append(_between(low, high))
    if at >= len(pattern):
        return None
    return (lambda c: any(test(c) for test in wanted) != negated), at + 1


def _between(low: str, high: str) -> Callable[[str], bool]:
    return lambda c: low <= c <= high
