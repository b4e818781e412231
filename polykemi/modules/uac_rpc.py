"""What an operator asks of our registrations with other servers (Kamailio: uac.reg_...). Part of uac."""

from __future__ import annotations

from typing import Any, Final

from polykemi.errors import DataError, RpcError
from polykemi.kemi.rpc import rpc
from polykemi.modules.base import Module
from polykemi.modules.uac_reg import DISABLED, Registration, Registrations, described

_FAILED: Final = 500
_INVALID: Final = (400, "Invalid Parameters")
_BAD: Final = 400
_NOT_FOUND: Final = 404
_EXISTS: Final = 409
_MISSING: Final = "."  # for a password or address that is not given


class UacCommands(Module):
    """The commands; what scripts call is in ``uac``."""

    registrations: Registrations | None = None  # None: reg_db_url is not set
    now: float = 0.0  # of the last timer or message, seconds since the epoch

    def _all(self) -> Registrations:
        if self.registrations is None:
            raise RpcError(_FAILED, "Not enabled")
        return self.registrations

    def _one(self, attribute: str, value: str) -> Registration:
        if not attribute or not value:
            raise RpcError(_BAD, "Invalid Parameter Values")
        try:
            one = self._all().find(attribute, value)
        except KeyError:
            raise RpcError(_BAD, "Unsupported filter attribute") from None
        if one is None:
            raise RpcError(_NOT_FOUND, "Record not found")
        return one

    @rpc("uac.reg_dump")
    def reg_dump(self) -> Any:
        """List all registrations."""
        return [described(one, self.now) for one in self._all().by_uuid.values()]

    @rpc("uac.reg_info", _INVALID)
    def reg_info(self, attribute: str, value: str) -> Any:
        """Show the registration with this l_uuid, l_username, r_username or auth_username."""
        return described(self._one(attribute, value), self.now)

    @rpc("uac.reg_enable", _INVALID)
    def reg_enable(self, attribute: str, value: str) -> dict[str, Any]:
        """Let a registration, found as by uac.reg_info, be sent again."""
        one = self._one(attribute, value)
        self._all().set_flags(one, one.flags & ~DISABLED)
        one.timer_expires = self.now + 1
        return {}

    @rpc("uac.reg_disable", _INVALID)
    def reg_disable(self, attribute: str, value: str) -> dict[str, Any]:
        """Send a registration, found as by uac.reg_info, no more."""
        one = self._one(attribute, value)
        self._all().set_flags(one, one.flags | DISABLED)
        one.timer_expires = self.now + 1
        return {}

    @rpc("uac.reg_reload")
    def reg_reload(self) -> dict[str, Any]:
        """Read all registrations anew."""
        try:
            self._all().load(self.now)
        except DataError as error:
            raise RpcError(_FAILED, f"Failed to reload records: {error}") from None
        return {}

    @rpc("uac.reg_refresh", _INVALID)
    def reg_refresh(self, l_uuid: str) -> dict[str, Any]:
        """Read one registration anew."""
        try:
            if not self._all().refresh(l_uuid, self.now):
                raise RpcError(_NOT_FOUND, "Record not found")
        except DataError as error:
            raise RpcError(_FAILED, f"Failed to refresh record: {error}") from None
        return {}

    @rpc("uac.reg_remove", _INVALID)
    def reg_remove(self, l_uuid: str) -> dict[str, Any]:
        """Forget a registration; its row stays."""
        self._all().remove(self._one("l_uuid", l_uuid))
        return {}

    @rpc("uac.reg_add", _INVALID)
    def reg_add(
        self,
        l_uuid: str,
        l_username: str,
        l_domain: str,
        r_username: str,
        r_domain: str,
        realm: str,
        auth_username: str,
        auth_password: str,
        auth_ha1: str,
        auth_proxy: str,
        expires: int,
        flags: int,
        reg_delay: int,
        socket: str = "",
        contact_addr: str = "",
    ) -> dict[str, Any]:
        """Add a registration; "." stands for no auth_password, auth_ha1 or contact_addr."""
        password, ha1, contact = ("" if x == _MISSING else x for x in (auth_password, auth_ha1, contact_addr))
        who = (l_uuid, l_username, l_domain, r_username, r_domain, realm, auth_username)
        if l_uuid in self._all().by_uuid:
            raise RpcError(_EXISTS, "uuid already exists")
        one = Registration(*who, password, ha1, auth_proxy, expires, flags, reg_delay, contact, socket)
        try:
            self._all().add(one.checked(), self.now)
        except DataError:
            raise RpcError(_FAILED, "Failed to add record - invalid password or ha1") from None
        return {}

    @rpc("uac.reg_active", (500, "Missing parameter"))
    def reg_active(self, mode: int) -> dict[str, int]:
        """Send registrations (1) or none (0); answers the mode before and now."""
        registrations = self._all()
        before, registrations.active = registrations.active, bool(mode)
        return {"omode": int(before), "nmode": int(registrations.active)}

    @rpc("uac.reg_unregister", _INVALID)
    def reg_unregister(self, attribute: str, value: str) -> dict[str, Any]:
        """Take a registration, found as by uac.reg_info, back: a REGISTER with Expires 0 goes out."""
        one = self._one(attribute, value)
        one.expires = 0
        self._all().send(one, self.now)
        return {}
