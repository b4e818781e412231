"""One target under atheris, guided by coverage: ``python -m tests.fuzz.guided TARGET [options of libFuzzer]``.

``make fuzz`` runs all of them. What fails is a traceback, and a file ``crash-...`` with the octets that caused it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["polykemi"]):
    from tests.fuzz import targets
from tests.fuzz.mutator import Mutator


def main(name: str, options: list[str]) -> None:
    """Fuzz the target ``name`` from its seeds; libFuzzer ends the process."""
    target, corpus = targets.TARGETS[name]
    targets.be_quiet()

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.5:
            return bytes(atheris.Mutate(data, longest))
        mutator = Mutator(random, longest)
        return mutator.change(data) if name in targets.OF_LINES else mutator.value(data)

    with tempfile.TemporaryDirectory() as directory:
        for i, data in enumerate(corpus):
            (Path(directory) / str(i)).write_bytes(data)
        atheris.Setup([sys.argv[0], *options, directory], target, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
