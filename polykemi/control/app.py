"""The commands about the scripts: ``app``, and Kamailio's ``app_lua``, ``app_jsdt`` and ``app_python`` for the same."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any, Final

from polykemi.errors import RpcError, ScriptLoadError
from polykemi.kemi.rpc import rpc
from polykemi.reload import NoVersion, Versions

_DRY_RUN: Final = "--dry-run"
_FORCE: Final = "--force"


class App:
    """The versions of the scripts. All engines change together, so the commands of one engine do what ``app.reload`` does."""

    def __init__(self, versions: Versions, engines: Collection[str]) -> None:
        """``engines``: those that have a script."""
        self._versions, self._engines = versions, engines

    @rpc("app.reload")
    def reload(self, *options: str, now: float) -> dict[str, Any]:
        """Load all scripts anew; they take over when they are in order.

        --dry-run: only see whether they are. --force: also with calls of functions and handlers that are not there.
        """
        given = [one if one.startswith("-") else f"--{one}" for one in options]
        for one, option in zip(options, given, strict=True):
            if option not in (_DRY_RUN, _FORCE):
                raise RpcError(400, f"expected {_DRY_RUN} or {_FORCE}, got {one}")
        try:
            outcome = self._versions.reload(now, dry_run=_DRY_RUN in given, force=_FORCE in given)
        except ScriptLoadError as error:
            raise RpcError(500, str(error)) from None
        answer: dict[str, Any] = {"version": outcome.version, "reloaded": "no" if _DRY_RUN in given else "yes"}
        if outcome.findings:
            answer["findings"] = list(outcome.findings)
        if outcome.smoke:
            answer["smoke"] = list(outcome.smoke)
        return answer

    @rpc("app.versions")
    def versions(self) -> list[dict[str, Any]]:
        """List the versions: the current one, those kept for a rollback, those that calls began with; and how many do so."""
        return [row | {"loaded": time.ctime(row["loaded"])} for row in self._versions.rows()]

    @rpc("app.rollback")
    def rollback(self, version: int = 0) -> dict[str, Any]:
        """Let an earlier version take over: the one before, or ``version``."""
        try:
            return {"version": self._versions.rollback(version or None)}
        except NoVersion as error:
            raise RpcError(404, str(error)) from None

    @rpc("app_lua.reload")
    def reload_lua(self, *, now: float) -> dict[str, Any]:
        """Load all scripts anew, as app.reload."""
        return self._reload("lua", now)

    @rpc("app_jsdt.reload")
    def reload_js(self, *, now: float) -> dict[str, Any]:
        """Load all scripts anew, as app.reload."""
        return self._reload("js", now)

    @rpc("app_python.reload")
    def reload_python(self, *, now: float) -> dict[str, Any]:
        """Load all scripts anew, as app.reload."""
        return self._reload("python", now)

    def _reload(self, engine: str, now: float) -> dict[str, Any]:
        if engine not in self._engines:
            raise RpcError(404, f"[engines] names no script for {engine}")
        old = self._versions.current
        return {"old": old, "new": self.reload(now=now)["version"]}
