"""auth_ephemeral: user names that carry their own end, with passwords made from a shared secret (Kamailio: auth_ephemeral).

The password of ``1800000000:alice`` is the base64 of an HMAC over that name (draft-uberti-behave-turn-rest).
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
from polykemi.modules.auth import ERROR, OK, PROXY, WWW, Auth
from polykemi.modules.base import Module, Services
from polykemi.sip import digest

log = logging.getLogger("polykemi.script")

_EXPIRED: Final = -7
_TOO_FEW: Final = (500, "Not enough parameters")
_FREE_METHODS: Final = ("ACK", "CANCEL")
_ALGORITHMS: Final = ("sha1", "sha256", "sha384", "sha512")


@dataclass(frozen=True, slots=True)
class AuthEphemeralParams:
    """Kamailio's names and defaults; ``secret`` may stand more than once. Without one nobody is let in."""

    secret: tuple[str, ...] = ()
    username_format: int = 1  # 1: timestamp:username, 0: username:timestamp
    sha_algorithm: int = 0  # 0 SHA-1, 1 SHA-256, 2 SHA-384, 3 SHA-512

    def __post_init__(self) -> None:
        if self.username_format not in (0, 1):
            raise ValueError(f"username_format: expected 0 or 1, got {self.username_format}")
        if self.sha_algorithm not in range(len(_ALGORITHMS)):
            raise ValueError(f"sha_algorithm: expected 0 to 3, got {self.sha_algorithm}")


class AuthEphemeral(Module):
    """Checks such credentials: by digest, or name and password as they are."""

    name = "auth_ephemeral"
    Params = AuthEphemeralParams
    requires = ("auth",)

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self.secrets = list(reversed(self.params.secret))  # the newest first

    def start(self, now: float) -> None:
        """Work with the auth module."""
        self._auth: Auth = self.services.modules["auth"]

    @export(routes=Route.REQUEST | Route.FAILURE)
    def autheph_check(self, ctx: RouteContext, srealm: str) -> int:
        """Check Authorization (REGISTER) or Proxy-Authorization (all else).

        Answers 1, -1 error, -2 wrong password, -4 stale nonce, -5 no credentials for the realm, -6 nonce used before, -7
        the name has expired.
        """
        return self._check(ctx, srealm, WWW if ctx.request.method == "REGISTER" else PROXY, "")

    @export(routes=Route.REQUEST | Route.FAILURE)
    def autheph_www(self, ctx: RouteContext, srealm: str) -> int:
        """Check Authorization. Answers as ``autheph_check``."""
        return self._check(ctx, srealm, WWW, "")

    @export(routes=Route.REQUEST | Route.FAILURE)
    def autheph_www_method(self, ctx: RouteContext, srealm: str, smethod: str) -> int:
        """Check Authorization as if ``smethod`` were the request's. Answers as ``autheph_check``."""
        if srealm and not smethod and ctx.request.method not in _FREE_METHODS:
            log.error("auth_ephemeral.autheph_www_method: the method must not be empty")
            return ERROR
        return self._check(ctx, srealm, WWW, smethod)

    @export(routes=Route.REQUEST | Route.FAILURE)
    def autheph_proxy(self, ctx: RouteContext, srealm: str) -> int:
        """Check Proxy-Authorization. Answers as ``autheph_check``."""
        return self._check(ctx, srealm, PROXY, "")

    @export()
    def autheph_authenticate(self, ctx: RouteContext, susername: str, spassword: str) -> int:
        """Check a name and its password. Answers 1, -1 wrong, -7 the name has expired."""
        if not susername or not spassword:
            log.error("auth_ephemeral.autheph_authenticate: name and password must not be empty")
            return ERROR
        result = self._has_time(susername, ctx.now)
        if result != OK:
            return result
        given = spassword.encode("latin-1")
        good = any(hmac.compare_digest(self._password(susername, s).encode(), given) for s in self.secrets)
        return OK if good else ERROR

    def _check(self, ctx: RouteContext, realm: str, header: str, method: str) -> int:
        if ctx.request.method in _FREE_METHODS:
            return OK
        if not realm:
            log.error("auth_ephemeral: the realm must not be empty")
            return ERROR
        found = self._auth.pre_auth(ctx, realm, header)
        if isinstance(found, int):
            return found
        c = found.credentials
        result = self._has_time(c.username, ctx.now)
        if result != OK:
            return result
        result = ERROR
        for secret in self.secrets:
            ha1 = digest.ha1(c.username, realm, self._password(c.username, secret), c.algorithm)
            result = self._auth.post_auth(ctx, found, ha1, method)
            if result == OK:
                break
        return result

    def _has_time(self, username: str, now: float) -> int:
        """Return OK, _EXPIRED, or ERROR for a name without a time."""
        first, _, rest = username.partition(":")
        time = username if not rest else first if self.params.username_format else rest
        if time and not (time.isascii() and time.isdecimal() and len(time) <= 10):
            log.error("auth_ephemeral: %r has no time in it", username)
            return ERROR
        return OK if int(now) <= int(time or 0) else _EXPIRED

    def _password(self, username: str, secret: str) -> str:
        algorithm = _ALGORITHMS[self.params.sha_algorithm]
        made = hmac.digest(secret.encode("latin-1"), username.encode("latin-1"), algorithm)
        return base64.b64encode(made).decode()

    # ---- the operator
    @rpc("autheph.dump_secrets")
    def dump_secrets(self) -> list[str]:
        """List the secrets, the newest first, each with the number that rm_secret takes."""
        return [f"ID {i}: {secret}" for i, secret in enumerate(self.secrets)]

    @rpc("autheph.add_secret", _TOO_FEW)
    def add_secret(self, secret: str) -> None:
        """Add a secret."""
        self.secrets.insert(0, secret)

    @rpc("autheph.rm_secret", _TOO_FEW)
    def rm_secret(self, number: int) -> None:
        """Remove the secret with this number."""
        if not 0 <= number < len(self.secrets):
            raise RpcError(500, "Failed removing secret")
        del self.secrets[number]
