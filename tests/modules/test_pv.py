"""KSR.pv and KSR.pvx: null rules, types, refusals."""

from __future__ import annotations

import logging

import pytest

from polykemi.kemi.context import RouteContext
from polykemi.modules.pv import Pv
from polykemi.modules.pvx import Pvx
from polykemi.modules.rr import Rr
from tests.support import message, request_context, services


@pytest.fixture
def ctx() -> RouteContext:
    return request_context(message("INVITE sip:bob@example.test SIP/2.0", "X-N: 12abc"))


@pytest.fixture
def pv() -> Pv:
    module = services(Pv).modules["pv"]
    assert isinstance(module, Pv)
    return module


@pytest.fixture
def pvx() -> Pvx:
    module = services(Pvx).modules["pvx"]
    assert isinstance(module, Pvx)
    return module


def test_null_is_given_as_each_getter_says(pv: Pv, ctx: RouteContext) -> None:
    for name in ("$du", "bad name"):
        assert pv.get(ctx, name) is None
        assert pv.getw(ctx, name) == "<null>"
        assert pv.gete(ctx, name) == ""
        assert pv.geti(ctx, name) == 0
        assert pv.getl(ctx, name) == 0
        assert pv.getvn(ctx, name, 3) == 3
        assert pv.getvs(ctx, name, "d") == "d"
        assert pv.is_null(ctx, name)


def test_values_keep_their_type(pv: Pv, ctx: RouteContext) -> None:
    for name, value in (("$sp", 5060), ("$rU", "bob"), ("$cs", "1")):
        assert pv.get(ctx, name) == value
        assert pv.getw(ctx, name) == value
        assert pv.gete(ctx, name) == value
        assert pv.getvn(ctx, name, 3) == value
        assert pv.getvs(ctx, name, "d") == value
        assert not pv.is_null(ctx, name)
    assert pv.geti(ctx, "$sp") == 5060
    assert pv.geti(ctx, "$cs") == 1


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("-12", -12),
        ("+5", 5),
        ("12abc", 12),
        ("0x10", 0),
        (" 12", 0),
        ("abc", 0),
        ("99999999999", 2147483647),
        ("-99999999999", -2147483648),
    ],
)
def test_geti_reads_the_number_at_the_start(pv: Pv, ctx: RouteContext, text: str, number: int) -> None:
    assert pv.sets(ctx, "$var(n)", text)
    assert pv.geti(ctx, "$var(n)") == number


def test_variables_are_set_and_unset(pv: Pv, ctx: RouteContext) -> None:
    assert pv.sets(ctx, "$avp(x)", "a")
    assert pv.seti(ctx, "$avp(x)", 1)
    assert pv.setl(ctx, "$avp(x)", 1 << 40)
    assert pv.getl(ctx, "$avp(x)") == 1 << 40
    assert pv.unset(ctx, "$avp(x)")
    assert pv.get(ctx, "$avp(x)") == 1
    assert pv.sets(ctx, "$du", "sip:h")
    assert pv.unset(ctx, "$du")
    assert pv.is_null(ctx, "$du")


def test_what_is_read_only_stays_as_it_is(pv: Pv, ctx: RouteContext, caplog: pytest.LogCaptureFixture) -> None:
    source = pv.get(ctx, "$si")
    assert pv.sets(ctx, "$si", "203.0.113.1")
    assert pv.get(ctx, "$si") == source
    assert "$si is read-only" in caplog.text


@pytest.mark.parametrize("name", ["$nosuch", "$ru"])
def test_what_cannot_be_set_is_false_and_logged(
    pv: Pv, ctx: RouteContext, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert not pv.seti(ctx, name, 5)
    assert [r.levelno for r in caplog.records] == [logging.ERROR]


def test_the_cache_takes_its_limit_from_the_parameters(ctx: RouteContext) -> None:
    made = services(Pv, params={"pv": {"pv_cache_limit": 3, "pv_cache_action": 1}})
    pv = made.modules["pv"]
    for i in range(20):
        assert pv.get(ctx, f"$var({i})") == 0
    assert len(made.variables.getters) <= 3


# ---- pvx
def test_process_variables_without_a_name_to_compile(pvx: Pvx, ctx: RouteContext) -> None:
    getters = pvx.services.variables.getters
    assert pvx.var_get(ctx, "v") == 0
    assert pvx.var_sets(ctx, "v", "a") == 1
    assert getters["$var(v)"](ctx) == "a"
    assert pvx.var_seti(ctx, "v", 2) == 1
    assert pvx.var_get(ctx, "v") == 2
    assert pvx.shv_get(ctx, "v") == 0
    assert pvx.shv_seti(ctx, "v", 2) == 1
    assert pvx.shvinc_get(ctx, "v") == 3
    assert pvx.shv_sets(ctx, "v", "a") == 1
    assert getters["$shv(v)"](ctx) == "a"
    assert pvx.shvinc_get(ctx, "v") == 1


def test_avps_are_pushed_and_removed(pvx: Pvx, ctx: RouteContext) -> None:
    assert (pvx.avp_get(ctx, "x"), pvx.avp_gete(ctx, "x"), pvx.avp_getw(ctx, "x")) == (None, "", "<null>")
    assert pvx.avp_is_null(ctx, "x") == 1
    assert pvx.avp_rm(ctx, "x") == 1
    pvx.avp_seti(ctx, "x", 1)
    pvx.avp_sets(ctx, "x", "two")
    assert (pvx.avp_get(ctx, "x"), pvx.avp_gete(ctx, "x"), pvx.avp_getw(ctx, "x")) == ("two", "two", "two")
    assert pvx.avp_is_null(ctx, "x") == -1
    pvx.avp_rm(ctx, "x")
    assert pvx.services.variables.getters["$avp(x)"](ctx) == 1
    pvx.avp_rm(ctx, "x")
    assert ctx.shared.avps == {}


@pytest.mark.parametrize("kind", ["xavp", "xavi", "xavu"])
def test_extended_avps_by_name(pvx: Pvx, ctx: RouteContext, kind: str) -> None:
    def call(name: str, *args: int | str) -> int | str | None:
        result: int | str | None = getattr(pvx, f"{kind}_{name}")(ctx, *args)
        return result

    assert (call("get", "r"), call("gete", "r"), call("getw", "r")) == (None, "", "<null>")
    assert call("is_null", "r") == 1
    assert call("child_is_null", "r", "c") == 1
    assert call("rm", "r") == 1
    assert call("child_rm", "r", "c") == 1
    assert call("sets", "r", "v") == 1
    assert call("seti", "r", 7) == 1
    assert (call("get", "r"), call("gete", "r"), call("getw", "r")) == (7, 7, 7)
    assert call("is_null", "r") == -1
    assert call("child_sets", "r", "c", "x") == (1 if kind == "xavu" else -1)  # a plain XAVU gives way
    assert call("sets", "", "v") == call("child_sets", "", "c", "v") == -1
    assert call("child_sets", "n", "c", "x") == 1
    assert call("child_seti", "n", "c", 5) == 1
    assert call("child_sets", "n", "d", "y") == 1
    assert call("child_sets", "n", "", "y") == -1
    assert (call("child_get", "n", "c"), call("child_gete", "n", "d"), call("child_getw", "n", "e")) == (
        5,
        "y",
        "<null>",
    )
    assert call("child_gete", "n", "e") == ""
    assert call("child_is_null", "n", "c") == -1
    assert pvx.services.variables.getters[f"${kind}(n=>c)"](ctx) == 5
    call("child_rm", "n", "c")
    assert call("child_is_null", "n", "c") == 1
    call("rm", "r")
    assert call("get", "r") == ("v" if kind != "xavu" else None)


@pytest.mark.parametrize("kind", ["xavp", "xavi"])
def test_all_items_go_at_once(pvx: Pvx, ctx: RouteContext, kind: str) -> None:
    getattr(pvx, f"{kind}_sets")(ctx, "r", "1")
    getattr(pvx, f"{kind}_sets")(ctx, "r", "2")
    assert getattr(pvx, f"{kind}_rm_all")(ctx, "r") == 1
    assert getattr(pvx, f"{kind}_is_null")(ctx, "r") == 1


def test_xavi_names_ignore_case(pvx: Pvx, ctx: RouteContext) -> None:
    pvx.xavi_child_sets(ctx, "Root", "Key", "v")
    assert pvx.xavi_child_get(ctx, "rOOT", "kEY") == "v"


def test_formats_are_evaluated_into_a_variable(pvx: Pvx, ctx: RouteContext) -> None:
    assert pvx.evalx(ctx, "$var(e)", "a $rm b") == 1
    assert pvx.var_get(ctx, "e") == "a INVITE b"
    assert pvx.evalx(ctx, "$var(e)", "$nosuch") == -1
    assert pvx.evalx(ctx, "$si", "x") == -1
    assert pvx.evalx(ctx, "bad", "x") == -1


def test_parameter_lists_go_into_xavps_and_back(pvx: Pvx, ctx: RouteContext) -> None:
    getters = pvx.services.variables.getters
    assert pvx.xavp_params_explode(ctx, 'a=1; b ;c="x;y";;=z', "pp") == 1
    assert [getters[f"$xavp(pp=>{x})"](ctx) for x in "abc"] == ["1", "", "x;y"]
    assert pvx.xavp_params_implode(ctx, "pp", "$var(o)") == 1
    assert pvx.var_get(ctx, "o") == "a=1;b;c=x;y;"
    assert pvx.xavp_params_implode_qval(ctx, "pp", "$var(o)") == 1
    assert pvx.var_get(ctx, "o") == 'a="1";b="";c="x;y";'
    assert pvx.xavp_xparams_explode(ctx, "a=1&b=2", "&", "qq") == 1
    assert getters["$xavp(qq=>b)"](ctx) == "2"
    assert pvx.xavu_params_explode(ctx, "a=1;a=2", "u") == 1
    assert getters["$xavu(u=>a)"](ctx) == "2"
    assert pvx.xavu_params_implode(ctx, "u", "$var(o)") == 1
    assert pvx.var_get(ctx, "o") == "a=2;"
    assert pvx.xavp_params_explode(ctx, "", "x") == -1
    assert pvx.xavp_xparams_explode(ctx, "a=1", "&&", "x") == -1
    assert pvx.xavu_params_explode(ctx, "a=1", "") == -1
    assert pvx.xavp_params_implode(ctx, "nosuch", "$var(o)") == -1
    assert pvx.xavp_params_implode_qval(ctx, "nosuch", "$var(o)") == -1


def test_variables_and_xavps_are_copied_to_each_other(pvx: Pvx, ctx: RouteContext) -> None:
    pvx.var_sets(ctx, "a", "1")
    pvx.var_sets(ctx, "b", "2")
    assert pvx.pv_var_to_xavp(ctx, "a", "x") == 1
    assert ctx.shared.xavps["x"] == [{"a": ["1"]}]
    assert pvx.pv_var_to_xavp(ctx, "*", "x") == 1
    assert ctx.shared.xavps["x"] == [{"a": ["1"], "b": ["2"]}]
    assert pvx.pv_var_to_xavp(ctx, "nosuch", "x") == -1
    assert "x" not in ctx.shared.xavps
    pvx.xavp_child_sets(ctx, "x", "c", "3")
    assert pvx.pv_xavp_to_var(ctx, "x") == 1
    assert pvx.var_get(ctx, "c") == "3"
    assert pvx.pv_xavp_to_var(ctx, "nosuch") == -1


def test_items_are_copied_not_shared(pvx: Pvx, ctx: RouteContext) -> None:
    pvx.xavp_child_sets(ctx, "x", "c", "3")
    assert pvx.xavp_copy(ctx, "x", 0, "y") == 1
    pvx.xavp_child_sets(ctx, "x", "c", "4")
    assert pvx.xavp_child_get(ctx, "y", "c") == "3"
    assert pvx.xavp_copy_dst(ctx, "x", 0, "y", 0) == 1  # it is appended, whatever the place
    assert pvx.xavp_child_get(ctx, "y", "c") == "3"
    assert len(ctx.shared.xavps["y"]) == 2
    assert pvx.xavp_copy(ctx, "x", 5, "y") == -1
    assert pvx.xavp_copy(ctx, "x", 0, "") == -1
    assert pvx.xavp_copy_dst(ctx, "nosuch", 0, "y", 0) == -1


def test_the_stores_are_written_to_the_log(pvx: Pvx, ctx: RouteContext, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "polykemi.script")
    pvx.xavp_sets(ctx, "p", "in-xavp")
    pvx.xavu_sets(ctx, "u", "in-xavu")
    pvx.xavi_sets(ctx, "i", "in-xavi")
    assert pvx.pv_xavp_print(ctx) == pvx.pv_xavu_print(ctx) == pvx.pv_xavi_print(ctx) == 1
    assert [name in text for name, text in zip(("in-xavp", "in-xavu", "in-xavi"), caplog.messages, strict=True)] == [
        True
    ] * 3


def test_the_static_branch_becomes_a_target(pvx: Pvx, ctx: RouteContext) -> None:
    assert pvx.sbranch_set_ruri(ctx) == -1
    assert pvx.sbranch_append(ctx) == -1
    compile_ = pvx.services.variables.compile
    for name, value in (("uri", "sip:s@x"), ("dst_uri", "sip:d"), ("path", "<sip:p>"), ("flags", 4), ("ruid", "r")):
        accessor = compile_(f"$sbranch({name})")
        assert accessor is not None
        assert accessor.set is not None
        assert accessor.set(ctx, value)
    assert pvx.sbranch_set_ruri(ctx) == 1
    assert (ctx.ruri, ctx.dst_uri, ctx.path, ctx.bflags, ctx.ruid) == ("sip:s@x", "sip:d", "<sip:p>", 4, "r")
    assert pvx.sbranch_append(ctx) == 1
    assert pvx.sbranch_reset(ctx) == 1
    assert [target.uri for target in ctx.branches] == ["sip:s@x"]
    assert pvx.sbranch_append(ctx) == -1


def test_rdir_follows_loose_route() -> None:
    made = services(Rr)
    ctx = request_context(
        message(
            "BYE sip:a@192.0.2.9 SIP/2.0",
            "Route: <sip:192.0.2.1;lr;ftag=caller>",
            from_="<sip:b@b>;tag=callee",
            to="<sip:a@b>;tag=caller",
        )
    )
    assert made.variables.getters["$rdir(name)"](ctx) == "downstream"
    assert made.modules["rr"].loose_route(ctx) > 0
    assert made.variables.getters["$rdir(name)"](ctx) == "upstream"
