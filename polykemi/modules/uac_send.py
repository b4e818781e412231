"""uac: ``$uac_req(...)``, the request that a script fills in, and ``uac_req_send``, which sends it. Part of uac."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from polykemi.errors import ParseError
from polykemi.kemi.context import Process, RouteContext
from polykemi.kemi.faked import event_context
from polykemi.kemi.registry import Xval
from polykemi.kemi.route import Route
from polykemi.modules.base import Services
from polykemi.modules.tm import Tm
from polykemi.modules.tm_local import LocalReply, LocalRequest
from polykemi.modules.uac_auth import Credential, once_more
from polykemi.pv.accessor import Accessor, Factory
from polykemi.pv.classes.factories import keyed
from polykemi.sip.flow import Listener

log = logging.getLogger("polykemi.uac")

REPLY: Final = "uac:reply"
_HA1: Final = 1  # flag: apasswd is H(user:realm:password)
_FINAL: Final = 1  # evroute: told of every final response
_FAILURE: Final = 2  # ... of those that are no 2xx, and not of those that ask for credentials
_REPLIED: Final = 1  # evtype
_TIMED_OUT: Final = 2
_LONGEST: Final = {  # one octet less than Kamailio's buffers
    "method": 31,
    "ruri": 1023,
    "turi": 1023,
    "furi": 1023,
    "ouri": 1023,
    "sock": 1023,
    "callid": 127,
    "hdrs": 2047,
    "body": 32767,
    "auser": 127,
    "apasswd": 63,
    "evparam": 127,
}
_NUMBERS: Final = ("flags", "evroute", "evcode", "evtype")
_KEPT: Final = frozenset(("sock", "auser", "apasswd"))  # $uac_req(all) = null leaves them, as Kamailio does


@dataclass(slots=True)
class Wanted:
    """The fields of $uac_req."""

    method: str = ""
    ruri: str = ""
    turi: str = ""
    furi: str = ""
    ouri: str = ""
    sock: str = ""
    callid: str = ""
    hdrs: str = ""
    body: str = ""
    auser: str = ""
    apasswd: str = ""
    evparam: str = ""
    flags: int = 0
    evroute: int = 0
    evcode: int = 0
    evtype: int = 0


class Sender:
    """One request at a time, filled in field by field; every script sees the same fields."""

    def __init__(self, services: Services, listener_of: Callable[[str], Listener | None], callback: str) -> None:
        self._services = services
        self._listener_of = listener_of
        self._callback = callback
        self._wanted = Wanted()

    # ---- $uac_req
    def variable(self) -> Factory:
        """Return the class $uac_req."""
        fields: dict[str, Accessor] = {name: self._text(name) for name in _LONGEST}
        fields |= {name: self._number(name) for name in _NUMBERS}
        fields["all"] = Accessor(lambda ctx: self._wanted.flags, self._reset)
        return keyed(fields)

    def _text(self, name: str) -> Accessor:
        def read(ctx: RouteContext) -> Xval:
            return getattr(self._wanted, name) or None

        def write(ctx: RouteContext, value: Xval) -> bool:
            if isinstance(value, int) or (value is not None and len(value) > _LONGEST[name]):
                log.error("$uac_req(%s): expected a text of at most %d octets", name, _LONGEST[name])
                return False
            setattr(self._wanted, name, value or "")
            return True

        return Accessor(read, write)

    def _number(self, name: str) -> Accessor:
        def read(ctx: RouteContext) -> Xval:
            return int(getattr(self._wanted, name))

        def write(ctx: RouteContext, value: Xval) -> bool:
            if isinstance(value, str):
                log.error("$uac_req(%s): expected a number", name)
                return False
            setattr(self._wanted, name, value or 0)
            return True

        return Accessor(read, write)

    def _reset(self, ctx: RouteContext, value: Xval) -> bool:
        if value is None:
            kept = {name: getattr(self._wanted, name) for name in _KEPT}
            self._wanted = Wanted(**kept)
        return True

    # ---- sending
    def send(self, ctx: RouteContext) -> Process[int]:
        """Send what the fields say. Answers 1, or -1 when method, URI or a way to the next hop are missing."""
        wanted = self._wanted
        if not wanted.ruri or not wanted.method:
            return -1
        listener = None
        if wanted.sock:
            listener = self._listener_of(wanted.sock)
            if listener is None:
                log.warning("uac_req_send: %r is no socket of ours", wanted.sock)
        request = LocalRequest(
            wanted.method,
            wanted.ruri,
            wanted.furi or wanted.ruri,
            wanted.turi or wanted.ruri,
            headers=[line for line in wanted.hdrs.split("\r\n") if line],
            body=wanted.body.encode("latin-1"),
            dst_uri=wanted.ouri,
            call_id=wanted.callid,
            listener=listener or self._listener_of(""),
        )
        on_end = None
        if wanted.evroute or (wanted.auser and wanted.apasswd):
            on_end = _Sent(self, copy.copy(wanted)).ended
        done = yield from self._tm.request_at_once(request, ctx.now, on_end)
        return 1 if done >= 0 else -1

    @property
    def _tm(self) -> Tm:
        tm: Tm = self._services.modules["tm"]
        return tm

    def again(self, request: LocalRequest, sent: _Sent, reply: LocalReply) -> None:
        """Send ``request`` again with the credentials that ``reply`` asks for."""
        assert reply.response is not None
        wanted = sent.wanted
        credential = Credential("", wanted.auser, wanted.apasswd, is_ha1=bool(wanted.flags & _HA1))
        try:
            request = once_more(request, reply.response, credential, self._services.ids)
        except ParseError as error:
            log.error("uac_req_send: %s", error.reason)
            return
        sent.authenticated = True
        if self._tm.request(request, reply.now, sent.ended if wanted.evroute else None) < 0:
            log.error("uac_req_send: cannot send the request with credentials")

    def event(self, wanted: Wanted, reply: LocalReply) -> Iterable[RouteContext]:
        """Return the event route block that is told of ``reply``; $uac_req is then as it was sent."""
        if not self._callback or not self._services.routes.defines(Route.EVENT, self._callback):
            return
        self._wanted = copy.copy(wanted)
        self._wanted.evcode = reply.status
        if reply.response is None:
            self._wanted.evtype = _TIMED_OUT
            yield event_context(self._callback, REPLY, self._services.listeners[0], reply.now)
            return
        self._wanted.evtype = _REPLIED
        block = RouteContext(Route.EVENT, self._callback, reply.response, reply.flow, reply.now)
        block.event = REPLY
        block.reply_status = reply.status
        yield block


class _Sent:
    """A request that is on its way, and what is to be done with its answer."""

    def __init__(self, sender: Sender, wanted: Wanted) -> None:
        self.sender = sender
        self.wanted = wanted
        self.authenticated = False

    def ended(self, reply: LocalReply) -> Iterable[RouteContext]:
        """Tell the script, and answer a challenge."""
        wanted = self.wanted
        challenged = reply.status in (401, 407) and reply.response is not None and not self.authenticated
        answers = challenged and bool(wanted.apasswd)
        if wanted.evroute and (wanted.evroute != _FAILURE or (reply.status >= 300 and not answers)):
            yield from self.sender.event(wanted, reply)
        if answers:
            self.sender.again(reply.request, self, reply)


EVENTS: Final[Mapping[str, str]] = {
    REPLY: "the final response to a request of uac_req_send, or none; $uac_req(evcode) is its status, "
    "$uac_req(evtype) 1 for a response and 2 for none"
}
