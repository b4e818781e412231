"""group: whether a user is in a group of the database (Kamailio: group)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from polykemi.errors import DataError, ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.modules.base import Module
from polykemi.sip.uri import parse_uri

log = logging.getLogger("polykemi.script")

_NO_DATABASE: Final = -5
_NOT_IN: Final = -6


@dataclass(frozen=True, slots=True)
class GroupParams:
    """Kamailio's names and defaults."""

    table: str = "grp"
    user_column: str = "username"
    domain_column: str = "domain"
    group_column: str = "grp"
    use_domain: int = 0  # 1: the domain counts too


class Group(Module):
    """Asks the table of groups: one SELECT a call."""

    name = "group"
    Params = GroupParams

    @export()
    def is_user_in(self, ctx: RouteContext, uri: str, grp: str) -> int:
        """Tell whether the user of ``uri`` is in group ``grp``: 1, -6 when not, -5 database error, -1 no user or group."""
        p: GroupParams = self.params
        try:
            parsed = parse_uri(uri)
        except ParseError:
            if uri:
                log.error("group.is_user_in: %r is no URI", uri)
            return -1
        if not parsed.user or not grp:
            return -1
        where = {p.user_column: parsed.user, p.group_column: grp}
        if p.use_domain:
            where[p.domain_column] = parsed.host
        try:
            rows = self.services.database.select(p.table, [p.group_column], where)
        except DataError as error:
            log.error("group.is_user_in: %s", error)
            return _NO_DATABASE
        return 1 if rows else _NOT_IN
