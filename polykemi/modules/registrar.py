"""registrar: REGISTER and the lookup of contacts (RFC 3261 section 10, RFC 3327; Kamailio: registrar)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Final

from polykemi.errors import ParseError, SipError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.faked import event_context
from polykemi.kemi.registry import Xval, export
from polykemi.kemi.route import Route
from polykemi.modules.base import Module, Services
from polykemi.modules.registrar_contacts import Rejected, parse_q
from polykemi.modules.registrar_gruu import Gruus
from polykemi.modules.registrar_lookup import Lookup
from polykemi.modules.registrar_params import RegistrarParams
from polykemi.modules.registration import Registration
from polykemi.modules.ulc import Profile, ulc_class
from polykemi.modules.usrloc import Usrloc
from polykemi.pv.accessor import Factory
from polykemi.sip.flow import Listener
from polykemi.sip.grammar import canonical_host, is_token
from polykemi.sip.message import Request
from polykemi.sip.uri import parse_uri
from polykemi.storage.location import Binding

log = logging.getLogger("polykemi.registrar")

NO_REPLY: Final = 0x02  # a flag of save()

_MATCHES: Final = ((1, "match_callid", "call_id"), (2, "match_received", "received"), (4, "match_contact", "uri"))
# Kamailio's statistics that show parameters, and these
_LIMITS: Final = {
    "max_expires": "max_expires",
    "max_contacts": "max_contacts",
    "default_expire": "default_expires",
    "default_expires_range": "default_expires_range",
    "expires_range": "expires_range",
}
_MAX_PROFILES: Final = 64  # $ulc profiles kept; their names come from scripts


class Registrar(Module):
    """Keeps the bindings of addresses of record and finds them."""

    name = "registrar"
    requires = ("sl",)
    Params = RegistrarParams
    events: ClassVar[Mapping[str, str]] = {
        "usrloc:contact-expired": "a contact is over and was not registered again; $ulc(exp=>x) is of it"
    }

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self._gruus: Gruus | None = None
        self._use(Usrloc(services))
        self._listeners: dict[str, Listener] = {str(x): x for x in services.listeners}
        self._profiles: dict[str, Profile] = {}

    def start(self, now: float) -> None:
        """Work with the usrloc module that is loaded; without one its defaults hold."""
        if self.params.gruu_enabled:
            self._gruus = Gruus(self.services.lasting_secret("registrar.gruu"))
        self._use(self.services.modules.get("usrloc") or self._usrloc)
        for name in ("accepted_regs", "rejected_regs"):
            self.services.counters.setdefault(f"registrar.{name}", 0)
        for name, parameter in _LIMITS.items():
            self.services.figures[f"registrar.{name}"] = partial(getattr, self.params, parameter)
        if self.params.event_callback:
            self._usrloc.on_expired.append(self._contact_expired)

    def _use(self, usrloc: Usrloc) -> None:
        self._usrloc = usrloc
        services, params = self.services, self.params
        self._registration = Registration(services, params, usrloc, self._gruus)
        self._lookups = Lookup(services, params, usrloc, self._gruus, self._registration.configured)

    def pv_classes(self) -> Mapping[str, Factory]:
        """Return $ulc."""
        return {"ulc": ulc_class(self.profile)}

    def profile(self, ctx: RouteContext, name: str) -> Profile | None:
        """Return what reg_fetch_contacts left in ``name``; in the event of an expired contact "exp" is that contact."""
        expired: Profile | None = ctx.cache.get("registrar.expired")
        return expired if expired is not None and name == "exp" else self._profiles.get(name)

    # ---- save
    @export(routes=Route.REQUEST | Route.FAILURE)
    def save(self, ctx: RouteContext, table: str, flags: int) -> int:
        """Process a REGISTER and reply to it (RFC 3261 section 10.3).

        ``flags``: 1 no effect, 2 no reply, 4 one contact per AoR, 8 no expires ranges. Answers 1 inserted, 2 updated,
        3 deleted, 4 queried, -1 error (replied to as well), -2 too many contacts.
        """
        return self._save(ctx, table, flags, None)

    @export(routes=Route.REQUEST | Route.FAILURE)
    def save_uri(self, ctx: RouteContext, table: str, flags: int, uri: str) -> int:
        """Do as ``save`` for the AoR in ``uri`` instead of the one in To."""
        return self._save(ctx, table, flags, uri)

    def _save(self, ctx: RouteContext, table: str, flags: int, uri: str | None) -> int:
        if not self._lookups.has_table(table):
            return -1
        request = ctx.request
        counters = self.services.counters
        aor = ""
        try:
            aor = self._lookups.aor(request.to.uri if uri is None else uri)
            result, headers = self._registration.update(ctx, request, table, aor, flags)
        except SipError as error:
            counters["registrar.rejected_regs"] = counters.get("registrar.rejected_regs", 0) + 1
            if isinstance(error, Rejected):
                rejected = error
            elif aor:
                rejected = Rejected(error.status, error.reason)
            else:
                rejected = Rejected(400, "Bad Request", "Error while parsing AOR")
            log.info("rejected a REGISTER from %s: %s", ctx.flow.host, rejected.detail)
            self._answer(ctx, flags, rejected.status, rejected.reason, rejected.headers())
            return -2 if rejected.status == 503 else -1
        counters["registrar.accepted_regs"] = counters.get("registrar.accepted_regs", 0) + 1
        self._answer(ctx, flags, 200, "OK", headers)
        return result

    @export(routes=Route.REQUEST | Route.FAILURE)
    def reg_send_reply(self, ctx: RouteContext) -> int:
        """Send the reply that a ``save`` with flag 2 has held back. Answers 1, or -1."""
        held = ctx.cache.get("registrar.reply")
        return -1 if held is None else self._send(ctx, *held)

    def _answer(self, ctx: RouteContext, flags: int, status: int, reason: str, headers: list[str]) -> None:
        if flags & NO_REPLY:
            ctx.cache["registrar.reply"] = (status, reason, headers)
        else:
            self._send(ctx, status, reason, headers)

    def _send(self, ctx: RouteContext, status: int, reason: str, headers: list[str]) -> int:
        before = ctx.reply_headers
        ctx.reply_headers = [*before, *headers]
        try:
            return int(self.services.modules["sl"].send_reply(ctx, status, reason))
        except ParseError:  # To or Via is so broken that there is no reply
            return -1
        finally:
            ctx.reply_headers = before

    @export(routes=Route.REQUEST | Route.FAILURE)
    def set_q_override(self, ctx: RouteContext, q: str) -> int:
        """Give the contacts of the following ``save`` this q ("0" to "1", three decimals). Answers 1, or -1."""
        try:
            ctx.cache["registrar.q"] = parse_q(q or "?", -1)
        except Rejected:
            return -1
        return 1

    @export(routes=Route.REQUEST | Route.FAILURE)
    def add_sock_hdr(self, ctx: RouteContext, name: str) -> int:
        """Add the header ``name`` to the request, with the listener that it came to: ``udp:192.0.2.1:5060``. Answers 1 or -1."""
        if not is_token(name):
            return -1
        ctx.edits.inserts.append((len(ctx.message.lines), f"{name}: {ctx.flow.listener}"))
        return 1

    # ---- lookup
    @export(routes=Route.REQUEST | Route.FAILURE)
    def lookup(self, ctx: RouteContext, table: str) -> int:
        """Replace the Request-URI by the best contact of its AoR and append the others as branches.

        Answers 1, -1 no contact, -2 none that supports the method (method_filtering), -3 error.
        """
        return self._lookup(ctx, table, ctx.ruri)

    @export(routes=Route.REQUEST | Route.FAILURE)
    def lookup_uri(self, ctx: RouteContext, table: str, uri: str) -> int:
        """Do as ``lookup`` for the AoR in ``uri`` instead of the Request-URI's."""
        return self._lookup(ctx, table, uri)

    @export(routes=Route.REQUEST | Route.FAILURE)
    def lookup_to_dset(self, ctx: RouteContext, table: str, uri: str) -> int:
        """Append all contacts of the AoR in ``uri`` as branches and leave the Request-URI as it is."""
        found = self._lookups.contacts(ctx, table, uri)
        if isinstance(found, int):
            return found
        ctx.branches += [self._lookups.target(b) for b in found]
        return 1

    @export(routes=Route.REQUEST | Route.FAILURE)
    def lookup_branches(self, ctx: RouteContext, table: str) -> int:
        """Do as ``lookup`` for the Request-URI, and for each branch that is no more than a URI: its contacts replace it."""
        branches, ctx.branches = ctx.branches, []
        result = self._lookup(ctx, table, ctx.ruri)
        for branch in branches:
            if branch.dst_uri or branch.path or branch.ruid or branch.listener is not None:
                ctx.branches.append(branch)
                continue
            found = self._lookups.contacts(ctx, table, branch.uri)
            if isinstance(found, int):
                result = found if result < 0 else result
            else:
                ctx.branches += [self._lookups.target(b) for b in found]
                result = 1
        return result

    @export(routes=Route.REQUEST | Route.FAILURE)
    def lookup_xavp(self, ctx: RouteContext, table: str, uri: str, rxname: str, cxname: str) -> int:
        """Find the contacts of the AoR in ``uri`` and put them into xavps: 1, or -1 when there are none.

        $xavp(rxname=>aor) and $xavp(rxname=>count) are of the AoR; $xavp(cxname[n]=>uri), =>socket and =>dsturi of its
        contacts, expired ones too.
        """
        if not self._lookups.has_table(table):
            return -1
        aor = self._lookups.aor(uri)
        found = self._usrloc.in_order(self.services.location.get(table, aor))
        if not found:
            return -1
        contacts = []
        for b in found:
            fields = {"uri": b.uri, "socket": b.listener, "dsturi": b.received}
            contacts.append({field: [value] for field, value in fields.items() if value})
        xavps = ctx.shared.xavps
        xavps[cxname] = contacts + xavps.get(cxname, [])
        xavps.setdefault(rxname, []).insert(0, {"aor": [aor], "count": [len(found)]})
        return 1

    def _lookup(self, ctx: RouteContext, table: str, uri: str) -> int:
        found = self._lookups.contacts(ctx, table, uri)
        if isinstance(found, int):
            return found
        best = found[0]
        first = self._lookups.target(best)
        ctx.ruri = first.uri
        ctx.dst_uri = first.dst_uri
        ctx.path = first.path
        ctx.ruid = first.ruid
        ctx.cache["pv.location_ua"] = first.user_agent
        ctx.instance = first.instance
        ctx.bflags = first.flags
        ctx.cache["ruri_q"] = first.q  # for t_load_contacts
        ctx.force_listener = first.listener or ctx.force_listener
        self._record(ctx, best)
        if self.params.append_branches and len(found) > 1:
            ctx.branches += [self._lookups.target(b) for b in found[1:]]
        return 1

    # ---- questions
    @export()
    def registered(self, ctx: RouteContext, table: str) -> int:
        """Tell whether the AoR in the Request-URI (of replies: in To) has a valid contact: 1 or -1."""
        message = ctx.message
        return self._registered(ctx, table, ctx.ruri if isinstance(message, Request) else message.to.uri, 0)

    @export()
    def registered_uri(self, ctx: RouteContext, table: str, uri: str) -> int:
        """Tell whether the AoR in ``uri`` has a valid contact: 1 or -1."""
        return self._registered(ctx, table, uri, 0)

    @export()
    def registered_flags(self, ctx: RouteContext, table: str, uri: str, flags: int) -> int:
        """Tell whether the AoR in ``uri`` has a valid contact with what the xavp of ``xavp_cfg`` says: 1 or -1.

        ``flags``: 1 match_callid, 2 match_received, 4 match_contact.
        """
        return self._registered(ctx, table, uri, flags)

    @export()
    def registered_action(self, ctx: RouteContext, table: str, uri: str, flags: int, aflags: int) -> int:
        """Tell like ``registered_flags``; ``aflags`` 2: leave the xavp of the parameter xavp_rcd as it is. 1 or -1."""
        return self._registered(ctx, table, uri, flags, aflags)

    def _registered(self, ctx: RouteContext, table: str, uri: str, flags: int, aflags: int = 0) -> int:
        if not self._lookups.has_table(table):
            return -1
        found = self._lookups.valid(ctx, table, self._lookups.aor(uri))
        for bit, name, field in _MATCHES:
            wanted = self._registration.configured(ctx, name, "") if flags & bit else ""
            if wanted:  # what the xavp does not say is not looked at
                found = [b for b in found if getattr(b, field) == wanted]
        if not found:
            return -1
        if not aflags & 2:
            self._record(ctx, self._usrloc.in_order(found)[0])
        return 1

    def _record(self, ctx: RouteContext, binding: Binding) -> None:
        """Put what the contact is into the xavp that the parameter xavp_rcd names, before what is there."""
        name, mask = self.params.xavp_rcd, self.params.xavp_rcd_mask
        if not name:
            return
        items = ctx.shared.xavps.setdefault(name, [])
        if not items:
            items.append({})
        for bit, field, value in (
            (1, "ruid", binding.ruid),
            (2, "contact", binding.uri),
            (8, "received", binding.received),
            (4, "expires", int(binding.expires - ctx.now)),
            (16, "path", binding.path),
        ):
            if not mask & bit and value != "":
                items[0].setdefault(field, []).insert(0, value)

    @export()
    def reg_from_user(self, ctx: RouteContext, table: str, uri: str, mode: int) -> int:
        """Tell whether the message comes from where a contact of the AoR in ``uri`` is: 1 or -1.

        A contact is where its REGISTER came from, if fix_nated_register has kept that, else where its URI says. Addresses
        are compared; ``mode`` 1: ports too, 2: protocols too.
        """
        if not self._lookups.has_table(table):
            return -1
        for binding in self.services.location.get(table, self._lookups.aor(uri)):
            place = parse_uri(binding.received or binding.uri)
            if (
                canonical_host(place.host) == ctx.flow.host
                and (not mode & 1 or place.effective_port == ctx.flow.port)
                and (not mode & 2 or (place.transport or "udp") == ctx.flow.listener.transport)
            ):
                return 1
        return -1

    # ---- removal
    @export()
    def unregister(self, ctx: RouteContext, table: str, uri: str) -> int:
        """Remove all contacts of the AoR in ``uri``. Answers 1 (also when there were none), or -1."""
        if not self._lookups.has_table(table):
            return -1
        self.services.location.put(table, self._lookups.aor(uri), [])
        return 1

    @export()
    def unregister_ruid(self, ctx: RouteContext, table: str, uri: str, ruid: str) -> int:
        """Remove the contact ``ruid`` of the AoR in ``uri``. Answers 1, -1 for a bad URI, -3 when it is not there."""
        if not self._lookups.has_table(table):
            return -1
        aor = self._lookups.aor(uri)
        bindings = self.services.location.get(table, aor)
        left = [b for b in bindings if b.ruid != ruid]
        if len(left) == len(bindings):
            return -3
        self.services.location.put(table, aor, left)
        return 1

    # ---- $ulc
    @export()
    def reg_fetch_contacts(self, ctx: RouteContext, table: str, uri: str, profile: str) -> int:
        """Fetch the contacts of the AoR in ``uri`` for $ulc(profile=>...). Answers 1, or -1 when there are none."""
        self._profiles.pop(profile, None)
        if not self._lookups.has_table(table):
            return -1
        aor = self._lookups.aor(uri)
        bindings = self._usrloc.in_order(self._lookups.valid(ctx, table, aor))
        if not bindings:
            return -1
        if len(self._profiles) >= _MAX_PROFILES:
            del self._profiles[next(iter(self._profiles))]
        self._profiles[profile] = Profile(table, aor, bindings)
        return 1

    @export()
    def reg_free_contacts(self, ctx: RouteContext, profile: str) -> int:
        """Forget what was fetched for ``profile``. Answers 1."""
        self._profiles.pop(profile, None)
        return 1

    @export()
    def ulc_rget(self, ctx: RouteContext, profile: str, attr: str) -> Xval:
        """Return an attribute of the AoR in ``profile``: aor, domain or count; null when there is none."""
        found = self.profile(ctx, profile)
        return found.get(attr, 0) if found is not None and attr in ("aor", "domain", "count") else None

    @export()
    def ulc_cget(self, ctx: RouteContext, profile: str, attr: str, index: int) -> Xval:
        """Return an attribute of contact ``index`` in ``profile``, as $(ulc(profile=>attr)[index]) does."""
        found = self.profile(ctx, profile)
        return found.get(attr, index) if found is not None else None

    def _contact_expired(self, table: str, aor: str, binding: Binding, now: float) -> None:
        """Queue the event route block usrloc:contact-expired."""
        callback = self.params.event_callback
        listener = self._listeners.get(binding.listener) or self.services.listeners[0]
        ctx = event_context(callback, "usrloc:contact-expired", listener, now)
        ctx.cache["registrar.expired"] = Profile(table, aor, [binding])
        self.services.events.append(ctx)
