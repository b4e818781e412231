"""From, To and the other headers that hold an address: ``$fu $fU $fd $fn $ft $tu ... $ai $pu $re $rt $di $ct`` ..."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval
from polykemi.pv.accessor import Accessor, Factory, Getter, Setter
from polykemi.pv.classes.factories import indexed, no_index, plain, required, uri_or_none
from polykemi.pv.classes.uris import host_of, user_of, with_host, with_user
from polykemi.sip.header import LWS, NameAddr, parse_name_addr, parse_params
from polykemi.sip.message import Message

if TYPE_CHECKING:
    from polykemi.pv.compiler import Variables


# ---- From and To
def _from(message: Message) -> NameAddr:
    return message.from_


def _to(message: Message) -> NameAddr:
    return message.to


def _party(party: Callable[[Message], NameAddr], part: Callable[[NameAddr], Xval]) -> Getter:
    """Return the getter of a part of From or To; null when the header is missing or malformed."""

    def get(ctx: RouteContext) -> Xval:
        try:
            return part(party(ctx.message))
        except ParseError:
            return None

    return get


def _uri(address: NameAddr) -> Xval:
    return address.uri or None


def _user(address: NameAddr) -> Xval:
    uri = uri_or_none(address.uri)
    return None if uri is None else user_of(uri)


def _host(address: NameAddr) -> Xval:
    uri = uri_or_none(address.uri)
    return None if uri is None else host_of(uri)


def _display(address: NameAddr) -> Xval:
    return address.display or None


def _tag(address: NameAddr) -> Xval:
    tag = address.tag
    return tag[1:-1] if tag and tag[0] == '"' == tag[-1] and len(tag) > 1 else tag


def _uri_length(address: NameAddr) -> Xval:
    return len(address.uri)


def _user_length(address: NameAddr) -> Xval:
    uri = uri_or_none(address.uri)
    return None if uri is None else len(str(user_of(uri) or ""))


def edit_party(ctx: RouteContext, name: str, change: Callable[[NameAddr], tuple[str, str] | None]) -> bool:
    """Rewrite the From or To line with the (display, URI) that ``change`` gives; the next hop sees it. Answer success."""
    message, edits = ctx.message, ctx.edits
    if name not in message.names:
        return False
    index = message.names.index(name)
    line = edits.replaced.get(index, message.lines[index])
    written, _, value = line.partition(":")
    try:
        address = parse_name_addr(value.strip(LWS))
    except ParseError:
        return False
    changed = change(address)
    if changed is None:
        return False
    display, uri = changed
    display = f"{display} " if display else ""
    edits.replaced[index] = f"{written}: {display}<{uri}>" + (f";{address.params}" if address.params else "")
    return True


def _setter(name: str, change: Callable[[NameAddr, Xval], tuple[str, str] | None]) -> Setter:
    return lambda ctx, value: edit_party(ctx, name, lambda address: change(address, value))


def _clean(value: Xval) -> str | None:
    """Return a text that may stand in a header line."""
    return value if isinstance(value, str) and "\r" not in value and "\n" not in value else None


def _change_uri(address: NameAddr, value: Xval) -> tuple[str, str] | None:
    uri = _clean(value)
    return (address.display, uri) if uri else None


def _change_user(address: NameAddr, value: Xval) -> tuple[str, str] | None:
    uri = uri_or_none(address.uri)
    if uri is None or (value is not None and _clean(value) is None):
        return None
    text = with_user(uri, value)
    return None if text is None else (address.display, text)


def _change_host(address: NameAddr, value: Xval) -> tuple[str, str] | None:
    uri = uri_or_none(address.uri)
    text = None if uri is None else with_host(uri, _clean(value))
    return None if text is None else (address.display, text)


def _change_display(address: NameAddr, value: Xval) -> tuple[str, str] | None:
    if value is None:
        return "", address.uri
    display = _clean(value)
    return None if display is None else (display, address.uri)


def _party_classes(name: str, party: Callable[[Message], NameAddr], letter: str) -> dict[str, Factory]:
    uri = plain(_party(party, _uri), _setter(name, _change_uri))
    user = plain(_party(party, _user), _setter(name, _change_user))
    host = plain(_party(party, _host), _setter(name, _change_host))
    return {
        f"{letter}u": uri,
        name: uri,
        f"{letter}U": user,
        f"{name}.user": user,
        f"{letter}d": host,
        f"{name}.domain": host,
        f"{letter}n": plain(_party(party, _display), _setter(name, _change_display)),
        f"{letter}t": plain(_party(party, _tag)),
        f"{letter}ul": plain(_party(party, _uri_length)),
        f"{letter}Ul": plain(_party(party, _user_length)),
    }


# ---- headers with one or more addresses
def addresses(ctx: RouteContext, name: str) -> list[NameAddr]:
    """Return the name-addr values of the headers ``name``; what is malformed is left out."""
    out = []
    for value in ctx.message.list(name):
        try:
            out.append(parse_name_addr(value))
        except ParseError:
            continue
    return out


def _listed(name: str, part: Callable[[NameAddr], Xval]) -> Factory:
    """Return the class of a part of one address of a header that may hold several: ``$(ai[1])``."""

    def values(ctx: RouteContext) -> list[str]:
        found = (part(address) for address in addresses(ctx, name))
        return [value if isinstance(value, str) else "" for value in found]

    def factory(inner: str | None, index: str | None, variables: Variables) -> Accessor:
        if inner is not None:
            raise ValueError("it takes no name")
        get = indexed(values, index, variables)
        return Accessor(lambda ctx: get(ctx) or None)

    return factory


def _first(name: str, part: Callable[[NameAddr], Xval]) -> Factory:
    def get(ctx: RouteContext) -> Xval:
        found = addresses(ctx, name)
        return part(found[0]) if found else None

    return plain(get)


def _param(name: str) -> Callable[[NameAddr], Xval]:
    return lambda address: address.param(name) or None


# ---- Contact
def _contact_star(ctx: RouteContext) -> Xval:
    return int(ctx.message.get("contact") == "*")


def expires_values(ctx: RouteContext) -> list[int]:
    """Return the seconds for which each Contact is good, by its parameter or by Expires; of Expires without Contacts."""
    header = ctx.message.get("expires") or ""
    found = [address.param("expires") or header for address in addresses(ctx, "contact")]
    return [int(text) for text in found or [header] if text.isdecimal() and len(text) <= 10]


def _expires(choose: Callable[[list[int]], int]) -> Getter:
    def get(ctx: RouteContext) -> Xval:
        values = expires_values(ctx)
        return choose(values) if values else None

    return get


def _expires_class(inner: str | None, index: str | None, variables: Variables) -> Accessor:
    no_index(index)
    key = required(inner)
    if key not in ("min", "max"):
        raise ValueError(f"{key!r} is neither min nor max")
    return Accessor(_expires(min if key == "min" else max))


def _to_tag_state(ctx: RouteContext) -> Xval:
    return int(_party(_to, _tag)(ctx) is not None)


# ---- direction of a request in its dialog
def _direction(ctx: RouteContext) -> int:
    """Return 1 for downstream, 2 for upstream.

    The ftag in our Route, which rr.loose_route keeps, is the tag of the caller; before that all is downstream.
    """
    ftag = parse_params(ctx.shared.route_params).get("ftag")
    return 2 if ftag and ftag != _FROM_TAG(ctx) else 1


def _direction_class(inner: str | None, index: str | None, variables: Variables) -> Accessor:
    no_index(index)
    if inner == "id":
        return Accessor(_direction)
    if inner == "name":
        return Accessor(lambda ctx: ("downstream", "upstream")[_direction(ctx) - 1])
    raise ValueError("it is $rdir(id) or $rdir(name)")


def _initial_tag(downstream: Getter, upstream: Getter) -> Getter:
    return lambda ctx: downstream(ctx) if _direction(ctx) == 1 else upstream(ctx)


_FROM_TAG = _party(_from, _tag)
_TO_TAG = _party(_to, _tag)

CLASSES: Final[dict[str, Factory]] = {
    **_party_classes("from", _from, "f"),
    **_party_classes("to", _to, "t"),
    "tts": plain(_to_tag_state),
    "fti": plain(_initial_tag(_FROM_TAG, _TO_TAG)),
    "tti": plain(_initial_tag(_TO_TAG, _FROM_TAG)),
    "ai": _listed("p-asserted-identity", _uri),
    "pu": _listed("p-preferred-identity", _uri),
    "pU": _listed("p-preferred-identity", _user),
    "pd": _listed("p-preferred-identity", _host),
    "pn": _listed("p-preferred-identity", _display),
    "re": _first("remote-party-id", _uri),
    "rt": _first("refer-to", _uri),
    "di": _first("diversion", _uri),
    "dir": _first("diversion", _param("reason")),
    "dip": _first("diversion", _param("privacy")),
    "dic": _first("diversion", _param("counter")),
    "ctu": _first("contact", _uri),
    "cts": plain(_contact_star),
    "route_uri": _first("route", _uri),
    "expires": _expires_class,
    "rdir": _direction_class,
}
