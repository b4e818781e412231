"""What Kamailio exports to KEMI, as data, and how much of it is here (``polykemi functions --coverage``).

``kamailio_exports.tsv`` holds facts of Kamailio: module, function, type of the result and of the parameters, and whether
5.6 has the function already.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from polykemi.kemi.registry import exports_of

CORE: Final = "core"  # what the core is called here: its functions stand on KSR itself
FIRST: Final = "5.6"  # the version that scripts are written for


@dataclass(frozen=True, slots=True)
class Foreign:
    """One function that Kamailio exports."""

    module: str  # "" for the core
    name: str
    returns: str
    params: tuple[str, ...]
    version: str  # 5.6 or later

    @property
    def later(self) -> bool:
        """Whether Kamailio 5.6 does not have it yet."""
        return self.version != FIRST


@cache
def kamailio_exports() -> dict[str, dict[str, Foreign]]:
    """Return module -> name -> function; the core's module is ""."""
    out: dict[str, dict[str, Foreign]] = {}
    text = files("polykemi.kemi").joinpath("kamailio_exports.tsv").read_text("ascii")
    for row in csv.DictReader(text.splitlines(), delimiter="\t"):
        params = tuple(filter(None, row["parameters"].split(",")))
        foreign = Foreign(row["module"], row["function"], row["returns"], params, row["version"])
        out.setdefault(foreign.module, {})[foreign.name] = foreign
    return out


@dataclass(frozen=True, slots=True)
class Coverage:
    """One module: which of Kamailio's functions are here, and which only polykemi has."""

    module: str
    have: tuple[str, ...]
    missing: tuple[str, ...]
    own: tuple[str, ...]

    @property
    def all(self) -> int:
        """How many functions Kamailio has."""
        return len(self.have) + len(self.missing)


def coverage(modules: Iterable[type]) -> list[Coverage]:
    """Compare the functions of all modules, Kamailio's and ours, by name."""
    theirs = kamailio_exports()
    ours: dict[str, set[str]] = {}
    for one in modules:
        for export, _ in exports_of(one).values():
            ours.setdefault(export.module, set()).add(export.name)
    return [_compared(name, set(theirs.get(name, ())), ours.get(name, set())) for name in sorted({*theirs, *ours})]


def _compared(module: str, theirs: set[str], ours: set[str]) -> Coverage:
    both, missing, own = theirs & ours, theirs - ours, ours - theirs
    return Coverage(module, tuple(sorted(both)), tuple(sorted(missing)), tuple(sorted(own)))


def report(modules: Iterable[type]) -> Iterator[str]:
    """Write the comparison: a line for each module that is here with what it lacks, then those that are not, and sums."""
    compared = coverage(list(modules))
    here = [one for one in compared if one.have or one.own]
    for one in here:
        yield (
            f"{one.module or CORE:<14} {_share(len(one.have), one.all)}"
            + _named("missing", one.missing)
            + _named("only here", one.own)
        )
    absent = [f"{one.module or CORE} ({one.all})" for one in compared if not one.have and not one.own]
    yield "not here: " + ", ".join(absent)
    for words, some in (("the modules that are here", here), ("all of Kamailio", compared)):
        yield f"{words}: {_share(sum(len(one.have) for one in some), sum(one.all for one in some))}"


def _share(have: int, all_: int) -> str:
    return f"{have:>4} of {all_:<4} {100 * have // all_ if all_ else 100:>3} %"


def _named(words: str, names: tuple[str, ...]) -> str:
    return f"  {words}: {', '.join(names)}" if names else ""
