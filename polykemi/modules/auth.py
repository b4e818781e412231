"""auth: digest challenges and checks (RFC 3261 section 22, RFC 7616, RFC 8760; Kamailio: auth). Other auth modules use it."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2s
from hmac import compare_digest
from typing import Any, Final

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.kemi.route import Route
from polykemi.modules.base import Module, Services
from polykemi.sip import digest
from polykemi.sip.digest import Credentials, parse_credentials
from polykemi.sip.message import Request
from polykemi.sip.uri import parse_uri, unescape

# return codes of all checks
OK: Final = 1
ERROR: Final = -1
INVALID_PASSWORD: Final = -2
USER_UNKNOWN: Final = -3
NONCE_EXPIRED: Final = -4
NO_CREDENTIALS: Final = -5
NONCE_REUSED: Final = -6
USER_MISMATCH: Final = -8

WWW: Final = "authorization"
PROXY: Final = "proxy-authorization"

_QOP_AUTH: Final = 1  # flags of challenges
_QOP_AUTH_INT: Final = 2
_NO_ERROR_REPLY: Final = 4
_STALE: Final = 16
_IS_HA1: Final = 1  # a flag of pv_*_authenticate

# these are never challenged: they cannot be sent again with another CSeq (RFC 3261 section 22.1, RFC 3262 section 3)
_FREE_METHODS: Final = frozenset(("ACK", "CANCEL", "PRACK"))

_ALGORITHMS: Final = {"": "", "md5": "MD5", "sha-256": "SHA-256"}
_STAMP: Final = 16  # characters of a nonce that are time and serial number, in hex; the rest is their MAC
_ANY_HA1: Final = "0" * 32  # what the response of an unknown user is compared with: it costs what a known one does


@dataclass(frozen=True, slots=True)
class AuthParams:
    """Kamailio's names. Unlike there ``nonce_count`` is on, for a request sent again unchanged passes the check."""

    secret: str = ""  # "": made at random
    nonce_expire: int = 300  # seconds
    nonce_auth_max_drift: int = 3  # seconds
    nonce_count: int = 1  # with qop, nc must grow (RFC 7616 section 3.4)
    nc_array_size: int = 65536  # nonces whose count is remembered
    one_time_nonce: int = 0
    auth_checks_register: int = 0  # 1: Request-URI, 2: Call-ID, 4: From tag, 8: source address are part of the nonce
    auth_checks_no_dlg: int = 0
    auth_checks_in_dlg: int = 0
    use_domain: int = 0
    force_stateless_reply: int = 0
    algorithm: str = ""  # MD5, SHA-256, or both, the preferred one first: "SHA-256,MD5" (RFC 8760)

    def __post_init__(self) -> None:
        if _algorithms(self.algorithm) is None:
            raise ValueError(f"algorithm: {self.algorithm!r}, expected MD5, SHA-256 or both")


class Found:
    """Credentials with a good nonce; ``line`` is their header line. They become authorized in ``post_auth``."""

    __slots__ = ("credentials", "line")

    def __init__(self, credentials: Credentials, line: int) -> None:
        self.credentials = credentials
        self.line = line


class Nonces:
    """Makes and checks nonces: time, serial number and a MAC of both. Remembers the counts of those that were used."""

    def __init__(self, key: bytes, serial: int, params: AuthParams) -> None:
        self._keyed = blake2s(digest_size=12, key=key)
        self._serial = serial
        self._params = params
        self._used: dict[str, tuple[int, int]] = {}  # nonce -> nc and the hash of the request, the oldest nonce first
        self._forgotten = -1  # time of the newest nonce whose count had to be forgotten

    def make(self, scope: str, now: float) -> str:
        """Return a new nonce that is good for ``scope`` alone: a realm and the parts of a request that are checked."""
        self._serial = (self._serial + 1) & 0xFFFFFFFF
        stamp = hex(int(now) | 1 << 32)[3:] + hex(self._serial | 1 << 32)[3:]
        return stamp + self._mac(stamp, scope)

    def _mac(self, stamp: str, scope: str) -> str:
        mac = self._keyed.copy()
        mac.update((stamp + scope).encode("latin-1"))
        return mac.hexdigest()

    def check(self, credentials: Credentials, scope: str, request: Request, now: float) -> int:
        """Return OK, NONCE_EXPIRED (also for one that is not ours, of another scope, or an old nc), NONCE_REUSED or ERROR."""
        nonce = credentials.nonce
        stamp = nonce[:_STAMP]
        if len(nonce) != _STAMP + 24:  # too short for any server's, or another one's
            return ERROR if len(nonce) < _STAMP + 24 else NONCE_EXPIRED
        if not nonce.isascii() or not compare_digest(self._mac(stamp, scope), nonce[_STAMP:]):
            return NONCE_EXPIRED
        age = now - int(stamp[:8], 16)
        if age > self._params.nonce_expire or age < -self._params.nonce_auth_max_drift:
            return NONCE_EXPIRED
        counts = self._params.nonce_count and credentials.qop
        if not counts and not self._params.one_time_nonce:
            return OK
        used = self._used.get(nonce)
        if used is None:
            return NONCE_EXPIRED if int(stamp[:8], 16) <= self._forgotten else OK
        if used[1] == hash(request.raw):
            return OK  # a retransmission
        if counts:
            return OK if int(credentials.nc, 16) > used[0] else NONCE_EXPIRED
        return NONCE_REUSED

    def use(self, credentials: Credentials, request: Request, now: float) -> None:
        """Note that ``request`` has been authenticated with these credentials."""
        if not (self._params.one_time_nonce or (self._params.nonce_count and credentials.qop)):
            return
        used, nonce = self._used, credentials.nonce
        if nonce not in used:
            while used:
                oldest = next(iter(used))
                made = int(oldest[:8], 16)
                if made + self._params.nonce_expire < now:
                    del used[oldest]
                elif len(used) >= self._params.nc_array_size:
                    del used[oldest]
                    self._forgotten = max(self._forgotten, made)
                else:
                    break
        used[nonce] = int(credentials.nc or "0", 16), hash(request.raw)

    def __len__(self) -> int:
        return len(self._used)


class Auth(Module):
    """Digest authentication."""

    name = "auth"
    requires = ("sl",)
    Params = AuthParams

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        secret = self.params.secret.encode("latin-1", "replace") or services.ids.secret
        self.nonces = Nonces(blake2s(secret).digest(), int(services.ids.tag(), 16), self.params)
        self._offered: tuple[str, ...] = _algorithms(self.params.algorithm) or ("",)

    # ---- for modules that know passwords
    def pre_auth(self, ctx: RouteContext, realm: str, header: str) -> Found | int:
        """Find the credentials for ``realm`` and check their nonce.

        Return them, OK for methods that are never challenged, or a negative return code.
        """
        request = ctx.request
        if request.method in _FREE_METHODS:
            return OK
        found = find_credentials(request, realm, header)
        if found is None:
            return NO_CREDENTIALS
        credentials = found.credentials
        if credentials.algorithm and not self._is_offered(credentials.algorithm):
            return ERROR
        checks = self._checks(request)
        scope = realm + _extra(ctx, request, checks) if checks else realm
        result = self.nonces.check(credentials, scope, request, ctx.now)
        if result == OK:
            return found
        if result == NONCE_EXPIRED:
            ctx.cache["auth.stale"] = True
        return result

    def post_auth(self, ctx: RouteContext, found: Found, ha1: str | None, method: str = "") -> int:
        """Check the response against H(user:realm:password); None for a user who does not exist.

        ``ha1`` must be of the credentials' algorithm. Return OK, INVALID_PASSWORD or USER_UNKNOWN.
        """
        credentials, request = found.credentials, ctx.request
        body = request.body if credentials.qop else b""
        good = digest.check(credentials, ha1 if ha1 is not None else _ANY_HA1, method or request.method, body)
        if ha1 is None:
            return USER_UNKNOWN
        if not good:
            return INVALID_PASSWORD
        self.nonces.use(credentials, request, ctx.now)
        ctx.cache.setdefault("auth.authorized", []).append(found.line)
        return OK

    def _is_offered(self, algorithm: str) -> bool:
        name = algorithm.lower().removesuffix("-sess")
        return any(name == (offered.lower() or "md5") for offered in self._offered)

    def _checks(self, request: Request) -> int:
        params: AuthParams = self.params
        if request.method == "REGISTER":
            checks = params.auth_checks_register
        elif params.auth_checks_in_dlg != params.auth_checks_no_dlg and request.to.tag is not None:
            checks = params.auth_checks_in_dlg
        else:
            checks = params.auth_checks_no_dlg
        return checks

    # ---- challenges
    @export(routes=Route.REQUEST | Route.FAILURE)
    def auth_challenge(self, ctx: RouteContext, realm: str, flags: int) -> int:
        """Challenge with 401 for REGISTER and 407 for all else.

        ``flags``: 1 qop=auth, 2 qop=auth-int, 4 no 500 on failure, 16 stale=true. Answers 1, -3 for what is never
        challenged (ACK, CANCEL), -1 when no reply could be sent.
        """
        return self._challenge(ctx, realm, flags, 401 if ctx.request.method == "REGISTER" else 407)

    @export(routes=Route.REQUEST | Route.FAILURE)
    def www_challenge(self, ctx: RouteContext, realm: str, flags: int) -> int:
        """Challenge with 401 and WWW-Authenticate; ``flags`` and answers are those of ``auth_challenge``."""
        return self._challenge(ctx, realm, flags, 401)

    @export(routes=Route.REQUEST | Route.FAILURE)
    def proxy_challenge(self, ctx: RouteContext, realm: str, flags: int) -> int:
        """Challenge with 407 and Proxy-Authenticate; ``flags`` and answers are those of ``auth_challenge``."""
        return self._challenge(ctx, realm, flags, 407)

    def _challenge(self, ctx: RouteContext, realm: str, flags: int, status: int) -> int:
        if ctx.request.method in ("ACK", "CANCEL"):
            return -3
        name, reason = ("WWW-Authenticate", "Unauthorized")
        if status == 407:
            name, reason = ("Proxy-Authenticate", "Proxy Authentication Required")
        before = ctx.reply_headers
        ctx.reply_headers = before + [f"{name}: {value}" for value in self._values(ctx, realm, flags)]
        sl = self.services.modules["sl"]
        try:
            if self.params.force_stateless_reply:
                return int(sl.sl_send_reply(ctx, status, reason))
            return int(sl.send_reply(ctx, status, reason))
        finally:
            ctx.reply_headers = before

    def _values(self, ctx: RouteContext, realm: str, flags: int) -> list[str]:
        """Return the values of the challenge, one for each algorithm on offer."""
        request = ctx.request
        checks = self._checks(request)
        scope = realm + _extra(ctx, request, checks) if checks else realm
        qop = "auth-int" if flags & _QOP_AUTH_INT else "auth" if flags & _QOP_AUTH else ""
        stale = bool(flags & _STALE) or "auth.stale" in ctx.cache
        return [
            digest.challenge(realm, self.nonces.make(scope, ctx.now), algorithm=algorithm, qop=qop, stale=stale)
            for algorithm in self._offered
        ]

    @export()
    def auth_get_www_authenticate(self, ctx: RouteContext, realm: str, flags: int, pvdest: str) -> int:
        """Put a WWW-Authenticate header line, CRLF included, into the variable ``pvdest``; ``flags`` as ``auth_challenge``."""
        put = self.services.variables.setter(pvdest)
        if put is None:
            return ERROR
        text = "".join(f"WWW-Authenticate: {value}\r\n" for value in self._values(ctx, realm, flags))
        return OK if put(ctx, text) else ERROR

    @export()
    def auth_algorithm(self, ctx: RouteContext, algorithm: str) -> int:
        """Use ``algorithm`` (MD5, SHA-256, or both with a comma) from now on. Answers 1, or -1 for an unknown one."""
        offered = _algorithms(algorithm)
        if offered is None:
            return ERROR
        self._offered = offered
        return OK

    # ---- checks with a password that the script has
    @export(routes=Route.REQUEST | Route.FAILURE)
    def pv_auth_check(self, ctx: RouteContext, realm: str, passwd: str, flags: int, checks: int) -> int:
        """Check Authorization (REGISTER) or Proxy-Authorization (all else) against ``passwd``.

        ``flags``: 1 passwd is an HA1. ``checks``: 1 the user must be that of To (REGISTER) or From. Answers 1, -1 error,
        -2 wrong password, -4 stale nonce, -5 no credentials for the realm, -6 nonce used before, -8 another user.
        """
        is_register = ctx.request.method == "REGISTER"
        result = self._check(ctx, realm, passwd, flags, WWW if is_register else PROXY, "")
        if result == OK and checks & 1 and ctx.request.method not in _FREE_METHODS:
            request = ctx.request
            found = find_credentials(request, realm, WWW if is_register else PROXY)
            uri = request.to.uri if is_register else request.from_.uri
            if found is None or not self.is_user(found.credentials, uri, domain=bool(self.params.use_domain)):
                ctx.cache["auth.authorized"].pop()
                return USER_MISMATCH
        return result

    @export(routes=Route.REQUEST | Route.FAILURE)
    def pv_www_authenticate(self, ctx: RouteContext, realm: str, passwd: str, flags: int) -> int:
        """Check Authorization against ``passwd`` (``flags`` 1: an HA1). Answers as ``pv_auth_check``."""
        return self._check(ctx, realm, passwd, flags, WWW, "")

    @export(routes=Route.REQUEST | Route.FAILURE)
    def pv_www_authenticate_method(self, ctx: RouteContext, realm: str, passwd: str, flags: int, method: str) -> int:
        """Check Authorization as if ``method`` were the request's. Answers as ``pv_auth_check``."""
        return self._check(ctx, realm, passwd, flags, WWW, method)

    @export(routes=Route.REQUEST | Route.FAILURE)
    def pv_proxy_authenticate(self, ctx: RouteContext, realm: str, passwd: str, flags: int) -> int:
        """Check Proxy-Authorization against ``passwd`` (``flags`` 1: an HA1). Answers as ``pv_auth_check``."""
        return self._check(ctx, realm, passwd, flags, PROXY, "")

    def _check(self, ctx: RouteContext, realm: str, passwd: str, flags: int, header: str, method: str) -> int:
        found = self.pre_auth(ctx, realm, header)
        if isinstance(found, int):
            return found
        c = found.credentials
        ha1 = passwd.lower() if flags & _IS_HA1 else digest.ha1(c.username, c.realm, passwd, c.algorithm)
        return self.post_auth(ctx, found, ha1, method)

    def is_user(self, credentials: Credentials, uri: str, *, domain: bool) -> bool:
        """Tell whether ``uri`` is of the user in ``credentials``; with ``domain`` its host must be the realm."""
        try:
            parsed = parse_uri(uri)
        except ParseError:
            return False
        if unescape(parsed.user) != credentials.user:
            return False
        return not domain or parsed.host.lower() == (credentials.domain or credentials.realm).lower()

    # ---- credentials as such
    @export()
    def has_credentials(self, ctx: RouteContext, realm: str) -> int:
        """Tell whether the request has credentials for ``realm``: 1 or -1."""
        request = ctx.request
        return OK if any(find_credentials(request, realm, header) for header in (PROXY, WWW)) else ERROR

    @export(routes=Route.REQUEST | Route.FAILURE)
    def consume_credentials(self, ctx: RouteContext) -> int:
        """Take the credentials that a check has accepted out of the request. Answers 1, or -1 when there are none."""
        authorized = ctx.cache.get("auth.authorized")
        if not authorized:
            return ERROR
        ctx.edits.removed.update(authorized)
        return OK


def find_credentials(request: Request, realm: str, header: str) -> Found | None:
    """Return the first credentials for ``realm`` among the headers ``header``; malformed ones do not count."""
    if not request.has(header):
        return None
    for line in request.indexes(header):
        try:
            credentials = parse_credentials(request.value(line))
        except ParseError:
            continue
        if credentials.realm == realm:
            return Found(credentials, line)
    return None


def _algorithms(text: str) -> tuple[str, ...] | None:
    """Return the algorithms named in ``text``, the preferred first, None for an unknown one."""
    out = tuple(_ALGORITHMS.get(name.strip(" ").lower()) for name in text.split(","))
    return None if None in out else tuple(name for name in out if name is not None)


def _extra(ctx: RouteContext, request: Request, checks: int) -> str:
    """Return the parts of the request that a nonce is bound to (auth_checks_*)."""
    parts = []
    if checks & 1:
        parts.append(request.uri)
    if checks & 2:
        parts.append(request.call_id)
    if checks & 4:
        parts.append(request.from_.tag or "")
    if checks & 8:
        parts.append(ctx.flow.host)
    return "\n".join(parts)
