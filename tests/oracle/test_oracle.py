"""Every case of the conformance suite, and those of ``cases/``, on Kamailio and on polykemi: the same leaves, the same is seen.

Cases of a file that want the same configuration are a group: each server is started once for it. All run in Lua, a
third in Python and JavaScript too. Where Kamailio is not installed all are skipped.
"""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from bench.kamailio_server import why_not
from tests.conformance.export_cases import Case, CaseError, read_cases, write_files
from tests.oracle import scripts, servers
from tests.oracle.compare import calls_of, comparable
from tests.oracle.replay import LONGEST_WAIT, Outcome, Replay

HERE = Path(__file__).parent
FILES = [*sorted((HERE / "cases").glob("*.txt")), *sorted((HERE.parent / "conformance/exports").glob("*.txt"))]
OTHERS = (
    2,
    5,
)  # so many of so many cases that are not written for Lua alone run in Python and JavaScript too: a third of all


def _newer() -> frozenset[str]:
    """Return the functions that Kamailio has got after 5.6."""
    text = (HERE.parents[1] / "polykemi/kemi/kamailio_exports.tsv").read_text()
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    return frozenset(
        f"KSR.{row['module']}.{row['function']}".replace("..", ".") for row in rows if row["version"] != "5.6"
    )


NEWER = _newer()

Group = tuple[Path, str, str]  # file, configuration, engine


def _cases() -> dict[str, tuple[Path, Case]]:
    found = {}
    for path in FILES:
        try:
            found.update({f"{_stem(path)}: {case.name}": (path, case) for case in read_cases(path)})
        except CaseError:  # the conformance suite tells
            continue
    return found


def _stem(path: Path) -> str:
    return f"{path.stem} (oracle)" if path.parent.name == "cases" else path.stem


CASES = _cases()
NUMBERS = {name: f"c{number:03}" for number, name in enumerate(CASES)}


def _configuration(case: Case) -> str:
    return json.dumps([case.config, case.sql, case.files])


REPLAYED = [name for name, (_, case) in CASES.items() if not (case.not_replayed or case.paths & NEWER)]
COMMON = [name for name in REPLAYED if scripts.runs_in(CASES[name][1], "js")]  # not written for Lua alone
EVERYWHERE = {name for number, name in enumerate(COMMON) if CASES[name][1].code or number % OTHERS[1] < OTHERS[0]}


def _asks(name: str) -> list[str]:
    """Return the engines in which a case is played."""
    if name not in REPLAYED:
        return []
    engines = ["lua", "python", "js"] if name in EVERYWHERE else ["lua"]
    return [engine for engine in engines if scripts.runs_in(CASES[name][1], engine)]


def _modules(path: Path, case: Case) -> set[str]:
    """Return the modules that a case needs: those that it calls, and the one whose variables its file is about."""
    own = set() if path.parent.name == "cases" else {path.stem}
    return own | {p.split(".")[1] for p in case.paths if p.count(".") == 2}


def _too_long(case: Case) -> bool:
    return sum(step.seconds for step in case.steps) > LONGEST_WAIT


PLAYED = [(name, engine) for name in CASES for engine in _asks(name)]


@cache
def members(group: Group) -> dict[str, str]:
    """Return number -> name of the cases of a group."""
    path, configuration, engine = group
    return {
        NUMBERS[name]: name
        for name, (file, case) in CASES.items()
        if file == path and _configuration(case) == configuration and engine in _asks(name) and not _too_long(case)
    }


@cache
def play(group: Group, product: str) -> dict[str, Outcome] | str:
    """Play a group on one server; return name -> outcome, or why it did not start."""
    path, configuration, engine = group
    names = members(group)
    cases = {number: CASES[name][1] for number, name in names.items()}
    config, statements, files = json.loads(configuration)
    modules = sorted(set().union(*(_modules(path, case) for case in cases.values())))
    text = scripts.script(cases, engine)
    outcomes: dict[str, Outcome] = {}
    while len(outcomes) < len(names):  # a server that ends is started anew for the cases that are left
        with TemporaryDirectory() as temporary:
            directory = Path(temporary)
            servers.make_database(directory, statements)
            write_files({name: servers.used(text) for name, text in files.items()}, directory)
            if product == "kamailio":
                callbacks = scripts.callbacks(cases.values(), engine)
                server = servers.start_kamailio(directory, engine, text, config, modules, callbacks)
            else:
                server = servers.start_polykemi(directory, engine, text, config)
            replay = Replay(server, cases)
            try:
                replay.wait_until_ready()
                for number in list(names)[len(outcomes) :]:
                    outcomes[names[number]] = replay.play(number)
                    if server.ended:
                        break
            except TimeoutError as error:
                return str(error)
            finally:
                replay.close()
                server.stop()
    return outcomes


def both(name: str, engine: str) -> tuple[Outcome, Outcome]:
    """Return what Kamailio and polykemi gave for a case; skip where Kamailio cannot be asked."""
    if reason := why_not(engine):
        pytest.skip(reason)
    path, case = CASES[name]
    if _too_long(case):
        pytest.skip("takes longer than a real clock allows")
    modules = _modules(path, case) | set(case.config)
    if missing := servers.missing_modules(modules, engine):
        pytest.skip(f"Kamailio's modules {', '.join(missing)} are not installed")
    group = (path, _configuration(case), engine)
    kamailio, polykemi = play(group, "kamailio"), play(group, "polykemi")
    assert not isinstance(kamailio, str), f"Kamailio: {kamailio}"
    assert not isinstance(polykemi, str), f"polykemi: {polykemi}"
    return kamailio[name], polykemi[name]


@pytest.mark.parametrize("name, engine", PLAYED, ids=[f"{name}-{engine}" for name, engine in PLAYED])
def test_kamailio_and_polykemi_do_the_same(name: str, engine: str) -> None:
    _, case = CASES[name]
    theirs, ours = both(name, engine)
    reason = case.differs.get(engine) or case.differs.get("")
    same = comparable(theirs, case) == comparable(ours, case) and theirs.trouble == ours.trouble
    if reason:
        assert not same, f"differs no more: {reason}"
        return
    if not same:
        pytest.fail(told(case, theirs, ours), pytrace=False)


def told(case: Case, theirs: Outcome, ours: Outcome) -> str:
    """Write what differs, for the one who mends it."""
    (seen, sent), (our_seen, our_sent) = comparable(theirs, case), comparable(ours, case)
    lines = list(_values(case, seen, our_seen))
    for step in range(max(len(sent), len(our_sent))):
        here, there = (one[step] if step < len(one) else [] for one in (our_sent, sent))
        if here != there:
            left, right = ("\n\n".join(datagrams).splitlines() for datagrams in (there, here))
            lines += difflib.unified_diff(left, right, f"step {step}: Kamailio", "polykemi", n=2, lineterm="")
    lines += [f"{who}: {one.trouble}" for who, one in (("Kamailio", theirs), ("polykemi", ours)) if one.trouble]
    lines = lines or ["(what differs is in the ends of lines or the order)"]
    return "\n".join([*lines, "--- Kamailio's log", *_shown(theirs.log), "--- polykemi's log", *_shown(ours.log)])


def _shown(log: list[str]) -> list[str]:
    return [line[:300] for line in log if not line.startswith("#oracle")][-15:]


def _values(case: Case, theirs: dict[str, list[str]], ours: dict[str, list[str]]) -> Iterator[str]:
    for block in sorted({*theirs, *ours}):
        here, there = ours.get(block, []), theirs.get(block, [])
        if here == there:
            continue
        calls = calls_of(case, block)
        for i in range(max(len(here), len(there))):
            left, right = (one[i] if i < len(one) else "nothing" for one in (there, here))
            if left != right:
                number = left.partition(" ")[0]
                source = calls[int(number) - 1].source if number.isdecimal() and 0 < int(number) <= len(calls) else ""
                yield f"{block} {source or i}: Kamailio {left}, polykemi {right}"


def test_there_are_as_many_cases_as_the_suite_promises() -> None:
    lua = [name for name, engine in PLAYED if engine == "lua"]
    others = {name for name, engine in PLAYED if engine != "lua"}
    assert len(lua) >= 400
    assert len(others) * 3 >= len(lua)


@pytest.mark.parametrize(
    "name", [name for name, engine in PLAYED if engine == "lua" and CASES[name][1].module == "xlog"]
)
def test_what_xlog_writes_is_in_both_logs(name: str) -> None:
    texts = [text.replace("case@", f"{NUMBERS[name]}@") for text in CASES[name][1].log]
    texts = [text for text in texts if not text.startswith("debug")]  # neither server logs at that level
    logs = ["\n".join(outcome.log) for outcome in both(name, "lua")]
    assert [[text for text in texts if text in log] for log in logs] == [texts, texts]


def test_every_difference_is_explained() -> None:
    text = (HERE.parents[1] / "docs/differences.md").read_text()
    titles = {title for _, case in CASES.values() for title in case.differs.values()}
    assert sorted(title for title in titles if title not in text) == []
