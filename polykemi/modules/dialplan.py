"""dialplan: numbers translated by rules of the database (Kamailio: dialplan)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from polykemi.errors import DataError, RpcError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.kemi.route import Route
from polykemi.kemi.rpc import rpc
from polykemi.modules.base import Module, Services
from polykemi.modules.dialplan_rules import NoOutput, Row, Rule
from polykemi.pv.accessor import Accessor
from polykemi.pv.grammar import parse_variable
from polykemi.transaction.target import MOST_TARGETS, Target

log = logging.getLogger("polykemi.script")

_FAILED: Final = 500
_DEFAULT: Final = "$rU"
_URI_VARIABLES: Final = frozenset(("ru", "ruri", "rU", "rUl", "ruri.user"))
_VARIABLES: Final = frozenset(("avp", "xavp", "var", "vz", "vn"))


@dataclass(frozen=True, slots=True)
class DialplanParams:
    """Kamailio's names and defaults."""

    table_name: str = "dialplan"
    dpid_col: str = "dpid"
    pr_col: str = "pr"
    match_op_col: str = "match_op"
    match_exp_col: str = "match_exp"
    match_len_col: str = "match_len"
    subst_exp_col: str = "subst_exp"
    repl_exp_col: str = "repl_exp"
    attrs_col: str = "attrs"
    attrs_pvar: str = ""  # "$avp(name)": takes the attributes of the rule
    match_dynamic: int = 0  # 1: variables in match_exp and subst_exp are expanded at each use
    append_branch: int = 1  # in failure routes, a translated Request-URI becomes a branch
    fetch_rows: int = 1000  # taken, but without effect: the table is read at once
    reload_delta: int = 5  # taken, but without effect: reloads cannot overlap

    def __post_init__(self) -> None:
        if self.attrs_pvar and _class_of(self.attrs_pvar) not in _VARIABLES:
            raise ValueError(f"attrs_pvar: expected an AVP, XAVP or $var, got {self.attrs_pvar!r}")


def _class_of(variable: str) -> str:
    """Return the name of the class of a variable, "" when it is none."""
    try:
        return parse_variable(variable)[0].name
    except ValueError:
        return ""


class Dialplan(Module):
    """The rules, kept in memory."""

    name = "dialplan"
    Params = DialplanParams

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self._plans: dict[int, dict[int, list[Rule]]] = {}  # dpid -> match_len -> rules by priority
        self._attrs: Accessor | None = None

    def start(self, now: float) -> None:
        """Read the rules. Raise DataError."""
        self._attrs = self.variable("attrs_pvar", self.params.attrs_pvar, settable=True)
        self.reread(now)()

    def reread(self, now: float) -> Callable[[], None]:
        """Read the rules anew; one that makes no sense spoils them. Raise DataError, the old ones stay then."""
        p: DialplanParams = self.params
        columns = [p.dpid_col, p.pr_col, p.match_op_col, p.match_exp_col, p.match_len_col]
        columns += [p.subst_exp_col, p.repl_exp_col, p.attrs_col]
        plans: dict[int, dict[int, list[Rule]]] = {}
        for number, values in enumerate(self.services.database.select(p.table_name, columns, order=p.pr_col), 1):
            where = f"dialplan: table {p.table_name}, row {number} by {p.pr_col}"
            if None in values:
                raise DataError(f"{where}: {columns[values.index(None)]} is null")
            dpid, priority, operator, expression, length, subst, repl, attrs = values
            try:
                row = Row(
                    int(dpid),
                    int(priority),
                    int(operator),
                    str(expression),
                    int(length),
                    str(subst),
                    str(repl),
                    str(attrs),
                )
                rule = Rule(row, self.services.variables, dynamic=p.match_dynamic == 1)
            except ValueError as error:
                raise DataError(f"{where}: {error}") from None
            plans.setdefault(row.dpid, {}).setdefault(row.match_len, []).append(rule)

        def use() -> None:
            self._plans = plans

        return use

    # ---- what scripts call
    @export()
    def dp_match(self, ctx: RouteContext, dpid: int, src: str) -> int:
        """Look for a rule of dialplan ``dpid`` for ``src``, for its attributes alone. Answers 1, -1, -2 no such dialplan."""
        if dpid not in self._plans:
            return -2
        rule = self._find(ctx, dpid, src)
        return 1 if rule is not None and self._take(ctx, rule, src, None) else -1

    @export()
    def dp_replace(self, ctx: RouteContext, dpid: int, src: str, dst: str) -> int:
        """Translate ``src`` by dialplan ``dpid`` into the variable named ``dst``. Answers 1, -1, -2 no such dialplan."""
        if self.services.variables.compile(dst) is None:
            return -1
        if dpid not in self._plans:
            return -2
        rule = self._find(ctx, dpid, src)
        return 1 if rule is not None and self._take(ctx, rule, src, dst) else -1

    @export()
    def dp_translate(self, ctx: RouteContext, dpid: int) -> int:
        """Translate $rU by dialplan ``dpid``. Answers 1, -1, -2 no such dialplan."""
        return self.dp_translate_vars(ctx, dpid, _DEFAULT, _DEFAULT)

    @export()
    def dp_translate_vars(self, ctx: RouteContext, dpid: int, source: str, target: str) -> int:
        """Translate the variable named ``source`` by dialplan ``dpid`` into that named ``target``.

        They are AVPs, XAVPs, $var, $ru or $rU. Answers 1, -1, -2 no such dialplan.
        """
        for name in (source, target):
            if _class_of(name) not in _VARIABLES | _URI_VARIABLES or self.services.variables.compile(name) is None:
                log.error("dialplan.dp_translate: expected an AVP, XAVP, $var, $ru or $rU, got %r", name)
                return -1
        if dpid not in self._plans:
            return -2
        value = self.services.variables.getters[source](ctx)
        if value is None:
            log.error("dialplan.dp_translate: %s is null", source)
            return -1
        rule = self._find(ctx, dpid, str(value))
        return 1 if rule is not None and self._take(ctx, rule, str(value), target) else -1

    def _find(self, ctx: RouteContext | None, dpid: int, text: str) -> Rule | None:
        """Return the rule for ``text``: of those for its length, else of those for any."""
        if not text:
            log.warning("dialplan: there is nothing to match")
            return None
        return next((rule for rule in self._rules(dpid, len(text)) if rule.matches(ctx, text)), None)

    def _rules(self, dpid: int, length: int) -> Iterator[Rule]:
        plan = self._plans[dpid]
        yield from plan.get(length, ())
        yield from plan.get(0, ())

    def _take(self, ctx: RouteContext, rule: Rule, text: str, output: str | None) -> bool:
        """Set the variable ``output`` (None: none) and that of attributes; tell whether that was possible."""
        try:
            attrs = rule.attrs if self._attrs is not None else ""
            changed = rule.output(ctx, text) if output is not None else ""
        except NoOutput as error:
            log.error("dialplan: %s", error)
            return False
        if output is not None and changed and not self._set(ctx, output, changed):
            return False
        if self._attrs is not None and self._attrs.set is not None:
            return self._attrs.set(ctx, attrs)
        return True

    def _set(self, ctx: RouteContext, name: str, value: str) -> bool:
        accessor = self.services.variables.compile(name)
        if accessor is None or accessor.set is None:
            log.warning("dialplan: %s cannot be set", name)
        elif not accessor.set(ctx, value):
            log.error("dialplan: %s: cannot be set to %r", name, value)
            return False
        if self.params.append_branch and ctx.kind is Route.FAILURE and _class_of(name) in _URI_VARIABLES:
            if len(ctx.branches) >= MOST_TARGETS:
                log.error("dialplan: more than %d branches", MOST_TARGETS)
                return False
            ctx.branches.append(Target(ctx.ruri))
        return True

    # ---- commands
    @rpc("dialplan.reload")
    def reload(self, *, now: float) -> None:
        """Read the rules anew."""
        try:
            self.reread(now)()
        except DataError as error:
            raise RpcError(_FAILED, f"Dialplan Reload Failed: {error}") from None

    @rpc("dialplan.translate", (500, "Invalid parameters"))
    def translate(self, dpid: int, text: str) -> dict[str, str]:
        """Translate a text by a dialplan, without a message."""
        if dpid not in self._plans:
            raise RpcError(_FAILED, "Dialplan ID not matched")
        if not text:
            raise RpcError(_FAILED, "Empty input parameter")
        rule = self._find(None, dpid, text)
        try:
            if rule is None:
                raise NoOutput("no rule matches")
            return {"Output": rule.output(None, text), "Attributes": rule.attrs}
        except NoOutput:
            raise RpcError(_FAILED, "No translation") from None

    @rpc("dialplan.dump", (500, "Missing parameter"))
    def dump(self, dpid: int) -> dict[str, Any]:
        """List the rules of a dialplan in the order of their use."""
        if dpid not in self._plans:
            raise RpcError(_FAILED, "Dialplan ID not matched")
        plan = self._plans[dpid]
        rows = [rule.row for length in sorted(plan, key=lambda n: (n == 0, n)) for rule in plan[length]]
        entries = [
            {
                "ENTRY": {
                    "PRIO": row.pr,
                    "MATCHOP": row.match_op,
                    "MATCHEXP": row.match_exp,
                    "MATCHLEN": row.match_len,
                    "SUBSTEXP": row.subst_exp,
                    "REPLEXP": row.repl_exp,
                    "ATTRS": row.attrs,
                }
            }
            for row in rows
        ]
        return {"DPID": dpid, "ENTRIES": entries}
