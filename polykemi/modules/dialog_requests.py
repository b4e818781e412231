"""Requests that the server sends within a dialog, to one side in the name of the other (RFC 3261 section 12.2). Part of dialog."""

from __future__ import annotations

from polykemi.errors import ParseError
from polykemi.modules.dialog_state import CALLEE, CALLER, IFLAG_PRACK, Dialog
from polykemi.modules.tm_local import LocalRequest
from polykemi.sip.header import parse_name_addr
from polykemi.sip.rewrite import alias_uri, without_alias
from polykemi.sip.uri import parse_uri

_PRACKED = 80  # how far CSeq is put ahead when there may have been PRACKs that we have not counted


def within(
    dialog: Dialog, method: str, leg: int, headers: list[str], body: bytes = b"", ahead: int = 1
) -> LocalRequest:
    """Return a request to one side of ``dialog``; CSeq is ``ahead`` of the last one. Raise ParseError without a target."""
    to, other = dialog.legs[leg], dialog.legs[CALLER if leg == CALLEE else CALLEE]
    if not to.contact:
        raise ParseError("no Contact of that side is known")
    uris = (dialog.from_uri, dialog.to_uri)
    local, remote = uris[CALLER if leg == CALLEE else CALLEE], uris[leg]
    target, routes, dst_uri = to.contact, list(to.route_set), ""
    if routes:
        first = parse_name_addr(routes[0]).uri
        if not parse_uri(first).is_loose:  # a strict router wants itself in the Request-URI (section 12.2.1.1)
            target, routes, dst_uri = first, [*routes[1:], f"<{target}>"], first
    else:
        target, dst_uri = restored(target)
    cseq = max(other.cseq + ahead + (_PRACKED if dialog.iflags & IFLAG_PRACK else 0), 0)
    return LocalRequest(
        method,
        target,
        f"<{local}>" + (f";tag={other.tag}" if other.tag else ""),
        f"<{remote}>" + (f";tag={to.tag}" if to.tag else ""),
        headers=headers,
        body=body,
        dst_uri=dst_uri,
        routes=routes,
        call_id=dialog.call_id,
        cseq=cseq,
        listener=to.listener,
    )


def restored(contact: str) -> tuple[str, str]:
    """Return a Contact without the alias that nathelper put into it, and the address that this says, "" without one."""
    uri, alias = without_alias(parse_uri(contact), first=True)
    destination = alias_uri(alias)
    return (uri, destination) if destination else (contact, "")


def header_lines(text: str) -> list[str]:
    """Return the header lines of a parameter, which ends each of them with CRLF, written out or as ``\\r\\n``."""
    return [line for line in text.replace("\\r\\n", "\n").replace("\r\n", "\n").split("\n") if line]
