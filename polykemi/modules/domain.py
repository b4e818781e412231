"""domain: the domains that this server serves, in the database (Kamailio: domain)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from polykemi.errors import DataError, ParseError, RpcError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.kemi.route import Route
from polykemi.kemi.rpc import rpc
from polykemi.modules.base import Module, Services
from polykemi.sip.message import Request
from polykemi.sip.uri import parse_uri

log = logging.getLogger("polykemi.script")

_INTEGER = 0  # types of attributes
_TEXT = 2

Attributes = list[tuple[str, int | str]]  # name and value, the last entered first


@dataclass(frozen=True, slots=True)
class DomainParams:
    """Kamailio's names and defaults."""

    domain_table: str = "domain"
    domain_attrs_table: str = "domain_attrs"
    did_col: str = "did"
    domain_col: str = "domain"
    name_col: str = "name"
    type_col: str = "type"
    value_col: str = "value"
    register_myself: int = 0  # 1: these domains are the server's own (is_myself) too


@dataclass(frozen=True, slots=True)
class _Domain:
    name: str
    did: str
    attributes: Attributes


class Domain(Module):
    """The table of domains, kept in memory."""

    name = "domain"
    Params = DomainParams

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self._domains: dict[str, _Domain] = {}  # by name in lower case
        self._attributes: dict[str, Attributes] = {}  # by domain id in lower case

    def start(self, now: float) -> None:
        """Read the tables. Raise DataError."""
        self.reread(now)()

    def reread(self, now: float) -> Callable[[], None]:
        """Read the tables anew and return what puts them in place. Raise DataError."""
        p: DomainParams = self.params
        select = self.services.database.select
        attributes: dict[str, Attributes] = {}
        columns = (p.did_col, p.name_col, p.type_col, p.value_col)
        for number, (did, name, kind, value) in enumerate(select(p.domain_attrs_table, columns), 1):
            where = f"domain: table {p.domain_attrs_table}, row {number}"
            if not did or not name or value is None:
                raise DataError(f"{where}: did, name and value must not be empty")
            if kind not in (_INTEGER, _TEXT):
                raise DataError(f"{where}: expected the type {_INTEGER} (integer) or {_TEXT} (text), got {kind!r}")
            try:
                converted = int(value) if kind == _INTEGER else str(value)
            except ValueError:
                raise DataError(f"{where}: {value!r} is no integer") from None
            attributes.setdefault(did.lower(), []).insert(0, (name, converted))
        domains: dict[str, _Domain] = {}
        for number, (name, did) in enumerate(select(p.domain_table, (p.domain_col, p.did_col)), 1):
            if not name or did == "":
                raise DataError(f"domain: table {p.domain_table}, row {number}: domain and did must not be empty")
            did = name if did is None else did
            domains[name.lower()] = _Domain(name, did, attributes.get(did.lower(), []))

        def use() -> None:
            self._domains, self._attributes = domains, attributes
            if p.register_myself:
                self.services.serve(entered=frozenset(domains))

        return use

    # ---- is it local?
    @export()
    def is_domain_local(self, ctx: RouteContext, sdomain: str) -> int:
        """Tell whether ``sdomain`` is in the table: 1 or -1."""
        return self._is_local(sdomain)

    @export()
    def is_from_local(self, ctx: RouteContext) -> int:
        """Tell whether the host of the From URI is in the table: 1 or -1, -2 for a From that cannot be read."""
        try:
            return self._is_local(parse_uri(ctx.message.from_.uri).host)
        except ParseError:
            return -2

    @export()
    def is_uri_host_local(self, ctx: RouteContext) -> int:
        """Tell whether the host of the Request-URI, in failure routes of the first branch, is in the table: 1 or -1."""
        uri = ctx.ruri
        if ctx.kind is Route.FAILURE:
            if not ctx.branches:
                log.error("domain.is_uri_host_local: there is no branch in this failure route")
                return -1
            uri = ctx.branches[0].uri
        elif ctx.kind not in (Route.REQUEST, Route.BRANCH, Route.EVENT) or not isinstance(ctx.message, Request):
            log.error("domain.is_uri_host_local: there is no Request-URI in this kind of route block")
            return -1
        try:
            return self._is_local(parse_uri(uri).host)
        except ParseError:
            return -1

    def _is_local(self, host: str) -> int:
        return 1 if host.lower() in self._domains else -1

    # ---- attributes
    @export()
    def lookup_domain(self, ctx: RouteContext, sdomain: str) -> int:
        """Add the attributes of a domain, and its id as $avp(did), to the AVPs. Answers 1, or -1 when it is not local."""
        return self._lookup(ctx, sdomain, "")

    @export()
    def lookup_domain_prefix(self, ctx: RouteContext, sdomain: str, sprefix: str) -> int:
        """Do as ``lookup_domain``, the names of the AVPs beginning with ``sprefix``."""
        return self._lookup(ctx, sdomain, sprefix)

    def _lookup(self, ctx: RouteContext, name: str, prefix: str) -> int:
        found = self._domains.get(name.lower())
        if found is None:
            return -1
        for attribute, value in (*found.attributes, ("did", found.did)):
            ctx.shared.avps.setdefault(prefix + attribute, []).insert(0, value)
        return 1

    # ---- commands
    @rpc("domain.reload")
    def reload(self, *, now: float) -> None:
        """Read the tables anew."""
        try:
            self.reread(now)()
        except DataError as error:
            raise RpcError(400, f"Reload of domain tables failed: {error}") from None

    @rpc("domain.dump")
    def dump(self) -> dict[str, Any]:
        """List the domains with their ids, and the names of the attributes of each id."""
        return {
            "domains": [{"domain": d.name, "did": d.did} for d in self._domains.values()],
            "attributes": [
                {"did": did, "attrs": [name for name, _ in attributes]} for did, attributes in self._attributes.items()
            ],
        }
