"""How dialogs begin, go on and end: what requests, replies and the clock do to them. Part of dialog."""

from __future__ import annotations

import logging
from typing import Any, Final

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.route import Route
from polykemi.modules.base import Services
from polykemi.modules.dialog_events import DialogEvents
from polykemi.modules.dialog_params import NO_ID, STRICT_ID, Asked
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
    FLAG_TM,
    IFLAG_KA_DST,
    IFLAG_KA_SRC,
    IFLAG_TIMEOUT_BYE,
    IFLAG_TIMER_NORESET,
    REQ,
    REQ_ACK,
    REQ_BYE,
    REQ_PRACK,
    RPL_1XX,
    RPL_2XX,
    RPL_3XX,
    UNCONFIRMED,
    UPSTREAM,
    Dialog,
    DialogTable,
)
from polykemi.modules.dialog_storage import DialogStore
from polykemi.modules.tm_local import LocalReply
from polykemi.modules.tm_watch import Watcher, watch
from polykemi.sip.header import parse_name_addr, parse_params
from polykemi.sip.message import Message, Request, Response, parse
from polykemi.sip.uri import parse_uri
from polykemi.transaction.forking import Transaction

log = logging.getLogger("polykemi.dialog")

LINGER: Final = 5.0  # seconds for which an ended dialog still knows its late messages
_TICK: Final = 1.0
_AFTER_FAILURE: Final = 10  # seconds that a dialog has left whose side does not answer, or whose ACK does not come

_EVENTS: Final = {"ACK": REQ_ACK, "BYE": REQ_BYE, "PRACK": REQ_PRACK}


class _Watch(Watcher):
    """Tells of replies to INVITEs: a module cannot be a watcher itself, both may be compiled classes."""

    def __init__(self, dialogs: DialogTracking) -> None:
        self._dialogs = dialogs

    def replied(self, t: Transaction, status: int, data: bytes, reply: Response | None, now: float) -> None:
        """Take a reply to the INVITE that has begun a dialog."""
        self._dialogs.replied(t, status, data, reply, now)


class DialogTracking(DialogEvents):
    """The dialogs of one server; what scripts call is in ``dialog``."""

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        p = self.params
        self.table = DialogTable(p.hash_size, p.h_id_start, p.h_id_step)
        self.profiles = Profiles(
            profile_names("profiles_with_value", p.profiles_with_value),
            profile_names("profiles_no_value", p.profiles_no_value),
        )
        self.now = 0.0  # seconds since the epoch, as it was seen last
        self.store = DialogStore(services.database, services.listeners) if p.db_mode else None
        self.to_end: list[Dialog] = []  # an operator wants them to end
        self._watcher = _Watch(self)
        self._hooked = False
        for name in ("active", "early", "processed", "expired", "failed"):
            services.counters.setdefault(f"dialog.{name}_dialogs", 0)

    def start(self, now: float) -> None:
        """Compile what parameters say; watch all transactions when dlg_flag says so. Raise DataError."""
        p = self.params
        for name in ("timeout_avp", "ruri_pvar"):
            self.variable(name, getattr(p, name))
        if p.dlg_flag >= 0:
            self._hook()
        if self.store is not None and not p.db_skip_load:
            self.load(now)

    def load(self, now: float, call_id: str = "") -> None:
        """Take the dialogs that are stored, those of a Call-ID when it is not empty, and are not here yet. Raise DataError."""
        if self.store is None:
            return
        for dialog in list(self.store.load(call_id)):
            if not dialog.is_live or self.table.get(dialog.h_entry, dialog.h_id) is not None:
                continue
            profiles, dialog.profiles = dialog.profiles, []
            for profile, value in profiles:
                if self.profiles.has_value(profile) is not None:
                    self.profiles.join(dialog, profile, value)
            self.table.add(dialog)
            self.table.schedule(dialog, max(dialog.deadline, now))
            self._begin_to_ask(dialog, now)
            self.services.count("dialog.active_dialogs")
            self._hook()
        self.seen(now)

    def changed(self, dialog: Dialog) -> None:
        """Write a dialog that was answered into the database, when it is to be there."""
        if self.store is not None and dialog.is_live:
            self.store.save(dialog)

    def _hook(self) -> None:
        """Take part in transactions and loose routing, as soon as there is a dialog."""
        if not self._hooked:
            self._hooked = True
            modules = self.services.modules
            if "tm" in modules:
                modules["tm"].relayer.on_request_in.append(self._request_in)
            if "rr" in modules:
                modules["rr"].on_routed.append(self._routed)

    # ---- which dialog
    @staticmethod
    def asked(ctx: RouteContext) -> Asked:
        """Return what this block has asked for."""
        found: Asked | None = ctx.cache.get("dialog.asked")
        if found is None:
            found = ctx.cache["dialog.asked"] = Asked()
        return found

    def current(self, ctx: RouteContext) -> Dialog | None:
        """Return the dialog that was found for this block already."""
        dialog: Dialog | None = ctx.cache.get("dialog.got") or ctx.shared.dialog
        return dialog if dialog is not None and self.table.get(dialog.h_entry, dialog.h_id) is dialog else None

    def lookup(self, ctx: RouteContext) -> tuple[Dialog | None, int]:
        """Return the dialog of the message and which way this goes."""
        dialog = self.current(ctx)
        try:
            message = ctx.message
            call_id, from_tag, to_tag = message.call_id, message.from_.tag or "", message.to.tag or ""
        except ParseError:
            return dialog, 0
        if dialog is not None:
            return dialog, dialog.direction_of(call_id, from_tag, to_tag)
        return self.table.find(call_id, from_tag, to_tag) if from_tag else (None, 0)

    def of_message(self, ctx: RouteContext) -> Dialog | None:
        """Return the dialog of the message."""
        return self.lookup(ctx)[0]

    # ---- it begins
    def begin(self, ctx: RouteContext) -> bool:
        """Begin the dialog of an initial INVITE, or find the one that has come by before (a spiral)."""
        self.seen(ctx.now)
        request = ctx.message
        if not isinstance(request, Request) or request.method != "INVITE" or self.current(ctx) is not None:
            return False
        if request.to.tag or not request.from_.tag:
            return False
        if self.params.detect_spirals:
            known, _ = self.table.find(request.call_id, request.from_.tag, "")
            if known is not None and known.state != DELETED:
                ctx.shared.dialog = known
                return True
        contacts = request.list("contact")
        if len(contacts) != 1:
            log.error("no dialog is made: expected one Contact, got %d", len(contacts))
            return False
        dialog = self._made(ctx, request, parse_name_addr(contacts[0]).uri)
        if self.params.dlg_match_mode != NO_ID and "rr" in self.services.modules:
            self.services.modules["rr"].add_rr_param(ctx, f";{self.params.rr_param}={dialog.rr_param}")
        self.services.count("dialog.processed_dialogs")
        ctx.shared.dialog = dialog
        self._tell(dialog, "created", ctx, ctx.now)
        self._hook()
        if ctx.transaction is not None:
            self._watch(ctx.transaction, dialog)
        return True

    def _made(self, ctx: RouteContext, request: Request, contact: str) -> Dialog:
        asked = self.asked(ctx)
        ruri = self.services.variables.getters[self.params.ruri_pvar](ctx)
        h_entry, h_id = self.table.new_id(request.call_id)
        dialog = Dialog(
            h_entry,
            h_id,
            request.call_id,
            request.from_.uri,
            request.to.uri,
            str(ruri or ""),
            ctx.now,
            self._timeout(ctx),
            variables=asked.variables,
            sflags=asked.flags,
            iflags=asked.iflags,
            timeout_route=asked.timeout_route,
        )
        asked.variables = {}
        if self.params.send_bye or asked.timeout_bye:
            dialog.iflags |= IFLAG_TIMEOUT_BYE
        caller = dialog.legs[CALLER]
        caller.tag, caller.contact, caller.cseq = request.from_.tag or "", contact, request.cseq[0]
        caller.route_set, caller.listener = request.list("record-route"), ctx.flow.listener
        dialog.from_routes = len(caller.route_set)
        self.table.add(dialog)
        self.table.schedule(dialog, ctx.now + LINGER)  # gone again when the script does not relay it
        for profile, value in asked.pending:
            self.profiles.join(dialog, profile, value)
        asked.pending = []
        return dialog

    def _timeout(self, ctx: RouteContext) -> int:
        if self.params.timeout_avp:
            value = self.services.variables.getters[self.params.timeout_avp](ctx)
            if isinstance(value, int) and value > 0:
                return value
        return self.params.default_timeout

    def _request_in(self, ctx: RouteContext, t: Transaction) -> None:
        """A transaction begins: its replies tell what becomes of a dialog."""
        if t.method != "INVITE":
            return
        flag = self.params.dlg_flag
        if ctx.shared.dialog is None and flag >= 0 and ctx.shared.flags >> flag & 1:
            self.begin(ctx)
        dialog = self.current(ctx)
        if dialog is not None and dialog.state == UNCONFIRMED and not dialog.dflags & FLAG_TM:
            self._watch(t, dialog)

    def _watch(self, t: Transaction, dialog: Dialog) -> None:
        watch(t, self._watcher)
        dialog.dflags |= FLAG_TM
        self.table.schedule(dialog, dialog.created + self.params.early_timeout)

    # ---- replies to the INVITE
    def replied(self, t: Transaction, status: int, data: bytes, reply: Response | None, now: float) -> None:
        """Take a reply to the INVITE that has begun a dialog."""
        dialog: Dialog | None = t.shared.dialog
        if dialog is None or status == 100:
            return
        event = RPL_1XX if status < 200 else RPL_2XX if status < 300 else RPL_3XX
        before, after = dialog.advance(event)
        if before == after:
            return
        if after == CONFIRMED_NA:
            self._answered(dialog, reply or _parsed(data), t, now)
            self._tell(dialog, "confirmed", None, now)
        elif after == EARLY:
            self.services.count("dialog.early_dialogs")
        elif after == DELETED:
            self._end(dialog, now)
            self.services.count("dialog.failed_dialogs")
            self._tell(dialog, "failed", _context_of(t, reply, now), now)
        if before == EARLY:
            self.services.count("dialog.early_dialogs", -1)
        self._event(dialog, before, after, reply, t.source, now)

    def _answered(self, dialog: Dialog, reply: Message | None, t: Transaction, now: float) -> None:
        dialog.started = now
        callee = dialog.legs[CALLEE]
        callee.listener = dialog.legs[CALLER].listener
        for branch in t.branches:
            if 200 <= branch.status < 300:
                callee.listener = branch.flow.listener
        if reply is not None:
            try:
                callee.tag = reply.to.tag or ""
                contacts = reply.list("contact")
                if len(contacts) == 1:
                    callee.contact = parse_name_addr(contacts[0]).uri
                callee.route_set = self._behind_us(reply.list("record-route")[::-1][dialog.from_routes :])
            except ParseError as error:
                log.error("dialog %s: the answer says too little: %s", dialog.rr_param, error)
        self.table.schedule(dialog, now + dialog.lifetime)
        self.table.wake(dialog, now + self.params.noack_timeout)
        self.services.count("dialog.active_dialogs")
        self.changed(dialog)

    def _behind_us(self, routes: list[str]) -> list[str]:
        """Return ``routes`` without our own values at the beginning, one or two (double Record-Route)."""
        own = 0
        while own < min(2, len(routes)):
            uri = parse_uri(parse_name_addr(routes[own]).uri)
            if not self.services.is_myself(uri.host, uri.effective_port):
                break
            own += 1
        return routes[own:]

    # ---- requests within it
    def _routed(self, ctx: RouteContext, route_params: str) -> None:
        """Find the dialog of a request by the parameter of our own Route (Kamailio: dlg_onroute)."""
        if self.current(ctx) is not None or not ctx.message.to.tag:
            return
        mode, dialog = self.params.dlg_match_mode, None
        if mode != NO_ID:
            text = parse_params(route_params).get(self.params.rr_param)
            dialog = self.table.by_rr_param(text) if text else None
            if dialog is not None and not self._direction(dialog, ctx.message):
                dialog = None
            if dialog is None and mode == STRICT_ID:
                return
        self.follow(ctx, dialog)

    @staticmethod
    def _direction(dialog: Dialog, message: Message) -> int:
        return dialog.direction_of(message.call_id, message.from_.tag or "", message.to.tag or "")

    def follow(self, ctx: RouteContext, dialog: Dialog | None = None) -> None:
        """Take a request within a dialog, found by its tags when it is not given."""
        request = ctx.message
        if self.current(ctx) is not None or not isinstance(request, Request):
            return
        if dialog is None:
            dialog = self.lookup(ctx)[0]
            if dialog is None:
                return
        direction = self._direction(dialog, request)
        ctx.shared.dialog = dialog
        self.asked(ctx).direction = direction
        event = _EVENTS.get(request.method, REQ)
        before, after = dialog.advance(event)
        ctx.cache["dialog.status"] = (after, int(ctx.now - dialog.started))
        if after == DELETED:
            if before != DELETED:
                self._end(dialog, ctx.now)
                self.services.count("dialog.active_dialogs", -1)
                self._tell(dialog, "ended", ctx, ctx.now)
        elif event is not REQ_BYE and after in (EARLY, CONFIRMED):
            self._refresh(ctx, request, dialog, direction, before)
        self._event(dialog, before, after, request, ctx.flow, ctx.now)

    def _refresh(self, ctx: RouteContext, request: Request, dialog: Dialog, direction: int, before: int) -> None:
        timeout = self._timeout(ctx)
        if timeout != self.params.default_timeout:
            dialog.lifetime = timeout
        resets = not (dialog.iflags & IFLAG_TIMER_NORESET or self.params.timeout_noreset)
        if dialog.state == CONFIRMED and (before != CONFIRMED or resets):
            self.table.schedule(dialog, ctx.now + dialog.lifetime)
            dialog.dflags |= FLAG_CHANGED
        if request.method != "ACK":
            leg = dialog.legs[CALLEE if direction == UPSTREAM else CALLER]
            leg.cseq = request.cseq[0]
            contacts = request.list("contact") if request.method == "INVITE" else []
            if len(contacts) == 1:
                leg.contact = parse_name_addr(contacts[0]).uri
        self.changed(dialog)
        if before == CONFIRMED_NA:
            self._begin_to_ask(dialog, ctx.now)
        elif "rr" in self.services.modules:
            self.services.modules["rr"].add_rr_param(ctx, f";{self.params.rr_param}={dialog.rr_param}")

    # ---- it ends
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


def _context_of(t: Transaction, reply: Response | None, now: float) -> RouteContext:
    """Return a context of what has ended a transaction: the reply, or the request for one of ours."""
    ctx = RouteContext(Route.REPLY if reply is not None else Route.FAILURE, "", reply or t.request, t.source, now)
    ctx.shared, ctx.transaction = t.shared, t
    return ctx


def _parsed(data: bytes) -> Message | None:
    try:
        return parse(data)
    except ParseError:
        return None
