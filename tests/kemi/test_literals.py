"""Long literal texts in regular expressions take no time, and match as ever."""

from __future__ import annotations

import random
import time
from typing import Final

import pytest
import regex

from polykemi.kemi import literals
from polykemi.kemi.pattern import MAX_SOURCE
from polykemi.kemi.pcre import compile_pcre
from polykemi.kemi.posix import compile_posix

ATOMS: Final = (
    *("a", "b", "[ab]", "[^a]", "\\.", "\\x61", ".", "(a)", "(?:b|a)", "(?=a)", "|", "^", "$", "(ab)", "[]a]", "\\1"),
    *("a{2}", "\\d", "(?i:a)", "(?P<n>a)", "(?<=a)", "(?>a)"),
)


@pytest.mark.parametrize("piece", ["a", "(?:a)", "[a]", "\\,", "\\x61", "a{1}", "ab"])
def test_a_long_text_takes_no_time(piece: str) -> None:
    source = piece * (MAX_SOURCE // len(piece) // 2)
    began = time.process_time()
    pattern = compile_pcre(source)
    assert not pattern.matches("b" * 3000)
    assert time.process_time() - began < 2.0  # 60 s and more without


def test_a_long_text_is_found() -> None:
    text = "".join(random.Random(1).choice("abc") for _ in range(1000))
    found = compile_posix(text.upper()).search("xx" + text + "yy")
    assert found is not None
    assert (found.start(), found.end()) == (2, 1002)


def test_a_broken_up_expression_matches_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(literals, "_SHORT", 2)
    draw = random.Random(1)
    for _ in range(1500):
        repeats = ("", "", "", "*", "+?", "?", "{1,2}")
        source = "".join(draw.choice(ATOMS) + draw.choice(repeats) for _ in range(draw.randint(3, 9)))
        try:
            whole = regex.compile(source, regex.VERSION0)
        except regex.error:
            continue
        broken = regex.compile(literals.broken_up(source), regex.VERSION0)
        text = "".join(draw.choice("aab.") for _ in range(8))
        expected, got = whole.search(text), broken.search(text)
        assert (got and (got.span(), got.groups())) == (expected and (expected.span(), expected.groups())), source
