"""$dlg, $dlg_ctx, $dlg_var, $DLG_count, $DLG_status and $DLG_lifetime. Part of dialog."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from polykemi.errors import LimitReached
from polykemi.kemi.context import RouteContext
from polykemi.kemi.limits import ScriptLimits
from polykemi.kemi.registry import Xval
from polykemi.modules.dialog_state import CALLEE, CALLER, FLAG_CHANGED_VARS, Dialog
from polykemi.pv.accessor import Accessor, Factory
from polykemi.pv.classes.factories import plain

if TYPE_CHECKING:
    from polykemi.modules.dialog_tracking import DialogTracking
    from polykemi.pv.compiler import Variables


def _routes(dialog: Dialog, leg: int) -> Xval:
    return ",".join(dialog.legs[leg].route_set) or None


def _listener(dialog: Dialog, leg: int) -> Xval:
    listener = dialog.legs[leg].listener
    return str(listener) if listener is not None else None


_FIELDS: Final[dict[str, Callable[[Dialog], Xval]]] = {
    "ref": lambda d: 1,  # nobody counts references here
    "h_id": lambda d: d.h_id,
    "h_entry": lambda d: d.h_entry,
    "state": lambda d: d.state,
    "dflags": lambda d: d.dflags,
    "sflags": lambda d: d.sflags,
    "callid": lambda d: d.call_id or None,
    "to_uri": lambda d: d.to_uri or None,
    "to_tag": lambda d: d.legs[CALLEE].tag or None,
    "to_cseq": lambda d: str(d.legs[CALLEE].cseq) if d.started else None,
    "to_contact": lambda d: d.legs[CALLEE].contact or None,
    "to_bindaddr": lambda d: _listener(d, CALLEE),
    "to_rs": lambda d: _routes(d, CALLEE),
    "toroute": lambda d: 0,  # the number of a native route block: there are none
    "from_uri": lambda d: d.from_uri or None,
    "from_tag": lambda d: d.legs[CALLER].tag or None,
    "from_cseq": lambda d: str(d.legs[CALLER].cseq),
    "from_contact": lambda d: d.legs[CALLER].contact or None,
    "from_bindaddr": lambda d: _listener(d, CALLER),
    "from_rs": lambda d: _routes(d, CALLER),
    "lifetime": lambda d: d.lifetime,
    "start_ts": lambda d: int(d.started),
}
_SETTABLE: Final = ("on", "flags", "timeout", "timeout_bye")
_ASKED: Final = (*_SETTABLE, "timeout_route", "timeout_route_id", "set", "dir")


def variable_classes(module: DialogTracking) -> Mapping[str, Factory]:
    """Return the classes, working on the dialogs of ``module``."""

    def dlg(inner: str | None, index: str | None, _: Variables) -> Accessor:
        field = _FIELDS.get(inner or "")
        if field is None:
            raise ValueError(f"expected $dlg(NAME) with one of {', '.join(_FIELDS)}")

        def get(ctx: RouteContext) -> Xval:
            dialog = module.of_message(ctx)
            return field(dialog) if dialog is not None else None

        return Accessor(get)

    def dlg_var(inner: str | None, index: str | None, _: Variables) -> Accessor:
        if not inner:
            raise ValueError("expected $dlg_var(NAME)")
        name = inner
        return Accessor(lambda ctx: get_var(module, ctx, name), lambda ctx, value: set_var(module, ctx, name, value))

    def of_status(at: int) -> Callable[[RouteContext], Xval]:
        def get(ctx: RouteContext) -> Xval:
            found: tuple[int, int] | None = ctx.cache.get("dialog.status")
            return found[at] if found is not None else None

        return get

    return {
        "dlg": dlg,
        "dlg_ctx": _asked_class(module),
        "dlg_var": dlg_var,
        "DLG_count": plain(lambda ctx: module.services.counters["dialog.active_dialogs"]),
        "DLG_status": plain(of_status(0)),
        "DLG_lifetime": plain(of_status(1)),
    }


def _asked_class(module: DialogTracking) -> Factory:
    """Return the class ``$dlg_ctx(NAME)``: what the block has asked for the dialog to come."""

    def factory(inner: str | None, index: str | None, _: Variables) -> Accessor:
        if inner not in _ASKED:
            raise ValueError(f"expected $dlg_ctx(NAME) with one of {', '.join(_ASKED)}")
        name = inner

        def get(ctx: RouteContext) -> Xval:
            asked = module.asked(ctx)
            if name == "set":
                return 1 if module.current(ctx) is not None else 0
            if name == "dir":
                return asked.direction
            if name.startswith("timeout_route"):
                return None if name == "timeout_route" else 0  # the number of a native route block: there are none
            value: int = getattr(asked, name)
            return value

        def put(ctx: RouteContext, value: Xval) -> bool:
            asked = module.asked(ctx)
            if name == "timeout_route":
                asked.timeout_route = str(value or "")
            elif name in _SETTABLE:
                setattr(asked, name, value if isinstance(value, int) else 0)
            else:
                asked.on = value if isinstance(value, int) else 0
            return True

        return Accessor(get, put)

    return factory


def get_var(module: DialogTracking, ctx: RouteContext, name: str) -> str | None:
    """Return a variable of the dialog, or one that is kept for the dialog to come."""
    dialog = module.of_message(ctx)
    return (module.asked(ctx) if dialog is None else dialog).variables.get(name)


def set_var(module: DialogTracking, ctx: RouteContext, name: str, value: Xval) -> bool:
    """Set a variable of the dialog, or keep it for the dialog to come; null removes it. False for an integer."""
    dialog = module.of_message(ctx)
    variables = (module.asked(ctx) if dialog is None else dialog).variables
    if value is None:
        if variables.pop(name, None) is None:
            return False
    elif isinstance(value, str):
        keep(variables, name, value, module.services.limits)
    else:
        return False
    if dialog is not None:
        dialog.dflags |= FLAG_CHANGED_VARS
        module.changed(dialog)
    return True


def keep(variables: dict[str, str], name: str, value: str, limits: ScriptLimits) -> None:
    """Set a variable of a dialog. Raise LimitReached when it has no room."""
    if name not in variables and len(variables) >= limits.dialog_variables:
        raise LimitReached(f"{len(variables) + 1} variables of the dialog", "dialog_variables", limits.dialog_variables)
    octets = sum(map(len, variables.values())) - len(variables.get(name, "")) + len(value)
    if octets > limits.dialog_total:
        raise LimitReached(f"{octets} octets in variables of the dialog", "dialog_total", limits.dialog_total)
    variables[name] = value
