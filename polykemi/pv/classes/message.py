"""The message itself: start line, headers, body: ``$rm $rs $rr $hdr(x) $ua $ci $cs $rb $ml $msg(x) $via0(x)`` ..."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval
from polykemi.pv.accessor import Accessor, Factory, Getter
from polykemi.pv.classes.factories import indexed, keyed, named, no_index, number_of, plain, required
from polykemi.sip.flow import TRANSPORT_NUMBERS
from polykemi.sip.header import Via, canonical_names, split_quoted
from polykemi.sip.message import Message, Request, Response

if TYPE_CHECKING:
    from polykemi.pv.compiler import Variables

# Kamailio's order: the id of a method is the bit at its place
_METHODS: Final = (
    *("INVITE", "CANCEL", "ACK", "BYE", "INFO", "REGISTER", "SUBSCRIBE", "NOTIFY", "MESSAGE", "OPTIONS"),
    *("PRACK", "UPDATE", "REFER", "PUBLISH", "KDMQ", "GET", "POST", "PUT", "DELETE", "OTHER"),
)
METHOD_IDS: Final = {name: 1 << bit for bit, name in enumerate(_METHODS)}
_LISTS: Final = frozenset(  # headers whose values $hfl takes apart
    ("contact", "record-route", "route", "via", "diversion", "p-asserted-identity", "p-preferred-identity")
)


# ---- start line
def method_of(ctx: RouteContext) -> str | None:
    """Return the method; for replies that of CSeq; None when that is malformed."""
    message = ctx.message
    if isinstance(message, Request):
        return message.method
    try:
        return message.cseq[1]
    except ParseError:
        return None


def _method_id(ctx: RouteContext) -> Xval:
    method = method_of(ctx)
    return None if method is None else METHOD_IDS.get(method, METHOD_IDS["OTHER"])


def _status(ctx: RouteContext) -> Xval:
    message = ctx.message
    return message.status if isinstance(message, Response) else None


def _reason(ctx: RouteContext) -> Xval:
    message = ctx.message
    return message.reason if isinstance(message, Response) else None


def _version(ctx: RouteContext) -> Xval:
    message = ctx.message
    return message.version if isinstance(message, Request) else message.start_line[:7]


# ---- headers
def header_getter(name: str) -> Getter:
    """Return the getter of the first header ``name`` (any case, compact form too)."""
    canonical = canonical_names[name]
    return lambda ctx: ctx.message.get(canonical)


def header_values(message: Message, name: str) -> list[str]:
    """Return the value of each header line ``name`` (any case, compact form too); ``*`` is any name."""
    if name == "*":
        return [message.value(i) for i in range(len(message.lines))]
    return message.all(canonical_names[name])


def _list_values(message: Message, name: str) -> list[str]:
    canonical = canonical_names[name]
    if canonical == "contact":  # as in Kamailio, those of one header come in reverse
        return [part for value in message.all(canonical) for part in reversed(split_quoted(value, ",")) if part]
    return message.list(canonical) if canonical in _LISTS else message.all(canonical)


def _header_class(values_of: Callable[[Message, str], list[str]]) -> Factory:
    def factory(inner: str | None, index: str | None, variables: Variables) -> Accessor:
        name = variables.name(required(inner))
        if not isinstance(name, str):
            return Accessor(_with_dynamic_name(name, index, variables, values_of))
        if " " in name or ":" in name:
            raise ValueError(f"{name!r} is no name of a header")
        constant = name
        if index is None and values_of is header_values and name != "*":
            return Accessor(header_getter(name))
        return Accessor(indexed(lambda ctx: values_of(ctx.message, constant), index, variables))

    return factory


def _with_dynamic_name(
    name_of: Getter, index: str | None, variables: Variables, values_of: Callable[[Message, str], list[str]]
) -> Getter:
    def values(ctx: RouteContext) -> list[str]:
        name = name_of(ctx)
        return values_of(ctx.message, name) if isinstance(name, str) else []

    return indexed(values, index, variables)


def _cseq_number(ctx: RouteContext) -> Xval:
    value = ctx.message.get("cseq")
    return value.replace("\t", " ").partition(" ")[0] or None if value else None


def _content_length(ctx: RouteContext) -> Xval:
    try:
        return ctx.message.content_length
    except ParseError:
        return None


# ---- body and buffer
def body_of(ctx: RouteContext) -> str | None:
    """Return the body, "" when it is empty, None when Content-Length is no number."""
    try:
        return ctx.message.body.decode("latin-1")
    except ParseError:
        return None


def _body_size(ctx: RouteContext) -> Xval:
    return len(body_of(ctx) or "")


def _buffer(ctx: RouteContext) -> Xval:
    return ctx.message.raw.decode("latin-1")


def _head(ctx: RouteContext) -> str:
    return "\r\n".join(ctx.message.lines)


def _updated_buffer(ctx: RouteContext) -> Xval:
    message = ctx.message
    body = message.body if ctx.edits.body is None else ctx.edits.body
    lines = [message.start_line, *ctx.edits.apply(message.lines), "", body.decode("latin-1")]
    return "\r\n".join(lines)


_MESSAGE_PARTS: Final[Mapping[str, Getter]] = {
    "len": lambda ctx: len(ctx.message.raw),
    "buf": _buffer,
    "body": body_of,
    "body_len": _body_size,
    "hdrs": _head,
    "hdrs_len": lambda ctx: len(_head(ctx)),
    "hdrc": lambda ctx: len(ctx.message.lines),
    "fline": lambda ctx: ctx.message.start_line,
    "fpart": lambda ctx: f"{ctx.message.start_line}\r\n{_head(ctx)}",
    "lpart": lambda ctx: f"{_head(ctx)}\r\n\r\n{body_of(ctx) or ''}",
}


def _part_of_buffer(inner: str | None, index: str | None, variables: Variables) -> Accessor:
    """``$msgbuf(position/length)``; one character without a length."""
    no_index(index)
    start_text, slash, length_text = required(inner).partition("/")
    start, length = number_of(start_text, variables), number_of(length_text if slash else "1", variables)

    def get(ctx: RouteContext) -> Xval:
        at = start if isinstance(start, int) else start(ctx)
        size = length if isinstance(length, int) else length(ctx)
        if not isinstance(at, int) or not isinstance(size, int) or at < 0 or size <= 0:
            return None
        return ctx.message.raw[at : at + size].decode("latin-1") or None

    return Accessor(get)


# ---- Via
def _via(ctx: RouteContext, index: int) -> Via | None:
    values = ctx.message.list("via")
    try:
        return Via(values[index]) if -len(values) <= index < len(values) else None
    except ParseError:
        return None


def _via_param(name: str) -> Callable[[Via], Xval]:
    return lambda via: via.param(name) or None


_VIA_PARTS: Final[Mapping[str, Callable[[Via], Xval]]] = {
    "host": lambda via: via.host,
    "port": lambda via: via.port or 5060,
    "proto": lambda via: via.transport,
    "protoid": lambda via: TRANSPORT_NUMBERS.get(via.transport.lower(), 0),
    "branch": lambda via: via.branch or None,
    "rport": _via_param("rport"),
    "received": _via_param("received"),
    "i": _via_param("i"),
    "params": lambda via: via.params or None,
    "oc": _via_param("oc"),
    "oc-algo": _via_param("oc-algo"),
    "oc-validity": _via_param("oc-validity"),
    "oc-seq": _via_param("oc-seq"),
}


def _via_class(index: int) -> Factory:
    def part_of(part: Callable[[Via], Xval]) -> Getter:
        def get(ctx: RouteContext) -> Xval:
            via = _via(ctx, index)
            return None if via is None else part(via)

        return get

    return keyed({name: part_of(part) for name, part in _VIA_PARTS.items()})


def reply_hop(ctx: RouteContext) -> tuple[str, int, str] | None:
    """Return host, port and transport that a reply goes to by its second Via; None for requests and without one."""
    via = None if isinstance(ctx.message, Request) else _via(ctx, 1)
    if via is None:
        return None
    rport = via.param("rport") or ""
    port = int(rport) if rport.isdecimal() and len(rport) <= 5 else via.port
    return via.param("received") or via.host, port or 5060, via.transport.lower()


def hop_uri(host: str, port: int, proto: str) -> str:
    """Return where a reply goes as SIP URI."""
    return f"sip:{host}:{port};transport={proto}"


def _reply_hop(part: Callable[[str, int, str], Xval]) -> Getter:
    def get(ctx: RouteContext) -> Xval:
        hop = reply_hop(ctx)
        return None if hop is None else part(*hop)

    return get


def _count_in_reply(name: str) -> Getter:
    return lambda ctx: None if isinstance(ctx.message, Request) else len(ctx.message.list(name))


_REPLY_PARTS: Final[Mapping[str, Getter]] = {
    "duri": _reply_hop(hop_uri),
    "dhost": _reply_hop(lambda host, port, proto: host),
    "dport": _reply_hop(lambda host, port, proto: port),
    "dproto": _reply_hop(lambda host, port, proto: proto),
    "dprotoid": _reply_hop(lambda host, port, proto: TRANSPORT_NUMBERS.get(proto, 0)),
    "cntvia": _count_in_reply("via"),
    "cntrr": _count_in_reply("record-route"),
}


def _charging_vector(inner: str | None, index: str | None, variables: Variables) -> Accessor:
    """``$pcv(x)``: the parts of P-Charging-Vector (RFC 7315 section 5.6)."""
    no_index(index)
    names = {"value": "icid-value", "genaddr": "icid-generated-at", "orig": "orig-ioi", "term": "term-ioi"}
    key = required(inner)
    if key == "all":
        return Accessor(header_getter("P-Charging-Vector"))
    if key not in names:
        raise ValueError(f"{key!r} is no part of P-Charging-Vector")
    prefix = names[key] + "="

    def get(ctx: RouteContext) -> Xval:
        for part in (ctx.message.get("p-charging-vector") or "").split(";"):
            part = part.strip(" \t")
            if part.lower().startswith(prefix):
                return part[len(prefix) :].strip('"') or None
        return None

    return Accessor(get)


def _header_plain(name: str) -> Factory:
    return plain(header_getter(name))


def _count_class(values_of: Callable[[Message, str], list[str]]) -> Factory:
    return named(lambda ctx, name: len(values_of(ctx.message, name)))


CLASSES: Final[dict[str, Factory]] = {
    "rm": plain(method_of),
    "rmid": plain(_method_id),
    "rs": plain(_status),
    "rsi": plain(lambda ctx: _status(ctx) or 0),
    "rr": plain(_reason),
    "rv": plain(_version),
    "mt": plain(lambda ctx: 1 if isinstance(ctx.message, Request) else 2),
    "mts": plain(lambda ctx: "rq" if isinstance(ctx.message, Request) else "rp"),
    "hdr": _header_class(header_values),
    "hfl": _header_class(_list_values),
    "hdrc": _count_class(header_values),
    "hflc": _count_class(_list_values),
    "ua": _header_plain("User-Agent"),
    "ci": _header_plain("Call-ID"),
    "cs": plain(_cseq_number),
    "csb": _header_plain("CSeq"),
    "ct": _header_plain("Contact"),
    "cT": _header_plain("Content-Type"),
    "cl": plain(_content_length),
    "rb": plain(body_of),
    "bs": plain(_body_size),
    "mb": plain(_buffer),
    "mbu": plain(_updated_buffer),
    "ml": plain(lambda ctx: len(ctx.message.raw)),
    "msg": keyed(_MESSAGE_PARTS),
    "msgbuf": _part_of_buffer,
    "via0": _via_class(0),
    "via1": _via_class(1),
    "viaZ": _via_class(-1),
    "rpl": keyed(_REPLY_PARTS),
    "pcv": _charging_vector,
}
