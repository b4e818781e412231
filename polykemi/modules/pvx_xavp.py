"""The part of KSR.pvx that works on XAVPs, XAVUs and XAVIs by name (Kamailio: modules/pv).

``rname`` is the root, ``cname`` a field of its newest item; how they are kept says ``pv/classes/avp.py``.
"""

from __future__ import annotations

from polykemi.kemi.context import RouteContext
from polykemi.kemi.limits import admit
from polykemi.kemi.registry import Data, Xval, export
from polykemi.modules.base import Module
from polykemi.pv.classes.avp import PLAIN, Item, Items, as_text, item_at, push_field, set_root
from polykemi.pv.compiler import NULL


def _done(success: bool) -> int:  # an answer on its way to the script
    return 1 if success else -1


def _or(value: Xval, default: str) -> Xval:
    return default if value is None else value


def _root(store: Items, root: str) -> Xval:
    items = store.get(root)
    return as_text(items[0], root) if items else None


def _child(store: Items, root: str, field: str) -> Xval:
    items = store.get(root)
    values = items[0].get(field) if items else None
    return values[0] if values else None


def _copy(item: Item) -> dict[str, Data]:
    return {field: list(values) for field, values in item.items()}


def _items(store: Items, root: str) -> Data:
    """Return all items that have fields, each a dictionary of field -> values; null when there are none."""
    return [_copy(item) for item in store.get(root, ()) if PLAIN not in item] or None


def _item(store: Items, root: str, index: int) -> Data:
    item = item_at(store.get(root), index)
    return None if item is None or PLAIN in item else _copy(item)


def _keys(store: Items, root: str, index: int) -> Data:
    item = item_at(store.get(root), index) if index >= 0 else None
    return None if item is None else [field for field in item if field != PLAIN]


def _set_child(store: Items, root: str, field: str, value: int | str, *, unique: bool = False) -> bool:
    """Set a field of the newest item; a plain value stays, but with ``unique`` gives way."""
    if not root or not field:
        return False
    items = store.setdefault(root, [{}])
    if PLAIN in items[0]:
        if not unique:
            return False
        items[0] = {}
    if field in items[0]:
        items[0][field] = [value]
    else:
        push_field(items[0], field, value)
    return True


def _remove_child(store: Items, root: str, field: str) -> None:
    items = store.get(root)
    if items and field:
        items[0].pop(field, None)


class XavpFunctions(Module):
    """Functions on $xavp, $xavu and $xavi."""

    def _set_root(self, ctx: RouteContext, store: Items, root: str, value: int | str, *, unique: bool = False) -> int:
        admit(ctx, value, self.services.limits)
        return _done(set_root(store, root, None, value, unique=unique))

    def _set_child(
        self, ctx: RouteContext, store: Items, root: str, field: str, value: int | str, *, unique: bool = False
    ) -> int:
        admit(ctx, value, self.services.limits)
        return _done(_set_child(store, root, field, value, unique=unique))

    # ---- $xavp
    @export()
    def xavp_seti(self, ctx: RouteContext, rname: str, value: int) -> int:
        """Push a number onto the XAVP ``rname``."""
        return self._set_root(ctx, ctx.shared.xavps, rname, value, unique=False)

    @export()
    def xavp_sets(self, ctx: RouteContext, rname: str, value: str) -> int:
        """Push a text onto the XAVP ``rname``."""
        return self._set_root(ctx, ctx.shared.xavps, rname, value, unique=False)

    @export()
    def xavp_get(self, ctx: RouteContext, rname: str) -> Xval:
        """Return the value of the XAVP; null when there is none."""
        return _root(ctx.shared.xavps, rname)

    @export()
    def xavp_gete(self, ctx: RouteContext, rname: str) -> Xval:
        """Return the value of the XAVP; empty when there is none."""
        return _or(_root(ctx.shared.xavps, rname), "")

    @export()
    def xavp_getw(self, ctx: RouteContext, rname: str) -> Xval:
        """Return the value of the XAVP; ``<null>`` when there is none."""
        return _or(_root(ctx.shared.xavps, rname), NULL)

    @export()
    def xavp_getd(self, ctx: RouteContext, rname: str) -> Data:
        """Return the list of the XAVP's items, each a dictionary of field -> list of values; null when there is none."""
        return _items(ctx.shared.xavps, rname)

    @export()
    def xavp_getd_p1(self, ctx: RouteContext, rname: str, indx: int) -> Data:
        """Return one item of the XAVP, counted from the end when ``indx`` is negative; null when it is not there."""
        return _item(ctx.shared.xavps, rname, indx)

    @export()
    def xavp_get_keys(self, ctx: RouteContext, rname: str, indx: int) -> Data:
        """Return the list of an item's fields, the one that was set last first; null when there is no such item."""
        return _keys(ctx.shared.xavps, rname, indx)

    @export()
    def xavp_rm(self, ctx: RouteContext, rname: str) -> int:
        """Remove the newest item of the XAVP."""
        set_root(ctx.shared.xavps, rname, None, None)
        return 1

    @export()
    def xavp_rm_all(self, ctx: RouteContext, rname: str) -> int:
        """Remove all items of the XAVP."""
        ctx.shared.xavps.pop(rname, None)
        return 1

    @export()
    def xavp_is_null(self, ctx: RouteContext, rname: str) -> int:
        """Tell whether there is no such XAVP: 1 or -1."""
        return -1 if rname in ctx.shared.xavps else 1

    @export()
    def xavp_child_seti(self, ctx: RouteContext, rname: str, cname: str, value: int) -> int:
        """Set a field of the newest item to a number; the item is made when there is none."""
        return self._set_child(ctx, ctx.shared.xavps, rname, cname, value)

    @export()
    def xavp_child_sets(self, ctx: RouteContext, rname: str, cname: str, value: str) -> int:
        """Set a field of the newest item to a text; the item is made when there is none."""
        return self._set_child(ctx, ctx.shared.xavps, rname, cname, value)

    @export()
    def xavp_child_rm(self, ctx: RouteContext, rname: str, cname: str) -> int:
        """Remove a field of the newest item."""
        _remove_child(ctx.shared.xavps, rname, cname)
        return 1

    @export()
    def xavp_child_is_null(self, ctx: RouteContext, rname: str, cname: str) -> int:
        """Tell whether the newest item has no such field: 1 or -1."""
        return 1 if _child(ctx.shared.xavps, rname, cname) is None else -1

    @export()
    def xavp_child_get(self, ctx: RouteContext, rname: str, cname: str) -> Xval:
        """Return a field of the newest item; null when there is none."""
        return _child(ctx.shared.xavps, rname, cname)

    @export()
    def xavp_child_gete(self, ctx: RouteContext, rname: str, cname: str) -> Xval:
        """Return a field of the newest item; empty when there is none."""
        return _or(_child(ctx.shared.xavps, rname, cname), "")

    @export()
    def xavp_child_getw(self, ctx: RouteContext, rname: str, cname: str) -> Xval:
        """Return a field of the newest item; ``<null>`` when there is none."""
        return _or(_child(ctx.shared.xavps, rname, cname), NULL)

    # ---- $xavu
    @export()
    def xavu_seti(self, ctx: RouteContext, rname: str, value: int) -> int:
        """Set the XAVU to a number."""
        return self._set_root(ctx, ctx.shared.xavus, rname, value, unique=True)

    @export()
    def xavu_sets(self, ctx: RouteContext, rname: str, value: str) -> int:
        """Set the XAVU to a text."""
        return self._set_root(ctx, ctx.shared.xavus, rname, value, unique=True)

    @export()
    def xavu_get(self, ctx: RouteContext, rname: str) -> Xval:
        """Return the value of the XAVU; null when there is none."""
        return _root(ctx.shared.xavus, rname)

    @export()
    def xavu_gete(self, ctx: RouteContext, rname: str) -> Xval:
        """Return the value of the XAVU; empty when there is none."""
        return _or(_root(ctx.shared.xavus, rname), "")

    @export()
    def xavu_getw(self, ctx: RouteContext, rname: str) -> Xval:
        """Return the value of the XAVU; ``<null>`` when there is none."""
        return _or(_root(ctx.shared.xavus, rname), NULL)

    @export()
    def xavu_rm(self, ctx: RouteContext, rname: str) -> int:
        """Remove the XAVU."""
        ctx.shared.xavus.pop(rname, None)
        return 1

    @export()
    def xavu_is_null(self, ctx: RouteContext, rname: str) -> int:
        """Tell whether there is no such XAVU: 1 or -1."""
        return -1 if rname in ctx.shared.xavus else 1

    @export()
    def xavu_child_seti(self, ctx: RouteContext, rname: str, cname: str, value: int) -> int:
        """Set a field of the newest item to a number; the item is made when there is none."""
        return self._set_child(ctx, ctx.shared.xavus, rname, cname, value, unique=True)

    @export()
    def xavu_child_sets(self, ctx: RouteContext, rname: str, cname: str, value: str) -> int:
        """Set a field of the newest item to a text; the item is made when there is none."""
        return self._set_child(ctx, ctx.shared.xavus, rname, cname, value, unique=True)

    @export()
    def xavu_child_rm(self, ctx: RouteContext, rname: str, cname: str) -> int:
        """Remove a field of the newest item."""
        _remove_child(ctx.shared.xavus, rname, cname)
        return 1

    @export()
    def xavu_child_is_null(self, ctx: RouteContext, rname: str, cname: str) -> int:
        """Tell whether the newest item has no such field: 1 or -1."""
        return 1 if _child(ctx.shared.xavus, rname, cname) is None else -1

    @export()
    def xavu_child_get(self, ctx: RouteContext, rname: str, cname: str) -> Xval:
        """Return a field of the newest item; null when there is none."""
        return _child(ctx.shared.xavus, rname, cname)

    @export()
    def xavu_child_gete(self, ctx: RouteContext, rname: str, cname: str) -> Xval:
        """Return a field of the newest item; empty when there is none."""
        return _or(_child(ctx.shared.xavus, rname, cname), "")

    @export()
    def xavu_child_getw(self, ctx: RouteContext, rname: str, cname: str) -> Xval:
        """Return a field of the newest item; ``<null>`` when there is none."""
        return _or(_child(ctx.shared.xavus, rname, cname), NULL)

    # ---- $xavi
    @export()
    def xavi_seti(self, ctx: RouteContext, rname: str, value: int) -> int:
        """Push a number onto the XAVI ``rname``."""
        return self._set_root(ctx, ctx.shared.xavis, rname.lower(), value, unique=False)

    @export()
    def xavi_sets(self, ctx: RouteContext, rname: str, value: str) -> int:
        """Push a text onto the XAVI ``rname``."""
        return self._set_root(ctx, ctx.shared.xavis, rname.lower(), value, unique=False)

    @export()
    def xavi_get(self, ctx: RouteContext, rname: str) -> Xval:
        """Return the value of the XAVI; null when there is none."""
        return _root(ctx.shared.xavis, rname.lower())

    @export()
    def xavi_gete(self, ctx: RouteContext, rname: str) -> Xval:
        """Return the value of the XAVI; empty when there is none."""
        return _or(_root(ctx.shared.xavis, rname.lower()), "")

    @export()
    def xavi_getw(self, ctx: RouteContext, rname: str) -> Xval:
        """Return the value of the XAVI; ``<null>`` when there is none."""
        return _or(_root(ctx.shared.xavis, rname.lower()), NULL)

    @export()
    def xavi_getd(self, ctx: RouteContext, rname: str) -> Data:
        """Return the list of the XAVI's items, each a dictionary of field -> list of values; null when there is none."""
        return _items(ctx.shared.xavis, rname.lower())

    @export()
    def xavi_getd_p1(self, ctx: RouteContext, rname: str, indx: int) -> Data:
        """Return one item of the XAVI, counted from the end when ``indx`` is negative; null when it is not there."""
        return _item(ctx.shared.xavis, rname.lower(), indx)

    @export()
    def xavi_get_keys(self, ctx: RouteContext, rname: str, indx: int) -> Data:
        """Return the list of an item's fields, the one that was set last first; null when there is no such item."""
        return _keys(ctx.shared.xavis, rname.lower(), indx)

    @export()
    def xavi_rm(self, ctx: RouteContext, rname: str) -> int:
        """Remove the newest item of the XAVI."""
        set_root(ctx.shared.xavis, rname.lower(), None, None)
        return 1

    @export()
    def xavi_rm_all(self, ctx: RouteContext, rname: str) -> int:
        """Remove all items of the XAVI."""
        ctx.shared.xavis.pop(rname.lower(), None)
        return 1

    @export()
    def xavi_is_null(self, ctx: RouteContext, rname: str) -> int:
        """Tell whether there is no such XAVI: 1 or -1."""
        return -1 if rname.lower() in ctx.shared.xavis else 1

    @export()
    def xavi_child_seti(self, ctx: RouteContext, rname: str, cname: str, value: int) -> int:
        """Set a field of the newest item to a number; the item is made when there is none."""
        return self._set_child(ctx, ctx.shared.xavis, rname.lower(), cname.lower(), value)

    @export()
    def xavi_child_sets(self, ctx: RouteContext, rname: str, cname: str, value: str) -> int:
        """Set a field of the newest item to a text; the item is made when there is none."""
        return self._set_child(ctx, ctx.shared.xavis, rname.lower(), cname.lower(), value)

    @export()
    def xavi_child_rm(self, ctx: RouteContext, rname: str, cname: str) -> int:
        """Remove a field of the newest item."""
        _remove_child(ctx.shared.xavis, rname.lower(), cname.lower())
        return 1

    @export()
    def xavi_child_is_null(self, ctx: RouteContext, rname: str, cname: str) -> int:
        """Tell whether the newest item has no such field: 1 or -1."""
        return 1 if _child(ctx.shared.xavis, rname.lower(), cname.lower()) is None else -1

    @export()
    def xavi_child_get(self, ctx: RouteContext, rname: str, cname: str) -> Xval:
        """Return a field of the newest item; null when there is none."""
        return _child(ctx.shared.xavis, rname.lower(), cname.lower())

    @export()
    def xavi_child_gete(self, ctx: RouteContext, rname: str, cname: str) -> Xval:
        """Return a field of the newest item; empty when there is none."""
        return _or(_child(ctx.shared.xavis, rname.lower(), cname.lower()), "")

    @export()
    def xavi_child_getw(self, ctx: RouteContext, rname: str, cname: str) -> Xval:
        """Return a field of the newest item; ``<null>`` when there is none."""
        return _or(_child(ctx.shared.xavis, rname.lower(), cname.lower()), NULL)
