"""Measure polykemi, and Kamailio beside it where it is installed, under the same load with the same script.

make bench                                         all tests on all engines, three rounds: seven minutes
make bench ARGS="--quick"                          one short round, to see that all works
make bench ARGS="--tests register --engines lua"
make bench ARGS="--tests register --find-max"      the highest rates; two minutes for each server and round
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench import kamailio_server, tables
from bench.facts import facts
from bench.loads import TESTS, Figures, Test
from bench.maximum import highest_rate
from bench.polykemi_server import actual_form
from bench.rounds import Results, directory, find_common_rate, run, take_round
from bench.servers import HERE, SCRIPTS, DidNotStart, Subject, make_database

RESULTS = HERE / "results"
STEP, START = 3.0, 2  # of --find-max: seconds of load in a step, and times the test's rate to begin with
FORMS = ("pure", "compiled")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print tables, write JSON."""
    options = parse(arguments)
    if shutil.which("sipp") is None:
        raise SystemExit("bench: sipp is not installed (Debian: sip-tester)")
    subjects, skipped = chosen_subjects(options.engines, options.forms, peer=options.peer)
    for reason in skipped:
        say(f"left out: {reason}")
    if not subjects:
        raise SystemExit("bench: nothing is left to measure")
    report: dict[str, object] = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "facts": facts()}
    report |= {"arguments": sys.argv[1:], "left_out": skipped}
    with directory() as name:
        database = make_database(Path(name))
        try:
            if options.find_max:
                report["highest"] = find_highest(subjects, options, database)
            else:
                report["tests"] = measure_all(subjects, options, database)
        except (DidNotStart, ValueError) as error:
            raise SystemExit(f"bench: {error}") from None
    path = options.json or RESULTS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    say(f"all rounds are in {path}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the options; a mistake ends with exit code 2."""
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engines", type=one_of(SCRIPTS), default=list(SCRIPTS), help=",".join(SCRIPTS))
    parser.add_argument("--tests", type=one_of(TESTS), default=list(TESTS), help=",".join(TESTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, help="calls started a second, in all tests (default: each test's own)")
    parser.add_argument("--n", type=int, help="calls in a round, in all tests (default: three seconds of load)")
    parser.add_argument(
        "--peer", action=argparse.BooleanOptionalAction, default=True, help="Kamailio beside it (default: if installed)"
    )
    parser.add_argument(
        "--forms", type=one_of(FORMS), default=[""], help="pure,compiled side by side (default: what there is)"
    )
    parser.add_argument("--find-max", action="store_true", help="find the highest rates instead")
    parser.add_argument("--quick", action="store_true", help="one round with one second of load")
    parser.add_argument(
        "--json", type=Path, help="where the figures of all rounds go (default: bench/results/TIME.json)"
    )
    options = parser.parse_args(arguments)
    if (
        options.rounds < 1
        or (options.n is not None and options.n < 1)
        or (options.rate is not None and options.rate <= 0)
    ):
        parser.error("--rounds, --rate and --n are more than 0")
    if options.quick:
        options.rounds = 1
    return options


def one_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a reader of comma-separated lists of ``known`` names."""
    names = list(known)

    def read(text: str) -> list[str]:
        given = text.split(",")
        for one in given:
            if one not in names:
                raise argparse.ArgumentTypeError(f"{one!r}: expected {', '.join(names)}")
        return given

    return read


def chosen_subjects(engines: list[str], forms: list[str], *, peer: bool) -> tuple[list[Subject], list[str]]:
    """Return what is measured, in the order of a round, and why the rest is not."""
    subjects, skipped = [], []
    for engine in engines:
        for form in forms:
            if actual_form(form) == form or not form:
                subjects.append(Subject("polykemi", engine, form))
            elif (reason := "polykemi compiled: `make compile` has not been run") not in skipped:
                skipped.append(reason)
        if peer:
            if reason := kamailio_server.why_not(engine):
                skipped.append(f"kamailio {engine}: {reason}")
            else:
                subjects.append(Subject("kamailio", engine))
    if peer:
        if reason := kamailio_server.why_not("native"):
            skipped.append(f"kamailio native: {reason}")
        else:
            subjects.append(Subject("kamailio", "native"))
    return subjects, skipped


def measure_all(subjects: list[Subject], options: argparse.Namespace, database: Path) -> dict[str, object]:
    """Take all rounds of all tests, and return what the JSON says about them."""
    all_results = [_start(TESTS[name], options) for name in options.tests]
    for number in range(options.rounds):
        say(f"round {number + 1} of {options.rounds}")
        for results in all_results:
            if number == 0 and options.rate is None:
                find_common_rate(subjects, results, database, say)
            else:
                take_round(subjects, results, database, say)
    for results in all_results:
        print("\n" + tables.table(results.test, results.rate, results.n, results.figures))
        for note in results.notes:
            print(f"! {note}")
    print()
    return {
        results.test.name: {
            "rate": results.rate,
            "n": results.n,
            "summary": tables.summary(results.figures),
            "rounds": {str(subject): [f.as_json() for f in figures] for subject, figures in results.figures.items()},
        }
        for results in all_results
    }


def _start(test: Test, options: argparse.Namespace) -> Results:
    rate = options.rate or test.rate
    return Results(test, options.n or int(rate * (1.0 if options.quick else test.seconds)), rate)


def find_highest(subjects: list[Subject], options: argparse.Namespace, database: Path) -> dict[str, object]:
    """Find and print each subject's highest rate in each test."""
    report: dict[str, object] = {}
    for test in (TESTS[name] for name in options.tests):
        found: dict[Subject, list[Figures]] = {subject: [] for subject in subjects}
        for _ in range(options.rounds):
            for subject in subjects:
                if best := _highest(subject, test, options.rate or START * test.rate, database):
                    found[subject].append(best)
        print("\n" + tables.highest_table(test, found))
        report[test.name] = {str(subject): [f.as_json() for f in figures] for subject, figures in found.items()}
    return report


def _highest(subject: Subject, test: Test, start: float, database: Path) -> Figures | None:
    """Return the figures at the highest rate that is kept, None when none is."""
    tried: dict[float, Figures] = {}

    def keeps(rate: float) -> bool:
        tried[rate] = figures = run(subject, test, int(rate * STEP), rate, database)
        say(f"{test.name:9} {subject!s:28} {rate:6.0f}/s {'kept' if figures.kept_up else 'not kept'}")
        return figures.kept_up

    return tried.get(highest_rate(start, keeps))


def say(line: str) -> None:
    """Tell how far it is, on stderr: stdout holds the tables."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
