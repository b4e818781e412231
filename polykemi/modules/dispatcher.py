"""dispatcher: spreads requests over sets of destinations, and knows which of them are up (Kamailio: dispatcher)."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from polykemi.errors import DataError, ParseError
from polykemi.kemi.context import Process, RouteContext
from polykemi.kemi.registry import Xval, export
from polykemi.kemi.route import Route
from polykemi.modules.base import Services
from polykemi.modules.dispatcher_choice import DSTURI, RURI, XAVP, Chooser, Wanted
from polykemi.modules.dispatcher_lists import ALWAYS, DispatcherParams
from polykemi.modules.dispatcher_load import Loads
from polykemi.modules.dispatcher_probing import Prober
from polykemi.modules.dispatcher_rpc import DispatcherCommands
from polykemi.modules.dispatcher_sets import DISABLED, INACTIVE, PROBING, TRYING, Cause, packed
from polykemi.pv.accessor import Accessor, Factory
from polykemi.pv.classes.factories import keyed
from polykemi.sip.message import Response
from polykemi.sip.uri import parse_uri

log = logging.getLogger("polykemi.dispatcher")

_NO_PORT: Final = 1  # modes of ds_is_from_list
_NO_PROTO: Final = 2
_ACTIVE: Final = 4

_BY_REQUEST: Final = 820  # what $dsv(code) says when a script, not a reply, changed a state
_LETTERS: Final = {"i": INACTIVE, "d": DISABLED, "t": TRYING, "p": PROBING}
_MODES: Final = {"0": DSTURI, "d": DSTURI, "1": RURI, "r": RURI, "2": XAVP, "x": XAVP}
_RULE: Final = re.compile("[0-9]*(?:=[0-9]*(?:;|$)|$)")  # set=algorithm;


class Dispatcher(DispatcherCommands):
    """The sets of one server."""

    name = "dispatcher"
    Params = DispatcherParams
    events: ClassVar[Mapping[str, str]] = {
        "dispatcher:dst-down": "a destination is up no more; $ru is its URI, $dsv(x) tells why",
        "dispatcher:dst-up": "a destination is up again; $ru is its URI, $dsv(x) tells why",
    }

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        p: DispatcherParams = self.params
        self.loads = Loads(p.ds_hash_size, p.ds_hash_expire, p.ds_hash_initexpire, self.set_of)
        self._reloaded: float | None = None
        self._setid: Accessor | None = None
        self._attrs: Accessor | None = None
        self._loads_due: float | None = None
        self._prober: Prober | None = None
        self._probing_due: float | None = None

    def start(self, now: float) -> None:
        """Read the destinations. Raise DataError."""
        super().start(now)
        p: DispatcherParams = self.params
        self._setid = self.variable("setid_pvname", p.setid_pvname, settable=True)
        self._attrs = self.variable("attrs_pvname", p.attrs_pvname, settable=True)
        variables = self.services.variables
        self._chooser = Chooser(self, self.loads, variables.text(p.hash_pvar) if p.hash_pvar else None)
        if p.ds_hash_size:
            self._loads_due = now + p.ds_hash_check_interval
        if p.ds_ping_interval:
            tm = self.services.modules.get("tm")
            if tm is None:
                raise DataError("dispatcher: ds_ping_interval: probing needs the module tm")
            self._prober = Prober(self, tm)
            self._probing_due = now + p.ds_ping_interval

    # ---- the lists
    @export()
    def ds_reload(self, ctx: RouteContext) -> int:
        """Read the destinations anew, all states and loads being forgotten. Answers 1, or -1 (also within reload_delta)."""
        if self._reloaded is not None and self._reloaded > ctx.now - self.params.reload_delta:
            log.error("ds_reload: the last one was less than %d seconds ago", self.params.reload_delta)
            return -1
        self._reloaded = ctx.now
        try:
            self.read()
        except DataError as error:
            log.error("ds_reload: %s", error)
            return -1
        return 1

    @export()
    def ds_list_exists(self, ctx: RouteContext, setid: int) -> int:
        """Tell whether there is a set with this number: 1 or -1."""
        return 1 if setid in self.sets else -1

    # ---- choosing
    @export()
    def ds_select(self, ctx: RouteContext, setid: int, alg: int) -> int:
        """Choose destinations by an algorithm (0 to 13) into the XAVP alone; ``ds_set_dst`` uses them. Answers 1 or -1."""
        return self._select(ctx, setid, alg, 0, XAVP)

    @export()
    def ds_select_limit(self, ctx: RouteContext, setid: int, alg: int, limit: int) -> int:
        """Do as ``ds_select``, for at most ``limit`` destinations (0: all)."""
        return self._select(ctx, setid, alg, limit, XAVP)

    @export()
    def ds_select_dst(self, ctx: RouteContext, setid: int, alg: int) -> int:
        """Choose a destination and set the destination URI to it; the XAVP keeps the others. Answers 1 or -1."""
        return self._select(ctx, setid, alg, 0, DSTURI)

    @export()
    def ds_select_dst_limit(self, ctx: RouteContext, setid: int, alg: int, limit: int) -> int:
        """Do as ``ds_select_dst``, keeping at most ``limit`` destinations (0: all)."""
        return self._select(ctx, setid, alg, limit, DSTURI)

    @export()
    def ds_select_domain(self, ctx: RouteContext, setid: int, alg: int) -> int:
        """Choose a destination and set what follows the user in the Request-URI to it. Answers 1 or -1."""
        return self._select(ctx, setid, alg, 0, RURI)

    @export()
    def ds_select_domain_limit(self, ctx: RouteContext, setid: int, alg: int, limit: int) -> int:
        """Do as ``ds_select_domain``, keeping at most ``limit`` destinations (0: all)."""
        return self._select(ctx, setid, alg, limit, RURI)

    def _select(self, ctx: RouteContext, setid: int, algorithm: int, limit: int, mode: int) -> int:
        wanted = Wanted(setid, algorithm, limit, mode)
        done = self._chooser.select(ctx, wanted)
        if done > 0:
            self._chooser.add_count(ctx, wanted)
        return done

    @export()
    def ds_select_routes(self, ctx: RouteContext, srules: str, smode: str) -> int:
        """Choose from several sets, ``set=alg;set=alg``; mode d sets the destination URI, r the Request-URI, x none."""
        return self.ds_select_routes_limit(ctx, srules, smode, 0)

    @export()
    def ds_select_routes_limit(self, ctx: RouteContext, srules: str, smode: str, rlimit: int) -> int:
        """Do as ``ds_select_routes``, keeping at most ``rlimit`` destinations of all sets (0: all). Answers 1 or -1."""
        wanted = Wanted(0, 0, rlimit, XAVP)
        good, last, at = -1, -1, 0
        while at < len(srules):
            rule = _RULE.match(srules, at)
            if rule is None:
                log.error("ds_select_routes: expected set=algorithm;..., got %r", srules)
                return -1
            at = rule.end()
            setid, _, algorithm = rule[0].rstrip(";").partition("=")
            wanted.setid, wanted.algorithm = int(setid or 0), int(algorithm or 0)
            wanted.mode = XAVP if wanted.is_pushed else _MODES.get(smode[:1].lower(), -1)
            if wanted.mode < 0:
                log.error("ds_select_routes: expected the mode d, r or x, got %r", smode)
                return -1
            last = self._chooser.select(ctx, wanted)
            good = last if last > 0 else good
        if good < 0:
            return last
        self._chooser.add_count(ctx, wanted)
        return good

    @export()
    def ds_next_dst(self, ctx: RouteContext) -> int:
        """Set the destination URI to the next destination of the XAVP. Answers 1, or -1 when there is none."""
        return self._chooser.use_record(ctx, DSTURI, next_one=True)

    @export()
    def ds_next_domain(self, ctx: RouteContext) -> int:
        """Set what follows the user in the Request-URI to the next destination. Answers 1, or -1 when there is none."""
        return self._chooser.use_record(ctx, RURI, next_one=True)

    @export()
    def ds_set_dst(self, ctx: RouteContext) -> int:
        """Set the destination URI to the first destination of the XAVP. Answers 1, or -1 when there is none."""
        return self._chooser.use_record(ctx, DSTURI, next_one=False)

    @export()
    def ds_set_domain(self, ctx: RouteContext) -> int:
        """Set what follows the user in the Request-URI to the first destination. Answers 1, or -1 when there is none."""
        return self._chooser.use_record(ctx, RURI, next_one=False)

    # ---- states
    @export()
    def ds_mark_dst(self, ctx: RouteContext) -> Process[int]:
        """Take the destination in use (the first of the XAVP) for inactive. Answers 1 or -1."""
        return (yield from self._mark_record(ctx, self._down_state))

    @export()
    def ds_mark_dst_state(self, ctx: RouteContext, sval: str) -> Process[int]:
        """Set the state of the destination in use: letters a(ctive), i(nactive), t(rying), d(isabled), p(robed)."""
        state = self._down_state if not sval else _state_of(sval)
        return (yield from self._mark_record(ctx, state))

    @property
    def _down_state(self) -> int:
        return INACTIVE | (PROBING if self.params.ds_probing_mode == ALWAYS else 0)

    def _mark_record(self, ctx: RouteContext, state: int) -> Process[int]:
        if not self._chooser.keeps_records:
            log.warning("failover is not on: [modules.dispatcher] flags = 2")
            return -1
        items = ctx.shared.xavps.get(self.params.xavp_dst)
        record: Mapping[str, list[Xval]] = items[0] if items else {}
        setid = record.get(self.params.xavp_dst_grp, [None])[0]
        uri = record.get(self.params.xavp_dst_addr, [None])[0]
        if state < 0 or not isinstance(setid, int) or not isinstance(uri, str):
            return -1
        return (yield from self._mark(ctx, setid, uri, state, at_once=False))

    @export()
    def ds_mark_addr(self, ctx: RouteContext, vstate: str, vgroup: int, vuri: str) -> Process[int]:
        """Set the state of a destination by set and URI, thresholds aside; letters as ``ds_mark_dst_state``."""
        state = _state_of(vstate)
        if state < 0:
            return -1
        return (yield from self._mark(ctx, vgroup, vuri, state, at_once=True))

    def _mark(self, ctx: RouteContext, setid: int, uri: str, state: int, *, at_once: bool) -> Process[int]:
        message = ctx.message
        cause = Cause(_BY_REQUEST, uri, setid)
        if isinstance(message, Response):
            cause = Cause(message.status, uri, setid, message.reason, 1)
        one = self.sets.get(setid)
        destination = one.find(uri) if one is not None else None
        if one is None or destination is None:
            log.error("set %d has no destination %s", setid, uri)
            return -1
        event = self.change_state(one, destination, state, at_once=at_once)
        if event and self.params.event_callback:
            block = RouteContext(Route.EVENT, self.params.event_callback, message, ctx.flow, ctx.now)
            block.event, block.shared, block.transaction = event, ctx.shared, ctx.transaction
            block.ruri, block.dst_uri = ctx.ruri, ctx.dst_uri
            block.cache["dispatcher.cause"] = cause
            yield block
        return 1

    @export()
    def ds_is_active(self, ctx: RouteContext, setid: int) -> int:
        """Tell whether a destination of the set is up: 1 or -1."""
        return self.ds_is_active_uri(ctx, setid, "")

    @export()
    def ds_is_active_uri(self, ctx: RouteContext, setid: int, uri: str) -> int:
        """Tell whether the destination ``uri`` ("": any) of the set is up: 1 or -1."""
        one = self.sets.get(setid)
        destinations = one.destinations if one is not None else []
        return 1 if any(not d.is_skipped and uri in ("", d.uri) for d in destinations) else -1

    # ---- where a message comes from
    @export()
    def ds_is_from_lists(self, ctx: RouteContext) -> int:
        """Tell whether the source (address and port) is a destination of any set: 1 or -1."""
        return self._is_from(ctx, -1, _NO_PROTO, "")

    @export()
    def ds_is_from_list(self, ctx: RouteContext, group: int) -> int:
        """Tell whether the source (address and port) is a destination of the set, -1 for any: 1 or -1."""
        return self._is_from(ctx, group, _NO_PROTO, "")

    @export()
    def ds_is_from_list_mode(self, ctx: RouteContext, vset: int, vmode: int) -> int:
        """Do as ``ds_is_from_list``; mode 1: any port, 2: any transport, 4: active destinations only."""
        return self._is_from(ctx, vset, vmode, "")

    @export()
    def ds_is_from_list_uri(self, ctx: RouteContext, vset: int, vmode: int, vuri: str) -> int:
        """Do as ``ds_is_from_list_mode`` with the address of a URI instead of the source."""
        return self._is_from(ctx, vset, vmode, vuri)

    def _is_from(self, ctx: RouteContext, setid: int, mode: int, uri: str) -> int:
        host, port, proto = ctx.flow.host, ctx.flow.port, ctx.flow.listener.proto
        if uri:
            try:
                parsed = parse_uri(uri)
            except ParseError:
                log.error("ds_is_from_list: %r is no URI", uri)
                return -1
            host, port, proto = parsed.host, parsed.port, parsed.transport
        address = packed(host)
        if not address:
            log.error("ds_is_from_list: %r is no IP address", host)
            return -1
        one = self.sets.get(setid)
        for candidate in self.sets.values() if setid == -1 else [one] if one is not None else []:
            for d in candidate.destinations:
                if d.address != address or (mode & _ACTIVE and d.is_skipped):
                    continue
                if (mode & _NO_PORT or d.port in (0, port)) and (mode & _NO_PROTO or d.proto == proto):
                    if setid == -1 and self._setid is not None and self._setid.set is not None:
                        self._setid.set(ctx, candidate.id)
                    if d.attrs.body and self._attrs is not None and self._attrs.set is not None:
                        self._attrs.set(ctx, d.attrs.body)
                    return 1
        return -1

    # ---- call load
    @export()
    def ds_load_update(self, ctx: RouteContext) -> int:
        """Take note of what a message says about a counted call: BYE and CANCEL end it, 2xx to INVITE confirms it. 0."""
        message = ctx.message
        if not isinstance(message, Response):
            if ctx.method in ("BYE", "CANCEL"):
                self.loads.remove(message.call_id)
        elif ctx.method == "INVITE" and 200 <= message.status < 300:
            self.loads.confirm(message.call_id)
        return 0

    @export()
    def ds_load_unset(self, ctx: RouteContext) -> int:
        """Count the call of this message no more. Answers 0, or -1 when it was not counted."""
        if not self.params.xavp_dst:
            return 0
        if not isinstance(ctx.message, Response) and ctx.method == "INVITE":
            items = ctx.shared.xavps.get(self.params.xavp_dst)
            if not items or self.params.xavp_dst_dstid not in items[0]:
                return 0
        return 0 if self.loads.remove(ctx.message.call_id) else -1

    # ---- variables, timers
    def pv_classes(self) -> Mapping[str, Factory]:
        """Return $dsv: why the event route runs."""

        def of(name: str) -> Any:
            def read(ctx: RouteContext) -> Xval:
                cause: Cause | None = ctx.cache.get("dispatcher.cause")
                value: Xval = getattr(cause, name) if cause is not None else None
                return None if value == "" else value

            return read

        names = {"code": "code", "reason": "reason", "flags": "flags", "uri": "uri", "setid": "setid", "group": "setid"}
        return {"dsv": keyed({key: of(name) for key, name in names.items()})}

    def next_timeout(self) -> float | None:
        """Return when destinations are probed, or the counted calls looked through, next."""
        return min((due for due in (self._loads_due, self._probing_due) if due is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Forget counted calls that have expired; probe destinations."""
        if self._loads_due is not None and now >= self._loads_due:
            self._loads_due = now + max(self.params.ds_hash_check_interval, 1)
            self.loads.sweep(now)
        if self._probing_due is not None and now >= self._probing_due:
            self._probing_due = now + self.params.ds_ping_interval
            if self._prober is not None and self.is_pinging:
                self._prober.probe(now)


def _state_of(letters: str) -> int:
    """Return the flags that letters stand for, -1 when one of them stands for nothing."""
    state = 0
    for letter in letters.lower():
        if letter == "a":
            state = 0
        elif letter in _LETTERS:
            state |= _LETTERS[letter]
        else:
            log.warning("%r: expected the letters a, i, t, d, p", letters)
            return -1
    return state
