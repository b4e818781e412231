"""The connections that there are, and which of them is that of a flow."""

from __future__ import annotations

from typing import Final

from polykemi.sip.flow import Flow
from polykemi.transport.connection import Connection

MOST_NAMES: Final = 16  # aliases of a connection


class Known:
    """Connections by number, by flow, and by what their peers are known as."""

    def __init__(self) -> None:
        self.by_ident: dict[int, Connection] = {}
        self._by_flow: dict[Flow, Connection] = {}
        self._by_peer: dict[tuple[str, str, int], Connection] = {}  # protocol, address and port: whichever our side is
        self._by_name: dict[tuple[str, str, str, int], Connection] = {}  # as before with the name of a TLS server
        self._last = 0  # ident of the newest connection

    def __len__(self) -> int:
        return len(self.by_ident)

    def add(self, connection: Connection, host: str, port: int) -> None:
        """Give a number to a connection with the peer ``host:port``, and its flow."""
        self._last += 1
        connection.ident = self._last
        connection.flow = Flow(connection.flow.listener, host, port)
        self.by_ident[connection.ident] = connection
        self.name(connection, connection.flow)

    def name(self, connection: Connection, flow: Flow) -> None:
        """Let ``connection`` be that of ``flow``."""
        connection.names.append(flow)
        peer = (flow.listener.proto, flow.host, flow.port)
        if connection.sought:  # not in place of one with the same peer that may have proved another name
            self._by_name[flow.listener.proto, connection.sought, flow.host, flow.port] = connection
            self._by_flow.setdefault(flow, connection)
            self._by_peer.setdefault(peer, connection)
        else:
            self._by_flow[flow] = connection
            self._by_peer[peer] = connection

    def alias(self, flow: Flow, port: int) -> bool:
        """Let what goes to ``port`` of the peer go over the connection of ``flow`` (RFC 5923); False when there is none."""
        connection = self._by_flow.get(flow)
        if connection is None or len(connection.names) > MOST_NAMES:
            return False
        alias = Flow(flow.listener, connection.flow.host, port)
        if self._by_flow.get(alias) is not connection:
            self.name(connection, alias)
        return True

    def remove(self, connection: Connection) -> None:
        """Forget a connection."""
        self.by_ident.pop(connection.ident, None)
        for flow in connection.names:
            peer = (flow.listener.proto, flow.host, flow.port)
            if self._by_flow.get(flow) is connection:
                del self._by_flow[flow]
            if self._by_peer.get(peer) is connection:
                del self._by_peer[peer]
            name = (flow.listener.proto, connection.sought, flow.host, flow.port)
            if connection.sought and self._by_name.get(name) is connection:
                del self._by_name[name]
        connection.names.clear()

    def of(self, flow: Flow) -> Connection | None:
        """Return the connection of ``flow``, None when there is none."""
        return self._by_flow.get(flow)

    def find(self, flow: Flow, address: str, name: str = "") -> Connection | None:
        """Return the connection that takes what is for ``flow``, whose host has the IP ``address``; None when none does.

        As in Kamailio one that the same peer has with another listener will do. With a ``name`` that is one with a peer
        which has proved to have that name.
        """
        proto, port = flow.listener.proto, flow.port
        if name:
            return self._by_name.get((proto, name, address, port))
        connection = self._by_flow.get(flow)
        if connection is None:
            connection = self._by_peer.get((proto, address, port))
            if connection is None and proto == "ws":  # as URIs name both
                connection = self._by_peer.get(("wss", address, port))
        return connection
