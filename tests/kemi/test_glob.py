"""Patterns of file names: the same as fnmatch(3) says."""

from __future__ import annotations

import ctypes
import platform
import random

import pytest

from polykemi.kemi.glob import matches
from tests.waiting import cpu_seconds

PATTERNS = (
    "*",
    "",
    "a*b?c",
    "[a-c]*",
    "[!a]b",
    "[^a]b",
    "[]a]",
    "[a-]",
    "[a",
    "\\*a",
    "a\\",
    "[[:alpha:]]?",
    "[[:none:]]",
    "[\\]]",
    "*[*]",
)


def libc(text: str, pattern: str) -> bool:
    return bool(ctypes.CDLL(None).fnmatch(pattern.encode("latin-1"), text.encode("latin-1"), 0) == 0)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library to ask")
def test_patterns_mean_what_the_c_library_says() -> None:
    chance = random.Random(4)
    texts = ["".join(chance.choices("abc]-*\\1", k=chance.randrange(5))) for _ in range(200)]
    patterns = [*PATTERNS, *("".join(chance.choices("ab*?[]!-\\1", k=chance.randrange(7))) for _ in range(600))]
    assert [(t, p) for t in texts for p in patterns if matches(t, p) != libc(t, p)] == []


def test_case_is_ignored_when_asked() -> None:
    assert matches("ABC", "a[a-c]*", ignore_case=True)
    assert not matches("ABC", "a*")


def test_a_hostile_pattern_takes_no_time() -> None:
    assert cpu_seconds(lambda: matches("a" * 2000, "a*" * 200 + "b")) < 1
    assert not matches("a" * 2000, "a*" * 200 + "b")
