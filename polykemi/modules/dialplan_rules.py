"""The rules of dialplan: what a row matches, and what it makes of a text. Part of dialplan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from polykemi.kemi.context import RouteContext
from polykemi.kemi.pattern import Match
from polykemi.kemi.pcre import BadPattern, Pattern
from polykemi.modules.dialplan_patterns import Expression, compile_fnmatch
from polykemi.pv.accessor import Getter
from polykemi.pv.compiler import Variables
from polykemi.pv.grammar import parse_variable
from polykemi.sip.message import Request

EQUAL: Final = 0  # match operators
REGEX: Final = 1
FNMATCH: Final = 2

_MAX_ESCAPES: Final = 9  # of a replacement
_MAX_GROUPS: Final = 10  # of a subst_exp
_MAX_OUTPUT: Final = 126  # octets
_MAX_ATTRS: Final = 254  # octets
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t"}


class BadRule(ValueError):
    """A row that is no rule: the text says why."""


class NoOutput(Exception):
    """A rule that matched gave nothing: the text says why."""


class Row(NamedTuple):
    """A row of the table as it was entered."""

    dpid: int
    pr: int
    match_op: int
    match_exp: str
    match_len: int
    subst_exp: str
    repl_exp: str
    attrs: str


class Rule:
    """One rule: ``matches`` tells whether it is for a text, ``output`` makes another of it."""

    __slots__ = ("_repl", "_subst", "matches", "row")

    def __init__(self, row: Row, variables: Variables, *, dynamic: bool) -> None:
        """Compile. ``dynamic``: variables in the expressions are expanded at each use. Raise BadRule."""
        self.row = row
        self.matches: Callable[[RouteContext | None, str], bool]
        self._repl = Replacement(row.repl_exp, variables)
        self._subst: Expression | None = None
        is_fixed = True  # what it matches
        try:
            if row.match_op == REGEX:
                expression = Expression(row.match_exp, variables, dynamic=dynamic)
                self.matches, is_fixed = expression.matches, expression.fixed is not None
            else:
                self.matches = _matcher(row)
            if row.subst_exp:
                self._subst = Expression(row.subst_exp, variables, dynamic=dynamic)
        except BadPattern as error:
            raise BadRule(str(error)) from None
        groups = 0
        if self._subst is not None:
            is_fixed = is_fixed and self._subst.fixed is not None
            groups = self._subst.fixed.groups if self._subst.fixed is not None else 0
        if groups > _MAX_GROUPS:
            raise BadRule(f"subst_exp {row.subst_exp!r} has more than {_MAX_GROUPS} groups")
        if is_fixed and self._repl.highest > groups:
            raise BadRule(f"repl_exp {row.repl_exp!r} names group {self._repl.highest}, subst_exp has {groups}")

    @property
    def attrs(self) -> str:
        """The attributes. Raise NoOutput when they are too long."""
        if len(self.row.attrs) > _MAX_ATTRS:
            raise NoOutput(f"attributes of more than {_MAX_ATTRS} octets")
        return self.row.attrs

    def output(self, ctx: RouteContext | None, text: str) -> str:
        """Return what the rule makes of ``text``, "" for no change. Raise NoOutput."""
        if not self.row.repl_exp:
            return ""
        if self._subst is None:
            return self.row.repl_exp  # as it is written, escapes and all
        if self._subst.fixed is not None:
            return self._replaced(ctx, text, self._subst.fixed)
        patterns = self._subst.patterns(ctx)
        if not patterns:
            raise NoOutput(f"subst_exp {self.row.subst_exp!r} cannot be expanded")
        for pattern in patterns:
            try:
                return self._replaced(ctx, text, pattern)
            except NoOutput:
                continue
        return ""  # as in Kamailio this is no failure for an expression with variables

    def _replaced(self, ctx: RouteContext | None, text: str, subst: Pattern) -> str:
        if self._repl.highest > subst.groups:
            raise NoOutput(f"repl_exp names group {self._repl.highest}, subst_exp has {subst.groups}")
        found = subst.search(text)
        if found is None:
            raise NoOutput(f"subst_exp {self.row.subst_exp!r} does not match {text!r}")
        return self._repl.expand(ctx, found)


def _matcher(row: Row) -> Callable[[RouteContext | None, str], bool]:
    if row.match_op == EQUAL:
        return lambda ctx, text: text == row.match_exp
    if row.match_op == FNMATCH:
        pattern = compile_fnmatch(row.match_exp)
        return lambda ctx, text: pattern.matches(text)
    raise BadRule(f"expected the match_op 0 (equal), 1 (regular expression) or 2 (fnmatch), got {row.match_op}")


@dataclass(frozen=True, slots=True)
class _Variable:
    """A piece that is asked of the message; without one it stands as it is written."""

    source: str
    get: Getter


class Replacement:
    """A repl_exp: text with groups (``\\1``), variables, and ``\\u`` for the Request-URI."""

    __slots__ = ("_is_text", "_pieces", "highest")

    def __init__(self, source: str, variables: Variables) -> None:
        """Parse. Raise BadRule."""
        self._pieces: list[str | int | _Variable] = []  # text, number of a group, variable
        at = special = 0
        while at < len(source):
            end = at + 1
            piece: str | int | _Variable = source[at]
            if piece == "\\" and end < len(source):
                end, special = end + 1, special + 1
                piece = _escaped(source[at + 1])
                if special > _MAX_ESCAPES:
                    raise BadRule(f"repl_exp {source!r} has more than {_MAX_ESCAPES} escapes")
            elif piece == "$":
                special += 1
                try:
                    reference, end = parse_variable(source, at)
                    piece = _Variable(source[at:end], variables.accessor(reference).get)
                except ValueError as error:
                    raise BadRule(f"repl_exp {source!r}: {error}") from None
            self._pieces.append(piece)
            at = end
        self._is_text = not special
        self.highest = max(
            (piece for piece in self._pieces if isinstance(piece, int)), default=0
        )  # group that it names

    def expand(self, ctx: RouteContext | None, found: Match) -> str:
        """Return the text. Raise NoOutput when it is too long."""
        out = "".join([_text(piece, ctx, found) for piece in self._pieces])
        if len(out) > _MAX_OUTPUT and not self._is_text:
            raise NoOutput(f"more than {_MAX_OUTPUT} octets")
        return out


def _escaped(c: str) -> str | int | _Variable:
    if "0" <= c <= "9":
        return int(c)
    return _Variable("\\u", lambda ctx: ctx.ruri) if c == "u" else _ESCAPES.get(c, c)


def _text(piece: str | int | _Variable, ctx: RouteContext | None, found: Match) -> str:
    if isinstance(piece, str):
        return piece
    if isinstance(piece, int):
        return found[piece] or ""
    if ctx is None or (piece.source == "\\u" and not isinstance(ctx.message, Request)):
        return piece.source
    value = piece.get(ctx)
    return "" if value is None else str(value)
