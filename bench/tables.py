"""Tables of medians and ratios. A ratio is taken within a round, then the median over the rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from bench.loads import Figures, Test
from bench.servers import Subject

SIPP_BUSY = 0.9  # cores; above, sipp may be what is measured
OTHERS_BUSY = 0.2

Rounds = Mapping[Subject, Sequence[Figures]]


@dataclass(frozen=True)
class Row:
    """One subject's medians; ``peer``: ours to Kamailio with the same language, ``native``: to Kamailio's own language."""

    subject: str
    cpu: float
    cpu_least: float
    cpu_most: float
    cpu_peer: float | None
    cpu_native: float | None
    route: float | None
    route_peer: float | None
    route_native: float | None
    pss: float
    failed: int
    retransmissions: int
    sipp_busy: float


def rows(rounds: Rounds) -> list[Row]:
    """Return a row for each subject."""
    return [_row(subject, figures, rounds) for subject, figures in rounds.items() if figures]


def _row(subject: Subject, figures: Sequence[Figures], rounds: Rounds) -> Row:
    ours = subject.product == "polykemi"
    peer = rounds.get(Subject("kamailio", subject.engine), ()) if ours else ()
    native = rounds.get(Subject("kamailio", "native"), ()) if subject.engine != "native" else ()
    cpus, routes = [f.cpu for f in figures], [f.route for f in figures if f.route is not None]
    return Row(
        subject=str(subject),
        cpu=median(cpus),
        cpu_least=min(cpus),
        cpu_most=max(cpus),
        cpu_peer=ratio(figures, peer, _cpu),
        cpu_native=ratio(figures, native, _cpu),
        route=median(routes) if routes else None,
        route_peer=ratio(figures, peer, _route),
        route_native=ratio(figures, native, _route),
        pss=median(f.pss for f in figures),
        failed=sum(f.failed for f in figures),
        retransmissions=sum(f.retransmissions for f in figures),
        sipp_busy=median(f.sipp_busy for f in figures),
    )


def _cpu(figures: Figures) -> float | None:
    return figures.cpu


def _offered(figures: Figures) -> float | None:
    return figures.offered


def _route(figures: Figures) -> float | None:
    return figures.route


def ratio(
    ours: Sequence[Figures], theirs: Sequence[Figures], figure: Callable[[Figures], float | None]
) -> float | None:
    """Return the median over the rounds of ours / theirs, None when there is nothing to compare with."""
    pairs = [(figure(mine), figure(other)) for mine, other in zip(ours, theirs, strict=False)]
    ratios = [mine / other for mine, other in pairs if mine is not None and other]
    return median(ratios) if ratios else None


def warnings(rounds: Rounds) -> list[str]:
    """Say what makes figures doubtful."""
    found = []
    for subject, figures in rounds.items():
        if late := sum(not f.kept_up for f in figures):
            worst = min(figures, key=lambda f: f.achieved)
            found.append(
                f"{subject} did not keep up in {late} of {len(figures)} rounds"
                f" ({worst.achieved:.0f} of {worst.offered:.0f}/s): its CPU is not that of the offered rate"
            )
        if (busy := max((f.sipp_busy for f in figures), default=0.0)) > SIPP_BUSY:
            found.append(f"with {subject} sipp used {busy:.2f} of its core: its limit may show, not the server's")
    busy_runs = [f.others_busy + f.stolen for figures in rounds.values() for f in figures]
    if disturbed := [busy for busy in busy_runs if busy > OTHERS_BUSY]:
        found.append(
            f"in {len(disturbed)} of {len(busy_runs)} runs other processes or guests used up to {max(disturbed):.2f} cores:"
            " measure again"
        )
    return found


HEADINGS = ("CPU us/{unit}", "(range)", "/peer", "/native", "route us", "/peer", "/native", "MB", "failed", "again")


def table(test: Test, rate: float, n: int, rounds: Rounds) -> str:
    """Return the table of one test as text."""
    count = max((len(figures) for figures in rounds.values()), default=0)
    title = f"{test.title}: {rate:g}/s, {n} in each of {count} rounds; medians"
    headings = ["", *(h.format(unit=test.unit) for h in HEADINGS), "sipp cores"]
    lines = [
        [
            row.subject,
            f"{row.cpu:.1f}",
            f"({row.cpu_least:.1f}..{row.cpu_most:.1f})",
            _shown(row.cpu_peer, 2),
            _shown(row.cpu_native, 2),
            _shown(row.route, 1),
            _shown(row.route_peer, 2),
            _shown(row.route_native, 2),
            f"{row.pss / 1024:.0f}",
            str(row.failed),
            str(row.retransmissions),
            f"{row.sipp_busy:.2f}",
        ]
        for row in rows(rounds)
    ]
    text = [title, "", *aligned([headings, *lines])]
    text += [f"! {warning}" for warning in warnings(rounds)]
    return "\n".join(text)


def highest_table(test: Test, found: Rounds) -> str:
    """Return the table of the highest rates of one test as text; ``found`` holds the figures at these rates."""
    lines = [["", f"highest {test.scenario}/s", "(range)", "/peer", "/native", "server cores", "sipp cores"]]
    for subject, figures in found.items():
        if not figures:
            continue
        ours = subject.product == "polykemi"
        peer = found.get(Subject("kamailio", subject.engine), ()) if ours else ()
        native = found.get(Subject("kamailio", "native"), ()) if subject.engine != "native" else ()
        rates = [f.offered for f in figures]
        lines.append(
            [
                str(subject),
                f"{median(rates):.0f}",
                f"({min(rates):.0f}..{max(rates):.0f})",
                _shown(ratio(figures, peer, _offered), 2),
                _shown(ratio(figures, native, _offered), 2),
                f"{median(f.server_busy for f in figures):.2f}",
                f"{median(f.sipp_busy for f in figures):.2f}",
            ]
        )
    title = f"{test.title}: highest rate with under 0.1 % failures; medians"
    return "\n".join([title, "", *aligned(lines), *(f"! {warning}" for warning in warnings(found))])


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Return lines whose columns stand below each other: the first to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def summary(rounds: Rounds) -> list[dict[str, object]]:
    """Return the rows as JSON holds them."""
    return [asdict(row) for row in rows(rounds)]


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
