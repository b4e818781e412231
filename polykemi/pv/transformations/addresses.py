"""``{uri.*} {param.*} {nameaddr.*} {tobody.*} {urialias.*} {sock.*}``: URIs, parameter lists and header values."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from polykemi.errors import ParseError
from polykemi.kemi.registry import Xval
from polykemi.pv.classes.uris import host_of, user_of
from polykemi.pv.parameters import split_params
from polykemi.pv.transformations.shape import Parameter, Step, character, integer, string
from polykemi.sip.flow import TRANSPORT_NUMBERS, TRANSPORTS
from polykemi.sip.header import NameAddr, parse_name_addr, split_quoted
from polykemi.sip.uri import Uri, parse_uri


# ---- uri
def _uri(part: Callable[..., Xval], *parameters: Parameter) -> Step:
    """Return the step that takes a part of a URI; null for what is none."""

    def get(text: str, *arguments: str) -> Xval:
        try:
            uri = parse_uri(text)
        except ParseError:
            return None
        return part(uri, *arguments)

    return Step(get, *parameters)


def _parameter(name: str) -> Step:
    return _uri(lambda uri: uri.param(name) or "")


def _raw_parameter(uri: Uri, name: str) -> Xval:
    return uri.param(name.lower()) or ""


def _without_parameter(uri: Uri, name: str) -> Xval:
    kept = [p for p in uri.params.split(";") if p.partition("=")[0].lower() != name.lower()]
    head = uri.text.partition("?")[0]
    head = head[: len(head) - len(uri.params) - 1] if uri.params else head
    return ";".join([head, *kept]) + (f"?{uri.headers}" if uri.headers else "") if uri.params else uri.text


def _to_socket(uri: Uri) -> Xval:
    """Return ``proto:host:port``; empty when the URI names no transport (there is nothing to look up here)."""
    return f"{uri.transport}:{uri.host}:{uri.effective_port}" if uri.transport and uri.host else ""


def _simple(user: bool, route: bool) -> Callable[[Uri], Xval]:
    """Return the function that keeps scheme, host, and as asked the user, and port with transport."""

    def keep(uri: Uri) -> Xval:
        text = uri.text.partition(":")[0] + ":"
        if user and uri.user:
            text += uri.user + ("@" if uri.host else "")
        text += uri.host
        if route:
            text += f":{uri.port}" if uri.port else ""
            text += f";transport={uri.param('transport')}" if uri.transport else ""
        return text

    return keep


# ---- param
def _separator(value: Xval) -> str:
    """Take the parameter that separates items. Raise ValueError."""
    mark = character(value)
    if mark == ",":
        raise ValueError("items cannot be separated by commas")
    return mark


def param_value(text: str, name: str, separator: str = ";") -> Xval:
    """Return the value of the last parameter ``name`` (any case); empty when it is absent."""
    pairs, wanted = split_params(text, separator), name.lower()
    return None if pairs is None else next((value for key, value in reversed(pairs) if key.lower() == wanted), "")


def param_in(text: str, name: str, separator: str = ";") -> Xval:
    """Return 1 when there is a parameter ``name``, else 0."""
    pairs, wanted = split_params(text, separator), name.lower()
    return None if pairs is None else int(any(key.lower() == wanted for key, _ in pairs))


def param_value_at(text: str, index: int, separator: str = ";") -> Xval:
    """Return the value of the parameter at ``index``; empty outside."""
    pairs = split_params(text, separator)
    return None if pairs is None else pairs[index][1] if -len(pairs) <= index < len(pairs) else ""


def param_name(text: str, index: int, separator: str = ";") -> Xval:
    """Return the name of the parameter at ``index``; empty outside."""
    pairs = split_params(text, separator)
    return None if pairs is None else pairs[index][0] if -len(pairs) <= index < len(pairs) else ""


def param_count(text: str, separator: str = ";") -> Xval:
    """Return the number of parameters."""
    pairs = split_params(text, separator)
    return None if pairs is None else 1 if separator == "," else len(pairs)  # the first comma ends the list


# ---- nameaddr and tobody
_OPENED: Final = re.compile(r"""((?:"(?:[^"\\]|\\.)*"|[^"<])*)<""")  # what stands before the URI, quoted strings as one


def _name_addr(part: Callable[[str, str, int], Xval]) -> Step:
    """Return the step that takes a part of the first name-addr of a text: (name, URI, length); null when it does not end.

    Without brackets all of the text is the URI.
    """

    def get(text: str) -> Xval:
        opened = _OPENED.match(text)
        if opened is None:
            return part("", text, len(text)) if text else None
        end = text.find(">", opened.end())
        return None if end < 0 else part(opened[1], text[opened.end() : end], end + 1)

    return Step(get)


def _body(part: Callable[[NameAddr, Uri], Xval]) -> Step:
    """Return the step that takes a part of a From or To value; null when it has no URI, or is a list."""

    def get(text: str) -> Xval:
        try:
            if "," in text and len(split_quoted(text, ",")) > 1:
                return None
            address = parse_name_addr(text)
            return part(address, parse_uri(address.uri))
        except ParseError:
            return None

    return Step(get)


# ---- urialias and sock
def encode_alias(text: str) -> Xval:
    """Write an address URI as ``host~port~protocol`` (nathelper's alias parameter); empty for what is none, null for no text."""
    try:
        uri = parse_uri(text)
    except ParseError:
        return "" if text else None
    return f"{uri.host}~{uri.port or 5060}~{TRANSPORT_NUMBERS.get(uri.transport, 1)}" if uri.host else ""


def decode_alias(text: str) -> Xval:
    """Read ``host~port~protocol`` back to a URI; null for anything else."""
    host, _, rest = text.partition("~")
    port, _, protocol = rest.partition("~")
    if not host or not port.isdecimal() or not protocol.isdecimal() or int(protocol[:3]) not in TRANSPORTS:
        return None
    name = TRANSPORTS[int(protocol[:3])]
    return f"sip:{host}:{port}" + ("" if name == "udp" else f";transport={name}")


_SOCKET: Final = re.compile(r"(?:([A-Za-z]\w*):(?!\d+$))?(\[[^\]]*\]|[^:\[\]]+)(?::(\d+))?")


def _socket(part: Callable[[str, str, str], Xval]) -> Step:
    """Return the step that takes a part of ``proto:host:port``, of which the host alone must be; null for what is none."""

    def get(text: str) -> Xval:
        match = _SOCKET.fullmatch(text)
        if match is None or (match[1] and match[1].lower() not in TRANSPORT_NUMBERS):
            return None
        return part(match[1] or "", match[2], match[3] or "")

    return Step(get)


def _socket_uri(proto: str, host: str, port: str) -> Xval:
    return f"sip:{host}" + (f":{port}" if port else "") + (f";transport={proto}" if proto else "")


STEPS: Final[dict[str, Step]] = {
    "uri.user": _uri(lambda uri: user_of(uri) or ""),
    "uri.host": _uri(lambda uri: host_of(uri) or ""),
    "uri.domain": _uri(lambda uri: host_of(uri) or ""),
    "uri.passwd": _uri(lambda uri: uri.password),
    "uri.port": _uri(lambda uri: uri.port),
    "uri.params": _uri(lambda uri: "" if uri.scheme == "tel" else uri.params),
    "uri.param": _uri(_raw_parameter, string),
    "uri.rmparam": _uri(_without_parameter, string),
    "uri.headers": _uri(lambda uri: uri.headers),
    "uri.transport": _parameter("transport"),
    "uri.ttl": _parameter("ttl"),
    "uri.uparam": _parameter("user"),
    "uri.maddr": _parameter("maddr"),
    "uri.method": _parameter("method"),
    "uri.lr": _parameter("lr"),
    "uri.r2": _parameter("r2"),
    "uri.scheme": _uri(lambda uri: uri.text.partition(":")[0]),
    "uri.tosocket": _uri(_to_socket),
    "uri.saor": _uri(_simple(user=True, route=False)),
    "uri.suri": _uri(_simple(user=True, route=True)),
    "uri.duri": _uri(_simple(user=False, route=True)),
    "param.value": Step(param_value, string, _separator, optional=1),
    "param.in": Step(param_in, string, _separator, optional=1),
    "param.valueat": Step(param_value_at, integer, _separator, optional=1),
    "param.name": Step(param_name, integer, _separator, optional=1),
    "param.count": Step(param_count, character, optional=1),
    "nameaddr.uri": _name_addr(lambda name, uri, length: uri),
    "nameaddr.name": _name_addr(lambda name, uri, length: name),
    "nameaddr.len": _name_addr(lambda name, uri, length: length),
    "tobody.uri": _body(lambda address, uri: address.uri),
    "tobody.tag": _body(lambda address, uri: address.tag or ""),
    "tobody.user": _body(lambda address, uri: uri.user),
    "tobody.host": _body(lambda address, uri: uri.host),
    "tobody.params": _body(lambda address, uri: address.params),
    "tobody.display": _body(lambda address, uri: address.display),
    "urialias.encode": Step(encode_alias),
    "urialias.decode": Step(decode_alias),
    "sock.host": _socket(lambda proto, host, port: host),
    "sock.port": _socket(lambda proto, host, port: port),
    "sock.proto": _socket(lambda proto, host, port: proto),
    "sock.touri": _socket(_socket_uri),
}
