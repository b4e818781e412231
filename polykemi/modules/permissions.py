"""permissions: addresses that are trusted, by group (Kamailio: permissions)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from polykemi.errors import DataError, ParseError, RpcError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.posix import BadPattern, Pattern, compile_basic
from polykemi.kemi.registry import export
from polykemi.kemi.rpc import rpc
from polykemi.modules.base import Module, Services
from polykemi.modules.permissions_rpc import PermissionsDumps
from polykemi.pv.accessor import Accessor
from polykemi.sip.grammar import to_ip
from polykemi.sip.message import Request
from polykemi.storage.provisioned import Address

log = logging.getLogger("polykemi.permissions")

_TRUSTED_COLUMNS: Final = ("proto", "from_pattern", "ruri_pattern", "tag")
_MAX_CACHED: Final = 4096  # source addresses whose rows are remembered


@dataclass(frozen=True, slots=True)
class PermissionsParams:
    """Kamailio's names and defaults."""

    address_file: Path | None = None  # "group address [mask [port [tag]]]" a line, in place of the address table
    db_mode: int = (
        0  # allow_trusted: 0 asks the table at each call, the lowest priority first; 1 keeps it, the highest first
    )
    trusted_table: str = "trusted"
    peer_tag_avp: str = ""  # "$avp(name)": takes the tag of the row that matched
    peer_tag_mode: int = 0  # allow_trusted: 1 takes the tags of all rows that match

    def __post_init__(self) -> None:
        if self.db_mode not in (0, 1):
            raise ValueError(f"db_mode: expected 0 or 1, got {self.db_mode}")


class Row(NamedTuple):
    """A row of the address table; port 0 matches every port."""

    rank: tuple[int, int, int]  # of rows that match the first one counts, as in Kamailio
    group: int
    port: int
    tag: str | None


class Trusted(NamedTuple):
    """A row of the trusted table; None matches everything."""

    proto: str
    from_pattern: Pattern | None
    ruri_pattern: Pattern | None
    tag: str | None
    priority: int


class Permissions(Module):
    """Looks addresses up in the address and trusted tables, which are kept in memory."""

    name = "permissions"
    Params = PermissionsParams

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        # (IP version, prefix length) -> network as a number -> rows
        self.networks: dict[tuple[int, int], dict[int, list[Row]]] = {}
        self.names: dict[str, list[Row]] = {}  # domain names, compared as they are
        self.trusted: dict[str, list[Trusted]] = {}
        self._found: dict[str, list[Row]] = {}
        self._tag: Accessor | None = None

    def commands(self) -> tuple[object, ...]:
        """Return the commands: those that read the tables anew, and those that show them."""
        return (self, PermissionsDumps(self))

    def start(self, now: float) -> None:
        """Read the tables."""
        self._tag = self.variable("peer_tag_avp", self.params.peer_tag_avp, settable=True)
        self.reread(now)()

    def reread(self, now: float) -> Callable[[], None]:
        """Read the tables again; rows that make no sense are logged and left out. Raise DataError."""
        networks: dict[tuple[int, int], dict[int, list[Row]]] = {}
        names: dict[str, list[Row]] = {}
        for number, (group, text, mask, port, tag) in enumerate(self._entered(), 1):
            single = Row((0, 0, -number), group, port, tag)  # the last one entered comes first
            address = to_ip(text)
            if address is None:
                names.setdefault(text, []).insert(0, single)
                continue
            bits = mask or address.max_prefixlen
            if not 0 < bits <= address.max_prefixlen:
                log.error("address table, row %d: %s/%s is no network", number, text, mask)
                continue
            row = single if bits == address.max_prefixlen else Row((1, group, number), group, port, tag)
            network = int(address) >> (address.max_prefixlen - bits)
            networks.setdefault((address.version, bits), {}).setdefault(network, []).append(row)
        trusted = self._read_trusted()

        def use() -> None:
            self.networks, self.names, self.trusted = networks, names, trusted
            self._found.clear()

        return use

    def _entered(self) -> list[Address]:
        """Return the rows of the table, or of the file. Raise DataError."""
        path = self.params.address_file
        if path is None:
            return self.services.database.addresses()
        try:
            text = path.read_text("latin-1")
        except OSError as error:
            raise DataError(f"permissions: address_file {path}: {error.strerror}") from None
        rows = []
        for number, line in enumerate(text.split("\n"), 1):
            fields = line.partition("#")[0].split()
            if not fields:
                continue
            group, address, mask, port = [*fields, *("", "", "0", "0")[len(fields) :]][:4]
            if not address or not all(n.isdecimal() for n in (group, mask, port)):
                raise DataError(
                    f"permissions: {path}:{number}: expected group address [mask [port [tag]]], got {line!r}"
                )
            rows.append(Address(int(group), address, int(mask), int(port), fields[4] if len(fields) > 4 else None))
        return rows

    def _read_trusted(self) -> dict[str, list[Trusted]]:
        """Return the rows of the trusted table by source, the highest priority first; none when there is no table."""
        out: dict[str, list[Trusted]] = {}
        if self.params.db_mode:
            columns = ["src_ip", *_TRUSTED_COLUMNS, "priority"]
            rows = self.services.database.select(self.params.trusted_table, columns)
            for source, *row in sorted(rows, key=lambda row: -(row[-1] or 0)):
                out.setdefault(source, []).extend(self._trusted_row(*row))
        return out

    def _trusted_row(
        self, proto: str, from_pattern: str | None, ruri_pattern: str | None, tag: str | None, priority: int | None = 0
    ) -> list[Trusted]:
        """Return the row, nothing for one whose patterns do not compile."""
        try:
            patterns = [compile_basic(p) if p else None for p in (from_pattern, ruri_pattern)]
        except BadPattern as error:
            log.error("%s table: %s", self.params.trusted_table, error)
            return []
        return [Trusted(proto.lower(), patterns[0], patterns[1], tag, priority or 0)]

    def _trusted_of(self, source: str) -> list[Trusted]:
        if self.params.db_mode:
            return self.trusted.get(source, [])
        try:
            rows = self.services.database.select(
                self.params.trusted_table, _TRUSTED_COLUMNS, {"src_ip": source}, order="priority"
            )
        except DataError as error:
            log.error("allow_trusted: %s", error)
            return []
        return [one for row in rows for one in self._trusted_row(*row)]

    # ---- the address table
    @export()
    def allow_source_address(self, ctx: RouteContext, addr_group: int) -> int:
        """Tell whether the source of the message is in group ``addr_group``: 1 or -1."""
        return self._allow(ctx, addr_group, ctx.flow.host, ctx.flow.port)

    @export()
    def allow_address(self, ctx: RouteContext, addr_group: int, ip_addr: str, port: int) -> int:
        """Tell whether ``ip_addr`` (or a domain name, not resolved) and ``port`` are in group ``addr_group``: 1 or -1."""
        return self._allow(ctx, addr_group, ip_addr, port)

    @export()
    def allow_source_address_group(self, ctx: RouteContext) -> int:
        """Return the group that the source of the message is in, -1 when it is in none."""
        return self._group(ctx, ctx.flow.host, ctx.flow.port)

    @export()
    def allow_address_group(self, ctx: RouteContext, addr: str, port: int) -> int:
        """Return the group that ``addr`` and ``port`` are in, -1 when they are in none."""
        return self._group(ctx, addr, port)

    def _allow(self, ctx: RouteContext, group: int, address: str, port: int) -> int:
        for row in self._found.get(address) or self._rows(address):
            if row.group == group and row.port in (0, port):
                self._set_tag(ctx, row.tag)
                return 1
        return -1

    def _group(self, ctx: RouteContext, address: str, port: int) -> int:
        for row in self._found.get(address) or self._rows(address):
            if row.port in (0, port):
                self._set_tag(ctx, row.tag)
                return row.group
        return -1

    def _rows(self, text: str) -> list[Row]:
        """Return the rows that ``text`` matches: single addresses, then networks by their groups."""
        rows = sorted(self._search(text))
        if len(self._found) >= _MAX_CACHED:
            self._found.clear()
        if len(text) <= 64:
            self._found[text] = rows
        return rows

    def _search(self, text: str) -> Iterator[Row]:
        address = to_ip(text)
        if address is None:
            yield from self.names.get(text, ())
            return
        number, width = int(address), address.max_prefixlen
        for (version, bits), networks in self.networks.items():
            if version == address.version:
                yield from networks.get(number >> (width - bits), ())

    # ---- commands
    @rpc("permissions.addressReload")
    def reload_addresses(self, *, now: float) -> str:
        """Read the address table (or file) anew, and the trusted table."""
        try:
            self.reread(now)()
        except DataError as error:
            raise RpcError(500, f"Reload failed: {error}") from None
        return "Reload OK"

    @rpc("permissions.trustedReload")
    def reload_trusted(self) -> str:
        """Read the trusted table anew, which matters with db_mode 1 alone."""
        try:
            self.trusted = self._read_trusted()
        except DataError as error:
            raise RpcError(500, f"Reload failed: {error}") from None
        return "Reload OK"

    def _set_tag(self, ctx: RouteContext, tag: str | None) -> None:
        if tag is not None and self._tag is not None and self._tag.set is not None:
            self._tag.set(ctx, tag)

    # ---- the trusted table
    @export()
    def allow_trusted(self, ctx: RouteContext) -> int:
        """Tell whether a row of the trusted table matches source, protocol, and of requests From and Request-URI.

        Answers 1, with peer_tag_mode 1 how many rows do, or -1.
        """
        proto, matches = ctx.flow.listener.proto, 0
        for row in self._trusted_of(ctx.flow.host):
            if row.proto not in ("any", proto) or not self._matches(ctx, row):
                continue
            self._set_tag(ctx, row.tag)
            matches += 1
            if not self.params.peer_tag_mode:
                break
        return matches or -1

    def _matches(self, ctx: RouteContext, row: Trusted) -> bool:
        if not isinstance(ctx.message, Request):
            return True
        if row.from_pattern is not None:
            try:
                uri = ctx.message.from_.uri
            except ParseError:
                return False
            if not row.from_pattern.matches(uri):
                return False
        return row.ruri_pattern is None or row.ruri_pattern.matches(ctx.message.uri)
