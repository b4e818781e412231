"""tm: forking that does not amplify (RFC 5393): loops are found by what our own Via says, and Max-Breadth is shared out.

Only a request that is forked costs something here: what goes to one place cannot multiply, Max-Forwards ends it.
"""

from __future__ import annotations

import zlib
from typing import Final

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.sip.message import Edits, Request
from polykemi.transaction.forking import Transaction

_ROUTED_BY: Final = ("route", "proxy-require", "proxy-authorization")  # section 4.2.1: what else decides on the way
_MAX_DIGITS: Final = 10


def loop_mark(ctx: RouteContext, request: Request, secret: bytes) -> str:
    """Return what the branches of a forked request end with: the same when the same request comes the same way again.

    It holds what routing goes by: Request-URI, source, Route, Proxy-Require, Proxy-Authorization and which request it is. A
    spiral, that comes back to another Request-URI or from elsewhere, has another mark. Raise ParseError.
    """
    parts = [request.uri, ctx.flow.host, request.from_.tag or "", request.to.tag or "", request.call_id]
    parts.append(str(request.cseq[0]))
    for name in _ROUTED_BY:
        parts += request.all(name)
    return "." + hex(zlib.crc32("\n".join(parts).encode("latin-1"), zlib.crc32(secret)))[2:]


def mark_of(branch: str) -> str:
    """Return the mark that ``branch`` ends with, "" without one."""
    return branch[branch.index(".") :] if "." in branch else ""


def is_loop(request: Request, mark: str) -> bool:
    """Tell whether one of the Vias says that this request was forked here with the same ``mark`` before."""
    for value in request.list("via"):
        if mark in value and any(param.endswith(mark) for param in value.split(";")):
            return True
    return False


def breadth_of(request: Request, default: int) -> int:
    """Return Max-Breadth of ``request``, ``default`` when it has none. Raise ParseError for what is no number."""
    text = request.get("max-breadth")
    if text is None:
        return default
    if not text.isdecimal() or len(text) > _MAX_DIGITS:
        raise ParseError("Bad Max-Breadth")
    return int(text)


def breadth_left(t: Transaction, request: Request, default: int) -> int:
    """Return how much of Max-Breadth the pending branches leave for more of them (section 5.3.3.1). Raise ParseError."""
    breadth = left = breadth_of(request, default)
    alone = breadth if request.has("max-breadth") else 1  # a branch that was sent by itself, with the header as it came
    for branch in t.branches:
        if branch.status < 200:
            left -= branch.breadth or alone
    return left


def shares(breadth: int, n: int) -> list[int]:
    """Share ``breadth`` among ``n`` branches, as evenly as can be."""
    share, more = divmod(breadth, n)
    return [share + (i < more) for i in range(n)]


def with_breadth(edits: Edits, request: Request, breadth: int) -> Edits:
    """Return ``edits`` with the Max-Breadth of one branch."""
    edits = edits.copy()
    line = f"Max-Breadth: {breadth}"
    first, *others = request.indexes("max-breadth") or (-1,)
    if first < 0:
        edits.inserts.append((len(request.lines), line))
    else:
        edits.replaced[first] = line
        edits.removed.update(others)
    return edits
