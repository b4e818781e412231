"""auth_ephemeral: user names that expire, with passwords that follow from a shared secret (Kamailio: auth_ephemeral).

The scheme is that of draft-uberti-rtcweb-turn-rest: the user name is ``timestamp:name``, the password is
``base64(hmac(secret, user name))``.
"""

from __future__ import annotations

import base64
import hmac
import logging
from dataclasses import dataclass
from typing import Any, Final

from polykemi.errors import RpcError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.kemi.route import Route
from polykemi.kemi.rpc import rpc
from polykemi.modules.auth import ERROR, INVALID_PASSWORD, OK, PROXY, WWW, Auth
from polykemi.modules.base import Module, Services
from polykemi.sip import digest

log = logging.getLogger("polykemi.script")

_HASHES: Final = ("sha1", "sha256", "sha384", "sha512")  # by sha_algorithm
_EXPIRED: Final = -7


@dataclass(frozen=True, slots=True)
class AuthEphemeralParams:
    """Kamailio's names and defaults."""

    secret: tuple[str, ...] = ()  # the last is tried first
    username_format: int = 1  # 1: timestamp:name, 0: name:timestamp
    sha_algorithm: int = 0  # 0 SHA-1, 1 SHA-256, 2 SHA-384, 3 SHA-512

    def __post_init__(self) -> None:
        if self.sha_algorithm not in range(len(_HASHES)):
            raise ValueError("sha_algorithm: expected 0 (SHA-1), 1 (SHA-256), 2 (SHA-384) or 3 (SHA-512)")
        if self.username_format not in (0, 1):
            raise ValueError("username_format: expected 0 (name:timestamp) or 1 (timestamp:name)")


class AuthEphemeral(Module):
    """The secrets, and the checks with them."""

    name = "auth_ephemeral"
    Params = AuthEphemeralParams
    requires = ("auth",)

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self._secrets: list[str] = [*reversed(self.params.secret)]

    @property
    def _auth(self) -> Auth:
        auth: Auth = self.services.modules["auth"]
        return auth

    @export(routes=Route.REQUEST | Route.FAILURE)
    def autheph_check(self, ctx: RouteContext, realm: str) -> int:
        """Check Authorization (REGISTER) or Proxy-Authorization (all else).

        Answers 1, -1 error, -2 wrong password, -4 stale nonce, -5 no credentials for the realm, -6 nonce used before,
        -7 the user name has expired.
        """
        return self._check(ctx, realm, WWW if ctx.request.method == "REGISTER" else PROXY, "")

    @export(routes=Route.REQUEST | Route.FAILURE)
    def autheph_www(self, ctx: RouteContext, realm: str) -> int:
        """Check Authorization. Answers as ``autheph_check``."""
        return self._check(ctx, realm, WWW, "")

    @export(routes=Route.REQUEST | Route.FAILURE)
    def autheph_www_method(self, ctx: RouteContext, realm: str, method: str) -> int:
        """Check Authorization as if ``method`` were the request's. Answers as ``autheph_check``."""
        if not method:
            log.error("auth_ephemeral.autheph_www_method: expected a method")
            return ERROR
        return self._check(ctx, realm, WWW, method)

    @export(routes=Route.REQUEST | Route.FAILURE)
    def autheph_proxy(self, ctx: RouteContext, realm: str) -> int:
        """Check Proxy-Authorization. Answers as ``autheph_check``."""
        return self._check(ctx, realm, PROXY, "")

    @export(routes=Route.REQUEST | Route.FAILURE)
    def autheph_authenticate(self, ctx: RouteContext, username: str, password: str) -> int:
        """Check a user name and a password that came some other way. Answers 1, -1, or -7 when the name has expired."""
        if not username or not password:
            log.error("auth_ephemeral.autheph_authenticate: expected a user name and a password")
            return ERROR
        result = self._time_left(username, ctx.now)
        if result != OK:
            return result
        right = [hmac.compare_digest(self._password(secret, username), password) for secret in self._secrets]
        return OK if any(right) else ERROR

    def _check(self, ctx: RouteContext, realm: str, header: str, method: str) -> int:
        auth = self._auth
        if not realm and ctx.request.method not in ("ACK", "CANCEL"):
            log.error("auth_ephemeral: expected a realm")
            return ERROR
        found = auth.pre_auth(ctx, realm, header)
        if isinstance(found, int):
            return found
        credentials = found.credentials
        result = self._time_left(credentials.username, ctx.now)
        if result != OK:
            return result
        result = ERROR
        for secret in self._secrets:
            password = self._password(secret, credentials.username)
            ha1 = digest.ha1(credentials.username, credentials.realm, password, credentials.algorithm or "MD5")
            result = auth.post_auth(ctx, found, ha1, method)
            if result != INVALID_PASSWORD:
                break
        return result

    def _time_left(self, username: str, now: float) -> int:
        """Tell whether the time in ``username`` is still to come: 1, -7, or -1 when there is none."""
        first, colon, rest = username.partition(":")
        if colon and rest:
            stamp = first if self.params.username_format else rest
        else:
            stamp = username
        if not stamp.isdecimal():
            log.error("auth_ephemeral: no timestamp in the user name %r", username)
            return ERROR
        if int(now) > int(stamp):
            log.warning("auth_ephemeral: the user name %r has expired", username)
            return _EXPIRED
        return OK

    def _password(self, secret: str, username: str) -> str:
        algorithm = _HASHES[self.params.sha_algorithm]
        mac = hmac.digest(secret.encode(), username.encode("latin-1"), algorithm)
        return base64.b64encode(mac).decode()

    # ---- commands
    @rpc("autheph.add_secret")
    def add_secret(self, secret: str) -> None:
        """Add a secret, which is tried before the others."""
        self._secrets.insert(0, secret)

    @rpc("autheph.dump_secrets")
    def dump_secrets(self) -> list[dict[str, Any]]:
        """List the secrets with their numbers."""
        return [{"id": i, "secret": secret} for i, secret in enumerate(self._secrets)]

    @rpc("autheph.rm_secret")
    def rm_secret(self, number: int) -> None:
        """Forget the secret with this number of autheph.dump_secrets."""
        if not 0 <= number < len(self._secrets):
            raise RpcError(400, f"there is no secret {number}")
        del self._secrets[number]
