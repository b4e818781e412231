"""auth_db: digest checks against the subscriber table (RFC 3261 section 22; Kamailio: auth_db)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

from polykemi.errors import DataError, ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.kemi.route import Route
from polykemi.modules.auth import ERROR, OK, PROXY, USER_MISMATCH, WWW, Auth, Found
from polykemi.modules.base import Module, Services
from polykemi.pv.accessor import Accessor
from polykemi.sip import digest
from polykemi.sip.digest import Credentials
from polykemi.sip.uri import parse_uri

log = logging.getLogger("polykemi.script")

_CHECK_ID: Final = 1  # flags of auth_check
_SKIP_FORWARDED: Final = 2
_FORWARDED: Final = frozenset(("INVITE", "BYE", "PRACK", "UPDATE", "MESSAGE"))

_USE_DOMAIN: Final = 1  # flags of is_subscriber
_NO_CREDENTIALS: Final = 2
_NOT_FOUND: Final = -2


@dataclass(frozen=True, slots=True)
class AuthDbParams:
    """Kamailio's names. Unlike there passwords are plain by default, as SHA-256 needs them to be.

    For a table that has only HA1s: calculate_ha1 0, password_column ha1, password_column_2 ha1b (user@domain names).
    """

    calculate_ha1: int = 1
    user_column: str = "username"
    domain_column: str = "domain"
    password_column: str = "password"
    password_column_2: str = "ha1b"
    use_domain: int = 0
    force_generate_avps: int = 0  # 1: load_credentials also for a wrong password
    load_credentials: str = ""  # "rpid;$avp(mail)=email_address": columns that go into AVPs


class AuthDb(Module):
    """Checks credentials: one SELECT a check, nothing is cached."""

    name = "auth_db"
    Params = AuthDbParams

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self._auth = Auth(services)
        self._loads: list[tuple[Accessor, str]] = []

    def start(self, now: float) -> None:
        """Work with the auth module that is loaded; without one its defaults hold."""
        self._auth = self.services.modules.get("auth") or self._auth
        for item in filter(None, (part.strip(" ") for part in self.params.load_credentials.split(";"))):
            target, _, column = item.rpartition("=")
            accessor = self.services.variables.compile(target.strip(" ") or f"$avp({column})")
            if accessor is not None and accessor.set is not None:
                self._loads.append((accessor, column.strip(" ")))

    @export(routes=Route.REQUEST | Route.FAILURE)
    def auth_check(self, ctx: RouteContext, realm: str, table: str, flags: int) -> int:
        """Check Authorization (REGISTER) or Proxy-Authorization (all else) against ``table``.

        ``flags``: 1 the user must be that of From, for REGISTER and PUBLISH of To, for PUBLISH of the Request-URI too; 2
        not so for INVITE, BYE, PRACK, UPDATE and MESSAGE. Answers 1, -1 error, -2 wrong password, -3 unknown user,
        -4 stale nonce, -5 no credentials for the realm, -6 nonce used before, -8 another user.
        """
        request = ctx.request
        header = WWW if request.method == "REGISTER" else PROXY
        if not realm or not table:
            log.error("auth_db.auth_check: realm and table must not be empty")
            return ERROR
        found = self._auth.pre_auth(ctx, realm, header)
        if isinstance(found, int):
            return found
        result = self._check(ctx, found, table, "")
        if result == OK and flags & _CHECK_ID and not self._is_self(ctx, found.credentials, flags):
            ctx.cache["auth.authorized"].pop()
            return USER_MISMATCH
        return result

    @export(routes=Route.REQUEST | Route.FAILURE)
    def www_authenticate(self, ctx: RouteContext, realm: str, table: str) -> int:
        """Check Authorization against ``table``. Answers as ``auth_check``."""
        return self._authenticate(ctx, realm, table, WWW, "")

    @export(routes=Route.REQUEST | Route.FAILURE)
    def www_authenticate_method(self, ctx: RouteContext, realm: str, table: str, method: str) -> int:
        """Check Authorization as if ``method`` were the request's. Answers as ``auth_check``."""
        return self._authenticate(ctx, realm, table, WWW, method)

    @export(routes=Route.REQUEST | Route.FAILURE)
    def proxy_authenticate(self, ctx: RouteContext, realm: str, table: str) -> int:
        """Check Proxy-Authorization against ``table``. Answers as ``auth_check``."""
        return self._authenticate(ctx, realm, table, PROXY, "")

    @export()
    def is_subscriber(self, ctx: RouteContext, uri: str, table: str, flags: int) -> int:
        """Tell whether the user of ``uri`` is in ``table``: 1, -2 when not, -1 error.

        ``flags``: 1 the domain counts too, 2 the columns of load_credentials are not loaded.
        """
        try:
            parsed = parse_uri(uri)
            domain = parsed.host if flags & _USE_DOMAIN and parsed.host else None
            found = self._column(table, self.params.user_column, parsed.user, domain)
            if found is not None and not flags & _NO_CREDENTIALS:
                self._load(ctx, table, parsed.user, domain)
        except (ParseError, DataError) as error:
            log.error("auth_db.is_subscriber: %s, of %r in %r", error, uri, table)
            return ERROR
        return OK if found is not None else _NOT_FOUND

    def _authenticate(self, ctx: RouteContext, realm: str, table: str, header: str, method: str) -> int:
        if not realm or not table:
            log.error("auth_db: realm and table must not be empty")
            return ERROR
        found = self._auth.pre_auth(ctx, realm, header)
        return found if isinstance(found, int) else self._check(ctx, found, table, method)

    def _check(self, ctx: RouteContext, found: Found, table: str, method: str) -> int:
        """Look the password up and check the response; load the columns of load_credentials when it is right."""
        c = found.credentials
        params: AuthDbParams = self.params
        column = params.password_column
        if c.domain and not params.calculate_ha1:
            column = params.password_column_2
        domain = (c.domain or c.realm) if params.use_domain else None
        try:
            stored = self._column(table, column, c.user, domain)
        except DataError as error:
            log.error("auth_db: %s", error)
            return ERROR
        if params.calculate_ha1:
            ha1 = digest.ha1(c.username, c.realm, stored or "", c.algorithm)
        else:
            ha1 = (stored or "").lower()
        result = self._auth.post_auth(ctx, found, ha1 if stored is not None else None, method)
        if self._loads and (result == OK or (params.force_generate_avps and stored is not None)):
            try:
                self._load(ctx, table, c.user, domain)
            except DataError as error:
                log.error("auth_db.load_credentials: %s", error)
                return ERROR
        return result

    def _column(self, table: str, column: str, user: str, domain: str | None) -> str | None:
        params: AuthDbParams = self.params
        if params.user_column == "username" and params.domain_column == "domain":
            return self.services.database.credentials(table, column, user, domain)
        return self.services.database.credentials(
            table, column, user, domain, user_column=params.user_column, domain_column=params.domain_column
        )

    def _load(self, ctx: RouteContext, table: str, user: str, domain: str | None) -> None:
        """Set the variables of load_credentials to their columns; null leaves them. Raise DataError."""
        if not self._loads:
            return
        where = {self.params.user_column: user}
        if domain is not None:
            where[self.params.domain_column] = domain
        rows = self.services.database.select(table, [column for _, column in self._loads], where)
        for (accessor, _), value in zip(self._loads, rows[0] if rows else (), strict=False):
            if value is not None and accessor.set is not None:
                accessor.set(ctx, value if isinstance(value, int) else str(value))

    def _is_self(self, ctx: RouteContext, credentials: Credentials, flags: int) -> bool:
        """Tell whether the request is sent in the name of the user who is authenticated."""
        request = ctx.request
        if flags & _SKIP_FORWARDED and request.method in _FORWARDED:
            return True
        uris = [request.from_.uri]
        if request.method in ("REGISTER", "PUBLISH"):
            uris.append(request.to.uri)
        if request.method == "PUBLISH":
            uris.append(ctx.ruri)
        domain = bool(self.params.use_domain)
        return all(self._auth.is_user(credentials, uri, domain=domain) for uri in uris)
