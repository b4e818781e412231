"""``$avp $xavp $xavi $xavu`` and ``$cnt``: values that belong to a transaction (``ctx.shared``).

An AVP name holds a stack of values, the newest first. An XAVP root holds a stack of items; an item is a dict of field
-> stack of values, the field that was set last first. An item that is a plain value has it in the field "". XAVIs are XAVPs whose names ignore case;
XAVUs have at most one item a root and one value a field.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from polykemi.kemi.context import RouteContext
from polykemi.kemi.limits import ScriptLimits, admit
from polykemi.kemi.registry import Xval
from polykemi.pv.accessor import Accessor, Factory, Getter
from polykemi.pv.classes.factories import at_value, no_index, number_of, required
from polykemi.pv.grammar import parse_variable

if TYPE_CHECKING:
    from polykemi.pv.compiler import Variables

T = TypeVar("T")

Value = int | str
Item = dict[str, list[Value]]
Items = dict[str, list[Item]]
_ALL: Final = "*"
PLAIN: Final = ""  # the field of an item that is a plain value


# ---- AVPs
def avp_name(inner: str) -> str:
    """Return the key of an AVP: ``s:name`` is ``name``, ``i:5`` stays. Raise ValueError."""
    prefix, colon, name = inner.partition(":")
    if not colon:
        return inner
    if prefix == "s" and name:
        return name
    if prefix == "i" and name.isascii() and name.isdecimal():
        return f"i:{int(name)}" if len(name) < 10 else inner
    raise ValueError(f"{inner!r} is no name of an AVP")


def avp_parameter(key: str, text: str) -> str:
    """Return the key of the AVP that the module parameter ``key`` names as ``$avp(name)``, "" for "". Raise ValueError."""
    if not text:
        return ""
    if text[:5] != "$avp(" or text[-1:] != ")":
        raise ValueError(f"{key}: expected $avp(name), got {text!r}")
    return avp_name(text[5:-1])


def push_avp(ctx: RouteContext, name: str, value: Value, limits: ScriptLimits) -> None:
    """Put ``value`` in front of the values of the AVP ``name``. Raise LimitReached."""
    admit(ctx, value, limits)
    ctx.shared.avps.setdefault(name, []).insert(0, value)


def remove_avp(ctx: RouteContext, name: str) -> bool:
    """Remove the newest value of the AVP ``name``; tell whether there was one."""
    values = ctx.shared.avps.get(name)
    if not values:
        return False
    del values[0]
    if not values:
        del ctx.shared.avps[name]
    return True


def _avp_accessor(name_of: Callable[[RouteContext], str | None], index: str | None, variables: Variables) -> Accessor:
    limits = variables.environment.limits
    every = index == _ALL
    number = 0 if every else number_of(index, variables)

    def get(ctx: RouteContext) -> Xval:
        name = name_of(ctx)
        values = ctx.shared.avps.get(name) if name is not None else None
        if not values:
            return None
        if every:
            return ", ".join(map(str, values))
        i = number if isinstance(number, int) else number(ctx)
        return values[i] if isinstance(i, int) and 0 <= i < len(values) else None

    def put(ctx: RouteContext, value: Xval) -> bool:
        name = name_of(ctx)
        if name is None:
            return False
        if every:
            ctx.shared.avps.pop(name, None)
        if value is not None:
            push_avp(ctx, name, value, limits)
        elif not every:
            _remove_value(ctx, name, number if isinstance(number, int) else number(ctx))
        return True

    return Accessor(get, put)


def _remove_value(ctx: RouteContext, name: str, index: Xval) -> None:
    values = ctx.shared.avps.get(name, [])
    if isinstance(index, int) and 0 <= index < len(values):
        del values[index]
        if not values:
            del ctx.shared.avps[name]


def _avp(inner: str | None, index: str | None, variables: Variables) -> Accessor:
    name = variables.name(required(inner))
    if not isinstance(name, str):
        name_getter = name
        return _avp_accessor(lambda ctx: _dynamic_avp_name(name_getter(ctx)), index, variables)
    constant = avp_name(name)
    if index is not None:
        return _avp_accessor(lambda ctx: constant, index, variables)
    limits = variables.environment.limits

    def get(ctx: RouteContext) -> Xval:
        values = ctx.shared.avps.get(constant)
        return values[0] if values else None

    def put(ctx: RouteContext, value: Xval) -> bool:
        if value is None:
            remove_avp(ctx, constant)
        else:
            push_avp(ctx, constant, value, limits)
        return True

    return Accessor(get, put)


def _dynamic_avp_name(value: Xval) -> str | None:
    if isinstance(value, int):
        return f"i:{value}"
    try:
        return avp_name(value) if value else None
    except ValueError:
        return None


# ---- XAVPs
@dataclass(frozen=True, slots=True)
class Path:
    """``root[index]=>field[index]``; an index is a number, the getter of one, ``*`` for all, None when absent."""

    root: str
    root_index: int | str | Getter | None
    field: str | None
    field_index: int | str | Getter | None


def parse_path(inner: str, variables: Variables) -> Path:
    """Parse what stands in the parentheses of an XAVP. Raise ValueError."""
    root_text, arrow, field_text = inner.partition("=>")
    root, root_index = _segment(root_text, variables)
    if not arrow:
        return Path(root, root_index, None, None)
    field, field_index = _segment(field_text, variables)
    return Path(root, root_index, field, field_index)


def _segment(text: str, variables: Variables) -> tuple[str, int | str | Getter | None]:
    name, bracket, rest = text.partition("[")
    name = name.strip(" \t")
    if not name:
        raise ValueError("an XAVP needs a name")
    if not bracket:
        return name, None
    rest = rest.rstrip(" \t")
    if rest[-1:] != "]":
        raise ValueError("missing ]")
    index = rest[:-1]
    return name, _ALL if index == _ALL else number_of(index, variables)


def item_at(items: list[Item] | None, index: Xval) -> Item | None:
    """Return the item at ``index``, counted from the end when negative; None outside."""
    return at_value(items or [], index)


def as_text(item: Item, root: str) -> Value:
    """Return a plain item's value; a structured one reads as Kamailio's placeholder."""
    values = item.get(PLAIN)
    return values[0] if values else f"<<xavp:{root}>>"


def push_field(item: Item, field: str, value: Value) -> None:
    """Put ``value`` in front of the values of a field, and the field in front of the others."""
    others = {name: values for name, values in item.items() if name != field}
    values = [value, *item.get(field, [])]
    item.clear()
    item[field] = values
    item.update(others)


def set_field(item: Item, field: str, index: Xval, value: Value | None, *, unique: bool = False) -> bool:
    """Set (None: remove) a field's value. Without an index a value is put in front, or the newest removed."""
    if PLAIN in item:
        return False
    values = item.get(field, [])
    if value is None:
        i = index if isinstance(index, int) else 0
        if index == _ALL:
            values.clear()
        elif -len(values) <= i < len(values):
            del values[i]
        if not values:
            item.pop(field, None)
        return True
    if unique or index == _ALL:
        item[field] = [value]
    elif index is None:
        push_field(item, field, value)
    elif isinstance(index, int) and -len(values) <= index < len(values):
        values[index] = value
    else:
        return False
    return True


def set_root(store: Items, root: str, index: Xval, value: Value | None, *, unique: bool = False) -> bool:
    """Set (None: remove) an item. Without an index a plain value is pushed, or the newest item removed."""
    items = store.get(root, [])
    if value is None:
        i = index if isinstance(index, int) else 0
        if index == _ALL:
            items.clear()
        elif -len(items) <= i < len(items):
            del items[i]
        if not items:
            store.pop(root, None)
        return True
    if not root:
        return False
    if unique or index == _ALL:
        store[root] = [{PLAIN: [value]}]
    elif index is None:
        store.setdefault(root, []).insert(0, {PLAIN: [value]})
    elif isinstance(index, int) and -len(items) <= index < len(items):
        items[index] = {PLAIN: [value]}
    else:
        return False
    return True


def _evaluate(index: int | str | Getter | None, ctx: RouteContext) -> Xval:
    return index if index is None or isinstance(index, (int, str)) else index(ctx)


def _xavp_class(store_of: Callable[[RouteContext], Items], *, fold: bool = False, unique: bool = False) -> Factory:
    def factory(inner: str | None, index: str | None, variables: Variables) -> Accessor:
        no_index(index)
        text = required(inner)
        path = parse_path(text.lower() if fold and "$" not in text else text, variables)
        if unique and (path.root_index is not None or path.field_index is not None):
            raise ValueError("an XAVU has no index")
        return _xavp_accessor(store_of, path, unique, variables.environment.limits)

    return factory


def _xavp_accessor(
    store_of: Callable[[RouteContext], Items], path: Path, unique: bool, limits: ScriptLimits
) -> Accessor:
    root, field = path.root, path.field

    def get(ctx: RouteContext) -> Xval:
        items = store_of(ctx).get(root)
        if items is None:
            return None
        item = item_at(items, _evaluate(path.root_index, ctx))
        if item is None:
            return None
        if field is None:
            return as_text(item, root)
        return at_value(item.get(field, []), _evaluate(path.field_index, ctx))

    def put(ctx: RouteContext, value: Xval) -> bool:
        if value is not None:
            admit(ctx, value, limits)
        store = store_of(ctx)
        root_index = _evaluate(path.root_index, ctx)
        if field is None:
            return set_root(store, root, root_index, value, unique=unique)
        field_index = _evaluate(path.field_index, ctx)
        items = store.get(root)
        if root_index is None and not unique and value is not None:
            store.setdefault(root, []).insert(0, {field: [value]})
            return True
        item = item_at(items, root_index)
        if item is None:
            if value is not None and unique:
                store[root] = [{field: [value]}]
            return True  # as in Kamailio: an index that is not there is passed over
        if unique and PLAIN in item and value is not None:
            item.clear()
        return set_field(item, field, field_index, value, unique=unique)

    return Accessor(get, put)


# ---- $cnt
def _count(inner: str | None, index: str | None, variables: Variables) -> Accessor:
    """``$cnt($avp(x))``, ``$cnt($xavp(root[*]=>field[*]))``: how many values there are."""
    no_index(index)
    text = required(inner)
    reference, end = parse_variable(text)
    if end != len(text) or reference.inner is None:
        raise ValueError("it counts the values of one variable")
    if reference.name == "avp":
        name = avp_name(reference.inner)
        return Accessor(lambda ctx: len(ctx.shared.avps.get(name, [])))
    stores: dict[str, Callable[[RouteContext], Items]] = {"xavp": _xavps, "xavi": _xavis, "xavu": _xavus}
    if reference.name not in stores:
        raise ValueError(f"${reference.name} cannot be counted")
    store_of = stores[reference.name]
    path = parse_path(reference.inner.lower() if reference.name == "xavi" else reference.inner, variables)
    return Accessor(lambda ctx: _count_values(store_of(ctx), path, ctx))


def _count_values(store: Items, path: Path, ctx: RouteContext) -> int:
    items = _chosen(store.get(path.root, []), _evaluate(path.root_index, ctx))
    if path.field is None:
        return len(items)
    field, field_index = path.field, _evaluate(path.field_index, ctx)
    return sum(len(_chosen(item.get(field, []), field_index)) for item in items)


def _chosen(values: list[T], index: Xval) -> list[T]:
    if index is None or index == _ALL:
        return values
    found = at_value(values, index)
    return [] if found is None else [found]


def _xavps(ctx: RouteContext) -> Items:
    return ctx.shared.xavps


def _xavis(ctx: RouteContext) -> Items:
    return ctx.shared.xavis


def _xavus(ctx: RouteContext) -> Items:
    return ctx.shared.xavus


CLASSES: Final[dict[str, Factory]] = {
    "avp": _avp,
    "xavp": _xavp_class(_xavps),
    "xavi": _xavp_class(_xavis, fold=True),
    "xavu": _xavp_class(_xavus, unique=True),
    "cnt": _count,
}
