"""dialog: calls as a proxy sees them, from INVITE to BYE (RFC 3261 section 12; Kamailio: dialog)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import ClassVar, Final

from polykemi.errors import DataError, ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval, export
from polykemi.kemi.route import Route
from polykemi.modules.dialog_requests import header_lines, within
from polykemi.modules.dialog_rpc import DialogCommands
from polykemi.modules.dialog_state import (
    CALLEE,
    CALLER,
    CONFIRMED,
    CONFIRMED_NA,
    DELETED,
    EARLY,
    IFLAG_KA_DST,
    IFLAG_KA_SRC,
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
    Leg,
)
from polykemi.modules.dialog_variables import keep, set_var, variable_classes
from polykemi.pv.accessor import Factory
from polykemi.sip.header import parse_name_addr
from polykemi.sip.message import Request, Response

log = logging.getLogger("polykemi.script")

_PROPERTIES: Final = {"ka-src": IFLAG_KA_SRC, "ka-dst": IFLAG_KA_DST, "timeout-noreset": IFLAG_TIMER_NORESET}
_STATES: Final = {"u": UNCONFIRMED, "e": EARLY, "a": CONFIRMED_NA, "c": CONFIRMED, "d": DELETED}
_REQUESTS: Final = {"ACK": REQ_ACK, "BYE": REQ_BYE, "PRACK": REQ_PRACK}


class DialogModule(DialogCommands):
    """What scripts do with dialogs; what happens to them by itself is in ``dialog_tracking``."""

    name = "dialog"
    events: ClassVar[Mapping[str, str]] = {
        "dialog:start": "a call was answered; the message is the 2xx",
        "dialog:end": "a call that was answered has ended; the message is the BYE, if it was one of the callers'",
        "dialog:failed": "a call was refused; the message is the reply, if it was none of ours",
        "dialog:timeout": "a call has lasted too long and $dlg_ctx(timeout_route) was set",
        "unknown": "another change of $dlg(state)",
    }

    def pv_classes(self) -> Mapping[str, Factory]:
        """Return $dlg, $dlg_ctx, $dlg_var, $DLG_count, $DLG_status and $DLG_lifetime."""
        return variable_classes(self)

    # ---- following a call
    @export(routes=Route.REQUEST)
    def dlg_manage(self, ctx: RouteContext) -> int:
        """Follow the call: begin a dialog for an initial INVITE, find the one of a request with a To tag.

        Answers 1, or -1 when there is nothing to begin with (not an INVITE, not one Contact).
        """
        self.seen(ctx.now)
        if ctx.message.to.tag:
            self.follow(ctx)
            return 1
        return 1 if self.begin(ctx) else -1

    @export()
    def is_known_dlg(self, ctx: RouteContext) -> int:
        """Tell whether the message belongs to a dialog that is followed: 1 or -1."""
        return 1 if self.of_message(ctx) is not None else -1

    @export()
    def dlg_get(self, ctx: RouteContext, sc: str, sf: str, st: str) -> int:
        """Work with the dialog of Call-ID ``sc``, From tag ``sf`` and To tag ``st`` from here on: 1, or -1 without one."""
        if not sc or not sf or not st:
            log.error("dialog.dlg_get: expected a Call-ID and two tags")
            return -1
        dialog, direction = self.table.find(sc, sf, st)
        if dialog is None:
            return -1
        ctx.cache["dialog.got"] = dialog
        self.asked(ctx).direction = direction
        return 1

    # ---- state
    @export()
    def dlg_set_state(self, ctx: RouteContext, state: str) -> int:
        """Set the state of the message's dialog, by its first letter: unconfirmed, early, answered, confirmed, deleted.

        Answers 1, or -1 without a dialog and for another letter.
        """
        wanted = _STATES.get(state[:1].lower())
        dialog = self._by_tags(ctx)
        if wanted is None or dialog is None:
            return -1
        self.put_state(dialog, wanted, ctx.now)
        return 1

    @export()
    def dlg_update_state(self, ctx: RouteContext) -> int:
        """Let the message change the state of its dialog, as if it had come by itself: 1, or -1 without a dialog."""
        dialog, message = self._by_tags(ctx), ctx.message
        if dialog is None:
            return -1
        if isinstance(message, Response):
            event = RPL_1XX if message.status < 200 else RPL_2XX if message.status < 300 else RPL_3XX
        else:
            event = _REQUESTS.get(ctx.method, REQ)
        before, after = dialog.advance(event)
        if after == DELETED and before != DELETED:
            if before in (CONFIRMED_NA, CONFIRMED):
                self.services.count("dialog.active_dialogs", -1)
            self._end(dialog, ctx.now)
        return 1

    def _by_tags(self, ctx: RouteContext) -> Dialog | None:
        message = ctx.message
        return self.table.find(message.call_id, message.from_.tag or "", message.to.tag or "")[0]

    @export()
    def dlg_update_contact(self, ctx: RouteContext) -> int:
        """Take the Contact of the message for the remote target of its side. Answers 1, or -1 without dialog or Contact."""
        leg = self._sender(ctx)
        contacts = ctx.message.list("contact")
        if leg is None or len(contacts) != 1:
            return -1
        leg.contact = parse_name_addr(contacts[0]).uri
        return 1

    @export()
    def dlg_update_socket(self, ctx: RouteContext) -> int:
        """Take the listener that the message came to for that of its side. Answers 1, or -1 without a dialog."""
        leg = self._sender(ctx)
        if leg is None:
            return -1
        leg.listener = ctx.flow.listener
        return 1

    def _sender(self, ctx: RouteContext) -> Leg | None:
        dialog, direction = self.lookup(ctx)
        if dialog is None:
            return None
        upstream = (direction == UPSTREAM) == isinstance(ctx.message, Request)
        return dialog.legs[CALLEE if upstream else CALLER]

    # ---- timeout, flags, properties
    @export()
    def dlg_set_timeout(self, ctx: RouteContext, timeout: int) -> int:
        """Let the dialog of the message last for ``timeout`` seconds from now, or from its answer: 1, or -1 without one."""
        dialog = self.of_message(ctx)
        return 1 if dialog is not None and self.set_timeout(dialog, timeout, ctx.now) else -1

    @export()
    def dlg_set_timeout_id(self, ctx: RouteContext, timeout: int, he: int, hi: int) -> int:
        """Do as ``dlg_set_timeout`` for the dialog with h_entry ``he`` and h_id ``hi``."""
        dialog = self.table.get(he, hi)
        return 1 if dialog is not None and self.set_timeout(dialog, timeout, ctx.now) else -1

    @export()
    def dlg_set_property(self, ctx: RouteContext, pval: str) -> int:
        """Set a property: ka-src or ka-dst (ask that side whether it is alive), timeout-noreset. Answers 1 or -1."""
        return self._property(ctx, pval, on=True)

    @export()
    def dlg_reset_property(self, ctx: RouteContext, pval: str) -> int:
        """Take a property back. Answers 1 or -1."""
        return self._property(ctx, pval, on=False)

    def _property(self, ctx: RouteContext, pval: str, *, on: bool) -> int:
        bit = _PROPERTIES.get(pval)
        if bit is None:
            log.error("dialog: expected a property (%s), got %r", ", ".join(_PROPERTIES), pval)
            return -1
        for one in (self.asked(ctx), self.current(ctx)):
            if one is not None:
                one.iflags = one.iflags | bit if on else one.iflags & ~bit
        return 1

    @export()
    def dlg_setflag(self, ctx: RouteContext, val: int) -> int:
        """Set a flag (0 to 31) of the dialog, or of the one that begins later: 1 or -1."""
        return self._flag(ctx, val, on=True)

    @export()
    def dlg_resetflag(self, ctx: RouteContext, val: int) -> int:
        """Take a flag of the dialog back: 1 or -1."""
        return self._flag(ctx, val, on=False)

    def _flag(self, ctx: RouteContext, val: int, *, on: bool) -> int:
        if not 0 <= val <= 31:
            return -1
        for one, name in ((self.asked(ctx), "flags"), (self.current(ctx), "sflags")):
            if one is not None:
                flags: int = getattr(one, name)
                setattr(one, name, flags | 1 << val if on else flags & ~(1 << val))
        return 1

    @export()
    def dlg_isflagset(self, ctx: RouteContext, val: int) -> int:
        """Tell whether a flag of the dialog is set: 1 or -1."""
        dialog = self.current(ctx)
        flags = dialog.sflags if dialog is not None else self.asked(ctx).flags
        return 1 if 0 <= val <= 31 and flags >> val & 1 else -1

    # ---- variables
    @export()
    def var_sets(self, ctx: RouteContext, name: str, val: str) -> int:
        """Set a variable of the dialog, or of the one that begins later: 1, or -1."""
        return 1 if name and set_var(self, ctx, name, val) else -1

    @export()
    def var_get(self, ctx: RouteContext, name: str) -> Xval:
        """Return a variable of the dialog, null when it is not set."""
        dialog = self.of_message(ctx)
        return dialog.variables.get(name) if dialog is not None else None

    @export()
    def var_gete(self, ctx: RouteContext, name: str) -> Xval:
        """Return a variable of the dialog, "" for null."""
        value = self.var_get(ctx, name)
        return "" if value is None else value

    @export()
    def var_getw(self, ctx: RouteContext, name: str) -> Xval:
        """Return a variable of the dialog, ``<null>`` for null."""
        value = self.var_get(ctx, name)
        return "<null>" if value is None else value

    @export()
    def var_rm(self, ctx: RouteContext, name: str) -> int:
        """Remove a variable of the dialog. Answers 1."""
        if self.of_message(ctx) is not None:
            set_var(self, ctx, name, None)
        return 1

    @export()
    def var_is_null(self, ctx: RouteContext, name: str) -> int:
        """Answer 1 when there is no dialog or its variable is set, else -1: as in Kamailio, the reverse of the name."""
        dialog = self.of_message(ctx)
        return 1 if dialog is None or name in dialog.variables else -1

    @export()
    def dlg_get_var(self, ctx: RouteContext, sc: str, sf: str, st: str, key: str) -> Xval:
        """Return a variable of the dialog with Call-ID ``sc`` and the tags ``sf`` and ``st``, null without it."""
        dialog = self.table.find(sc, sf, st)[0] if sc and sf else None
        return dialog.variables.get(key) if dialog is not None else None

    @export()
    def dlg_set_var(self, ctx: RouteContext, sc: str, sf: str, st: str, key: str, val: str) -> int:
        """Set a variable of the dialog with Call-ID ``sc`` and the tags ``sf`` and ``st``: 1, or -1 without it."""
        dialog = self.table.find(sc, sf, st)[0] if sc and sf and key else None
        if dialog is None:
            return -1
        keep(dialog.variables, key, val, self.services.limits)
        self.changed(dialog)
        return 1

    # ---- profiles
    @export()
    def set_dlg_profile_static(self, ctx: RouteContext, sprofile: str) -> int:
        """Put the dialog, or the one that begins later, into a profile without values: 1 or -1."""
        return self._join(ctx, sprofile, "")

    @export()
    def set_dlg_profile(self, ctx: RouteContext, sprofile: str, svalue: str) -> int:
        """Put the dialog, or the one that begins later, into a profile with a value: 1 or -1."""
        return self._join(ctx, sprofile, svalue)

    def _join(self, ctx: RouteContext, profile: str, value: str) -> int:
        key = self._profile(profile, value)
        if key is None:
            return -1
        dialog = self.of_message(ctx)
        if dialog is not None:
            self.profiles.join(dialog, *key)
            self.changed(dialog)
        elif ctx.kind is Route.REQUEST:
            self.asked(ctx).pending.append(key)
        else:
            return -1
        return 1

    def _profile(self, profile: str, value: str | None) -> tuple[str, str] | None:
        """Return the profile with the value that counts; None, and one logged error, when the script names none."""
        has_value = self.profiles.has_value(profile)
        if has_value is None or (has_value and not value):
            log.error("dialog: profile %r: %s", profile, "there is none" if has_value is None else "expected a value")
            return None
        return profile, value if has_value and value else ""

    @export()
    def unset_dlg_profile_static(self, ctx: RouteContext, sprofile: str) -> int:
        """Take the dialog out of a profile without values, but not in a request route: 1 or -1."""
        return self._leave(ctx, sprofile, "")

    @export()
    def unset_dlg_profile(self, ctx: RouteContext, sprofile: str, svalue: str) -> int:
        """Take the dialog out of a profile with a value, but not in a request route: 1 or -1."""
        return self._leave(ctx, sprofile, svalue)

    def _leave(self, ctx: RouteContext, profile: str, value: str) -> int:
        key, dialog = self._profile(profile, value), self.of_message(ctx)
        if key is None or dialog is None or ctx.kind is Route.REQUEST:
            return -1
        left = self.profiles.leave(dialog, *key)
        self.changed(dialog)
        return 1 if left else -1

    @export()
    def is_in_profile_static(self, ctx: RouteContext, sprofile: str) -> int:
        """Tell whether the dialog is in a profile without values: 1 or -1."""
        return self._is_in(ctx, sprofile, "")

    @export()
    def is_in_profile(self, ctx: RouteContext, sprofile: str, svalue: str) -> int:
        """Tell whether the dialog is in a profile with this value: 1 or -1."""
        return self._is_in(ctx, sprofile, svalue)

    def _is_in(self, ctx: RouteContext, profile: str, value: str) -> int:
        key, dialog = self._profile(profile, value), self.of_message(ctx)
        return 1 if key is not None and dialog is not None and key in dialog.profiles else -1

    @export()
    def get_profile_size_static(self, ctx: RouteContext, sprofile: str, spv: str) -> int:
        """Put the number of dialogs in a profile into the variable ``spv`` ($var or $avp): 1 or -1."""
        return self._size(ctx, sprofile, None, spv)

    @export()
    def get_profile_size(self, ctx: RouteContext, sprofile: str, svalue: str, spv: str) -> int:
        """Put the number of dialogs in a profile with this value into the variable ``spv`` ($var or $avp): 1 or -1."""
        return self._size(ctx, sprofile, svalue, spv)

    def _size(self, ctx: RouteContext, profile: str, value: str | None, spv: str) -> int:
        if self._profile(profile, value) is None:
            return -1
        if not spv.startswith(("$var(", "$avp(", "$(var", "$(avp")):
            log.error("dialog.get_profile_size: expected $var(NAME) or $avp(NAME), got %r", spv)
            return -1
        return 1 if self.services.variables.put(ctx, spv, self.profiles.size(profile, value)) else -1

    # ---- the database
    @export()
    def dlg_db_load_callid(self, ctx: RouteContext, callid: str) -> int:
        """Take the dialogs of a Call-ID that the database has: 1, or -1 without db_mode or when it cannot be read."""
        return self._load(ctx, callid) if callid else -1

    @export()
    def dlg_db_load_extra(self, ctx: RouteContext) -> int:
        """Take the dialogs that the database has and that are not here yet: 1, or -1 as ``dlg_db_load_callid``."""
        return self._load(ctx, "")

    def _load(self, ctx: RouteContext, call_id: str) -> int:
        if self.store is None:
            return -1
        try:
            self.load(ctx.now, call_id)
        except DataError as error:
            log.error("%s", error)
            return -1
        return 1

    # ---- requests of our own
    @export()
    def dlg_bye(self, ctx: RouteContext, side: str) -> int:
        """Send a BYE to ``caller``, ``callee`` or both (anything else): 1, or -1 when there is no answered dialog."""
        dialog = self.current(ctx)
        if dialog is None:
            return -1
        legs = {"caller": (CALLER,), "callee": (CALLEE,)}.get(side.lower(), (CALLER, CALLEE))
        return 1 if self.bye(dialog, legs, ctx.now) else -1

    @export()
    def dlg_req_within4(self, ctx: RouteContext, side: str, method: str, content_type: str, content: str) -> int:
        """Send a request to ``caller``, ``callee`` or both (""), with a body when ``content`` is not empty: 1 or -1."""
        legs = {"": (CALLER, CALLEE), "caller": (CALLER,), "callee": (CALLEE,)}.get(side.lower())
        dialog = self.current(ctx)
        if dialog is None or legs is None or not method:
            return -1
        headers = [f"Content-Type: {content_type}"] if content and content_type else []
        sent = [self._send(dialog, method, leg, headers, ctx.now, content.encode("latin-1")) for leg in legs]
        return 1 if all(sent) else -1

    @export()
    def dlg_refer_did(self, ctx: RouteContext, h_entry: int, h_id: int, side: str, to: str) -> int:
        """Refer the peer of ``caller``, or else of the callee, to ``to`` in a dialog, and end its call: 1 or -1."""
        return self._refer(self.table.get(h_entry, h_id), side, to, ctx.now)

    @export()
    def dlg_refer_cid(self, ctx: RouteContext, callid: str, side: str, to: str) -> int:
        """Refer the peer of ``caller``, or else of the callee, to ``to`` in the dialog of a Call-ID, and end its call: 1 or -1."""
        found = self.table.of_call_id(callid)
        return self._refer(found[-1] if found else None, side, to, ctx.now)

    def _refer(self, dialog: Dialog | None, side: str, to: str, now: float) -> int:
        transfers = self.transfers()
        if dialog is None or not to or transfers is None:
            return -1
        return 1 if transfers.refer(dialog, side, to, now) else -1

    @export()
    def dlg_bridge(self, ctx: RouteContext, sfrom: str, sto: str, soproxy: str) -> int:
        """Call ``sfrom``, through ``soproxy`` when it is not empty, and refer it to ``sto`` when it answers: 1 or -1."""
        transfers = self.transfers()
        return 1 if transfers is not None and sfrom and sto and transfers.bridge(sfrom, sto, soproxy, ctx.now) else -1

    def _send(self, dialog: Dialog, method: str, leg: int, headers: list[str], now: float, body: bytes = b"") -> bool:
        """Send a request within an answered dialog and count its CSeq."""
        tm = self.services.modules.get("tm")
        if not dialog.is_live or tm is None:
            return False
        extra = header_lines(self.params.lreq_callee_headers) if leg == CALLEE else []
        try:
            request = within(dialog, method, leg, [*headers, *extra], body)
        except ParseError as error:
            log.error("dialog %s: no %s: %s", dialog.rr_param, method, error.reason)
            return False
        return bool(tm.request(request, now) == 1)
