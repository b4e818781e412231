"""KSR.hdr: what is read, and what the next hop or the reply gets."""

from __future__ import annotations

import pytest

from polykemi.kemi.context import RouteContext
from polykemi.modules.hdr import Hdr
from polykemi.sip.build import forward_request
from polykemi.sip.message import Request
from tests.support import message, request_context, services


@pytest.fixture
def hdr() -> Hdr:
    module = services(Hdr).modules["hdr"]
    assert isinstance(module, Hdr)
    return module


@pytest.fixture
def ctx() -> RouteContext:
    return request_context(
        message("INVITE sip:bob@example.test SIP/2.0", "X-A: one", "x-a: two", "m: <sip:a@b>", "X-A: three", "X-E:")
    )


def sent(ctx: RouteContext) -> list[str]:
    """Return the header lines that the next hop gets."""
    assert isinstance(ctx.message, Request)
    data = forward_request(ctx.message, ctx.edits, uri=ctx.ruri, via="us")
    lines = data.decode("latin-1").partition("\r\n\r\n")[0].split("\r\n")[1:]
    lines.remove("Via: us")
    return lines


def test_headers_are_added_where_asked(hdr: Hdr, ctx: RouteContext) -> None:
    assert hdr.append(ctx, "X-New: 1\r\n") == 1
    assert hdr.append(ctx, "X-New: 2\r\nX-More: 3\r\n") == 1
    assert hdr.append(ctx, "X-Bare: no line end") == 1
    assert hdr.insert(ctx, "X-First: f\r\n") == 1
    assert hdr.append_after(ctx, "X-After: a\r\n", "x-A") == 1
    assert hdr.insert_before(ctx, "X-Before: b\r\n", "X-A") == 1
    assert hdr.append_after(ctx, "X-Nowhere: a\r\n", "Nope") == 1
    assert hdr.insert_before(ctx, "X-Top: b\r\n", "Nope") == 1
    lines = sent(ctx)
    assert lines[:2] == ["X-First: f", "X-Top: b"]
    at = lines.index("X-A: one")
    assert lines[at - 1 : at + 3] == ["X-Before: b", "X-A: one", "X-After: a", "x-a: two"]
    assert lines[-5:] == ["X-New: 1", "X-New: 2", "X-More: 3", "X-Bare: no line end", "X-Nowhere: a"]


def test_headers_are_removed_in_any_case_and_form(hdr: Hdr, ctx: RouteContext) -> None:
    assert hdr.remove(ctx, "x-a") == 1
    assert hdr.remove(ctx, "Contact") == 1
    assert hdr.remove(ctx, "nope") == 1
    assert hdr.remove(ctx, "") == -1
    assert not [line for line in sent(ctx) if line.lower().startswith(("x-a", "m:"))]


def test_removal_and_addition_in_one(hdr: Hdr, ctx: RouteContext) -> None:
    assert hdr.rmappend(ctx, "X-A", "X-A: new\r\n") == 1
    assert hdr.rminsert(ctx, "m", "Contact: <sip:us>\r\n") == 1
    assert hdr.rmappend(ctx, "", "X: 1\r\n") == -1
    assert hdr.rminsert(ctx, "", "X: 1\r\n") == -1
    lines = sent(ctx)
    assert lines[0] == "Contact: <sip:us>"
    assert [line for line in lines if line.lower().startswith("x-a:")] == ["X-A: new"]


@pytest.mark.parametrize(
    "text", ["", "no colon\r\n", "A: 1\r\n\r\nbody", "A: 1\r\nno colon", ": x", "A b: 1", "A: 1\rB", "A\xe4: 1"]
)
def test_text_that_is_no_header_is_refused(hdr: Hdr, ctx: RouteContext, text: str) -> None:
    assert hdr.append(ctx, text) == -1
    assert hdr.append_to_reply(ctx, text) == -1
    assert not ctx.edits
    assert not ctx.reply_headers


def test_folded_and_several_lines_are_headers(hdr: Hdr, ctx: RouteContext) -> None:
    assert hdr.append_to_reply(ctx, "A: 1\r\n 2\r\nB: \xff\r\n") == 1
    assert ctx.reply_headers == ["A: 1\r\n 2\r\nB: \xff"]


def test_reading_is_of_the_message_as_it_came(hdr: Hdr, ctx: RouteContext) -> None:
    hdr.remove(ctx, "X-A")
    hdr.append(ctx, "X-New: 1\r\n")
    assert (hdr.is_present(ctx, "X-A"), hdr.is_present(ctx, "contact"), hdr.is_present(ctx, "X-New")) == (1, 1, -1)
    assert (hdr.get(ctx, "X-A"), hdr.gete(ctx, "X-A"), hdr.getw(ctx, "X-A")) == ("one", "one", "one")
    assert (hdr.get(ctx, "no"), hdr.gete(ctx, "no"), hdr.getw(ctx, "no")) == (None, "", "<null>")
    assert (hdr.get(ctx, "X-E"), hdr.getw(ctx, "X-E")) == ("", "")
    assert [hdr.get_idx(ctx, "X-A", i) for i in (0, 1, 2, 3, -1, -3, -4)] == [
        "one",
        "two",
        "three",
        None,
        "three",
        "one",
        None,
    ]
    assert (hdr.gete_idx(ctx, "X-A", 7), hdr.getw_idx(ctx, "X-A", 7)) == ("", "<null>")
    assert (hdr.gete_idx(ctx, "X-A", 1), hdr.getw_idx(ctx, "X-A", 1)) == ("two", "two")


@pytest.mark.parametrize(
    ("operator", "which", "true", "false"),
    [
        ("eq", "f", ["one", "ONE"], ["two", "on"]),
        ("eq", "l", ["three"], ["one"]),
        ("eq", "a", [], ["one"]),
        ("eq", "o", ["one", "two", "three"], ["four"]),
        ("ne", "f", ["two"], ["one"]),
        ("ne", "a", ["t", "four"], ["one"]),
        ("ne", "o", ["one"], []),
        ("sw", "f", ["o", "one"], ["t"]),
        ("sw", "o", ["t", "o"], ["h"]),
        ("in", "l", ["hre", "HRE"], ["one"]),
        ("re", "o", ["^t.o$", "E$"], ["^x", "("]),
        ("co", "o", [], ["one"]),
        ("eq", "x", [], ["one"]),
        ("eq", "", [], ["one"]),
    ],
)
def test_contents_are_matched_without_case(
    hdr: Hdr, ctx: RouteContext, operator: str, which: str, true: list[str], false: list[str]
) -> None:
    assert [value for value in true + false if hdr.match_content(ctx, "X-A", operator, value, which)] == true


def test_a_header_that_is_not_there_matches_nothing(hdr: Hdr, ctx: RouteContext) -> None:
    assert not hdr.match_content(ctx, "nope", "ne", "x", "a")
