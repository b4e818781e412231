"""nathelper: find out that a peer is behind NAT, and note where it really is (RFC 3581 does the rest)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from polykemi.errors import ParseError, RpcError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval, export
from polykemi.kemi.rpc import rpc
from polykemi.modules.base import Module, Services
from polykemi.modules.nathelper_pinger import NatHelperParams, Pinger
from polykemi.modules.nathelper_sdp import fix_sdp
from polykemi.pv.accessor import Factory
from polykemi.pv.classes.factories import plain
from polykemi.sip.flow import TRANSPORT_NUMBERS, Flow, bracketed
from polykemi.sip.grammar import canonical_host, ip4_octets, to_port
from polykemi.sip.header import NameAddr, parse_name_addr, split_quoted
from polykemi.sip.message import Message
from polykemi.sip.rewrite import alias_uri, contact_alias, rewrite_uris, with_uri, with_uri_param, without_alias
from polykemi.sip.uri import parse_uri

RECEIVED: Final = "received"  # ctx.cache: the source URI of a REGISTER, which registrar.save stores


def _made_by_topmost(ctx: RouteContext) -> Xval:
    values = ctx.message.list("record-route")
    try:
        return (2 if parse_uri(parse_name_addr(values[0]).uri).param("r2") else 1) if values else 0
    except ParseError:
        return None


class NatHelper(Module):
    """NAT tests and Contact aliases."""

    name = "nathelper"
    Params = NatHelperParams
    params: NatHelperParams

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self._pinger = Pinger(self, self.params)

    def start(self, now: float) -> None:
        """Begin to ping phones, when natping_interval says so. Raise DataError, ValueError."""
        self.variable("received_avp", self.params.received_avp, settable=True)
        self._pinger.start(now)

    def next_timeout(self) -> float | None:
        """Return when phones are pinged next."""
        return self._pinger.next_timeout()

    def handle_timer(self, now: float) -> None:
        """Ping phones."""
        self._pinger.run(now)

    @rpc("nathelper.enable_ping")
    def enable_ping(self, value: int) -> dict[str, Any]:
        """Go on pinging phones (1), or pause (0)."""
        if not self.params.natping_interval:
            raise RpcError(500, "NATping disabled")
        self._pinger.enabled = bool(value)
        return {}

    def pv_classes(self) -> Mapping[str, Factory]:
        """``$rr_count``: how many Record-Route values; ``$rr_top_count``: how many of them the topmost proxy has made."""
        return {
            "rr_count": plain(lambda ctx: len(ctx.message.list("record-route"))),
            "rr_top_count": plain(_made_by_topmost),
        }

    # ---- tests
    @export()
    def nat_uac_test(self, ctx: RouteContext, flags: int) -> int:
        """Guess whether the sender is behind NAT; ``flags`` is the sum of the tests to make.

        1 private address in Contact, 2 source address differs from Via, 4 private address in Via, 8 private address in
        SDP, 16 source port differs from Via, 32 private source address, 64 WebSocket, 128 source port differs from
        Contact, 256 SDP address differs from the source. Private: RFC 1918 and RFC 6598. Answers 1 when one of them
        finds a NAT, else -1.
        """
        flow, message = ctx.flow, ctx.message
        if flags & 32 and is_private(flow.host):
            return 1
        if flags & 64 and flow.listener.proto in ("ws", "wss"):
            return 1
        if flags & 22 and _via_tells_nat(message, flow, flags):
            return 1
        if flags & 129:
            contact = _first_contact(message)
            if contact is not None:
                uri = parse_uri(contact.uri)
                if flags & 1 and is_private(uri.host):
                    return 1
                if flags & 128 and uri.effective_port != flow.port:
                    return 1
        if flags & 264:
            for address in _sdp_addresses(message):
                if (flags & 8 and is_private(address)) or (flags & 256 and canonical_host(address) != flow.host):
                    return 1
        return -1

    @export()
    def is_rfc1918(self, ctx: RouteContext, address: str) -> int:
        """Tell whether ``address`` is a private IPv4 address (RFC 1918, RFC 6598). Answers 1 or -1."""
        return 1 if is_private(address) else -1

    # ---- Contact
    @export()
    def fix_nated_contact(self, ctx: RouteContext) -> int:
        """Put the source address and port into the URIs of Contact. Answers 1, or -1 without a Contact."""
        host, port = bracketed(ctx.flow.host), ctx.flow.port

        def change(value: NameAddr) -> str:
            return parse_uri(value.uri).changed(host=host, port=port)

        return 1 if rewrite_uris(ctx.message, ctx.edits, "contact", change) else -1

    @export()
    def set_contact_alias(self, ctx: RouteContext) -> int:
        """Add ``;alias=ip~port~transport`` of the source to the URI of Contact. Answers 1, or -1 without a Contact."""
        return self._alias(ctx, contact_alias(ctx.flow))

    @export()
    def set_contact_alias_trim(self, ctx: RouteContext) -> int:
        """Set the alias like ``set_contact_alias``, in place of one that is there already. Answers 1 or -1."""
        return self._alias(ctx, contact_alias(ctx.flow), trim=True)

    @export()
    def add_contact_alias(self, ctx: RouteContext) -> int:
        """Add the alias when the Contact names another address than the source. Answers 1, or 2 (not needed, no Contact)."""
        contact = _first_contact(ctx.message)
        if contact is None:
            return 2
        uri, flow = parse_uri(contact.uri), ctx.flow
        same = canonical_host(uri.host) == flow.host and uri.effective_port == flow.port
        if same and (uri.transport or "udp") == flow.listener.transport:
            return 2
        return self._alias(ctx, contact_alias(flow))

    @export()
    def add_contact_alias_addr(self, ctx: RouteContext, address: str, port: str, proto: str) -> int:
        """Add the alias ``address~port~proto`` to the URI of Contact. Answers 1, or -1 when one of them makes no sense."""
        number = TRANSPORT_NUMBERS.get(proto.lower())
        if number is None or to_port(port) <= 0 or not address or any(c in address for c in "<>;~\r\n "):
            return -1
        return self._alias(ctx, f"alias={address}~{port}~{number}")

    def _alias(self, ctx: RouteContext, alias: str, *, trim: bool = False) -> int:
        def change(value: NameAddr) -> str:
            uri = value.uri
            if trim:
                uri = without_alias(parse_uri(uri), first=True)[0]
            return with_uri_param(uri, alias)

        return 1 if rewrite_uris(ctx.message, ctx.edits, "contact", change, first_only=True) else -1

    @export()
    def set_alias_to_pv(self, ctx: RouteContext, variable: str) -> int:
        """Store the alias in the Contact, as a SIP URI with transport, in the variable named ``variable``. Answers 1 or -1."""
        contact = _first_contact(ctx.message)
        if contact is None:
            return -1
        uri = alias_uri(without_alias(parse_uri(contact.uri), first=True)[1])
        if not uri:
            return -1
        if ";transport=" not in uri:
            uri += ";transport=udp"
        return 1 if self.services.variables.put(ctx, variable, uri) else -1

    @export()
    def add_rcv_param(self, ctx: RouteContext, in_uri: int) -> int:
        """Add ``received`` with the source's URI to each Contact: to its URI when ``in_uri`` is not 0. Answers 1 or -1."""
        received = source_uri(ctx.flow)

        def change(value: NameAddr) -> str:
            if in_uri:
                return with_uri_param(value.uri, "received=" + received)
            params = f'received="{received}"'
            return with_uri(value, value.uri, f"{value.params};{params}" if value.params else params)

        return 1 if rewrite_uris(ctx.message, ctx.edits, "contact", change) else -1

    @export()
    def fix_nated_register(self, ctx: RouteContext) -> int:
        """Let ``registrar.save`` store where the REGISTER came from. Answers 1."""
        received = ctx.cache[RECEIVED] = source_uri(ctx.flow)
        if self.params.received_avp:
            self.services.variables.put(ctx, self.params.received_avp, received)
        return 1

    # ---- Request-URI
    @export()
    def handle_ruri_alias(self, ctx: RouteContext) -> int:
        """Take the alias out of the Request-URI and set the destination URI to it. Answers 1, 2 (no alias) or -1."""
        return self.handle_ruri_alias_mode(ctx, 0)

    @export()
    def handle_ruri_alias_mode(self, ctx: RouteContext, mode: int) -> int:
        """Do what ``handle_ruri_alias`` does, with the first alias (``mode`` 0) or the last one."""
        if "alias=" not in ctx.ruri:
            return 2
        rest, alias = without_alias(parse_uri(ctx.ruri), first=mode == 0)
        if alias is None:
            return 2
        destination = alias_uri(alias)
        if not destination:
            return -1
        ctx.ruri, ctx.dst_uri = rest, destination
        return 1

    # ---- SDP
    @export()
    def fix_nated_sdp(self, ctx: RouteContext, flags: int) -> int:
        """Change the SDP for a sender behind NAT; ``flags`` is a sum of what to do.

        1 add ``a=direction:active``, 2 put the source address into ``c=``, 4 add ``a=nortpproxy:yes``, 8 put the source
        address into ``o=``. Answers 1 (an address was replaced), 2 (none was) or -1 (no body).
        """
        return self._fix_sdp(ctx, flags, ctx.flow.host)

    @export()
    def fix_nated_sdp_ip(self, ctx: RouteContext, flags: int, address: str) -> int:
        """Change the SDP like ``fix_nated_sdp``, with ``address`` in place of the source address."""
        return self._fix_sdp(ctx, flags, address or ctx.flow.host)

    def _fix_sdp(self, ctx: RouteContext, flags: int, address: str) -> int:
        p = self.params
        return fix_sdp(ctx, flags, address, p.nortpproxy_str, keep_old=bool(p.append_sdp_oldmediaip))


def _via_tells_nat(message: Message, flow: Flow, flags: int) -> bool:
    via = message.via
    if flags & 16 and (via.port or 5060) != flow.port:
        return True
    host = via.host
    return bool((flags & 2 and canonical_host(host) != flow.host) or (flags & 4 and is_private(host)))


def _first_contact(message: Message) -> NameAddr | None:
    value = message.get("contact")
    if not value or value == "*":
        return None
    return parse_name_addr(split_quoted(value, ",")[0] if "," in value else value)


def is_private(address: str) -> bool:
    """Tell whether ``address`` is a private IPv4 address: of RFC 1918 (10/8, 172.16/12, 192.168/16), RFC 6598
    (100.64/10) or RFC 7335 (192.0.0/24).
    """
    return len(address) <= 15 and _is_private(address)


@lru_cache(maxsize=4096)
def _is_private(address: str) -> bool:
    octets = ip4_octets(address)
    if not octets:
        return False
    first, second, third, _ = octets
    return (
        first == 10
        or (first == 172 and 16 <= second <= 31)
        or (first == 192 and (second == 168 or (second == 0 and third == 0)))
        or (first == 100 and 64 <= second <= 127)
    )


def _sdp_addresses(message: Message) -> list[str]:
    """Return the addresses of the connection lines (``c=``) of the SDP."""
    body = message.body
    if not body:
        return []
    out = []
    for line in body.decode("latin-1").split("\n"):
        if line[:5] == "c=IN ":
            fields = line.rstrip("\r").split(" ")
            if len(fields) == 3:
                out.append(fields[2].partition("/")[0])
    return out


def source_uri(flow: Flow) -> str:
    """Return the SIP URI of where a message came from; the transport stands in it unless it is UDP."""
    transport = "" if flow.listener.proto == "udp" else f";transport={flow.listener.transport}"
    return f"sip:{bracketed(flow.host)}:{flow.port}{transport}"
