"""cfgutils: locks, chance, pauses, hashes, and what a developer wants to see (Kamailio: modules/cfgutils)."""

from __future__ import annotations

import logging
import random
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from polykemi.errors import RpcError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.hashes import core_hash
from polykemi.kemi.registry import export
from polykemi.kemi.rpc import rpc
from polykemi.modules.base import Module, Services
from polykemi.pv.accessor import Factory
from polykemi.pv.classes.factories import plain

log = logging.getLogger("polykemi.script")

_LARGEST_SET: Final = 14
_LARGEST_RANDOM: Final = 2**31 - 1
_LONGEST_PAUSE: Final = 1.0  # seconds
_FAILED: Final = 500


@dataclass(frozen=True, slots=True)
class CfgutilsParams:
    """Kamailio's names and defaults: the probability of ``rand_event`` in percent, and the power of two of locks (0: none)."""

    initial_probability: int = 10
    lock_set_size: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.initial_probability <= 100:
            raise ValueError(f"initial_probability: expected 0 to 100, got {self.initial_probability}")
        if self.lock_set_size < 0:
            raise ValueError(f"lock_set_size: expected 0 to {_LARGEST_SET}, got {self.lock_set_size}")


class Cfgutils(Module):
    """Tools of scripts."""

    name = "cfgutils"
    Params = CfgutilsParams

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self.probability: int = self.params.initial_probability
        size = self.params.lock_set_size
        self._locks = 1 << min(size, _LARGEST_SET) if size else 0
        self._held: set[int] = set()

    def pv_classes(self) -> Mapping[str, Factory]:
        """Return $RANDOM, a number from 0 to 2147483647."""
        return {"RANDOM": plain(lambda ctx: random.randint(0, _LARGEST_RANDOM))}

    # ---- locks
    @export()
    def lock(self, ctx: RouteContext, key: str) -> int:
        """Take the lock of ``key``. Answers 1, or -1 when there are none (parameter ``lock_set_size``).

        A route block runs without others beside it: one that is held was never released, and is taken over.
        """
        return self._lock(key)

    @export()
    def unlock(self, ctx: RouteContext, key: str) -> int:
        """Release the lock of ``key``. Answers 1, or -1 when there are none."""
        return self._unlock(key)

    @export()
    def trylock(self, ctx: RouteContext, key: str) -> int:
        """Take the lock of ``key`` if nobody has it. Answers 1 or -1."""
        return self._trylock(key)

    @export()
    def lock_key2(self, ctx: RouteContext, key: str, key2: str) -> int:
        """Do what ``lock`` does with two keys as one."""
        return self._lock(key, key2)

    @export()
    def unlock_key2(self, ctx: RouteContext, key: str, key2: str) -> int:
        """Do what ``unlock`` does with two keys as one."""
        return self._unlock(key, key2)

    @export()
    def trylock_key2(self, ctx: RouteContext, key: str, key2: str) -> int:
        """Do what ``trylock`` does with two keys as one."""
        return self._trylock(key, key2)

    def _place(self, keys: tuple[str, ...]) -> int:
        """Return which lock it is, -1 when there are none. Several keys share one, as in Kamailio."""
        if not self._locks:
            log.error("cfgutils: no locks: set the parameter lock_set_size (attempt on %r)", keys[0])
            return -1
        texts = [key.encode("latin-1").lower() for key in keys if key or key is keys[0]]
        return core_hash(*texts) & (self._locks - 1)

    def _lock(self, *keys: str) -> int:
        place = self._place(keys)
        if place < 0:
            return -1
        if place in self._held:
            log.warning("cfgutils: the lock of %r was not released", keys[0])
        self._held.add(place)
        return 1

    def _unlock(self, *keys: str) -> int:
        place = self._place(keys)
        self._held.discard(place)
        return 1 if place >= 0 else -1

    def _trylock(self, *keys: str) -> int:
        place = self._place(keys)
        if place < 0 or place in self._held:
            return -1
        self._held.add(place)
        return 1

    # ---- chance
    @export()
    def rand_set_prob(self, ctx: RouteContext, percent: int) -> int:
        """Set the probability of ``rand_event``. Answers 1."""
        self.probability = percent
        return 1

    @export()
    def rand_reset_prob(self, ctx: RouteContext) -> int:
        """Set the probability back to the parameter ``initial_probability``. Answers 1."""
        self.probability = self.params.initial_probability
        return 1

    @export()
    def rand_get_prob(self, ctx: RouteContext) -> int:
        """Return the probability in percent."""
        return self.probability

    @export()
    def rand_event(self, ctx: RouteContext) -> int:
        """Answer 1 with the set probability, else -1."""
        return 1 if self.probability and random.random() * 100 < self.probability else -1

    @rpc("cfgutils.rand_set_prob", (500, "Invalid Parameters"))
    def set_probability(self, percent: int) -> None:
        """Set the probability of rand_event, 0 to 100."""
        if not 0 <= percent <= 100:
            raise RpcError(_FAILED, "Invalid Percent")
        self.probability = percent

    @rpc("cfgutils.rand_reset_prob")
    def reset_probability(self) -> None:
        """Set the probability of rand_event back to the parameter."""
        self.probability = self.params.initial_probability

    @rpc("cfgutils.rand_get_prob")
    def get_probability(self) -> str:
        """Return the probability of rand_event."""
        return f"actual probability: {self.probability} percent"

    # ---- pauses
    @export()
    def sleep(self, ctx: RouteContext, seconds: int) -> int:
        """Do nothing for some seconds, at most one: everything waits. Answers 1."""
        return self._pause(seconds)

    @export()
    def usleep(self, ctx: RouteContext, microseconds: int) -> int:
        """Do nothing for some microseconds, at most a million: everything waits. Answers 1."""
        return self._pause(microseconds / 1e6)

    def _pause(self, seconds: float) -> int:
        if seconds > _LONGEST_PAUSE:
            log.warning("cfgutils: a pause of %g s would hold up every call: it is made %g s", seconds, _LONGEST_PAUSE)
        self.services.pause(max(0.0, min(seconds, _LONGEST_PAUSE)))
        return 1

    # ---- hashes
    @export()
    def core_hash(self, ctx: RouteContext, text: str, more: str, size: int) -> int:
        """Return the hash of one text or two as 1 to 2 ** ``size``; 1 or 2 for a size of 0 and below.

        Of ``size`` the last five bits count, as where Kamailio runs.
        """
        texts = [one.encode("latin-1") for one in (text, more) if one or one is text]
        return (core_hash(*texts) & ((1 << (size & 31) if size > 0 else 2) - 1)) + 1

    # ---- routes
    @export()
    def check_route_exists(self, ctx: RouteContext, name: str) -> int:
        """Tell whether kamailio.cfg has the route block ``name``. Answers -1: there is no kamailio.cfg."""
        log.debug("cfgutils.check_route_exists: there are no native route blocks, so no %r", name)
        return -1

    @export()
    def route_if_exists(self, ctx: RouteContext, name: str) -> int:
        """Run the route block ``name`` of kamailio.cfg. Answers -1: there is no kamailio.cfg."""
        log.debug("cfgutils.route_if_exists: there are no native route blocks, so no %r", name)
        return -1

    # ---- the process
    @export()
    def abort(self, ctx: RouteContext) -> int:
        """End the server at once, with a core dump where the system makes one."""
        log.critical("abort called")
        self.services.abort()
        return 0

    @export()
    def pkg_status(self, ctx: RouteContext) -> int:
        """Write to the log how much memory the process uses. Answers 1."""
        return _log_memory("pkg")

    @export()
    def shm_status(self, ctx: RouteContext) -> int:
        """Write to the log how much memory the process uses: there is no shared one. Answers 1."""
        return _log_memory("shm")

    @export()
    def pkg_summary(self, ctx: RouteContext) -> int:
        """Write to the log how much memory the process uses. Answers 1."""
        return _log_memory("pkg")

    @export()
    def shm_summary(self, ctx: RouteContext) -> int:
        """Write to the log how much memory the process uses: there is no shared one. Answers 1."""
        return _log_memory("shm")


def _log_memory(asked: str) -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    log.info(
        "cfgutils: %s memory: the process used up to %d kB; %d blocks of Python", asked, most, sys.getallocatedblocks()
    )
    return 1
