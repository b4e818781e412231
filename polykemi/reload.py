"""Changing the scripts of a running server: a new version is loaded beside the one that runs, looked through, tried, and takes over
between two messages. When anything is wrong with it, nothing changes.
"""

from __future__ import annotations

import gc
import logging
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from polykemi.config import Settings
from polykemi.engines.base import Engine, Script
from polykemi.errors import ScriptLoadError
from polykemi.kemi.inspection import Finding
from polykemi.kemi.route import Route
from polykemi.router import Router
from polykemi.transaction.forking import Transaction
from polykemi.versions import Version

log = logging.getLogger("polykemi.reload")

_QUICK: Final = 200_000  # objects that the collector looks at within some 30 ms
MOST: Final = 64  # versions at a time; the oldest one's calls go on with the current one when there would be more


class NoVersion(LookupError):
    """A version that is not kept (any more)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a reload, or its rehearsal, has found."""

    version: int  # that runs now
    findings: tuple[str, ...] = ()  # with their places: what the version before had too, or was let in by force
    smoke: tuple[str, ...] = ()  # start lines of what the smoke message made the new version send


class Versions:
    """The versions of one server. The current one is in ``Router.version``."""

    def __init__(
        self,
        router: Router,
        engines: Mapping[str, Engine],
        settings: Callable[[], Settings],
        inspect: Callable[[Version], list[Finding]],
        *,
        keep: int = 5,
        rehearse: Callable[[], tuple[str, ...]] | None = None,
    ) -> None:
        """``settings`` tells of the scripts' files and which blocks each runs. ``keep``: how many versions stay for ``rollback``, the
        current one included.

        ``inspect`` tells what is wrong in a version that was loaded, ``rehearse`` tries the files with a smoke message in a
        server of their own and returns the start lines of what it sends; it raises ScriptLoadError.
        """
        self._settings = settings
        self.rehearse = rehearse
        self._router, self._engines, self._inspect = router, engines, inspect
        self._number = 0  # of the last version that took over
        self._kept: deque[Version] = deque(maxlen=max(1, keep))  # the newest last
        # versions that something refers to, or did at the last look, and the scripts to be closed behind them. No weakref.finalize:
        # it would keep these, and with them the engines and the whole server, for as long as the process runs
        self._alive: list[tuple[weakref.ref[Version], Mapping[str, Script]]] = []

    @property
    def current(self) -> int:
        """The number of the version that routes what begins now."""
        return self._router.version.number

    def files(self) -> dict[str, Path]:
        """Return the files that the next version is loaded from, by engine."""
        return {one.name: one.script for one in self._settings().engines}

    def inspect(self) -> list[Finding]:
        """Return what is wrong in the current version."""
        return self._inspect(self._router.version)

    # ---- a new version
    def begin(self, now: float) -> list[Finding]:
        """Load the first version, at ``now`` (seconds since the epoch); return what is wrong in it. Raise ScriptLoadError."""
        version = self._load(now)
        findings = self._inspect(version)
        version.findings = frozenset(one.text for one in findings)
        self._take(version)
        return findings

    def reload(self, now: float, *, dry_run: bool = False, force: bool = False) -> Outcome:
        """Load the files anew and let them take over; with ``dry_run`` only see whether they could.

        Raise ScriptLoadError for what does not load, for calls of functions and handlers that are not there and that the
        current version does not have too (unless ``force``), and for a smoke message that fails; nothing changes then.
        """
        services = self._router.services
        if place := self._router.where():
            raise ScriptLoadError(place, None, "a script cannot let itself be loaded anew")
        try:
            smoke = self.rehearse() if self.rehearse is not None else ()
            version = self._load(now)
            try:
                findings = self._check(version, force=force)
            except BaseException:
                _close(version.scripts)
                raise
        except ScriptLoadError as error:
            if not dry_run:
                services.count("app.failed_reloads")
                log.error("reload: version %d goes on: %s", self._router.version.number, error)
            raise
        if dry_run:
            _close(version.scripts)
            return Outcome(self._router.version.number, findings, smoke)
        self._take(version)
        services.count("app.reloads")
        log.info("reload: version %d", version.number)
        return Outcome(version.number, findings, smoke)

    def _load(self, now: float) -> Version:
        """Load all scripts; none of them runs yet. Raise ScriptLoadError."""
        scripts: dict[str, Script] = {}
        try:
            for name, path in self.files().items():
                scripts[name] = self._engines[name].load(path)
            version = Version(self._number + 1, scripts, self._settings().routes, now)
            self._must_answer_requests(version)
        except BaseException:
            _close(scripts)
            raise
        return version

    def _must_answer_requests(self, version: Version) -> None:
        """Refuse a script without a request route: every request would stay without an answer. Raise ScriptLoadError."""
        callback = self._router.services.callbacks.request
        if not self._router.defines(Route.REQUEST, callback, version):
            script = version.scripts[version.routes.engine_for(Route.REQUEST, callback)]
            raise ScriptLoadError(str(script.path), None, f"defines no function {callback}")

    def _check(self, version: Version, *, force: bool) -> tuple[str, ...]:
        """Return what is wrong in ``version``. Raise ScriptLoadError when some of it is new."""
        findings = self._inspect(version)
        fresh = [one for one in findings if one.text not in self._router.version.findings]
        if fresh and not force:
            more = f" (and {len(fresh) - 1} more: polykemi check)" if len(fresh) > 1 else ""
            raise ScriptLoadError(str(fresh[0].file), fresh[0].line, f"{fresh[0].text}{more}")
        version.findings = frozenset(one.text for one in findings)
        return tuple(map(str, findings))

    def _take(self, version: Version) -> None:
        self.sweep()
        self._number = version.number
        self._kept.append(version)
        self._alive.append((weakref.ref(version), version.scripts))
        self._router.take(version)
        self._bound()

    def _bound(self) -> None:
        """Let the calls of the oldest version go on with the current one when there are too many."""
        current = self._router.version
        while len(alive := list(self.alive())) > MOST:
            oldest = next(one for one in alive if one is not current)
            log.warning(
                "version %d: there are %d: its calls go on with version %d", oldest.number, MOST, current.number
            )
            _close(oldest.scripts)
            oldest.leave_to(current)
            self._alive = [one for one in self._alive if one[0]() is not oldest]

    # ---- those that there are
    def rollback(self, number: int | None = None) -> int:
        """Let an earlier version route again what begins from now on: the one before, or ``number``. Raise NoVersion."""
        current = self._router.version
        if number is None:
            earlier = [one for one in self._kept if one.number < current.number]
            if not earlier:
                raise NoVersion("there is no earlier version")
            version = max(earlier, key=lambda one: one.number)
        else:
            found = next((one for one in self._kept if one.number == number), None)
            if found is None:
                kept = ", ".join(str(one.number) for one in self._kept)
                raise NoVersion(f"no version {number}; kept: {kept}")
            version = found
        if version is current:
            raise NoVersion(f"version {number} is the current one")
        self._router.take(version)
        self._router.services.count("app.rollbacks")
        log.warning("rollback: version %d takes over from version %d", version.number, current.number)
        return version.number

    def alive(self) -> Iterator[Version]:
        """Give all versions that something refers to, the oldest first."""
        return (version for ref, _ in self._alive if (version := ref()) is not None)

    def rows(self) -> list[dict[str, Any]]:
        """Return what an operator wants to know of each version: when it was loaded, who is in it."""
        transactions, dialogs = self._users()
        calls = Counter(map(id, self._router.calls))
        current = self._router.version
        return [
            {
                "version": one.number,
                "state": "current" if one is current else "kept" if one in self._kept else "ending",
                "loaded": one.loaded,
                "transactions": transactions[id(one)],
                "calls": calls[id(one)],
                "dialogs": dialogs[id(one)],
                "scripts": " ".join(f"{name}:{script.path}" for name, script in one.scripts.items()),
            }
            for one in self.alive()
        ]

    def _users(self) -> tuple[Counter[int], Counter[int]]:
        """Return how many transactions and dialogs each version has, by its id()."""
        modules = self._router.services.modules
        tm, dialog = modules.get("tm"), modules.get("dialog")
        servers = set(tm.layer.server_transactions()) if tm is not None else ()
        return (
            Counter(id(one.version) for one in servers if isinstance(one, Transaction)),
            Counter(id(one.version) for one in dialog.table) if dialog is not None else Counter(),
        )

    def sweep(self) -> None:
        """Close the scripts of versions that have ended; called between two messages."""
        ended = [scripts for ref, scripts in self._alive if ref() is None]
        if ended:
            self._alive = [one for one in self._alive if one[0]() is not None]
            for scripts in ended:
                _close(scripts)
            del scripts, ended
            _collect()


def _collect() -> None:
    """Free what ended Python scripts leave behind: their functions and modules refer to each other.

    The collector hardly ever looks at everything, as messages leave no cycles. Where that would take long it is left to it.
    """
    if len(gc.get_objects()) < _QUICK:
        gc.collect()


def _close(scripts: Mapping[str, Script]) -> None:
    for script in scripts.values():
        script.close()
