"""alias_db: other names of users, in the database (Kamailio: alias_db)."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from polykemi.errors import DataError, ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.modules.base import Module
from polykemi.sip.uri import parse_uri
from polykemi.transaction.target import MOST_TARGETS, Target

log = logging.getLogger("polykemi.script")


@dataclass(frozen=True, slots=True)
class AliasDbParams:
    """Kamailio's names and defaults."""

    user_column: str = "username"
    domain_column: str = "domain"
    alias_user_column: str = "alias_username"
    alias_domain_column: str = "alias_domain"
    use_domain: int = 0  # 1: the domain counts too
    domain_prefix: str = ""  # taken from the front of a domain before it is looked up
    append_branches: int = 0  # 1: what is found besides the first becomes branches


class AliasDb(Module):
    """Looks aliases up: one SELECT a call."""

    name = "alias_db"
    Params = AliasDbParams

    @export()
    def lookup(self, ctx: RouteContext, stable: str) -> int:
        """Set the Request-URI to the user whose alias it is, by ``stable`` (dbaliases). Answers 1, or -1 for no such alias."""
        return self._lookup(ctx, stable, domain=bool(self.params.use_domain), reverse=False)

    @export()
    def lookup_ex(self, ctx: RouteContext, stable: str, sflags: str) -> int:
        """Do as ``lookup``; flags d: without the domain, u: with it, r: from users to aliases."""
        domain, reverse = bool(self.params.use_domain), False
        for flag in sflags.lower():
            if flag in "du":
                domain = flag == "u"
            elif flag == "r":
                reverse = True
            else:
                log.error("alias_db.lookup_ex: expected the flags d, r, u, got %r", flag)
        return self._lookup(ctx, stable, domain=domain, reverse=reverse)

    def _lookup(self, ctx: RouteContext, table: str, *, domain: bool, reverse: bool) -> int:
        p: AliasDbParams = self.params
        user, alias = (p.user_column, p.domain_column), (p.alias_user_column, p.alias_domain_column)
        asked, wanted = (user, alias) if reverse else (alias, user)
        try:
            uri = parse_uri(ctx.ruri)
        except ParseError:
            return -1
        where = {asked[0]: uri.user}
        if domain:
            where[asked[1]] = self._without_prefix(uri.host)
        try:
            rows = self.services.database.select(table, wanted, where)
        except DataError as error:
            log.error("alias_db.lookup: %s", error)
            return -1
        if not rows or rows[0][0] is None:
            return -1
        ctx.ruri, *others = [f"sip:{name or ''}@{host or ''}" for name, host in rows]
        for other in others if p.append_branches else ():
            if len(ctx.branches) >= MOST_TARGETS:
                log.error("alias_db: more than %d branches", MOST_TARGETS)
                return -1
            ctx.branches.append(Target(other, q=0))
        return 1

    def _without_prefix(self, host: str) -> str:
        prefix = self.params.domain_prefix
        return host[len(prefix) :] if len(prefix) < len(host) and host.lower().startswith(prefix.lower()) else host
