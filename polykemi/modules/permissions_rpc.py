"""What an operator sees of the address and the trusted table, as they are in memory. Part of permissions.

``table`` and ``id`` are where an entry stands in the list; Kamailio tells the slot of its hash table.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any, Final

from polykemi.errors import RpcError
from polykemi.kemi.posix import Pattern
from polykemi.kemi.rpc import rpc
from polykemi.sip.flow import TRANSPORT_NUMBERS

if TYPE_CHECKING:
    from polykemi.modules.permissions import Permissions

_KINDS: Final[dict[int, type[IPv4Address | IPv6Address]]] = {4: IPv4Address, 6: IPv6Address}
_WIDTHS: Final = {4: 32, 6: 128}


class PermissionsDumps:
    """The commands that show the tables."""

    def __init__(self, permissions: Permissions) -> None:
        self._permissions = permissions

    @rpc("permissions.addressDump")
    def addresses(self) -> list[dict[str, Any]]:
        """List the single addresses of the address table."""
        rows = [(row.group, ip, row) for ip, bits, width, row in self._all() if bits == width]
        return [
            {"table": n, "group": group, "item": {"ip": ip, "port": row.port, "tag": row.tag or ""}}
            for n, (group, ip, row) in enumerate(sorted(rows))
        ]

    @rpc("permissions.subnetDump")
    def subnets(self) -> list[dict[str, Any]]:
        """List the networks of the address table, in the order in which they are looked through."""
        rows = [(row.rank, ip, bits, row) for ip, bits, width, row in self._all() if bits < width]
        return [
            {"id": n, "group": row.group, "item": {"ip": ip, "mask": bits, "port": row.port, "tag": row.tag or ""}}
            for n, (_, ip, bits, row) in enumerate(sorted(rows))
        ]

    def _all(self) -> list[tuple[str, int, int, Any]]:
        """Return address, prefix length, length of its addresses and row of each network."""
        return [
            (str(_KINDS[version](network << (_WIDTHS[version] - bits))), bits, _WIDTHS[version], row)
            for (version, bits), networks in self._permissions.networks.items()
            for network, found in networks.items()
            for row in found
        ]

    @rpc("permissions.domainDump")
    def domains(self) -> list[dict[str, Any]]:
        """List the names of the address table."""
        rows = sorted((row.group, name, row) for name, found in self._permissions.names.items() for row in found)
        return [
            {"table": n, "group": group, "item": {"domain_name": name, "port": row.port, "tag": row.tag or ""}}
            for n, (group, name, row) in enumerate(rows)
        ]

    @rpc("permissions.trustedDump")
    def trusted(self) -> list[dict[str, Any]]:
        """List the trusted table, which is kept with db_mode 1 alone; NULL stands for what is not there, proto 0 for any."""
        if not self._permissions.params.db_mode:
            raise RpcError(500, "Reload failed. No trusted table")
        rows = [(source, row) for source, found in sorted(self._permissions.trusted.items()) for row in found]
        return [
            {
                "table": n,
                "item": {
                    "ip": source,
                    "proto": TRANSPORT_NUMBERS.get(row.proto, 0),
                    "pattern": _text(row.from_pattern),
                    "ruri_pattern": _text(row.ruri_pattern),
                    "tag": row.tag or "NULL",
                    "priority": row.priority,
                },
            }
            for n, (source, row) in enumerate(rows)
        ]


def _text(pattern: Pattern | None) -> str:
    return pattern.source if pattern is not None else "NULL"
