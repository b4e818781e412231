"""The destination set and what a lookup left with it: ``$br $bR $ds $branch(x) $ruid $T_branch_idx`` ..."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval
from polykemi.pv.accessor import Accessor, Factory
from polykemi.pv.classes.factories import at_value, no_index, number_of, plain, required
from polykemi.sip.flow import find_listener
from polykemi.sip.message import Request
from polykemi.transaction.target import MOST_TARGETS, Target

if TYPE_CHECKING:
    from polykemi.pv.compiler import Variables


def contact_text(uri: str, q: int, *, enclosed: bool = True) -> str:
    """Return a URI as Contact writes it, with its q value (thousandths) when it has one of its own."""
    if not 0 <= q < 1000:
        return f"<{uri}>" if enclosed else uri
    text = f"{q // 1000}.{q % 1000:03d}".rstrip("0").rstrip(".")
    return f"<{uri}>;q={text}"


def _first_branch(ctx: RouteContext) -> Xval:
    return ctx.branches[0].uri if ctx.branches else None


def _append_branch(ctx: RouteContext, value: Xval) -> bool:
    if not isinstance(value, str) or not value:
        return False
    if len(ctx.branches) >= MOST_TARGETS:
        return False
    ctx.branches.append(Target(value))
    return True


def _all_branches(ctx: RouteContext) -> Xval:
    return ", ".join(contact_text(target.uri, target.q, enclosed=False) for target in ctx.branches) or None


def _destination_set(ctx: RouteContext) -> Xval:
    message = ctx.message
    changed = isinstance(message, Request) and ctx.ruri != message.uri  # a Request-URI as it came is not a part of it
    targets = [contact_text(ctx.ruri, ctx.cache.get("ruri_q", -1))] if changed else []
    targets += [contact_text(target.uri, target.q) for target in ctx.branches]
    return "Contact: " + ", ".join(targets) if targets else None


# ---- $branch(x)
_READ: Final[dict[str, Callable[[Target], Xval]]] = {
    "uri": lambda target: target.uri or None,
    "dst_uri": lambda target: target.dst_uri or None,
    "path": lambda target: target.path or None,
    "q": lambda target: target.q if target.q >= 0 else None,
    "send_socket": lambda target: None if target.listener is None else str(target.listener),
    "flags": lambda target: target.flags,
    "ruid": lambda target: target.ruid or None,
    "location_ua": lambda target: target.user_agent or None,
    "instance": lambda target: target.instance or None,
    "otcpid": lambda target: 0,  # of a TCP connection, which there are none of
}

_TEXTS: Final = {  # key -> attribute
    "uri": "uri",
    "dst_uri": "dst_uri",
    "path": "path",
    "ruid": "ruid",
    "location_ua": "user_agent",
    "instance": "instance",
}


def read_attribute(target: Target, key: str) -> Xval:
    """Return the attribute ``key`` of ``$branch(key)``."""
    return _READ[key](target)


def write_attribute(target: Target, key: str, value: Xval, variables: Variables) -> bool:
    """Set the attribute ``key`` of ``$branch(key)``; None empties it. Answer success."""
    if key in _TEXTS:
        if isinstance(value, int):
            return False
        setattr(target, _TEXTS[key], value or "")
        return True
    if key == "send_socket":
        listener = find_listener(value, variables.environment.listeners, 5060) if isinstance(value, str) else None
        if value is not None and listener is None:
            return False
        target.listener = listener
        return True
    if isinstance(value, str):
        return False
    if key == "q":
        target.q = -1 if value is None else value
    else:
        target.flags = value or 0
    return True


def _branch(inner: str | None, index: str | None, variables: Variables) -> Accessor:
    key = required(inner)
    if key == "count":
        return Accessor(lambda ctx: len(ctx.branches) or None)
    if key not in _READ:
        raise ValueError(f"{key!r} is no attribute of a branch")
    number = number_of(None if index == "*" else index, variables)

    def position(ctx: RouteContext) -> Xval:
        return number if isinstance(number, int) else number(ctx)

    def get(ctx: RouteContext) -> Xval:
        target = at_value(ctx.branches, position(ctx))
        return None if target is None else read_attribute(target, key)

    def put(ctx: RouteContext, value: Xval) -> bool:
        target = at_value(ctx.branches, position(ctx))
        if target is None:
            return False
        if key == "uri" and value is None:
            ctx.branches.remove(target)
            return True
        return write_attribute(target, key, value, variables)

    return Accessor(get, put)


# ---- $sbranch(x): a branch that a script puts together before it is used (pvx.sbranch_*)
def _static_branch(inner: str | None, index: str | None, variables: Variables) -> Accessor:
    no_index(index)
    key = required(inner)
    if key not in _READ:
        raise ValueError(f"{key!r} is no attribute of a branch")
    environment = variables.environment
    return Accessor(
        lambda ctx: read_attribute(environment.static_branch, key),
        lambda ctx, value: write_attribute(environment.static_branch, key, value, variables),
    )


CLASSES: Final[dict[str, Factory]] = {
    "br": plain(_first_branch, _append_branch),
    "bR": plain(_all_branches),
    "ds": plain(_destination_set),
    "branch": _branch,
    "sbranch": _static_branch,
    "ruid": plain(lambda ctx: ctx.ruid or None),
    "location_ua": plain(lambda ctx: ctx.cache.get("pv.location_ua") or None),
}
