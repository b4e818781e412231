"""What an operator asks sl: which replies were sent statelessly (Kamailio: the RPC command sl.stats). Part of sl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from polykemi.kemi.rpc import rpc

_NAMES: Final = (
    *("200", "202", "2xx", "300", "301", "302", "3xx", "400", "401", "403", "404", "407", "408", "483", "4xx"),
    *("500", "5xx", "6xx", "xxx"),
)


class SlCommands:
    """The command."""

    def __init__(self, counters: Mapping[str, int]) -> None:
        """``counters``: ``group.name`` -> number."""
        self._counters = counters

    @rpc("sl.stats")
    def stats(self) -> dict[str, int]:
        """Count the stateless replies by status; 2xx are those of its class that are not counted alone."""
        return {name: self._counters.get(f"sl.{name}_replies", 0) for name in _NAMES}
