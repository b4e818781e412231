"""The grammar of pseudo-variables, text to parse tree (Kamailio: pv_parse_spec, pv_parse_format, tr_lookup).

    variable        $name   $name(inner)   $(name(inner)[index]{transformation}...)   $$
    inner           any text with balanced parentheses; what it means is up to the class of the variable
    index           a number, * or a variable
    transformation  {class.name,parameter,...}; a parameter is a text or one variable

Nothing here knows which variables there are.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Final

_NAME: Final = frozenset(string.ascii_letters + string.digits + "_.?")
_WHOLE: Final = "re.subst"  # takes all text up to its brace, commas and pairs of braces included, for one parameter
_MAX_DEPTH: Final = 16  # of variables inside of parameters


@dataclass(frozen=True, slots=True)
class Transformation:
    """``{name,parameters}``."""

    name: str
    parameters: tuple[str | Reference, ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """One variable as written: what its class is called and what it is given."""

    name: str
    inner: str | None = None
    index: str | None = None
    transformations: tuple[Transformation, ...] = ()


def parse_variable(source: str, start: int = 0, depth: int = 0) -> tuple[Reference, int]:
    """Parse the variable at ``start``; return it and where it ends. Raise ValueError."""
    if source[start : start + 1] != "$":
        raise ValueError("a variable starts with $")
    if depth > _MAX_DEPTH:
        raise ValueError("variables are nested too deeply")
    at = start + 1
    if source[at : at + 1] == "$":
        return Reference("$"), at + 1
    enclosed = source[at : at + 1] == "("
    if enclosed:
        at += 1
    name, at = _name(source, at)
    inner = index = None
    if source[at : at + 1] == "(":
        inner, at = _balanced(source, at, "(", ")")
    if not enclosed:
        return Reference(name, inner), at
    if source[at : at + 1] == "[":
        index, at = _balanced(source, at, "[", "]")
    transformations = []
    while source[at : at + 1] == "{":
        transformation, at = _transformation(source, at, depth)
        transformations.append(transformation)
    if source[at : at + 1] != ")":
        raise ValueError(f"expected ) at {at}")
    return Reference(name, inner, index, tuple(transformations)), at + 1


def parse_text(source: str) -> list[str | Reference]:
    """Split a format string into texts and variables. Raise ValueError."""
    parts: list[str | Reference] = []
    at = 0
    while (dollar := source.find("$", at)) >= 0:
        if dollar > at:
            parts.append(source[at:dollar])
        reference, at = parse_variable(source, dollar)
        parts.append("$" if reference.name == "$" else reference)
    if at < len(source):
        parts.append(source[at:])
    return parts


def _name(source: str, start: int) -> tuple[str, int]:
    at = start
    while at < len(source) and source[at] in _NAME:
        at += 1
    if at == start:
        raise ValueError(f"expected the name of a variable at {at}")
    return source[start:at], at


def _balanced(source: str, start: int, opening: str, closing: str) -> tuple[str, int]:
    """Return the text between the bracket at ``start`` and the one that closes it, and where that ends."""
    depth = 0
    for at in range(start, len(source)):
        if source[at] == opening:
            depth += 1
        elif source[at] == closing:
            depth -= 1
            if depth == 0:
                return source[start + 1 : at], at + 1
    raise ValueError(f"missing {closing}")


def _transformation(source: str, start: int, depth: int) -> tuple[Transformation, int]:
    name, at = _name(source, start + 1)
    parameters: list[str | Reference] = []
    at = _skip_blanks(source, at)
    if name == _WHOLE and source[at : at + 1] == "," and source[at + 1 : at + 2] != "$":
        text, end = _balanced("{" + source[at + 1 :], 0, "{", "}")
        return Transformation(name, (text,)), _skip_blanks(source, at + end)
    while source[at : at + 1] == ",":
        parameter, at = _parameter(source, at + 1, depth)
        parameters.append(parameter)
    if source[at : at + 1] != "}":
        raise ValueError(f"expected }} at {at}")
    return Transformation(name, tuple(parameters)), _skip_blanks(source, at + 1)


def _parameter(source: str, start: int, depth: int) -> tuple[str | Reference, int]:
    """Parse one parameter. One that starts with a separator is that character: ``{s.select,0,,}``, ``{s.before,}}``."""
    first, second = source[start : start + 1], source[start + 1 : start + 2]
    if first == "$":
        reference, at = parse_variable(source, start, depth + 1)
        return reference, _skip_blanks(source, at)
    if (first == "," and second in (",", "}")) or (first == "}" and second == "}"):
        return first, start + 1
    at = start
    while at < len(source) and source[at] not in ",}":
        at += 1
    text = source[start:at]
    return text.lstrip(" \t\r\n") or text, at  # blanks alone are meant


def _skip_blanks(source: str, at: int) -> int:
    while at < len(source) and source[at] in " \t\r\n":
        at += 1
    return at
