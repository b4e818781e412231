"""textopsx: what the cases of the conformance suite cannot show: bad input, iterators across messages."""

from __future__ import annotations

import pytest

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.modules.textopsx import TextOpsX
from polykemi.sip.message import Request
from polykemi.transaction.forking import Transaction
from polykemi.transaction.machine import Timings
from tests.support import message, request_context, services


def run(text: str = "OPTIONS sip:bob@example.test SIP/2.0\nX-One: a, b\nX-Two: c") -> tuple[TextOpsX, RouteContext]:
    return services(TextOpsX).modules["textopsx"], request_context(message(text))


@pytest.mark.parametrize("text", ["no message", "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h\r\n\r\n", " \r\n\r\n"])
def test_what_is_no_such_message_leaves_the_old_one(text: str, caplog: pytest.LogCaptureFixture) -> None:
    module, ctx = run()
    before = ctx.message
    assert module.msg_set_buffer(ctx, text) == 0
    assert ctx.message is before
    assert "the old one stays" in caplog.text


def test_a_message_that_is_too_long_is_refused() -> None:
    module, ctx = run()
    assert module.msg_set_buffer(ctx, "OPTIONS sip:x SIP/2.0\r\nX: " + "x" * 70000 + "\r\n\r\n") == -1


def test_the_transaction_takes_the_new_message() -> None:
    module, ctx = run()
    request = ctx.message
    assert isinstance(request, Request)
    path = ("", 0, ctx.flow)
    ctx.transaction = Transaction("key", request, ctx.flow, path, Timings(), ctx.shared, ctx.now)
    ctx.edits.removed.add(request.names.index("x-two"))
    assert module.msg_apply_changes(ctx) == 1
    assert ctx.transaction.request is ctx.message
    assert not ctx.transaction.request.has("x-two")
    assert ctx.transaction.raw == ctx.message.raw


def test_an_iterator_of_another_message_is_before_the_first_header() -> None:
    module, ctx = run()
    assert module.hf_iterator_start(ctx, "i") == 1
    assert module.hf_iterator_next(ctx, "i") == 1
    other = request_context(message("OPTIONS sip:bob@example.test SIP/2.0\nY: 1"))
    assert module.hf_iterator_hname(other, "i") is None
    assert module.hf_iterator_next(other, "i") == 1
    assert module.hf_iterator_hname(other, "i") is not None


@pytest.mark.parametrize(
    ("function", "expression"),
    [
        ("append_hf_value", "X-Three"),
        ("append_hf_value", "X-One[1]"),
        ("insert_hf_value", "X-One[2]"),
        ("assign_hf_value", "X-One"),
        ("assign_hf_value", "X-One[2].p"),
        ("assign_hf_value2", "X-Two.p"),
        ("include_hf_value", "X-One"),
    ],
)
def test_a_value_begins_no_other_header(function: str, expression: str) -> None:
    module, ctx = run()
    with pytest.raises(ParseError):
        getattr(module, function)(ctx, expression, "x\r\nX-Four: y")
    assert not ctx.edits


def test_a_reply_status_is_changed_in_replies_only() -> None:
    module, ctx = run()
    assert module.change_reply_status(ctx, 200, "OK") == -1


@pytest.mark.parametrize("body", ['"unclosed', "(comment)", 'a="x', ",,;;==", '"', "a b c (d"])
def test_hostile_values_end(body: str) -> None:
    module, ctx = run(f"OPTIONS sip:bob@example.test SIP/2.0\nX: {body}")
    for expression in ("X[1].a", "X[*].a", "X[-1]", "X"):
        module.assign_hf_value(ctx, expression, "v")
        module.assign_hf_value2(ctx, expression, "v")
        module.remove_hf_value(ctx, expression)
        module.remove_hf_value2(ctx, expression, "")
