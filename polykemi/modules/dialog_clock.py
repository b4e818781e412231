"""What the clock does to dialogs: they expire, are asked whether their sides are still there, and end. Part of dialog."""

from __future__ import annotations

import logging
from typing import Any, Final

from polykemi.errors import ParseError
from polykemi.modules.base import Services
from polykemi.modules.dialog_events import DialogEvents
from polykemi.modules.dialog_profiles import Profiles, profile_names
from polykemi.modules.dialog_requests import header_lines, within
from polykemi.modules.dialog_state import (
    CALLEE,
    CALLER,
    CONFIRMED,
    CONFIRMED_NA,
    DELETED,
    EARLY,
    FLAG_CALLEE_BYE,
    FLAG_CALLER_BYE,
    FLAG_CHANGED,
    FLAG_EXPIRED,
    IFLAG_KA_DST,
    IFLAG_KA_SRC,
    IFLAG_TIMEOUT_BYE,
    REQ_BYE,
    Dialog,
    DialogTable,
)
from polykemi.modules.dialog_storage import DialogStore
from polykemi.modules.tm_local import LocalReply

log = logging.getLogger("polykemi.dialog")

LINGER: Final = 5.0  # seconds for which an ended dialog still knows its late messages
_TICK: Final = 1.0
_AFTER_FAILURE: Final = 10  # seconds that a dialog has left whose side does not answer, or whose ACK does not come


class DialogClock(DialogEvents):
    """The dialogs of one server, and what becomes of them when nobody sends anything."""

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        p = self.params
        self.table = DialogTable(p.hash_size, p.h_id_start, p.h_id_step, self._over)
        self.profiles = Profiles(
            profile_names("profiles_with_value", p.profiles_with_value),
            profile_names("profiles_no_value", p.profiles_no_value),
        )
        self.now = 0.0  # seconds since the epoch, as it was seen last
        self.store = DialogStore(services.database, services.listeners, services.commits) if p.db_mode else None
        self.to_end: list[Dialog] = []  # an operator wants them to end
        for name in ("active", "early", "processed", "expired", "failed"):
            services.counters.setdefault(f"dialog.{name}_dialogs", 0)

    def changed(self, dialog: Dialog) -> None:
        """Write a dialog that was answered into the database, when it is to be there."""
        if self.store is not None and dialog.is_live:
            self.store.save(dialog)

    def put_state(self, dialog: Dialog, state: int, now: float) -> None:
        """Set the state of a dialog as if it had come to it by itself."""
        if state == DELETED and dialog.is_live:
            self.services.count("dialog.active_dialogs", -1)
        dialog.state = state
        if state == DELETED:
            self._end(dialog, now)

    # ---- it ends
    def _over(self, call_id: str) -> None:
        self.services.call_is_over(call_id)  # the router's, which comes after the modules

    def _end(self, dialog: Dialog, now: float) -> None:
        dialog.ended = now
        self.profiles.leave_all(dialog)
        if self.store is not None and dialog.started:
            self.store.remove(dialog)
        self.table.schedule(dialog, now + LINGER)

    def bye(self, dialog: Dialog, legs: tuple[int, ...], now: float, headers: str = "") -> bool:
        """Send a BYE to each of ``legs`` that has not got one; when the first is answered, the dialog ends."""
        sent = True
        for leg in legs:
            flag = FLAG_CALLER_BYE if leg == CALLER else FLAG_CALLEE_BYE
            if len(legs) == 1 and dialog.dflags & flag:
                return False
            dialog.dflags |= flag
            sent = self._send_bye(dialog, leg, now, headers) and sent
        self._event(dialog, dialog.state, DELETED, None, None, now)
        return sent

    def _send_bye(self, dialog: Dialog, leg: int, now: float, headers: str) -> bool:
        tm = self.services.modules.get("tm")
        if not dialog.is_live or tm is None:
            log.error("dialog %s: there is no BYE for a dialog that is not confirmed", dialog.rr_param)
            return False
        lines = ["Max-Forwards: 70", *header_lines(self.params.dlg_extra_hdrs), *header_lines(headers)]
        if leg == CALLEE:
            lines += header_lines(self.params.lreq_callee_headers)
        try:
            request = within(dialog, "BYE", leg, lines)
        except ParseError as error:
            log.error("dialog %s: no BYE: %s", dialog.rr_param, error.reason)
            return False
        return bool(tm.request(request, now, lambda reply: self._bye_answered(dialog, reply)) == 1)

    def _bye_answered(self, dialog: Dialog, reply: LocalReply) -> None:
        before, after = dialog.advance(REQ_BYE)
        if after == DELETED and before != DELETED:
            self._end(dialog, reply.now)
            self._tell(dialog, "ended", self._faked(dialog, "", reply.now), reply.now)
            self.table.remove(dialog)  # nothing is under way that would have to find it
            self.services.count("dialog.active_dialogs", -1)

    # ---- the clock
    def seen(self, now: float) -> None:
        """Take the time from a message."""
        self.now = max(self.now, now)

    def next_timeout(self) -> float | None:
        """Return when a dialog is due: at least once a second while there are any, as for what an operator asks."""
        due = self.table.next_timeout()
        return due if due is None else min(due, self.now + _TICK)

    def handle_timer(self, now: float) -> None:
        """Look at the dialogs that are due."""
        self.now = now
        to_end, self.to_end = self.to_end, []
        for dialog in to_end:
            self.bye(dialog, (CALLER, CALLEE), now)
        for dialog in self.table.due(now):
            self._look_at(dialog, now)

    def _look_at(self, dialog: Dialog, now: float) -> None:
        p = self.params
        if dialog.state == CONFIRMED_NA and now >= dialog.started + p.noack_timeout:
            if dialog.deadline > now + _AFTER_FAILURE:
                self.set_timeout(dialog, _AFTER_FAILURE, now)
        if dialog.keepalive and dialog.keepalive <= now:
            self._ask(dialog, now)
        if dialog.deadline > now:
            return
        if dialog.is_live:
            self._expired(dialog, now)
            return
        if dialog.state == EARLY:
            self.services.count("dialog.early_dialogs", -1)
        self.profiles.leave_all(dialog)
        self.table.remove(dialog)

    def _expired(self, dialog: Dialog, now: float) -> None:
        dialog.dflags |= FLAG_EXPIRED
        if dialog.timeout_route:
            self._queue(dialog, "dialog:timeout", None, None, now)
        self.services.count("dialog.expired_dialogs")
        if dialog.iflags & IFLAG_TIMEOUT_BYE and self.bye(dialog, (CALLER, CALLEE), now):
            self.table.schedule(dialog, now + self.params.end_timeout)  # the answer to a BYE ends it
            dialog.iflags &= ~IFLAG_TIMEOUT_BYE
            return
        before, after = dialog.advance(REQ_BYE)
        self._end(dialog, now)
        self.services.count("dialog.active_dialogs", -1)
        self._tell(dialog, "expired", self._faked(dialog, "", now), now)
        self._event(dialog, before, after, None, None, now)

    def set_timeout(self, dialog: Dialog, seconds: int, now: float) -> bool:
        """Let a dialog last for ``seconds`` from now, or from its answer; False when it has ended."""
        if dialog.state == DELETED:
            return False
        dialog.lifetime = seconds
        dialog.dflags |= FLAG_CHANGED
        if dialog.is_live:
            self.table.schedule(dialog, now + seconds)
            self.changed(dialog)
        return True

    def _begin_to_ask(self, dialog: Dialog, now: float) -> None:
        if dialog.iflags & (IFLAG_KA_SRC | IFLAG_KA_DST) and self.params.ka_timer and self.params.ka_interval:
            dialog.keepalive = now + self.params.ka_interval
            self.table.wake(dialog, dialog.keepalive)

    def _ask(self, dialog: Dialog, now: float) -> None:
        """Ask the sides that want it whether they know the dialog: OPTIONS with a CSeq that is too old to change anything."""
        if dialog.state != CONFIRMED:
            dialog.keepalive = 0.0
            return
        for leg, flag in ((CALLER, IFLAG_KA_SRC), (CALLEE, IFLAG_KA_DST)):
            if dialog.iflags & flag:
                headers = header_lines(self.params.lreq_callee_headers) if leg == CALLEE else []
                try:
                    request = within(dialog, "OPTIONS", leg, headers, ahead=-1)
                except ParseError:
                    continue
                self.services.modules["tm"].request(request, now, self._on_alive(dialog, leg))
        dialog.keepalive = now + self.params.ka_interval
        self.table.wake(dialog, dialog.keepalive)

    def _on_alive(self, dialog: Dialog, leg: int) -> Any:
        def answered(reply: LocalReply) -> None:
            if dialog.state != CONFIRMED:
                return
            if reply.status not in (408, 481):
                dialog.failures[leg] = 0
                return
            dialog.failures[leg] += 1
            if dialog.failures[leg] >= self.params.ka_failed_limit:
                self.set_timeout(dialog, _AFTER_FAILURE, reply.now)

        return answered
