"""One declaration is all: what an export's signature says, and what a declaration must not be."""

from __future__ import annotations

import random

import pytest

from polykemi.kemi.context import Process, RouteContext
from polykemi.kemi.ids import Ids
from polykemi.kemi.registry import Param, Registry, Xval, export, exports_of
from polykemi.kemi.route import Route


class Lab:
    """A module."""

    name = "lab"

    @export(routes=Route.REQUEST, constant=True)
    def weigh(self, ctx: RouteContext, what: str, times: int) -> Xval:
        """Weigh something."""
        return what * times

    @export(name="exec")
    def exec_(self, ctx: RouteContext) -> Process[int]:
        """Run a block."""
        yield ctx
        return 1


def test_the_signature_is_the_row() -> None:
    row, attribute = exports_of(Lab)["weigh"]
    assert str(row) == "KSR.lab.weigh(str, int) -> xval"
    assert row.params == (Param("what", "str"), Param("times", "int"))
    assert (row.routes, row.constant, row.is_process, row.doc, attribute) == (
        Route.REQUEST,
        True,
        False,
        "Weigh something.",
        "weigh",
    )


def test_a_process_has_the_type_that_it_ends_with_and_a_name_of_its_own() -> None:
    row, attribute = exports_of(Lab)["exec"]
    assert str(row) == "KSR.lab.exec() -> int"
    assert (row.is_process, attribute) == (True, "exec_")


def test_a_registry_finds_a_function_by_its_path() -> None:
    registry = Registry([Lab()])
    found = registry.get("KSR.lab.weigh")
    assert found is not None
    assert found[1](None, "ab", 2) == "abab"
    assert registry.get("KSR.lab.nothing") is None
    assert len(registry) == len(list(registry)) == 2


def test_two_modules_cannot_export_the_same_function() -> None:
    with pytest.raises(TypeError, match=r"KSR\.lab\.(weigh|exec) is exported twice"):
        Registry([Lab(), Lab()])


def test_a_declaration_that_kemi_cannot_hold_is_refused() -> None:
    class NoWords:
        name = "a"

        @export()
        def f(self, ctx: RouteContext) -> int:  # type: ignore[empty-body]  # no docstring: that is the point
            ...

    class WrongParam:
        name = "b"

        @export()
        def f(self, ctx: RouteContext, x: float) -> int:
            """Take a float."""
            return int(x)

    class WrongResult:
        name = "c"

        @export()
        def f(self, ctx: RouteContext) -> float:
            """Give a float."""
            return 0.5

    class Taken:
        name = "d"

        @export()
        def f(self, ctx: RouteContext) -> int:
            """Do it."""
            return 1

        @export(name="f")
        def g(self, ctx: RouteContext) -> int:
            """Do it as well."""
            return 1

    for declared, cause in (
        (NoWords, "needs a docstring"),
        (WrongParam, "parameter x must be int or str"),
        (WrongResult, "return type must be"),
        (Taken, "the name f is taken"),
    ):
        with pytest.raises(TypeError, match=cause):
            exports_of(declared)


def test_two_servers_do_not_make_the_same_identifiers_and_two_with_the_same_seed_do() -> None:
    assert Ids().branch() != Ids().branch()
    one, other = Ids(random.Random(7)), Ids(random.Random(7))
    assert (one.branch(), one.tag(), one.unique(), one.secret) == (
        other.branch(),
        other.tag(),
        other.unique(),
        other.secret,
    )
    assert one.branch().startswith("z9hG4bK")
