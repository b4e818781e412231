"""Every KSR function on every engine: the cases of ``exports/`` (their form: ``export_cases.py``) on whole servers.

A result is taken where the script sees it, behind the engine's conversion of values. Each case runs once on each engine,
on a server of its own.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pytest

import polykemi
from polykemi.engines import ENGINES
from polykemi.kemi.registry import Registry, exports_of
from polykemi.modules import MODULES
from polykemi.storage.provisioned import Database
from polykemi.testing import Sent, ServerUnderTest
from tests.conformance.export_cases import (
    REQUEST,
    Answering,
    Call,
    Case,
    CaseError,
    Expected,
    Step,
    holds,
    in_directory,
    read_cases,
    write_files,
)
from tests.parity.scenario import message_of, reply_of

FILES = {path.stem: path for path in sorted((Path(__file__).parent / "exports").glob("*.txt"))}
CASES: dict[str, Case] = {}
UNREADABLE: dict[str, CaseError] = {}
for path in FILES.values():
    try:
        CASES.update({f"{case.module}: {case.name}": case for case in read_cases(path)})
    except CaseError as error:  # the cases of the other files run all the same
        UNREADABLE[path.stem] = error
STEP = "POLYKEMI_STEP"  # in the environment: the number of the step that runs

# show(block, number of the call, result): is_method changes nothing, and the trace keeps what it was given
SHOW = {
    "lua": """\
local function show(block, i, v)
    local t = type(v)
    KSR.is_method(block .. " " .. i .. " " .. (t == "nil" and "null" or t == "number" and "num " .. string.format("%.0f", v)
        or t == "string" and "str " .. v or tostring(v)))
end
local function step() return KSR.kx.get_envn("POLYKEMI_STEP") end
""",
    "js": """\
function show(block, i, v) {
    KSR.is_method(block + " " + i + " " + (v === null ? "null" : typeof v == "number" ? "num " + v
        : typeof v == "string" ? "str " + v : String(v)));
}
function step() { return KSR.kx.get_envn("POLYKEMI_STEP"); }
""",
    "python": """\
import KSR

def show(block, i, v):
    KSR.is_method(f"{block} {i} " + ("null" if v is None else str(v).lower() if isinstance(v, bool)
        else f"num {v}" if isinstance(v, int) else f"str {v}" if isinstance(v, str) else repr(v)))

def step():
    return KSR.kx.get_envn("POLYKEMI_STEP")

""",
}
EXTENSIONS = {"lua": "lua", "js": "js", "python": "py"}
FUNCTIONS = {"lua": "function %s()\n%s\nend\n", "js": "function %s() {\n%s\n}\n", "python": "def %s():\n%s\n"}
BRANCHES = {
    "lua": "    if step() == %d then\n%s\n    end",
    "js": "    if (step() == %d) {\n%s\n    }",
    "python": "    if step() == %d:\n%s",
}
NOTHING = {"lua": "false", "js": "false", "python": "num 0"}  # what a function without parameters and result gives


@dataclass
class Outcome:
    """What one run of a case gave."""

    seen: dict[str, list[str]] = field(default_factory=dict)  # what was shown, by block: "name@step"
    sent: list[list[Sent]] = field(default_factory=list)  # by step
    errors: int = 0  # of the script, and of the server itself
    log: str = ""
    asked: list[str] = field(default_factory=list)  # of the peers


def script(case: Case, engine: str) -> str:
    """Return the script: each block shows that it runs, what each of its calls gives, and that it ends."""
    blocks: dict[str, list[tuple[int, list[Call]]]] = {REQUEST: []}
    for (name, number), calls in case.blocks.items():
        blocks.setdefault(name, []).append((number, calls))
    text = SHOW[engine]
    for name, bodies in blocks.items():
        lines = []
        if name == REQUEST:
            lines.append(f'    show("{REQUEST}@any", 0, step())')
        for number, calls in bodies:
            tag = f'"{name}@{number}"'
            shows = [f"show({tag}, {i}, {call.source})" for i, call in enumerate(calls)]
            body = [f'show({tag}, "begin", 1)', *shows, f'show({tag}, "end", 1)']
            if len(bodies) == 1 and name != REQUEST:  # runs in whatever step it is needed
                lines += [f"    {line}" for line in body]
            else:
                lines.append(BRANCHES[engine] % (number, "\n".join(f"        {line}" for line in body)))
        text += FUNCTIONS[engine] % (name, "\n".join(lines))
    return text


class Log(logging.Handler):
    """Keeps the texts."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.texts.append(record.getMessage())


class Used(Registry):
    """The functions of all modules that a text names: to bind the other five hundred would take most of the time."""

    def __init__(self, modules: Iterable[Any], text: str) -> None:
        super().__init__(modules)
        self._rows = {path: row for path, row in self._rows.items() if f"{path}(" in text}


@cache
def run(name: str, engine: str) -> Outcome:
    """Play the case of this name, once."""
    return play_case(CASES[name], engine)


def play_case(case: Case, engine: str) -> Outcome:
    """Play the case on a server of its own."""
    outcome, handler = Outcome(), Log()
    logger = logging.getLogger("polykemi")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        with TemporaryDirectory() as directory:
            path = Path(directory) / f"case.{EXTENSIONS[engine]}"
            text = script(case, engine)
            path.write_text(text, "utf-8")
            write_files(case.files, Path(directory))
            database = Database()
            database.add_subscriber("alice", "example.test", "wonderland")
            for statement in case.sql:
                database.query(statement)
            peers = Answering(case.peers)
            with (
                patch("polykemi.node.Registry", lambda modules: Used(modules, text)),
                ServerUnderTest(
                    {engine: path},
                    domains=["example.test"],
                    modules=in_directory(case.config, Path(directory)),
                    database=database,
                    peers=peers,
                ) as server,
            ):
                everything: list[Sent] = []
                peers.asked.clear()  # what modules ask when the server starts
                for number, step in enumerate(case.steps):
                    os.environ[STEP] = str(number)
                    outcome.sent.append(play(step, server, everything))
                    everything += outcome.sent[-1]
                outcome.asked = peers.asked
                counters = server.node.services.counters
                outcome.errors = counters.get("core.script_errors", 0) + counters.get("core.internal_errors", 0)
                for call in server.calls:
                    if call.path == "KSR.is_method" and "@" in call.arguments[0]:
                        tag, _, shown = call.arguments[0].partition(" ")
                        outcome.seen.setdefault(tag, []).append(shown)
    finally:
        os.environ.pop(STEP, None)
        logger.removeHandler(handler)
        logger.setLevel(level)
    outcome.log = "\n".join(handler.texts)
    return outcome


def play(step: Step, server: ServerUnderTest, before: list[Sent]) -> list[Sent]:
    """Let the step happen; return what leaves."""
    if step.kind == "wait":
        return server.advance(step.seconds)
    if step.kind == "reply":
        status, _, reason = step.status.partition(" ")
        return server.receive(reply_of(step.head, step.peer, int(status), reason, step.method, before), step.peer)
    head = message_of(step.head.replace("{credentials ", "{"), step.peer, before)
    return server.receive(head + step.body.encode(), step.peer)


def check_calls(case: Case, outcome: Outcome, engine: str) -> None:
    """Each block ran, each time with the results that it shall have; no message reached the script that should not."""
    for number, shown in enumerate(outcome.seen.get(f"{REQUEST}@any", [])):
        step = int(shown.rpartition(" ")[2])
        assert (REQUEST, step) in case.blocks, f"message {number + 1} (step {step}) has no calls but reached the script"
    for (name, number), calls in case.blocks.items():
        expected = ["begin num 1"]
        for i, call in enumerate(calls):
            if call.expected != "ends":
                expected.append(f"{i} {NOTHING[engine] if call.expected == 'none' else call.expected}")
        if not calls or calls[-1].expected != "ends":
            expected.append("end num 1")
        seen = outcome.seen.get(f"{name}@{number}", [])
        starts = [i for i, text in enumerate(seen) if text == "begin num 1"]
        assert starts, f"{name} of step {number} did not run\n{outcome.log}"
        for start, end in zip(starts, [*starts[1:], len(seen)], strict=True):
            got = seen[start:end]
            for i, call in enumerate(calls, 1):
                if call.expected == "*" and i < len(got):
                    got[i] = expected[i]
            assert named(got, calls) == named(expected, calls), outcome.log


def named(shown: list[str], calls: list[Call]) -> list[str]:
    """Write the call in front of each result, for the one who reads what failed."""
    return [
        f"{calls[int(number)].source} -> {value}" if number.isdecimal() else text
        for text in shown
        for number, _, value in [text.partition(" ")]
    ]


def check_sent(expected: list[Expected], sent: list[Sent]) -> None:
    """Exactly these datagrams left."""
    assert [f"{s.to} {s.start_line}" for s in sent] == [e.line for e in expected]
    for one, datagram in zip(expected, sent, strict=True):
        head, _, body = datagram.data.decode("latin-1").partition("\r\n\r\n")
        lines = head.split("\r\n")[1:]
        for pattern in one.present:
            assert any(holds(pattern, line) for line in lines), f"{pattern!r} is not in\n{head}"
        for pattern in one.absent:
            assert not any(holds(pattern, line) for line in lines), f"{pattern!r} is in\n{head}"
        assert one.body is None or body == one.body


@pytest.mark.parametrize("engine", ["lua"] if polykemi.compiled else ENGINES)  # the other two are never compiled
@pytest.mark.parametrize("name", CASES, ids=str)
def test_every_case_has_the_results_and_datagrams_of_its_file(name: str, engine: str) -> None:
    case, outcome = CASES[name], run(name, engine)
    check_calls(case, outcome, engine)
    assert outcome.errors == 0, outcome.log
    if case.sent is not None:
        check_sent(case.sent, [s for step in outcome.sent for s in step])
    for step, sent in zip(case.steps, outcome.sent, strict=True):
        if step.sent is not None:
            check_sent(step.sent, sent)
    if case.asked is not None:
        assert len(case.asked) == len(outcome.asked), outcome.asked
        for pattern, question in zip(case.asked, outcome.asked, strict=True):
            assert holds(pattern, question), question
    for text in case.log:
        assert text in outcome.log
    first = run(name, next(iter(ENGINES)))
    assert outcome.sent == first.sent, "the engines send different octets"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "text",
    [
        '--- calls\nKSR.pv.get("$rm") -> "INVITE"\n',
        '--- calls\nKSR.pv.get("$cs") -> 1\n',
        "--- calls\nKSR.is_OPTIONS() -> ends\n",
        "--- calls\nKSR.x.exit() -> none\n",
        "--- calls\nKSR.forward_none() -> 1\n",
        "--- calls\nKSR.is_OPTIONS() -> true\n--- calls never\nKSR.is_OPTIONS() -> true\n",
        "--- calls\nKSR.is_OPTIONS() -> true\n--- message\nCall-ID: second\n",
    ],
)
def test_a_case_that_does_not_hold_is_told(text: str, engine: str, tmp_path: Path) -> None:
    path = tmp_path / "lab.txt"
    path.write_text(f"=== one\n{text}")
    case = read_cases(path)[0]
    with pytest.raises(AssertionError):
        check_calls(case, play_case(case, engine), engine)


@pytest.mark.parametrize("module", MODULES)
def test_every_export_of_the_module_has_a_case_in_its_file(module: str) -> None:
    tested: set[str] = set()
    for case in CASES.values():
        if case.module == module:
            tested |= case.paths
    exported = {export.path for export, _ in exports_of(MODULES[module]).values()}
    assert sorted(exported - tested) == []


@pytest.mark.parametrize("module", FILES)
def test_every_file_can_be_read_and_is_named_after_a_module(module: str) -> None:
    if module in UNREADABLE:
        raise UNREADABLE[module]
    assert module in MODULES


@pytest.mark.parametrize(
    "text, cause",
    [
        ("=== one\n--- calls\nKSR.pv.get($ru) -> 1\n", "3: expected KSR.module.function"),
        ('=== one\n--- calls\nKSR.pv.get("$ru") -> maybe\n', "3: no result 'maybe'"),
        ('=== one\n--- calls\nKSR.x.exit() -> ends\nKSR.info("x") -> 0\n', "4: a call after one that ends the block"),
        ('=== one\n--- calls\nKSR.pv.get("$Tb") -> *\n', "3: a comment beside the line has to say why"),
        ("=== one\n--- sent\n", "1: a case without calls"),
        ("=== one\n--- call\n", "2: no section 'call'"),
        ("=== one\n--- route somewhere\n--- calls\nKSR.forward() -> 1\n", "2: route does not take 'somewhere'"),
        ("=== one\n--- calls\n", "2: no calls"),
        (
            "=== one\n--- calls\nKSR.forward() -> 1\n--- sent\nSIP/2.0 200 OK\n",
            "5: expected host:port and a start-line",
        ),
        (
            "=== one\n--- calls\nKSR.forward() -> 1\n=== one\n--- calls\nKSR.forward() -> 1\n",
            "4: the name 'one' is empty or taken",
        ),
        ("# nothing\n", "1: no case"),
    ],
)
def test_a_case_file_that_cannot_be_read_is_told_with_file_and_line(text: str, cause: str, tmp_path: Path) -> None:
    path = tmp_path / "lab.txt"
    path.write_text(text)
    with pytest.raises(CaseError) as told:
        read_cases(path)
    assert str(told.value).startswith(f"lab.txt:{cause}")
