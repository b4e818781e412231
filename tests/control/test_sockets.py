"""The commands about connections: a server with very many answers in a bounded time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from polykemi.control.sockets import Tcp
from polykemi.sip.flow import Flow, Listener


def test_no_more_than_five_thousand_connections_are_listed() -> None:
    flow = Flow(Listener("tcp", "192.0.2.1", 5060), "192.0.2.9", 40000)
    connections = {
        n: SimpleNamespace(ident=n, flow=flow, tls=None, websocket=None, used=10.0, names=[], unsent=lambda: 0)
        for n in range(5001)
    }
    limits = SimpleNamespace(connection_lifetime=120.0, max_connections=10_000)
    streams: Any = SimpleNamespace(known=SimpleNamespace(by_ident=connections), limits=limits)
    listed = Tcp(streams).list(now=20.0)
    assert (len(listed), listed[-1]["id"], listed[0]["timeout"]) == (5000, 4999, 110)
    assert Tcp(streams).info()["opened_connections"] == 5001
