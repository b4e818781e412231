"""acc: one line in the log or one row in the database for each transaction that is to be accounted (Kamailio: acc).

Which ones is said by message flags: a request that has one of them when its transaction begins is accounted when its final
response leaves; a call that nobody takes is a missed call as soon as all branches have failed.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

from polykemi.errors import DataError, ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.log_levels import level_of
from polykemi.kemi.registry import Xval, export
from polykemi.kemi.route import Route
from polykemi.modules.acc_cdr import CallRecords, local_time
from polykemi.modules.base import Module
from polykemi.modules.tm_watch import Watcher, watch, winner
from polykemi.pv.accessor import Getter
from polykemi.pv.grammar import parse_variable
from polykemi.sip.constants import REASONS
from polykemi.sip.message import Response
from polykemi.transaction.forking import Branch, Transaction

log = logging.getLogger("polykemi.acc")

REQUEST: Final = "ACC: request accounted: "
ANSWERED: Final = "ACC: transaction answered: "
MISSED: Final = "ACC: call missed: "
ACKED: Final = "ACC: request acknowledged: "

_NAME: Final = re.compile(r"[A-Za-z0-9_]+")
_LOGGED: Final = ("method", "from_tag", "to_tag", "call_id", "code", "reason")


@dataclass(frozen=True, slots=True)
class AccParams:
    """Kamailio's names and defaults. Flags are message flags, 0 to 31, -1 for none.

    The database is the server's own, whatever ``db_url`` says; ``log_facility``,
    ``cdr_facility`` and ``db_insert_mode`` have no effect.
    """

    early_media: int = 0  # 1: account provisional responses with a body too
    failed_transaction_flag: int = -1  # account final responses of 300 and above
    failed_filter: str = ""  # but not these: "404,486"
    report_ack: int = 0  # 1: account the ACK to a 2xx too
    report_cancels: int = 0
    detect_direction: int = 0  # 1: requests from the callee are written with From and To exchanged
    acc_prepare_flag: int = -1  # be ready for flags that are set only later
    acc_prepare_always: int = 0
    reason_from_hf: int = 0  # 1: the reason is the Reason header of the response, if it has one
    acc_extra_nullable: int = 0  # 1: extras that are null are NULL in the database, not empty
    log_flag: int = -1
    log_missed_flag: int = -1
    log_level: int = 1
    log_facility: str = "LOG_DAEMON"
    log_extra: str = ""  # "name=$variable;name=$variable"
    db_flag: int = -1
    db_missed_flag: int = -1
    db_extra: str = ""  # the names are columns
    db_url: str = ""
    db_table_acc: str = "acc"
    db_table_missed_calls: str = "missed_calls"
    acc_method_column: str = "method"
    acc_from_tag_column: str = "from_tag"
    acc_to_tag_column: str = "to_tag"
    acc_callid_column: str = "callid"
    acc_sip_code_column: str = "sip_code"
    acc_sip_reason_column: str = "sip_reason"
    acc_time_column: str = "time"
    db_insert_mode: int = 0
    time_mode: int = 0  # the time once more: 1 seconds and microseconds, 2 a number, 3 local text, 4 UTC text
    time_attr: str = "time_attr"
    time_exten: str = "time_exten"
    time_format: str = "%Y-%m-%d %H:%M:%S"
    cdr_enable: int = 0  # 1: a record for each dialog that has ended (dlg_manage)
    cdr_log_enable: int = 1  # it is a line in the log
    cdrs_table: str = ""  # and a row of this table (acc_cdrs)
    cdr_extra: str = ""
    cdr_extra_nullable: int = 0
    cdr_start_on_confirmed: int = 0  # 1: a call begins with its answer, 0: with its INVITE
    cdr_expired_dlg_enable: int = 0  # 1: dialogs that have timed out get a record too
    cdr_on_failed: int = 1
    cdr_skip: str = ""  # dialogs with this variable get none
    cdr_start_id: str = "start_time"  # variables of the dialog, and columns
    cdr_end_id: str = "end_time"
    cdr_duration_id: str = "duration"
    cdr_facility: str = "LOG_DAEMON"

    def __post_init__(self) -> None:
        for name in ("failed_transaction", "acc_prepare", "log", "log_missed", "db", "db_missed"):
            if not -1 <= getattr(self, f"{name}_flag") <= 31:
                raise ValueError(f"{name}_flag: expected a message flag, 0 to 31, or -1")
        if self.failed_filter and not re.fullmatch(r"[3-6]\d\d(,[3-6]\d\d)*", self.failed_filter):
            raise ValueError('failed_filter: expected statuses of 300 and above, "404,486"')
        if not 0 <= self.time_mode <= 4:
            raise ValueError("time_mode: expected 0 to 4")
        for names in ("log_extra", "db_extra", "cdr_extra"):
            for name, _ in extras_of(names, getattr(self, names)):
                if names != "log_extra" and not _NAME.fullmatch(name):
                    raise ValueError(f"{names}: {name!r} is no name of a column")
        if self.cdrs_table and not _NAME.fullmatch(self.cdrs_table):
            raise ValueError(f"cdrs_table: {self.cdrs_table!r} is no name of a table")
        for key in ("cdr_start_id", "cdr_end_id", "cdr_duration_id"):
            if not _NAME.fullmatch(getattr(self, key)):
                raise ValueError(f"{key}: expected a name of letters, digits and _")
        for key in ("db_table_acc", "db_table_missed_calls", *self.columns):
            name = getattr(self, key) if key.startswith("db_") else key
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a table or column")

    @property
    def columns(self) -> list[str]:
        """The columns that every row has, in the order of ``Record``."""
        keys = ("method", "from_tag", "to_tag", "callid", "sip_code", "sip_reason", "time")
        names = [str(getattr(self, f"acc_{key}_column")) for key in keys]
        return names + [[], [self.time_attr, self.time_exten], *[[self.time_attr]] * 3][self.time_mode]

    @property
    def flags(self) -> int:
        """The flags that make a request be accounted when its transaction begins, as a mask."""
        return _mask(self.log_flag, self.log_missed_flag, self.db_flag, self.db_missed_flag, self.acc_prepare_flag)


def _mask(*flags: int) -> int:
    return sum({1 << flag for flag in flags if flag >= 0})


def extras_of(parameter: str, text: str) -> list[tuple[str, str]]:
    """Return (name, variable) of ``name=$variable;name=$variable``. Raise ValueError naming the parameter."""
    found = []
    while text.strip(" \t"):
        name, equals, rest = text.partition("=")
        rest = rest.lstrip(" \t")
        try:
            if not name.strip(" \t") or not equals:
                raise ValueError(f"expected name=$variable, got {text!r}")
            _, end = parse_variable(rest)
        except ValueError as error:
            raise ValueError(f"{parameter}: {error}") from None
        found.append((name.strip(" \t"), rest[:end]))
        text = rest[end:].lstrip(" \t")
        if text and text[0] != ";":
            raise ValueError(f"{parameter}: expected ';' between variables, got {text!r}")
        text = text[1:]
    return found


class Comment(NamedTuple):
    """What a script says about a request: ``200 OK``, or a text without status."""

    code: int
    code_text: str
    reason: str

    @classmethod
    def parse(cls, text: str) -> Comment | None:
        """Return what ``text`` says; None when it cannot be taken (empty, or with a variable, which KEMI does not expand)."""
        if not text or "$" in text:
            return None
        if len(text) >= 3 and text[:3].isdecimal():
            return cls(int(text[:3]), text[:3], text[3:].lstrip(" \t\r\n"))
        return cls(0, "", text)


class _Watch(Watcher):
    """Tells ``Acc`` of transactions: a module cannot be a watcher itself, both may be compiled classes."""

    def __init__(self, acc: Acc) -> None:
        self._acc = acc

    def replied(self, t: Transaction, status: int, data: bytes, reply: Response | None, now: float) -> None:
        """Account a final response, and a missed call that was not before."""
        self._acc.replied(t, status, reply, now)

    def failed(self, t: Transaction, best: Branch, now: float) -> None:
        """Account a missed call."""
        self._acc.failed(t, best, now)


class Acc(Module):
    """Accounting of transactions."""

    name = "acc"
    Params = AccParams
    params: AccParams

    def start(self, now: float) -> None:
        """Take part in transactions when a flag says so; compile the extras. Raise ValueError for one that is no variable."""
        p = self.params
        self._log_extra = self._compiled("log_extra", p.log_extra)
        self._db_extra = self._compiled("db_extra", p.db_extra)
        self._filter = frozenset(map(int, p.failed_filter.split(","))) if p.failed_filter else frozenset()
        self._flags = p.flags
        self._watcher = _Watch(self)
        tm = self.services.modules.get("tm")
        if tm is not None and (self._flags or p.acc_prepare_always):
            tm.relayer.on_request_in.append(self._request_in)
            if p.report_ack:
                tm.relayer.on_ack.append(self._acknowledged)
        if p.cdr_enable:
            dialogs = self.services.modules.get("dialog")
            if dialogs is None:
                raise DataError("acc: cdr_enable: the module dialog is not loaded")
            records = CallRecords(self.services, p, self._compiled("cdr_extra", p.cdr_extra), level_of(p.log_level))
            dialogs.on_change.append(records.changed)

    def _compiled(self, parameter: str, text: str) -> list[tuple[str, Getter]]:
        found = []
        for name, variable in extras_of(parameter, text):
            accessor = self.variable(parameter, variable)
            if accessor is not None:
                found.append((name, accessor.get))
        return found

    # ---- what scripts say
    @export()
    def acc_log_request(self, ctx: RouteContext, comment: str) -> int:
        """Write a line about the request into the log; ``comment`` is ``code reason`` or a text. Answers 1 or -1."""
        said = self._comment(ctx, comment)
        return -1 if said is None else self._log(ctx, REQUEST, said, self._to_tag(ctx))

    @export()
    def acc_db_request(self, ctx: RouteContext, comment: str, dbtable: str) -> int:
        """Write a row about the request into ``dbtable``; ``comment`` is ``code reason`` or a text. Answers 1 or -1."""
        said = self._comment(ctx, comment)
        return -1 if said is None else self._insert(ctx, dbtable, said, self._to_tag(ctx))

    @export()
    def acc_request(self, ctx: RouteContext, comment: str, dbtable: str) -> int:
        """Do both: ``acc_log_request`` and ``acc_db_request``. Answers 1, or -1 when the row could not be written."""
        said = self._comment(ctx, comment)
        if said is None:
            return -1
        self._log(ctx, REQUEST, said, self._to_tag(ctx))
        return self._insert(ctx, dbtable, said, self._to_tag(ctx))

    def _comment(self, ctx: RouteContext, text: str) -> Comment | None:
        said = Comment.parse(text)
        if said is None:
            log.error("expected 'code reason' or a text without variables, got %r", text)
            return None
        try:
            _ = ctx.message.cseq, ctx.message.from_, ctx.message.call_id
        except ParseError as error:
            log.error("the request cannot be accounted: %s", error)
            return None
        return said

    @staticmethod
    def _to_tag(ctx: RouteContext) -> str:
        return ctx.message.to.tag or ""

    # ---- what transactions do
    def _request_in(self, ctx: RouteContext, t: Transaction) -> None:
        if t.method == "CANCEL" and not self.params.report_cancels:
            return
        if not (self.params.acc_prepare_always or ctx.shared.flags & self._flags):
            return
        watch(t, self._watcher)
        if self.params.detect_direction and "rr" in self.services.modules:
            if self.services.modules["rr"].is_direction(ctx, "upstream") > 0:
                ctx.shared.acc_upstream = True

    def replied(self, t: Transaction, status: int, reply: Response | None, now: float) -> None:
        """Account a final response, and a missed call that was not before."""
        flags = t.shared.flags
        if t.method == "INVITE" and status >= 300:
            self._missed(t, winner(t, status), reply, status, now)
        if not self._is_wanted(flags, status, reply):
            return
        ctx = self._context(t, winner(t, status), now)
        said = self._outcome(status, reply)
        tag = reply.to.tag if reply is not None else t.request.to.tag
        if flags & _mask(self.params.log_flag):
            self._log(ctx, ANSWERED, said, tag or "")
        if flags & _mask(self.params.db_flag):
            self._insert(ctx, self.params.db_table_acc, said, tag or "")

    def _is_wanted(self, flags: int, status: int, reply: Response | None) -> bool:
        p = self.params
        if status >= 300:
            return bool(flags & _mask(p.failed_transaction_flag)) and status not in self._filter
        if not flags & _mask(p.log_flag, p.db_flag):
            return False
        return status >= 200 or bool(p.early_media and reply is not None and reply.body)

    def failed(self, t: Transaction, best: Branch, now: float) -> None:
        """Account a missed call."""
        if t.method == "INVITE":
            self._missed(t, best, best.reply, best.status, now)

    def _missed(self, t: Transaction, branch: Branch | None, reply: Response | None, status: int, now: float) -> None:
        p, flags = self.params, t.shared.flags
        wanted = flags & _mask(p.log_missed_flag, p.db_missed_flag)
        if not wanted:
            return
        ctx = self._context(t, branch, now)
        said = self._outcome(status, reply)
        tag = reply.to.tag if reply is not None else self.services.ids.stateless_tag(t.request)
        if flags & _mask(p.log_missed_flag):
            self._log(ctx, MISSED, said, tag or "")
        if flags & _mask(p.db_missed_flag):
            self._insert(ctx, p.db_table_missed_calls, said, tag or "")
        t.shared.flags &= ~wanted  # once for a call, not once for each attempt

    def _acknowledged(self, ctx: RouteContext, t: Transaction) -> None:
        flags = ctx.shared.flags
        if self._watcher in t.watchers:
            said = Comment(t.status, str(t.status), REASONS.get(t.status, ""))
            if flags & _mask(self.params.log_flag):
                self._log(ctx, ACKED, said, self._to_tag(ctx))
            if flags & _mask(self.params.db_flag):
                self._insert(ctx, self.params.db_table_acc, said, self._to_tag(ctx))

    def _outcome(self, status: int, reply: Response | None) -> Comment:
        if reply is None:
            return Comment(status, str(status), REASONS.get(status, ""))
        reason = reply.get("reason") if self.params.reason_from_hf else None
        return Comment(status, str(status), reply.reason if reason is None else reason)

    @staticmethod
    def _context(t: Transaction, branch: Branch | None, now: float) -> RouteContext:
        """Return a context in which extras are evaluated: the request, with the URI of the branch that has decided."""
        ctx = RouteContext(Route.FAILURE, "", t.request, t.source, now)
        ctx.shared, ctx.transaction, ctx.branch = t.shared, t, branch
        ctx.ruri = branch.uri if branch is not None else t.ruri
        ctx.bflags = t.bflags
        if branch is not None:
            ctx.reply, ctx.reply_status = branch.reply, branch.status
        return ctx

    # ---- where it goes
    def _core(self, ctx: RouteContext, said: Comment, to_tag: str) -> list[str]:
        message = ctx.message
        from_tag = message.from_.tag or ""
        if ctx.shared.acc_upstream:
            from_tag, to_tag = to_tag, from_tag
        return [message.cseq[1], from_tag, to_tag, message.call_id, said.code_text, said.reason]

    def _times(self, now: float) -> list[int | float | str]:
        mode = self.params.time_mode
        if mode == 1:
            return [int(now), int(now % 1 * 1_000_000)]
        if mode == 2:
            return [now]
        if mode:
            moment = datetime.fromtimestamp(now, UTC)
            moment = moment if mode == 4 else moment.astimezone()
            return [moment.strftime(self.params.time_format)]
        return []

    def _log(self, ctx: RouteContext, text: str, said: Comment, to_tag: str) -> int:
        p = self.params
        line = f"{text}timestamp={int(ctx.now)}"
        times = self._times(ctx.now)
        if p.time_mode == 1:
            line += f";{p.time_exten}={times[1]}"
        elif p.time_mode:
            line += f";{p.time_attr}={times[0]:.3f}" if p.time_mode == 2 else f";{p.time_attr}={times[0]}"
        for name, value in zip(_LOGGED, self._core(ctx, said, to_tag), strict=True):
            line += f";{name}={value}"
        for name, get in self._log_extra:
            extra = get(ctx)
            line += f";{name}={'' if extra is None else extra}"
        log.log(level_of(p.log_level), "%s", line, extra={"about": ctx})
        return 1

    def _insert(self, ctx: RouteContext, table: str, said: Comment, to_tag: str) -> int:
        p = self.params
        if not _NAME.fullmatch(table):
            log.error("%r is no name of a table", table)
            return -1
        values: list[Xval | float] = [*self._core(ctx, said, to_tag), local_time(ctx.now), *self._times(ctx.now)]
        columns = [*p.columns, *(name for name, _ in self._db_extra)]
        for _, get in self._db_extra:
            value = get(ctx)
            values.append("" if value is None and not p.acc_extra_nullable else value)
        try:
            self.services.database.insert(table, dict(zip(columns, values, strict=True)))
        except DataError as error:
            log.error("not accounted: %s", error)
            return -1
        return 1
