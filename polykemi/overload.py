"""Overload: how far behind the server is, and the part of the new requests that is refused because of it.

The server looks ten times a second (``BEAT``) at what waits; nothing is measured for a message. The part that is refused
rises as long as messages wait too long or get lost, and falls slowly when they do not: what stays is what can be done,
as in the loss-based control of RFC 7339, on ourselves.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from polykemi.live import live

log = logging.getLogger("polykemi.overload")

BEAT: Final = 0.1  # seconds between two looks
_LOOKS: Final = 3  # in a row that are no accident
_RISE: Final = 1.0  # how much more of the new requests is refused after a second of overload
_FALL: Final = 0.3  # how much less after a second without
_STALL: Final = 0.3  # seconds between two looks that count at most
_OVER: Final = 1.0  # seconds without a refusal end an episode
_LOST: Final = 2.0  # lost messages weigh as much as a wait of so many times ``delay``
_URGENT: Final = "urn:service:sos"  # calls for help are never refused (RFC 7339 section 5.10.1)


@dataclass(frozen=True, slots=True)
class OverloadLimits:
    """The table ``[overload]``."""

    delay: float = live(
        0.5, "seconds that messages may wait before new requests are refused; 0: they may wait for ever"
    )
    transactions: int = live(200_000, "open ones, of both sides; 0: no limit")
    memory: int | None = live(None, "octets that the process may have; 0: no limit; default: most of the machine's")
    retry_after: int = live(5, "seconds; who is refused is told to come back after one to two times as many")

    def __post_init__(self) -> None:
        for key in ("delay", "transactions", "memory", "retry_after"):
            if not (getattr(self, key) or 0) >= 0:  # nan too
                raise ValueError(f"{key}: expected 0 or more, got {getattr(self, key)}")


class Overload:
    """Decides which new requests are refused. ``level`` is the part of them, 0.0 to 1.0; it changes with each ``beat``."""

    def __init__(self, limits: OverloadLimits, memory: int = 0) -> None:
        """``memory``: octets that the process may have where ``limits`` do not say; 0: no limit."""
        self.limits = limits
        self._memory = memory
        self.level = 0.0
        self.refused = 0  # requests, in all
        self.episodes = 0
        self.is_out_of_memory = False
        self._part = 0.0  # that part of them which the waiting is the reason for
        self._late = 0  # looks in a row at which messages waited too long
        self._due = 0.0  # of the next refusal: it is refused at 1.0
        self._looked_at = 0.0
        self._began = 0.0  # the episode, 0: none
        self._refused_before = 0  # the episode, or a while ago
        self._refused_at = 0.0

    @property
    def memory(self) -> int:
        """Octets that the process may have; 0: no limit."""
        return self._memory if self.limits.memory is None else self.limits.memory

    def beat(self, waited: float, lost: int, transactions: int, memory: int, now: float) -> None:
        """Look: messages that are taken now have ``waited`` so many seconds, ``lost`` had no room since the last look.

        ``memory``: octets that the process has.

        Less than three looks raise nothing: after a pause (a script that waited for DNS) all is done quickly.
        """
        limits = self.limits
        elapsed, self._looked_at = min(max(now - self._looked_at, 0.0), _STALL), now
        if limits.delay:
            pressure = max(waited / limits.delay, _LOST if lost else 0.0)
            self._late = self._late + 1 if pressure > 1 else 0
            if not self._late:
                self._part = max(0.0, self._part - _FALL * elapsed)
            elif self._late >= _LOOKS:
                self._part = min(1.0, self._part + _RISE * elapsed * min(pressure - 1, 1.0))
        self.is_out_of_memory = 0 < self.memory <= memory
        is_full = 0 < limits.transactions <= transactions
        self.level = 1.0 if is_full or self.is_out_of_memory else self._part
        if self.level or self._began:
            if self.is_out_of_memory:
                why = f"{memory >> 20} MiB of memory are in use"
            elif is_full:
                why = f"{transactions} transactions are open"
            else:
                why = f"messages wait {waited:.2f} s, {lost} are lost"
            self._tell(why, now)

    def _tell(self, why: str, now: float) -> None:
        """Write one line when an episode begins and one when it is over."""
        if self.level:
            self._refused_at = now
            if not self._began:
                self._began, self._refused_before = now, self.refused
                self.episodes += 1
                log.warning("overload: %s; new requests are refused with 503", why)
        elif now - self._refused_at >= _OVER:
            lasted = self._refused_at - self._began
            log.warning(
                "overload is over after %.1f s: %d requests refused", lasted, self.refused - self._refused_before
            )
            self._began = 0.0

    def refuses(self, ruri: str) -> bool:
        """Tell whether a new request to ``ruri`` is refused, so that it is ``level`` of all."""
        self._due += self.level
        if self._due < 1.0 or ruri[: len(_URGENT)].lower() == _URGENT:
            return False
        self._due -= 1.0
        self.refused += 1
        return True

    def retry_after(self) -> int:
        """Return the seconds for Retry-After: not the same for all, so that they do not come back at the same time."""
        return self.limits.retry_after + self.refused % (self.limits.retry_after + 1)
