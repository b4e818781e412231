"""Versions of the routing logic: the scripts of all engines that were loaded together.

A message is routed by one version from its first block to its last: the router writes it into what the blocks of a transaction
share (``Shared.version``), and the dialog module into the dialog. So a version is there for as long as something refers to it,
and no longer.
"""

from __future__ import annotations

from collections.abc import Mapping

from polykemi.engines.base import Script


class Version:
    """One state of the routing logic."""

    __slots__ = ("__weakref__", "findings", "heir", "loaded", "number", "scripts")

    def __init__(self, number: int, scripts: Mapping[str, Script], loaded: float) -> None:
        self.number = number  # from 1 on
        self.scripts = scripts  # by engine
        self.loaded = loaded  # seconds since the epoch
        self.findings: frozenset[str] = frozenset()  # what is wrong in the scripts, and was let pass
        self.heir: Version | None = None  # whose scripts these are, when there were too many versions
