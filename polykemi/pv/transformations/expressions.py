"""``{re.subst,/regex/replacement/flags}``: substitution by regular expression (Kamailio: modules/textops/txt_var.c)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from polykemi.kemi.context import RouteContext
from polykemi.kemi.posix import BadPattern
from polykemi.kemi.registry import Xval
from polykemi.kemi.substitution import Substitution
from polykemi.pv.accessor import Getter
from polykemi.pv.transformations.shape import Step

if TYPE_CHECKING:
    from polykemi.pv.compiler import Variables


@lru_cache(maxsize=256)
def _parsed(expression: str) -> Substitution | None:
    try:
        return Substitution(expression)
    except BadPattern:
        return None


class _Subst(Step):
    """The one transformation whose parameter is all text up to the closing brace, or one variable that holds it."""

    def apply(self, name: str, get: Getter, given: Sequence[str | Getter], variables: Variables) -> Getter:
        if len(given) != 1:
            raise ValueError(f"{{{name}}} takes an expression")
        expression = given[0]
        constant = _checked(expression, variables) if isinstance(expression, str) else None

        def transformed(ctx: RouteContext) -> Xval:
            found = get(ctx)
            if found is None or found == "":
                return None
            value = str(found)
            substitution = constant
            if substitution is None and not isinstance(expression, str):
                source = expression(ctx)
                substitution = _parsed(source) if isinstance(source, str) else None
            if substitution is None:
                return None
            text, count = substitution.apply(value, lambda part: _value(part, variables, ctx))
            return text if count >= 0 else None

        return transformed


def _value(variable: str, variables: Variables, ctx: RouteContext) -> str:
    value = variables.getters[variable](ctx)
    return "" if value is None else str(value)


def _checked(expression: str, variables: Variables) -> Substitution:
    """Return the parsed expression. Raise ValueError when it does not parse or names a variable that there is not."""
    try:
        substitution = Substitution(expression)
    except BadPattern as error:
        raise ValueError(str(error)) from None
    for text in substitution.variables:
        variables.text(text)
    return substitution


STEPS: Final[dict[str, Step]] = {"re.subst": _Subst(lambda text: text)}
