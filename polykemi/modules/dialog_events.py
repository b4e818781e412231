"""Who is told of what happens to dialogs: the script in event route blocks, other modules by calls. Part of dialog."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from polykemi.kemi.context import RouteContext
from polykemi.kemi.faked import event_context
from polykemi.kemi.route import Route
from polykemi.modules.base import Module, Services
from polykemi.modules.dialog_params import DialogParams
from polykemi.modules.dialog_state import CONFIRMED, CONFIRMED_NA, DELETED, EARLY, UNCONFIRMED, Dialog
from polykemi.sip.flow import Flow
from polykemi.sip.message import Message


class DialogEvents(Module):
    """Tells of dialogs; what happens to them is in ``dialog_tracking``."""

    Params = DialogParams
    params: DialogParams

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        # told of what happens: created, confirmed (answered), ended, failed, expired; by which message
        self.on_change: list[Callable[[Dialog, str, RouteContext | None, float], None]] = []

    def _tell(self, dialog: Dialog, what: str, ctx: RouteContext | None, now: float) -> None:
        for call in self.on_change:
            call(dialog, what, ctx, now)

    def _event(
        self, dialog: Dialog, before: int, after: int, message: Message | None, flow: Flow | None, now: float
    ) -> None:
        """Queue the block of a change of state; Kamailio calls those that have no name of their own ``unknown``."""
        if before == after or not self.params.event_callback:
            return
        name = "unknown"
        if after == CONFIRMED_NA:
            name = "dialog:start"
        elif after == DELETED and before in (CONFIRMED, CONFIRMED_NA):
            name = "dialog:end"
        elif after == DELETED and before in (UNCONFIRMED, EARLY):
            name = "dialog:failed"
        self._queue(dialog, name, message, flow, now)

    def _queue(self, dialog: Dialog, name: str, message: Message | None, flow: Flow | None, now: float) -> None:
        callback = self.params.event_callback
        if not callback:
            return
        if message is None or flow is None:
            ctx = self._faked(dialog, name, now)
        else:
            ctx = RouteContext(Route.EVENT, callback, message, flow, now)
            ctx.event = name
            ctx.shared.dialog, ctx.shared.version = dialog, dialog.version
        self.services.events.append(ctx)

    def _faked(self, dialog: Dialog, name: str, now: float) -> RouteContext:
        """Return a context of ``dialog`` without a message of its own."""
        ctx = event_context(self.params.event_callback, name, self.services.listeners[0], now)
        ctx.shared.dialog, ctx.shared.version = dialog, dialog.version
        return ctx
