"""uac_redirect: follows redirections: the contacts of 3xx responses become branches (RFC 3261 section 16.7 step 4)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

from polykemi.errors import DataError, ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.numbers import is_number
from polykemi.kemi.pattern import Pattern
from polykemi.kemi.posix import BadPattern, compile_posix
from polykemi.kemi.registry import export
from polykemi.kemi.route import Route
from polykemi.modules.base import Module, Services
from polykemi.modules.registrar_contacts import Rejected, parse_q
from polykemi.modules.tm_fork import MAX_BRANCHES
from polykemi.sip.header import NameAddr, parse_name_addr, split_quoted
from polykemi.transaction.forking import Branch, Transaction
from polykemi.transaction.target import Target

log = logging.getLogger("polykemi.script")

_ACC: Final = ("acc_log_request", "acc_db_request", "acc_request", "")


@dataclass(frozen=True, slots=True)
class UacRedirectParams:
    """Kamailio's names and defaults. Filters are regular expressions, compared with the URIs of contacts without case."""

    default_filter: str = "accept"  # or deny: what becomes of contacts that no filter matches
    accept_filter: str = ""  # these are followed, whatever the others say
    deny_filter: str = ""  # these are not; with default_filter = "deny" it is not asked
    acc_function: str = (
        "acc_log_request"  # what get_redirects_acc calls; or acc_db_request, acc_request, "" for nothing
    )
    acc_db_table: str = "acc"
    bflags: int = 0  # branch flags of what was redirected
    flags_hdr_mode: int = 0  # the parameter "flags" of a contact: 0 ignored, 1 in the place of bflags, 2 added to them
    q_value: int = 10  # thousandths: the q of contacts without one

    def __post_init__(self) -> None:
        if self.default_filter.lower() not in ("accept", "deny"):
            raise ValueError(f'default_filter: expected "accept" or "deny", got "{self.default_filter}"')
        if self.acc_function not in _ACC:
            raise ValueError(f"acc_function: expected one of {', '.join(_ACC[:3])}, got {self.acc_function!r}")
        if not 0 <= self.flags_hdr_mode <= 2:
            raise ValueError(f"flags_hdr_mode: expected 0, 1 or 2, got {self.flags_hdr_mode}")
        if not 0 <= self.q_value <= 1000:
            raise ValueError(f"q_value: expected 0 to 1000, got {self.q_value}")


class UacRedirect(Module):
    """Takes the contacts of 3xx responses into the destination set."""

    name = "uac_redirect"
    Params = UacRedirectParams
    requires = ("tm",)

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self._accepted = self._filter("accept_filter")
        self._denied = self._filter("deny_filter")

    def _filter(self, key: str) -> Pattern | None:
        text: str = getattr(self.params, key)
        try:
            return compile_posix(text) if text else None
        except BadPattern as error:
            raise DataError(f"uac_redirect: {key}: {error}") from None

    @export()
    def get_redirects_all(self, ctx: RouteContext) -> int:
        """In a failure route, add all contacts of the 3xx responses to the last t_relay as branches. Answers 1, or -1 for none.

        Those of one response come in the order of their q, the lowest first. The script relays them.
        """
        return self._redirect(ctx, 0, 0, "")

    @export()
    def get_redirects(self, ctx: RouteContext, max_c: int, max_b: int) -> int:
        """Add contacts like ``get_redirects_all``, ``max_c`` in all and ``max_b`` of one response at most (0: no limit).

        Of more than these the ones with the highest q are taken. Answers 1, or -1 when there was none.
        """
        return self._redirect(ctx, max_c, max_b, "")

    @export()
    def get_redirects_acc(self, ctx: RouteContext, max_c: int, max_b: int, reason: str) -> int:
        """Add contacts like ``get_redirects``; each is accounted by ``acc_function``, with ``reason`` as its comment."""
        return self._redirect(ctx, max_c, max_b, reason)

    def _redirect(self, ctx: RouteContext, most: int, most_of_one: int, reason: str) -> int:
        t = ctx.transaction
        if t is None or ctx.kind is not Route.FAILURE or most < 0 or most_of_one < 0:
            return -1
        tried = {branch.uri for branch in t.branches} | {target.uri for target in ctx.branches}
        added = 0
        for branch in t.branches[t.new_branches :]:
            if branch.reply is None or not 300 <= branch.status < 400:
                continue
            contacts = [contact for contact in self._contacts(branch) if contact[1].uri not in tried]
            limit = min(most - added if most else MAX_BRANCHES, most_of_one or MAX_BRANCHES)
            for q, contact in contacts[max(len(contacts) - limit, 0) :]:
                if contact.uri in tried or not self._add(ctx, t, q, contact):
                    continue
                tried.add(contact.uri)
                added += 1
                if reason:
                    self._account(ctx, contact.uri, reason)
        return 1 if added else -1

    def _contacts(self, branch: Branch) -> list[tuple[int, NameAddr]]:
        """Return q and address of the contacts of the 3xx that may be followed, the lowest q first."""
        out: list[tuple[int, NameAddr]] = []
        reply = branch.reply
        assert reply is not None
        for i in reply.indexes("contact"):
            for value in reversed(
                split_quoted(reply.value(i), ",")
            ):  # as Kamailio, whose list of them is turned around
                try:
                    contact = parse_name_addr(value)
                    if self._is_accepted(contact.uri):
                        out.append((parse_q(contact.param("q"), self.params.q_value), contact))
                except (ParseError, Rejected):
                    log.info("uac_redirect: the contact %r cannot be read", value)
        out.sort(key=lambda entry: entry[0])
        return out

    def _is_accepted(self, uri: str) -> bool:
        if self._accepted is not None and self._accepted.matches(uri):
            return True
        if self.params.default_filter.lower() == "deny":
            return False
        return self._denied is None or not self._denied.matches(uri)

    def _add(self, ctx: RouteContext, t: Transaction, q: int, contact: NameAddr) -> bool:
        if len(t.branches) + len(ctx.branches) >= MAX_BRANCHES:
            return False
        flags = self.params.bflags
        own = contact.param("flags") or ""
        if self.params.flags_hdr_mode and is_number(own):
            flags = int(own) | (flags if self.params.flags_hdr_mode == 2 else 0)
            flags &= 0xFFFFFFFF
        ctx.branches.append(Target(contact.uri, q=q, flags=flags, ruid=self.services.ids.unique()))
        return True

    def _account(self, ctx: RouteContext, uri: str, reason: str) -> None:
        acc, function = self.services.modules.get("acc"), self.params.acc_function
        if acc is None or not function:
            return
        before, ctx.ruri = ctx.ruri, uri
        if function == "acc_log_request":
            acc.acc_log_request(ctx, reason)
        elif function == "acc_db_request":
            acc.acc_db_request(ctx, reason, self.params.acc_db_table)
        else:
            acc.acc_request(ctx, reason, self.params.acc_db_table)
        ctx.ruri = before
