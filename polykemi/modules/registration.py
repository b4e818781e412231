"""How a REGISTER is read and its 200 written (RFC 3261 sections 10.2, 10.3 and 20.10, RFC 3327). Part of registrar."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from polykemi.errors import ParseError, SipError
from polykemi.kemi.context import RouteContext
from polykemi.modules.base import Services
from polykemi.modules.usrloc import Usrloc, is_valid
from polykemi.sip.digest import quote
from polykemi.sip.flow import Listener
from polykemi.sip.header import NameAddr, parse_name_addr, split_quoted, unquote
from polykemi.sip.message import Request
from polykemi.sip.uri import parse_uri, unescape
from polykemi.storage.location import Binding

log = logging.getLogger("polykemi.registrar")

INSERTED: Final = 1  # results of save()
UPDATED: Final = 2
DELETED: Final = 3
QUERIED: Final = 4

ONE_CONTACT: Final = 0x04  # flags of save(); 0x01, memory only, has no effect here
NO_RANGE: Final = 0x08

MOST_CONTACTS: Final = 100  # in one REGISTER: each is looked for among those that are there
MOST_OF_AOR: Final = 1000  # where max_contacts is 0

_MAX_SECONDS: Final = 0xFFFFFFFF  # RFC 3261 section 20.19: delta-seconds up to 2**32 - 1
_LOWER: Final = {c: c + 32 for c in range(ord("A"), ord("Z") + 1)}

# the bits of Kamailio's methods column
_METHODS: Final = {
    name: 1 << bit
    for bit, name in enumerate(
        [
            "INVITE",
            "CANCEL",
            "ACK",
            "BYE",
            "INFO",
            "OPTIONS",
            "UPDATE",
            "REGISTER",
            "MESSAGE",
            "SUBSCRIBE",
            "NOTIFY",
            "PRACK",
            "REFER",
            "PUBLISH",
        ]
    )
}
_OTHER_METHODS: Final = 1 << 14


# what nearly all contacts look like: needs no closer look to be a SIP URI
_PLAIN: Final = re.compile(r"sip:[A-Za-z0-9._+\-]+@[A-Za-z0-9.\-]+(?::[1-5]?[0-9]{1,4})?(?:;[A-Za-z0-9.\-=;]+)?")


class Rejected(SipError):
    """A REGISTER that is answered with an error; ``detail`` tells the phone's engineer why."""

    def __init__(self, status: int, reason: str, detail: str = "", more: list[str] | None = None) -> None:
        super().__init__(status, reason)
        self.detail = detail or reason
        self.contacts: list[str] = []  # the Contact line, when the AoR was looked at
        self._more = more or []

    def headers(self) -> list[str]:
        """Return the header lines of the reply, in Kamailio's order."""
        error = f"P-Registrar-Error: {self.detail}"
        after = [line for line in self._more if line.startswith("Retry-After")]
        return [*self.contacts, *(line for line in self._more if line not in after), error, *after]


@dataclass(frozen=True, slots=True)
class RegistrarParams:
    """Kamailio's names and defaults; times in seconds, ranges in percent."""

    default_expires: int = 3600
    default_expires_range: int = 0
    expires_range: int = 0
    min_expires: int = 60
    min_expires_mode: int = 0  # 1: shorter ones are answered with 423, 0: they are raised to min_expires
    max_expires: int = 0
    default_q: int = -1  # thousandths, -1: none
    realm_prefix: str = ""
    append_branches: int = 1
    case_sensitive: int = 0
    received_param: str = "received"
    received_avp: str = ""  # the AVP that says where a REGISTER came from; else what nathelper.fix_nated_register knows
    sock_hdr_name: str = ""  # the header that says to which listener a REGISTER came (add_sock_hdr of another server)
    sock_flag: int = -1  # only of requests with this message flag
    max_contacts: int = 0
    retry_after: int = 0
    method_filtering: int = 0
    use_path: int = 0
    path_mode: int = 2
    path_use_received: int = 0
    path_check_local: int = 0
    xavp_cfg: str = ""
    xavp_rcd: str = ""  # the xavp that lookup and registered put the contact that they found into
    xavp_rcd_mask: int = 0  # what they leave out: 1 ruid, 2 contact, 4 expires, 8 received, 16 path
    contact_max_size: int = 512
    event_callback: str = ""
    use_expired_contacts: int = 0

    def __post_init__(self) -> None:
        if self.received_avp and not self.received_avp.startswith(("$avp(", "$(avp(")):
            raise ValueError(f"received_avp: expected $avp(NAME), got {self.received_avp!r}")
        if not -1 <= self.sock_flag <= 31:
            raise ValueError("sock_flag: expected a message flag, 0 to 31, or -1")


class Registration:
    """What a REGISTER does to the bindings of an AoR."""

    def __init__(self, services: Services, params: RegistrarParams, usrloc: Usrloc) -> None:
        self._params = params
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
        bindings = location.get(table, aor)
        if contacts is None:  # "*"
            self._check_order(bindings, call_id, cseq, now)
            location.put(table, aor, [])
            return DELETED, []
        if not contacts:
            return QUERIED, self._headers(bindings, now)
        template, headers = self._template(ctx, request, call_id, cseq)
        expires = parse_expires(request.get("expires"), params.default_expires)
        result, inserted, changed = INSERTED, False, False
        try:
            for contact in contacts:
                new = template if len(contacts) == 1 else template.copy()
                self._fill(ctx, new, contact, expires, flags)
                change = self._apply(bindings, new, now)
                if change:
                    result, changed = change, True
                    inserted = inserted or change == INSERTED
            if inserted and (params.max_contacts or params.xavp_cfg or len(bindings) > MOST_OF_AOR):
                self._check_number(ctx, bindings, flags, new, now)
        except Rejected as error:
            error.contacts = self._headers(location.get(table, aor), now)
            raise
        if flags & ONE_CONTACT and len(bindings) > 1:
            bindings = [b for b in bindings if b.cseq == cseq and b.call_id == call_id]
            changed = True
        if changed:
            location.put(table, aor, bindings)
        return result, self._headers(bindings, now) + headers

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
        if self._params.use_path and request.has("path"):
            path, headers = path_of(request, self._params.path_mode)
            if path and self._params.path_use_received:
                received = unescape(parse_uri(first_uri(path)).param("received") or "") or received
        listener = ctx.flow.listener
        if params.sock_flag >= 0 and ctx.shared.flags >> params.sock_flag & 1:
            listener = self._named(request) or listener
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
            methods_of(allow) if allow is not None else 0xFFFFFFFF,
            0,
            ctx.bflags,
        )
        return template, headers

    def _named(self, request: Request) -> Listener | None:
        """Return the listener of ours that the header sock_hdr_name names."""
        text = (request.get(self._params.sock_hdr_name.lower()) or "").strip(" \t")
        for listener, name in self._listener_texts.items():
            if text and text in (name, f"{listener.proto}:{listener.host}"):
                return listener
        if text:
            log.error("%r in %s is no listener of this server", text, self._params.sock_hdr_name)
        return None

    def _fill(self, ctx: RouteContext, new: Binding, contact: NameAddr, header_expires: int | None, flags: int) -> None:
        """Make ``new`` the binding that ``contact`` asks for; -1 for ``expires`` means its removal."""
        now = ctx.now
        q, expires = self._params.default_q, header_expires
        if contact.params:
            text = contact.param("expires")
            if text:
                expires = parse_expires(text, self._params.default_expires)
            new.instance = unquote(contact.param("+sip.instance") or "")
            reg_id = contact.param("reg-id") or ""
            new.reg_id = int(reg_id) if reg_id.isdecimal() and len(reg_id) <= 9 else 0
            q = parse_q(contact.param("q"), q)
        new.uri = contact.uri
        new.q = ctx.cache.get("registrar.q", q)
        new.expires = -1.0 if expires == 0 else now + self._lifetime(ctx, expires, flags)
        new.modified = now

    def _lifetime(self, ctx: RouteContext, asked: int | None, flags: int) -> int:
        """Return for how many seconds a contact is kept; ``asked`` is None when the REGISTER does not say."""
        params = self._params
        if asked is None:
            seconds, percent = params.default_expires, params.default_expires_range
            if params.xavp_cfg:
                seconds = self.configured(ctx, "expires", seconds)
        else:
            seconds, percent = asked, params.expires_range
        if percent and not flags & NO_RANGE:
            span = seconds * min(percent, 100) // 100
            seconds -= int(self._ids.tag(), 16) % (span + 1)
        if seconds < params.min_expires:
            if params.min_expires_mode and asked is not None:
                minimum = [f"Min-Expires: {params.min_expires}"]
                raise Rejected(423, "Interval Too Brief", "Interval too brief", minimum)
            seconds = params.min_expires
        return min(seconds, params.max_expires) if params.max_expires else seconds

    def _headers(self, bindings: list[Binding], now: float) -> list[str]:
        """Return the Contact line of a reply, none when there is no valid binding."""
        valid = [b for b in bindings if b.expires > now or not b.expires]
        if not valid:
            return []
        return [render_contacts(self._usrloc.in_order(valid), now, self._params.received_param)]

    def configured(self, ctx: RouteContext, name: str, default: Any) -> Any:
        """Return ``$xavp(CFG=>name)`` with CFG the parameter xavp_cfg, or ``default``."""
        items = ctx.shared.xavps.get(self._params.xavp_cfg)
        value = items[0].get(name) if items else None
        if isinstance(value, list):
            value = value[0] if value else None
        return default if value is None else value


def lower(text: str) -> str:
    """Return ``text`` with A to Z in lower case and all other octets as they are."""
    return text.lower() if text.isascii() else text.translate(_LOWER)


def contacts_of(request: Request, max_size: int) -> list[NameAddr] | None:
    """Return the contacts of a REGISTER, an empty list for a query, None for "*". Raise Rejected, ParseError."""
    value = request.get("contact")
    if value is None:
        return []
    is_one = value and "," not in value and "contact" not in request.shape.repeated
    values = [value] if is_one else _reversed_lists(request)
    if "*" in values:
        if len(values) > 1:
            raise Rejected(400, "Bad Request", "* used in contact and more than 1 contact")
        if (request.get("expires") or "").strip("0") or not request.get("expires"):
            raise Rejected(400, "Bad Request", "* used in contact and expires is not zero")
        return None
    if not values:
        raise Rejected(400, "Bad Request", "Contact parse error")
    if len(values) > MOST_CONTACTS:
        raise Rejected(400, "Bad Request", "Too many contacts")
    contacts = []
    for value in values:
        try:
            contact = parse_name_addr(value)
            if _PLAIN.fullmatch(contact.uri) is None:
                parse_uri(contact.uri)
        except ParseError:
            raise Rejected(400, "Bad Request", "Contact parse error") from None
        if len(contact.uri) > max_size:
            raise Rejected(400, "Bad Request", "Contact/received too long")
        contacts.append(contact)
    return contacts


def _reversed_lists(request: Request) -> list[str]:
    """Return the values of all Contact headers, those of one header the last first, as Kamailio takes them."""
    values: list[str] = []
    for line in request.all("contact"):
        values += [value for value in reversed(split_quoted(line, ",")) if value]
    return values


def parse_expires(text: str | None, default: int) -> int | None:
    """Return the seconds in ``text``, None for no text; a malformed number is ``default`` (RFC 3261 section 20.10)."""
    if text is None:
        return None
    if text[:1] == '"':
        text = unquote(text)
    if not text.isdecimal() or len(text) > 10:
        return default
    return min(int(text), _MAX_SECONDS)


def parse_q(text: str | None, default: int) -> int:
    """Return a qvalue in thousandths (RFC 3261 section 25.1). Raise Rejected."""
    if not text:
        return default
    whole, _, digits = text.partition(".")
    if whole not in ("0", "1", "") or not (digits or whole) or len(digits) > 3 or (digits and not digits.isdecimal()):
        raise Rejected(400, "Bad Request", "Invalid q param in contact")
    q = int(whole or "0") * 1000 + int((digits + "000")[:3])
    if q > 1000:
        raise Rejected(400, "Bad Request", "Invalid q param in contact")
    return q


def render_q(q: int) -> str:
    """Return thousandths as a qvalue: 500 is ``0.5``."""
    return "1" if q >= 1000 else f"0.{q:03d}".rstrip("0").rstrip(".")


@lru_cache(maxsize=512)
def methods_of(allow: str) -> int:
    """Return the bits of the methods in an Allow value."""
    bits = 0
    for method in allow.split(","):
        bits |= _METHODS.get(method.strip(" \t").upper(), _OTHER_METHODS)
    return bits


def path_of(request: Request, mode: int) -> tuple[str, list[str]]:
    """Return the Path values to be stored, comma-separated, and the lines of the 200 (path_mode). Raise Rejected."""
    path = ",".join(request.all("path"))
    if mode == 0:
        return path, []
    supported = any(option.lower() == "path" for option in request.list("supported"))
    line = f"Path: {path}"
    if mode == 1:
        return path, [line] if supported else []
    if not supported:
        raise Rejected(420, "Bad Extension", "No support for found Path indicated", ["Unsupported: path", line])
    return path, [line]


def render_contacts(bindings: list[Binding], now: float, received_param: str) -> str:
    """Return the Contact line that lists ``bindings``, with the seconds that are left of each."""
    out = []
    for b in bindings:
        text = f"<{b.uri}>"
        if b.q >= 0:
            text += f";q={render_q(b.q)}"
        text += f";expires={max(int(b.expires - now + 0.5), 1) if b.expires else 0}"
        if b.received and received_param:
            text += f';{received_param}="{b.received}"'
        if b.instance:
            text += f";+sip.instance={quote(b.instance)}"
        if b.reg_id:
            text += f";reg-id={b.reg_id}"
        out.append(text)
    return "Contact: " + ", ".join(out)


def first_uri(values: str) -> str:
    """Return the URI of the first of comma-separated name-addr values (Path, Route). Raise ParseError."""
    return parse_name_addr(split_quoted(values, ",")[0]).uri
