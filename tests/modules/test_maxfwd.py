"""maxfwd: what of Max-Forwards goes to the next hop."""

from __future__ import annotations

import pytest

from polykemi.modules.maxfwd import MaxFwd, Params
from tests.support import message, request_context, services


def process(*headers: str, limit: int = 10) -> tuple[int, list[str]]:
    ctx = request_context(message("INVITE sip:bob@example.test SIP/2.0", *headers))
    result = MaxFwd(services()).process_maxfwd(ctx, limit)
    lines = ctx.edits.apply(ctx.message.lines)
    return result, [line for line in lines if line.startswith("Max-Forwards")]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (["Max-Forwards: 70"], (1, ["Max-Forwards: 69"])),
        (["Max-Forwards: 1"], (1, ["Max-Forwards: 0"])),
        (["Max-Forwards: 0"], (-1, ["Max-Forwards: 0"])),
        (["Max-Forwards: abc"], (-2, ["Max-Forwards: abc"])),
        (["Max-Forwards: 99999999999999999999"], (-2, ["Max-Forwards: 99999999999999999999"])),
        (["Max-Forwards: 300"], (1, ["Max-Forwards: 70"])),  # max_limit
        ([], (2, ["Max-Forwards: 10"])),
    ],
)
def test_max_forwards_is_counted_down_or_added(headers: list[str], expected: tuple[int, list[str]]) -> None:
    assert process(*headers) == expected


def test_a_second_call_counts_down_again_but_adds_no_second_header() -> None:
    module = MaxFwd(services())
    there = request_context(message("INVITE sip:bob@example.test SIP/2.0", "Max-Forwards: 70"))
    missing = request_context(message("INVITE sip:bob@example.test SIP/2.0"))
    assert [module.process_maxfwd(there, 10), module.process_maxfwd(there, 10)] == [1, 1]
    assert [module.process_maxfwd(missing, 10), module.process_maxfwd(missing, 10)] == [2, 2]
    assert "Max-Forwards: 68" in there.edits.apply(there.message.lines)
    assert missing.edits.apply(missing.message.lines).count("Max-Forwards: 10") == 1


@pytest.mark.parametrize(("header", "results"), [("5", (-1, 1)), ("x", (-3, -3)), (None, (-2, -2))])
def test_is_maxfwd_lt_compares_what_goes_out(header: str | None, results: tuple[int, int]) -> None:
    headers = [f"Max-Forwards: {header}"] if header else []
    ctx = request_context(message("INVITE sip:bob@example.test SIP/2.0", *headers))
    module = MaxFwd(services())
    assert (module.is_maxfwd_lt(ctx, 5), module.is_maxfwd_lt(ctx, 6)) == results


def test_the_limit_is_a_parameter() -> None:
    ctx = request_context(message("INVITE sip:bob@example.test SIP/2.0", "Max-Forwards: 70"))
    module = MaxFwd(services(), Params(max_limit=20))
    module.process_maxfwd(ctx, 10)
    assert module.is_maxfwd_lt(ctx, 21) == 1
    assert "Max-Forwards: 20" in ctx.edits.apply(ctx.message.lines)
