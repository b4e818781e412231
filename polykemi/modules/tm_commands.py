"""What an operator asks tm: which transactions there are, and to end one (Kamailio: the RPC commands tm.*). Part of tm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from polykemi.errors import NoRequest, ParseError, RpcError
from polykemi.kemi.rpc import Later, Refusal, rpc
from polykemi.modules.tm_local import LocalClient, LocalReply, LocalRequest, ack_request, next_hop_of, of_headers
from polykemi.sip.build import response
from polykemi.sip.flow import Listener, find_listener
from polykemi.sip.message import Message, Response, parse
from polykemi.sip.uri import parse_uri
from polykemi.transaction.forking import Transaction

if TYPE_CHECKING:
    from polykemi.modules.tm import Tm

_MOST_LISTED: Final = 1000  # transactions in an answer: as long as it is made, no message is routed
_NOT_FOUND: Final = "Transaction not found"
_CODE: Final[Refusal] = (400, "Reply code expected")
_WHICH: Final[Refusal] = (400, "Callid and CSeq expected as parameters")
_TOO_FEW: Final[Refusal] = (400, "too few parameters")
_INVITE, _LOCAL, _CANCELED = 1, 2, 8  # bits of tflags, as in Kamailio


class TmCommands:
    """The commands."""

    def __init__(self, tm: Tm) -> None:
        self._tm = tm

    @rpc("tm.stats")
    def stats(self) -> dict[str, int]:
        """Count transactions: now, in all, by the class of their final response; waiting: those that are answered."""
        counters = self._tm.services.counters
        ours = sum(1 for _ in self._ours())
        servers = list(self._servers())
        total_local = self._tm.local.total
        total = counters["tmx.UAS_transactions"] + total_local
        current = len(servers) + ours
        return {
            "current": current,
            "waiting": sum(t.is_answered for t in servers),
            "total": total,
            "total_local": total_local,
            "rpl_received": counters["tmx.rpl_received"],
            "rpl_generated": counters["tmx.rpl_generated"],
            "rpl_sent": counters["tmx.rpl_sent"],
            **{f"{n}xx": counters[f"tmx.{n}xx_transactions"] for n in (6, 5, 4, 3, 2)},
            "created": total,
            "freed": total - current,
            "delayed_free": 0,
        }

    @rpc("tm.list")
    def list(self, *, now: float) -> list[dict[str, Any]]:
        """List the transactions, up to 1,000; lifetime: seconds that one has left at most, 0: it has no such limit."""
        out: list[dict[str, Any]] = []
        for t in self._servers():
            if len(out) == _MOST_LISTED:
                return out
            flags = (t.method == "INVITE") * _INVITE | t.canceled * _CANCELED
            row = self._described(t, _message_of(t), now, flags, len(t.branches))
            out.append(row | {"tindex": t.id_index, "tlabel": t.label})
        for client in self._ours():
            if len(out) == _MOST_LISTED:
                break
            flags = (client.method == "INVITE") * _INVITE | _LOCAL
            out.append(self._described(client, _parsed(client.data), now, flags, 1))
        return out

    def _described(
        self, one: Transaction | LocalClient, message: Message | None, now: float, flags: int, outgoings: int
    ) -> dict[str, Any]:
        def line(name: str) -> str:
            value = message.get(name) if message is not None else None
            return f"{_WRITTEN[name]}: {value}\r\n" if value is not None else ""

        return {
            "cell": hex(id(one)),
            "tindex": 0,
            "tlabel": 0,
            "method": one.method,
            "from": line("from"),
            "to": line("to"),
            "callid": line("call-id"),
            "cseq": line("cseq").rpartition(" ")[0],
            "uas_request": "yes" if isinstance(one, Transaction) else "no",
            "tflags": flags,
            "outgoings": outgoings,
            "ref_count": 1,
            "lifetime": max(int(one.expires - now), 0) if one.expires else 0,
        }

    @rpc("tm.clean")
    def clean(self, *, now: float) -> dict[str, Any]:
        """End transactions that should have ended 90 seconds ago at the latest."""
        self._tm.end_overdue(now)
        return {}

    @rpc("tm.cancel", _WHICH)
    def cancel(self, callid: str, cseq: str, *, now: float) -> Any:
        """Cancel the branches of an INVITE that is not answered yet."""
        t = self._invite(callid, cseq)
        if t is None:
            raise RpcError(400, _NOT_FOUND)
        waiting = self._tm.replier.cancel_branches(t, now)
        return "branches remaining (waiting for timeout)" if waiting else {}

    @rpc("tm.reply", _CODE)
    def reply(
        self, code: int, reason: str = "", trans_id: str = "", to_tag: str = "", body: str = "", *, now: float
    ) -> dict[str, Any]:
        """Reply to the request of a transaction; trans_id: ``index:label`` as tm.list shows them."""
        self._check(reason, (trans_id, "Transaction ID expected"), (to_tag, "To tag expected"))
        index, colon, label = trans_id.partition(":")
        if not (colon and index.isdecimal() and label.isdecimal()):
            raise RpcError(400, "Invalid transaction ID")
        found = (t for t in self._servers() if str(t.id_index) == index and str(t.label) == label)
        t = next(found, None)
        if t is None:
            raise RpcError(481, "No such transaction")
        return self._reply(t, code, reason, to_tag, body, now)

    @rpc("tm.reply_callid", _CODE)
    def reply_callid(
        self, code: int, reason: str = "", callid: str = "", cseq: str = "", to_tag: str = "", body: str = "",
        *, now: float,
    ) -> dict[str, Any]:  # fmt: skip
        """Reply to the INVITE with a Call-ID and the number of its CSeq, when it is not answered yet."""
        missing = ((callid, "Call-ID expected"), (cseq, "CSeq expected"), (to_tag, "To tag expected"))
        self._check(reason, *missing)
        t = self._invite(callid, cseq)
        if t is None:
            raise RpcError(404, _NOT_FOUND)
        return self._reply(t, code, reason, to_tag, body, now)

    @rpc("tm.t_uac_start", _TOO_FEW)
    def uac_start(
        self, method: str, ruri: str, nexthop: str, socket: str, headers: str, body: str = "", *, now: float
    ) -> dict[str, Any]:
        """Send a request of our own, and do not wait for its answer; "." stands for no nexthop, socket or body.

        ``headers`` have From and To, perhaps Call-ID and CSeq, each line with its end.
        """
        self._start((method, ruri, nexthop, socket, headers, body), now, _nothing)
        return {}

    @rpc("tm.t_uac_wait", _TOO_FEW)
    def uac_wait(
        self, method: str, ruri: str, nexthop: str, socket: str, headers: str, body: str = "", *, now: float
    ) -> Later:
        """Do as tm.t_uac_start, and answer when the final response has come.

        The answer: code and reason; of a 2xx the remote target, the next hop and the Route header of what follows in its
        dialog; the response's headers and body. Without any response 408 or 503, and empty texts.
        """
        return self._wait((method, ruri, nexthop, socket, headers, body), now, _told)

    @rpc("tm.t_uac_wait_block", _TOO_FEW)
    def uac_wait_block(
        self, method: str, ruri: str, nexthop: str, socket: str, headers: str, body: str = "", *, now: float
    ) -> Later:
        """Do as tm.t_uac_wait; the answer is code and text alone. Nothing is blocked meanwhile."""
        given = (method, ruri, nexthop, socket, headers, body)
        return self._wait(given, now, lambda code, text, *_: {"code": code, "text": text})

    def _wait(self, given: tuple[str, ...], now: float, told: Callable[[int, str, LocalReply | None], Any]) -> Later:
        out = Later()
        self._start(
            given,
            now,
            lambda reply: out.settle(told(reply.status, reply.reason, reply)),
            lambda: out.settle(told(503, "Not sent", None)),
        )
        return out

    def _start(
        self,
        given: tuple[str, ...],
        now: float,
        on_end: Callable[[LocalReply], None],
        dropped: Callable[[], None] | None = None,
    ) -> None:
        method, ruri, nexthop, socket, headers, body = given
        next_hop, body = ("" if text == "." else text for text in (nexthop, body))
        listener = self._listener(socket)
        _check_uri(ruri, "request")
        if next_hop:
            _check_uri(next_hop, "next-hop")
        try:
            lines = "\r\n".join(headers.replace("\r\n", "\n").split("\n"))
            request = of_headers(method, ruri, next_hop, lines, body, listener)
        except ParseError as error:
            raise RpcError(400, f"Invalid headers: {error.reason}") from None
        if socket != ".":
            request.listener = listener
        request.dropped = dropped
        sent = self._tm.request(request, now, on_end)
        if sent < 0:
            raise RpcError(500, f"{ruri}: not sent ({sent})")

    def _listener(self, socket: str) -> Listener:
        listeners = self._tm.services.listeners
        found = listeners[0] if socket == "." else find_listener(socket, listeners)
        if found is None:
            raise RpcError(400, f'No local socket for "{socket}"')
        return found

    def _check(self, reason: str, *wanted: tuple[str, str]) -> None:
        for value, cause in ((reason, "Reason phrase expected"), *wanted):
            if not value:
                raise RpcError(400, cause)
        if "\n" in reason or "\r" in reason:
            raise RpcError(400, "Reason phrase expected, one line")

    def _reply(self, t: Transaction, code: int, reason: str, to_tag: str, body: str, now: float) -> dict[str, Any]:
        if not 100 <= code <= 699 or "\n" in to_tag or "\r" in to_tag:
            raise RpcError(400, "expected a status from 100 to 699, and a tag")
        try:
            data = response(
                t.request,
                code,
                reason,
                to_tag="" if code == 100 else to_tag,
                received=t.received,
                rport=t.rport,
                headers=t.reply_headers,
                body=body.encode("latin-1"),
                server=self._tm.services.server_header,
            )
        except NoRequest:
            data = b""
        if not data or t.is_answered or not self._tm.replier.send(t, code, data, now):
            raise RpcError(400, "the request is answered already")
        return {}

    def _invite(self, callid: str, cseq: str) -> Transaction | None:
        for t in self._servers():
            if t.method == "INVITE" and not t.is_answered and t.request.call_id == callid:
                if str(t.request.cseq[0]) == cseq:
                    return t
        return None

    def _servers(self) -> Iterator[Transaction]:
        """Give each transaction once: one with an alias stands in the layer more than once."""
        for t in dict.fromkeys(self._tm.layer.server_transactions()):
            if isinstance(t, Transaction):
                yield t

    def _ours(self) -> Iterator[LocalClient]:
        """Give the transactions of our own requests."""
        for client in self._tm.layer.client_transactions():
            if isinstance(client, LocalClient):
                yield client


_WRITTEN: Final = {"from": "From", "to": "To", "call-id": "Call-ID", "cseq": "CSeq"}


def _message_of(t: Transaction) -> Message | None:
    """Return the request; when it was let go the response, which has the same headers."""
    try:
        return t.request
    except NoRequest:
        return _parsed(t.data)


def _parsed(data: bytes) -> Message | None:
    try:
        return parse(data) if data else None
    except ParseError:
        return None


def _check_uri(uri: str, what: str) -> None:
    try:
        parse_uri(uri)
    except ParseError:
        raise RpcError(400, f'Invalid {what} uri "{uri}"') from None


def _nothing(reply: LocalReply) -> None:
    """Take the end of a request that nobody waits for."""


def _told(status: int, reason: str, reply: LocalReply | None) -> list[Any]:
    """Return what tm.t_uac_wait says of the end of a request."""
    response = None if reply is None else reply.response
    if reply is None or response is None:
        return [status, reason, "", "", "", ""]
    text = response.raw.lstrip(b"\r\n").partition(b"\r\n")[2].decode("latin-1")
    if status >= 300:
        return [status, reason, text]
    return [status, reason, *_following(reply.request, response), text]


def _following(request: LocalRequest, response: Response) -> tuple[str, str, str]:
    """Return where requests in the dialog of ``response`` go, empty where it does not say."""
    if not response.list("contact"):
        return "", "", ""
    try:
        next_one = ack_request(request, response)
        routes = ", ".join(next_one.routes)
        return next_one.uri, next_hop_of(next_one), f"Route: {routes}" if routes else ""
    except ParseError:
        return "", "", ""
