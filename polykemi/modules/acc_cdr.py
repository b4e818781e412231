"""Call detail records: one line and one row for each dialog that has ended (Kamailio: acc's cdr_enable). Part of acc."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from polykemi.errors import DataError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval
from polykemi.modules.base import Services
from polykemi.modules.dialog_state import Dialog
from polykemi.pv.accessor import Getter

if TYPE_CHECKING:
    from polykemi.modules.acc import AccParams

log = logging.getLogger("polykemi.acc")


def local_time(seconds: float) -> str:
    """Return a moment as the database keeps it: local time, whole seconds."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


class CallRecords:
    """Keeps times in the variables of dialogs, and writes records."""

    def __init__(self, services: Services, params: AccParams, extras: list[tuple[str, Getter]], level: int) -> None:
        self._services = services
        self._params = params
        self._extras = extras
        self._level = level

    def changed(self, dialog: Dialog, what: str, ctx: RouteContext | None, now: float) -> None:
        """Take what has happened to a dialog: created, confirmed, ended, failed or expired."""
        p = self._params
        if what == ("confirmed" if p.cdr_start_on_confirmed else "created"):
            for name in (p.cdr_start_id, p.cdr_end_id):
                dialog.variables[name] = f"{now:.3f}"
            dialog.variables[p.cdr_duration_id] = "0"
        elif what == "ended" or (what == "expired" and p.cdr_expired_dlg_enable):
            start = dialog.variables.get(p.cdr_start_id)
            if start is not None:
                dialog.variables[p.cdr_end_id] = f"{now:.3f}"
                dialog.variables[p.cdr_duration_id] = f"{now - float(start):.3f}"
            self._write(dialog, ctx)
        elif what == "failed" and p.cdr_on_failed:
            self._write(dialog, ctx)

    def _write(self, dialog: Dialog, ctx: RouteContext | None) -> None:
        p, variables = self._params, dialog.variables
        if p.cdr_skip and p.cdr_skip in variables:
            return
        names = [p.cdr_start_id, p.cdr_end_id, p.cdr_duration_id]
        core = [variables.get(name) for name in names]
        extras: list[tuple[str, Xval]] = [(name, get(ctx) if ctx is not None else None) for name, get in self._extras]
        if p.cdr_log_enable:
            fields = [*zip(names, core, strict=True), *extras]
            line = "; ".join(f"{name}={'' if value is None else value}" for name, value in fields)
            log.log(self._level, "%s", line, extra={"about": ctx})
        if p.cdrs_table:
            self._insert(names, core, extras)

    def _insert(self, names: list[str], core: list[str | None], extras: list[tuple[str, Xval]]) -> None:
        p = self._params
        start, end, duration = core
        values: list[Xval | float] = [None if text is None else local_time(float(text)) for text in (start, end)]
        values.append(None if duration is None else float(duration))
        values += ["" if value is None and not p.cdr_extra_nullable else value for _, value in extras]
        columns = [*names, *(name for name, _ in extras)]
        row = {column: value for column, value in zip(columns, values, strict=True) if value is not None}
        try:
            self._services.database.insert(p.cdrs_table, row)
        except DataError as error:
            log.error("no record of a call was written: %s", error)
