"""dispatcher's algorithms: which destination of a set a request goes to, and which are next in line. Part of dispatcher."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.modules.dispatcher_lists import DispatcherLists, DispatcherParams
from polykemi.modules.dispatcher_load import Loads
from polykemi.modules.dispatcher_sets import Destination, DestinationSet, hash_of
from polykemi.pv.accessor import Text
from polykemi.pv.classes.avp import Item
from polykemi.sip.digest import parse_credentials
from polykemi.sip.flow import find_listener
from polykemi.sip.message import Request
from polykemi.sip.uri import parse_uri
from polykemi.transaction.target import Target

log = logging.getLogger("polykemi.dispatcher")

# where a choice is put
DSTURI: Final = 0
RURI: Final = 1
XAVP: Final = 2  # nowhere but into the records

USER_ONLY: Final = 1  # the parameter ``flags``
FAILOVER: Final = 2

NO_ATTRS: Final = 1  # xavp_dst_mode
ADD_SOCKET: Final = 2

_CALL_LOAD: Final = 10
_PARALLEL: Final = 12
_LATENCY: Final = 13
_MAX_BRANCHES: Final = 31  # as corex has it

_SCHEME: Final = re.compile("^sips?:", re.IGNORECASE)

Hash = Callable[["Chooser", RouteContext], "int | None"]


class Wanted:
    """One choice on its way."""

    __slots__ = ("algorithm", "count", "is_pushed", "limit", "mode", "setid", "takes_turn")

    def __init__(self, setid: int, algorithm: int, limit: int, mode: int) -> None:
        self.setid = setid
        self.algorithm = algorithm
        self.limit = limit if limit > 0 else 1 << 32  # records, 0 and less: all
        self.mode = mode
        self.count = 0  # records made
        self.is_pushed = False  # $du or $ru was set
        self.takes_turn = False  # round robin


class Chooser:
    """Chooses destinations and keeps the others as records in the XAVP ``xavp_dst``, for ``ds_next_dst``."""

    def __init__(self, module: DispatcherLists, loads: Loads, hash_text: Text | None) -> None:
        self._module = module
        self._params: DispatcherParams = module.params
        self._loads = loads
        self._hash_text = hash_text  # of algorithm 7

    @property
    def keeps_records(self) -> bool:
        """Whether the destinations that were not chosen are kept for later."""
        return bool(self._params.flags & FAILOVER and self._params.xavp_dst)

    def select(self, ctx: RouteContext, wanted: Wanted) -> int:
        """Choose, set where the request goes, and keep the rest. Return 1, 2 when parallel branches were too many, or -1."""
        module = self._module
        if not module.sets:
            log.error("there are no destination sets")
            return -1
        if wanted.mode == DSTURI and not self._params.force_dst and ctx.dst_uri:
            log.error("the destination is set already: %s", ctx.dst_uri)
            return -1
        one = module.sets.get(wanted.setid)
        if one is None:
            log.error("there is no destination set %d", wanted.setid)
            return -1
        records: list[Destination] = []
        if wanted.algorithm == _LATENCY:
            chosen = self._by_latency(one, wanted, records)
        else:
            chosen = self._first_active(one, self._position(ctx, one, wanted))
        if chosen is None:
            return -1
        if wanted.mode != XAVP:
            if not push(ctx, one.destinations[chosen].uri, one.destinations[chosen].listener, wanted.mode):
                return -1
            wanted.is_pushed = True
        if wanted.takes_turn:  # the next turn begins behind the active one
            one.last = (chosen + 1) % len(one.destinations)
        if wanted.algorithm == _PARALLEL:
            return self._add_branches(ctx, one, chosen, wanted.mode)
        if not self.keeps_records:
            return 1
        if wanted.algorithm != _LATENCY:
            records = self._in_line(one, chosen, wanted)
        default = len(one.destinations) - 1
        if self._params.use_default and chosen != default and wanted.count + len(records) < wanted.limit:
            records.append(one.destinations[default])
        return self._keep(ctx, wanted, records)

    # ---- positions
    def _position(self, ctx: RouteContext, one: DestinationSet, wanted: Wanted) -> int | None:
        """Return what the algorithm gives, a hash or a position; None when it can choose nothing."""
        algorithm = wanted.algorithm
        if algorithm in _HASHES:
            number = _HASHES[algorithm](self, ctx)
            if number is None:
                log.error("algorithm %d has nothing to hash in this message", algorithm)
            return self._turn(one, wanted) if number == 0 else number
        if algorithm == 4:
            return self._turn(one, wanted)
        if algorithm == 6:
            return self._module.random().getrandbits(31)
        if algorithm == 9:
            position, one.wlast = one.wlist[one.wlast], (one.wlast + 1) % len(one.wlist)
            return position
        if algorithm == _CALL_LOAD:
            return self._least_loaded(ctx, one, wanted)
        if algorithm == 11:
            position, one.rwlast = one.rwlist[one.rwlast], (one.rwlast + 1) % len(one.rwlist)
            return position
        if algorithm not in (8, _PARALLEL):
            log.warning("there is no algorithm %d: the first destination is taken", algorithm)
        return 0

    def _turn(self, one: DestinationSet, wanted: Wanted) -> int:
        wanted.takes_turn = True
        position, one.last = one.last, (one.last + 1) % len(one.destinations)
        return position

    def _least_loaded(self, ctx: RouteContext, one: DestinationSet, wanted: Wanted) -> int | None:
        message = ctx.message
        if not isinstance(message, Request) or message.method != "INVITE" or not self._params.xavp_dst:
            wanted.algorithm = 0  # no call begins here: the first destination
            return 0
        free = [i for i, d in enumerate(one.destinations) if not d.is_skipped and has_room(d)]
        if not free:
            return None
        position = min(free, key=lambda i: one.destinations[i].load)
        if not self._loads.add(message.call_id, one.destinations[position], ctx.now):
            wanted.algorithm = 0
        return position

    def _first_active(self, one: DestinationSet, position: int | None) -> int | None:
        """Return the first destination from ``position`` on that is not down; at last the default one."""
        if position is None:
            return None
        size = self._without_default(one)
        start = position % size
        for i in range(size):
            if not one.destinations[(start + i) % size].is_skipped:
                return (start + i) % size
        default = len(one.destinations) - 1
        return default if self._params.use_default and not one.destinations[default].is_skipped else None

    def _without_default(self, one: DestinationSet) -> int:
        size = len(one.destinations)
        return size - 1 if self._params.use_default and size != 1 else size

    def _by_latency(self, one: DestinationSet, wanted: Wanted, records: list[Destination]) -> int | None:
        """Take turns among the destinations of the highest priority, which falls as they become slow; fill ``records``."""
        size, ranked = len(one.destinations), []
        position = one.last
        for _ in range(size):
            destination = one.destinations[position]
            ranked.append((-1 if destination.is_skipped else position, _priority(destination)))
            position = (position + 1) % self._without_default(one)
        ranked.sort(key=lambda entry: -entry[1])
        chosen = ranked[0][0]
        if self._params.flags & FAILOVER:
            default = size - 1 if self._params.use_default else -1
            records += [one.destinations[i] for i, _ in ranked if i not in (-1, default)][: wanted.limit - wanted.count]
        one.last = (chosen + 1) % size
        return chosen if chosen >= 0 else None

    # ---- records
    def _in_line(self, one: DestinationSet, chosen: int, wanted: Wanted) -> list[Destination]:
        """Return the destination that was chosen and those behind it that are active, round the set."""
        destinations = one.destinations
        records = [destinations[chosen]]
        default = len(destinations) - 1 if self._params.use_default else -1
        for i in [*range(chosen + 1, len(destinations)), *range(chosen)]:
            if len(records) + wanted.count >= wanted.limit:
                break
            if i == default or destinations[i].is_skipped:
                continue
            if wanted.algorithm == _CALL_LOAD and not has_room(destinations[i]):
                continue
            records.append(destinations[i])
        return records

    def _keep(self, ctx: RouteContext, wanted: Wanted, records: list[Destination]) -> int:
        kept: list[Item] = []
        for destination in records:
            if wanted.algorithm == _CALL_LOAD and not destination.attrs.duid:
                log.error("set %d: %s has no duid", wanted.setid, destination.uri)
                break
            kept.append(self._record(destination, wanted))
        root = ctx.shared.xavps.setdefault(self._params.xavp_dst, [])
        root[wanted.count : wanted.count] = kept  # one choice of ds_select_routes stands behind the other
        if not root:
            del ctx.shared.xavps[self._params.xavp_dst]
        wanted.count += len(kept)
        return 1 if len(kept) == len(records) else -1

    def _record(self, destination: Destination, wanted: Wanted) -> Item:
        p, attrs = self._params, destination.attrs
        item: Item = {p.xavp_dst_addr: [destination.uri], p.xavp_dst_grp: [wanted.setid]}
        if attrs.body and not p.xavp_dst_mode & NO_ATTRS:
            item[p.xavp_dst_attrs] = [attrs.body]
        if destination.listener is not None:
            item[p.xavp_dst_sock] = [str(destination.listener)]
            if p.xavp_dst_mode & ADD_SOCKET and attrs.socket:
                item[p.xavp_dst_socket] = [attrs.socket]
        if wanted.algorithm == _CALL_LOAD:
            item[p.xavp_dst_dstid] = [attrs.duid]
        return item

    def add_count(self, ctx: RouteContext, wanted: Wanted) -> None:
        """Put the number of records into the XAVP ``xavp_ctx``."""
        p = self._params
        if p.xavp_ctx and not p.xavp_ctx_mode & 1:
            ctx.shared.xavps.setdefault(p.xavp_ctx, []).insert(0, {"cnt": [wanted.count]})

    def _add_branches(self, ctx: RouteContext, one: DestinationSet, chosen: int, mode: int) -> int:
        """Add the destinations behind ``chosen``, active or not, as branches."""
        first = chosen if mode == XAVP else chosen + 1
        user = ""
        if mode == RURI:
            try:
                user = parse_uri(ctx.ruri).user
            except ParseError:
                return 2
        for destination in one.destinations[first:]:
            if len(ctx.branches) >= _MAX_BRANCHES:
                log.error("more than %d branches", _MAX_BRANCHES)
                return 2
            uri, dst_uri = ctx.ruri, destination.uri
            if mode == RURI:
                scheme, _, rest = destination.uri.partition(":")
                uri, dst_uri = f"{scheme}:{user}@{rest}" if user else destination.uri, ""
            ctx.branches.append(Target(uri, dst_uri, listener=destination.listener))
        return 1

    def use_record(self, ctx: RouteContext, mode: int, *, next_one: bool) -> int:
        """Set where the request goes from the first record, or from the next one, dropping the first. Return 1 or -1."""
        p = self._params
        if next_one and not self.keeps_records:
            log.warning("failover is not on: [modules.dispatcher] flags = 2")
            return -1
        items = ctx.shared.xavps.get(p.xavp_dst, [])
        while items:
            if next_one and _is_record(items[0]):
                del items[0]
                if not items:
                    del ctx.shared.xavps[p.xavp_dst]
            if not items or not _is_record(items[0]):
                return -1
            item: Mapping[str, list[Any]] = items[0]
            uri = item.get(p.xavp_dst_addr, [None])[0]
            if not isinstance(uri, str):
                log.warning("the record has no %s", p.xavp_dst_addr)
                return -1
            sock = item.get(p.xavp_dst_sock, [""])[0]
            if not push(ctx, uri, find_listener(str(sock), self._module.services.listeners) if sock else None, mode):
                return -1
            duid = item.get(p.xavp_dst_dstid, [None])[0]
            if not next_one or not isinstance(duid, str):
                return 1
            done = self._loads.replace(ctx.message.call_id, duid, ctx.now)
            if done is not None:
                return 1 if done else -1
        return -1


def _is_record(item: Item) -> bool:
    return "" not in item


def has_room(destination: Destination) -> bool:
    """Tell whether a destination may take one more call."""
    return not destination.attrs.maxload or destination.load < destination.attrs.maxload


def _priority(destination: Destination) -> int:
    """Return the priority less what its latency costs; -1 when the destination is down."""
    if destination.is_skipped:
        return -1
    latency = destination.latency
    milliseconds = latency.congestion if destination.attrs.congestion_control else int(latency.estimate)
    priority = destination.priority
    handicap = milliseconds // priority if milliseconds > priority > 0 else 0
    return max(priority - handicap, 1) if priority > 0 else priority - handicap


def push(ctx: RouteContext, uri: str, listener: Any, mode: int) -> bool:
    """Set the destination URI, or the part of the Request-URI behind the user, to ``uri``; tell whether that was possible."""
    if mode == RURI:
        try:
            old = parse_uri(ctx.ruri)
        except ParseError:
            log.error("the Request-URI %r is none", ctx.ruri)
            return False
        scheme = old.scheme if old.scheme in ("sip", "sips") else "sip"
        user = f"{old.user}:{old.password}" if old.password else old.user
        rest = _SCHEME.sub("", uri)
        ctx.ruri = f"{scheme}:{user}@{rest}" if old.user else f"{scheme}:{rest}"
    else:
        ctx.dst_uri = uri
    ctx.cache.pop("tm.consumed", None)  # the Request-URI may be forwarded to once more
    if listener is not None:
        ctx.force_listener = listener
    return True


# ---- what is hashed
def _call_id(chooser: Chooser, ctx: RouteContext) -> int | None:
    return hash_of(ctx.message.call_id)


def _of_uri(uri_of: Callable[[RouteContext], str]) -> Hash:
    def number(chooser: Chooser, ctx: RouteContext) -> int | None:
        try:
            uri = parse_uri(uri_of(ctx))
        except ParseError:
            return None
        if not uri.host and uri.scheme != "tel":
            return None
        if not uri.user:
            log.warning("%s has no user to hash", uri)
        if chooser._params.flags & USER_ONLY:
            return hash_of(uri.user)
        default = 5061 if uri.scheme == "sips" else 5060
        return hash_of(uri.user, uri.host if uri.port in (0, default) else f"{uri.host}:{uri.port}")

    return number


def _auth_user(chooser: Chooser, ctx: RouteContext) -> int | None:
    """Hash the user of the credentials; 0 when there are none."""
    for name in ("proxy-authorization", "authorization"):
        value = ctx.message.get(name)
        if value is None:
            continue
        try:
            user = parse_credentials(value).user
        except ParseError:
            continue
        return hash_of(user) if user else 0
    return 0


def _variable(chooser: Chooser, ctx: RouteContext) -> int | None:
    text = chooser._hash_text(ctx).strip(" \t\r\n") if chooser._hash_text is not None else ""
    return hash_of(text) if text else None


_HASHES: Final[dict[int, Hash]] = {
    0: _call_id,
    1: _of_uri(lambda ctx: ctx.message.from_.uri),
    2: _of_uri(lambda ctx: ctx.message.to.uri),
    3: _of_uri(lambda ctx: ctx.ruri),
    5: _auth_user,
    7: _variable,
}
