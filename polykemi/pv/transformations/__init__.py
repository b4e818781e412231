"""Transformations: ``$(ru{s.substr,0,3})``. Each is chosen and its parameters are read when the variable is compiled.

A transformation of null is null (``val.*`` apart), and so is one with a parameter that is null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from polykemi.pv.accessor import Getter
from polykemi.pv.transformations import addresses, numbers, strings
from polykemi.pv.transformations.shape import Step

STEPS: Final[dict[str, Step]] = {**strings.STEPS, **addresses.STEPS, **numbers.STEPS}


def transform(name: str, get: Getter, parameters: Sequence[str | Getter]) -> Getter:
    """Return the getter of what ``{name,parameters}`` makes of the value of ``get``. Raise ValueError."""
    step = STEPS.get(name)
    if step is None:
        raise ValueError(f"there is no transformation {{{name}}}")
    return step.apply(name, get, parameters)
