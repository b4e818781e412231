"""tm: what a route sets for a transaction that does not exist yet. Part of tm."""

from __future__ import annotations

from polykemi.transaction.layer import TransactionLayer
from polykemi.transaction.machine import Timings


class Settings:
    """Blocks, timers and switches."""

    __slots__ = (
        "auto_inv_100",
        "disable_6xx",
        "disable_failover",
        "fr",
        "fr_inv",
        "max_inv",
        "max_noninv",
        "no_e2e_cancel_reason",
        "no_internal_reply",
        "retr1",
        "retr2",
        "routes",
    )

    def __init__(self) -> None:
        self.routes: dict[str, str] = {}  # on_branch, on_failure, on_reply, on_branch_failure -> callback
        self.fr = self.fr_inv = self.retr1 = self.retr2 = 0  # milliseconds, 0: the parameter's
        self.max_inv = self.max_noninv = -1  # milliseconds, -1: the parameter's, 0: no limit
        self.auto_inv_100 = -1  # -1: the parameter's
        self.disable_6xx = False
        self.disable_failover = False
        self.no_internal_reply = False
        self.no_e2e_cancel_reason = False


class RouteTimings:
    """The timers of transactions whose routes have set them."""

    def __init__(self, layer: TransactionLayer) -> None:
        self._layer = layer
        self._timings: dict[tuple[int, int, int, int], Timings] = {}

    def of(self, settings: Settings) -> Timings:
        """Return the timings with what a route has set; the same object for the same values."""
        key = (settings.fr, settings.fr_inv, settings.retr1, settings.retr2)
        timings = self._timings.get(key)
        if timings is None:
            base = self._layer.timings
            timings = Timings(
                t1=settings.retr1 / 1000 or base.t1,
                t2=settings.retr2 / 1000 or base.t2,
                t4=base.t4,
                fr=settings.fr / 1000 or base.fr,
                fr_inv=settings.fr_inv / 1000 or base.fr_inv,
            )
            if len(self._timings) < 256:  # values come from scripts and may be computed
                self._timings[key] = timings
        return timings

    def forget(self) -> None:
        """Work out anew what a route's timers are: what they are by default has changed."""
        self._timings.clear()
