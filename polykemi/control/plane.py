"""The control plane of one server: which commands there are, and how they are reached."""

from __future__ import annotations

import asyncio
from pathlib import Path

from polykemi import __version__
from polykemi.control import commands
from polykemi.control.http import HttpServer
from polykemi.control.jsonrpc import JsonRpc
from polykemi.control.names import Dns, DstBlocklist
from polykemi.control.unix import NAME, ControlSocket
from polykemi.errors import UsageError
from polykemi.router import Router
from polykemi.transport.manager import Transports
from polykemi.transport.resolver import Resolver


def make_rpc(router: Router, started: float) -> JsonRpc:
    """Put together the commands of the server that ``router`` belongs to, ``started`` at so many seconds since the epoch.

    Scripts can call them too (``services.rpc``).
    """
    services = router.services
    rpc = JsonRpc()
    rpc.add(commands.Core(__version__, started), commands.Stats(services.counters), commands.Routes(router.stats))
    rpc.add(commands.System(rpc.commands), DstBlocklist(services.blocklist))
    if isinstance(services.locator, Resolver):
        rpc.add(Dns(services.locator))
    rpc.add(*services.modules.values())
    services.rpc = rpc.commands
    return rpc


class ControlPlane:
    """Bound while the server is made, so that a mistake ends it early; open while it runs."""

    def __init__(self, data: Path, metrics: tuple[str, int] | None = None) -> None:
        """Bind what is listened on: a socket in ``data``, and host and port for ``metrics``. Raise UsageError."""
        self._socket = ControlSocket(data / NAME)
        try:
            self._http = HttpServer(*metrics) if metrics is not None else None
        except UsageError:
            self._socket.close()
            raise

    def describe(self) -> list[str]:
        """Return the lines that tell where this server is watched."""
        return [f"metrics on {self._http.url}/metrics"] if self._http is not None else []

    def open(self, loop: asyncio.AbstractEventLoop, router: Router, rpc: JsonRpc, transports: Transports) -> None:
        """Begin to answer ``rpc`` requests about the server that ``router`` belongs to; called before ``loop`` runs."""
        self._socket.open(loop, rpc.answer)
        if self._http is not None:
            from polykemi.control import metrics  # only who wants them pays for the client library

            page = metrics.Metrics(router, transports).page
            self._http.open(loop, {"/metrics": (metrics.CONTENT_TYPE, page)})

    def close(self) -> None:
        """End it; called when the loop runs no more."""
        self._socket.close()
        if self._http is not None:
            self._http.close()
