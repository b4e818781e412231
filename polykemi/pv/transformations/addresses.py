"""``{uri.*} {param.*} {nameaddr.*} {tobody.*} {urialias.*} {sock.*}``: URIs, parameter lists and header values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from polykemi.errors import ParseError
from polykemi.kemi.registry import Xval
from polykemi.pv.classes.network import PROTOCOLS
from polykemi.pv.classes.uris import host_of, user_of
from polykemi.pv.transformations.shape import Parameter, Step, character, integer, string
from polykemi.sip.header import LWS, NameAddr, parse_name_addr, split_quoted, unquote
from polykemi.sip.uri import Uri, parse_uri

_PROTOCOL_NAMES: Final = {number: name for name, number in PROTOCOLS.items()}


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
        text = f"{uri.scheme}:"
        if user and uri.user:
            text += uri.user + ("@" if uri.host else "")
        text += uri.host
        if route:
            text += f":{uri.port}" if uri.port else ""
            text += f";transport={uri.param('transport')}" if uri.transport else ""
        return text

    return keep


# ---- param
def _pairs(text: str, separator: str) -> list[tuple[str, str]]:
    """Return the names and values of ``a=1;b``; values come without quotes."""
    pairs = []
    for part in split_quoted(text, separator):
        if part:
            name, _, value = part.partition("=")
            pairs.append((name.rstrip(LWS), unquote(value.strip(LWS))))
    return pairs


def param_value(text: str, name: str, separator: str = ";") -> Xval:
    """Return the value of the parameter ``name`` (any case); empty when it is absent."""
    wanted = name.lower()
    return next((value for key, value in reversed(_pairs(text, separator)) if key.lower() == wanted), "")


def param_in(text: str, name: str, separator: str = ";") -> Xval:
    """Return 1 when there is a parameter ``name``, else 0."""
    wanted = name.lower()
    return int(any(key.lower() == wanted for key, _ in _pairs(text, separator)))


def param_value_at(text: str, index: int, separator: str = ";") -> Xval:
    """Return the value of the parameter at ``index``; empty outside."""
    pairs = _pairs(text, separator)
    return pairs[index][1] if -len(pairs) <= index < len(pairs) else ""


def param_name(text: str, index: int, separator: str = ";") -> Xval:
    """Return the name of the parameter at ``index``; empty outside."""
    pairs = _pairs(text, separator)
    return pairs[index][0] if -len(pairs) <= index < len(pairs) else ""


# ---- nameaddr and tobody
def _first_value(text: str) -> str:
    return split_quoted(text, ",")[0] if "," in text else text


def _address(part: Callable[[NameAddr], Xval]) -> Step:
    """Return the step that takes a part of the first name-addr of the text; null for what is none."""

    def get(text: str) -> Xval:
        try:
            return part(parse_name_addr(_first_value(text)))
        except ParseError:
            return None

    return Step(get)


def _name_addr_length(text: str) -> Xval:
    """Return the length of the name-addr up to its closing bracket, of all of it when there is none."""
    value = _first_value(text)
    try:
        parse_name_addr(value)
    except ParseError:
        return None
    quoted = value.rfind('"')
    end = value.find(">", max(quoted, 0))
    return end + 1 if end >= 0 else len(value)


def _body(part: Callable[[NameAddr, Uri], Xval]) -> Step:
    """Return the step that takes a part of a From or To value; null when it has no URI."""
    return _address(lambda address: part(address, parse_uri(address.uri)))


def _name_addr_uri(text: str) -> Xval:
    """Return the URI in the brackets; without brackets the whole text is it."""
    if "<" not in text:
        return text
    try:
        return parse_name_addr(_first_value(text)).uri
    except ParseError:
        return None


# ---- urialias and sock
def encode_alias(text: str) -> Xval:
    """Write an address URI as ``host~port~protocol`` (nathelper's alias parameter)."""
    try:
        uri = parse_uri(text)
    except ParseError:
        return None
    return f"{uri.host}~{uri.port or 5060}~{PROTOCOLS.get(uri.transport, 1)}" if uri.host else None


def decode_alias(text: str) -> Xval:
    """Read ``host~port~protocol`` back to a URI; null for anything else."""
    host, _, rest = text.partition("~")
    port, _, protocol = rest.partition("~")
    if not host or not port.isdecimal() or not protocol.isdecimal() or int(protocol[:3]) not in _PROTOCOL_NAMES:
        return None
    name = _PROTOCOL_NAMES[int(protocol[:3])]
    return f"sip:{host}:{port}" + ("" if name == "udp" else f";transport={name}")


def _socket(part: Callable[[str, str, str], Xval]) -> Step:
    """Return the step that takes a part of ``proto:host:port``; null for what is none."""

    def get(text: str) -> Xval:
        proto, colon, rest = text.partition(":")
        host, _, port = rest.rpartition(":")
        if rest.endswith("]") or not host:
            host, port = rest, ""
        return part(proto, host, port) if colon and host and proto.lower() in PROTOCOLS else None

    return Step(get)


def _socket_uri(proto: str, host: str, port: str) -> Xval:
    return f"sip:{host}" + (f":{port}" if port else "") + f";transport={proto}"


STEPS: Final[dict[str, Step]] = {
    "uri.user": _uri(lambda uri: user_of(uri) or ""),
    "uri.host": _uri(lambda uri: host_of(uri) or ""),
    "uri.domain": _uri(lambda uri: host_of(uri) or ""),
    "uri.passwd": _uri(lambda uri: uri.password),
    "uri.port": _uri(lambda uri: uri.port),
    "uri.params": _uri(lambda uri: uri.params),
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
    "uri.scheme": _uri(lambda uri: uri.scheme),
    "uri.tosocket": _uri(_to_socket),
    "uri.saor": _uri(_simple(user=True, route=False)),
    "uri.suri": _uri(_simple(user=True, route=True)),
    "uri.duri": _uri(_simple(user=False, route=True)),
    "param.value": Step(param_value, string, character, optional=1),
    "param.in": Step(param_in, string, character, optional=1),
    "param.valueat": Step(param_value_at, integer, character, optional=1),
    "param.name": Step(param_name, integer, character, optional=1),
    "param.count": Step(lambda text, separator=";": len(_pairs(text, separator)), character, optional=1),
    "nameaddr.uri": Step(_name_addr_uri),
    "nameaddr.name": _address(lambda address: address.display),
    "nameaddr.len": Step(_name_addr_length),
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
