"""The expressions of dialplan: Perl-compatible, perhaps with variables in them, and those of file names. Part of dialplan."""

from __future__ import annotations

from typing import Final

from polykemi.kemi.context import RouteContext
from polykemi.kemi.pcre import DOTALL, BadPattern, Pattern, compile_pcre
from polykemi.pv.accessor import Getter
from polykemi.pv.compiler import Variables, to_text
from polykemi.pv.grammar import Reference, parse_text, parse_variable

_CLASSES: Final = frozenset(
    ("alnum", "alpha", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "xdigit")
)


class Expression:
    """A Perl-compatible expression; when ``dynamic``, variables in it are expanded at each use.

    One ``$(avp(name)[+])`` in it makes an expression of each value.
    """

    __slots__ = ("_each", "_getters", "fixed", "source")

    def __init__(self, source: str, variables: Variables, *, dynamic: bool) -> None:
        """Compile. Raise BadPattern."""
        self.source = source
        self.fixed: Pattern | None = None  # None: it has variables
        self._getters: list[str | Getter] | None = None
        self._each: tuple[int, Variables, str] | None = None  # where "[+]" is, and the name of its AVP
        if dynamic and has_variables(source, variables):
            self._compile(source, variables)
        else:
            self.fixed = compile_pcre(source)

    def _compile(self, source: str, variables: Variables) -> None:
        """Keep how to expand the expression; one that cannot be expanded matches nothing."""
        if source.endswith("$") and source[-2:-1] != "$":
            source += "$"  # the end of the text, not the begin of a variable
        try:
            parts = parse_text(source)
            each = [i for i, part in enumerate(parts) if isinstance(part, Reference) and part.index == "+"]
            if len(each) == 1:
                part = parts[each[0]]
                assert isinstance(part, Reference)
                self._each, parts[each[0]] = (each[0], variables, part.inner or ""), ""
            self._getters = [part if isinstance(part, str) else variables.accessor(part).get for part in parts]
        except ValueError:
            return

    def patterns(self, ctx: RouteContext | None) -> list[Pattern]:
        """Return what it is now, in the order of trying; nothing when that does not compile. Raise BadPattern never."""
        if self.fixed is not None:
            return [self.fixed]
        if ctx is None or self._getters is None:
            return []
        texts = [getter if isinstance(getter, str) else to_text(getter(ctx)) for getter in self._getters]
        found = []
        for source in self._expansions(ctx, texts):
            try:
                if source:
                    found.append(compile_pcre(source))
            except BadPattern:
                continue
        return found

    def _expansions(self, ctx: RouteContext, texts: list[str]) -> list[str]:
        if self._each is None:
            return ["".join(texts)]
        at, variables, name = self._each
        values: list[str] = []
        while (value := variables.getters[f"$(avp({name})[{len(values)}])"](ctx)) is not None:
            values.append(str(value))
        before, after = "".join(texts[:at]), "".join(texts[at + 1 :])
        return [f"{before}{value}{after}" for value in reversed(values)]  # the oldest first, as Kamailio tries them

    def matches(self, ctx: RouteContext | None, text: str) -> bool:
        """Tell whether one of the patterns occurs in ``text``."""
        return any(pattern.matches(text) for pattern in self.patterns(ctx))


def has_variables(source: str, variables: Variables) -> bool:
    """Tell whether there is a variable in ``source``: a dollar sign alone is none."""
    at = source.find("$")
    while 0 <= at < len(source) - 1:
        try:
            reference, end = parse_variable(source, at)
            if reference.index != "+":
                variables.accessor(reference)
            return True
        except ValueError:
            end = at + 1
        at = source.find("$", end)
    return False


def compile_fnmatch(pattern: str) -> Pattern:
    """Compile a pattern of file names (fnmatch(3)): ``*``, ``?``, ``[a-z]``, ``[!a-z]``, ``\\`` escapes. Raise BadPattern."""
    out, at = [], 0
    while at < len(pattern):
        c = pattern[at]
        at += 1
        if c == "*":
            out.append(".*")
        elif c == "?":
            out.append(".")
        elif c == "[" and (end := _bracket_end(pattern, at)) > 0:
            out.append(_bracket(pattern[at:end]))
            at = end + 1
        elif c == "\\" and at == len(pattern):
            out.append("(?!)")  # a backslash that escapes nothing matches nothing
        else:
            if c == "\\":
                c = pattern[at]
                at += 1
            out.append(_octet(c))
    return compile_pcre(f"\\A{''.join(out)}\\z", DOTALL)


def _bracket_end(pattern: str, at: int) -> int:
    """Return where the bracket ends whose ``[`` is before ``at``, -1 when it is not closed."""
    at += pattern[at : at + 1] in ("!", "^")
    first = at
    while at < len(pattern):
        if pattern[at] == "]" and at > first:
            return at
        if pattern[at : at + 2] == "[:" and (end := pattern.find(":]", at)) > 0:
            at = end + 1
        at += 2 if pattern[at] == "\\" else 1
    return -1


def _bracket(inner: str) -> str:
    """Translate what stands between ``[`` and ``]``."""
    out, at = "", 0
    if inner[0] in "!^":
        out, at = "^", 1
    while at < len(inner):
        if inner[at : at + 2] == "[:" and inner[at + 2 : inner.find(":]", at)] in _CLASSES:
            end = inner.find(":]", at) + 2
            out += inner[at:end]
            at = end
            continue
        if inner[at] == "-" and out.strip("^") and at + 1 < len(inner):
            out += "-"
        else:
            at += inner[at] == "\\" and at + 1 < len(inner)
            out += _octet(inner[at])
        at += 1
    return f"[{out}]"


def _octet(c: str) -> str:
    return c if c.isascii() and c.isalnum() else f"\\x{ord(c):02x}"
