"""TCP and TLS: listeners, the connections that peers have made and those that we make, and WebSockets on them.

A connection is kept as long as it is used; a reply goes back over the one that its request came on. What a peer can make the
server hold is bounded: the number of connections, the length of a message, what waits to be sent, the time without a message.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from polykemi.errors import ParseError
from polykemi.kemi.network import TlsConnection, TlsState
from polykemi.sip.constants import PORT, TLS_PORT
from polykemi.sip.flow import SECURE, WEBSOCKETS, Flow, LastFlow, Listener, NamedFlow, OpenFlow
from polykemi.sip.grammar import to_ip
from polykemi.sip.message import parse
from polykemi.transport.connection import Connection, as_websocket
from polykemi.transport.known import MOST_NAMES, Known
from polykemi.transport.limits import COUNTERS, StreamLimits
from polykemi.transport.mirror import Mirror
from polykemi.transport.tls import Tls, accepting, calling
from polykemi.transport.tls_profiles import TlsContexts, TlsSettings
from polykemi.transport.told import Told
from polykemi.transport.websocket import WebSocket

log = logging.getLogger("polykemi.transport")

_OTHER_FILES: Final = 128  # descriptors kept free of connections: databases, sockets, scripts
BACKLOG: Final = 1024  # connections that wait to be taken


class Streams:
    """All TCP and TLS connections of a server.

    ``receive(data, flow, now)`` is called for each message and ``done()`` when those that came together are through;
    ``failed(data, flow)`` for what could not be sent, ``closed(flow, ident, now)`` when a WebSocket has ended, and
    ``lost(flow, now)`` for each flow that was sent to over a connection that has ended.
    """

    def __init__(
        self,
        receive: Callable[[bytes, Flow, float], None],
        done: Callable[[], None],
        failed: Callable[[bytes, Flow], None],
        closed: Callable[[Flow, int, float], None] = lambda *_: None,
        limits: StreamLimits | None = None,
        tls: TlsSettings | None = None,
        lost: Callable[[Flow, float], None] = lambda *_: None,
    ) -> None:
        self.receive, self.done, self.failed, self.closed, self.lost = receive, done, failed, closed, lost
        self.limits = limits or StreamLimits()
        self._most = self.limits.max_connections  # or what the process may have open
        tls = tls or TlsSettings()
        self.read_tls: Callable[[], TlsSettings] = lambda: tls  # anew, when they are to be loaded again
        self.contexts: TlsContexts | None = None  # as soon as there is a listener for TLS
        self._server_id = ""  # of the profile that TLS connections which we make are to have; "": by the address
        self.loop: Any = None
        self._listening: list[tuple[Listener, socket.socket]] = []
        self._servers: list[asyncio.AbstractServer] = []
        self.known = Known()
        self._handshakes: deque[Connection] = deque()  # whose ClientHello is to be answered
        self._accepted: dict[str, int] = {}  # connections that an address has opened
        self._silent: dict[int, Connection] = {}  # those of these that have brought nothing yet, the oldest first
        self.waiting = 0  # connections whose peers take less than they are sent
        self.told = Told()
        self.counters: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self.messages_in: dict[str, int] = {}  # by transport
        self.messages_out: dict[str, int] = {}
        self.mirror: Mirror | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweep: asyncio.TimerHandle | None = None

    # ---- life
    def listen(self, wanted: Listener, sock: socket.socket) -> Listener:
        """Take the socket that is bound to ``wanted`` and listens, for TCP or TLS. Raise BadProfile for the first of TLS."""
        listener = wanted._replace(port=sock.getsockname()[1])
        self._listening.append((listener, sock))
        if wanted.proto == "tls" and self.contexts is None:
            self.contexts = TlsContexts(self.read_tls())
            self.contexts.tell_of_ends(time.time())
        sock.setblocking(False)  # noqa: FBT003
        return listener

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to take connections as soon as ``loop`` runs, which it does not yet."""
        self.loop = loop
        if not self._listening:
            return
        self.make_room()
        for listener, sock in self._listening:
            factory: Any = partial(self._accept, listener)
            server = loop.create_server(factory, sock=sock, backlog=BACKLOG, start_serving=False)
            self._servers.append(loop.run_until_complete(server))
        loop.call_soon(lambda: self._keep(loop.create_task(self._serve())))  # a task that never runs would complain

    async def _serve(self) -> None:
        for server in self._servers:
            await server.start_serving()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._tasks.discard)

    def _accept(self, listener: Listener) -> Connection:
        contexts = self.contexts
        if listener.proto != "tls" or contexts is None:
            return Connection(self, listener)
        return Connection(self, listener, accepting(partial(contexts.server, listener)))

    def wait_for_turn(self, connection: Connection) -> None:
        """Let a handshake go on as soon as others had their turn: when thousands of phones come back, messages still flow."""
        self._handshakes.append(connection)
        if len(self._handshakes) == 1:
            self.loop.call_soon(self._shake_hands)

    def _shake_hands(self) -> None:
        connection = self._handshakes.popleft()
        if self._handshakes:
            self.loop.call_soon(self._shake_hands)
        connection.shake_hands()

    def make_room(self) -> None:
        """Let the process have as many descriptors as there may be connections, or take less of these."""
        self._most = self.limits.max_connections
        wanted = self._most + _OTHER_FILES
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            if soft < wanted:
                self._most = max(soft - _OTHER_FILES, 1)
                log.warning("at most %d connections: this process may open %d files (ulimit -n)", self._most, soft)

    def close(self) -> None:
        """Drop all connections."""
        if self._sweep is not None:
            self._sweep.cancel()
        for task in self._tasks:
            task.cancel()
        for server in self._servers:
            server.close()
        for connection in list(self.known.by_ident.values()):
            connection.abort()
        for _, sock in self._listening:
            sock.close()

    # ---- sending
    @property
    def share(self) -> int:
        """Octets that may wait for one peer, as things are."""
        return min(self.limits.conn_wq_max, self.limits.wq_max // (self.waiting or 1))

    def send(self, data: bytes, flow: Flow, address: str) -> None:
        """Send ``data`` over the connection of ``flow``, over a new one to the IP ``address`` where there is none.

        Nobody can be called over WebSocket: without a connection that has failed. A reply whose connection is gone goes
        where the top Via says (RFC 3261 section 18.2.2).
        """
        name = _sought(flow) if flow.listener.proto in SECURE else ""
        connection = self.known.find(flow, address, name)
        if connection is None and data[:8] == b"SIP/2.0 " and not isinstance(flow, OpenFlow):
            flow = _by_via(data, flow)
            address, name = flow.host, ""
            connection = self.known.find(flow, address, name)
        if connection is None:
            is_possible = not isinstance(flow, OpenFlow) and flow.listener.proto in WEBSOCKETS and self.loop is not None
            if not is_possible or not self._has_room():
                self.failed(data, flow)
                return
            connection = Connection(self, flow.listener)
            if flow.listener.proto == "tls":
                connection.tls, connection.sought = self._calling(name, address, flow.port), name
            self._connect(connection, address, flow.port)
        if isinstance(flow, LastFlow):
            connection.is_last = True
        if flow != connection.flow and len(connection.carried) < MOST_NAMES:
            connection.carried.add(flow)
        connection.send(data, flow)

    def _calling(self, name: str, address: str, port: int) -> Tls:
        """Begin TLS with the server ``name``, "" when it has none but its address."""
        assert self.contexts is not None  # there is a listener
        hosts = (name, address) if name else (address,)
        credentials, expected = self.contexts.client(hosts, port, self._server_id)
        return calling(credentials, expected or name or address)

    def _connect(self, connection: Connection, host: str, port: int) -> None:
        self.add(connection, host, port)
        self._keep(self.loop.create_task(self._connecting(connection, host, port)))

    async def _connecting(self, connection: Connection, host: str, port: int) -> None:
        try:
            async with asyncio.timeout(self.limits.connect_timeout):
                await self.loop.create_connection(
                    lambda: connection, host, port, local_addr=(connection.flow.listener.host, 0)
                )
        except (OSError, OverflowError, UnicodeError) as error:  # a TimeoutError too
            log.info("cannot connect to %s:%d: %s", host, port, str(error) or "no answer")
            self.count("connect_failed")
            connection.connection_lost(None)

    # ---- what comes
    def take(self, data: bytes, flow: Flow, now: float) -> None:
        """Take a message from a connection."""
        proto = flow.listener.proto
        self.messages_in[proto] = self.messages_in.get(proto, 0) + 1
        if self.mirror is not None:
            self.mirror.received(data, flow)
        if self.limits.accept_aliases and b";alias" in data and data[:8] != b"SIP/2.0 ":
            self._accept_alias(data, flow)
        self.receive(data, flow, now)

    def _accept_alias(self, data: bytes, flow: Flow) -> None:
        try:
            via = parse(data).via
        except ParseError:
            return
        if via.param("alias") is not None:
            self.alias(flow, via.port or (TLS_PORT if flow.listener.proto in SECURE else PORT))

    def leaves(self, data: bytes, listener: Listener, peer: Flow) -> None:
        """Note that a connection sends a message to ``peer``, over the transport of ``listener``."""
        proto = listener.proto
        self.messages_out[proto] = self.messages_out.get(proto, 0) + 1
        if self.mirror is not None:
            self.mirror.sent(data, listener, peer.host, peer.port)

    # ---- the connections that there are
    def count(self, name: str) -> None:
        """Add to a counter of the group ``tcp``."""
        self.counters["tcp." + name] = self.counters.get("tcp." + name, 0) + 1

    def admit(self, connection: Connection, host: str, port: int) -> bool:
        """Take a connection that a peer has made; False when there are as many as there may be."""
        of_host = self._accepted.get(host, 0)
        if of_host >= self.limits.accept_iplimit or not self._has_room():
            self.count("local_reject")
            self.told.of_refused(host, port, len(self.known), of_host)
            return False
        connection.is_accepted = connection.is_silent = True
        self._accepted[host] = of_host + 1
        self.add(connection, host, port)
        self._silent[connection.ident] = connection
        self.count("passive_open")
        return True

    def _has_room(self) -> bool:
        """Tell whether there may be one more connection; when all are taken, one that has brought nothing yet is dropped.

        So who opens connections and says nothing keeps nobody out who has something to say.
        """
        if len(self.known) < self._most:
            return True
        oldest = next(iter(self._silent), None)
        if oldest is None:
            return False
        self.count("silent_dropped")
        self._silent.pop(oldest).abort()
        return True

    def heard(self, connection: Connection) -> None:
        """Note that a peer has said something."""
        connection.is_silent = False
        self._silent.pop(connection.ident, None)

    def add(self, connection: Connection, host: str, port: int) -> None:
        """Make a connection with the peer ``host:port`` known."""
        self.known.add(connection, host, port)
        self.counters["tcp.current_opened_connections"] = len(self.known)
        if self._sweep is None:
            self._sweep_later()

    def remove(self, connection: Connection) -> None:
        """Forget a connection."""
        self.known.remove(connection)
        self._silent.pop(connection.ident, None)
        self.counters["tcp.current_opened_connections"] = len(self.known)
        if connection.is_accepted:
            host = connection.flow.host
            left = self._accepted[host] = self._accepted[host] - 1
            if not left:
                del self._accepted[host]

    def __len__(self) -> int:
        return len(self.known)

    def by_transport(self) -> dict[str, int]:
        """Return transport -> connections, those that are WebSockets among these."""
        found = {listener.proto: 0 for listener, _ in self._listening}
        for one in self.known.by_ident.values():
            listener = one.flow.listener if one.websocket is None else as_websocket(one.flow).listener
            found[listener.proto] = found.get(listener.proto, 0) + 1
        return found

    def _sweep_later(self) -> None:
        limits = self.limits
        shortest = min(limits.connection_lifetime, limits.msg_read_timeout, limits.send_timeout)
        self._sweep = self.loop.call_later(max(shortest / 8, 0.01), self._end_idle)

    def _end_idle(self) -> None:
        """Drop the connections that have brought and taken no message for too long; those of WebSockets are websocket's."""
        self._sweep = None
        now = time.time()
        unused, stuck = now - self.limits.connection_lifetime, now - self.limits.send_timeout
        for connection in list(self.known.by_ident.values()):
            if connection.used < unused and connection.websocket is None:
                self.count("con_timeout")
            elif 0 < connection.due < now:  # octet by octet: slowloris
                self.count("msg_read_timeout")
            elif 0 < connection.stuck_at < stuck:
                self.count("send_timeout")
            else:
                continue
            connection.abort()
        if len(self.known):
            self._sweep_later()

    # ---- what modules ask (kemi.network.Connections)
    def ident(self, flow: Flow) -> int:
        """Return the number of the connection of ``flow``, -1 when there is none."""
        connection = self.known.of(flow)
        return -1 if connection is None else connection.ident

    def alias(self, flow: Flow, port: int) -> bool:
        """Let what goes to ``port`` of the peer go over the connection of ``flow`` (RFC 5923); False when there is none."""
        return self.known.alias(flow, port)

    def flow_of(self, ident: int) -> Flow | None:
        """Return the flow of a connection by its number, None when it is gone."""
        connection = self.known.by_ident.get(ident)
        if connection is None:
            return None
        return connection.flow if connection.websocket is None else as_websocket(connection.flow)

    def close_after_reply(self, flow: Flow) -> None:
        """Close the connection of ``flow`` as soon as the next thing has been sent over it."""
        connection = self.known.of(flow)
        if connection is not None:
            connection.is_last = True

    def upgrade(self, flow: Flow, *, client: bool = False) -> bool:
        """Take what comes from now on as WebSocket frames; False when there is no such connection."""
        connection = self.known.of(flow)
        if connection is None:
            return False
        connection.is_last = False
        self.known.name(connection, as_websocket(flow))
        connection.due = 0.0
        connection.websocket = WebSocket(client=client, longest=self.limits.longest_message)
        return True

    def last_used(self, ident: int) -> float | None:
        """Return when something has come over a WebSocket last (seconds since the epoch), None when it is not there."""
        connection = self.known.by_ident.get(ident)
        return None if connection is None or connection.websocket is None else connection.used

    def end_websocket(self, ident: int, code: int, reason: str) -> bool:
        """Send a Close frame; the peer's ends the connection. False when there is no such WebSocket."""
        connection = self.known.by_ident.get(ident)
        if connection is None or connection.websocket is None:
            return False
        connection.write(connection.websocket.close(code, reason))
        connection.end_soon()
        return True

    def ping(self, ident: int, data: bytes, *, pong: bool = False) -> bool:
        """Send a Ping, or a Pong that nobody has asked for; False when there is no such WebSocket."""
        connection = self.known.by_ident.get(ident)
        if connection is None or connection.websocket is None:
            return False
        websocket = connection.websocket
        connection.write(websocket.pong(data) if pong else websocket.ping(data))
        return True

    def abort(self, ident: int) -> None:
        """Drop a connection."""
        connection = self.known.by_ident.get(ident)
        if connection is not None:
            connection.abort()

    # ---- what modules ask of TLS (kemi.network.Tls)
    def tls_state(self, flow: Flow) -> TlsState | None:
        """Return what is known of the connection of ``flow``, None when it is gone or is none over TLS."""
        connection = self.known.of(flow)
        return None if connection is None or connection.tls is None else connection.tls.state()

    def tls_connections(self, now: float) -> list[TlsConnection]:
        """Return all, those too that are WebSockets."""
        lifetime = self.limits.connection_lifetime
        return [
            TlsConnection(
                one.ident,
                one.flow,
                int(one.used + lifetime - now),
                one.unsent(),
                one.is_accepted,
                one.tls.state(),
            )
            for one in self.known.by_ident.values()
            if one.tls is not None
        ]

    def most_connections(self) -> int:
        """Return how many connections there may be, those without TLS included."""
        return self.limits.max_connections

    def use_server_id(self, server_id: str) -> None:
        """Make connections from now on with the client profile that has ``server_id``, "": with that of their address."""
        self._server_id = server_id

    def reread_tls(self) -> Callable[[], None] | None:
        """Read profiles and certificates anew; return what makes connections that come use them. Raise ConfigError."""
        contexts = self.contexts
        if contexts is None:
            return None
        made = TlsContexts(self.read_tls())

        def use() -> None:
            contexts.take(made)
            contexts.tell_of_ends(time.time())
            log.info("TLS profiles and certificates have been read anew")

        return use


def _by_via(reply: bytes, flow: Flow) -> Flow:
    """Return where a reply goes by its top Via; ``flow`` itself when that has no use."""
    try:
        via = parse(reply).via
    except ParseError:
        return flow
    port = via.port or (TLS_PORT if flow.listener.proto in SECURE else PORT)
    return Flow(flow.listener, (via.param("received") or via.host).strip("[]"), port)


def _sought(flow: Flow) -> str:
    """Return the name that a TLS server has to prove to have, "" for one that is known by its address alone."""
    if isinstance(flow, NamedFlow) and flow.name:
        return flow.name
    return "" if to_ip(flow.host) is not None else flow.host.lower()
