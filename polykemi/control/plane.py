"""The control plane of one server: which commands there are, and how they are reached."""

from __future__ import annotations

import asyncio
from pathlib import Path

from polykemi import __version__
from polykemi.control import commands
from polykemi.control.jsonrpc import JsonRpc
from polykemi.control.unix import NAME, ControlSocket
from polykemi.router import Router


class ControlPlane:
    """Bound while the server is made, so that a mistake ends it early; open while it runs."""

    def __init__(self, data: Path) -> None:
        """Bind what is listened on. Raise UsageError."""
        self._socket = ControlSocket(data / NAME)

    def open(self, loop: asyncio.AbstractEventLoop, router: Router, started: float) -> None:
        """Begin to answer about the server that ``router`` belongs to, ``started`` at so many seconds since the epoch.

        Called before ``loop`` runs.
        """
        services = router.services
        rpc = JsonRpc()
        rpc.add(commands.Core(__version__, started), commands.Stats(services.counters), commands.Routes(router.stats))
        rpc.add(commands.System(rpc.commands))
        rpc.add(*services.modules.values())
        self._socket.open(loop, rpc.answer)

    def close(self) -> None:
        """End it; called when the loop runs no more."""
        self._socket.close()
