"""The long form: ``make fuzz ARGS="--seconds 600"``. A running server first, then each target, guided by coverage (atheris).

Without atheris (``pip install polykemi[fuzz]``) the targets get blind changes of their seeds.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import time
from pathlib import Path
from random import Random

from tests.fuzz import server
from tests.fuzz.mutator import Mutator
from tests.fuzz.targets import OF_LINES, TARGETS, be_quiet


def main() -> int:
    """Fuzz; return how many parts failed."""
    options = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    options.add_argument("--seconds", type=float, default=60.0, help="for the server, and for all targets together")
    options.add_argument("--seed", type=int, default=int(time.time()), help="of the changes")
    options.add_argument("--only", nargs="*", default=["server", *TARGETS], help="server, or names of targets")
    options.add_argument("--data", type=Path, default=Path("build/fuzz"), help="where logs and what failed are left")
    given = options.parse_args()
    given.data.mkdir(parents=True, exist_ok=True)
    print(f"seed {given.seed}")
    failed = 0
    if "server" in given.only:
        try:
            print(f"server: {server.fuzz(given.data, seed=given.seed, seconds=given.seconds)}", flush=True)
        except server.Failure as failure:
            print(f"server: FAILED: {failure}", flush=True)
            failed += 1
    targets = [name for name in TARGETS if name in given.only]
    fuzz_target = guided if importlib.util.find_spec("atheris") else blind
    if targets:
        print(f"targets: {fuzz_target.__doc__}")
    for name in targets:
        told = fuzz_target(name, given.seconds / len(targets), given.seed, given.data)
        failed += told.startswith("FAILED")
        print(f"{name}: {told}", flush=True)
    return failed


def guided(name: str, seconds: float, seed: int, data: Path) -> str:
    """guided by coverage (atheris)"""
    options = [
        f"-max_total_time={max(1, int(seconds))}",
        f"-seed={seed & 0x7FFFFFFF or 1}",
        "-max_len=8192",
        "-timeout=10",
    ]
    command = [sys.executable, "-m", "tests.fuzz.guided", name, *options, f"-artifact_prefix={data}/{name}-"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
    )
    (data / f"{name}.log").write_text(done.stdout)
    runs = re.findall(r"^Done (\d+) runs", done.stdout, re.MULTILINE)
    return f"{runs[-1]} runs" if done.returncode == 0 and runs else f"FAILED, see {data}/{name}.log"


def blind(name: str, seconds: float, seed: int, data: Path) -> str:
    """blind changes of seeds, for atheris is not installed"""
    be_quiet()
    target, corpus = TARGETS[name]
    random = Random(seed)
    mutator, runs, until = Mutator(random), 0, time.monotonic() + seconds
    while time.monotonic() < until:
        chosen = random.choice(corpus)
        octets = mutator.change(chosen) if name in OF_LINES else mutator.value(chosen)
        runs += 1
        try:
            target(octets)
        except Exception as error:  # noqa: BLE001  # whatever it is: that is what is looked for
            (data / f"{name}-failed").write_bytes(octets)
            return f"FAILED after {runs} runs: {error!r}, see {data}/{name}-failed"
    return f"{runs} runs"


if __name__ == "__main__":
    sys.exit(main())
