"""The transaction layer: finds the transaction of a message (RFC 3261 sections 17.1.3, 17.2.3) and moves the machines.

Sans-I/O: ``now`` is an argument, bytes go to ``send``. What concerns the transaction user (``forking``, modules/tm) is
returned: ``receive`` and ``transport_error`` tell whether it is to be told, ``run_timers`` gives the clients that failed.
"""

from __future__ import annotations

from collections.abc import Callable

from polykemi.sip.flow import Flow
from polykemi.sip.message import Request, Response
from polykemi.transaction.machine import ClientTransaction, Machine, ServerTransaction, Timings, client_key
from polykemi.transaction.tables import Action, Event, State
from polykemi.transaction.timers import Timers

MAGIC_COOKIE = "z9hG4bK"

_RECEIVE = (Event.RECEIVE_1XX, Event.RECEIVE_1XX, Event.RECEIVE_2XX) + (Event.RECEIVE_3XX_6XX,) * 4
_SEND = (Event.SEND_1XX, Event.SEND_1XX, Event.SEND_2XX) + (Event.SEND_3XX_6XX,) * 4
_LIMITS = frozenset((Event.TIMER_B, Event.TIMER_C, Event.TIMER_F))
_RETRANSMISSION = frozenset((Event.TIMER_A, Event.TIMER_E, Event.TIMER_G))


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
    if branch[:7] == MAGIC_COOKIE and len(branch) > 7:
        return f"{method} {branch} {via.host}:{via.port}"
    return f"{method} {request.uri} {request.from_.tag} {request.call_id} {request.cseq[0]} {via.text}"


def dialog_key(request: Request) -> str:
    """Return the alias of an accepted INVITE under which the ACK to its 2xx finds it: dialog and CSeq number."""
    return f"ACK {request.call_id} {request.from_.tag} {request.cseq[0]}"


class TransactionLayer:
    """All transactions of a server, by key."""

    __slots__ = ("_clients", "_send", "_servers", "_timers", "timings")

    def __init__(self, send: Callable[[bytes, Flow], None], timings: Timings | None = None) -> None:
        self.timings = timings or Timings()
        self._send = send
        self._servers: dict[str, ServerTransaction] = {}
        self._clients: dict[str, ClientTransaction] = {}
        self._timers = Timers(self.timings.all_lengths())

    def __len__(self) -> int:
        return len(self._servers) + len(self._clients)

    # ---- server side
    def server_of(self, request: Request, method: str = "") -> ServerTransaction | None:
        """Return the server transaction of ``request``, or that of the request ``method`` which it is about (CANCEL)."""
        return self._servers.get(server_key(request, method))

    def absorb(self, request: Request, now: float) -> bool:
        """Take a retransmission or the ACK to a non-2xx; False for all that is new to the layer. Raise ParseError."""
        server = self._servers.get(server_key(request))
        if server is None:
            return False
        if request.method != "ACK":
            self._fire(server, Event.REQUEST, now)
            return True
        if server.state == State.ACCEPTED or server.state == State.PROCEEDING:
            return False  # the ACK to a 2xx goes end to end, also when it carries the INVITE's branch
        self._fire(server, Event.ACK, now)
        return True

    def open_server(self, server: ServerTransaction) -> None:
        """Make ``server`` known: from now on retransmissions of its request are absorbed."""
        self._servers[server.key] = server

    def respond(self, server: ServerTransaction, status: int, data: bytes, now: float) -> bool:
        """Send the response ``data``; False when the machine takes none any more (a final one was sent)."""
        event = _SEND[status // 100]
        if event not in server.table[server.state]:
            return False
        server.data = data
        self._fire(server, event, now)
        return True

    def add_alias(self, server: ServerTransaction, alias: str) -> None:
        """Let ``server`` be found by ``alias`` too, as long as it lives."""
        server.aliases += (alias,)
        self._servers[alias] = server

    def by_alias(self, alias: str) -> ServerTransaction | None:
        """Return the server transaction that was given ``alias``."""
        return self._servers.get(alias)

    def server_transactions(self) -> list[ServerTransaction]:
        """Return all server transactions; those with an alias stand there more than once."""
        return list(self._servers.values())

    def close(self, machine: Machine) -> None:
        """End a transaction at once."""
        self._stop(machine)
        machine.state = State.TERMINATED
        self._forget(machine)

    # ---- client side
    def open_client(self, client: ClientTransaction, now: float) -> None:
        """Send the request of ``client`` and start its timers."""
        self._clients[client.key] = client
        self._send(client.data, client.flow)
        if client.method == "INVITE":
            self._start(client, Event.TIMER_A, now)
            self._start(client, Event.TIMER_B, now)
        else:
            self._start(client, Event.TIMER_E, now)
            self._start(client, Event.TIMER_F, now)

    def client_of(self, response: Response) -> ClientTransaction | None:
        """Return the client transaction of ``response``: by branch and CSeq method (section 17.1.3). Raise ParseError."""
        method = response.cseq[1]
        client = self._clients.get(client_key(response.via.branch, method))
        return client if client is not None and client.method == method else None

    def wait(self, client: ClientTransaction, now: float) -> None:
        """Let ``client`` wait without having sent anything; it fails after Timer C unless it is closed before."""
        client.state = State.PROCEEDING
        self._clients[client.key] = client
        self._start(client, Event.TIMER_C, now)

    def client_of_request(self, branch: str, method: str) -> ClientTransaction | None:
        """Return the client transaction that sent a request with ``branch``; for an ACK that of its INVITE."""
        return self._clients.get(client_key(branch, method))

    def receive(self, client: ClientTransaction, response: Response, now: float) -> bool:
        """Take a response; True when the transaction user is to get it (it is no retransmission)."""
        status = response.status
        if status >= 300 and client.method == "INVITE" and not client.ack_data and client.data:
            client.ack_data = client.make_ack(response.get("to") or "")
        passed = self._fire(client, _RECEIVE[status // 100], now) == Action.PASS
        if status >= 200 and client.state != State.TERMINATED:
            client.data = b""  # nothing of it is sent again
        return passed

    def transport_error(self, client: ClientTransaction, now: float) -> bool:
        """Take the news that the last thing sent could not go out; True when the transaction user is to be told."""
        return self._fire(client, Event.TRANSPORT_ERROR, now) == Action.FAIL

    def canceled(self, client: ClientTransaction, now: float) -> None:
        """Note that a CANCEL was sent: a client without a final response ends after 64*T1 (section 9.1)."""
        self._fire(client, Event.CANCELED, now)

    def restart_timeouts(self, client: ClientTransaction, now: float) -> None:
        """Start the timer that limits the waiting again, after ``timings`` or ``expires`` have changed."""
        timer = client.timeout
        if timer is not None and timer.owner is not None and timer.event in _LIMITS:
            self._start(client, timer.event, now)

    # ---- time
    def next_timeout(self) -> float | None:
        """Return when ``run_timers`` has something to do (seconds since the epoch), None for never."""
        return self._timers.next_timeout()

    def run_timers(self, now: float) -> ClientTransaction | None:
        """Run the timers due at ``now`` up to one that fails a client, and return that; None when all have run."""
        while (due := self._timers.pop(now)) is not None:
            machine, event = due
            if self._fire(machine, event, now) == Action.FAIL:
                client: ClientTransaction = machine
                return client
        return None

    # ---- the machines
    def _fire(self, machine: Machine, event: int, now: float) -> int:
        """Move ``machine`` by ``event``; return Action.PASS or FAIL when its user is concerned, else 0."""
        step = machine.table[machine.state].get(event)  # type: ignore[call-overload]
        if step is None:
            return 0
        machine.state, actions = step
        result = 0
        for action in actions:
            if action == Action.SEND:
                if machine.data:
                    self._send(machine.data, machine.flow)
            elif action >= Action.START_A:
                self._start(machine, action, now)
            elif action == Action.STOP:
                self._stop(machine)
            elif action == Action.BACK_OFF:
                interval = machine.interval * 2
                if event != Event.TIMER_A:
                    interval = min(interval, machine.timings.t2)
                self._retransmit_after(machine, interval, event, now)
            elif action == Action.SLOW_DOWN:
                self._retransmit_after(machine, machine.timings.t2, event, now)
            elif action == Action.SEND_ACK:
                self._send(machine.ack_data, machine.flow)  # type: ignore[attr-defined]
            else:
                result = action
        if machine.state == State.TERMINATED:
            self._stop(machine)
            self._forget(machine)
        return result

    def _start(self, machine: Machine, event: int, now: float) -> None:
        length = machine.timings.lengths[event]
        if event in _RETRANSMISSION:
            self._retransmit_after(machine, length, event, now)
            return
        timer = machine.timeout
        if event in _LIMITS:
            if event == Event.TIMER_C and timer is not None and timer.event == Event.TIMER_B:
                return  # a CANCEL was sent: what still comes does not lengthen the wait
            expires = machine.expires  # type: ignore[attr-defined]
            if expires and now + length > expires:
                length = max(expires - now, 0.0)
        if timer is not None:
            self._timers.stop(timer)
        machine.timeout = self._timers.start(length, machine, event, now)

    def _retransmit_after(self, machine: Machine, interval: float, event: int, now: float) -> None:
        if machine.retransmission is not None:
            self._timers.stop(machine.retransmission)
        machine.interval = interval
        machine.retransmission = self._timers.start(interval, machine, event, now)

    def _stop(self, machine: Machine) -> None:
        if machine.retransmission is not None:
            self._timers.stop(machine.retransmission)
            machine.retransmission = None
        if machine.timeout is not None:
            self._timers.stop(machine.timeout)
            machine.timeout = None

    def _forget(self, machine: Machine) -> None:
        if isinstance(machine, ServerTransaction):
            self._servers.pop(machine.key, None)
            for alias in machine.aliases:
                self._servers.pop(alias, None)
        else:
            self._clients.pop(machine.key, None)
