"""Dialogs in the database, in the layout of Kamailio's tables dialog and dialog_vars (db_mode). Part of dialog."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from polykemi.errors import DataError
from polykemi.modules.dialog_state import CALLEE, CALLER, Dialog
from polykemi.sip.flow import Listener
from polykemi.sip.header import split_quoted
from polykemi.storage.provisioned import Database

log = logging.getLogger("polykemi.dialog")

_COLUMNS: Final = (
    *("hash_entry", "hash_id", "callid", "from_uri", "from_tag", "to_uri", "to_tag", "caller_cseq", "callee_cseq"),
    *("caller_route_set", "callee_route_set", "caller_contact", "callee_contact", "caller_sock", "callee_sock"),
    *("state", "start_time", "timeout", "sflags", "iflags", "toroute_name", "req_uri", "xdata"),
)
_OF: Final = "hash_entry = ? AND hash_id = ?"

_Staged = dict[tuple[int, int], Dialog | None]  # by hash entry and id; None: to be removed


class DialogStore:
    """Writes answered dialogs and reads them again. What the database does not take is one line in the log.

    All that has changed in a turn is one transaction at its end, before anything leaves (``commits``): a dialog whose 200
    somebody has seen is there after ``kill -9``, as a whole.
    """

    def __init__(self, database: Database, listeners: Iterable[Listener], commits: list[Callable[[], None]]) -> None:
        """``commits``: what is called when the turn ends (``Services``)."""
        self._database = database
        self._listeners = {str(listener): listener for listener in listeners}
        self._commits = commits
        self._staged: _Staged = {}

    def save(self, dialog: Dialog) -> None:
        """Write ``dialog`` with its variables, as they are when the turn ends, in place of what was written before."""
        self._stage(dialog, dialog)

    def remove(self, dialog: Dialog) -> None:
        """Forget ``dialog``."""
        self._stage(dialog, None)

    def _stage(self, dialog: Dialog, state: Dialog | None) -> None:
        if not self._staged:
            self._commits.append(self.commit)
        self._staged[dialog.h_entry, dialog.h_id] = state

    def commit(self) -> None:
        """Write what is staged."""
        staged, self._staged = self._staged, {}
        try:
            self._write(staged)
        except DataError:  # each for itself: one of them may be what is wrong
            for key, dialog in staged.items():
                try:
                    self._write({key: dialog})
                except DataError as error:
                    log.error("dialog %x.%x is not stored: %s", *key, error)

    def _write(self, staged: _Staged) -> None:
        with self._database.transaction():
            for key, dialog in staged.items():
                for table in ("dialog", "dialog_vars"):
                    self._database.query(f"DELETE FROM {table} WHERE {_OF}", key)
                if dialog is not None:
                    self._insert(dialog)

    def _insert(self, dialog: Dialog) -> None:
        caller, callee = dialog.legs
        profiles = [{"name": name} | ({"value": value} if value else {}) for name, value in dialog.profiles]
        values: list[int | str] = [
            *(dialog.h_entry, dialog.h_id, dialog.call_id, dialog.from_uri, caller.tag, dialog.to_uri, callee.tag),
            *(str(caller.cseq), str(callee.cseq), ",".join(caller.route_set), ",".join(callee.route_set)),
            *(caller.contact, callee.contact, str(caller.listener or ""), str(callee.listener or "")),
            *(dialog.state, int(dialog.started), int(dialog.deadline), dialog.sflags, dialog.iflags),
            *(dialog.timeout_route, dialog.req_uri, json.dumps({"profiles": profiles}) if profiles else ""),
        ]
        marks = ", ".join("?" * len(_COLUMNS))
        self._database.query(f"INSERT INTO dialog ({', '.join(_COLUMNS)}) VALUES ({marks})", values)
        for name, value in dialog.variables.items():
            sql = "INSERT INTO dialog_vars (hash_entry, hash_id, dialog_key, dialog_value) VALUES (?, ?, ?, ?)"
            self._database.query(sql, (dialog.h_entry, dialog.h_id, name, value))

    def load(self, call_id: str = "") -> Iterator[Dialog]:
        """Give the dialogs that are stored, those of a Call-ID when it is not empty. Raise DataError."""
        if self._staged:
            self.commit()
        where, given = (" WHERE callid = ?", (call_id,)) if call_id else ("", ())
        for row in self._database.query(f"SELECT {', '.join(_COLUMNS)} FROM dialog{where} ORDER BY id", given):
            try:
                yield self._dialog(dict(zip(_COLUMNS, row, strict=True)))
            except (TypeError, ValueError, KeyError) as error:
                log.error("the table dialog has a row that is none (callid %s): %s", row[2], error)

    def _dialog(self, row: dict[str, Any]) -> Dialog:
        if any(isinstance(value, bytes) for value in row.values()):
            raise TypeError("octets, expected a text")
        started, timeout = float(row["start_time"]), float(row["timeout"])
        dialog = Dialog(
            int(row["hash_entry"]),
            int(row["hash_id"]),
            row["callid"],
            row["from_uri"],
            row["to_uri"],
            row["req_uri"],
            started,
            max(int(timeout - started), 0),
            state=int(row["state"]),
            sflags=int(row["sflags"]),
            iflags=int(row["iflags"]),
            timeout_route=row["toroute_name"] or "",
            started=started,
            deadline=timeout,
            dflags=0,
        )
        for leg, side, tag in ((CALLER, "caller", "from_tag"), (CALLEE, "callee", "to_tag")):
            one = dialog.legs[leg]
            one.tag, one.contact, one.cseq = row[tag], row[f"{side}_contact"], int(row[f"{side}_cseq"] or 0)
            one.route_set = [route for route in split_quoted(row[f"{side}_route_set"] or "", ",") if route]
            one.listener = self._listeners.get(row[f"{side}_sock"])
        if row["xdata"]:
            for profile in json.loads(row["xdata"])["profiles"]:
                dialog.profiles.append((str(profile["name"]), str(profile.get("value", ""))))
        sql = f"SELECT dialog_key, dialog_value FROM dialog_vars WHERE {_OF} ORDER BY id"
        dialog.variables = dict(self._database.query(sql, (dialog.h_entry, dialog.h_id)))
        return dialog
