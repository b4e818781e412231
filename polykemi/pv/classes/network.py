"""Where a message came from, where it arrived, where it goes: ``$si $sp $su $Ri $Rp $Rut $pr $fs $sndto(x) $K(x)`` ..."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval
from polykemi.kemi.route import Route
from polykemi.pv.accessor import Accessor, Factory, Getter
from polykemi.pv.classes.factories import keyed, no_index, of_environment, plain, required
from polykemi.sip.flow import TRANSPORT_NUMBERS, Flow, bracketed, find_listener, named

if TYPE_CHECKING:
    from polykemi.pv.compiler import Variables

log = logging.getLogger("polykemi.pv")

_FAMILIES: Final = {"IPv4": 2, "IPv6": 10}


def socket_text(proto: str, host: str, port: int) -> str:
    """Return an address as Kamailio writes sockets: ``udp:host:port``."""
    return f"{proto}:{bracketed(host)}:{port}"


def address_uri(proto: str, host: str, port: int) -> str:
    """Return an address as SIP URI; the transport is left out for UDP (WSS is ws in URIs)."""
    return f"sip:{bracketed(host)}:{port}" if proto == "udp" else full_address_uri(proto, host, port)


def full_address_uri(proto: str, host: str, port: int) -> str:
    """Return an address as SIP URI with its transport."""
    return f"sip:{bracketed(host)}:{port};transport={'ws' if proto == 'wss' else proto}"


def _source(shape: Callable[[str, str, int], str]) -> Factory:
    def get(ctx: RouteContext) -> Xval:
        flow = ctx.flow
        return shape(flow.listener.proto, flow.host, flow.port)

    return plain(get)


def _received_at(shape: Callable[[str, str, int], str]) -> Factory:
    def get(ctx: RouteContext) -> Xval:
        listener = ctx.flow.listener
        return shape(listener.proto, listener.host, listener.port)

    return plain(get)


def _advertised(shape: Callable[[str, str, int], str]) -> Factory:
    def get(ctx: RouteContext) -> Xval:
        listener = ctx.flow.listener
        return shape(listener.proto, *listener.advertised)

    return plain(get)


def _is_ipv6(ctx: RouteContext) -> bool:
    return ":" in ctx.flow.host


# ---- forced send socket
def _forced_socket(variables: Variables) -> Accessor:
    environment = variables.environment

    def put(ctx: RouteContext, value: Xval) -> bool:
        if isinstance(value, int) or value == "":
            return False
        if value is None:
            ctx.force_listener = None
            return True
        listener = find_listener(value, environment.listeners, 5060)
        if listener is None:
            log.warning("$fs: %r is no listener of this server; it stays as it was", value)
        else:
            ctx.force_listener = listener
        return True

    return Accessor(lambda ctx: None if ctx.force_listener is None else str(ctx.force_listener), put)


def _forced_name(variables: Variables) -> Accessor:
    """``$fsn``: the name of the socket that is sent from; a name sets it, null takes it away (Kamailio: ``$fsn``)."""
    listeners = variables.environment.listeners

    def put(ctx: RouteContext, value: Xval) -> bool:
        if value is None:
            ctx.force_listener = None
            return True
        listener = named(value, listeners) if isinstance(value, str) else None
        if listener is None:
            log.warning("$fsn: no listener has the name %s; it stays as it was", value)
            return False
        ctx.force_listener = listener
        return True

    return Accessor(lambda ctx: ctx.force_listener.name or None if ctx.force_listener is not None else None, put)


def _connection(variables: Variables) -> Accessor:
    """``$conid``: the number of the connection that the message came over; null for UDP, and when it is gone."""
    ident = variables.environment.ident

    def get(ctx: RouteContext) -> Xval:
        number = ident(ctx.flow)
        return number if number >= 0 else None

    return Accessor(get)


def _forced_port(ctx: RouteContext) -> Xval:
    return 0 if ctx.force_listener is None else ctx.force_listener.port


# ---- onsend
def _destination(part: Callable[[Flow], Xval]) -> Getter:
    return lambda ctx: None if ctx.destination is None else part(ctx.destination)


_TO: Final = {
    "ip": _destination(lambda flow: flow.host),
    "port": _destination(lambda flow: flow.port),
    "proto": _destination(lambda flow: TRANSPORT_NUMBERS.get(flow.listener.proto, 0)),
    "sproto": _destination(lambda flow: flow.listener.proto),
    "af": _destination(lambda flow: _FAMILIES["IPv6" if ":" in flow.host else "IPv4"]),
    "buf": lambda ctx: ctx.wire.decode("latin-1") or None,
    "len": lambda ctx: len(ctx.wire) or None,
}

_FROM: Final = {
    **_TO,
    "ip": _destination(lambda flow: flow.listener.host),
    "port": _destination(lambda flow: flow.listener.port),
}


# ---- constants and host name
def _constant(value: int) -> Getter:
    return lambda ctx: value


def _host_name(inner: str | None, index: str | None, variables: Variables) -> Accessor:
    """``$HN(n|f|d|i)``: name, full name, domain and address of this host."""
    full = variables.environment.hostname
    name, _, domain = full.partition(".")
    hosts = [listener.host for listener in variables.environment.listeners if listener.host not in ("0.0.0.0", "::")]
    values = {"n": name, "f": full, "d": domain or None, "i": hosts[0] if hosts else None}
    if index is not None or inner not in values:
        raise ValueError("it is $HN(n), $HN(f), $HN(d) or $HN(i)")
    value = values[inner]
    return Accessor(lambda ctx: value)


def _source_ip(ctx: RouteContext) -> Xval:
    return ctx.flow.host


def _protocol(ctx: RouteContext) -> Xval:
    return ctx.flow.listener.proto


# ---- the octets of the event core:msg-received
_RECEIVED: Final[dict[str, Getter]] = {
    "buf": lambda ctx: ctx.wire.decode("latin-1"),
    "len": lambda ctx: len(ctx.wire),
    "af": lambda ctx: _FAMILIES["IPv6" if _is_ipv6(ctx) else "IPv4"],
    "proto": lambda ctx: TRANSPORT_NUMBERS.get(ctx.flow.listener.proto, 0),
    "sproto": _protocol,
    "srcip": _source_ip,
    "srcport": lambda ctx: ctx.flow.port,
    "rcvip": lambda ctx: ctx.flow.listener.host,
    "rcvport": lambda ctx: ctx.flow.listener.port,
}


def _received(inner: str | None, index: str | None, variables: Variables) -> Accessor:
    """``$rcv(buf)``: what has come, before it is a message; null in other blocks."""
    no_index(index)
    get = _RECEIVED.get(required(inner))
    if get is None:
        raise ValueError(f"it is one of $rcv({'), $rcv('.join(_RECEIVED)})")
    getter = get

    def value(ctx: RouteContext) -> Xval:
        return getter(ctx) if ctx.kind is Route.EVENT and ctx.wire else None

    def put(ctx: RouteContext, text: Xval) -> bool:
        if ctx.kind is not Route.EVENT or not ctx.wire or not isinstance(text, str):
            return False
        ctx.wire = text.encode("latin-1")
        return True

    return Accessor(value, put if inner == "buf" else None)


_SOURCE_IP = plain(_source_ip)
_PROTOCOL = plain(_protocol)
_ARRIVAL_IP = plain(lambda ctx: ctx.flow.listener.host)
_ARRIVAL_PORT = plain(lambda ctx: ctx.flow.listener.port)

CLASSES: Final[dict[str, Factory]] = {
    "si": _SOURCE_IP,
    "src_ip": _SOURCE_IP,
    "siz": plain(lambda ctx: bracketed(ctx.flow.host)),
    "sp": plain(lambda ctx: ctx.flow.port),
    "su": _source(address_uri),
    "source_uri": _source(address_uri),
    "sut": _source(full_address_uri),
    "sas": _source(socket_text),
    "Ri": _ARRIVAL_IP,
    "RAi": plain(lambda ctx: ctx.flow.listener.advertised[0]),
    "Rp": _ARRIVAL_PORT,
    "RAp": plain(lambda ctx: ctx.flow.listener.advertised[1]),
    "Rn": plain(lambda ctx: ctx.flow.listener.name or None),
    "Ru": _received_at(address_uri),
    "RAu": _advertised(address_uri),
    "Rut": _received_at(full_address_uri),
    "RAut": _advertised(full_address_uri),
    "Ras": _received_at(socket_text),
    "pr": _PROTOCOL,
    "proto": _PROTOCOL,
    "prid": plain(lambda ctx: TRANSPORT_NUMBERS.get(ctx.flow.listener.proto, 0)),
    "af": keyed(
        {
            "id": lambda ctx: _FAMILIES["IPv6" if _is_ipv6(ctx) else "IPv4"],
            "name": lambda ctx: "IPv6" if _is_ipv6(ctx) else "IPv4",
        }
    ),
    "rcv": _received,
    "recv": _received,
    "conid": of_environment(_connection),
    "fs": of_environment(_forced_socket),
    "fsn": of_environment(_forced_name),
    "fsp": plain(_forced_port),
    "sndto": keyed(_TO),
    "snd": keyed(_TO),
    "sndfrom": keyed(_FROM),
    "K": keyed(
        {
            name: _constant(n)
            for name, n in (*_FAMILIES.items(), *((p.upper(), n) for p, n in TRANSPORT_NUMBERS.items()))
        }
    ),
    "HN": _host_name,
}
