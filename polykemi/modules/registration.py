"""What a REGISTER does to the bindings of an address of record (RFC 3261 sections 10.2 and 10.3). Part of registrar."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, Final

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.modules.base import Services
from polykemi.modules.registrar_contacts import (
    ALL_METHODS,
    Rejected,
    contacts_of,
    first_uri,
    methods_of,
    parse_expires,
    parse_q,
    path_of,
    render_contacts,
    supports,
)
from polykemi.modules.registrar_gruu import Gruus
from polykemi.modules.registrar_outbound import headers_of_200, uses_reg_id
from polykemi.modules.registrar_params import RegistrarParams
from polykemi.modules.usrloc import Usrloc, is_valid
from polykemi.sip.flow import Listener
from polykemi.sip.header import NameAddr, unquote
from polykemi.sip.message import Request
from polykemi.sip.uri import parse_uri, unescape
from polykemi.storage.location import MEMORY_ONLY, Binding

log = logging.getLogger("polykemi.registrar")

INSERTED: Final = 1  # results of save()
UPDATED: Final = 2
DELETED: Final = 3
QUERIED: Final = 4

NOT_IN_DATABASE: Final = 0x01  # flags of save()
ONE_CONTACT: Final = 0x04
NO_RANGE: Final = 0x08

MOST_OF_AOR: Final = 1000  # where max_contacts is 0


class Registration:
    """What a REGISTER does to the bindings of an AoR."""

    def __init__(self, services: Services, params: RegistrarParams, usrloc: Usrloc, gruus: Gruus | None = None) -> None:
        """``gruus``: None where phones get none."""
        self._params = params
        self._gruus = gruus
        self._usrloc = usrloc
        self._location = services.location
        self._ids = services.ids
        self._variables = services.variables
        self._listener_texts: dict[Listener, str] = {x: str(x) for x in services.listeners}

    def update(self, ctx: RouteContext, request: Request, table: str, aor: str, flags: int) -> tuple[int, list[str]]:
        """Change the bindings, all or none; return the result of ``save`` and the headers of the 200."""
        now, params = ctx.now, self._params
        location = self._location
        call_id, cseq = request.call_id, request.cseq[0]
        contacts = contacts_of(request, params.contact_max_size)
        with_reg_id = True
        if params.outbound_mode or request.has("require"):
            with_reg_id = uses_reg_id(request, contacts, params)
        bindings = location.get(table, aor)
        more = headers_of_200(request, params) if params.outbound_mode else []
        if contacts is None:  # "*"
            self._check_order(bindings, call_id, cseq, now)
            location.put(table, aor, [])
            return DELETED, more
        if not contacts:
            return QUERIED, self._headers(request, aor, bindings, now) + more
        template, headers = self._template(ctx, request, call_id, cseq)
        if flags & NOT_IN_DATABASE:
            template.flags = MEMORY_ONLY
        expires = parse_expires(request.get("expires"), params.default_expires)
        result, inserted, changed = INSERTED, False, False
        try:
            for contact in contacts:
                new = template if len(contacts) == 1 else template.copy()
                self._fill(ctx, new, contact, expires, flags)
                if not with_reg_id:
                    new.reg_id = 0
                change = self._apply(bindings, new, now)
                if change:
                    result, changed = change, True
                    inserted = inserted or change == INSERTED
            if inserted and (params.max_contacts or params.xavp_cfg or len(bindings) > MOST_OF_AOR):
                self._check_number(ctx, bindings, flags, new, now)
        except Rejected as error:
            error.contacts = self._headers(request, aor, location.get(table, aor), now)
            raise
        if flags & ONE_CONTACT and len(bindings) > 1:
            bindings = [b for b in bindings if b.cseq == cseq and b.call_id == call_id]
            changed = True
        if changed:
            location.put(table, aor, bindings)
        return result, self._headers(request, aor, bindings, now) + headers + more

    def _apply(self, bindings: list[Binding], new: Binding, now: float) -> int:
        """Put ``new`` into ``bindings`` or remove what it names; return what was done, 0 for nothing. Raise Rejected."""
        i = self._usrloc.find(bindings, new)
        if i >= 0 and is_valid(bindings[i], now):
            old = bindings[i]
            if self._usrloc.is_retransmission(old, new.call_id, new.cseq, now):
                return 0
            if self._usrloc.is_out_of_order(old, new.call_id, new.cseq):
                raise Rejected(400, "Bad Request", "Invalid CSeq number")
            if new.expires < 0:
                del bindings[i]
                return DELETED
            new.ruid = old.ruid
            bindings[i] = new
            return UPDATED
        if new.expires < 0:
            return 0
        new.ruid = "uloc-" + self._ids.unique()
        if i >= 0:
            bindings[i] = new
        else:
            bindings.append(new)
        return INSERTED

    def _check_order(self, bindings: list[Binding], call_id: str, cseq: int, now: float) -> None:
        """Refuse a "*" that is older than a binding (RFC 3261 section 10.3 step 6)."""
        for old in bindings:
            if self._usrloc.is_out_of_order(old, call_id, cseq):
                if not self._usrloc.is_retransmission(old, call_id, cseq, now):
                    raise Rejected(400, "Bad Request", "Invalid CSeq number")

    def _check_number(self, ctx: RouteContext, bindings: list[Binding], flags: int, new: Binding, now: float) -> None:
        """Refuse to have more than max_contacts; ``new`` is one of those that have come."""
        if flags & ONE_CONTACT:  # the others go
            bindings = [b for b in bindings if b.cseq == new.cseq and b.call_id == new.call_id]
        limit: int = self.configured(ctx, "max_contacts", self._params.max_contacts) or MOST_OF_AOR
        if sum(is_valid(b, now) for b in bindings) > limit:
            retry = [f"Retry-After: {self._params.retry_after}"] if self._params.retry_after else []
            raise Rejected(503, "Service Unavailable", "Too many registered contacts", retry)

    def _template(self, ctx: RouteContext, request: Request, call_id: str, cseq: int) -> tuple[Binding, list[str]]:
        """Return what all contacts of one REGISTER have in common, and the headers that its Path puts into the 200."""
        params = self._params
        received: str = ctx.cache.get("received", "")
        if params.received_avp:
            received = str(self._variables.getters[params.received_avp](ctx) or received)
        path, headers = "", list[str]()
        bflags = ctx.bflags
        if self._params.use_path and request.has("path"):
            path, headers = path_of(request, self._params.path_mode)
            if path and self._params.path_use_received:
                told = unescape(parse_uri(first_uri(path)).param("received") or "")
                if told:
                    received = told
                    bflags |= self._usrloc.nat_flag
        listener = ctx.flow.listener
        if params.sock_flag >= 0 and ctx.shared.flags >> params.sock_flag & 1:
            listener = self._named(ctx, request) or listener
        allow = request.get("allow")
        template = Binding(
            "",
            0.0,
            -1,
            call_id,
            cseq,
            request.get("user-agent") or "n/a",
            received,
            path,
            self._listener_texts.get(listener) or str(listener),
            methods_of(allow) if allow is not None else ALL_METHODS,
            0,
            bflags,
        )
        return template, headers

    def _named(self, ctx: RouteContext, request: Request) -> Listener | None:
        """Return the listener of ours that the header sock_hdr_name names, or without one ``$xavp(CFG=>socket)``."""
        header = self._params.sock_hdr_name.lower()
        text = (request.get(header) or "").strip(" \t") if header else str(self.configured(ctx, "socket", ""))
        for listener, name in self._listener_texts.items():
            if text and text in (name, f"{listener.proto}:{listener.host}"):
                return listener
        if text:
            log.error("%r is no listener of this server (sock_hdr_name, $xavp(CFG=>socket))", text)
        return None

    def _fill(self, ctx: RouteContext, new: Binding, contact: NameAddr, header_expires: int | None, flags: int) -> None:
        """Make ``new`` the binding that ``contact`` asks for; -1 for ``expires`` means its removal."""
        now, params = ctx.now, self._params
        q, expires = params.default_q, header_expires
        if contact.params:
            text = contact.param("expires")
            if text:
                expires = parse_expires(text, params.default_expires)
            q = parse_q(contact.param("q"), q)
            self._fill_more(new, contact)
        if params.xavp_cfg:
            q = self._configured_q(ctx, q)
            told = self.configured(ctx, "expires", None)
            if isinstance(told, int) and told >= 0:
                expires, flags = told, flags | NO_RANGE
        new.uri = contact.uri
        new.q = ctx.cache.get("registrar.q", q)
        new.expires = -1.0 if expires == 0 else now + self._lifetime(expires, flags)
        new.modified = now

    def _fill_more(self, new: Binding, contact: NameAddr) -> None:
        """Take the parameters of ``contact`` that few have: what several flows and GRUUs need, methods, received."""
        instance = contact.param("+sip.instance")
        if instance:
            new.instance = unquote(instance)
            reg_id = contact.param("reg-id")
            if reg_id:
                if not reg_id.isdecimal() or len(reg_id) > 10 or not 0 < int(reg_id) < 1 << 31:  # RFC 5626 section 4.2
                    raise Rejected(400, "Bad Request", "Invalid Reg-Id number")
                new.reg_id = int(reg_id)
        methods = contact.param("methods")
        if methods:
            new.methods = methods_of(unquote(methods))
        received = contact.param("received")
        if received:  # nathelper.add_rcv_param of another server
            new.received = unquote(received)
            try:
                parse_uri(new.received)
            except ParseError:
                raise Rejected(400, "Bad Request", "Contact parse error") from None

    def _configured_q(self, ctx: RouteContext, q: int) -> int:
        """Return ``$xavp(CFG=>q)`` (thousandths), or ``q``. Raise Rejected."""
        told = self.configured(ctx, "q", q)
        if not isinstance(told, int) or not (told == q or 0 <= told <= 1000):
            raise Rejected(400, "Bad Request", "Invalid q param in contact")
        return told

    def _lifetime(self, asked: int | None, flags: int) -> int:
        """Return for how many seconds a contact is kept; ``asked`` is None when the REGISTER does not say. Raise Rejected."""
        params = self._params
        least = params.min_expires
        if asked is None:
            seconds, percent = params.default_expires, params.default_expires_range
        else:
            seconds, percent = asked, params.expires_range
            if seconds < least and params.min_expires_mode:
                raise Rejected(423, "Interval Too Brief", "Interval too brief", [f"Min-Expires: {least}"])
        if percent and not flags & NO_RANGE:
            span = seconds * min(percent, 100) // 100
            seconds -= int(self._ids.tag(), 16) % (span + 1)
        seconds = max(seconds, least)
        return min(seconds, params.max_expires) if params.max_expires else seconds

    def _headers(self, request: Request, aor: str, bindings: list[Binding], now: float) -> list[str]:
        """Return the Contact line of a reply, none when there is no valid binding."""
        valid = [b for b in bindings if b.expires > now or not b.expires]
        if not valid:
            return []
        gruus = None
        if self._gruus is not None:
            for b in valid:
                if b.instance:
                    if supports(request, "gruu"):
                        gruus = partial(self._gruus.params, aor=aor, host=parse_uri(request.to.uri).host)
                    break
        return [render_contacts(self._usrloc.in_order(valid), now, self._params.received_param, gruus)]

    def configured(self, ctx: RouteContext, name: str, default: Any) -> Any:
        """Return ``$xavp(CFG=>name)`` with CFG the parameter xavp_cfg, or ``default``."""
        items = ctx.shared.xavps.get(self._params.xavp_cfg)
        value = items[0].get(name) if items else None
        if isinstance(value, list):
            value = value[0] if value else None
        return default if value is None else value
