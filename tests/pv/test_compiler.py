"""Names and format strings: what compiles, what is kept, what never happens."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polykemi.kemi.registry import Xval
from polykemi.pv.accessor import Accessor
from polykemi.pv.compiler import Variables
from tests import support

MESSAGE = support.message(
    "INVITE sip:bob@example.test SIP/2.0",
    "X-A: one",
    "X-A: two",
    from_="Alice <sip:alice@example.test>;tag=f",
    body="hello",
)


def read(name: str, variables: Variables | None = None) -> Xval:
    return (variables or Variables()).getters[name](support.request_context(MESSAGE))


def put(variables: Variables, name: str, value: Xval) -> bool:
    accessor = variables.compile(name)
    assert accessor is not None
    assert accessor.set is not None
    return accessor.set(support.request_context(MESSAGE), value)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "$",
        "ru",
        " $ru",
        "$ru ",
        "$ru$rd",
        "$nosuch",
        "$(ru",
        "$(ru}",
        "$(ru[0])",
        "$ru(x)",
        "$hdr",
        "$Tb(x)",
        "$(fs[0])",
        "$hdr()",
        "$hdr(a b)",
        "$hdr($rm x)",
        "$(hdr(x)[a])",
        "$time",
        "$time(century)",
        "$(time(hour)[0])",
        "$avp(x:y)",
        "$avp(i:x)",
        "$xavp(=>b)",
        "$xavp(a[0=>b)",
        "$(xavp(a)[0])",
        "$xavu(a[0])",
        "$cnt(avp)",
        "$cnt($ru)",
        "$cnt($hdr(x))",
        "$cnt($avp(x)y)",
        "$T_req(ru)",
        "$T_req($ru x)",
        "$Mf(32)",
        "$Mf(x)",
        "$expires(avg)",
        "$rdir(up)",
        "$HN(x)",
        "$version(x)",
        "$ksr(x)",
        "$branch(color)",
        "$sbranch(count)",
        "$pcv(x)",
        "$C(zz)",
        "$(ai(x))",
        "$_s($nosuch)",
        "$(ru{nosuch})",
        "$(ru{s.len,1})",
        "$(ru{s.substr,1})",
        "$(ru{s.substr,a,b})",
        "$(ru{s.strip,$nosuch})",
        "$(ru{s.count,ab})",
        "$(ru{s.select,$sp,ab})",
        "$(ru{s.len)",
        "$(ru{s.strip,1)",
        "$(ru{})",
    ],
)
def test_a_bad_name_is_null_and_logged_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    variables = Variables()
    assert variables.compile(name) is None
    assert variables.compile(name) is None
    assert read(name, variables) is None
    assert len([r for r in caplog.records if r.name == "polykemi.pv"]) == 1


@given(st.text(st.characters(max_codepoint=255), max_size=60))
def test_any_text_compiles_or_is_refused(text: str) -> None:
    logging.getLogger("polykemi.pv").disabled = True
    try:
        variables = Variables()
        for name in (text, "$" + text, f"$({text})", f"$hdr({text})", f"$(ru{{{text}}})", f"$xavp({text})"):
            accessor = variables.compile(name)
            assert accessor is None or isinstance(accessor, Accessor)
            if accessor is not None:
                accessor.get(support.request_context(MESSAGE))
        try:
            expanded = variables.text(text)
        except ValueError:
            pass
        else:
            assert isinstance(expanded(support.request_context(MESSAGE)), str)
    finally:
        logging.getLogger("polykemi.pv").disabled = False


PIECES = st.sampled_from(
    [
        "$",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        "=>",
        "ru",
        "hdr",
        "avp",
        "xavp",
        "var",
        "s.len",
        "s.substr",
        "x",
        "-1",
        "*",
        "$rm",
    ]
)


@given(st.lists(PIECES, max_size=14).map("".join))
def test_what_looks_like_a_variable_compiles_or_is_refused(text: str) -> None:
    test_any_text_compiles_or_is_refused.hypothesis.inner_test(text)  # type: ignore[attr-defined]


def test_deep_nesting_is_refused_not_followed() -> None:
    assert Variables().compile("$avp(" * 500 + "x" + ")" * 500) is None
    assert Variables().compile("$(ru{s.rm," * 500 + "x" + "})" * 500) is None


def test_names_index_and_parameters_may_be_variables() -> None:
    variables = Variables()
    assert put(variables, "$var(name)", "X-A")
    assert put(variables, "$var(i)", 1)
    assert put(variables, "$var(n)", 3)
    assert read("$hdr($var(name))", variables) == "one"
    assert read("$(hdr($var(name))[$var(i)])", variables) == "two"
    assert read("$(hdr(X-A)[$var(i)])", variables) == "two"
    assert read("$(hdr(X-A)[$rm])", variables) is None
    assert read("$hdr($null)", variables) is None
    assert read("$hdrc($null)", variables) is None
    assert read("$(ru{s.substr,0,$var(n)})", variables) == "sip"
    assert read("$(ru{s.substr,$(rm{s.len}),3})", variables) == "b@e"
    assert read("$(ru{s.substr,$null,3})", variables) is None
    assert read("$(ru{s.rm,$null})", variables) is None
    assert read("$(null{s.rm,$rm})", variables) is None


def test_a_separator_may_be_the_parameter() -> None:
    variables = Variables()
    assert put(variables, "$var(x)", "a,b}c d")
    assert read("$(var(x){s.select,1,,})", variables) == "b}c d"
    assert read("$(var(x){s.before,}})", variables) == "a,b"
    assert read("$(var(x){s.after, })", variables) == "d"
    assert read(r"$(var(x){s.after,\s})", variables) == "d"


def test_text_expands_variables_and_keeps_the_rest() -> None:
    ctx = support.request_context(MESSAGE)
    variables = Variables()
    assert variables.text("plain")(ctx) == "plain"
    assert variables.text("")(ctx) == ""
    assert variables.text("$rm")(ctx) == "INVITE"
    assert variables.text("$sp")(ctx) == "5060"
    assert variables.text("$rm to $rU, $du, 5$$, $(ru{s.len})!")(ctx) == "INVITE to bob, <null>, 5$, 20!"
    assert variables.text("$rm to $rU") is variables.text("$rm to $rU")
    for bad in ("costs 5$", "$nosuch", "a $(ru"):
        with pytest.raises(ValueError):
            variables.text(bad)


def test_the_oldest_names_go_when_there_are_too_many(caplog: pytest.LogCaptureFixture) -> None:
    variables = Variables(limit=10)
    kept = variables.compile("$var(0)")
    for i in range(50):
        assert variables.getters[f"$var({i})"](support.request_context(MESSAGE)) == 0
        variables.text(f"$var({i})!")
    assert len(variables.getters) <= 10
    assert variables.compile("$var(0)") is not kept
    assert variables.compile("$var(49)") is variables.compile("$var(49)")
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1


def test_with_action_1_names_go_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    variables = Variables(limit=2, action=1)
    for i in range(9):
        variables.compile(f"$var({i})")
    assert not caplog.records


def test_classes_of_modules_are_added_and_win() -> None:
    variables = Variables()
    assert read("$si", variables) == "192.0.2.10"
    assert variables.problem("$sht(a=>b)") is not None
    variables.add(
        {"sht": lambda inner, index, v: Accessor(v.text(inner or "")), "si": lambda *_: Accessor(lambda ctx: 7)}
    )
    assert read("$sht(a=>$rU@$fd)", variables) == "a=>bob@example.test"
    assert read("$si", variables) == 7
