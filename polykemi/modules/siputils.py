"""siputils: tests of messages and URIs, hidden Contacts, OPTIONS replies."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.kemi.route import Route
from polykemi.modules.base import Module, Services
from polykemi.sip.digest import parse_credentials
from polykemi.sip.header import NameAddr, canonical_names, parse_name_addr, parse_params
from polykemi.sip.rewrite import contact_alias, rewrite_uris, with_uri_param
from polykemi.sip.uri import Uri, parse_uri


@dataclass(frozen=True, slots=True)
class Params:
    """``options_*``: the headers of options_reply; ``contact_flds_separator``: its first character parts the fields of
    an encoded Contact.
    """

    options_accept: str = "*/*"
    options_accept_encoding: str = ""
    options_accept_language: str = "en"
    options_support: str = ""
    contact_flds_separator: str = "*"


class SipUtils(Module):
    """Tests and small changes of messages."""

    name = "siputils"
    Params = Params

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)  # mypyc runs one that is inherited twice, and keeps what the first has set

    # ---- the message
    @export(constant=True)
    def has_totag(self, ctx: RouteContext) -> int:
        """Tell whether the To header has a tag: the message belongs to a dialog. Answers 1 or -1."""
        return 1 if ctx.message.to.tag else -1

    @export(constant=True)
    def is_request(self, ctx: RouteContext) -> int:
        """Tell whether the message is a request. Answers 1 or -1."""
        return 1 if ctx.message.is_request else -1

    @export(constant=True)
    def is_reply(self, ctx: RouteContext) -> int:
        """Tell whether the message is a reply. Answers 1 or -1."""
        return -1 if ctx.message.is_request else 1

    @export(constant=True)
    def is_sip(self, ctx: RouteContext) -> int:
        """Tell whether the message is SIP. Answers 1: nothing else gets here."""
        return 1

    @export(constant=True)
    def is_http(self, ctx: RouteContext) -> int:
        """Tell whether the message is HTTP. Answers -1: HTTP does not get here."""
        return -1

    @export(constant=True)
    def is_first_hop(self, ctx: RouteContext) -> int:
        """Tell whether we are the first proxy behind the sender. Answers 1 or -1.

        A request has one Via then; of a reply the top Record-Route is ours and the source is not.
        """
        return self.is_first_hop_mode(ctx, 0)

    @export(constant=True)
    def is_first_hop_mode(self, ctx: RouteContext, mode: int) -> int:
        """Tell like ``is_first_hop``; with ``mode`` 1 the source address of a reply is not looked at."""
        message = ctx.message
        if message.is_request:
            one = message.names.count("via") == 1 and len(message.list("via")) == 1
            return 1 if one else -1
        routes = message.list("record-route")
        if not routes:
            return -1
        uri = parse_uri(parse_name_addr(routes[0]).uri)
        services = self.services
        if not uri.host or not services.is_myself(uri.host, uri.effective_port, uri.transport):
            return -1
        return -1 if mode == 0 and services.is_myself(ctx.flow.host) else 1

    @export(constant=True)
    def sip_parse_headers(self, ctx: RouteContext) -> int:
        """Tell whether the headers that SIP needs can be parsed. Answers 1 or -1."""
        message = ctx.message  # each access parses, and raises when it cannot
        parsed = (message.via, message.from_, message.to, message.cseq, message.call_id)
        return 1 if all(value is not None for value in parsed) else -1

    @export(constant=True)
    def hdr_date_check(self, ctx: RouteContext, seconds: int) -> int:
        """Tell whether the Date header is at most ``seconds`` old.

        Answers 1, -1 (no Date, or a malformed one), -4 (older).
        """
        value = ctx.message.get("date")
        if not value:
            return -1
        try:
            date = parsedate_to_datetime(value).timestamp()
        except (ValueError, TypeError, OverflowError, IndexError):
            return -1
        return -4 if ctx.now > date + seconds else 1

    @export(routes=Route.REQUEST)
    def options_reply(self, ctx: RouteContext) -> int:
        """Reply 200 to an OPTIONS without user in the Request-URI, with what we accept. Answers 1, or -1 when it is none."""
        if ctx.method != "OPTIONS" or parse_uri(ctx.ruri).user:
            return -1
        params = self.params
        headers = (
            f"Accept: {params.options_accept}",
            f"Accept-Encoding: {params.options_accept_encoding}",
            f"Accept-Language: {params.options_accept_language}",
            f"Supported: {params.options_support}",
        )
        sl = self.services.modules.get("sl")
        return int(sl.reply(ctx, 200, "OK", headers)) if sl is not None else -1

    @export()
    def is_user(self, ctx: RouteContext, username: str) -> int:
        """Tell whether ``username`` is that of the credentials which auth has checked. Answers 1 or -1."""
        lines: list[int] = ctx.cache.get("auth.authorized", [])
        message = ctx.message
        return 1 if any(parse_credentials(message.value(line)).user == username for line in lines) else -1

    # ---- text
    @export()
    def is_uri(self, ctx: RouteContext, text: str) -> int:
        """Tell whether ``text`` is a URI. Answers 1 or -1."""
        parse_uri(text)
        return 1

    @export()
    def is_tel_number(self, ctx: RouteContext, text: str) -> int:
        """Tell whether ``text`` is a telephone number: digits behind an optional ``+``. Answers 1 or -2."""
        return 1 if _is_digits(text.removeprefix("+")) else -2

    @export()
    def is_numeric(self, ctx: RouteContext, text: str) -> int:
        """Tell whether ``text`` is made of digits. Answers 1 or -2."""
        return 1 if _is_digits(text) else -2

    @export()
    def is_alphanum(self, ctx: RouteContext, text: str) -> int:
        """Tell whether ``text`` is made of ASCII letters and digits. Answers 1, -2 (empty) or -3."""
        return self.is_alphanumex(ctx, text, "")

    @export()
    def is_alphanumex(self, ctx: RouteContext, text: str, more: str) -> int:
        """Tell whether ``text`` is made of ASCII letters, digits and characters of ``more``. Answers 1, -2 (empty) or -3."""
        if not text:
            return -2
        return 1 if all((c.isascii() and c.isalnum()) or c in more for c in text) else -3

    @export()
    def cmp_uri(self, ctx: RouteContext, one: str, other: str) -> int:
        """Compare two URIs as Kamailio does. Answers 1 (the same), -1, or -2 when one is no URI.

        Scheme, user, password and port are compared octet by octet, the host without case, and of the parameters those
        that both have; user, ttl, method and maddr count when the other has no parameters.
        """
        if not (_is_uri(one) and _is_uri(other)):
            return -2
        return 1 if _same_uri(parse_uri(one), parse_uri(other)) else -1

    @export()
    def cmp_aor(self, ctx: RouteContext, one: str, other: str) -> int:
        """Compare two SIP URIs as addresses of record: user, host and port only. Answers 1 (the same), -1 or -2."""
        if not (_is_uri(one) and _is_uri(other)):
            return -2
        a, b = parse_uri(one), parse_uri(other)
        same = a.user == b.user and a.host.lower() == b.host.lower()
        return 1 if same and (a.port or 5060) == (b.port or 5060) else -1

    @export()
    def cmp_hdr_name(self, ctx: RouteContext, one: str, other: str) -> int:
        """Compare two header names, compact forms included. Answers 1 (the same), -1, or -2 when one is empty."""
        if not one or not other:
            return -2
        return 1 if canonical_names[one] == canonical_names[other] else -1

    # ---- Request-URI
    @export()
    def is_gruu(self, ctx: RouteContext) -> int:
        """Tell whether the Request-URI is a GRUU (RFC 5627). Answers 1 (public), 2 (temporary) or -1."""
        gr = parse_uri(ctx.ruri).param("gr")
        return -1 if gr is None else 1 if gr else 2

    @export()
    def uri_param(self, ctx: RouteContext, name: str) -> int:
        """Tell whether the Request-URI has the parameter ``name`` without a value. Answers 1 or -1."""
        return 1 if parse_uri(ctx.ruri).param(name.lower()) == "" else -1

    @export()
    def uri_param_value(self, ctx: RouteContext, name: str, value: str) -> int:
        """Tell whether the Request-URI has the parameter ``name`` with ``value``. Answers 1 or -1."""
        found = parse_uri(ctx.ruri).param(name.lower())
        return 1 if found is not None and found.lower() == value.lower() else -1

    @export()
    def uri_param_any(self, ctx: RouteContext, name: str) -> int:
        """Tell whether the Request-URI has the parameter ``name``, with or without a value. Answers 1 or -1."""
        return -1 if parse_uri(ctx.ruri).param(name.lower()) is None else 1

    @export()
    def uri_param_rm(self, ctx: RouteContext, name: str) -> int:
        """Take the parameter ``name`` out of the Request-URI. Answers 1, also when it is not there, or -1."""
        ctx.ruri = _without_param(parse_uri(ctx.ruri), name)
        return 1

    @export()
    def add_uri_param(self, ctx: RouteContext, param: str) -> int:
        """Add ``name=value`` to the Request-URI. Answers 1, or -1 when it cannot stand there."""
        if not param or any(c in param for c in "<>? \r\n"):
            return -1
        uri = parse_uri(ctx.ruri)
        ctx.ruri = uri.changed(params=f"{uri.params};{param}" if uri.params else param)
        return 1

    # ---- Contact with all that it says in the user part
    @export()
    def encode_contact(self, ctx: RouteContext, prefix: str, host: str) -> int:
        """Hide the URIs of Contact: ``sip:prefix*user*password*ip*port*transport@host``. Answers 1, or -1 without Contact."""
        mark = self.params.contact_flds_separator[:1]

        def change(value: NameAddr) -> str:
            uri = parse_uri(value.uri)
            fields = (prefix, uri.user, uri.password, uri.host, str(uri.port or ""), uri.transport)
            return f"sip:{mark.join(fields)}@{host}"

        return 1 if rewrite_uris(ctx.message, ctx.edits, "contact", change) else -1

    @export(routes=Route.REQUEST | Route.BRANCH | Route.FAILURE)
    def decode_contact(self, ctx: RouteContext) -> int:
        """Undo ``encode_contact`` in the Request-URI. Answers 1, or -26 when it is not encoded."""
        uri = self._decoded(ctx.ruri)
        if uri is None:
            return -26
        ctx.ruri = uri
        return 1

    @export()
    def decode_contact_header(self, ctx: RouteContext) -> int:
        """Undo ``encode_contact`` in the URIs of Contact. Answers 1, or -1 when one is not encoded or there is none."""
        failed = False

        def change(value: NameAddr) -> str | None:
            nonlocal failed
            uri = self._decoded(value.uri)
            failed = failed or uri is None
            return uri

        return 1 if rewrite_uris(ctx.message, ctx.edits, "contact", change) and not failed else -1

    def _decoded(self, text: str) -> str | None:
        fields = parse_uri(text).user.split(self.params.contact_flds_separator[:1])
        if len(fields) != 6 or not fields[3]:
            return None
        _, user, password, host, port, transport = fields
        userinfo = (f"{user}:{password}@" if password else f"{user}@") if user else ""
        decoded = (
            f"sip:{userinfo}{host}" + (f":{port}" if port else "") + (f";transport={transport}" if transport else "")
        )
        try:
            return parse_uri(decoded).text
        except ParseError:
            return None

    # ---- Contact with its URI in a parameter
    @export()
    def contact_param_encode(self, ctx: RouteContext, name: str, uri: str) -> int:
        """Replace the URIs of Contact by ``uri;name=X``, X being the URI in base64url. Answers 1, or -1 without Contact."""
        return self._encode_in_param(ctx, name, uri, alias=False)

    @export()
    def contact_param_encode_alias(self, ctx: RouteContext, name: str, uri: str) -> int:
        """Do what ``contact_param_encode`` does, with the source's ``;alias=`` added to the URI first. Answers 1 or -1."""
        return self._encode_in_param(ctx, name, uri, alias=True)

    def _encode_in_param(self, ctx: RouteContext, name: str, uri: str, *, alias: bool) -> int:
        parse_uri(uri)

        def change(value: NameAddr) -> str:
            old = with_uri_param(value.uri, contact_alias(ctx.flow)) if alias else value.uri
            encoded = base64.urlsafe_b64encode(old.encode("latin-1")).decode("ascii").rstrip("=")
            return f"{uri};{name}={encoded}"

        return 1 if rewrite_uris(ctx.message, ctx.edits, "contact", change) else -1

    @export()
    def contact_param_decode(self, ctx: RouteContext, name: str) -> int:
        """Put the URI that stands in the parameter ``name`` back in its place, in Contact. Answers 1, or -1 without Contact."""

        def change(value: NameAddr) -> str | None:
            return _param_uri(value.uri, name)

        return 1 if rewrite_uris(ctx.message, ctx.edits, "contact", change) else -1

    @export(routes=Route.REQUEST | Route.BRANCH | Route.FAILURE)
    def contact_param_decode_ruri(self, ctx: RouteContext, name: str) -> int:
        """Put the URI that stands in the parameter ``name`` in place of the Request-URI.

        Answers 1, also without the parameter, or -1 when it holds no URI.
        """
        if parse_uri(ctx.ruri).param(name.lower()) is None:
            return 1
        uri = _param_uri(ctx.ruri, name)
        if uri is None:
            return -1
        ctx.ruri = uri
        return 1

    @export()
    def contact_param_rm(self, ctx: RouteContext, name: str) -> int:
        """Take the parameter ``name`` out of the URIs of Contact. Answers 1, or -1 without Contact."""

        def change(value: NameAddr) -> str | None:
            uri = parse_uri(value.uri)
            return None if uri.param(name.lower()) is None else _without_param(uri, name)

        return 1 if rewrite_uris(ctx.message, ctx.edits, "contact", change) else -1

    @export(constant=True)
    def contact_param_check(self, ctx: RouteContext, name: str) -> int:
        """Tell whether the URI of a Contact has the parameter ``name``. Answers 1 or -1."""
        uris = (parse_uri(parse_name_addr(value).uri) for value in ctx.message.list("contact") if value != "*")
        return 1 if any(uri.param(name.lower()) is not None for uri in uris) else -1


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _without_param(uri: Uri, name: str) -> str:
    kept = [p for p in uri.params.split(";") if p.partition("=")[0].strip(" ").lower() != name.lower()]
    return uri.changed(params=";".join(kept))


def _param_uri(text: str, name: str) -> str | None:
    """Return the URI that stands base64url-encoded in the parameter ``name`` of the URI ``text``, None when there is none."""
    encoded = parse_uri(text).param(name.lower())
    if not encoded:
        return None
    try:
        decoded = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True).decode("latin-1")
        return parse_uri(decoded).text
    except (binascii.Error, ValueError, ParseError):
        return None


def _is_uri(text: str) -> bool:
    try:
        parse_uri(text)
    except ParseError:
        return False
    return True


def _same_uri(one: Uri, other: Uri) -> bool:
    if (one.scheme, one.user, one.password, one.port) != (other.scheme, other.user, other.password, other.port):
        return False
    if one.host.lower() != other.host.lower():
        return False
    ours, theirs = (parse_params(uri.params) for uri in (one, other))
    if not ours or not theirs:
        return not {"user", "ttl", "method", "maddr"} & {*ours, *theirs}
    return all((theirs[name] or "").lower() == (value or "").lower() for name, value in ours.items() if name in theirs)
