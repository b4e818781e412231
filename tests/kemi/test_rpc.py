"""Commands of a running server: what a declaration must have, and what a call must bring."""

from __future__ import annotations

from typing import Any

import pytest

from polykemi.errors import RpcError
from polykemi.kemi.rpc import INVALID_PARAMS, Command, Later, commands_of, rpc


class Part:
    """Commands with every shape of parameters."""

    @rpc("part.all")
    def all(self, text: str, number: int, share: float = 0.5, *more: str) -> tuple[Any, ...]:
        """Return what came."""
        return (text, number, share, *more)

    @rpc("part.defaults")
    def defaults(self, first: str = "a", second: int = 2, *more: str) -> tuple[Any, ...]:
        """Return what came."""
        return (first, second, *more)

    @rpc("part.none")
    def none(self) -> int:
        """Return 1."""
        return 1

    @rpc("part.time")
    def time(self, text: str = "", *, now: float) -> tuple[str, float]:
        """Return what came, and when."""
        return text, now

    @rpc("part.kamailio", missing=(400, "Name expected"))
    def kamailio(self, name: str, *more: str) -> str:
        """Return what came."""
        return name

    def no_command(self) -> None:
        """Not reachable."""


COMMANDS = {command.name: command for command in commands_of(Part())}
ALL = COMMANDS["part.all"]


def refused(command: Command, given: Any) -> str:
    with pytest.raises(RpcError) as raised:
        command.run(given, 0.0)
    assert raised.value.code == INVALID_PARAMS
    return str(raised.value)


def test_what_is_marked_is_a_command_with_its_documentation() -> None:
    assert set(COMMANDS) == {"part.all", "part.defaults", "part.kamailio", "part.none", "part.time"}
    assert COMMANDS["part.none"].doc == "Return 1."
    assert ALL.usage == "text number [share] [more...]"
    assert COMMANDS["part.none"].usage == "no parameters"


def test_a_name_that_is_given_leaves_those_before_it_as_they_are() -> None:
    defaults = COMMANDS["part.defaults"]
    assert defaults.run({"second": 7}, 0.0) == ("a", 7)
    assert defaults.run({"first": "b"}, 0.0) == ("b", 2)
    assert defaults.run([], 0.0) == ("a", 2)
    assert defaults.run(["b", 3, "c", "d"], 0.0) == ("b", 3, "c", "d")


def test_a_command_is_given_the_time_that_nobody_brings() -> None:
    command = COMMANDS["part.time"]
    assert command.usage == "[text]"
    assert command.run(["a"], 17.5) == ("a", 17.5)
    assert "expected [text]" in refused(command, {"text": "a", "now": 3.0})


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        (["a", 1], ("a", 1, 0.5)),
        (["a", 1, 2], ("a", 1, 2.0)),
        (["a", "-1", "2.5"], ("a", -1, 2.5)),
        (["a", 1, 0.25, "b", 3], ("a", 1, 0.25, "b", "3")),
        ([1001, 1], ("1001", 1, 0.5)),
        ({"number": 1, "text": "a"}, ("a", 1, 0.5)),
    ],
)
def test_parameters_come_by_position_or_by_name(given: Any, arguments: tuple[Any, ...]) -> None:
    assert ALL.run(given, 0.0) == arguments


@pytest.mark.parametrize("given", [[], ["a"], {"text": "a"}, {"text": "a", "number": 1, "other": 2}, {"more": []}])
def test_too_few_and_unknown_parameters_are_answered_with_those_expected(given: Any) -> None:
    assert refused(ALL, given) == "part.all: expected text number [share] [more...]"


def test_missing_parameters_are_answered_in_kamailios_words_where_it_has_some() -> None:
    nothing: list[Any] = [[], {}]
    for given in nothing:
        with pytest.raises(RpcError) as raised:
            COMMANDS["part.kamailio"].run(given, 0.0)
        assert (raised.value.code, str(raised.value)) == (400, "Name expected")


def test_too_many_parameters_are_refused() -> None:
    assert refused(COMMANDS["part.none"], [1]) == "part.none: expected no parameters"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a", "1x"], "number: expected an integer"),
        (["a", 1.5], "number: expected an integer"),
        (["a", True], "number: expected an integer"),
        (["a", 1, "x"], "share: expected a number"),
        (["a", 10**18], "number: expected an integer of at most 18 digits"),
        (["a", 1, -(10**400)], "share: expected a number of at most 18 digits"),
        (["a", 1, 1e18], "share: expected a number of at most 18 digits"),
        ([None, 1], "text: expected a text"),
        ([["a"], 1], "text: expected a text"),
        (["a", 1, 1, "b", {}], "more: expected a text"),
    ],
)
def test_a_parameter_of_the_wrong_type_is_named(given: Any, expected: str) -> None:
    assert refused(ALL, given) == f"part.all: {expected}"


def test_a_command_without_documentation_or_with_another_type_is_no_command() -> None:
    class Silent:
        @rpc("x.silent")
        def silent(self) -> int:
            return 1

    class Odd:
        @rpc("x.odd")
        def odd(self, table: dict[str, int]) -> int:
            """Take a table."""
            return len(table)

    for part, cause in ((Silent(), "docstring"), (Odd(), "parameter table")):
        with pytest.raises(TypeError, match=cause):
            list(commands_of(part))


def test_an_object_with_names_of_its_own_is_a_list() -> None:
    """Kamailio takes each object for one."""
    assert COMMANDS["part.defaults"].run({"x": "b", "y": 3, "z": "c"}, 0.0) == ("b", 3, "c")
    assert COMMANDS["part.defaults"].run({"more": "b"}, 0.0) == ("b", 2)
    assert "expected" in refused(COMMANDS["part.defaults"], {"first": "b", "sceond": 3})


def test_who_cannot_wait_is_refused_what_answers_later() -> None:
    called: list[str] = []

    class Waiting:
        @rpc("part.later")
        def later(self) -> Later:
            """Answer later."""
            called.append("later")
            return Later()

    (command,) = commands_of(Waiting())
    with pytest.raises(RpcError, match=r"part\.later: a script cannot wait for the answer"):
        command.run([], 0.0)
    assert called == []
    assert isinstance(command.run([], 0.0, may_wait=True), Later)
