"""sipjson: what matters of a message, as JSON (Kamailio: modules/sipjson)."""

from __future__ import annotations

import json

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.modules.base import Module
from polykemi.sip.message import Request, Response
from polykemi.sip.uri import Uri, parse_uri


class SipJson(Module):
    """Messages as JSON. Keys are named as pseudo-variables: rm, ru, fU, ci, ..."""

    name = "sipjson"

    @export()
    def sj_serialize(self, ctx: RouteContext, mode: str, variable: str) -> int:
        """Store the message as JSON in ``variable``; ``mode``: B adds the body, c the CSeq, t the To, 0 nothing. Answers 1 or -1."""
        put = self.services.variables.setter(variable)
        if put is None:
            return -1
        pairs = _fields(ctx)
        message = ctx.message
        for letter in mode:
            if letter == "B":
                pairs.append(("rb", str(message.body, "latin-1")))
            elif letter == "c":
                pairs.append(("cs", (message.get("cseq") or "").partition(" ")[0]))
            elif letter == "t":
                to = _uri_of(ctx, "to")
                pairs += [("tU", to.user if to else ""), ("td", to.host if to else "")]
        text = ",".join(f'"{key}":{json.dumps(value, ensure_ascii=False)}' for key, value in pairs)
        return 1 if put(ctx, f"{{{text}}}") else -1


def _fields(ctx: RouteContext) -> list[tuple[str, str | int]]:
    message, flow = ctx.message, ctx.flow
    listener = flow.listener
    pairs: list[tuple[str, str | int]] = [("mt", 2 if message.is_request else 1), ("rm", ctx.method)]
    pairs += [
        ("pr", listener.proto),
        ("si", flow.host),
        ("sp", flow.port),
        ("Ri", listener.host),
        ("Rp", listener.port),
    ]
    uri = _uri(ctx.ruri) if isinstance(message, Request) else None
    pairs += [
        ("ru", ctx.ruri if uri else ""),
        ("rU", uri.user if uri else ""),
        ("rd", uri.host if uri else ""),
        ("rp", (uri.port or 0) if uri else 0),
    ]
    status, reason = (message.status, message.reason) if isinstance(message, Response) else (0, "")
    pairs += [("rs", status), ("rr", reason)]
    sender = _uri_of(ctx, "from")
    pairs += [("fU", sender.user if sender else ""), ("fd", sender.host if sender else "")]
    return [*pairs, ("ua", message.get("user-agent") or ""), ("ci", message.get("call-id") or "")]


def _uri(text: str) -> Uri | None:
    try:
        return parse_uri(text)
    except ParseError:
        return None


def _uri_of(ctx: RouteContext, name: str) -> Uri | None:
    try:
        value = ctx.message.from_ if name == "from" else ctx.message.to
    except ParseError:
        return None
    return _uri(value.uri)
