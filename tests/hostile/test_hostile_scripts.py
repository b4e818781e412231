"""Hostile scripts in three languages: each costs at most its own message, and the server answers the next with 100 ms of CPU time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import pytest

from tests.hostile import scripts_js, scripts_lua, scripts_python
from tests.hostile.driver import Case, HostileServer, script
from tests.waiting import PATIENCE, until


class Language(NamedTuple):
    """The hostile scripts of one language."""

    suffix: str
    cases: Sequence[Case]
    frame: Mapping[str, str]
    more: str  # lines of the engine's table


LANGUAGES: Final = {
    "js": Language(".js", scripts_js.CASES, scripts_js.FRAME, scripts_js.MORE),
    "lua": Language(".lua", scripts_lua.CASES, scripts_lua.FRAME, scripts_lua.MORE),
    "python": Language(".py", scripts_python.CASES, scripts_python.FRAME, scripts_python.MORE),
}
GROWN: Final = 80 << 20  # octets that the process may have more afterwards: heaps at their limits, and what is kept


class Tried(NamedTuple):
    """A server and what was tried on it."""

    server: HostileServer
    memory: int  # before
    cases: list[Case]


@pytest.fixture(scope="module")
def tried(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tried]:
    """One server for all scripts of a language."""
    directory = tmp_path_factory.mktemp(request.param)
    language = LANGUAGES[request.param]
    file = directory / f"hostile{language.suffix}"
    file.write_text(script(language.cases, language.frame))
    server = HostileServer(directory, file, "127.0.0.1", language.more)
    try:
        assert server.ask("good", PATIENCE)[0] == 200
        yield Tried(server, server.memory(), [])
    finally:
        server.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test its language, and its script when it asks for one."""
    if "case" in metafunc.fixturenames:
        rows = [(name, case) for name, language in LANGUAGES.items() for case in language.cases]
        ids = [f"{name}-{case.name}" for name, case in rows]
        metafunc.parametrize(("tried", "case"), rows, indirect=["tried"], ids=ids, scope="module")
    else:
        metafunc.parametrize("tried", LANGUAGES, indirect=True, scope="module")


def test_a_hostile_script_costs_its_own_message(tried: Tried, case: Case) -> None:
    tried.server.try_case(case)
    tried.cases.append(case)


def test_afterwards_the_server_is_what_it_was(tried: Tried) -> None:
    server = tried.server
    assert server.ask("good", PATIENCE)[0] == 200
    until(
        lambda: server.ask("good", PATIENCE)[0] == 200 and server.memory() - tried.memory < GROWN,
        "what V8 could not stop ends",
    )
    counters = dict(line.split(" = ") for line in server.rpc("stats.get_statistics", "core:"))
    failed = [case for case in tried.cases if case.status == 500]
    assert int(counters["core:script_errors"]) >= len(failed)
    timeouts = sum(case.log == "time limit reached" for case in tried.cases)
    assert int(counters["core:script_timeouts"]) >= timeouts
    memory = sum(case.log == "memory limit reached" for case in tried.cases)
    assert int(counters.get("core:script_memory", 0)) >= memory
    assert server.close() == 0
