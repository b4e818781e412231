"""The transaction: ``$T_branch_idx $T_reply_code $T_reply_reason $T_rpl(x) $T_req(x) $T(x)`` ... (Kamailio: tmx)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval
from polykemi.kemi.route import Route
from polykemi.pv.accessor import Accessor, Factory, Getter
from polykemi.pv.classes.factories import keyed, no_index, plain, required
from polykemi.pv.grammar import parse_variable
from polykemi.sip.message import Message, Request, Response

if TYPE_CHECKING:
    from polykemi.pv.compiler import Variables
    from polykemi.transaction.forking import Branch

_OF_REPLY: Final = (Route.FAILURE, Route.BRANCH_FAILURE, Route.ONREPLY)


def _reply_code(ctx: RouteContext) -> Xval:
    return ctx.reply_status


def _reply_of(ctx: RouteContext) -> Response | None:
    """Return the reply that the block is about: the winning one of failure routes, else the message.

    None in the core's reply_route, where the transaction is not known yet.
    """
    if ctx.reply is not None:
        return ctx.reply
    message = ctx.message
    return message if isinstance(message, Response) and ctx.kind in _OF_REPLY else None


def _reply_reason(ctx: RouteContext) -> Xval:
    reply = _reply_of(ctx)
    return "" if reply is None else reply.reason


def _request_of(ctx: RouteContext) -> Request | None:
    if isinstance(ctx.message, Request):  # as in Kamailio it is for reply routes alone
        return None
    try:
        return ctx.request
    except LookupError:  # a stateless reply, or nothing is left of the transaction
        return None


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
    """Return a context on another message of the same transaction, with the flow on which that came."""
    transaction = ctx.transaction
    other = RouteContext(ctx.kind, ctx.callback, message, ctx.flow, ctx.now)
    other.shared, other.transaction, other.branch = ctx.shared, transaction, ctx.branch
    other.branch_index, other.reply_status = ctx.branch_index, ctx.reply_status
    if transaction is None:
        return other
    if isinstance(message, Request):
        other.flow, other.ruri, other.dst_uri = transaction.source, transaction.ruri, transaction.dst_uri
    else:
        brought = [branch for branch in transaction.branches if branch.reply is message]
        other.flow = brought[0].flow if brought else ctx.flow
    return other


def _reply_type(ctx: RouteContext) -> Xval:
    """Return 1 for a reply of our own (408), 0 for one that came in."""
    if ctx.kind not in _OF_REPLY:
        return None if ctx.transaction is None else 0
    return int(_reply_of(ctx) is None)


def _of_branch(part: Callable[[Branch], Xval]) -> Getter:
    """Return the getter of an attribute of the branch that the block is about."""
    return lambda ctx: part(ctx.branch) if ctx.branch is not None else None


def _branch_index(ctx: RouteContext) -> Xval:
    return -1 if ctx.kind == Route.REPLY else ctx.branch_index


CLASSES: Final[dict[str, Factory]] = {
    "T_branch_idx": plain(_branch_index),
    "T_reply_code": plain(_reply_code),
    "T_reply_last": plain(lambda ctx: None if ctx.transaction is None else ctx.reply_status or None),
    "T_reply_reason": plain(_reply_reason),
    "T_reply_ruid": plain(lambda ctx: ctx.ruid if ctx.kind in _OF_REPLY else ""),
    "T_rpl": _on_message(_reply_of, "T_rpl"),
    "T_req": _on_message(_request_of, "T_req"),
    "T": keyed(
        {
            "branch_index": _branch_index,
            "id_index": lambda ctx: None if ctx.transaction is None else ctx.transaction.id_index,
            "id_index_n": lambda ctx: 0 if ctx.transaction is None else ctx.transaction.id_index,
            "id_label": lambda ctx: None if ctx.transaction is None else ctx.transaction.label,
            "id_label_n": lambda ctx: 0 if ctx.transaction is None else ctx.transaction.label,
            "reply_code": _reply_code,
            "reply_reason": _reply_reason,
            "reply_type": _reply_type,
        }
    ),
    "T_branch": keyed(
        {
            "uri": _of_branch(lambda branch: branch.uri or None),
            "dst_uri": _of_branch(lambda branch: branch.dst_uri or None),
            "path": _of_branch(lambda branch: branch.path or None),
            "flags": _of_branch(lambda branch: branch.bflags),
            "ruid": _of_branch(lambda branch: branch.ruid or None),
            "instance": _of_branch(lambda branch: branch.instance or None),
        }
    ),
}
