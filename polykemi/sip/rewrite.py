"""Change URIs inside of header values through a message's edits (Contact of phones behind NAT, hidden Contacts)."""

from __future__ import annotations

from collections.abc import Callable

from polykemi.errors import ParseError
from polykemi.sip.flow import TRANSPORT_NUMBERS, TRANSPORTS, Flow, bracketed
from polykemi.sip.grammar import to_port
from polykemi.sip.header import LWS, NameAddr, parse_name_addr, split_quoted
from polykemi.sip.message import Edits, Message
from polykemi.sip.uri import Uri, parse_uri


def edited_value(message: Message, edits: Edits, index: int) -> str:
    """Return the value of header line ``index`` as it goes out."""
    line = edits.replaced.get(index)
    return message.value(index) if line is None else line.partition(":")[2].strip(LWS)


def rewrite_uris(
    message: Message,
    edits: Edits,
    name: str,
    change: Callable[[NameAddr], str | None],
    *,
    first_only: bool = False,
) -> int:
    """Replace the URI (or the whole value, when ``change`` gives one with ``<``) of each value of the header ``name``.

    ``change`` gets the value as it goes out so far; None leaves it, and so is "*" left. Return how many values there
    are. Raise ParseError for a malformed one, and for a new one that would be more than one line.
    """
    count = 0
    for index in message.indexes(name):
        if index in edits.removed:
            continue
        values = [value for value in split_quoted(edited_value(message, edits, index), ",") if value]
        changed = False
        for i, text in enumerate(values):
            if text == "*" or (first_only and count):
                continue
            count += 1
            value = parse_name_addr(text)
            new = change(value)
            if new is not None:
                if "\n" in new or "\r" in new:
                    raise ParseError("Line break in a URI")
                values[i] = new if "<" in new else with_uri(value, new)
                changed = True
        if changed:
            written = message.lines[index].partition(":")[0].rstrip(LWS)
            edits.replaced[index] = f"{written}: {', '.join(values)}"
        if first_only and count:
            break
    return count


def with_uri(value: NameAddr, uri: str, params: str | None = None) -> str:
    """Return the text of ``value`` with another URI and, when given, other header parameters."""
    params = value.params if params is None else params
    display = f"{value.display} " if value.display else ""
    return f"{display}<{uri}>" + (f";{params}" if params else "")


def with_uri_param(uri: str, param: str) -> str:
    """Return ``uri`` with ``param`` (``name=value``) behind its other parameters, before its headers."""
    userinfo, at, rest = uri.rpartition("@")  # a "?" may stand in the user part too
    rest, question, headers = rest.partition("?")
    return f"{userinfo}{at}{rest};{param}{question}{headers}"


def contact_alias(flow: Flow) -> str:
    """Return the URI parameter that says where a peer really is: ``alias=ip~port~transport`` (draft-ietf-sip-connect-reuse)."""
    return f"alias={bracketed(flow.host)}~{flow.port}~{TRANSPORT_NUMBERS[flow.listener.proto]}"


def without_alias(uri: Uri, *, first: bool) -> tuple[str, str | None]:
    """Return the text of ``uri`` without its first (or last) alias parameter, and the parameter's value, None when absent."""
    params = uri.params.split(";") if uri.params else []
    places = [i for i, param in enumerate(params) if param[:6].lower() == "alias="]
    if not places:
        return uri.text, None
    value = params.pop(places[0] if first else places[-1])[6:]
    return uri.changed(params=";".join(params)), value


def alias_uri(alias: str | None) -> str:
    """Return the SIP URI that ``ip~port~number`` stands for, "" when it is none."""
    host, _, rest = (alias or "").partition("~")
    port, _, number = rest.partition("~")
    proto = TRANSPORTS.get(int(number)) if len(number) == 1 and number.isdecimal() else None
    if proto is None or not host or to_port(port) <= 0:
        return ""
    uri = f"sip:{host}:{port}" + ("" if proto == "udp" else f";transport={proto}")
    try:
        parse_uri(uri)
    except ParseError:
        return ""
    return uri
