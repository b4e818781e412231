"""The control plane of one server: which commands there are, and how they are reached."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from polykemi import __version__, memory
from polykemi.config import ControlSettings
from polykemi.control import binrpc, commands
from polykemi.control.api import Api
from polykemi.control.cfg import Cfg
from polykemi.control.datagram import DatagramSocket
from polykemi.control.http import HttpServer
from polykemi.control.http_rpc import PATH, rpc_over_http
from polykemi.control.jsonrpc import Answer, Client, JsonRpc
from polykemi.control.logs import Logs
from polykemi.control.names import Dns, DstBlocklist
from polykemi.control.process import SHMEM, Core, Memory
from polykemi.control.sockets import Sockets, of_connections
from polykemi.control.sources import Sources
from polykemi.control.unix import NAME, ControlSocket
from polykemi.errors import RpcError
from polykemi.log_watches import Watches
from polykemi.router import Router
from polykemi.transport.resolver import Resolver


def make_rpc(router: Router, started: float) -> JsonRpc:
    """Put together the commands of the server that ``router`` belongs to, ``started`` at so many seconds since the epoch.

    Scripts can call them too (``services.rpc``).
    """
    services = router.services
    rpc = JsonRpc()

    def kill(number: int) -> None:
        if services.current.ctx is not None:
            raise RpcError(500, "a script cannot end the server")
        services.kill(number)  # which is set when all is put together

    rpc.add(Core(__version__, started, services.modules, kill))
    process = Memory(router.overload.memory or memory.limit())
    rpc.add(process)
    services.figures.update({f"shmem.{name}": partial(process.figure, name) for name in SHMEM})
    statistics = services.statistics
    rpc.add(commands.Stats(statistics), commands.Counters(statistics, services.counters), commands.Routes(router.stats))
    rpc.add(commands.System(rpc.commands), DstBlocklist(services.blocklist), Sockets(services))
    rpc.add(*of_connections(services.connections), Api(services.modules.values(), lambda: router.version.scripts))
    rpc.add(Cfg(services.live))
    watches = Watches(services.levels, router.look)
    rpc.add(Logs(services.levels, watches))
    if isinstance(services.locator, Resolver):
        rpc.add(Dns(services.locator))
    for module in services.modules.values():
        rpc.add(*module.commands())
    services.rpc = rpc.commands
    return rpc


class ControlPlane:
    """Bound while the server is made, so that a mistake ends it early; open while it runs."""

    def __init__(self, data: Path, settings: ControlSettings, metrics: tuple[str, int] | None = None) -> None:
        """Bind what is listened on: a socket in ``data``, what ``settings`` names, ``metrics``. Raise UsageError."""
        with ExitStack() as undo:
            self._socket = ControlSocket(settings.socket or data / NAME)
            undo.callback(self._socket.close)
            self._datagram = DatagramSocket(settings.datagram) if settings.datagram is not None else None
            if self._datagram is not None:
                undo.callback(self._datagram.close)
            self._http = HttpServer(*settings.http) if settings.http is not None else None
            if self._http is not None:
                undo.callback(self._http.close)
            self._metrics = HttpServer(*metrics) if metrics is not None else None
            undo.pop_all()
        self._token = settings.token

    def describe(self) -> list[str]:
        """Return the lines that tell where this server is watched and asked."""
        lines = [f"metrics on {self._metrics.url}/metrics"] if self._metrics is not None else []
        if self._http is not None:
            lines.append(f"JSON-RPC on {self._http.url}{PATH}")
        if self._datagram is not None:
            lines.append(f"JSON-RPC on {self._datagram.path}")
        return lines

    def open(self, loop: asyncio.AbstractEventLoop, rpc: JsonRpc, sources: Sources) -> None:
        """Begin to answer ``rpc`` requests about the server that ``sources`` are of; called before ``loop`` runs."""
        router = sources.router

        def answer(request: bytes, client: Client | None = None) -> Answer:
            binary = request[:1] == bytes((binrpc.MAGIC,))  # which begins no JSON
            answered = binrpc.answer(request, rpc) if binary else rpc.answer(request, client)
            router.pump()  # what a command has changed is durable before anybody is told of it
            return answered

        def in_turn(call: Callable[[], None]) -> None:
            call()
            router.pump()

        rpc.soon = lambda call: loop.call_soon(in_turn, call)
        self._socket.open(loop, answer)
        if self._datagram is not None:
            self._datagram.open(loop, answer)
        if self._http is not None:
            self._http.open(loop, {}, {PATH: rpc_over_http(answer, self._token)})
        if self._metrics is not None:
            from polykemi.control import metrics  # only who wants them pays for the client library

            page = metrics.Metrics(sources).page
            self._metrics.open(loop, {"/metrics": (metrics.CONTENT_TYPE, page)})

    def close(self) -> None:
        """End it; called when the loop runs no more."""
        for one in (self._socket, self._datagram, self._http, self._metrics):
            if one is not None:
                one.close()
