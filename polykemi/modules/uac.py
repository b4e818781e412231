"""uac: what a client does: requests of our own, credentials for other servers, other names, registrations (Kamailio: uac)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from polykemi.errors import DataError, ParseError
from polykemi.kemi.context import Process, RouteContext
from polykemi.kemi.registry import Xval, export
from polykemi.kemi.route import Route
from polykemi.modules.base import Services
from polykemi.modules.uac_auth import Challenge, Credential, authorization, challenge_of
from polykemi.modules.uac_reg import DISABLED, Registration, Registrations
from polykemi.modules.uac_replace import AUTO, MANUAL, NONE, Replacer, Side
from polykemi.modules.uac_rpc import UacCommands
from polykemi.modules.uac_send import EVENTS, Sender
from polykemi.pv.accessor import Accessor, Factory
from polykemi.pv.classes.avp import avp_parameter
from polykemi.sip.flow import Listener, find_listener
from polykemi.sip.uri import parse_uri
from polykemi.transaction.forking import Branch

log = logging.getLogger("polykemi.uac")

_ON_REQUESTS: Final = Route.REQUEST | Route.BRANCH | Route.FAILURE | Route.BRANCH_FAILURE
_USER: Final = 1  # uac_reg_request_to: by l_username, not by l_uuid


@dataclass(frozen=True, slots=True)
class UacParams:
    """Kamailio's names and defaults. Registrations are on when ``reg_db_url`` says anything; the database is the server's."""

    rr_from_store_param: str = "vsf"
    rr_to_store_param: str = "vst"
    restore_mode: str = AUTO  # none, manual (by uac_restore_from/to), auto (by loose_route)
    restore_dlg: int = 0  # taken, but without effect: what was replaced travels in the Record-Route
    restore_passwd: str = ""  # what the Record-Route's parameter is mixed with
    restore_from_avp: str = ""
    restore_to_avp: str = ""
    credential: tuple[str, ...] = ()  # user:realm:password
    auth_username_avp: str = ""
    auth_realm_avp: str = ""
    auth_password_avp: str = ""
    reg_db_url: str = ""
    reg_db_table: str = "uacreg"
    reg_contact_addr: str = ""  # host and port of the Contact
    reg_timer_interval: int = 90  # seconds
    reg_retry_interval: int = 0  # seconds after a failure; 0: a registration that failed is disabled
    reg_keep_callid: int = 0
    reg_random_delay: int = 0  # seconds
    reg_active: int = 1
    reg_gc_interval: int = 150  # taken, but without effect: what is not used is freed by itself
    reg_hash_size: int = 4  # taken, but without effect
    reg_use_domain: int = 0
    default_socket: str = ""
    event_callback: str = ""

    def __post_init__(self) -> None:
        if self.restore_mode.lower() not in (NONE, MANUAL, AUTO):
            raise ValueError(f"restore_mode: expected none, manual or auto, got {self.restore_mode!r}")
        avps = (self.auth_username_avp, self.auth_realm_avp, self.auth_password_avp)
        if any(avps) and not all(avps):
            raise ValueError("auth_username_avp: expected it together with auth_realm_avp and auth_password_avp")
        if self.reg_db_url and not self.reg_contact_addr:
            raise ValueError("reg_contact_addr: expected host:port when reg_db_url is set")
        for name in ("restore_from_avp", "restore_to_avp"):
            avp_parameter(name, getattr(self, name))
        for text in self.credential:
            Credential.parse(text)


class Uac(UacCommands):
    """The client's side."""

    name = "uac"
    Params = UacParams
    requires: ClassVar[tuple[str, ...]] = ("tm", "rr")
    events: ClassVar[Mapping[str, str]] = EVENTS

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        p: UacParams = self.params
        self._credentials = [Credential.parse(text) for text in p.credential]
        self._sender = Sender(services, self._listener_of, p.event_callback)
        self._default: Listener | None = None
        self._avps: list[Accessor] = []  # for realm, user and password, or none of them
        self._due: float | None = None

    def start(self, now: float) -> None:
        """Find what this works on; read the registrations. Raise DataError."""
        p: UacParams = self.params
        modules = self.services.modules
        self.now = now
        if p.default_socket:
            self._default = self._listener_of(p.default_socket)
            if self._default is None:
                raise DataError(f"uac: default_socket: {p.default_socket!r} is no socket of ours")
        names = ("auth_realm_avp", "auth_username_avp", "auth_password_avp")
        self._avps = [avp for name in names if (avp := self.variable(name, getattr(p, name), settable=True))]
        mode = p.restore_mode.lower()
        sides = (
            Side("from", p.rr_from_store_param, avp_parameter("restore_from_avp", p.restore_from_avp)),
            Side("to", p.rr_to_store_param, avp_parameter("restore_to_avp", p.restore_to_avp)),
        )
        self._replacer = Replacer(modules["rr"], modules["tm"].relayer, sides, mode, p.restore_passwd)
        if mode == AUTO:
            modules["rr"].on_routed.append(self._replacer.routed)
        if p.reg_db_url:
            self.registrations = Registrations(self.services, p, self._listener_of)
            self.registrations.load(now)
            self._due = now

    def _listener_of(self, text: str) -> Listener | None:
        """Return our listener ``proto:host:port``, None when there is none; "": default_socket."""
        if not text:
            return self._default
        return find_listener(text, self.services.listeners, 5060)

    def next_timeout(self) -> float | None:
        """Return when registrations are looked through next."""
        return self._due

    def handle_timer(self, now: float) -> None:
        """Send the registrations that are due."""
        if self._due is not None and now >= self._due and self.registrations is not None:
            self.now = now
            self._due = now + max(self.params.reg_timer_interval, 1)
            self.registrations.run(now)

    def pv_classes(self) -> Mapping[str, Factory]:
        """Return $uac_req."""
        return {"uac_req": self._sender.variable()}

    # ---- credentials
    @export(routes=Route.FAILURE | Route.BRANCH_FAILURE)
    def uac_auth(self, ctx: RouteContext) -> int:
        """Add credentials for the 401 or 407 that came: from the variables of auth_realm_avp and its kin, else ``credential``.

        The Request-URI is then that of the failed branch. Answers 1, or -1 without a challenge or credentials for its realm.
        """
        return self.uac_auth_mode(ctx, 0)

    @export(routes=Route.FAILURE | Route.BRANCH_FAILURE)
    def uac_auth_mode(self, ctx: RouteContext, mode: int) -> int:
        """Do as ``uac_auth``; mode 1: the password is H(user:realm:password)."""
        branch = ctx.branch
        if not isinstance(branch, Branch) or branch.reply is None:
            log.error("uac_auth: no response to answer")
            return -1
        try:
            challenge = challenge_of(branch.reply)
        except ParseError as error:
            log.error("uac_auth: %s", error.reason)
            return -1
        credential = self._credential(ctx, challenge, is_ha1=bool(mode & 1))
        if credential is None:
            log.info("uac_auth: no credentials for the realm %s", challenge.realm)
            return -1
        line = authorization(challenge, credential, ctx.method, branch.uri, self.services.ids.tag())
        ctx.edits.inserts.append((len(ctx.message.lines), line))
        ctx.ruri = branch.uri
        ctx.cache.pop("tm.consumed", None)
        return 1

    def _credential(self, ctx: RouteContext, challenge: Challenge, *, is_ha1: bool) -> Credential | None:
        if self._avps:
            realm, user, password = (str(value or "") for value in (accessor.get(ctx) for accessor in self._avps))
            if realm in ("", challenge.realm) and user and password:
                return Credential(challenge.realm, user, password, is_ha1)
        for known in reversed(self._credentials):  # the last one given counts
            if known.realm == challenge.realm:
                return Credential(known.realm, known.user, known.password, is_ha1)
        return None

    # ---- requests of our own
    @export()
    def uac_req_send(self, ctx: RouteContext) -> Process[int]:
        """Send the request that $uac_req(...) describes. Answers 1, or -1 when it cannot be sent."""
        return (yield from self._sender.send(ctx))

    # ---- From and To
    @export(routes=_ON_REQUESTS)
    def uac_replace_from(self, ctx: RouteContext, pdsp: str, puri: str) -> int:
        """Replace display name ("" removes it) and URI ("" keeps it) of From; responses carry the old ones. Answers 1 or -1."""
        return self._replace(ctx, puri, display=pdsp, is_from=True)

    @export(routes=_ON_REQUESTS)
    def uac_replace_from_uri(self, ctx: RouteContext, puri: str) -> int:
        """Replace the URI of From; responses carry the old one. Answers 1 or -1."""
        return self._replace(ctx, puri, display=None, is_from=True)

    @export(routes=_ON_REQUESTS)
    def uac_replace_to(self, ctx: RouteContext, pdsp: str, puri: str) -> int:
        """Replace display name ("" removes it) and URI ("" keeps it) of To; responses carry the old ones. Answers 1 or -1."""
        return self._replace(ctx, puri, display=pdsp, is_from=False)

    @export(routes=_ON_REQUESTS)
    def uac_replace_to_uri(self, ctx: RouteContext, puri: str) -> int:
        """Replace the URI of To; responses carry the old one. Answers 1 or -1."""
        return self._replace(ctx, puri, display=None, is_from=False)

    def _replace(self, ctx: RouteContext, uri: str, *, display: str | None, is_from: bool) -> int:
        replacer = self._replacer
        return replacer.replace(ctx, replacer.sender if is_from else replacer.receiver, display, uri)

    @export(routes=_ON_REQUESTS)
    def uac_restore_from(self, ctx: RouteContext) -> int:
        """Restore within a dialog what ``uac_replace_from`` changed (restore_mode manual; after loose_route). Answers 1 or -1."""
        return self._replacer.restore(ctx, self._replacer.sender)

    @export(routes=_ON_REQUESTS)
    def uac_restore_to(self, ctx: RouteContext) -> int:
        """Restore within a dialog what ``uac_replace_to`` changed (restore_mode manual; after loose_route). Answers 1 or -1."""
        return self._replacer.restore(ctx, self._replacer.receiver)

    # ---- registrations
    @export()
    def uac_reg_lookup(self, ctx: RouteContext, userid: str, sdst: str) -> int:
        """Put the local address (sip:l_username@l_domain) of the registration with this uuid into a variable. Answers 1 or -1."""
        one = self._registration(userid)
        return self._assign(ctx, sdst, None if one is None else f"sip:{one.l_username}@{one.l_domain}")

    @export()
    def uac_reg_lookup_uri(self, ctx: RouteContext, suri: str, sdst: str) -> int:
        """Put the uuid of a local user's registration into a variable. Answers 1, -1, or -2 for what is no URI."""
        if self.services.variables.setter(sdst) is None:
            return -1
        try:
            uri = parse_uri(suri)
        except ParseError:
            return -2
        one = self._of_user(uri.user, uri.host)
        return self._assign(ctx, sdst, None if one is None else one.l_uuid)

    @export()
    def uac_reg_status(self, ctx: RouteContext, sruuid: str) -> int:
        """Tell how a registration stands: 1 there, -1 unknown, -2 on its way, -3 disabled, -99 none of these."""
        one = self._registration(sruuid)
        return -1 if one is None or self.registrations is None else self.registrations.status(one, ctx.now)

    @export(routes=_ON_REQUESTS)
    def uac_reg_request_to(self, ctx: RouteContext, userid: str, imode: int) -> int:
        """Set Request-URI, $du and the variables of auth_realm_avp and its kin as a registration has them. Answers 1 or -1.

        ``userid`` is its uuid, with mode 1 its local user. -2: that is no URI (reg_use_domain).
        """
        if imode > _USER:
            log.error("uac_reg_request_to: unknown mode %d", imode)
            return -1
        if imode & _USER:
            user, domain = userid, ""
            if self.params.reg_use_domain:
                try:
                    uri = parse_uri(userid)
                except ParseError:
                    return -2
                user, domain = uri.user, uri.host
            one = self._of_user(user, domain)
        else:
            one = self._registration(userid)
        if one is None:
            return -1
        ctx.ruri, ctx.dst_uri = f"sip:{one.r_username}@{one.r_domain}", one.auth_proxy
        if not self._avps:
            log.error("uac_reg_request_to: auth_realm_avp is not set")
            return -1
        for accessor, value in zip(self._avps, (one.realm, one.auth_username, one.auth_password), strict=True):
            if accessor.set is None or not accessor.set(ctx, value):
                return -1
        return 1

    @export()
    def uac_reg_enable(self, ctx: RouteContext, attr: str, val: str) -> int:
        """Let a registration be sent again. Answers 1, -1, -2 (not found), -3 (bad attribute).

        ``attr`` is l_uuid, l_username, r_username or auth_username, ``val`` its value.
        """
        return self._flag(ctx, attr, val, disabled=False)

    @export()
    def uac_reg_disable(self, ctx: RouteContext, attr: str, val: str) -> int:
        """Send a registration no more. Answers as ``uac_reg_enable``."""
        return self._flag(ctx, attr, val, disabled=True)

    def _flag(self, ctx: RouteContext, attribute: str, value: str, *, disabled: bool) -> int:
        if self.registrations is None or not attribute or not value:
            return -1
        try:
            one = self.registrations.find(attribute, value)
        except KeyError:
            return -3
        if one is None:
            return -2
        self.registrations.set_flags(one, one.flags | DISABLED if disabled else one.flags & ~DISABLED)
        one.timer_expires = ctx.now + 1
        return 1

    @export()
    def uac_reg_refresh(self, ctx: RouteContext, l_uuid: str) -> int:
        """Read the row of a registration anew. Answers 1, or -1 when there is none."""
        if self.registrations is None or not l_uuid:
            return -1
        try:
            return 1 if self.registrations.refresh(l_uuid, ctx.now) else -1
        except DataError as error:
            log.error("uac_reg_refresh: %s", error)
            return -1

    def _registration(self, uuid: str) -> Registration | None:
        return None if self.registrations is None else self.registrations.by_uuid.get(uuid)

    def _of_user(self, user: str, domain: str) -> Registration | None:
        if self.registrations is None:
            return None
        return self.registrations.of_user(user, domain if self.params.reg_use_domain else None)

    def _assign(self, ctx: RouteContext, name: str, value: Xval) -> int:
        return 1 if value is not None and self.services.variables.put(ctx, name, value) else -1
