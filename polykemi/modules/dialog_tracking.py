"""How dialogs begin, go on and end: what requests and replies do to them. Part of dialog."""

from __future__ import annotations

import logging
from typing import Any, Final

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.route import Route
from polykemi.modules.base import Services
from polykemi.modules.dialog_clock import LINGER, DialogClock
from polykemi.modules.dialog_params import NO_ID, STRICT_ID, Asked
from polykemi.modules.dialog_state import (
    CALLEE,
    CALLER,
    CONFIRMED,
    CONFIRMED_NA,
    DELETED,
    EARLY,
    FLAG_CHANGED,
    FLAG_TM,
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
)
from polykemi.modules.tm_watch import Watcher, watch
from polykemi.sip.header import parse_name_addr, parse_params
from polykemi.sip.message import Message, Request, Response, parse
from polykemi.sip.uri import parse_uri
from polykemi.transaction.forking import Transaction

log = logging.getLogger("polykemi.dialog")

_EVENTS: Final = {"ACK": REQ_ACK, "BYE": REQ_BYE, "PRACK": REQ_PRACK}


class _Watch(Watcher):
    """Tells of replies to INVITEs: a module cannot be a watcher itself, both may be compiled classes."""

    def __init__(self, dialogs: DialogTracking) -> None:
        self._dialogs = dialogs

    def replied(self, t: Transaction, status: int, data: bytes, reply: Response | None, now: float) -> None:
        """Take a reply to the INVITE that has begun a dialog."""
        self._dialogs.replied(t, status, data, reply, now)


class DialogTracking(DialogClock):
    """The dialogs of one server; what scripts call is in ``dialog``."""

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self._watcher = _Watch(self)
        self._hooked = False
        self._is_full = False  # and the log says so

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

    def version_of(self, request: Request) -> Any:
        """Return the version of the scripts in which the dialog of ``request`` began; None when it is of none. Raise ParseError."""
        tag = request.to.tag
        dialog = self.table.find(request.call_id, request.from_.tag or "", tag)[0] if tag else None
        return dialog.version if dialog is not None else None

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
        if not self.table.has_room(request.call_id):
            self.services.count("dialog.failed_dialogs")
            if not self._is_full:
                self._is_full = True
                log.error("no dialog is made: there are %d, or too many with this Call-ID", len(self.table))
            return False
        self._is_full = False
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
        dialog.version = ctx.shared.version
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
        dialog.ack_until = now + self.params.noack_timeout
        self.table.wake(dialog, dialog.ack_until)
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
