"""tm: the functions that arm route blocks and set timers, for this transaction or one to come."""

from __future__ import annotations

import logging
from itertools import groupby
from typing import Final

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.kemi.route import Route
from polykemi.modules.tm_preset import Settings
from polykemi.modules.tm_relay import Relayer
from polykemi.modules.tm_status import TmStatus
from polykemi.transaction.forking import Branch
from polykemi.transaction.layer import TransactionLayer
from polykemi.transaction.target import Target

log = logging.getLogger("polykemi.script")

_SLOTS: Final = {
    Route.BRANCH: "on_branch",
    Route.FAILURE: "on_failure",
    Route.ONREPLY: "on_reply",
    Route.BRANCH_FAILURE: "on_branch_failure",
}
_BY_LETTER: Final = {"b": "on_branch", "f": "on_failure", "o": "on_reply"}  # t_is_set


class TmSettings(TmStatus):
    """What a script sets for a transaction."""

    layer: TransactionLayer
    relayer: Relayer

    # ---- armed route blocks
    @export()
    def t_on_branch(self, ctx: RouteContext, name: str) -> int:
        """Run ``name`` for each branch of the next t_relay; "" disarms. Answers 1."""
        return self._arm(ctx, Route.BRANCH, name)

    @export()
    def t_on_failure(self, ctx: RouteContext, name: str) -> int:
        """Run ``name`` once when all branches have failed; "" disarms. Answers 1."""
        return self._arm(ctx, Route.FAILURE, name)

    @export()
    def t_on_reply(self, ctx: RouteContext, name: str) -> int:
        """Run ``name`` for each response of a branch; "" disarms. Answers 1."""
        return self._arm(ctx, Route.ONREPLY, name)

    @export()
    def t_on_branch_failure(self, ctx: RouteContext, name: str) -> int:
        """Run ``name`` when a branch of the next t_relay fails; "" disarms. Answers 1."""
        return self._arm(ctx, Route.BRANCH_FAILURE, name)

    def _arm(self, ctx: RouteContext, kind: Route, name: str) -> int:
        slot = _SLOTS[kind]
        if ctx.transaction is not None:
            setattr(ctx.transaction, slot, name)
        else:
            self.settings_of(ctx).routes[slot] = name
        return 1

    @export()
    def t_is_set(self, ctx: RouteContext, target: str) -> int:
        """Tell whether a ``branch_route``, ``failure_route`` or ``onreply_route`` is armed: 1 or -1.

        As in Kamailio the first letter alone counts: ``branch_failure_route`` asks about the branch route.
        """
        slot = _BY_LETTER.get(target[:1])
        if slot is None:
            return -1
        if ctx.transaction is not None:
            armed = getattr(ctx.transaction, slot)
        else:
            settings: Settings | None = ctx.cache.get("tm.settings")
            armed = settings is not None and settings.routes.get(slot)
        return 1 if armed else -1

    def settings_of(self, ctx: RouteContext) -> Settings:
        settings: Settings | None = ctx.cache.get("tm.settings")
        if settings is None:
            settings = ctx.cache["tm.settings"] = Settings()
        return settings

    # ---- timers and other settings
    @export()
    def t_set_fr(self, ctx: RouteContext, fr_inv_timeout: int, fr_timeout: int) -> int:
        """Set fr_inv_timer and fr_timer of this transaction (milliseconds, 0: unchanged). Answers 1, or -1 for negatives."""
        if fr_inv_timeout < 0 or fr_timeout < 0:
            return -1
        settings = self.settings_of(ctx)
        settings.fr_inv = fr_inv_timeout or settings.fr_inv
        settings.fr = fr_timeout or settings.fr
        return self._apply_timings(ctx, settings)

    @export()
    def t_set_fr_inv(self, ctx: RouteContext, fr_inv_timeout: int) -> int:
        """Set fr_inv_timer of this transaction (milliseconds)."""
        return self.t_set_fr(ctx, fr_inv_timeout, 0)

    @export()
    def t_reset_fr(self, ctx: RouteContext) -> int:
        """Go back to the parameters fr_timer and fr_inv_timer. Answers 1."""
        settings = self.settings_of(ctx)
        settings.fr = settings.fr_inv = 0
        return self._apply_timings(ctx, settings)

    @export()
    def t_set_retr(self, ctx: RouteContext, t1: int, t2: int) -> int:
        """Set T1 and T2 of this transaction (milliseconds, 0: unchanged). Answers 1, or -1 for negatives."""
        if t1 < 0 or t2 < 0:
            return -1
        settings = self.settings_of(ctx)
        settings.retr1 = t1 or settings.retr1
        settings.retr2 = t2 or settings.retr2
        return self._apply_timings(ctx, settings)

    @export()
    def t_reset_retr(self, ctx: RouteContext) -> int:
        """Go back to the parameters retr_timer1 and retr_timer2. Answers 1."""
        settings = self.settings_of(ctx)
        settings.retr1 = settings.retr2 = 0
        return self._apply_timings(ctx, settings)

    def _apply_timings(self, ctx: RouteContext, settings: Settings) -> int:
        t = ctx.transaction
        if t is not None:
            t.timings = self.relayer.timings.of(settings)
            for branch in t.branches:
                if branch.is_pending:
                    branch.timings = t.timings
                    self.layer.restart_timeouts(branch, ctx.now)
        return 1

    @export()
    def t_set_max_lifetime(self, ctx: RouteContext, max_inv_lifetime: int, max_noninv_lifetime: int) -> int:
        """Set how long an INVITE and another transaction may last (milliseconds, 0: no limit). Answers 1 or -1."""
        if max_inv_lifetime < 0 or max_noninv_lifetime < 0:
            return -1
        settings = self.settings_of(ctx)
        settings.max_inv, settings.max_noninv = max_inv_lifetime, max_noninv_lifetime
        return self._apply_lifetime(ctx, max_inv_lifetime, max_noninv_lifetime)

    @export()
    def t_reset_max_lifetime(self, ctx: RouteContext) -> int:
        """Go back to the parameters max_inv_lifetime and max_noninv_lifetime. Answers 1."""
        settings = self.settings_of(ctx)
        settings.max_inv = settings.max_noninv = -1
        return self._apply_lifetime(ctx, self.params.max_inv_lifetime, self.params.max_noninv_lifetime)

    def _apply_lifetime(self, ctx: RouteContext, max_inv: int, max_noninv: int) -> int:
        t = ctx.transaction
        if t is not None:
            lifetime = max_inv if t.method == "INVITE" else max_noninv
            t.expires = t.created + lifetime / 1000 if lifetime else 0.0
            for branch in t.branches:
                if branch.is_pending:
                    branch.expires = t.expires
                    self.layer.restart_timeouts(branch, ctx.now)
        return 1

    @export()
    def t_set_auto_inv_100(self, ctx: RouteContext, state: int) -> int:
        """Answer this INVITE with 100 when it is relayed (1), or not (0). Answers 1."""
        self.settings_of(ctx).auto_inv_100 = 1 if state else 0
        return 1

    @export()
    def t_set_disable_6xx(self, ctx: RouteContext, state: int) -> int:
        """Take a 6xx like any other failure (1): it does not cancel the other branches. Answers 1."""
        self.settings_of(ctx).disable_6xx = bool(state)
        if ctx.transaction is not None:
            ctx.transaction.disable_6xx = bool(state)
        return 1

    @export(routes=Route.REQUEST)
    def t_set_no_e2e_cancel_reason(self, ctx: RouteContext, state: int) -> int:
        """For this INVITE keep the Reason of its CANCEL to ourselves (1), or let it go along (0). Answers 1."""
        self.settings_of(ctx).no_e2e_cancel_reason = bool(state)
        if ctx.transaction is not None:
            ctx.transaction.no_e2e_cancel_reason = bool(state)
        return 1

    @export()
    def t_set_disable_failover(self, ctx: RouteContext, state: int) -> int:
        """Try the first place that a name leads to alone (1), or the next ones too when it does not answer (0). Answers 1."""
        self.settings_of(ctx).disable_failover = bool(state)
        if ctx.transaction is not None:
            ctx.transaction.disable_failover = bool(state)
        return 1

    @export()
    def t_set_no_auto_ack(self, ctx: RouteContext, state: int) -> int:
        """In the event route tm:local-request: leave the ACK to the 2xx of this INVITE to tmx.t_uac_ack_local (1). Answers 1."""
        ctx.cache["tm.no_auto_ack"] = bool(state)
        return 1

    @export()
    def t_set_disable_internal_reply(self, ctx: RouteContext, state: int) -> int:
        """Leave the answer to the script when t_relay could not send anything (1). Answers 1."""
        self.settings_of(ctx).no_internal_reply = bool(state)
        if ctx.transaction is not None:
            ctx.transaction.no_internal_reply = bool(state)
        return 1

    # ---- serial forking
    @export(routes=Route.REQUEST)
    def t_load_contacts(self, ctx: RouteContext) -> int:
        """Sort the destination set by q into groups that ``t_next_contacts`` takes one after the other. Answers 1.

        Those with the same q are called at the same time, those without q last. One destination is left as it is.
        """
        return self._load_contacts(ctx)

    @export(routes=Route.REQUEST)
    def ki_t_load_contacts_mode(self, ctx: RouteContext, mode: int) -> int:
        """Sort like ``t_load_contacts``; mode 1: each destination by itself, at random, with q as its weight. Answers 1."""
        return self._load_contacts(ctx, one_by_one=mode == 1)

    def _load_contacts(self, ctx: RouteContext, *, one_by_one: bool = False) -> int:
        if not ctx.branches:
            return 1
        q = ctx.cache.get("ruri_q", -1)
        first = Target(
            ctx.ruri, ctx.dst_uri, path=ctx.path, q=q, flags=ctx.bflags, instance=ctx.instance, ruid=ctx.ruid
        )
        targets = [first, *ctx.branches]
        if one_by_one:
            groups = [[target] for target in self._by_weight(targets)]
        else:
            targets.sort(key=lambda target: -target.q)
            groups = [list(group) for _, group in groupby(targets, key=lambda target: target.q)]
        ctx.cache["tm.contacts"] = groups
        ctx.branches = []
        return 1

    def _by_weight(self, targets: list[Target]) -> list[Target]:
        """Return ``targets`` in random order, a higher q more likely to be before a lower one; those without q come last."""
        out, left = [], [target for target in targets if target.q > 0]
        while left:
            at = int(self.services.ids.tag(), 16) % sum(target.q for target in left)
            for target in left:
                at -= target.q
                if at < 0:
                    break
            left.remove(target)
            out.append(target)
        return out + [target for target in targets if target.q <= 0]

    @export(routes=Route.REQUEST | Route.FAILURE)
    def t_next_contacts(self, ctx: RouteContext) -> int:
        """Make the next group of ``t_load_contacts`` the destination set. Answers 1, -2 when none is left, -1 on errors."""
        t = ctx.transaction
        groups: list[list[Target]] = t.contacts if t is not None and t.contacts else ctx.cache.get("tm.contacts", [])
        if not groups:
            return -2
        group = groups.pop(0)
        if self.params.contact_flows_avp:
            group = self._one_flow_each(ctx, group)
        first, *rest = group
        ctx.ruri, ctx.dst_uri, ctx.path, ctx.bflags = first.uri, first.dst_uri, first.path, first.flags
        ctx.instance, ctx.ruid = first.instance, first.ruid
        ctx.cache["pv.location_ua"] = first.user_agent
        ctx.force_listener = first.listener or ctx.force_listener
        ctx.branches = rest
        return 1

    def _one_flow_each(self, ctx: RouteContext, group: list[Target]) -> list[Target]:
        """Return one target for each phone (RFC 5626); the others go into the XAVP contact_flows_avp."""
        chosen: list[Target] = []
        for target in group:
            if target.instance and any(other.instance == target.instance for other in chosen):
                fields: dict[str, int | str] = {"uri": target.uri, "dst_uri": target.dst_uri, "path": target.path}
                fields |= {"instance": target.instance, "flags": target.flags, "ruid": target.ruid}
                fields["sock"] = str(target.listener) if target.listener is not None else ""
                item = {name: [value] for name, value in fields.items() if value not in ("", 0)}
                ctx.shared.xavps.setdefault(self.params.contact_flows_avp, []).insert(0, item)
            else:
                chosen.append(target)
        return chosen

    @export(routes=Route.REQUEST | Route.FAILURE | Route.BRANCH_FAILURE)
    def t_next_contact_flow(self, ctx: RouteContext) -> int:
        """Add another flow to the phone of this branch to the destination set (contact_flows_avp).

        Answers 1, -1 when none is left for this phone, -2 when it has none or is not known.
        """
        name = self.params.contact_flows_avp
        if not name:
            log.error("t_next_contact_flow: [modules.tm] contact_flows_avp is not set")
            return -1
        instance = ctx.branch.instance if isinstance(ctx.branch, Branch) else ""
        items = ctx.shared.xavps.get(name)
        if not instance or not items:
            return -2
        for i, item in enumerate(items):
            if item.get("instance") != [instance] or "uri" not in item:
                continue
            text = {field: str(values[0]) for field, values in items.pop(i).items()}
            listener = next((x for x in self.services.listeners if str(x) == text.get("sock")), None)
            flags, ruid = int(text.get("flags", "0")), text.get("ruid", "")
            target = Target(text["uri"], text.get("dst_uri", ""), path=text.get("path", ""), flags=flags, ruid=ruid)
            target.listener, target.instance = listener, instance
            ctx.branches.append(target)
            return 1
        return -1
