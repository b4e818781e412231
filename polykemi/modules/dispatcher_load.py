"""Which destination of dispatcher has how many calls: algorithm 10 counts them by Call-ID. Part of dispatcher."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from polykemi.modules.dispatcher_sets import Destination, DestinationSet

MOST_CALLS: Final = 500_000  # that are counted at a time

log = logging.getLogger("polykemi.dispatcher")


class _Call:
    """A call that is counted."""

    __slots__ = ("confirmed", "duid", "expires", "init_expires", "setid")

    def __init__(self, setid: int, duid: str, expires: float, init_expires: float) -> None:
        self.setid = setid
        self.duid = duid
        self.expires = expires
        self.init_expires = init_expires  # unless it is confirmed by then
        self.confirmed = False


class Loads:
    """The calls by Call-ID. ``size`` 0: none are counted (ds_hash_size). Times are in seconds, 0 for never."""

    def __init__(self, size: int, expire: int, init_expire: int, find: Callable[[int], DestinationSet | None]) -> None:
        self.is_on = size > 0
        self._expire = expire
        self._init_expire = init_expire
        self._find = find
        self._calls: dict[str, _Call] = {}

    def add(self, call_id: str, destination: Destination, now: float) -> bool:
        """Count a call; False when it cannot be, or is counted already."""
        duid = destination.attrs.duid
        if not duid:
            log.error("set %d: %s has no duid: its calls cannot be counted", destination.setid, destination.uri)
            return False
        if not self.is_on:
            log.error("calls are not counted: [modules.dispatcher] ds_hash_size is 0")
            return False
        if len(self._calls) >= MOST_CALLS:
            log.error("the call is not counted: %d are", len(self._calls))
            return False
        if call_id in self._calls:
            log.warning("the call is counted already: %s", call_id)
            return False
        never = float("inf")
        self._calls[call_id] = _Call(
            destination.setid,
            duid,
            now + self._expire if self._expire else never,
            now + self._init_expire if self._init_expire else never,
        )
        destination.load += 1
        return True

    def replace(self, call_id: str, duid: str, now: float) -> bool | None:
        """Count a call for another destination of its set: whether that went well, None when there is no such one."""
        call = self._calls.get(call_id)
        one = self._find(call.setid) if call is not None else None
        if call is None or one is None or not duid:
            log.error("no load is counted for %s", call_id)
            return False
        new = one.find_duid(duid)
        if new is None:
            log.error("set %d has no destination %s", one.id, duid)
            return None
        del self._calls[call_id]
        self._release(call)
        return self.add(call_id, new, now)

    def remove(self, call_id: str) -> bool:
        """Count a call no more; False when it was not counted."""
        call = self._calls.get(call_id)
        if call is None:
            log.error("no load is counted for %s", call_id)
            return False
        if not self._release(call):
            return False
        del self._calls[call_id]
        return True

    def _release(self, call: _Call) -> bool:
        one = self._find(call.setid)
        destination = one.find_duid(call.duid) if one is not None else None
        if destination is None:
            log.error("set %d has no destination %s any more", call.setid, call.duid)
            return False
        destination.load = max(destination.load - 1, 0)
        return True

    def confirm(self, call_id: str) -> None:
        """Take note that the call was answered."""
        call = self._calls.get(call_id)
        if call is not None:
            call.confirmed = True

    def sweep(self, now: float) -> None:
        """Count no more what has expired."""
        for call_id, call in list(self._calls.items()):
            if call.expires < now or (not call.confirmed and call.init_expires < now):
                del self._calls[call_id]
                self._release(call)
