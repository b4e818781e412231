"""The transaction layer: finds the transaction of a message (RFC 3261 sections 17.1.3, 17.2.3) and moves the machines.

Sans-I/O: ``now`` is an argument, bytes go to ``send``. What concerns the transaction user (``forking``, modules/tm) is
returned: ``receive`` and ``transport_error`` tell whether it is to be told, ``run_timers`` gives the clients that failed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from polykemi.sip.flow import Flow
from polykemi.sip.message import Request, Response
from polykemi.transaction.machine import ClientTransaction, Machine, ServerTransaction, Timings, client_key
from polykemi.transaction.tables import (
    ACCEPTED,
    ACK,
    BACK_OFF,
    CALLING,
    CANCELED,
    FAIL,
    PASS,
    PROCEEDING,
    RECEIVE_1XX,
    RECEIVE_2XX,
    RECEIVE_3XX_6XX,
    RECEIVE_AGAIN,
    REQUEST,
    SEND,
    SEND_1XX,
    SEND_2XX,
    SEND_3XX_6XX,
    SEND_ACK,
    SLOW_DOWN,
    START_A,
    STOP,
    TERMINATED,
    TIMER_A,
    TIMER_B,
    TIMER_C,
    TIMER_D,
    TIMER_E,
    TIMER_F,
    TIMER_G,
    TRANSPORT_ERROR,
)
from polykemi.transaction.timers import Timers

MAGIC_COOKIE: Final = "z9hG4bK"


def server_key(request: Request, method: str = "") -> str:
    """Return the key of the server transaction of ``request``; ``method``: that of another one with the same branch.

    An ACK has the key of its INVITE. Branches without the magic cookie come from RFC 2543 clients, whose transactions
    are known by Request-URI, From tag, Call-ID, CSeq number and top Via (section 17.2.3). Raise ParseError.
    """
    if not method:
        method = request.method
    if method == "ACK":
        method = "INVITE"
    via = request.via
    branch = via.branch
    if _is_unique(branch):
        return f"{method} {branch} {via.host}:{via.port}"
    return f"{method} {request.uri} {request.from_.tag} {request.call_id} {request.cseq[0]} {via.text}"


def _is_unique(branch: str) -> bool:
    return branch[:7] == MAGIC_COOKIE and len(branch) > 7


def dialog_key(request: Request) -> str:
    """Return the alias of an accepted INVITE under which the ACK to its 2xx finds it: dialog and CSeq number."""
    return f"ACK {request.call_id} {request.from_.tag} {request.cseq[0]}"


def method_and_branch(data: bytes) -> tuple[str, str]:
    """Return method and branch of a request as we have sent it, of which the end may be missing; "" when it is no such thing.

    Our Via is the first one. Only who has seen the request knows its branch: an error of ICMP that quotes it is no forgery.
    """
    start = data.find(b"\r\nVia: ")
    line = data[start + 2 : data.find(b"\r\n", start + 2)] if start > 0 else b""
    at = line.find(b";branch=")
    if at < 0 or data[:8] == b"SIP/2.0 ":
        return "", ""
    return str(data[: data.find(b" ")], "latin-1"), str(line[at + 8 :].partition(b";")[0], "latin-1")


class TransactionLayer:
    """All transactions of a server, by key."""

    __slots__ = ("_clients", "_connected", "_key", "_keyed", "_send", "_servers", "_timers", "_unacked", "timings")

    def __init__(self, send: Callable[[bytes, Flow], None], timings: Timings | None = None) -> None:
        self.timings = timings or Timings()
        self._send = send
        self._servers: dict[str, ServerTransaction] = {}
        # by dialog_key: those with a 2xx of our own that is sent until its ACK comes
        self._unacked: dict[str, ServerTransaction] = {}
        self._clients: dict[str, ClientTransaction] = {}
        self._connected: dict[Flow, dict[str, ClientTransaction]] = {}  # those that went over a connection
        self._timers = Timers(self.timings.all_lengths())
        self._keyed: Request | None = None  # the request that was asked for last, and its key
        self._key = ""

    def __len__(self) -> int:
        return len(self._servers) + len(self._clients)

    def sizes(self) -> tuple[int, int]:
        """Return how many server and client transactions there are; those with an alias count twice."""
        return len(self._servers), len(self._clients)

    def use(self, timings: Timings) -> None:
        """Take other timings for transactions that come; those that are open keep theirs."""
        self.timings = timings
        self._timers.expect(timings.all_lengths())

    # ---- server side
    def key_of(self, request: Request) -> str:
        """Return the ``server_key`` of ``request``, made once while that request is processed. Raise ParseError."""
        if request is not self._keyed:
            self._key = server_key(request)
            self._keyed = request
        return self._key

    def server_of(self, request: Request, method: str = "") -> ServerTransaction | None:
        """Return the server transaction of ``request``, or that of the request ``method`` which it is about (CANCEL)."""
        return self._servers.get(server_key(request, method) if method else self.key_of(request))

    def absorb(self, request: Request, now: float) -> bool:
        """Take a retransmission or the ACK to a non-2xx; False for all that is new to the layer. Raise ParseError."""
        if not self._servers and not self._unacked and _is_unique(request.via.branch):  # a server that only registers
            return False
        server = self._servers.get(self.key_of(request))
        if self._unacked and request.method == "ACK":
            acked = self._unacked.pop(dialog_key(request), None)
            if acked is not None:
                self._fire(acked, ACK, now)
        if server is None:
            return False
        if request.method != "ACK":
            self._fire(server, REQUEST, now)
            return True
        if server.state == ACCEPTED or server.state == PROCEEDING:
            return False  # the ACK to a 2xx goes end to end, also when it carries the INVITE's branch
        self._fire(server, ACK, now)
        return True

    def open_server(self, server: ServerTransaction) -> None:
        """Make ``server`` known: from now on retransmissions of its request are absorbed."""
        self._servers[server.key] = server

    def respond(self, server: ServerTransaction, status: int, data: bytes, now: float) -> bool:
        """Send the response ``data``; False when the machine takes none any more (a final one was sent)."""
        event = SEND_1XX if status < 200 else SEND_2XX if status < 300 else SEND_3XX_6XX
        if server.table[server.state][event] is None:
            return False
        server.data = data
        self._fire(server, event, now)
        return True

    def add_alias(self, server: ServerTransaction, alias: str) -> None:
        """Let ``server`` be found by ``alias`` too, as long as it lives."""
        server.aliases += (alias,)
        self._servers[alias] = server

    def resend_2xx(self, server: ServerTransaction, alias: str, now: float) -> None:
        """Send the 2xx of our own to an INVITE again until its ACK comes, which has the ``alias`` (section 13.3.1.4)."""
        self._unacked[alias] = server
        self._start(server, TIMER_G, now)

    def by_alias(self, alias: str) -> ServerTransaction | None:
        """Return the server transaction that was given ``alias``."""
        return self._servers.get(alias)

    def server_transactions(self) -> list[ServerTransaction]:
        """Return all server transactions; those with an alias stand there more than once."""
        return list(self._servers.values())

    def close(self, machine: Machine) -> None:
        """End a transaction at once."""
        self._stop(machine)
        machine.state = TERMINATED
        self._forget(machine)

    # ---- client side
    def open_client(self, client: ClientTransaction, now: float) -> None:
        """Send the request of ``client`` and start its timers."""
        self._clients[client.key] = client
        self._send(client.data, client.flow)
        is_invite = client.method == "INVITE"
        if client.flow.listener.proto == "udp":
            self._resend_after(client, client.timings.t1, TIMER_A if is_invite else TIMER_E, now)
        else:
            self._connected.setdefault(client.flow, {})[client.key] = client
        self._start(client, TIMER_B if is_invite else TIMER_F, now)

    def client_of(self, response: Response) -> ClientTransaction | None:
        """Return the client transaction of ``response``: by branch and CSeq method (section 17.1.3). Raise ParseError."""
        method = response.cseq[1]
        client = self._clients.get(client_key(response.via.branch, method))
        return client if client is not None and client.method == method else None

    def wait(self, client: ClientTransaction, now: float) -> None:
        """Let ``client`` wait without having sent anything; it fails after Timer B unless it is closed before."""
        self._clients[client.key] = client
        self._start(client, TIMER_B, now)

    def client_transactions(self) -> list[ClientTransaction]:
        """Return all client transactions."""
        return list(self._clients.values())

    def client_of_request(self, branch: str, method: str) -> ClientTransaction | None:
        """Return the client transaction that sent a request with ``branch``; for an ACK that of its INVITE."""
        return self._clients.get(client_key(branch, method))

    def receive(self, client: ClientTransaction, response: Response, now: float, restarts: bool = True) -> bool:
        """Take a response; True when the transaction user is to get it (it is no retransmission).

        ``restarts``: a provisional one but 100 starts Timer C of an INVITE anew (section 16.7 step 2).
        """
        status = response.status
        if status >= 300 and client.method == "INVITE" and not client.ack_data and client.data:
            client.ack_data = client.make_ack(response.get("to") or "")
        event = RECEIVE_1XX if status < 200 else RECEIVE_2XX if status < 300 else RECEIVE_3XX_6XX
        if status == 100 or not restarts:
            event = RECEIVE_AGAIN if event == RECEIVE_1XX and client.method == "INVITE" else event
        passed = self._fire(client, event, now) == PASS
        if status >= 200 and client.state != TERMINATED:
            client.data = b""  # nothing of it is sent again
        return passed

    def transport_error(self, client: ClientTransaction, now: float) -> bool:
        """Take the news that the last thing sent could not go out; True when the transaction user is to be told."""
        return self._fire(client, TRANSPORT_ERROR, now) == FAIL

    def lost(self, flow: Flow, now: float) -> list[ClientTransaction]:
        """Take the news that the connection of ``flow`` has ended; return the clients that have failed by that.

        An INVITE that has a provisional response has not: its peer may bring the final one over another connection
        (section 18.2.2). From a WebSocket none can come (RFC 7118 section 5).
        """
        failed = []
        for client in list(self._connected.get(flow, {}).values()):
            if self._fire(client, TRANSPORT_ERROR, now) == FAIL:
                failed.append(client)
            elif client.state == PROCEEDING and flow.listener.proto in ("ws", "wss"):
                self.close(client)
                failed.append(client)
        return failed

    def canceled(self, client: ClientTransaction, now: float) -> None:
        """Note that a CANCEL was sent: a client without a final response ends after 64*T1 (section 9.1)."""
        self._fire(client, CANCELED, now)

    def restart_timeouts(self, client: ClientTransaction, now: float) -> None:
        """Start the timer that limits the waiting again, after ``timings`` or ``expires`` have changed."""
        if client.limit_at and client.limit in (TIMER_B, TIMER_C, TIMER_F):
            self._start(client, client.limit, now)

    # ---- time
    def next_timeout(self) -> float | None:
        """Return when ``run_timers`` is to be called next, in seconds since the epoch: not later than a timer is due."""
        return self._timers.next_timeout()

    def run_timers(self, now: float) -> ClientTransaction | None:
        """Run the timers due at ``now`` up to one that fails a client, and return that; None when all have run."""
        while (due := self._timers.pop(now)) is not None:
            machine, event = due
            if self._fire(machine, event, now) == FAIL:
                assert isinstance(machine, ClientTransaction)
                return machine
        return None

    # ---- the machines
    def _fire(self, machine: Machine, event: int, now: float) -> int:
        """Move ``machine`` by ``event``; return PASS or FAIL when its user is concerned, else 0."""
        step = machine.table[machine.state][event]
        if step is None:
            return 0
        machine.state = step.state
        result = 0
        for action in step.actions:
            if action >= START_A:
                self._start(machine, action, now)
            elif action == STOP:
                machine.resend_at = machine.limit_at = 0.0
            elif action == SEND:
                if machine.data:
                    self._send(machine.data, machine.flow)
            elif action == SEND_ACK:
                assert isinstance(machine, ClientTransaction)
                self._send(machine.ack_data, machine.flow)
            elif action == BACK_OFF:
                interval = machine.interval * 2
                if event != TIMER_A and interval > machine.timings.t2:
                    interval = machine.timings.t2
                self._resend_after(machine, interval, event, now)
            elif action == SLOW_DOWN:
                self._resend_after(machine, machine.timings.t2, event, now)
            else:  # PASS, FAIL
                result = action
        if machine.state == TERMINATED:
            self._stop(machine)
            self._forget(machine)
        return result

    def _start(self, machine: Machine, event: int, now: float) -> None:
        length = machine.timings.lengths[event]
        if event == TIMER_A or event == TIMER_E or event == TIMER_G:  # noqa: SIM109  # "in" would make a tuple
            self._resend_after(machine, length, event, now)
            return
        if event == TIMER_C and machine.limit_at and (machine.limit == TIMER_B or machine.limit == TIMER_D):
            return  # a CANCEL was sent, or it was given up: what still comes does not lengthen the wait
        if machine.expires and event in (TIMER_B, TIMER_C, TIMER_F) and now + length > machine.expires:
            if event != TIMER_B or machine.state == CALLING:  # else behind a CANCEL: its 487 wants an ACK
                length = max(machine.expires - now, 0.0)
        self._timers.start_limit(machine, event, length, now)

    def _resend_after(self, machine: Machine, interval: float, event: int, now: float) -> None:
        """Start Timer A, E or G: over UDP alone, other transports do not lose what is sent (RFC 3261 section 17).

        A 2xx of our own is sent again over all of them: its way may have UDP in it further on (section 13.3.1.4).
        """
        if machine.flow.listener.proto != "udp" and machine.state != ACCEPTED:
            return
        machine.interval = interval
        self._timers.start_resend(machine, event, interval, now)

    def _stop(self, machine: Machine) -> None:
        machine.resend_at = machine.limit_at = 0.0

    def _forget(self, machine: Machine) -> None:
        if isinstance(machine, ServerTransaction):
            self._servers.pop(machine.key, None)
            for alias in machine.aliases:
                self._servers.pop(alias, None)
                if self._unacked:
                    self._unacked.pop(alias, None)
        else:
            self._clients.pop(machine.key, None)
            if self._connected:
                self._disconnect(machine)

    def _disconnect(self, machine: Machine) -> None:
        clients = self._connected.get(machine.flow)
        if clients is not None:
            clients.pop(machine.key, None)
            if not clients:
                del self._connected[machine.flow]
