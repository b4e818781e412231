"""x: how a script ends its route block."""

from __future__ import annotations

import pytest

from polykemi.kemi.context import Exit
from polykemi.modules.x import X
from tests.support import message, request_context, services


def test_exit_ends_the_route_block_and_drops_nothing() -> None:
    ctx = request_context(message("OPTIONS sip:example.test SIP/2.0"))
    x = X(services())
    with pytest.raises(Exit):
        x.exit_(ctx)
    assert not ctx.dropped


def test_drop_marks_what_is_routed_as_dropped_and_ends_the_route_block() -> None:
    ctx = request_context(message("OPTIONS sip:example.test SIP/2.0"))
    x = X(services())
    with pytest.raises(Exit):
        x.drop(ctx)
    assert ctx.dropped
