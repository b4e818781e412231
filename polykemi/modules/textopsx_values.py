"""Expressions of textopsx that name values of headers, ``Contact[-1].expires``, and where in a line they are. Part of textopsx."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from polykemi.kemi.splice import line_of
from polykemi.sip.header import canonical_names, split_exact
from polykemi.sip.message import Edits, Message

MAX_FROM_END: Final = 10  # values that an index may count from the end

_SPACE: Final = " \t\r\n"
_NAME: Final = "[A-Za-z0-9_-]"
_EXPRESSION: Final = re.compile(
    rf"\s*({_NAME}+)\s*(?:(\[)\s*(?:(\*)|([+-]?\d{{1,9}}))?\s*\]\s*)?(?:\.\s*({_NAME}+))?", re.ASCII
)
_PARAM: Final = re.compile(
    r"[ \t\r\n]*;[ \t\r\n]*([^ \t\r\n=;]*)([ \t\r\n]*(?:=[ \t\r\n]*(?:\"[^\"]*\"?|[^ \t\r\n;]*))?)"
)
_TOKEN: Final = re.compile(rf"({_NAME}+)[ \t\r\n]*(=[ \t\r\n]*(?:\"[^\"]*\"?|[^ \t\r\n,]*))?")


class Expression(NamedTuple):
    """What an expression says: ``name[index].param``."""

    name: str  # as written
    indexed: bool  # there are brackets
    every: bool  # [*]
    number: int  # 1 is the first value, -1 the last; 0 when there is no number
    param: str

    @classmethod
    def parse(cls, text: str) -> Expression | None:
        """Return what ``text`` says, None when it is no expression."""
        match = _EXPRESSION.fullmatch(text)
        if match is None:
            return None
        name, bracket, star, index, param = match.groups()
        return cls(name, bool(bracket), bool(star), int(index or 0), param or "")

    def lines(self, message: Message) -> list[int]:
        """Return the numbers of the header lines."""
        return message.indexes(canonical_names[self.name])


class Value(NamedTuple):
    """Where one value of a header is: its line; itself, and with the blanks before and the comma behind it."""

    line: int
    start: int
    end: int
    outer_start: int
    outer_end: int
    body: tuple[int, int]  # where all values of the line begin and end

    @property
    def removal(self) -> tuple[int, int]:
        """What goes when it is removed: the last one takes the comma before it along."""
        first, last = self.body
        is_last = self.outer_end == last and self.outer_start > first
        return self.outer_start - is_last, self.outer_end


def body_span(text: str) -> tuple[int, int]:
    """Return where the value of a header line begins and ends, blanks before it left out."""
    return len(text) - len(text.partition(":")[2].lstrip(_SPACE)), len(text)


def values_of(message: Message, edits: Edits, line: int) -> Iterator[Value]:
    """Iterate over the values of a header line, which commas outside of quotes part; an empty line has one empty value."""
    text = line_of(message, edits, line)
    body = body_span(text)
    at, last = body
    more = True
    while more:
        start = at
        while at < last and text[at] in _SPACE:
            at += 1
        end = _comma(text, at, last)
        trimmed = at + len(text[at:end].rstrip(_SPACE))
        outer_end = min(end + 1, last)
        yield Value(line, at, trimmed, start, outer_end, body)
        at, more = outer_end, outer_end < last


def _comma(text: str, at: int, last: int) -> int:
    quoted = False
    while at < last and (text[at] != "," or quoted):
        if text[at] == '"' and (not quoted or text[at - 1] != "\\"):
            quoted = not quoted
        at += 1
    return at


def chosen(message: Message, edits: Edits, expression: Expression, *, whole_lines: bool = False) -> Value | None:
    """Return the value (or the whole header, ``whole_lines``) that the index counts to; None when there is none."""
    found: list[Value] = []
    for line in expression.lines(message):
        if whole_lines:
            start, end = body = body_span(line_of(message, edits, line))
            found.append(Value(line, start, end, start, end, body))
        else:
            found += values_of(message, edits, line)
    i = expression.number
    if i > 0:
        return found[i - 1] if i <= len(found) else None
    return found[i] if -min(len(found), MAX_FROM_END) <= i < 0 else None


class Param(NamedTuple):
    """Where a parameter is, or where one would go."""

    place: int  # of a new one
    found: bool
    changed: tuple[int, int]  # ``=value`` with the blanks before it
    removed: tuple[int, int]
    delimiter: str  # before a new one


def params_of(text: str, start: int, end: int, name: str) -> Iterator[Param]:
    """Iterate over the parameters ``;name=...`` of a value in ``text``; the last is one that is not found."""
    at = start + len(split_exact(text[start:end], ";")[0])
    while match := _PARAM.match(text, at, end):
        at = match.end()
        if match[1].lower() == name.lower():
            yield Param(at, found=True, changed=match.span(2), removed=match.span(), delimiter=";")
    yield Param(at, found=False, changed=(at, at), removed=(at, at), delimiter=";")


def listed_params_of(text: str, start: int, end: int, name: str) -> Iterator[Param]:
    """Do the same for ``scheme name=value, name=value``, as credentials and challenges are written."""
    at, delimiter = start, ""
    while at < end:
        begin = at
        at = _skip(text, at, end)
        comma = at < end and text[at] == ","
        at = _skip(text, at + comma, end)
        match = _TOKEN.match(text, at, end)
        if match is None:
            at = max(at, begin + 1)
            continue
        at = match.end()
        delimiter = "," if match[2] is not None else delimiter or " "
        if match[2] is not None and match[1].lower() == name.lower():
            behind = _skip(text, at, end)
            removed_end = behind + 1 if not comma and behind < end and text[behind] == "," else at
            yield Param(at, found=True, changed=match.span(2), removed=(begin, removed_end), delimiter=",")
            at = removed_end
    yield Param(end, found=False, changed=(end, end), removed=(end, end), delimiter=delimiter)


def _skip(text: str, at: int, end: int) -> int:
    while at < end and text[at] in _SPACE:
        at += 1
    return at
