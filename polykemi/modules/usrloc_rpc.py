"""What an operator asks usrloc: who is registered, and changes of that (Kamailio: the RPC commands ul.*). Part of usrloc."""

from __future__ import annotations

from itertools import islice
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from polykemi.errors import ParseError, RpcError
from polykemi.kemi.hashes import core_hash
from polykemi.kemi.rpc import Refusal, rpc
from polykemi.modules.base import Services
from polykemi.modules.registrar_contacts import lower
from polykemi.sip.flow import Flow, find_listener
from polykemi.sip.uri import parse_uri
from polykemi.storage.location import Binding

if TYPE_CHECKING:
    from polykemi.modules.usrloc import Usrloc

# addresses of record in an answer: as long as it is made, some 50 ms, no message is routed
_MOST_LISTED: Final = 1000
_MOST_NAMED: Final = 5000
_NO_TABLE: Final = "Domain table not found"
_LOOKUP: Final[Refusal] = (500, "Not enough parameters (table and AOR to lookup)")
_UNSET: Final = "[not set]"
_CALL_ID: Final = "rpc@polykemi"  # of contacts that an operator has added
_AGENT: Final = "polykemi RPC"


class UsrlocCommands:
    """The commands."""

    def __init__(self, usrloc: Usrloc) -> None:
        self._usrloc = usrloc

    @property
    def _services(self) -> Services:
        return self._usrloc.services

    @rpc("ul.dump")
    def dump(self, mode: str = "", *, now: float) -> dict[str, Any]:
        """List what is registered, up to 1,000 addresses of record of each table; mode brief: these alone, up to 5,000."""
        brief = mode.lower() == "brief"
        return {"Domains": [{"Domain": self._table(name, now, brief=brief)} for name in self._usrloc.params.preload]}

    def _table(self, name: str, now: float, *, brief: bool) -> dict[str, Any]:
        location = self._services.location
        records: list[Any] = []
        for aor, bindings in islice(location.items(name), _MOST_NAMED if brief else _MOST_LISTED):
            if brief:
                records.append({"AoR": aor})
                continue
            contacts = [{"Contact": self._contact(one, now)} for one in self._usrloc.in_order(bindings)]
            records.append({"Info": {"AoR": aor, "HashID": core_hash(aor.encode("latin-1")), "Contacts": contacts}})
        total = location.count(name)
        return {
            "Domain": name,
            "Size": total,
            "AoRs": records,
            "Stats": {"Records": total, "Max-Slots": min(total, 1)},
        }

    @rpc("ul.lookup", _LOOKUP)
    def lookup(self, table: str, aor: str, *, now: float) -> dict[str, Any]:
        """Return the contacts of an address of record."""
        self._check(table)
        aor = self._aor(aor)
        bindings = self._services.location.get(table, aor)
        if not bindings:
            raise RpcError(500, "AOR not found in location table")
        contacts = [{"Contact": self._contact(one, now)} for one in self._usrloc.in_order(bindings)]
        return {"AoR": aor, "Contacts": contacts}

    @rpc("ul.add", (500, "Not enough parameters or wrong format"))
    def add(
        self,
        table: str,
        aor: str,
        contact: str,
        expires: int,
        q: float,
        path: str,
        flags: int,
        bflags: int,
        methods: int,
        *,
        now: float,
    ) -> dict[str, Any]:
        """Add a contact, or put it in place of the same; expires in seconds, 0: for ever; path 0: none; methods: a bit mask."""
        self._check(table)
        try:
            parse_uri(contact)
        except ParseError as error:
            raise RpcError(500, f"contact: {error.reason}") from None
        if expires < 0 or not 0 <= q <= 1:
            raise RpcError(500, "expected expires of 0 and more, and q from 0 to 1")
        aor = self._aor(aor)
        new = Binding(
            contact,
            now + expires if expires else 0,
            round(q * 1000),
            _CALL_ID,
            1,
            _AGENT,
            path="" if path == "0" else path,
            methods=methods & 0xFFFFFFFF,
            flags=flags & 0xFFFFFFFF,
            bflags=bflags & 0xFFFFFFFF,
            ruid=f"ulcx-{self._services.ids.unique()}",
            modified=now,
        )
        location = self._services.location
        bindings = location.get(table, aor)
        index = self._usrloc.find(bindings, new)
        if index < 0:
            bindings.append(new)
        else:
            new.ruid = bindings[index].ruid
            bindings[index] = new
        self._store(table, aor, bindings)
        return {}

    @rpc("ul.rm", _LOOKUP)
    def remove(self, table: str, aor: str, contact: str = "") -> dict[str, Any]:
        """Remove an address of record, or one contact of it."""
        if contact:
            return self.remove_contact(table, aor, contact)
        self._check(table)
        self._store(table, self._aor(aor), [])
        return {}

    @rpc("ul.rm_contact", (500, "Not enough parameters (table, AOR and contact)"))
    def remove_contact(self, table: str, aor: str, contact: str) -> dict[str, Any]:
        """Remove a contact, by its URI as it was registered."""
        self._check(table)
        aor = self._aor(aor)
        bindings = self._services.location.get(table, aor)
        if not bindings:
            raise RpcError(404, "AOR not found")
        left = [one for one in bindings if one.uri != contact]
        if len(left) == len(bindings):
            raise RpcError(404, "Contact not found")
        self._store(table, aor, left)
        return {}

    @rpc("ul.flush")
    def flush(self) -> dict[str, Any]:
        """Write what is not on disk yet, with db_mode 2 all rows that wait for the timer."""
        self._services.location.commit()
        self._usrloc.write_back()
        return {}

    @rpc("ul.db_users")
    def db_users(self, table: str) -> int:
        """Count the addresses of record that are kept beyond the end of the server."""
        self._check_kept(table)
        return self._services.location.count(table)

    @rpc("ul.db_contacts")
    def db_contacts(self, table: str) -> int:
        """Count the contacts that are kept. As long as that takes, 5 ms for 1,000 of them, no message is routed."""
        self._check_kept(table)
        return sum(len(bindings) for _, bindings in self._services.location.items(table))

    @rpc("ul.db_expired_contacts")
    def db_expired_contacts(self, table: str, *, now: float) -> int:
        """Count the kept contacts that have expired and are still there. It takes as long as ul.db_contacts."""
        self._check_kept(table)
        items = self._services.location.items(table)
        return sum(0 < one.expires <= now for _, bindings in items for one in bindings)

    def _check_kept(self, table: str) -> None:
        if self._usrloc.params.db_mode == 0:
            raise RpcError(500, "Command is not supported in db_mode=0")
        self._check(table)

    def _check(self, table: str) -> None:
        if table not in self._usrloc.params.preload:
            raise RpcError(500, _NO_TABLE)

    def _aor(self, text: str) -> str:
        """Return an address of record as registrar writes it: without domain unless use_domain, in lower case by default."""
        aor = text if self._usrloc.params.use_domain else text.partition("@")[0]
        registrar = self._services.modules.get("registrar")
        return aor if registrar is not None and registrar.params.case_sensitive else lower(aor)

    def _store(self, table: str, aor: str, bindings: list[Binding]) -> None:
        """Put it on disk before it is answered. Raise DataError."""
        self._services.location.put(table, aor, bindings)
        self._services.location.commit()

    def _contact(self, one: Binding, now: float) -> dict[str, Any]:
        return {
            "Address": one.uri,
            "Expires": "permanent" if not one.expires else "expired" if one.expires <= now else ceil(one.expires - now),
            "Q": one.q / 1000 if one.q >= 0 else -1,
            "Call-ID": one.call_id,
            "CSeq": one.cseq,
            "User-Agent": one.user_agent or _UNSET,
            "Received": one.received or _UNSET,
            "Path": one.path or _UNSET,
            "State": "CS_SYNC" if self._usrloc.params.db_mode else "CS_NEW",
            "Flags": one.flags,
            "CFlags": one.bflags,
            "Socket": one.listener or _UNSET,
            "Methods": one.methods,
            "Ruid": one.ruid or _UNSET,
            "Instance": one.instance or _UNSET,
            "Reg-Id": one.reg_id,
            "Server-Id": 0,
            "Tcpconn-Id": self._connection(one),
            "Keepalive": int(self._usrloc.params.ka_mode != 0),
            "Last-Keepalive": int(one.modified),
            "KA-Roundtrip": 0,
            "Last-Modified": int(one.modified),
        }

    def _connection(self, one: Binding) -> int:
        """Return the number of the connection that the contact is reached over, -1 for none."""
        try:
            uri = parse_uri(one.received or one.uri)
        except ParseError:
            return -1
        listener = find_listener(one.listener, self._services.listeners) if one.listener else None
        if listener is None or listener.proto == "udp":
            return -1
        return self._services.connections.ident(Flow(listener, uri.host.strip("[]"), uri.effective_port))
