"""outbound: which requests keep to a flow, and the tokens by which a proxy finds flows again (RFC 5626; Kamailio: outbound).

It exports no functions, as in Kamailio: path writes tokens into Path, rr into Record-Route, and rr follows them.
"""

from __future__ import annotations

import binascii
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.modules.base import Module, Services
from polykemi.modules.local_via import ONWARD
from polykemi.sip.flow import Flow, Listener, TokenFlow, bracketed, find_listener
from polykemi.sip.header import parse_name_addr, split_quoted
from polykemi.sip.message import Request
from polykemi.sip.uri import Uri, parse_uri

NOT_USED: Final = 0  # results of use_outbound
NEW_TOKEN: Final = 1
SAME_TOKEN: Final = 2

_PREFIX: Final = "ob."
_SIGNED: Final = 10  # octets of the signature, as RFC 5626 section 5.2 has it
_NO_CONNECTION: Final = 0


@dataclass(frozen=True, slots=True)
class OutboundParams:
    """Kamailio's names and defaults. Without a ``flow_token_secret`` the server makes one, and keeps it beyond its end."""

    force_outbound_flag: int = -1  # outbound is used for requests with this message flag, -1: none
    force_no_outbound_flag: int = -1  # and not for those with this one
    flow_token_secret: str = ""  # the same on all proxies that share an address

    def __post_init__(self) -> None:
        for name in ("force_outbound_flag", "force_no_outbound_flag"):
            if not -1 <= getattr(self, name) <= 31:
                raise ValueError(f"{name}: expected a message flag, 0 to 31, or -1")


class Outbound(Module):
    """Flow tokens. Loaded only where the configuration names it: phones that ask for outbound get it then."""

    name = "outbound"
    Params = OutboundParams
    params: OutboundParams
    by_default: ClassVar[bool] = False

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self._key = b""

    def start(self, now: float) -> None:
        """Find the key that tokens are signed with. Raise DataError."""
        secret = self.params.flow_token_secret
        self._key = secret.encode("latin-1") if secret else self.services.lasting_secret("outbound.flow_token")

    # ---- when
    def use_outbound(self, ctx: RouteContext) -> int:
        """Tell whether a request keeps to the flow that it came on: 0 no, 1 yes, 2 yes, by the token that its top Route has.

        REGISTERs with ``reg-id`` do, and requests with ``ob`` in their top Route, which names us, or in the Contact of a
        phone that is our neighbour (RFC 5626 sections 5.1 and 5.3).
        """
        message, flags, p = ctx.message, ctx.shared.flags, self.params
        if not isinstance(message, Request):
            return NOT_USED
        if p.force_outbound_flag >= 0 and flags >> p.force_outbound_flag & 1:
            return NEW_TOKEN
        if p.force_no_outbound_flag >= 0 and flags >> p.force_no_outbound_flag & 1:
            return NOT_USED
        try:
            if message.method == "REGISTER":
                is_ours = is_neighbour(message) and bool(_contact_of(message, "reg-id").param("reg-id"))
                return NEW_TOKEN if is_ours else NOT_USED
            return self._of_request(ctx, message)
        except ParseError:
            return NOT_USED

    def _of_request(self, ctx: RouteContext, request: Request) -> int:
        route = request.get("route")
        if route is not None and ";ob" in route:
            uri = parse_uri(parse_name_addr(split_quoted(route, ",")[0]).uri)
            if not self._is_ours(uri):
                return NOT_USED
            if uri.param("ob") is not None:
                flow = self._decoded(uri.user)
                is_incoming = flow is not None and flow[1:] != ctx.flow[1:]
                return SAME_TOKEN if is_incoming else NEW_TOKEN
        if request.has("supported") and not any(tag.lower() == "outbound" for tag in request.list("supported")):
            return NOT_USED
        if not is_neighbour(request):
            return NOT_USED
        return NEW_TOKEN if parse_uri(_contact_of(request, ";ob").uri).param("ob") is not None else NOT_USED

    def _is_ours(self, uri: Uri) -> bool:
        return uri.param("gr") is None and self.services.is_myself(uri.host, uri.effective_port)

    # ---- tokens
    def token(self, flow: Flow) -> str:
        """Return the token of ``flow``, a user part: who has not made it cannot make another (section 5.2)."""
        connections = self.services.connections
        ident = _NO_CONNECTION if flow.listener.proto == "udp" else max(connections.ident(flow), _NO_CONNECTION)
        told = f"{flow.listener}|{bracketed(flow.host)}:{flow.port}|{ident:x}".encode("latin-1")
        return _PREFIX + urlsafe_b64encode(self._signature(told) + told).decode("ascii").rstrip("=")

    def _signature(self, told: bytes) -> bytes:
        return hmac.digest(self._key, told, "sha256")[:_SIGNED]

    def _decoded(self, token: str) -> Flow | None:
        """Return the flow of a token, None for a text that is none. Raise ParseError for a forged one.

        A connection that is gone leaves a flow with port 0, over which nothing can be sent.
        """
        text = token.removeprefix(_PREFIX)
        if text == token:
            return None
        try:
            octets = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except (binascii.Error, ValueError):
            octets = b""
        told = octets[_SIGNED:]
        if not told or not hmac.compare_digest(octets[:_SIGNED], self._signature(told)):
            raise ParseError("Bad flow token")
        ours, peer, ident = told.decode("latin-1").split("|")
        listener = find_listener(ours, self.services.listeners)
        if listener is None:
            raise ParseError("a flow token of a listener that is no more")
        host, _, port = peer.rpartition(":")
        flow = Flow(listener, host.strip("[]"), int(port))
        if listener.proto != "udp" and self.services.connections.flow_of(int(ident, 16)) != flow:
            return Flow(listener, flow.host, 0)
        return flow

    def follow(self, ctx: RouteContext, token: str) -> bool:
        """Send the request over the flow that the token in our own Route names (section 5.3); False when there is none.

        Neither is there one in a request that comes from the phone itself. What cannot be sent over the flow has failed
        with 430. Raise ParseError for a forged token.
        """
        flow = self._decoded(token)
        if flow is None or flow[1:] == ctx.flow[1:]:
            return False
        ctx.force_listener = flow.listener
        ctx.dst_uri = f"sip:{bracketed(flow.host)}:{flow.port or 1};transport={flow.listener.transport}"

        def onward(listener: Listener, host: str, port: int) -> Flow:
            is_meant = (listener, host) == flow[:2] and port == (flow.port or 1)  # not where a script has sent it since
            return TokenFlow(*flow) if is_meant else Flow(listener, host, port)

        ctx.cache[ONWARD] = onward
        return True


def is_neighbour(request: Request) -> bool:
    """Tell whether the request comes from the phone itself: it has one Via."""
    return "via" not in request.shape.repeated and "," not in (request.get("via") or "")


def _contact_of(request: Request, wanted: str) -> Any:
    """Return the first Contact. Raise ParseError when there is none, or ``wanted`` is not in it."""
    text = request.get("contact")
    if text is None or wanted not in text.lower():
        raise ParseError("no such Contact")
    return parse_name_addr(split_quoted(text, ",")[0] if "," in text else text)
