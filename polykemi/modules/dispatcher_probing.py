"""How dispatcher learns which destinations are up: it asks them, and takes note of how long they take. Part of dispatcher."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from polykemi.kemi.context import RouteContext
from polykemi.kemi.faked import event_context
from polykemi.modules.dispatcher_lists import ALWAYS, ONLY_FLAGGED, ONLY_INACTIVE, DispatcherLists, DispatcherParams
from polykemi.modules.dispatcher_sets import (
    DISABLED,
    INACTIVE,
    PROBING,
    TRYING,
    Cause,
    Destination,
    DestinationSet,
)
from polykemi.modules.tm_local import LocalReply, LocalRequest

log = logging.getLogger("polykemi.dispatcher")

_NOT_SENT: Final = 500
_TIMEOUT: Final = 408
_PRECISION: Final = 16  # of weights when all destinations are congested


class Requests(Protocol):
    """What probing needs of tm."""

    def request(
        self, request: LocalRequest, now: float, on_end: Callable[[LocalReply], Iterable[RouteContext] | None]
    ) -> int:
        """Send a request; ``on_end`` is told how it ended."""


class Prober:
    """Probes the destinations of ``lists`` with requests of tm."""

    def __init__(self, lists: DispatcherLists, tm: Requests) -> None:
        self._lists = lists
        self._tm = tm
        self._params: DispatcherParams = lists.params

    def probe(self, now: float) -> None:
        """Send a request to each destination that is to be probed."""
        for one in list(self._lists.sets.values()):
            for destination in one.destinations:
                if self._is_probed(destination):
                    self._ask(one, destination, now)

    def _is_probed(self, destination: Destination) -> bool:
        flags, mode = destination.flags, self._params.ds_probing_mode
        if flags & DISABLED:
            return False
        wanted = PROBING | (INACTIVE if mode == ONLY_INACTIVE else 0)
        return mode == ALWAYS or flags & wanted == wanted

    def _ask(self, one: DestinationSet, destination: Destination, now: float) -> None:
        p, attrs, uri = self._params, destination.attrs, destination.uri
        request = LocalRequest(
            p.ds_ping_method,
            uri,
            attrs.ping_from or p.ds_ping_from,
            uri,
            dst_uri=attrs.obproxy or p.outbound_proxy,
            listener=destination.listener,
        )
        destination.pinged = now
        setid = one.id
        if self._tm.request(request, now, lambda reply: self._ended(setid, uri, reply)) > 0:
            return
        log.error("set %d: cannot probe %s", setid, uri)
        cause = Cause(_NOT_SENT, uri, setid, "Sending keepalive failed")
        self._lists.services.events += self._changed(one, destination, self._down(), cause, now)

    def _ended(self, setid: int, uri: str, reply: LocalReply) -> Iterable[RouteContext]:
        """Take the answer of a destination, or that there was none; return the event route blocks to be run."""
        one = self._lists.sets.get(setid)
        if one is not None and self._params.ds_ping_latency_stats:
            self._measure(one, uri, reply)
        destination = one.find(uri) if one is not None else None
        if one is None or destination is None or destination.flags & DISABLED:  # in the meantime
            return ()
        mode, flagged = self._params.ds_probing_mode, destination.flags & PROBING
        if mode == ONLY_FLAGGED and not flagged:
            return ()
        state = self._down()
        codes = self._lists.reply_codes
        if 200 <= reply.status < 300 or reply.status in codes or reply.status // 100 in codes:
            state = PROBING if mode in (ALWAYS, ONLY_FLAGGED) else 0
        reason = reply.response.reason if reply.response is not None else ""
        cause = Cause(reply.status, uri, setid, reason, int(reply.response is not None))
        return self._changed(one, destination, state, cause, reply.now)

    def _down(self) -> int:
        return TRYING | (PROBING if self._params.ds_probing_mode else 0)

    def _changed(
        self, one: DestinationSet, destination: Destination, state: int, cause: Cause, now: float
    ) -> list[RouteContext]:
        """Change the state; return the event route block for it, if there is one."""
        event, callback = self._lists.change_state(one, destination, state), self._params.event_callback
        if not event or not callback:
            return []
        block = event_context(callback, event, self._lists.services.listeners[0], now)
        block.ruri = cause.uri
        block.cache["dispatcher.cause"] = cause
        return [block]

    # ---- latency
    def _measure(self, one: DestinationSet, uri: str, reply: LocalReply) -> None:
        """Take note of how long the destination took, and with congestion control shift the weights of its set."""
        alpha = self._params.ds_latency_estimator_alpha / 1000
        changed = False
        for destination in one.destinations:
            if destination.uri.lower() != uri.lower() or not destination.flags & PROBING:
                continue
            if reply.status == _TIMEOUT:
                destination.latency.timeouts += 1
            else:
                destination.latency.add(int((reply.now - destination.pinged) * 1000), alpha)
            attrs = destination.attrs
            if attrs.congestion_control and attrs.weight > 0:
                changed |= _weigh(destination, _active_weight(destination))
        controlled = [d for d in one.destinations if d.attrs.congestion_control]
        if len(controlled) < len(one.destinations):
            return
        weighted = [d for d in controlled if d.attrs.weight > 0]
        if len(weighted) > 1 and not any(_active_weight(d) for d in weighted):
            # all of them are congested: what counts is the ratio
            total = sum(max(d.latency.congestion, 0) for d in weighted)
            for destination in one.destinations:
                weight = total * _PRECISION // (destination.latency.congestion or 1)
                changed |= _weigh(destination, weight)
        if changed:
            one.spread(self._lists.random)


def _active_weight(destination: Destination) -> int:
    """Return the weight less a point for each millisecond of congestion."""
    return max(destination.attrs.weight - max(destination.latency.congestion, 0), 0)


def _weigh(destination: Destination, weight: int) -> bool:
    """Set the relative weight; tell whether it is another."""
    changed = destination.attrs.rweight != weight
    destination.attrs.rweight = weight
    return changed
