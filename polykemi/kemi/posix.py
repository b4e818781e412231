"""POSIX extended regular expressions as the GNU C library takes them (regcomp with REG_EXTENDED), compiled once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import regex

from polykemi.kemi.pattern import MAX_SOURCE, MAX_WEIGHT, BadPattern, Match, Pattern, bad

ICASE: Final = int(re.IGNORECASE)  # REG_ICASE
NEWLINE: Final = int(re.MULTILINE)  # REG_NEWLINE: "^" and "$" know lines, "." and "[^x]" do not cross them
FLAGS: Final = ICASE | NEWLINE  # as nearly all of Kamailio compiles

_MAX_REPETITION: Final = 32767
_CLASSES: Final = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": " \\t",
    "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9",
    "graph": "\\x21-\\x7e",
    "lower": "a-z",
    "print": "\\x20-\\x7e",
    "punct": "!-/:-@\\[-`{-~",
    "space": " \\t\\n\\r\\f\\v",
    "upper": "A-Z",
    "xdigit": "0-9a-fA-F",
}
# the GNU library's own escapes; any other character behind a backslash is itself
_ESCAPES: Final = {
    **{c: "\\" + c for c in "wWsSbB"},
    "<": r"(?:\b(?=\w))",
    ">": r"(?:\b(?<=\w))",
    "`": r"\A",
    "'": r"\Z",
}
_ANCHORS: Final = frozenset(("^", "$", "\\Z", "\\b", "\\B", *(_ESCAPES[c] for c in "<>`'")))


@lru_cache(maxsize=1024)
def compile_posix(pattern: str, flags: int = FLAGS) -> Pattern:
    """Compile ``pattern``; cached. ``flags``: ICASE, NEWLINE, both or 0. Raise BadPattern."""
    newline = bool(flags & NEWLINE)
    translated = _Translation(pattern, newline=newline).text()
    options = regex.IGNORECASE if flags & ICASE else 0
    return Pattern(pattern, translated, options | (regex.MULTILINE if newline else regex.DOTALL), longest=True)


_SWAPPED: Final = frozenset("(){}|+?")


@lru_cache(maxsize=256)
def compile_basic(pattern: str) -> Pattern:
    """Compile a basic expression (regcomp without REG_EXTENDED, as permissions does), where ``\\(`` groups. Raise BadPattern."""
    out, i = "", 0
    while i < len(pattern):
        c, first = pattern[i], i == 0 or (out.endswith(("(", "|")) and not out.endswith(("\\(", "\\|")))
        if c == "\\" and pattern[i + 1 : i + 2] in _SWAPPED:
            out += pattern[i + 1]
        elif c == "\\":
            out += pattern[i : i + 2]
        elif c == "[":
            end = pattern.find("]", i + 2 + (pattern[i + 1 : i + 2] == "^"))
            out += pattern[i : end + 1 if end > 0 else len(pattern)]
            i = end - 1 if end > 0 else len(pattern)
        elif c in _SWAPPED or (c == "*" and first) or (c == "^" and not first):
            out += "\\" + c
        else:
            out += "\\$" if c == "$" and pattern[i + 1 :] and pattern[i + 1 : i + 3] not in ("\\)", "\\|") else c
        i += 2 if c in "\\[" else 1
    return compile_posix(out, 0)


@dataclass(slots=True)
class _Group:
    """An open parenthesis, or the pattern itself: what has been translated of it."""

    done: list[str] = field(default_factory=list)
    weight: int = 0
    atom: str = ""  # the last piece, which a repetition would be of
    atom_weight: int = 0
    repeated: bool = False

    def add(self, text: str, weight: int = 1) -> None:
        """Append a piece that can be repeated."""
        self.flush()
        self.atom, self.atom_weight, self.repeated = text, weight, False

    def flush(self) -> None:
        """Let what comes next not be a repetition of what there is."""
        self.done.append(self.atom)
        self.weight += self.atom_weight
        self.atom, self.atom_weight, self.repeated = "", 0, False


class _Translation:
    """One pass over a pattern, from POSIX to what the library understands."""

    def __init__(self, pattern: str, *, newline: bool) -> None:
        self._pattern = pattern
        self._newline = newline
        self._at = 0
        self._groups = [_Group()]
        self._closed: set[int] = set()  # numbers of groups that a back-reference may name
        self._open: list[int] = []
        self._count = 0

    def text(self) -> str:
        """Translate. Raise BadPattern."""
        pattern = self._pattern
        if len(pattern) > MAX_SOURCE:
            raise bad(pattern, f"longer than {MAX_SOURCE} octets")
        while self._at < len(pattern):
            c = pattern[self._at]
            self._at += 1
            group = self._groups[-1]
            if c in "*+?{":
                self._repeat(group, c)
            elif c == "(":
                self._count += 1
                self._open.append(self._count)
                self._groups.append(_Group())
            elif c == ")" and len(self._groups) > 1:
                self._close()
            elif c == "|":
                group.flush()
                group.done.append("|")
            elif c == "\\":
                self._escape(group)
            elif c == "[":
                group.add(self._bracket())
            elif c == "$":
                group.add("$" if self._newline else "\\Z")
            elif c in "^.":
                group.add(c)
            else:
                group.add(_literal(c))
        if len(self._groups) > 1:
            raise bad(pattern, "a ( without )")
        whole = self._groups[0]
        whole.flush()
        if whole.weight > MAX_WEIGHT:
            raise bad(pattern, "too many repetitions")
        return "".join(whole.done)

    def _close(self) -> None:
        group = self._groups.pop()
        group.flush()
        self._closed.add(self._open.pop())
        self._groups[-1].add(f"({''.join(group.done)})", group.weight + 1)

    def _escape(self, group: _Group) -> None:
        if self._at == len(self._pattern):
            raise bad(self._pattern, "it ends in a backslash")
        c = self._pattern[self._at]
        self._at += 1
        if c in "123456789":
            if int(c) not in self._closed:
                raise bad(self._pattern, f"no group {c}")
            group.add(f"(?:\\{c})")
        else:
            group.add(_ESCAPES.get(c) or _literal(c))

    def _repeat(self, group: _Group, c: str) -> None:
        if not group.atom or group.atom in _ANCHORS:
            raise bad(self._pattern, f"nothing to repeat at {self._at - 1}")
        least, written = (1 if c == "+" else 0), c
        if c == "{":
            least, written = self._interval()
        if group.repeated and written == "*" and group.atom.endswith("*"):
            return
        atom = f"(?:{group.atom})" if group.repeated else group.atom
        group.atom, group.repeated = atom + written, True
        group.atom_weight *= least + 1  # that is how often the library writes it out
        if group.atom_weight > MAX_WEIGHT:
            raise bad(self._pattern, "too many repetitions")

    def _interval(self) -> tuple[int, str]:
        """Read ``m}``, ``m,}``, ``,n}`` or ``m,n}``; return the least number and how the library writes it."""
        end = self._pattern.find("}", self._at)
        low, comma, high = self._pattern[self._at : max(end, self._at)].partition(",")
        for number in (low, high):
            if not (number == "" or (number.isascii() and number.isdecimal())):
                raise bad(self._pattern, f"bad interval at {self._at - 1}")
        if end < 0 or not (low or high or comma):
            raise bad(self._pattern, f"bad interval at {self._at - 1}")
        self._at = end + 1
        least = int(low[:9] or "0")
        most = least if not comma else int(high[:9]) if high else None
        if least > _MAX_REPETITION or (most is not None and not least <= most <= _MAX_REPETITION):
            raise bad(self._pattern, f"bad interval {{{low}{comma}{high}}}")
        return least, f"{{{least},{'' if most is None else most}}}"

    def _bracket(self) -> str:
        """Translate the bracket expression whose ``[`` has been read."""
        pattern, at = self._pattern, self._at
        excluded = pattern[at : at + 1] == "^"
        if excluded:
            at += 1
        items, first = [], at
        while at == first or pattern[at : at + 1] != "]":
            if pattern[at : at + 2] == "[:":
                name, at = self._named(at, ":]")
                if name not in _CLASSES:
                    raise bad(pattern, f"unknown class [:{name}:]")
                items.append(_CLASSES[name])
                continue
            low, at = self._element(at)
            if pattern[at : at + 1] == "-" and pattern[at + 1 : at + 2] not in ("]", ""):
                high, at = self._element(at + 1)
                if high < low:
                    raise bad(pattern, f"bad range {low}-{high}")
                items.append(f"{_octet(low)}-{_octet(high)}")
            else:
                items.append(_octet(low))
        self._at = at + 1
        if excluded and self._newline:
            items.append("\\n")
        return f"[{'^' if excluded else ''}{''.join(items)}]"

    def _element(self, at: int) -> tuple[str, int]:
        """Return the character at ``at``, perhaps written as ``[.c.]`` or ``[=c=]``, and the place behind it."""
        for mark in (".", "="):
            if self._pattern[at : at + 2] == "[" + mark:
                name, end = self._named(at, mark + "]")
                if len(name) != 1:
                    raise bad(self._pattern, f"unknown character {name!r}")
                return name, end
        if at >= len(self._pattern):
            raise bad(self._pattern, "a [ without ]")
        return self._pattern[at], at + 1

    def _named(self, at: int, closing: str) -> tuple[str, int]:
        end = self._pattern.find(closing, at + 2)
        if end < 0:
            raise bad(self._pattern, "a [ without ]")
        return self._pattern[at + 2 : end], end + 2


def _octet(c: str) -> str:
    return c if c.isascii() and c.isalnum() else f"\\x{ord(c) & 0xFF:02x}"


def _literal(c: str) -> str:
    return c if c.isascii() and (c.isalnum() or c in " -_/:;=@,\"'<>!%&~`") else _octet(c)


__all__ = ["FLAGS", "ICASE", "NEWLINE", "BadPattern", "Match", "Pattern", "compile_basic", "compile_posix"]
