"""Versions of the routing logic: the scripts of all engines that were loaded together, and which of them runs which block.

A message is routed by one version from its first block to its last: the router writes it into what the blocks of a transaction
share (``Shared.version``), the dialog module into the dialog, and ``calls.py`` notes it for calls without one. So a version is
there for as long as something refers to it, and no longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol
from weakref import WeakSet

from polykemi.engines.base import Script
from polykemi.kemi.route import Route
from polykemi.kemi.route_stats import BlockStats


class RouteTable(Protocol):
    """Which engine runs which route block (``config.RouteSettings``)."""

    def engine_for(self, kind: Route, callback: str) -> str:
        """Return the name of the engine that runs ``callback`` as a block of ``kind``."""


class Version:
    """One state of the routing logic."""

    __slots__ = ("__weakref__", "_left_to_us", "blocks", "findings", "heir", "loaded", "number", "routes", "scripts")

    def __init__(self, number: int, scripts: Mapping[str, Script], routes: RouteTable, loaded: float) -> None:
        self.number = number  # from 1 on
        self.scripts = scripts  # by engine
        self.routes = routes
        self.loaded = loaded  # seconds since the epoch
        self.blocks: dict[tuple[int, str], BlockStats] = {}  # by kind and callback: those that were asked for
        self.findings: frozenset[str] = frozenset()  # what is wrong in the scripts, and was let pass
        self.heir: Version | None = None  # whose scripts these are, when there were too many versions
        self._left_to_us: WeakSet[Version] = WeakSet()  # whose heir this is

    def leave_to(self, heir: Version) -> None:
        """Route as another version does from now on; so do those that were left to this one."""
        for one in (self, *self._left_to_us):
            one.scripts, one.routes, one.blocks, one.heir = heir.scripts, heir.routes, heir.blocks, heir
            heir._left_to_us.add(one)
