"""POSIX regular expressions and sed-like substitutions mean in scripts what they mean in Kamailio."""

from __future__ import annotations

import ctypes
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polykemi.kemi.pattern import SECONDS
from polykemi.kemi.pcre import compile_pcre
from polykemi.kemi.posix import ICASE, NEWLINE, BadPattern, compile_basic, compile_posix
from polykemi.kemi.substitution import Substitution
from tests.waiting import cpu_seconds


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("^[[:alpha:]_-]+$", "A_b-c"),
        ("[]]", "]"),
        ("[^]]", "x"),
        ("a\\.b", "a.b"),
        ("\\d", "d"),  # no class in POSIX
        ("[\\d]+$", "\\d"),  # a backslash is itself inside of brackets
        ("\\<word\\>", "a word."),
        ("[a-]]", "-]"),
        ("[[.-.]]{2}", "--"),
        ("a{,2}b", "b"),
        ("a**b+?$", "ab"),
        ("x)", "x)"),
        ("(a|ab)(c|bcd)(d*)$", "abcd"),
        ("x{2}", "xx"),
        ("one.$", "one\r\ntwo"),  # a line ends at its LF: the CR belongs to it
        ("(one|two)$", "two"),
        ("a\\$b", "a$b"),
        ("\\bword\\b", "a word."),
    ],
)
def test_what_matches(pattern: str, text: str) -> None:
    assert compile_posix(pattern).search(text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("a.b", "a\nb"),
        ("a[^x]b", "a\nb"),
        ("^b", "ab"),
        ("one$", "one\r\ntwo"),
        ("[[:digit:]]", "\xb2"),
        ("\\w", "\xe4"),
    ],
)
def test_what_does_not_match(pattern: str, text: str) -> None:
    assert not compile_posix(pattern).search(text)


@pytest.mark.parametrize(
    "pattern", ["(", "[a", "[[:none:]]", "[[:", "a{2,1}", "*a", "(?x)", "^*", "a{x}", "a\\", "(a)\\2"]
)
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
        ("/a/[\\1]/", "a", ("[]", 1)),
        ("/o*/x/g", "boo", ("boo", -1)),
        ("/a|ab/x/", "abc", ("xc", 1)),  # the longest
        ("+a\\+b+x+", "a+b", ("x", 1)),
        ("/a/\\u\\$/", "a", ("$ru$", 1)),
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


class _Span(ctypes.Structure):
    _fields_ = (("start", ctypes.c_int), ("end", ctypes.c_int))


def regcomp(pattern: str, flags: int, text: str) -> tuple[int, int] | str | None:
    """Return where the C library finds ``pattern``: "bad" for one that it refuses."""
    libc = ctypes.CDLL(None)
    compiled, spans = ctypes.create_string_buffer(512), (_Span * 1)()
    options = 1 | (2 if flags & ICASE else 0) | (4 if flags & NEWLINE else 0)
    if libc.regcomp(compiled, pattern.encode("latin-1"), options):
        return "bad"
    found = libc.regexec(compiled, text.encode("latin-1"), 1, spans, 0) == 0
    libc.regfree(compiled)
    return (spans[0].start, spans[0].end) if found else None


_TOKENS = (
    *("a", "b", "ab", "c", "(", ")", "(", ")", "|", "*", "+", "?", ".", "[ab]", "[^a]", "[a-c]", "[[:alpha:]]", "[]a]"),
    *("{2}", "{1,2}", "{,2}", "{0}", "\\w", "\\.", "A", "-", "[a-]", "{", "}", ","),
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="compares with the GNU C library")
@given(
    pattern=st.lists(st.sampled_from(_TOKENS), max_size=8).map("".join),
    anchors=st.sampled_from(("{}", "^{}", "{}$", "^({})$")),
    flags=st.sampled_from((0, ICASE, NEWLINE, ICASE | NEWLINE)),
    text=st.text("abcAB\n.-}", max_size=8),
)
def test_the_longest_match_is_that_of_the_c_library(pattern: str, anchors: str, flags: int, text: str) -> None:
    pattern = anchors.format(pattern)
    try:
        match = compile_posix(pattern, flags).search(text)
    except BadPattern:
        assert regcomp(pattern, flags, text) == "bad"
        return
    assert (None if match is None else (match.start(), match.end())) == regcomp(pattern, flags, text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("(a|aa)+$", "a" * 60 + "b"),
        ("((a?){30}){30}$", "a" * 29 + "b"),
        ("(((x+x+)+)+y)", "x" * 3000),
        ("(" * 12 + "a" + "+)" * 12 + "b", "a" * 3000),
    ],
)
def test_a_pattern_that_takes_too_long_is_no_match(pattern: str, text: str, caplog: pytest.LogCaptureFixture) -> None:
    compiled = compile_posix(pattern)
    for _ in range(20):
        started = time.process_time()
        assert not compiled.matches(text)
        assert compiled.search(text) is None
        assert compiled.subn(lambda match: "", text) == (text, 0)
        assert time.process_time() - started < 10 * SECONDS
    messages = [record.getMessage() for record in caplog.records]
    assert f"regular expression {pattern!r}: stopped after" in messages[0]
    assert len(messages) < 10  # a stream of hostile messages does not fill the log


@pytest.mark.parametrize(
    "pattern",
    [
        "(" * 40 + "a" + "){1,9}" * 40,
        "(a{9}){9}" * 500,
        "a{32767}",
        "a" * 20000,
        "(" * 3000 + ")" * 3000,
        "(" * 20 + "a" + "+)" * 20,
    ],
)
def test_a_pattern_that_is_too_large_is_refused_at_once(pattern: str) -> None:
    def refuse() -> None:
        for compiler in (compile_posix, compile_pcre):
            with pytest.raises(BadPattern, match="bad regular expression"):
                compiler(pattern)

    assert cpu_seconds(refuse) < 0.5


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("^sip:alice", "sip:alice", True),
        ("\\(a\\|b\\)\\{2\\}", "ab", True),
        ("(a|b)+", "(a|b)+", True),
        ("*a$", "*a", True),
        ("a^b$c", "a^b$c", True),
        ("[(]x", "(x", True),
        ("^a+$", "aa", False),
    ],
)
def test_basic_expressions(pattern: str, text: str, found: bool) -> None:
    assert compile_basic(pattern).matches(text) == found


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("^\\+?(49|0049)(\\d+)$", "+49123", "+49123"),
        ("(?i)ABC", "xabc", "abc"),
        ("a|ab", "ab", "a"),  # the first, not the longest
        ("\\Qa.b\\E+", "a.bb", "a.bb"),
        ("a{e<=1}", "a{e<=1}", "a{e<=1}"),
        ("a{,3}", "a{,3}", "a{,3}"),
        ("[[a]", "[", "["),
        ("[]a]+", "x]a", "]a"),
        ("[[:alpha:]_]+", "1ab_", "ab_"),
        ("(?<n>a)\\k<n>", "aa", "aa"),
        ("(a)\\g1\\g{1}", "aaa", "aaa"),
        ("foo\\z", "foo\n", None),
        ("foo\\Z", "foo\n", "foo"),
        ("\\h+", "a \tb", " \t"),
        ("(?:a|b){1,3}?c", "abc", "abc"),
        ("(?'n'a)(b)\\g{-2}\\2", "abab", "abab"),
        ("\\x{41}\\o{102}\\cA", "xAB\x01", "AB\x01"),
        ("[\\Qa]\\E\\p{Lu}]+", "]aAb", "]aA"),
        ("\\p{^L}\\P{N}", "a\xd7\xe9", "\xd7\xe9"),
        ("\\y\\C\\X", "yab", "yab"),
        ("[\\H]", " \xa0x", "x"),
    ],
)
def test_pcre(pattern: str, text: str, found: str | None) -> None:
    match = compile_pcre(pattern).search(text)
    assert (None if match is None else match[0]) == found


@pytest.mark.parametrize(
    "pattern", ["\\x{100}", "\\o", "\\p{Foo}", "\\p", "[[.a.]]", "[:alpha:]", "(?:a)\\g{-1}", "\\u", "\\c", "[\\N]"]
)
def test_pcre_that_is_none(pattern: str) -> None:
    with pytest.raises(BadPattern, match="bad regular expression"):
        compile_pcre(pattern)


@given(st.text(st.characters(max_codepoint=255), max_size=20))
def test_any_pcre_compiles_or_is_refused(pattern: str) -> None:
    try:
        compile_pcre(pattern).matches("abc")
    except BadPattern:
        pass
