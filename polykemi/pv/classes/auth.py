"""The digest credentials of a request: ``$ar $au $ad $aU $aa $adn $adu $Au $AU`` ... (RFC 3261 section 22)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval
from polykemi.pv.accessor import Factory
from polykemi.pv.classes.factories import plain, uri_or_none
from polykemi.sip.digest import Credentials, parse_credentials


def credentials(ctx: RouteContext) -> Credentials | None:
    """Return the credentials of Proxy-Authorization, else of Authorization; None when there are none that parse."""
    message = ctx.message
    value = message.get("proxy-authorization") or message.get("authorization")
    if value is None:
        return None
    try:
        return parse_credentials(value)
    except ParseError:
        return None


def _attribute(part: Callable[[Credentials], str]) -> Factory:
    def get(ctx: RouteContext) -> Xval:
        found = credentials(ctx)
        return None if found is None else part(found) or None

    return plain(get)


def account_name(ctx: RouteContext) -> str | None:
    """Return user@realm of the credentials, the From URI when there are none (``$Au``)."""
    found = credentials(ctx)
    if found is not None:
        return f"{found.user}@{found.realm}"
    try:
        return ctx.message.from_.uri or None
    except ParseError:
        return None


def _account_user(ctx: RouteContext) -> Xval:
    found = credentials(ctx)
    if found is not None:
        return found.user or None
    try:
        uri = uri_or_none(ctx.message.from_.uri)
    except ParseError:
        return None
    return None if uri is None else uri.user or None


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
