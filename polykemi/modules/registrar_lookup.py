"""Who is registered: addresses of record, their contacts, what lookup makes of these. Part of registrar."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.modules.base import Services
from polykemi.modules.registrar_contacts import Rejected, first_uri, lower, methods_of
from polykemi.modules.registrar_gruu import Gruus
from polykemi.modules.registrar_params import FILTER_BFLAGS, FILTER_CONNECTIONS, RegistrarParams
from polykemi.modules.usrloc import Usrloc
from polykemi.sip.flow import Flow, Listener
from polykemi.sip.grammar import canonical_host
from polykemi.sip.header import split_quoted
from polykemi.sip.uri import parse_uri, unescape
from polykemi.storage.location import Binding
from polykemi.transaction.target import Target

log = logging.getLogger("polykemi.registrar")

MAX_AOR: Final = 256  # octets, as Kamailio's


class Lookup:
    """Finds contacts. ``configured(ctx, name, default)`` is what the xavp of xavp_cfg says."""

    def __init__(
        self,
        services: Services,
        params: RegistrarParams,
        usrloc: Usrloc,
        gruus: Gruus | None,
        configured: Callable[[RouteContext, str, Any], Any],
    ) -> None:
        self.services = services
        self.params = params
        self._usrloc = usrloc
        self._gruus = gruus
        self._configured = configured
        self._listeners: dict[str, Listener] = {str(x): x for x in services.listeners}
        self._tables = frozenset(usrloc.params.preload)
        self._unknown_tables: set[str] = set()

    def contacts(self, ctx: RouteContext, table: str, uri: str) -> list[Binding] | int:
        """Return the usable contacts of an AoR by preference, or the negative result of ``lookup``."""
        if not self.has_table(table):
            return -1
        is_gruu = False
        try:
            if ";gr" in uri and self._gruus is not None:
                is_gruu = parse_uri(uri).param("gr") is not None
            found = self._of_gruu(ctx, table, uri) if is_gruu else self.valid(ctx, table, self.aor(uri))
        except Rejected:
            return -1
        except ParseError:
            return -3
        if self.params.lookup_filter_mode and not is_gruu:
            found = [b for b in found if self._passes(ctx, b)]
        if not found:
            return -1
        if self.params.method_filtering and ctx.request.to.tag is None:
            method = methods_of(ctx.method)
            found = [b for b in found if b.methods & method]
            if not found:
                return -2
        found = self._usrloc.in_order(found)
        return found[:1] if is_gruu else found

    def _of_gruu(self, ctx: RouteContext, table: str, text: str) -> list[Binding]:
        """Return the valid bindings of the phone that a GRUU stands for. Raise Rejected, ParseError."""
        assert self._gruus is not None
        uri = parse_uri(text)
        aor = self.aor(text) if uri.param("gr") else ""
        return self._usable(ctx, self._gruus.find(uri, lambda aor: self.services.location.get(table, aor), aor))

    def _passes(self, ctx: RouteContext, binding: Binding) -> bool:
        """Tell whether ``lookup_filter_mode`` lets the contact be called."""
        mode = self.params.lookup_filter_mode
        if mode & FILTER_BFLAGS:
            wanted = self._configured(ctx, "rlf_bflags", 0)
            if isinstance(wanted, int) and wanted and not binding.bflags & wanted:
                return False
        if mode & FILTER_CONNECTIONS:
            listener = self._listeners.get(binding.listener)
            if listener is not None and listener.proto != "udp":
                place = parse_uri(binding.received or binding.uri)
                flow = Flow(listener, canonical_host(place.host), place.effective_port)
                return self.services.connections.ident(flow) >= 0
        return True

    def valid(self, ctx: RouteContext, table: str, aor: str) -> list[Binding]:
        """Return the bindings that have not expired, or all of them (use_expired_contacts)."""
        return self._usable(ctx, self.services.location.get(table, aor))

    def _usable(self, ctx: RouteContext, bindings: list[Binding]) -> list[Binding]:
        if self.params.use_expired_contacts:
            return bindings
        now = ctx.now
        return [b for b in bindings if b.expires > now or not b.expires]

    def target(self, binding: Binding) -> Target:
        """Return ``binding`` as an entry of the destination set; a Path goes before the address it came from (RFC 3327)."""
        path, dst_uri = binding.path, binding.received
        if path:
            hops = split_quoted(path, ",")
            if self.params.path_check_local and self._is_local(first_uri(path)):
                del hops[0]
                path = ",".join(hops)
            if path:
                dst_uri = first_uri(path)
        return Target(
            binding.uri,
            dst_uri,
            path=path,
            q=binding.q,
            flags=binding.bflags,
            listener=self._listeners.get(binding.listener),
            instance=binding.instance,
            ruid=binding.ruid,
            user_agent=binding.user_agent,
        )

    def _is_local(self, hop: str) -> bool:
        try:
            uri = parse_uri(hop)
        except ParseError:
            return False
        return self.services.is_myself(uri.host, uri.effective_port)

    def has_table(self, table: str) -> bool:
        """Tell whether there is such a table, and in the log when there is none."""
        if table in self._tables:
            return True
        if table not in self._unknown_tables and len(self._unknown_tables) < 100:
            self._unknown_tables.add(table)
            log.error("there is no location table %r; tables are named in usrloc's parameter preload", table)
        return False

    def aor(self, text: str) -> str:
        """Return the key of the AoR in the URI ``text``. Raise Rejected for one without a user, ParseError for no URI."""
        uri = parse_uri(text)
        user = uri.user
        if "%" in user:
            user = unescape(user)
        if not user:
            raise Rejected(400, "Bad Request", "Address Of Record without a user")
        if self._usrloc.params.use_domain:
            domain = uri.host
            prefix = self.params.realm_prefix
            if prefix and lower(domain).startswith(lower(prefix)):
                domain = domain[len(prefix) :]
            user = f"{user}@{lower(domain)}"
        if len(user) > MAX_AOR:
            raise Rejected(400, "Bad Request", "Address Of Record too long")
        return user if self.params.case_sensitive else lower(user)
