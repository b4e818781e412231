"""sanity: checks that a request is well-formed before anything is done with it (RFC 3261 sections 8.1.1, 16.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from polykemi.errors import ParseError, SipError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.modules.base import Module, Services
from polykemi.sip.constants import SIP_VERSION
from polykemi.sip.digest import parse_credentials
from polykemi.sip.header import parse_name_addr, split_quoted
from polykemi.sip.message import Message, Request
from polykemi.sip.uri import parse_uri

_ERROR: Final = "sanity.error"  # ctx.cache: status, reason and header lines of the check that failed
_NOTHING_FOUND: Final = (500, "Server Sanity Failure", ())

_SCHEMES: Final = frozenset(("sip", "sips", "tel", "tels", "urn"))
_REQUIRED: Final = ("to", "from", "cseq", "call-id", "via")


@dataclass(frozen=True, slots=True)
class Params:
    """``default_checks`` and ``uri_checks``: what sanity_check_defaults checks; ``proxy_require``: option tags that are
    supported, comma-separated; ``noreply`` 1: do not reply, the script does (sanity_reply). ``size_checks`` 1: check
    sizes always; ``size_*``: the largest allowed, in octets, 0 for any.
    """

    default_checks: int = 3047
    uri_checks: int = 7
    proxy_require: str = ""
    noreply: int = 0
    size_checks: int = 0
    size_message: int = 16384
    size_headers: int = 8192
    size_body: int = 8192
    size_header: int = 2048
    size_method: int = 32
    size_ruri: int = 256
    size_from_uri: int = 256
    size_to_uri: int = 256
    size_contact_uri: int = 256
    size_route_uri: int = 256


class Sanity(Module):
    """Checks of messages, with the reply that fits what is wrong."""

    name = "sanity"
    Params = Params

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)  # mypyc runs one that is inherited twice, and keeps what the first has set

    @export()
    def sanity_check(self, ctx: RouteContext, checks: int, uris: int) -> int:
        """Check the message and reply to a request that fails (400, 416, 420, 505). Answers 1 or -1.

        ``checks`` is a sum: 1 SIP version, 2 scheme of the Request-URI, 4 required headers, 32 CSeq method, 64 CSeq
        number, 128 Content-Length, 256 Expires, 512 Proxy-Require, 1024 URIs (``uris``: 1 Request-URI, 2 From, 4 To,
        8 Contact), 2048 digest credentials, 4096 duplicated tags, 8192 digest credentials if the scheme is Digest,
        16384 first Via, 32768 branch cookie and ``lr`` of routes, 65536 sizes. 8 and 16 check nothing, as in Kamailio.
        """
        message = ctx.message
        try:
            if checks & 1:
                _check_version(message)
            if checks & 2:
                _check_scheme(message)
            if checks & 4:
                _check_required(message)
            if checks & 32:
                _check_cseq_method(message)
            if checks & 64:
                _ = message.cseq
            if checks & 128:
                _check_content_length(message)
            if checks & 256:
                _check_expires(message)
            if checks & 512:
                self._check_proxy_require(message)
            if checks & 1024:
                _check_uris(message, uris)
            if checks & _SELDOM:
                _check_seldom(message, checks)
            if checks & 65536 or self.params.size_checks:
                self._check_sizes(message)
        except _Unsupported as unsupported:
            return self._fail(ctx, unsupported, (f"Unsupported: {unsupported.options}",))
        except SipError as error:
            return self._fail(ctx, error)
        return 1

    @export()
    def sanity_check_defaults(self, ctx: RouteContext) -> int:
        """Check the message with the parameters ``default_checks`` and ``uri_checks``. Answers 1 or -1."""
        return self.sanity_check(ctx, self.params.default_checks, self.params.uri_checks)

    @export()
    def sanity_reply(self, ctx: RouteContext) -> int:
        """Reply with what the last check found, 500 when it found nothing (for ``noreply`` 1). Answers 1, or -1.

        Without ``noreply``, and for replies and ACK, there is nothing to do: 1.
        """
        message = ctx.message
        if not self.params.noreply or not isinstance(message, Request) or message.method == "ACK":
            return 1
        return self._reply(ctx, *ctx.cache.get(_ERROR, _NOTHING_FOUND))

    def _fail(self, ctx: RouteContext, error: SipError, headers: tuple[str, ...] = ()) -> int:
        ctx.cache[_ERROR] = (error.status, error.reason, headers)
        if not self.params.noreply:
            self._reply(ctx, error.status, error.reason, headers)
        return -1

    def _reply(self, ctx: RouteContext, status: int, reason: str, headers: tuple[str, ...]) -> int:
        sl = self.services.modules.get("sl")
        if sl is None or not isinstance(ctx.message, Request):
            return -1
        before = ctx.reply_headers
        ctx.reply_headers = [*before, *headers]
        try:
            return int(sl.send_reply(ctx, status, reason))
        except ParseError:  # what makes the request bad makes it unanswerable too
            self.services.count("sl.failures")
            return -1
        finally:
            ctx.reply_headers = before

    def _check_proxy_require(self, message: Message) -> None:
        if not message.has("proxy-require"):
            return
        supported = {option.strip(" ").lower() for option in self.params.proxy_require.split(",")}
        unsupported = [option for option in message.list("proxy-require") if option.lower() not in supported]
        if unsupported:
            raise _Unsupported(", ".join(unsupported))

    def _check_sizes(self, message: Message) -> None:
        limits = self.params
        lines = message.lines
        sizes = [
            (len(message.raw), limits.size_message, "Message"),
            (len(message.raw) - message.body_size, limits.size_headers, "Headers"),
            (message.body_size, limits.size_body, "Body"),
            (max(map(len, lines), default=0), limits.size_header, "Header"),
            (len(message.cseq[1]), limits.size_method, "Method"),
            (len(message.from_.uri), limits.size_from_uri, "From URI"),
            (len(message.to.uri), limits.size_to_uri, "To URI"),
        ]
        if isinstance(message, Request):
            sizes.append((len(message.uri), limits.size_ruri, "Request URI"))
        for name, limit in (("contact", limits.size_contact_uri), ("route", limits.size_route_uri)):
            sizes += [(len(parse_name_addr(value).uri), limit, f"{name.title()} URI") for value in message.list(name)]
        for size, limit, what in sizes:
            if limit and size > limit:
                raise ParseError(f"{what} Too Large")


class _Unsupported(SipError):
    """Options in Proxy-Require that we do not have (RFC 3261 section 16.3 step 5)."""

    def __init__(self, options: str) -> None:
        super().__init__(420, "Bad Proxy Require Extension")
        self.options = options


def _check_version(message: Message) -> None:
    if isinstance(message, Request) and message.version != SIP_VERSION and message.version.upper() != SIP_VERSION:
        raise ParseError("Version Not Supported", 505)


def _check_scheme(message: Message) -> None:
    if isinstance(message, Request) and message.uri[:4] != "sip:" and parse_uri(message.uri).scheme not in _SCHEMES:
        raise ParseError("Unsupported URI Scheme", 416)


def _check_required(message: Message) -> None:
    if message.shape.missing:
        raise ParseError(f"Missing {next(name for name in _REQUIRED if not message.has(name)).title()} Header")


def _check_cseq_method(message: Message) -> None:
    if isinstance(message, Request) and message.cseq[1] != message.method:
        raise ParseError("CSeq Method Does Not Match")


def _check_content_length(message: Message) -> None:
    length = message.content_length
    if length is not None and length != message.body_size:
        raise ParseError("Content-Length Does Not Match")


def _check_expires(message: Message) -> None:
    value = message.get("expires")
    if value is None or (value.isdecimal() and len(value) < 10):
        return
    if not value.isdecimal() or len(value) > 10 or int(value) >= 1 << 32:
        raise ParseError("Expires value is illegal")


def _check_uris(message: Message, uris: int) -> None:
    if uris & 1 and isinstance(message, Request):
        _check_uri(message.uri, "Bad Request URI")
    if uris & 2:
        _check_uri(message.from_.uri, "Invalid From Header")
    if uris & 4 and not (uris & 2 and message.to.uri == message.from_.uri):  # as in nearly every REGISTER
        _check_uri(message.to.uri, "Invalid To Header")
    if uris & 8:
        for value in message.list("contact"):
            if value != "*":
                _check_uri(parse_name_addr(value).uri, "Bad Contact URI")


def _check_uri(text: str, reason: str) -> None:
    try:
        parse_uri(text)
    except ParseError:
        raise ParseError(reason) from None


def _check_credentials(message: Message) -> None:
    for name in ("authorization", "proxy-authorization"):
        for value in message.all(name):
            parse_credentials(value)


def _check_digest_credentials(message: Message) -> None:
    for value in message.all("authorization"):
        if value[:7].lower() == "digest ":
            parse_credentials(value)


def _check_tags(message: Message) -> None:
    for name, value in (("From", message.from_), ("To", message.to)):
        tags = [p for p in split_quoted(value.params, ";") if p[:3].lower() == "tag" and p[3:].lstrip(" \t")[:1] == "="]
        if len(tags) > 1:
            raise ParseError(f"More Than One {name} Tag")


def _check_first_via(message: Message) -> None:
    if not message.via.branch:
        raise ParseError("Missing Via Branch")


def _check_rfc3261(message: Message) -> None:
    if not message.via.branch.startswith("z9hG4bK"):
        raise ParseError("Bad Via Branch")
    for name in ("route", "record-route"):
        for value in message.list(name):
            if not parse_uri(parse_name_addr(value).uri).is_loose:
                raise ParseError(f"Missing lr In {name.title()}")


_SELDOM: Final = 2048 | 4096 | 8192 | 16384 | 32768


def _check_seldom(message: Message, checks: int) -> None:
    """Do the checks that scripts seldom ask for."""
    if checks & 2048:
        _check_credentials(message)
    if checks & 4096:
        _check_tags(message)
    if checks & 8192:
        _check_digest_credentials(message)
    if checks & 16384:
        _check_first_via(message)
    if checks & 32768:
        _check_rfc3261(message)
