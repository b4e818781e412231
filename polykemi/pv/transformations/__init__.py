"""Transformations: ``$(ru{s.substr,0,3})``. Each is chosen and its parameters are read when the variable is compiled.

A transformation of null is null (``val.*`` apart), and so is one with a parameter that is null. Modules add their own
(``Module.transformations``).
"""

from __future__ import annotations

from typing import Final

from polykemi.pv.transformations import addresses, expressions, msrp, numbers, strings
from polykemi.pv.transformations.shape import Step

STEPS: Final[dict[str, Step]] = {**strings.STEPS, **addresses.STEPS, **numbers.STEPS, **expressions.STEPS, **msrp.STEPS}
