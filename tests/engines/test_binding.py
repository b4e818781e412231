"""The rules of ``kemi/binding.py``, with the plainest of conversions; each engine's own are in tests/conformance."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polykemi.engines import make_engine
from polykemi.engines.base import Host
from polykemi.errors import UsageError
from polykemi.kemi.binding import Misuse, bind, from_octets, to_octets
from polykemi.kemi.context import Current, Exit, RouteContext
from polykemi.kemi.probes import Probes
from polykemi.kemi.registry import Registry
from polykemi.kemi.route import Route
from polykemi.testing.harness import Call, recorder
from tests.conformance.conftest import FLOW, OPTIONS, Core, Ending, Lab


class Plain:
    """Has Python's types."""

    checked = False
    unicode = False
    extra_arguments = True
    none_result = "none"

    def type_name(self, value: Any) -> str:
        return type(value).__name__

    def to_data(self, value: Any) -> Any:
        return value

    def where(self) -> str:
        return "x.lua:12"


class Unicode(Plain):
    """Has Unicode texts."""

    checked = False
    unicode = True


class Strict(Plain):
    """Refuses surplus arguments."""

    extra_arguments = False


class Bound:
    """The lab's exports, bound, with a running request route."""

    def __init__(self, conversion: Any = None, **more: Any) -> None:
        self.lab = Lab()
        self.current = Current()
        self.ctx = RouteContext(Route.REQUEST, "ksr_request_route", OPTIONS, FLOW, 0.0)
        self.current.ctx = self.ctx
        self.calls: list[Call] = []
        self.probes = Probes()
        self._conversion = conversion or Plain()
        self._more = more
        self._registry = Registry([self.lab, Ending()])

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return self.get(f"KSR.lab.{name}")

    def get(self, path: str) -> Callable[..., Any]:
        """Return the bound export ``path``."""
        row = self._registry.get(path)
        assert row is not None
        return bind(*row, self.current, self._conversion, drive=self.drive, probes=self.probes, **self._more)

    def drive(self, process: Generator[Any, None, Any]) -> Any:
        """Run a process without the blocks that it wants."""
        try:
            while True:
                next(process)
        except StopIteration as end:
            return end.value

    def watch(self) -> None:
        """Keep all calls from now on."""
        self.probes.watch(recorder(self.calls))


def test_outside_of_message_processing_the_export_is_not_called(caplog: pytest.LogCaptureFixture) -> None:
    bound = Bound()
    bound.current.ctx = None
    assert bound.number(1) is False
    assert bound.lab.given == []
    assert caplog.messages == ["KSR.lab.number: called outside of message processing at x.lua:12"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("abc", "x"), 'argument first (int): expected an integer, got "abc" (str)'),
        ((float("nan"), "x"), "argument first (int): expected an integer, got nan (float)"),
        ((None, "x"), "argument first (int): expected an integer, got NoneType"),
        ((1, []), "argument second (str): expected a text, got list"),
        ((1, "x" * 64), ""),
        (("x" * 65, ""), f'argument first (int): expected an integer, got "{"x" * 64}..." (str)'),
        (("a\nb\x00", ""), 'argument first (int): expected an integer, got "a\\nb\\x00" (str)'),
        ((1,), "argument second (str): expected an argument, got nothing"),
        ((), "argument first (int): expected an argument, got nothing"),
    ],
)
def test_a_wrong_argument_is_named_in_one_line(
    caplog: pytest.LogCaptureFixture, arguments: tuple[Any, ...], reason: str
) -> None:
    bound = Bound()
    result = bound.pair(*arguments)
    if not reason:
        assert (result, bound.lab.given) == (1, [arguments])
        return
    assert result is False
    assert bound.lab.given == []
    assert caplog.messages == [f"KSR.lab.pair: {reason} at x.lua:12"]
    assert caplog.records[0].levelno == logging.ERROR


def test_surplus_arguments_are_ignored_or_refused_as_the_conversion_says(caplog: pytest.LogCaptureFixture) -> None:
    assert Bound().zero(1, 2) == 0
    assert Bound().number(1, *range(20)) == 1
    strict = Bound(Strict())
    assert strict.number(1, 2, 3, 4, 5, 6) == 1
    assert strict.number(1, 2, 3, 4, 5, 6, 7) is False
    assert strict.zero(1, 2) is False
    assert [m.partition(": ")[2] for m in caplog.messages] == [
        "at most 6 arguments, 7 given at x.lua:12",
        "takes no arguments, 2 given at x.lua:12",
    ]


def test_no_result_is_what_the_conversion_says() -> None:
    bound = Bound()
    assert bound.none() == "none"
    assert bound.saw("x") == "none"


def test_where_an_export_may_be_called(caplog: pytest.LogCaptureFixture) -> None:
    bound = Bound()
    call = bound.in_branch
    assert call() == -1
    assert caplog.messages == ["KSR.lab.in_branch: makes no sense in request_route, at x.lua:12"]
    bound.ctx.kind = Route.FAILURE
    assert call() == 1


def test_a_sip_error_is_a_failed_call_of_its_return_type() -> None:
    bound = Bound()
    assert bound.refuse("x") == -1
    assert bound.refuse_bool() is False
    assert bound.refuse_xval() is None


def test_exit_and_unforeseen_exceptions_go_through() -> None:
    with pytest.raises(Exit):
        Bound().leave()
    with pytest.raises(ZeroDivisionError):
        Bound().broken()


def test_unicode_texts_cross_as_utf8() -> None:
    bound = Bound(Unicode())
    assert bound.text("ü€") == "ü€"
    assert bound.lab.given == [("\xc3\xbc\xe2\x82\xac",)]
    assert bound.octets() == "a\udcff\udce4b"
    assert Bound().octets() == "a\xff\xe4b"


@given(st.binary())
def test_octets_survive_the_way_through_a_script(octets: bytes) -> None:
    text = octets.decode("latin-1")
    assert to_octets(from_octets(text)) == text


@given(st.text(st.characters(exclude_categories=[])))
def test_any_script_text_becomes_octets(text: str) -> None:
    to_octets(text).encode("latin-1")


def test_a_text_of_a_script_that_is_no_unicode_becomes_question_marks() -> None:
    assert to_octets("a\ud800\udcffü") == "a?\xff\xc3\xbc"


def test_a_process_is_driven_to_its_end() -> None:
    bound = Bound()
    bound.watch()
    assert bound.block("BRANCH") == 1
    assert bound.calls == [("KSR.lab.block", ("BRANCH",), 1)]


def test_arguments_that_the_engine_has_checked_are_not_looked_at_again() -> None:
    bound = Bound(Plain())
    bound._conversion.checked = True
    assert bound.pair(1, "x") == Bound().pair(1, "x")
    with pytest.raises(TypeError):
        bound.pair(1)


def test_who_watches_sees_every_call_with_octet_texts_and_its_result() -> None:
    bound = Bound(Unicode())
    bound.watch()
    bound.text("ü")
    bound.pair("no", "x")
    bound.pair(1)
    bound.in_branch()
    bound.refuse("x")
    bound.none()
    with pytest.raises(Exit):
        bound.get("KSR.x.exit")()
    bound.current.ctx = None
    bound.number(3)
    assert bound.calls == [
        ("KSR.lab.text", ("\xc3\xbc",), "\xc3\xbc"),
        ("KSR.lab.pair", ("no", "x"), False),
        ("KSR.lab.pair", (1,), False),
        ("KSR.lab.in_branch", (), -1),
        ("KSR.lab.refuse", ("x",), -1),
        ("KSR.lab.none", (), None),
        ("KSR.x.exit", (), None),
        ("KSR.lab.number", (3,), False),
    ]


def test_a_call_that_nobody_watches_any_more_runs_what_it_ran_before() -> None:
    bound = Bound()
    number, block = bound.number, bound.block
    before = [(one.__code__, one.__globals__["function"], one.__globals__["drive"]) for one in (number, block)]
    calls: list[Call] = []
    watcher = recorder(calls)
    for _ in range(100):
        bound.probes.watch(watcher)
        assert (number(1), block("B")) == (1, 1)
        bound.probes.unwatch(watcher)
        assert (number(2), block("B")) == (2, 1)
        after = [(one.__code__, one.__globals__["function"], one.__globals__["drive"]) for one in (number, block)]
        assert after == before
    assert len(calls) == 200


def test_functions_that_are_bound_while_somebody_watches_are_watched_and_each_watcher_by_itself() -> None:
    bound = Bound()
    bound.watch()
    number = bound.number
    other: list[Call] = []
    watcher = recorder(other)
    bound.probes.watch(watcher)
    number(1)
    bound.probes.unwatch(watcher)
    number(2)
    assert [call.arguments for call in bound.calls] == [(1,), (2,)]
    assert [call.arguments for call in other] == [(1,)]


def test_a_watcher_is_told_why_a_call_failed_and_where_it_stands() -> None:
    bound = Bound()
    seen: list[tuple[str, str, Any, str]] = []

    def watcher(export: Any, _ctx: Any, _arguments: tuple[Any, ...], where: Callable[[], str]) -> Any:
        at = where()
        return lambda result, error: seen.append((export.name, at, result, repr(error)))

    bound.probes.watch(watcher)
    bound.probes.watch(lambda *call: None)  # who is not interested hears of no end
    bound.number("x")
    bound.refuse("x")
    with pytest.raises(ZeroDivisionError):
        bound.broken()
    strict = Bound(strict=True)
    strict.probes.watch(watcher)
    with pytest.raises(Misuse):
        strict.number("x")
    assert [(name, at, result) for name, at, result, _ in seen] == [
        ("number", "x.lua:12", False),
        ("refuse", "x.lua:12", -1),
        ("broken", "x.lua:12", None),
        ("number", "x.lua:12", None),
    ]
    assert "expected an integer" in seen[0][3]
    assert "ZeroDivisionError" in seen[2][3]
    assert seen[3][3].startswith("Misuse")


def test_calls_and_errors_are_counted_for_who_wants_that() -> None:
    bound = Bound()
    bound.number(1)
    assert bound.probes.tallies == {}
    bound.probes = Probes(counting=True)
    number = bound.number
    for argument in (1, 2, "x"):
        number(argument)
    bound.refuse("x")
    bound.in_branch()
    with pytest.raises(ZeroDivisionError):
        bound.broken()
    with pytest.raises(Exit):
        bound.get("KSR.x.exit")()
    counts = {path: (tally.calls, tally.errors) for path, tally in bound.probes.tallies.items()}
    assert counts == {
        "KSR.lab.number": (3, 1),
        "KSR.lab.refuse": (1, 1),
        "KSR.lab.in_branch": (1, 1),
        "KSR.lab.broken": (1, 1),
        "KSR.x.exit": (1, 0),
    }


def test_an_unknown_engine_is_a_usage_error() -> None:
    host = Host(Registry([Core()]), Current(), drive=lambda _: None)
    with pytest.raises(UsageError, match="unknown engine 'ruby': expected lua, js, python"):
        make_engine("ruby", host)
