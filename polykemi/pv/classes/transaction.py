"""The transaction: ``$T_branch_idx $T_reply_code $T_reply_reason $T_rpl(x) $T_req(x) $T(x)`` ... (Kamailio: tmx)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval
from polykemi.kemi.route import Route
from polykemi.pv.accessor import Accessor, Factory
from polykemi.pv.classes.factories import keyed, no_index, plain, required
from polykemi.pv.grammar import parse_variable
from polykemi.sip.message import Message, Request, Response

if TYPE_CHECKING:
    from polykemi.pv.compiler import Variables

_OF_REPLY: Final = Route.FAILURE | Route.BRANCH_FAILURE | Route.ONREPLY


def _reply_code(ctx: RouteContext) -> Xval:
    return ctx.reply_status


def _reply_of(ctx: RouteContext) -> Response | None:
    """Return the reply that the block is about: the winning one of failure routes, else the message."""
    if ctx.reply is not None:
        return ctx.reply
    message = ctx.message
    return message if isinstance(message, Response) else None


def _reply_reason(ctx: RouteContext) -> Xval:
    reply = _reply_of(ctx) if ctx.kind & _OF_REPLY else None
    return "" if reply is None else reply.reason


def _request_of(ctx: RouteContext) -> Request | None:
    if isinstance(ctx.message, Request):
        return ctx.message
    return None if ctx.transaction is None else ctx.transaction.request


def _on_message(message_of: Callable[[RouteContext], Message | None], name: str) -> Factory:
    """Return the class that evaluates a variable on another message of the transaction; null when there is none."""
    key = "pv." + name

    def factory(inner: str | None, index: str | None, variables: Variables) -> Accessor:
        no_index(index)
        text = required(inner)
        reference, end = parse_variable(text)
        if end != len(text):
            raise ValueError("it takes one variable")
        accessor = variables.accessor(reference)

        def get(ctx: RouteContext) -> Xval:
            message = message_of(ctx)
            if message is None:
                return None
            if message is ctx.message:
                return accessor.get(ctx)
            other: RouteContext | None = ctx.cache.get(key)
            if other is None or other.message is not message:
                other = ctx.cache[key] = _context_on(ctx, message)
            return accessor.get(other)

        return Accessor(get)

    return factory


def _context_on(ctx: RouteContext, message: Message) -> RouteContext:
    """Return a context on another message of the same transaction."""
    other = RouteContext(ctx.kind, ctx.callback, message, ctx.flow, ctx.now)
    other.shared, other.transaction, other.branch = ctx.shared, ctx.transaction, ctx.branch
    other.branch_index, other.reply_status = ctx.branch_index, ctx.reply_status
    return other


def _branch_index(ctx: RouteContext) -> Xval:
    return ctx.branch_index


CLASSES: Final[dict[str, Factory]] = {
    "T_branch_idx": plain(_branch_index),
    "T_reply_code": plain(_reply_code),
    "T_reply_last": plain(lambda ctx: ctx.reply_status or None),
    "T_reply_reason": plain(_reply_reason),
    "T_reply_ruid": plain(lambda ctx: ctx.ruid if ctx.kind & _OF_REPLY else ""),
    "T_rpl": _on_message(_reply_of, "T_rpl"),
    "T_req": _on_message(_request_of, "T_req"),
    "T": keyed({"branch_index": _branch_index, "reply_code": _reply_code, "reply_reason": _reply_reason}),
}
