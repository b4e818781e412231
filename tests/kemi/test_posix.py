"""POSIX regular expressions and sed-like substitutions mean in scripts what they mean in Kamailio."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polykemi.kemi.posix import BadPattern, compile_posix
from polykemi.kemi.substitution import Substitution


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("^[[:alpha:]_-]+$", "A_b-c"),
        ("[]]", "]"),
        ("[^]]", "x"),
        ("a\\.b", "a.b"),
        ("\\d", "d"),  # no class in POSIX
        ("[\\d]+$", "\\d"),  # a backslash is itself inside of brackets
        ("(?x)", "?x"),
        ("x{2}", "xx"),
        ("one$", "one\r\ntwo"),  # lines of SIP end in CRLF
        ("(one|two)$", "two"),
        ("a\\$b", "a$b"),
        ("\\bword\\b", "a word."),
    ],
)
def test_what_matches(pattern: str, text: str) -> None:
    assert compile_posix(pattern).search(text)


@pytest.mark.parametrize(
    ("pattern", "text"), [("a.b", "a\nb"), ("a[^x]b", "a\nb"), ("^b", "ab"), ("[[:digit:]]", "\xb2"), ("\\w", "\xe4")]
)
def test_what_does_not_match(pattern: str, text: str) -> None:
    assert not compile_posix(pattern).search(text)


@pytest.mark.parametrize("pattern", ["(", "[a", "[[:none:]]", "[[:", "a{2,1}", "*a"])
def test_bad_patterns_are_refused_by_name(pattern: str) -> None:
    with pytest.raises(BadPattern, match="bad regular expression"):
        compile_posix(pattern)


@given(st.text(st.characters(max_codepoint=255), max_size=20))
def test_any_pattern_compiles_or_is_refused(pattern: str) -> None:
    try:
        compile_posix(pattern)
    except BadPattern:
        pass


def same(text: str) -> str:
    return text


@pytest.mark.parametrize(
    ("expression", "text", "result"),
    [
        ("/b/x/", "abab", ("axab", 1)),
        ("/b/x/g", "abab", ("axax", 2)),
        ("/B/x/gi", "abab", ("axax", 2)),
        ("#(a)(b)#\\2\\1\\0#", "ab", ("baab", 1)),
        ("/a/\\t\\/\\n\\r/", "a", ("\t/\n\r", 1)),
        ("/a.b/x/", "a\nb", ("a\nb", 0)),
        ("/a.b/x/s", "a\nb", ("x", 1)),
        ("/(x)?a/[\\1]/", "a", ("[]", 1)),
        ("/a//", "banana", ("bnana", 1)),
    ],
)
def test_substitution(expression: str, text: str, result: tuple[str, int]) -> None:
    assert Substitution(expression).apply(text, same) == result


def test_variables_in_the_replacement_are_expanded_and_groups_are_not() -> None:
    assert Substitution("/(.)/<\\1$fU>/").apply("$", lambda part: part.replace("$fU", "alice")) == ("<$alice>", 1)


@given(st.text(st.characters(max_codepoint=255), max_size=20))
def test_any_expression_parses_or_is_refused(expression: str) -> None:
    try:
        Substitution(expression).apply("abc", same)
    except BadPattern:
        pass
