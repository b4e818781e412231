"""KSR.pvx: variables without the syntax of names (Kamailio: modules/pv)."""

from __future__ import annotations

import copy
import logging
import re

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval, export
from polykemi.kemi.route import Route
from polykemi.modules.pvx_xavp import XavpFunctions
from polykemi.pv.accessor import Environment
from polykemi.pv.classes.avp import PLAIN, Item, Items, item_at, push_avp, remove_avp
from polykemi.pv.compiler import NULL
from polykemi.pv.parameters import split_params
from polykemi.sip.flow import find_listener
from polykemi.sip.uri import parse_uri
from polykemi.transaction.target import MOST_TARGETS, Target

log = logging.getLogger("polykemi.script")


def explode(text: str, separator: str) -> Item:
    """Return the item with one field a parameter: ``a=1;b=2``; values come without quotes."""
    item: Item = {}
    for name, value in split_params(text, separator) or ():
        if name:
            item.setdefault(name, []).append(value)
    return item


def implode(item: Item) -> str:
    """Return the parameters of an item: ``a=1;b=2;``."""
    return "".join(
        f"{name};" if value == "" else f"{name}={value};" for name, values in item.items() if name for value in values
    )


def implode_quoted(item: Item) -> str:
    """Return the parameters of an item with their values in quotes."""
    return "".join(f'{name}="{value}";' for name, values in item.items() if name for value in values)


class Pvx(XavpFunctions):
    """Functions on variables, AVPs and the static branch."""

    name = "pvx"

    @property
    def _environment(self) -> Environment:
        return self.services.variables.environment

    # ---- $var and $shv
    @export()
    def var_seti(self, ctx: RouteContext, name: str, value: int) -> int:
        """Set ``$var(name)`` to a number."""
        self._environment.variables[name] = value
        return 1

    @export()
    def var_sets(self, ctx: RouteContext, name: str, value: str) -> int:
        """Set ``$var(name)`` to a text."""
        self._environment.variables[name] = value
        return 1

    @export()
    def var_get(self, ctx: RouteContext, name: str) -> Xval:
        """Return ``$var(name)``; 0 when it was never set."""
        return self._environment.variables.get(name, 0)

    @export()
    def shv_seti(self, ctx: RouteContext, name: str, value: int) -> int:
        """Set ``$shv(name)`` to a number."""
        self._environment.shared[name] = value
        return 1

    @export()
    def shv_sets(self, ctx: RouteContext, name: str, value: str) -> int:
        """Set ``$shv(name)`` to a text. Answers 1, -1 for an empty one."""
        if not value:
            return -1
        self._environment.shared[name] = value
        return 1

    @export()
    def shv_get(self, ctx: RouteContext, name: str) -> Xval:
        """Return ``$shv(name)``; 0 when it was never set."""
        return self._environment.shared.get(name, 0)

    @export()
    def shvinc_get(self, ctx: RouteContext, name: str) -> Xval:
        """Add one to ``$shv(name)`` and return it."""
        shared = self._environment.shared
        value = shared.get(name, 0)
        shared[name] = value = value + 1 if isinstance(value, int) else 1
        return value

    # ---- $avp
    @export()
    def avp_seti(self, ctx: RouteContext, name: str, value: int) -> int:
        """Push a number onto ``$avp(name)``. Answers 1, -1 without a name."""
        return self._push(ctx, name, value)

    @export()
    def avp_sets(self, ctx: RouteContext, name: str, value: str) -> int:
        """Push a text onto ``$avp(name)``. Answers 1, -1 without a name."""
        return self._push(ctx, name, value)

    def _push(self, ctx: RouteContext, name: str, value: int | str) -> int:
        if not name:
            return -1
        push_avp(ctx, name, value, self.services.limits)
        return 1

    @export()
    def avp_get(self, ctx: RouteContext, name: str) -> Xval:
        """Return the newest value of ``$avp(name)``; null when there is none."""
        values = ctx.shared.avps.get(name)
        return values[0] if values else None

    @export()
    def avp_gete(self, ctx: RouteContext, name: str) -> Xval:
        """Return the newest value of ``$avp(name)``; empty when there is none."""
        value = self.avp_get(ctx, name)
        return "" if value is None else value

    @export()
    def avp_getw(self, ctx: RouteContext, name: str) -> Xval:
        """Return the newest value of ``$avp(name)``; ``<null>`` when there is none."""
        value = self.avp_get(ctx, name)
        return NULL if value is None else value

    @export()
    def avp_rm(self, ctx: RouteContext, name: str) -> int:
        """Remove the newest value of ``$avp(name)``."""
        remove_avp(ctx, name)
        return 1

    @export()
    def avp_is_null(self, ctx: RouteContext, name: str) -> int:
        """Tell whether ``$avp(name)`` has no value: 1 or -1."""
        return -1 if ctx.shared.avps.get(name) else 1

    # ---- texts
    @export()
    def evalx(self, ctx: RouteContext, dst: str, fmt: str) -> int:
        """Set the variable named ``dst`` to the format string ``fmt``, expanded."""
        try:
            text = self.services.variables.text(fmt)(ctx)
        except ValueError as error:
            log.error("pvx.evalx: %r cannot be expanded: %s", fmt, error)
            return -1
        return self._put(ctx, dst, text)

    def _put(self, ctx: RouteContext, name: str, value: Xval) -> int:
        return 1 if self.services.variables.put(ctx, name, value) else -1

    @export()
    def xavp_params_explode(self, ctx: RouteContext, sparams: str, sxname: str) -> int:
        """Push an item with the parameters of ``a=1;b=2`` onto the XAVP ``sxname``."""
        return self.xavp_xparams_explode(ctx, sparams, ";", sxname)

    @export()
    def xavp_xparams_explode(self, ctx: RouteContext, sparams: str, ssep: str, sxname: str) -> int:
        """Push an item with the parameters of a list that is separated by ``ssep`` onto the XAVP ``sxname``."""
        item = explode(sparams, ssep) if len(ssep) == 1 else {}
        if not item or not sxname:
            return -1
        ctx.shared.xavps.setdefault(sxname, []).insert(0, item)
        return 1

    @export()
    def xavp_slist_explode(self, ctx: RouteContext, slist: str, sep: str, mode: str, sxname: str) -> int:
        """Push the items of a list onto the XAVP ``sxname``, as fields ``v``, the first first: ``$xavp(x=>v[0])``.

        Each character of ``sep`` parts items; empty ones are none; ``mode`` "t" takes the blanks around them away.
        Answers 1 or -1.
        """
        if not slist or not sep or not sxname:
            return -1
        items = re.split(f"[{re.escape(sep)}]", slist)
        if mode.startswith("t"):
            items = [item.strip(" \t\r\n") for item in items]
        values: list[int | str] = [item for item in items if item]
        ctx.shared.xavps.setdefault(sxname, []).insert(0, {"v": values} if values else {})
        return 1

    @export()
    def xavu_params_explode(self, ctx: RouteContext, sparams: str, sxname: str) -> int:
        """Put the parameters of ``a=1;b=2`` into the XAVU ``sxname``."""
        item = explode(sparams, ";")
        if not item or not sxname:
            return -1
        ctx.shared.xavus[sxname] = [{name: values[-1:] for name, values in item.items()}]
        return 1

    @export()
    def xavp_params_implode(self, ctx: RouteContext, sxname: str, pvname: str) -> int:
        """Set the variable named ``pvname`` to ``a=1;b=2;`` of the newest item of the XAVP."""
        return self._implode(ctx, ctx.shared.xavps, sxname, pvname)

    @export()
    def xavp_params_implode_qval(self, ctx: RouteContext, sxname: str, pvname: str) -> int:
        """Set the variable named ``pvname`` to ``a="1";b="2";`` of the newest item of the XAVP."""
        item = item_at(ctx.shared.xavps.get(sxname), 0)
        return -1 if item is None or PLAIN in item else self._put(ctx, pvname, implode_quoted(item))

    @export()
    def xavu_params_implode(self, ctx: RouteContext, sxname: str, pvname: str) -> int:
        """Set the variable named ``pvname`` to ``a=1;b=2;`` of the XAVU."""
        return self._implode(ctx, ctx.shared.xavus, sxname, pvname)

    def _implode(self, ctx: RouteContext, store: Items, root: str, variable: str) -> int:
        item = item_at(store.get(root), 0)
        return -1 if item is None or PLAIN in item else self._put(ctx, variable, implode(item))

    # ---- between $var and $xavp
    @export()
    def pv_var_to_xavp(self, ctx: RouteContext, varname: str, xname: str) -> int:
        """Make an XAVP ``xname`` with one item that has ``$var(varname)`` (``*``: all of them) for fields.

        What was in the XAVP goes. Answers 1, or -1 when there is no such variable.
        """
        variables = self._environment.variables
        chosen = dict(variables) if varname == "*" else {varname: variables[varname]} if varname in variables else {}
        ctx.shared.xavps.pop(xname, None)
        fields = {name: [value] for name, value in chosen.items() if value != "" or varname != "*"}
        if fields and xname:
            ctx.shared.xavps[xname] = [fields]
        return 1 if chosen or varname == "*" else -1

    @export()
    def pv_xavp_to_var(self, ctx: RouteContext, xname: str) -> int:
        """Copy the fields of the newest item of the XAVP ``xname`` to variables of the same names. Answers 1 or -1."""
        item = item_at(ctx.shared.xavps.get(xname), 0)
        if item is None or PLAIN in item:
            return -1
        for name, values in item.items():
            if name:
                self._environment.variables[name] = values[0]
        return 1

    # ---- whole items
    @export()
    def xavp_copy(self, ctx: RouteContext, src_name: str, src_idx: int, dst_name: str) -> int:
        """Append a copy of an item of the XAVP ``src_name`` to ``dst_name``, below its other items."""
        item = item_at(ctx.shared.xavps.get(src_name), src_idx) if src_idx >= 0 else None
        if item is None or not dst_name:
            return -1
        ctx.shared.xavps.setdefault(dst_name, []).append(copy.deepcopy(item))
        return 1

    @export()
    def xavp_copy_dst(self, ctx: RouteContext, src_name: str, src_idx: int, dst_name: str, dst_idx: int) -> int:
        """Append a copy of an item of the XAVP ``src_name`` to ``dst_name``; as in KEMI, ``dst_idx`` has no effect."""
        return self.xavp_copy(ctx, src_name, src_idx, dst_name)

    @export()
    def xavp_lshift(self, ctx: RouteContext, xname: str, idx: int) -> int:
        """Move the first ``idx`` items of the XAVP behind the others; from the end when negative. Answers 1, -2 when there is none."""
        items = ctx.shared.xavps.get(xname)
        if not xname or not idx:
            return 1
        if not items:
            return -2
        by = idx % len(items)
        ctx.shared.xavps[xname] = items[by:] + items[:by]
        return 1

    @export()
    def xavp_push_dst(self, ctx: RouteContext, xname: str) -> int:
        """Let the message go where the newest item of the XAVP says: its fields uri, dsturi and socket. Answers 1 or -1."""
        item = item_at(ctx.shared.xavps.get(xname), 0)
        if item is None or PLAIN in item:
            return -1
        uri, dst_uri, socket = (_text_of(item, name) for name in ("uri", "dsturi", "socket"))
        if uri is not None:
            ctx.ruri = parse_uri(uri).text
        if dst_uri is not None:
            ctx.dst_uri = dst_uri
        if socket is not None:
            ctx.force_listener = find_listener(socket, self.services.listeners) or ctx.force_listener
        return 1

    @export()
    def pv_xavp_print(self, ctx: RouteContext) -> int:
        """Write all XAVPs to the log."""
        log.info("xavp: %s", ctx.shared.xavps)
        return 1

    @export()
    def pv_xavu_print(self, ctx: RouteContext) -> int:
        """Write all XAVUs to the log."""
        log.info("xavu: %s", ctx.shared.xavus)
        return 1

    @export()
    def pv_xavi_print(self, ctx: RouteContext) -> int:
        """Write all XAVIs to the log."""
        log.info("xavi: %s", ctx.shared.xavis)
        return 1

    # ---- the static branch
    @export(routes=Route.REQUEST | Route.FAILURE)
    def sbranch_set_ruri(self, ctx: RouteContext) -> int:
        """Make the static branch (``$sbranch``) the first branch: Request-URI, destination, path and flags."""
        branch = self._environment.static_branch
        if not branch.uri:
            return -1
        ctx.ruri, ctx.dst_uri, ctx.path = branch.uri, branch.dst_uri, branch.path
        ctx.ruid, ctx.instance, ctx.bflags = branch.ruid, branch.instance, branch.flags
        ctx.force_listener = branch.listener or ctx.force_listener
        return 1

    @export(routes=Route.REQUEST | Route.FAILURE)
    def sbranch_append(self, ctx: RouteContext) -> int:
        """Append a copy of the static branch (``$sbranch``) to the destination set."""
        branch = self._environment.static_branch
        if not branch.uri:
            return -1
        if len(ctx.branches) >= MOST_TARGETS:
            return -1
        ctx.branches.append(branch.copy())
        return 1

    @export()
    def sbranch_reset(self, ctx: RouteContext) -> int:
        """Empty the static branch."""
        self._environment.static_branch = Target("")
        return 1


def _text_of(item: dict[str, list[int | str]], name: str) -> str | None:
    values = item.get(name)
    return values[0] if values and isinstance(values[0], str) else None
