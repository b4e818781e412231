"""x: how a script ends its route block; signatures."""

from __future__ import annotations

from pathlib import Path

import pytest

from polykemi.kemi.context import Exit
from polykemi.modules.x import X, XParams
from polykemi.storage.provisioned import Database
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


def test_a_signature_holds_beyond_a_restart_and_servers_may_share_it(tmp_path: Path) -> None:
    def signed(database: Database, **params: str) -> object:
        x = X(services(database=database), XParams(**params))
        return x.sign(request_context(message("OPTIONS sip:example.test SIP/2.0")), "text")

    with Database.at(tmp_path) as first:
        own = signed(first)
    with Database.at(tmp_path) as again:
        assert signed(again) == own
        assert signed(again, secret="shared") != own
    with Database() as one, Database() as other:
        assert signed(one, secret="shared") == signed(other, secret="shared")
