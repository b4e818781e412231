"""rr: record routing and loose routing (RFC 3261 sections 16.4, 16.6 steps 4 and 6, 16.12)."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from polykemi.errors import DataError, ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.posix import BadPattern, compile_posix
from polykemi.kemi.registry import export
from polykemi.kemi.route import Route
from polykemi.modules.base import Module, Services
from polykemi.modules.outbound import NEW_TOKEN, SAME_TOKEN, Outbound
from polykemi.sip.flow import Listener, is_at
from polykemi.sip.grammar import canonical_host
from polykemi.sip.header import parse_name_addr, parse_params, split_quoted
from polykemi.sip.message import Edits, Message
from polykemi.sip.uri import Uri, parse_uri
from polykemi.transaction.target import Shared

log = logging.getLogger("polykemi.script")

_ON_REQUESTS: Final = Route.REQUEST | Route.BRANCH | Route.FAILURE

# URI parameters that need no parser: none has a separator in it, none is the transport
_PLAIN_PARAMS: Final = re.compile(r"(?:(?![Tt][Rr])[A-Za-z0-9\-._!~*'()+%=]*+(?:;|\Z))*+")
_MAX_KNOWN: Final = 4096

FLOW_TOKEN_BROKEN: Final = -2

_PENDING: Final = "rr.pending"  # ctx.cache: parameters given to add_rr_param before record_route


@dataclass(frozen=True, slots=True)
class Params:
    """``enable_full_lr``: write ``lr=on``; ``append_fromtag``: add ``ftag``; ``enable_double_rr``: two headers when the
    request leaves from another listener than it came in on (2: always); ``ignore_sips``: write ``sip:`` also for sips;
    ``add_username``: write the user of the Request-URI too, or that in the variable ``custom_user_avp``.
    ``enable_socket_mismatch_warning`` has no effect: there is nothing to warn of.
    """

    enable_full_lr: int = 0
    append_fromtag: int = 1
    enable_double_rr: int = 1
    ignore_sips: int = 0
    add_username: int = 0
    custom_user_avp: str = ""
    enable_socket_mismatch_warning: int = 1

    def __post_init__(self) -> None:
        if self.custom_user_avp and not self.custom_user_avp.startswith("$"):
            raise ValueError(f"custom_user_avp: expected a variable, got {self.custom_user_avp!r}")


class Rr(Module):
    """Record-Route and Route headers."""

    name = "rr"
    Params = Params

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self._addresses: dict[Listener, str] = {}  # what stands in our Record-Route behind the scheme
        self._own = frozenset(listener.sent_by for listener in services.listeners)
        self._ours: dict[str, bool] = {}  # URI -> whether it names us
        services.on_domains.append(self._ours.clear)
        # called with the parameters of our own Route when loose_route has taken it away (Kamailio: register_rrcb)
        self.on_routed: list[Callable[[RouteContext, str], None]] = []
        self._outbound: Outbound | None = None

    def start(self, now: float) -> None:
        """Use flow tokens where outbound is loaded. Raise DataError."""
        self._outbound = self.services.modules.get("outbound")
        if self._outbound is not None and self.params.add_username:
            raise DataError("rr: add_username: expected 0, for the user part is that of outbound's flow tokens")

    # ---- Record-Route
    @export(routes=_ON_REQUESTS)
    def record_route(self, ctx: RouteContext) -> int:
        """Add our Record-Route before the others. Answers 1, or -1 when there is one of ours already."""
        return self._record(ctx, "")

    @export(routes=_ON_REQUESTS)
    def record_route_params(self, ctx: RouteContext, params: str) -> int:
        """Add our Record-Route with URI parameters of its own: ``;name=value``. Answers 1 or -1."""
        if any(c in params for c in "<>\r\n"):
            return -1
        return self._record(ctx, params)

    @export(routes=_ON_REQUESTS)
    def record_route_preset_one(self, ctx: RouteContext, address: str) -> int:
        """Add a Record-Route made of ``address``: host, port and parameters without scheme. Answers 1 or -1."""
        return self._preset(ctx, (address,))

    @export(routes=_ON_REQUESTS)
    def record_route_preset(self, ctx: RouteContext, outbound: str, inbound: str) -> int:
        """Add two Record-Routes: ``outbound`` on top, then ``inbound`` (left out when ""). Answers 1 or -1."""
        return self._preset(ctx, (outbound, inbound) if inbound else (outbound,))

    @export(routes=_ON_REQUESTS)
    def record_route_advertised_address(self, ctx: RouteContext, address: str) -> int:
        """Add a Record-Route with ``address`` (host and port) in place of our own. Answers 1 or -1."""
        proto = ctx.flow.listener.transport
        transport = "" if proto == "udp" else f";transport={proto}"
        return self._preset(ctx, (address + transport,))

    def _record(self, ctx: RouteContext, params: str) -> int:
        came_in = ctx.flow.listener
        goes_out = ctx.force_listener or came_in
        lr = ";lr=on" if self.params.enable_full_lr else ";lr"
        tail = lr + self._from_tag(ctx) + params + str(ctx.cache.get(_PENDING, ""))
        mode = self.params.enable_double_rr
        if mode == 2 or (mode == 1 and goes_out is not came_in and goes_out != came_in):
            tail = ";r2=on" + tail
            both = (self._address(goes_out) + tail, self._address(came_in) + tail)
            return self._insert(ctx, both, self._user(ctx))
        return self._insert(ctx, (self._address(came_in) + tail,), self._user(ctx))

    def _user(self, ctx: RouteContext) -> str:
        """Return the user part that our Record-Route gets: ``user@``, or nothing."""
        if self._outbound is not None:
            return self._flow_token(ctx, self._outbound)
        return self._username(ctx) if self.params.add_username else ""

    def _flow_token(self, ctx: RouteContext, outbound: Outbound) -> str:
        """Return the token of the flow that the request came on, or the one that it was routed by (RFC 5626 section 5.3)."""
        use = outbound.use_outbound(ctx)
        if use == NEW_TOKEN:
            return f"{outbound.token(ctx.flow)}@"
        if use == SAME_TOKEN:
            return f"{parse_uri(parse_name_addr(ctx.message.list('route')[0]).uri).user}@"
        return ""

    def _username(self, ctx: RouteContext) -> str:
        """Return the user part that add_username wants."""
        name = self.params.custom_user_avp
        user = self.services.variables.getters[name](ctx) if name else None
        if not isinstance(user, str) or not user:
            request = ctx.request
            user = request.parsed_uri.user or parse_uri(ctx.ruri).user
        return f"{user}@" if user else ""

    def _address(self, listener: Listener) -> str:
        address = self._addresses.get(listener)
        if address is None:
            address = self._addresses[listener] = listener.route
        return address

    def _preset(self, ctx: RouteContext, addresses: tuple[str, ...]) -> int:
        if not addresses[0] or any(c in address for address in addresses for c in "<>\r\n "):
            return -1
        lr = ";lr=on" if self.params.enable_full_lr else ";lr"
        tail = self._from_tag(ctx) + str(ctx.cache.get(_PENDING, "")) + lr
        token = self._flow_token(ctx, self._outbound) if self._outbound is not None else ""
        return self._insert(ctx, tuple(address + tail for address in addresses), token)

    def _from_tag(self, ctx: RouteContext) -> str:
        """Return ``;ftag=`` with the tag of the dialog's caller: of From, in requests from the callee of To."""
        if not self.params.append_fromtag:
            return ""
        message = ctx.message
        params = ctx.shared.route_params
        upstream = bool(params) and self.is_direction(ctx, "upstream") > 0
        tag = message.to.tag if upstream else message.from_.tag
        return f";ftag={tag}" if tag else ""

    def _insert(self, ctx: RouteContext, values: tuple[str, ...], user: str = "") -> int:
        inserts, shared = ctx.edits.inserts, ctx.shared
        if shared.record_routes and _own_inserts(inserts, shared):
            return -1
        sips = ctx.ruri[:5].lower() == "sips:" and not self.params.ignore_sips
        scheme = "sips" if sips else "sip"
        for value in values:
            line = f"Record-Route: <{scheme}:{user}{value}>"
            shared.record_routes += (line,)
            inserts.append((0, line))
        return 1

    def doubled(self, edits: Edits, shared: Shared, came_in: Listener, goes_out: Listener) -> Edits:
        """Return ``edits`` with our Record-Route written twice: the request leaves by another listener than it came to.

        Each side then finds in the route set the address that it can reach (Kamailio: enable_double_rr, ``r2=on``).
        """
        if not self.params.enable_double_rr:
            return edits
        address = f"{self._address(came_in)};"
        for i in _own_inserts(edits.inserts, shared):
            place, text = edits.inserts[i]
            own = next((before + address for before in ":@" if before + address in text), "")
            if own and ";r2=on" not in text:
                inner = text.replace(own, f"{own}r2=on;", 1)
                outer = inner.replace(own, f"{own[0]}{self._address(goes_out)};", 1)
                edits = edits.copy()
                edits.inserts[i : i + 1] = [(place, outer), (place, inner)]
                return edits
        return edits

    @export(routes=_ON_REQUESTS)
    def add_rr_param(self, ctx: RouteContext, param: str) -> int:
        """Add ``;name=value`` to our Record-Route, whether it is there already or comes later. Answers 1 or -1.

        Added in a branch route, it stands in the request of that branch alone.
        """
        if any(c in param for c in "<>\r\n "):
            return -1
        inserts, shared = ctx.edits.inserts, ctx.shared
        own = _own_inserts(inserts, shared)
        for i in own:
            place, text = inserts[i]
            line = f"{text[:-1]}{param}>"
            shared.record_routes += (line,)
            inserts[i] = (place, line)
        if not own:
            ctx.cache[_PENDING] = ctx.cache.get(_PENDING, "") + param
        return 1

    @export(routes=_ON_REQUESTS)
    def remove_record_route(self, ctx: RouteContext) -> int:
        """Take back the Record-Route that was added by these functions. Answers 1."""
        own = ctx.shared.record_routes
        ctx.edits.inserts[:] = [insert for insert in ctx.edits.inserts if insert[1] not in own]
        return 1

    # ---- Route
    @export(routes=_ON_REQUESTS)
    def loose_route(self, ctx: RouteContext) -> int:
        """Route by the Route headers: remove our own on top and set the destination to the next (RFC 3261 section 16.4).

        Answers 1 (routed by Route), -1 (no Route, or a malformed one), -2 (the flow token in our own is forged: RFC 5626
        section 5.3 wants a 403), -3 (only our own, in a request outside of a dialog).
        """
        return self._loose_route(ctx, strict=True)

    @export(routes=_ON_REQUESTS)
    def loose_route_mode(self, ctx: RouteContext, mode: int) -> int:
        """Route like ``loose_route``; with bit 1 of ``mode`` a Request-URI that is ours is no sign of a strict router."""
        return self._loose_route(ctx, strict=not mode & 1)

    @export(routes=_ON_REQUESTS)
    def loose_route_preloaded(self, ctx: RouteContext) -> int:
        """Route like ``loose_route``. Answers 1 when a request outside of a dialog had a Route of ours and no other, else -1."""
        return 1 if self._loose_route(ctx, strict=True) == -3 else -1

    def _loose_route(self, ctx: RouteContext, *, strict: bool) -> int:
        result = self._route(ctx, strict=strict)
        if self.on_routed and result not in (-1, FLOW_TOKEN_BROKEN) and ctx.shared.route_params:
            for call in self.on_routed:
                call(ctx, ctx.shared.route_params)
        return result

    def _route(self, ctx: RouteContext, *, strict: bool) -> int:
        message = ctx.message
        place = message.shape.first.get("route", -1)
        if place < 0:
            return -1
        preloaded = message.to.tag is None
        if "route" not in message.shape.repeated:
            params = self._own_params(message.value(place))
            if params is not None and (not strict or preloaded or not self._names_us(ctx.ruri)):
                ctx.shared.route_params = params  # we are all there is: what most phones send within a dialog
                ctx.dst_uri = ""
                ctx.edits.removed.add(place)
                return -3 if preloaded else 1
        return self._route_by(ctx, message, strict=strict, preloaded=preloaded)

    def _own_params(self, value: str) -> str | None:
        """Return the URI parameters of a Route that is written as our Record-Routes are, None for any other."""
        if value[:5] != "<sip:" or value[-1:] != ">":
            return None
        address, _, params = value[5:-1].partition(";")
        return params if address in self._own and _PLAIN_PARAMS.fullmatch(params) else None

    def _names_us(self, text: str) -> bool:
        ours = self._ours.get(text)
        if ours is None:
            ours = self._is_ours(parse_uri(text))
            if len(self._ours) >= _MAX_KNOWN:  # URIs come from the network
                self._ours.clear()
            if len(text) <= 256:
                self._ours[text] = ours
        return ours

    def _route_by(self, ctx: RouteContext, message: Message, *, strict: bool, preloaded: bool) -> int:
        routes = [parse_name_addr(text).uri for text in message.list("route")]
        if not routes:
            return -1
        uris = [parse_uri(text) for text in routes[:2]]
        by_token = False
        first, last = 0, len(routes)  # what of the route set goes on: routes[first:last]
        ruri = ctx.ruri
        if strict and not preloaded and self._is_ours(parse_uri(ruri)):
            last -= 1  # the hop before us is a strict router: the target is the last Route (section 16.4)
            ruri = routes[last]
        if self._is_ours(uris[0]):
            if self._outbound is not None and uris[0].user:
                try:
                    by_token = self._outbound.follow(ctx, uris[0].user)
                except ParseError as error:
                    log.error("rr.loose_route: %s", error)
                    return FLOW_TOKEN_BROKEN
            ctx.shared.route_params = uris[0].params
            first = 1
            if len(uris) > 1 and uris[0].param("r2") is not None and self._is_ours(uris[1]):
                first = 2
                if not by_token:
                    self._leave_from(ctx, uris[1])
        next_hop = routes[first] if first < last else ""
        if by_token:  # whatever else the Route says
            ctx.ruri = ruri
            _keep_routes(message, ctx.edits, first, last)
            return -3 if preloaded and not next_hop else 1
        strict_next = bool(next_hop) and not parse_uri(next_hop).is_loose
        ctx.ruri, ctx.dst_uri = ruri, next_hop
        if not next_hop:
            _keep_routes(message, ctx.edits, 0, 0)
            return -3 if preloaded else 1
        moved = ""
        if strict_next:  # section 16.6 step 6: a strict router wants itself in the Request-URI
            ctx.ruri, ctx.dst_uri, moved = next_hop, "", ruri
            first += 1
        _keep_routes(message, ctx.edits, first, last, moved)
        return 1

    def _is_ours(self, uri: Uri) -> bool:
        if uri.params and uri.param("gr") is not None:
            return False  # a GRUU of our domain (RFC 5627) is a phone
        return bool(uri.host) and self.services.is_myself(uri.host, uri.effective_port, uri.transport or "")

    def _leave_from(self, ctx: RouteContext, uri: Uri) -> None:
        """Send from the listener that the second of our two Routes names: the request came in by the other one."""
        host, proto = canonical_host(uri.host), uri.transport or "udp"
        for listener in self.services.listeners:
            if listener.proto == proto and is_at(listener, host, uri.effective_port):
                ctx.force_listener = listener

    @export(routes=_ON_REQUESTS)
    def next_hop_route(self, ctx: RouteContext) -> int:
        """Tell whether the next hop comes from a Route header (to be called after ``loose_route``). Answers 1 or -1."""
        return 1 if ctx.dst_uri and any(_uri_of(text) == ctx.dst_uri for text in ctx.message.list("route")) else -1

    @export(routes=_ON_REQUESTS)
    def check_route_param(self, ctx: RouteContext, pattern: str) -> int:
        """Search the parameters of our Route, which ``loose_route`` removed, for a regular expression. Answers 1 or -1."""
        params = ctx.shared.route_params
        if not params:
            return -1
        try:
            return 1 if compile_posix(pattern).matches(params) else -1
        except BadPattern:
            return -1

    @export(routes=_ON_REQUESTS)
    def is_direction(self, ctx: RouteContext, direction: str) -> int:
        """Tell whether an in-dialog request goes ``downstream`` (caller to callee) or ``upstream``, by ``ftag``.

        Answers 1 or -1, -6 for another word; without ``ftag`` (or before ``loose_route``) everything is downstream.
        """
        wanted = direction.lower()
        if wanted not in ("downstream", "upstream"):
            log.error("rr.is_direction: %r is neither downstream nor upstream", direction)
            return -6
        ftag = parse_params(ctx.shared.route_params).get("ftag")
        upstream = bool(ftag) and ftag != ctx.message.from_.tag
        return 1 if upstream == (wanted == "upstream") else -1


def _own_inserts(inserts: list[tuple[int, str]], shared: Shared) -> list[int]:
    """Return which of ``inserts`` are Record-Routes that we have added."""
    return [i for i, (_, text) in enumerate(inserts) if text in shared.record_routes]


def _uri_of(text: str) -> str:
    try:
        return parse_name_addr(text).uri
    except ParseError:
        return ""


def _keep_routes(message: Message, edits: Edits, first: int, last: int, added: str = "") -> None:
    """Edit the Route headers so that only the values ``first`` to ``last`` (excluded) and then ``added`` are left."""
    number = 0
    place = None
    for index in message.indexes("route"):
        values = [value for value in split_quoted(message.value(index), ",") if value]
        kept = [value for i, value in enumerate(values, number) if first <= i < last]
        number += len(values)
        place = index + 1
        if not kept:
            edits.removed.add(index)
        elif len(kept) < len(values):
            edits.replaced[index] = "Route: " + ", ".join(kept)
    if added and place is not None:
        insert = (place, f"Route: <{added}>")
        if insert not in edits.inserts:
            edits.inserts.append(insert)
