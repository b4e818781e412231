"""The digest credentials of a request: ``$ar $au $ad $aU $aa $adn $adu $Au $AU`` ... (RFC 3261 section 22)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval
from polykemi.pv.accessor import Factory
from polykemi.pv.classes.factories import plain
from polykemi.sip.digest import Credentials, parse_credentials
from polykemi.sip.message import Message, Request
from polykemi.sip.uri import parse_uri


def credentials(ctx: RouteContext) -> Credentials | None:
    """Return the credentials of Proxy-Authorization, else of Authorization; None when there are none that parse.

    ACK and CANCEL, which cannot be challenged, have none (RFC 3261 section 22.1).
    """
    found: Credentials | None
    try:
        found = ctx.cache["pv.credentials"]
    except KeyError:
        found = ctx.cache["pv.credentials"] = _parse(ctx.message)
    return found


def _parse(message: Message) -> Credentials | None:
    value = message.get("proxy-authorization") or message.get("authorization")
    if value is None or (isinstance(message, Request) and message.method in ("ACK", "CANCEL")):
        return None
    try:
        return parse_credentials(value)
    except ParseError:
        return None


def _attribute(part: Callable[[Credentials], str]) -> Factory:
    def get(ctx: RouteContext) -> Xval:
        found = credentials(ctx)
        return None if found is None else part(found)

    return plain(get)


def _account(ctx: RouteContext) -> tuple[str, str] | None:
    """Return user and realm that the proxy authenticated, user and host of From when there are no credentials."""
    found = credentials(ctx) if "proxy-authorization" in ctx.message.names else None
    if found is not None:
        return found.user, found.realm
    try:
        uri = parse_uri(ctx.message.from_.uri)
    except ParseError:
        return None
    return uri.user, uri.host


def account_name(ctx: RouteContext) -> str | None:
    """Return the name that accounting uses, user@realm or user@host (``$Au``)."""
    account = _account(ctx)
    return None if account is None else f"{account[0]}@{account[1]}"


def _account_user(ctx: RouteContext) -> Xval:
    account = _account(ctx)
    return None if account is None else account[0] or None


CLASSES: Final[dict[str, Factory]] = {
    "ar": _attribute(lambda c: c.realm),
    "au": _attribute(lambda c: c.user),
    "ad": _attribute(lambda c: c.domain),
    "aU": _attribute(lambda c: c.username),
    "aa": _attribute(lambda c: c.algorithm),
    "adn": _attribute(lambda c: c.nonce),
    "adu": _attribute(lambda c: c.uri),
    "adr": _attribute(lambda c: c.response),
    "adc": _attribute(lambda c: c.cnonce),
    "ado": _attribute(lambda c: c.opaque),
    "Au": plain(account_name),
    "AU": plain(_account_user),
}
