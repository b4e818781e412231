"""$avp, $xavp, $xavi, $xavu and $cnt: as scripts in Kamailio see them."""

from __future__ import annotations

import pytest

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval
from polykemi.pv.compiler import Variables
from tests import support

VARIABLES = Variables()


@pytest.fixture
def ctx() -> RouteContext:
    return support.request_context(support.message("INVITE sip:bob@h.test SIP/2.0"))


def put(ctx: RouteContext, name: str, value: Xval) -> bool:
    accessor = VARIABLES.compile(name)
    assert accessor is not None
    assert accessor.set is not None
    return accessor.set(ctx, value)


def read(ctx: RouteContext, name: str) -> Xval:
    return VARIABLES.getters[name](ctx)


def test_an_avp_is_a_stack_of_values(ctx: RouteContext) -> None:
    for value in (1, "two", 3):
        assert put(ctx, "$avp(x)", value)
    assert [read(ctx, n) for n in ("$avp(x)", "$(avp(x)[1])", "$(avp(x)[2])", "$(avp(x)[3])", "$(avp(x)[-1])")] == [
        3,
        "two",
        1,
        None,
        None,
    ]
    assert read(ctx, "$(avp(x)[*])") == "3, two, 1"
    assert read(ctx, "$cnt($avp(x))") == 3
    assert put(ctx, "$(avp(x)[1])", "pushed")
    assert read(ctx, "$(avp(x)[*])") == "pushed, 3, two, 1"
    assert put(ctx, "$avp(x)", None)
    assert put(ctx, "$(avp(x)[1])", None)
    assert put(ctx, "$(avp(x)[7])", None)
    assert read(ctx, "$(avp(x)[*])") == "3, 1"
    assert put(ctx, "$(avp(x)[*])", "only")
    assert read(ctx, "$(avp(x)[*])") == "only"
    assert put(ctx, "$(avp(x)[0])", None)
    assert put(ctx, "$avp(x)", None)
    assert put(ctx, "$(avp(x)[*])", None)
    assert ctx.shared.avps == {}


def test_avp_names_have_kinds_and_may_be_variables(ctx: RouteContext) -> None:
    assert put(ctx, "$avp(s:x)", "a")
    assert put(ctx, "$avp(i:05)", "b")
    assert read(ctx, "$avp(x)") == "a"
    assert read(ctx, "$avp(i:5)") == "b"
    assert put(ctx, "$var(n)", "x")
    assert read(ctx, "$avp($var(n))") == "a"
    assert put(ctx, "$avp($var(n))", "c")
    assert read(ctx, "$(avp($var(n))[1])") == "a"
    assert put(ctx, "$avp($var(n))", None)
    assert read(ctx, "$avp(x)") == "a"
    assert put(ctx, "$var(n)", 5)
    assert read(ctx, "$avp($var(n))") == "b"
    assert put(ctx, "$var(n)", "i:x")
    assert read(ctx, "$avp($var(n))") is None
    assert not put(ctx, "$avp($null)", "x")
    assert put(ctx, "$avp(s:x)", None)
    assert put(ctx, "$avp(i:5)", None)


def test_an_xavp_is_a_stack_of_items_with_fields(ctx: RouteContext) -> None:
    assert put(ctx, "$xavp(a=>b)", 1)
    assert put(ctx, "$xavp(a=>c)", "cc")
    assert [read(ctx, f"$xavp({x})") for x in ("a=>b", "a=>c", "a[0]=>c", "a[1]=>b", "a[-1]=>b", "a[2]=>b")] == [
        None,
        "cc",
        "cc",
        1,
        1,
        None,
    ]
    assert put(ctx, "$xavp(a[0]=>d)", "first")
    assert put(ctx, "$xavp(a[0]=>d)", "second")
    assert put(ctx, "$xavp(a[0]=>d[0])", "SECOND")
    assert [read(ctx, f"$xavp(a[0]=>d[{i}])") for i in (0, 1, 2)] == ["SECOND", "first", None]
    assert put(ctx, "$var(i)", 1)
    assert read(ctx, "$xavp(a[0]=>d[$var(i)])") == "first"
    assert not put(ctx, "$xavp(a[0]=>d[9])", "x")
    assert read(ctx, "$xavp(a)") == "<<xavp:a>>"
    assert read(ctx, "$xavp(a[*])") is None
    counts = {
        x: read(ctx, f"$cnt($xavp({x}))") for x in ("a", "a[*]", "a[0]", "a[9]", "a=>b", "a[0]=>d", "a[0]=>d[1]", "no")
    }
    assert counts == {"a": 2, "a[*]": 2, "a[0]": 1, "a[9]": 0, "a=>b": 1, "a[0]=>d": 2, "a[0]=>d[1]": 1, "no": 0}


def test_an_xavp_may_be_a_plain_value(ctx: RouteContext) -> None:
    assert put(ctx, "$xavp(s)", 5)
    assert put(ctx, "$xavp(s)", "six")
    assert [read(ctx, f"$xavp({x})") for x in ("s", "s[1]", "s[2]", "s=>x")] == ["six", 5, None, None]
    assert not put(ctx, "$xavp(s[0]=>k)", "v")
    assert put(ctx, "$xavp(s[1])", "five")
    assert read(ctx, "$xavp(s[1])") == "five"
    assert not put(ctx, "$xavp(s[7])", "x")
    assert put(ctx, "$xavp(s[*])", "all")
    assert ctx.shared.xavps == {"s": [{"": ["all"]}]}


def test_an_item_that_is_not_there_is_passed_over(ctx: RouteContext) -> None:
    assert put(ctx, "$xavp(q[5]=>z)", "1")
    assert put(ctx, "$xavp(q[0]=>z)", "1")
    assert put(ctx, "$xavp(q=>z)", None)
    assert not put(ctx, "$xavp(q[5])", "1")
    assert read(ctx, "$xavp(q)") is None


def test_fields_and_items_are_removed(ctx: RouteContext) -> None:
    for value in ("old", "new"):
        assert put(ctx, "$xavp(a=>x)", value)
    assert put(ctx, "$xavp(a[0]=>d)", 1)
    assert put(ctx, "$xavp(a[0]=>d)", 2)
    assert put(ctx, "$xavp(a[0]=>d)", None)
    assert read(ctx, "$xavp(a[0]=>d)") == 1
    assert put(ctx, "$xavp(a[0]=>d[9])", None)
    assert put(ctx, "$xavp(a[0]=>d[*])", None)
    assert read(ctx, "$xavp(a[0]=>d)") is None
    assert put(ctx, "$xavp(a[0]=>e[*])", 3)
    assert read(ctx, "$xavp(a=>e)") == 3
    assert put(ctx, "$xavp(a[0])", None)
    assert read(ctx, "$xavp(a=>x)") == "old"
    assert put(ctx, "$xavp(a)", None)
    assert put(ctx, "$xavp(a)", None)
    assert put(ctx, "$xavp(a[*])", None)
    assert ctx.shared.xavps == {}


def test_an_xavi_ignores_case(ctx: RouteContext) -> None:
    assert put(ctx, "$xavi(Root=>Kk)", "i")
    assert read(ctx, "$xavi(root[0]=>kK)") == "i"
    assert read(ctx, "$cnt($xavi(ROOT))") == 1


def test_an_xavu_has_one_value(ctx: RouteContext) -> None:
    assert put(ctx, "$xavu(u)", 1)
    assert put(ctx, "$xavu(u)", "2")
    assert read(ctx, "$xavu(u)") == "2"
    assert put(ctx, "$xavu(u=>x)", 3)
    assert put(ctx, "$xavu(u=>x)", 4)
    assert ctx.shared.xavus == {"u": [{"x": [4]}]}
    assert put(ctx, "$xavu(w=>x)", "wx")
    assert read(ctx, "$xavu(w=>x)") == "wx"
    assert put(ctx, "$xavu(w=>x)", None)
    assert read(ctx, "$xavu(w=>x)") is None
    assert put(ctx, "$xavu(u)", None)
    assert read(ctx, "$xavu(u)") is None
    assert read(ctx, "$cnt($xavu(u))") == 0
