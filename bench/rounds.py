"""The rounds: all subjects in turn under one load, several times, so that what disturbs the machine meets all alike."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.kamailio_server import KamailioServer
from bench.loads import Figures, Test, measure
from bench.polykemi_server import PolykemiServer
from bench.servers import Server, Subject

ROUTE_SECONDS = 1.2  # of load, for Kamailio's time in the route
SLOWER = 0.8  # the next rate when one server does not keep up
MEMORY = Path("/dev/shm")  # databases stand here, so that no disk is measured

Say = Callable[[str], None]


@dataclass
class Results:
    """The figures of one test: for each subject one for each round."""

    test: Test
    n: int
    rate: float
    figures: dict[Subject, list[Figures]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def directory() -> tempfile.TemporaryDirectory[str]:
    """Return a new temporary directory, in memory where the machine has such a place."""
    return tempfile.TemporaryDirectory(prefix="bench-", dir=MEMORY if MEMORY.is_dir() else None)


def run(subject: Subject, test: Test, n: int, rate: float, database: Path, *, log_routes: bool = False) -> Figures:
    """Start a server, measure it, stop it."""
    with directory() as name:
        here = Path(name)
        server: Server
        if subject.product == "polykemi":
            server = PolykemiServer(subject.engine, subject.form, database, here)
        else:
            server = KamailioServer(subject.engine, database, here, log_routes=log_routes)
        try:
            return measure(server, test, n, rate, here)
        finally:
            server.stop()


def run_with_route_time(subject: Subject, results: Results, database: Path) -> Figures:
    """Measure, for Kamailio in two runs: to log the time of each route costs CPU."""
    test, n, rate = results.test, results.n, results.rate
    figures = run(subject, test, n, rate, database)
    if subject.product == "kamailio" and test.timed:
        short = run(subject, test, min(n, int(rate * ROUTE_SECONDS)), rate, database, log_routes=True)
        figures = replace(figures, route=short.route, route_runs=short.route_runs)
    return figures


def find_common_rate(subjects: list[Subject], results: Results, database: Path, say: Say) -> None:
    """Take the first round. While a subject fails twice to keep up, begin again at a lower rate."""
    while True:
        results.figures = {subject: [] for subject in subjects}
        for subject in subjects:
            figures = run_with_route_time(subject, results, database)
            say(progress(subject, results, figures))
            if not figures.kept_up:
                figures = run_with_route_time(subject, results, database)
                say(progress(subject, results, figures))
            if not figures.kept_up:
                break
            results.figures[subject].append(figures)
        else:
            return
        note = f"{subject} did not keep up with {results.rate:g}/s, so all have got less"
        say(note)
        results.notes.append(note)
        results.n, results.rate = int(results.n * SLOWER), int(results.rate * SLOWER)


def take_round(subjects: list[Subject], results: Results, database: Path, say: Say) -> None:
    """Take one round."""
    for subject in subjects:
        figures = run_with_route_time(subject, results, database)
        results.figures.setdefault(subject, []).append(figures)
        say(progress(subject, results, figures))


def progress(subject: Subject, results: Results, figures: Figures) -> str:
    """Return a line about one run."""
    kept = "" if figures.kept_up else f"  did not keep up: {figures.failed} failed, {figures.achieved:.0f}/s"
    return f"{results.test.name:9} {subject!s:28} {figures.cpu:7.1f} us/{results.test.unit}{kept}"
