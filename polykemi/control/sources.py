"""What metrics are read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from polykemi.engines.base import Engine
from polykemi.kemi.probes import Probes
from polykemi.router import Router
from polykemi.transport.manager import Transports


@dataclass(frozen=True, slots=True)
class Sources:
    """The parts of one server that are watched; without ``transports`` there is nothing to be seen of sockets."""

    router: Router
    engines: Mapping[str, Engine]
    probes: Probes
    transports: Transports | None = None
