"""tm: who is told of what becomes of a transaction (Kamailio: the callbacks of tm, TMCB_...). Part of tm."""

from __future__ import annotations

from typing import ClassVar

from polykemi.sip.message import Edits, Response
from polykemi.transaction.forking import Branch, Transaction


class Watcher:
    """Watches transactions: a module gives one to ``watch`` when a transaction begins (``Relayer.on_request_in``)."""

    keeps_request: ClassVar[bool] = False  # whether it reads the request when more 2xx come, after all is decided

    def received(self, t: Transaction, response: Response, edits: Edits, now: float) -> None:
        """Take a response of a branch, before its route blocks; what is put into ``edits`` goes upstream."""

    def replied(self, t: Transaction, status: int, data: bytes, reply: Response | None, now: float) -> None:
        """Take the news that ``data`` went upstream; ``reply`` is the response that was forwarded, None for one of ours."""

    def failed(self, t: Transaction, best: Branch, now: float) -> None:
        """Take the news that all branches have failed; the failure route has not run yet."""


def watch(t: Transaction, watcher: Watcher) -> None:
    """Let ``watcher`` be told of ``t``."""
    if watcher not in t.watchers:
        t.watchers = [*t.watchers, watcher]


def winner(t: Transaction, status: int) -> Branch | None:
    """Return the branch whose final response with ``status`` is the transaction's, None for a reply of our own."""
    for branch in t.branches:
        if branch.status == status:
            return branch
    return t.best() if status >= 300 else None
