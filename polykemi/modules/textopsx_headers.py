"""KSR.textopsx: single values and parameters of headers, named by expressions like ``Contact[1].expires``."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.limits import ScriptLimits, check_header
from polykemi.kemi.registry import export
from polykemi.kemi.splice import line_of, splice_line
from polykemi.modules.textopsx_iterators import Iterators
from polykemi.modules.textopsx_values import (
    MAX_FROM_END,
    Expression,
    Param,
    Value,
    body_span,
    chosen,
    listed_params_of,
    params_of,
    values_of,
)

log = logging.getLogger("polykemi.script")


class HeaderValues(Iterators):
    """Values of headers. They are counted in the message as it came, over all lines of a header; 1 is the first, -1 the last."""

    @export()
    def append_hf_value(self, ctx: RouteContext, expression: str, value: str) -> int:
        """Add a header behind all others, or with an index a value behind that one. Answers 1 or -1."""
        what = _parsed(expression, every=False, param=False)
        if what is None:
            return -1
        found = chosen(ctx.message, ctx.edits, what._replace(number=what.number or -1)) if what.indexed else None
        if found is None:
            return _add_header(ctx, len(ctx.message.lines), what, value, self.services.limits)
        return _add_value(ctx, found, found.outer_end, value)

    @export()
    def insert_hf_value(self, ctx: RouteContext, expression: str, value: str) -> int:
        """Add a header before the first of its name, or with an index a value before that one. Answers 1 or -1."""
        what = _parsed(expression, every=False, param=False)
        if what is None:
            return -1
        index = (what.number or 1) if what.indexed else 1
        found = chosen(ctx.message, ctx.edits, what._replace(number=index))
        if found is None:
            return _add_header(ctx, len(ctx.message.lines), what, value, self.services.limits) if index == 1 else -1
        if not what.indexed:
            return _add_header(ctx, found.line, what, value, self.services.limits)
        return _add_value(ctx, found, found.outer_start, value)

    @export()
    def remove_hf_value(self, ctx: RouteContext, expression: str) -> int:
        """Remove a value, the first without an index; all headers with ``[*]``; or a parameter of these. Answers 1 or -1."""
        what = _parsed(expression)
        if what is None:
            return -1
        if what.every and not what.param:
            return _remove_headers(ctx, what)
        if what.param:
            return _each_param(ctx, what, None)
        found = chosen(ctx.message, ctx.edits, what._replace(number=what.number or 1))
        return _remove_value(ctx, found) if found is not None else -1

    @export()
    def assign_hf_value(self, ctx: RouteContext, expression: str, value: str) -> int:
        """Set a value, the first without an index, or a parameter of it or with ``[*]`` of all. Answers 1 or -1.

        An empty text removes a parameter.
        """
        return _assign(ctx, expression, value, listed=False)

    @export()
    def remove_hf_value2(self, ctx: RouteContext, expression: str, unused: str) -> int:
        """Remove the header that the index counts to, or a parameter of it, written as ``scheme name=value, name=value``.

        With ``[*]`` all headers. Answers 1 or -1.
        """
        what = _parsed(expression)
        if what is None:
            return -1
        if what.every and not what.param:
            return _remove_headers(ctx, what)
        if what.param:
            return _each_listed_param(ctx, what, None)
        found = chosen(ctx.message, ctx.edits, what._replace(number=what.number or 1), whole_lines=True)
        if found is None:
            return -1
        ctx.edits.removed.add(found.line)
        return 1

    @export()
    def assign_hf_value2(self, ctx: RouteContext, expression: str, value: str) -> int:
        """Set the value of a header, or a parameter of it, written as ``scheme name=value, name=value``. Answers 1 or -1.

        An empty text removes a parameter.
        """
        return _assign(ctx, expression, value, listed=True)

    @export()
    def include_hf_value(self, ctx: RouteContext, name: str, value: str) -> int:
        """See to it that a header has a value: add it to the first one, or a header, when there is none. Answers 1 or -1."""
        what = _parsed(name, every=False, param=False, index=False)
        if what is None or not value:
            return -1
        if any(_equal(text, value) for _, text in _texts(ctx, what)):
            return 1
        lines = what.lines(ctx.message)
        if not lines:
            return _add_header(ctx, len(ctx.message.lines), what, value, self.services.limits)
        last = list(values_of(ctx.message, ctx.edits, lines[0]))[-1]
        return _add_value(ctx, last, last.body[1], value)

    @export()
    def exclude_hf_value(self, ctx: RouteContext, name: str, value: str) -> int:
        """Remove a value from all headers ``name``. Answers 1, found or not, or -1."""
        what = _parsed(name, every=False, param=False, index=False)
        if what is None or not value:
            return -1
        for found, text in list(_texts(ctx, what)):
            if _equal(text, value):
                _remove_value(ctx, found)
        return 1

    @export()
    def hf_value_exists(self, ctx: RouteContext, name: str, value: str) -> int:
        """Tell whether a header ``name`` has a value, whatever the case. Answers 1 or -1."""
        what = _parsed(name, every=False, param=False, index=False)
        if what is None or not value:
            return -1
        return 1 if any(_equal(text, value) for _, text in _texts(ctx, what)) else -1


def _parsed(text: str, *, every: bool = True, param: bool = True, index: bool = True) -> Expression | None:
    what = Expression.parse(text)
    if what is None:
        log.error("textopsx: %r is no name[index].param", text)
    elif (what.every and not every) or (what.param and not param) or (what.indexed and not index):
        log.error("textopsx: %r: this function does not take that", text)
    elif what.number < -MAX_FROM_END:
        log.error("textopsx: %r: the index cannot be below -%d", text, MAX_FROM_END)
    else:
        return what
    return None


def _is_vague(what: Expression) -> bool:
    if what.every and not what.param:
        log.error("textopsx: %s[*]: only a parameter can be set in all", what.name)
        return True
    return False


def _equal(one: str, other: str) -> bool:
    return one.lower() == other.lower()


def _texts(ctx: RouteContext, what: Expression) -> Iterator[tuple[Value, str]]:
    for line in what.lines(ctx.message):
        for value in values_of(ctx.message, ctx.edits, line):
            text = line_of(ctx.message, ctx.edits, line)[value.start : value.end]
            if text:
                yield value, text


def _add_header(ctx: RouteContext, place: int, what: Expression, value: str, limits: ScriptLimits) -> int:
    line = f"{what.name}: {_one_line(value)}"
    check_header(line, len(ctx.edits.inserts), limits)
    ctx.edits.inserts.append((place, line))
    return 1


def _one_line(value: str) -> str:
    """Return ``value``. Raise ParseError when it is more than one line: it would begin another header."""
    if "\r" in value or "\n" in value:
        raise ParseError("Line break in a value")
    return value


def _add_value(ctx: RouteContext, found: Value, place: int, value: str) -> int:
    text = f",{_one_line(value)}" if place == found.body[1] else f"{_one_line(value)},"
    splice_line(ctx.message, ctx.edits, found.line, (place, place, text))
    return 1


def _set_value(ctx: RouteContext, found: Value, value: str) -> int:
    splice_line(ctx.message, ctx.edits, found.line, (found.start, found.end, _one_line(value)))
    return 1


def _remove_value(ctx: RouteContext, found: Value) -> int:
    start, end = found.removal
    if (start, end) == found.body:
        ctx.edits.removed.add(found.line)
    else:
        splice_line(ctx.message, ctx.edits, found.line, (start, end, ""))
    return 1


def _remove_headers(ctx: RouteContext, what: Expression) -> int:
    lines = what.lines(ctx.message)
    ctx.edits.removed.update(lines)
    return 1 if lines else -1


def _assign(ctx: RouteContext, expression: str, value: str, *, listed: bool) -> int:
    """Set a value or a parameter; ``listed``: of a header that is one value, its parameters parted by commas."""
    what = _parsed(expression)
    if what is None or _is_vague(what):
        return -1
    if what.param:
        return (_each_listed_param if listed else _each_param)(ctx, what, value or None)
    found = chosen(ctx.message, ctx.edits, what._replace(number=what.number or 1), whole_lines=listed)
    return _set_value(ctx, found, value) if found is not None else -1


def _each_param(ctx: RouteContext, what: Expression, value: str | None) -> int:
    """Set or remove (None) ``;name=value`` in one value or in all; answer 1, or -1 when there was nothing to do."""
    message, edits = ctx.message, ctx.edits
    if what.every:
        values = [one for line in what.lines(message) for one in values_of(message, edits, line)]
    else:
        found = chosen(message, edits, what._replace(number=what.number or 1))
        values = [found] if found is not None else []
    answer = -1
    for one in values:
        params = params_of(line_of(message, edits, one.line), one.start, one.end, what.param)
        if _change_params(ctx, one.line, what.param, params, value):
            answer = 1
    return answer


def _each_listed_param(ctx: RouteContext, what: Expression, value: str | None) -> int:
    """Set or remove (None) ``name=value`` of credentials; answer 1, or -1 when there was nothing to do."""
    message, edits = ctx.message, ctx.edits
    lines = what.lines(message)
    if not what.every:
        found = chosen(message, edits, what._replace(number=what.number or 1), whole_lines=True)
        lines = [found.line] if found is not None else []
    answer = -1
    for line in lines:
        text = line_of(message, edits, line)
        params = listed_params_of(text, *body_span(text), what.param)
        if _change_params(ctx, line, what.param, params, value):
            answer = 1
    return answer


def _change_params(ctx: RouteContext, line: int, name: str, params: Iterator[Param], value: str | None) -> bool:
    """Set the first of ``params``, or remove all of them; tell whether there was something to do."""
    message, edits = ctx.message, ctx.edits
    if value is None:
        removed = [(*param.removed, "") for param in params if param.found]
        splice_line(message, edits, line, *removed)
        return bool(removed)
    param = next(params)
    if param.found:
        splice_line(message, edits, line, (*param.changed, f"={_one_line(value)}"))
    else:
        splice_line(message, edits, line, (param.place, param.place, f"{param.delimiter}{name}={_one_line(value)}"))
    return True
