"""uac: registrations of ours with other servers (Kamailio: the table uacreg). Part of uac."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from polykemi.errors import DataError, ParseError
from polykemi.modules.base import Services
from polykemi.modules.tm import Tm
from polykemi.modules.tm_local import LocalReply, LocalRequest
from polykemi.modules.uac_auth import Credential, challenge_of, once_more
from polykemi.sip.flow import Listener
from polykemi.sip.header import parse_name_addr
from polykemi.sip.message import Response
from polykemi.sip.uri import parse_uri

log = logging.getLogger("polykemi.uac")

# flags of a registration
DISABLED: Final = 1
ONGOING: Final = 2  # a REGISTER is on its way
ONLINE: Final = 4
AUTH_SENT: Final = 8
INITIALIZED: Final = 16  # its first delay is over

_SLACK: Final = 3  # seconds before the timer's next run in which a registration is refreshed already
_HEX: Final = frozenset("0123456789abcdef")
_MAX_CSEQ: Final = 2147483638
TEXTS: Final = (
    "l_uuid",
    "l_username",
    "l_domain",
    "r_username",
    "r_domain",
    "realm",
    "auth_username",
    "auth_password",
    "auth_ha1",
    "auth_proxy",
)
COLUMNS: Final = (*TEXTS, "expires", "flags", "reg_delay", "contact_addr", "socket")
_MAY_BE_EMPTY: Final = frozenset(("realm", "auth_password", "auth_ha1"))


@dataclass(slots=True)
class Registration:
    """One row, and how it stands. Times are seconds since the epoch."""

    l_uuid: str
    l_username: str
    l_domain: str
    r_username: str
    r_domain: str
    realm: str
    auth_username: str
    auth_password: str
    auth_ha1: str
    auth_proxy: str
    expires: int  # seconds
    flags: int
    reg_delay: int  # seconds after reg_init
    contact_addr: str
    socket: str
    timer_expires: float = 0.0
    reg_init: float = 0.0
    last: LocalRequest | None = None  # the REGISTER that was answered 200, for reg_keep_callid

    @classmethod
    def of_row(cls, row: tuple[Any, ...]) -> Registration:
        """Make one of a database row. Raise DataError for a row that cannot be used."""
        fields: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
        for name in TEXTS:
            fields[name] = str(fields[name] or "")
            if not fields[name] and name not in _MAY_BE_EMPTY:
                raise DataError(f"the column {name} is empty")
        for name in ("expires", "flags", "reg_delay"):
            fields[name] = int(fields[name] or 0)
        return cls(**fields | {"contact_addr": row[-2] or "", "socket": row[-1] or ""}).checked()

    def checked(self) -> Registration:
        """Return it, the HA1 in lower case. Raise DataError without a usable password."""
        self.auth_ha1 = self.auth_ha1.lower()
        if not self.auth_password and not self.auth_ha1:
            raise DataError("neither auth_password nor auth_ha1 is given")
        if self.auth_ha1 and (len(self.auth_ha1) != 32 or not _HEX.issuperset(self.auth_ha1)):
            raise DataError("auth_ha1 is not 32 hex digits")
        return self

    @property
    def registrar(self) -> str:
        """The Request-URI of its REGISTER."""
        return "sip:" + self.r_domain

    @property
    def credential(self) -> Credential:
        """What answers the registrar's challenge."""
        return Credential(self.realm, self.auth_username, self.auth_ha1 or self.auth_password, bool(self.auth_ha1))


class Registrations:
    """All registrations, kept alive by the timer. Parameters are those of uac (``reg_...``)."""

    def __init__(self, services: Services, params: Any, listener_of: Callable[[str], Listener | None]) -> None:
        self._services = services
        self._params = params
        self._listener_of = listener_of
        self.active = bool(params.reg_active)
        self.by_uuid: dict[str, Registration] = {}
        self._by_user: dict[str, list[Registration]] = {}  # l_username -> the newest last
        for name in ("regtotal", "regactive", "regdisabled"):
            services.counters.setdefault(f"uac.{name}", 0)

    # ---- the rows
    def load(self, now: float) -> None:
        """Take all rows of the table in place of what is here. Raise DataError."""
        rows = self._services.database.select(self._params.reg_db_table, COLUMNS)
        for one in list(self.by_uuid.values()):
            self.remove(one)
        for row in rows:
            self._take(row, now)

    def refresh(self, uuid: str, now: float) -> bool:
        """Read one row anew; False when there is none. Raise DataError."""
        rows = self._services.database.select(self._params.reg_db_table, COLUMNS, {"l_uuid": uuid})
        for row in rows:
            self._take(row, now)
        return bool(rows)

    def _take(self, row: tuple[Any, ...], now: float) -> None:
        try:
            one = Registration.of_row(row)
        except DataError as error:
            log.error("%s: the row %r is ignored: %s", self._params.reg_db_table, row[0], error)
            return
        before = self.by_uuid.get(one.l_uuid)
        if before is not None:
            one.flags |= before.flags & (ONGOING | AUTH_SENT)
            self.remove(before)
        self.add(one, now)

    def add(self, one: Registration, now: float) -> None:
        """Take a registration; it is sent when the timer runs next."""
        delay = self._params.reg_random_delay
        if not one.reg_delay and delay > 0:
            one.reg_delay = int(self._services.ids.tag(), 16) % delay
        one.reg_init = now
        one.contact_addr = one.contact_addr or self._params.reg_contact_addr
        self.by_uuid[one.l_uuid] = one
        self._by_user.setdefault(one.l_username, []).append(one)
        self._count("regtotal", 1)
        self._counted(one.flags, 1)

    def remove(self, one: Registration) -> None:
        """Forget a registration; the registrar is told nothing."""
        del self.by_uuid[one.l_uuid]
        same = self._by_user[one.l_username]
        same.remove(one)
        if not same:
            del self._by_user[one.l_username]
        self._count("regtotal", -1)
        self._counted(one.flags, -1)

    def of_user(self, user: str, domain: str | None = None) -> Registration | None:
        """Return the registration of a local user, in ``domain`` if that is given."""
        for one in reversed(self._by_user.get(user, ())):
            if domain is None or one.l_domain == domain:
                return one
        return None

    def find(self, attribute: str, value: str) -> Registration | None:
        """Return the registration with this l_uuid, l_username, r_username or auth_username. Raise KeyError for others."""
        if attribute == "l_uuid":
            return self.by_uuid.get(value)
        if attribute == "l_username":
            return self.of_user(value)
        if attribute not in ("r_username", "auth_username"):
            raise KeyError(attribute)
        return next((one for one in self.by_uuid.values() if getattr(one, attribute) == value), None)

    def set_flags(self, one: Registration, flags: int) -> None:
        """Set the flags of a registration; the counters follow."""
        self._counted(one.flags, -1)
        one.flags = flags
        self._counted(flags, 1)

    def _counted(self, flags: int, by: int) -> None:
        if flags & ONLINE:
            self._count("regactive", by)
        if flags & DISABLED:
            self._count("regdisabled", by)

    def _count(self, name: str, by: int) -> None:
        self._services.count(f"uac.{name}", by)

    # ---- the timer
    def run(self, now: float) -> None:
        """Send REGISTER for what is due before the next run."""
        for one in list(self.by_uuid.values()):
            self._update(one, now)

    def _update(self, one: Registration, now: float) -> None:
        params = self._params
        if one.expires == 0:
            return
        if one.flags & ONGOING:
            if one.timer_expires > now - params.reg_retry_interval:
                return
            self.set_flags(one, one.flags & ~(ONLINE | AUTH_SENT))  # its answer never came
        if not self.active or one.flags & DISABLED:
            return
        if not one.flags & INITIALIZED:
            if now < one.reg_init + one.reg_delay:
                return
            self.set_flags(one, one.flags | INITIALIZED)
        if one.timer_expires > now + params.reg_timer_interval + _SLACK:
            return
        self.send(one, now)

    def send(self, one: Registration, now: float) -> None:
        """Send a REGISTER."""
        aor = f"sip:{one.r_username}@{one.r_domain}"
        lines = [f"Contact: <sip:{one.l_uuid}@{one.contact_addr}>", f"Expires: {one.expires}"]
        request = LocalRequest(
            "REGISTER",
            one.registrar,
            aor,
            aor,
            headers=lines,
            dst_uri=one.auth_proxy,
            listener=self._listener_of(one.socket),
        )
        last = one.last
        if self._params.reg_keep_callid and one.flags & ONLINE and last is not None and last.cseq < _MAX_CSEQ:
            request.call_id, request.cseq = last.call_id, last.cseq + 1
        one.timer_expires = now
        self.set_flags(one, one.flags & ~ONLINE | ONGOING)
        if self._tm.request(request, now, self._ended) < 0:
            log.error("cannot send the REGISTER of %s", one.l_uuid)
            self._failed(one, now)

    @property
    def _tm(self) -> Tm:
        tm: Tm = self._services.modules["tm"]
        return tm

    def _failed(self, one: Registration, now: float) -> None:
        flags = one.flags & ~(ONGOING | AUTH_SENT)
        if self._params.reg_retry_interval:
            one.timer_expires = now + self._params.reg_retry_interval
        else:
            flags |= DISABLED
        one.last = None
        self.set_flags(one, flags)

    # ---- the registrar's answers
    def _ended(self, reply: LocalReply) -> None:
        uuid = parse_uri(parse_name_addr(reply.request.headers[0].partition(": ")[2]).uri).user
        one = self.by_uuid.get(uuid)
        if one is None:  # removed in the meantime
            return
        try:
            done = self._take_answer(one, reply)
        except ParseError as error:
            log.error("registration of %s: %s", uuid, error.reason)
            done = False
        if done is None:
            return
        if done:
            self.set_flags(one, one.flags & ~(ONGOING | AUTH_SENT))
        else:
            self._failed(one, reply.now)

    def _take_answer(self, one: Registration, reply: LocalReply) -> bool | None:
        """Return whether it went well, None when another REGISTER is on its way. Raise ParseError."""
        response = reply.response
        if response is None:
            log.error("registration of %s: no answer (%d)", one.l_uuid, reply.status)
            return False
        if reply.status == 200:
            self._registered(one, reply.request, response)
            return True
        if reply.status in (401, 407):
            return self._answer(one, reply, response)
        if reply.status == 423:
            least = response.get("min-expires")
            one.expires = int(least) if least and least.isdecimal() and len(least) < 10 else one.expires * 2
            return True
        log.error("registration of %s: %d %s", one.l_uuid, reply.status, reply.reason)
        return False

    def _registered(self, one: Registration, request: LocalRequest, response: Response) -> None:
        contacts = response.list("contact")
        if not contacts:
            raise ParseError("no Contact in the response")
        for text in contacts:
            contact = parse_name_addr(text)
            if contact.uri == "*" or parse_uri(contact.uri).user != one.l_uuid:
                continue
            expires = contact.param("expires") or response.get("expires") or ""
            one.timer_expires += int(expires) if expires.isdecimal() and len(expires) < 10 else 0
            one.last = request
            self.set_flags(one, one.flags | ONLINE)
            return

    def _answer(self, one: Registration, reply: LocalReply, response: Response) -> bool | None:
        if one.flags & AUTH_SENT:
            raise ParseError("the registrar does not take our credentials")
        realm = challenge_of(response).realm
        if one.realm and realm != one.realm:
            raise ParseError(f"the registrar asks for the realm {realm}, not {one.realm}")
        request = once_more(reply.request, response, one.credential, self._services.ids)
        if self._tm.request(request, reply.now, self._ended) < 0:
            return False
        self.set_flags(one, one.flags | AUTH_SENT)
        return None

    def status(self, one: Registration, now: float) -> int:
        """Return 1 (registered), -2 (on its way), -3 (disabled), -99 (none of these)."""
        if one.flags & ONLINE and one.timer_expires > now:
            return 1
        if one.flags & ONGOING:
            return -2
        return -3 if one.flags & DISABLED else -99


def described(one: Registration, now: float) -> Mapping[str, Any]:
    """Return a registration as the RPC commands show it."""
    out: dict[str, Any] = {name: getattr(one, name) for name in TEXTS}
    for name in ("auth_password", "auth_ha1", "auth_proxy"):
        out[name] = out[name] or "none"
    out |= {"expires": one.expires, "flags": one.flags}
    out |= {"diff_expires": int(one.timer_expires - now), "timer_expires": int(one.timer_expires)}
    out |= {"reg_init": int(one.reg_init), "reg_delay": one.reg_delay}
    return out | {"contact_addr": one.contact_addr or "none", "socket": one.socket}
