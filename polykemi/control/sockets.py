"""The commands about sockets and connections, and what the server takes for itself: ``core``. Shapes are Kamailio's."""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

from polykemi.kemi.network import Connections
from polykemi.kemi.rpc import rpc
from polykemi.modules.base import Services
from polykemi.sip.flow import WEBSOCKETS
from polykemi.transport.connection import Connection
from polykemi.transport.stream import Streams

_READERS: Final = 1  # the event loop
_MOST_LISTED: Final = 5000  # connections in an answer: as long as it is made, some 50 ms, no message is routed


class Sockets:
    """What is listened on."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @rpc("core.sockets_list")
    def sockets(self) -> list[dict[str, Any]]:
        """List what is listened on."""
        return [
            {
                "socket": {
                    "proto": one.proto,
                    "address": one.host,
                    "ipaddress": one.host,
                    "port": str(one.port),
                    "mcast": "no",
                    "mhomed": "no",
                    "virtual": "no",
                }
            }
            for one in self._services.listeners
            if one.proto not in WEBSOCKETS.values()  # those are connections of the others
        ]

    @rpc("core.aliases_list")
    def aliases(self) -> dict[str, Any]:
        """List the names that the server is responsible for."""
        aliases = [{"alias": {"proto": "*", "address": name, "port": "*"}} for name in sorted(self._services.domains)]
        return {"myself_callbacks": "no", "aliases": aliases}


class Tcp:
    """The connections."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    @rpc("core.tcp_info")
    def info(self) -> dict[str, int]:
        """Return how many connections there are and may be, and how many octets wait in them."""
        connections = self._streams.known.by_ident.values()
        most = self._streams.limits.max_connections
        return {
            "readers": _READERS,
            "max_connections": most,
            "max_tls_connections": most,
            "opened_connections": len(connections),
            "opened_tls_connections": sum(one.tls is not None for one in connections),
            "write_queued_bytes": sum(one.unsent() for one in connections),
        }

    @rpc("core.tcp_list")
    def list(self, *, now: float) -> list[dict[str, Any]]:
        """List the connections, those of TLS and WebSocket too, up to 5,000; timeout: seconds until one is dropped without a message."""
        return [self._described(one, now) for one in islice(self._streams.known.by_ident.values(), _MOST_LISTED)]

    def _described(self, one: Connection, now: float) -> dict[str, Any]:
        flow, lifetime = one.flow, self._streams.limits.connection_lifetime
        kind = "TLS" if one.tls is not None else "TCP"
        if one.websocket is not None:
            kind = "WSS" if one.tls is not None else "WS"
        return {
            "id": one.ident,
            "type": kind,
            "state": "CONN_OK",
            "timeout": int(one.used + lifetime - now),
            "lifetime": int(lifetime),
            "ref_count": len(one.names),
            "src_ip": flow.host,
            "src_port": flow.port,
            "dst_ip": flow.listener.host,
            "dst_port": flow.listener.port,
        }

    @rpc("core.tcp_options")
    def options(self) -> dict[str, Any]:
        """Return what connections may use: those of Kamailio's options that there are here."""
        limits = self._streams.limits
        return {
            "connect_timeout": int(limits.connect_timeout),
            "send_timeout": int(limits.send_timeout),
            "connection_lifetime": int(limits.connection_lifetime),
            "max_connections(soft)": limits.max_connections,
            "max_tls_connections(soft)": limits.max_connections,
            "async": 1,
            "conn_wq_max": limits.conn_wq_max,
            "wq_max": limits.wq_max,
            "crlf_ping": 1,
            "accept_aliases": int(limits.accept_aliases),
        }


def of_connections(connections: Connections) -> list[Tcp]:
    """Return the commands about connections, none for a server without any."""
    return [Tcp(connections)] if isinstance(connections, Streams) else []
