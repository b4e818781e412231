"""Count the instructions of the REGISTER path in pure Python and compare them with expected.json.

    make guard                   fails when a section has grown by more than 10 %
    make guard ARGS=--update     makes what is counted now the expectation

A section's figure is instructions per message over instructions per round of a fixed piece of Python that is counted in the
same run: so most of what another build of Python does faster or slower cancels out. Needs valgrind.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.guard.register_path import SECTIONS, N
from bench.servers import ROOT

EXPECTED = Path(__file__).parent / "expected.json"
TOLERANCE = 0.10
MARKS = ("getpgid", "__getpgid")  # the names of what register_path.mark calls
_TOTAL = re.compile(r"^totals: ([0-9]+)$", re.MULTILINE)

Counts = dict[str, int]  # section -> instructions per message, or per round


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, and compare or update. Return the exit code: 0 as expected or nothing to compare with, 1 grown."""
    parser = argparse.ArgumentParser(
        prog="guard", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--update", action="store_true", help="write expected.json instead of comparing")
    parser.add_argument("--required", action="store_true", help="a missing valgrind is a failure, not a reason to skip")
    options = parser.parse_args(arguments)
    if shutil.which("valgrind") is None:
        print("guard: skipped, valgrind is not installed (Debian: valgrind)")
        return int(options.required)
    counts = count()
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    expectations: dict[str, dict[str, float]] = json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}
    if options.update:
        expectations[python] = normalised(counts) | {"instructions": counts["challenge"] + counts["save"]}
        EXPECTED.write_text(json.dumps(expectations, indent=1, sort_keys=True) + "\n")
    for section, instructions in counts.items():
        print(f"{section:12} {instructions:8} instructions")
    lines, grown = compare(normalised(counts), expectations.get(python), python)
    print("\n".join(lines))
    return int(grown)


def normalised(counts: Counts) -> dict[str, float]:
    """Return each section in rounds of the calibration."""
    return {name: round(n / counts["calibration"], 3) for name, n in counts.items() if name != "calibration"}


def compare(
    found: Mapping[str, float], expected: Mapping[str, float] | None, python: str = ""
) -> tuple[list[str], bool]:
    """Return what is to be said about each section, and whether one has grown by more than TOLERANCE."""
    if expected is None:
        return [f"nothing is expected of Python {python} yet: make guard ARGS=--update"], False
    lines, any_grown = [], False
    for section, value in found.items():
        change = value / expected[section] - 1
        grown = change > TOLERANCE
        any_grown |= grown
        verdict = "GROWN: more than 10 %" if grown else "ok"
        if change < -TOLERANCE:
            verdict = "ok, and so much less that it should be held: make guard ARGS=--update"
        lines.append(f"{section:12} {value:8.3f} rounds, expected {expected[section]:.3f}, {change:+.1%}: {verdict}")
    return lines, any_grown


def count() -> Counts:
    """Run register_path under callgrind. Raise SystemExit with its words when it fails."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "callgrind"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
        command += [f"--dump-before={name}" for name in MARKS]
        command += [sys.executable, "-m", "bench.guard.register_path"]
        variables = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(ROOT)}
        variables |= {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"guard: {(done.stdout + done.stderr).strip()[-2000:]}")
        return sections([path.read_text() for path in sorted(Path(directory).iterdir(), key=_number)])


def _number(path: Path) -> int:
    """Return the number of a dump: callgrind.1, callgrind.2, ... and callgrind for the last."""
    return int(path.suffix[1:]) if path.suffix else sys.maxsize


def sections(dumps: Sequence[str]) -> Counts:
    """Return the instructions of each section from the dumps, in order; dump i ends at mark i. Raise ValueError."""
    totals = [sum(int(total) for total in _TOTAL.findall(dump)) for dump in dumps]
    if len(totals) != 2 * len(SECTIONS) + 1:
        raise ValueError(f"expected {2 * len(SECTIONS)} marks, callgrind saw {len(totals) - 1}")
    return {name: totals[2 * i + 1] // N for i, name in enumerate(SECTIONS)}


if __name__ == "__main__":
    sys.exit(main())
