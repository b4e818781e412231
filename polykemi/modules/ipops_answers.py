"""ipops: the answers of DNS that scripts have asked for, by a name of the script's, and the variables that read them."""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from typing import Final

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval
from polykemi.pv.accessor import Accessor, Factory
from polykemi.pv.classes.factories import at_value, no_index, number_of, required
from polykemi.pv.compiler import Variables

Field = int | str

_MOST: Final = 1000  # names of answers: more are a script that makes them up
_NAME: Final = re.compile(r"\s*([^=\s]+)\s*=>\s*(\w+)\s*(?:\[\s*(.+?)\s*\])?\s*", re.DOTALL)


class Answers:
    """One kind of answers: rows of fields."""

    def __init__(self) -> None:
        self._rows: dict[str, list[dict[str, Field]]] = {}

    def put(self, name: str, rows: list[dict[str, Field]]) -> None:
        """Keep the answer ``name`` in place of the one before; the oldest name goes when there are too many."""
        self._rows.pop(name, None)
        if len(self._rows) >= _MOST:
            del self._rows[next(iter(self._rows))]
        self._rows[name] = rows

    def rows(self, name: str) -> list[dict[str, Field]]:
        """Return the rows of an answer, none when nothing was asked."""
        return self._rows.get(name, [])


def answer_class(answers: Answers, single: AbstractSet[str], indexed: AbstractSet[str]) -> Factory:
    """Return the class of ``$x(name=>field[index])``; ``single`` fields need no index, ``count`` with others that do is always there."""

    def factory(inner: str | None, index: str | None, variables: Variables) -> Accessor:
        no_index(index)
        match = _NAME.fullmatch(required(inner))
        if match is None or match[2] not in single | indexed:
            raise ValueError(f"expected NAME=>FIELD[INDEX], FIELD one of {', '.join(sorted(single | indexed))}")
        name, field = match[1], match[2]
        if field in indexed and match[3] is None:
            raise ValueError(f"{field} needs an index")
        number = number_of(match[3], variables)

        def get(ctx: RouteContext) -> Xval:
            rows = answers.rows(name)
            if field == "count" and indexed:
                return len(rows)
            row = at_value(rows, number if isinstance(number, int) else number(ctx))
            return None if row is None else row[field]

        return Accessor(get)

    return factory
