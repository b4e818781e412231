"""What an operator asks corex: what is listened on and what the server takes for itself. Part of corex."""

from __future__ import annotations

from typing import Any

from polykemi.kemi.rpc import rpc
from polykemi.modules.base import Services
from polykemi.sip.flow import WEBSOCKETS


class CorexCommands:
    """The commands, in Kamailio's shapes."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @rpc("corex.list_sockets")
    def list_sockets(self) -> list[dict[str, Any]]:
        """List what is listened on, with names and advertised hosts; - stands for none."""
        return [
            {
                "PROTO": one.proto,
                "NAME": one.host,
                "ADDRLIST": {"ADDR": one.host},
                "PORT": str(one.port),
                "MCAST": "no",
                "MHOMED": "no",
                "VIRTUAL": "no",
                "SOCKNAME": one.name or "-",
                "ADVERTISE": one.advertised_host or "-",
            }
            for one in self._services.listeners
            if one.proto not in WEBSOCKETS.values()  # those are connections of the others
        ]

    @rpc("corex.list_aliases")
    def list_aliases(self) -> list[dict[str, Any]]:
        """List the names that the server is responsible for."""
        return [{"PROTO": "*", "ADDR": name, "PORT": 0} for name in sorted(self._services.domains)]
