"""What an operator asks dialog (Kamailio: the RPC commands dlg.*). Part of dialog."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any, Final

from polykemi.errors import RpcError
from polykemi.kemi.pattern import BadPattern
from polykemi.kemi.posix import compile_posix
from polykemi.kemi.rpc import Refusal, rpc
from polykemi.modules.dialog_state import CALLEE, CALLER, CONFIRMED, CONFIRMED_NA, DELETED, EARLY, UNCONFIRMED, Dialog
from polykemi.modules.dialog_tracking import DialogTracking
from polykemi.modules.dialog_transfer import Transfers

_NOT_FOUND: Final = 404
_FAILED: Final = 500
_MOST_LISTED: Final = 1000  # dialogs in an answer: as long as it is made, no message is routed
_INVALID: Final[Refusal] = (_FAILED, "Invalid parameters")
_TOO_FEW: Final[Refusal] = (400, "Too few parameters (required callid, from-tag, to-tag)")
_KEYS: Final[dict[str, Callable[[Dialog], str]]] = {
    "ruri": lambda d: d.req_uri,
    "furi": lambda d: d.from_uri,
    "turi": lambda d: d.to_uri,
    "callid": lambda d: d.call_id,
}
_BRIEF: Final[dict[str, tuple[str, Callable[[Dialog], Any]]]] = {
    "f": ("from_uri", lambda d: d.from_uri),
    "t": ("to_uri", lambda d: d.to_uri),
    "c": ("call-id", lambda d: d.call_id),
    "F": ("from_tag", lambda d: d.legs[CALLER].tag),
    "T": ("to_tag", lambda d: d.legs[CALLEE].tag),
    "s": ("state", lambda d: d.state),
}


class DialogCommands(DialogTracking):
    """The commands; what scripts call is in ``dialog``."""

    @rpc("dlg.list")
    def list_dialogs(self) -> Any:
        """List the dialogs, up to 1,000."""
        return [self._described(dialog) for dialog in islice(self.table, _MOST_LISTED)]

    @rpc("dlg.list_ctx")
    def list_contexts(self) -> Any:
        """List the dialogs, up to 1,000; there is no more to be told of them."""
        return self.list_dialogs()

    @rpc("dlg.dlg_list")
    def list_of_call(self, callid: str = "", from_tag: str = "") -> Any:
        """Return the dialog of a Call-ID, and of this tag of the caller when it is given; a list where there are several."""
        found = [d for d in self.table.of_call_id(callid) if from_tag in ("", d.legs[CALLER].tag)]
        described = [self._described(dialog) for dialog in found]
        return described if len(described) > 1 else described[0] if described else {}

    @rpc("dlg.dlg_list_ctx")
    def list_contexts_of_call(self, callid: str = "", from_tag: str = "") -> Any:
        """Return the same as dlg.dlg_list."""
        return self.list_of_call(callid, from_tag)

    @rpc("dlg.list_match", _INVALID)
    def list_matching(self, key: str, operator: str, value: str, limit: int = 0) -> Any:
        """List dialogs, the first ``limit``; key: ruri, furi, turi or callid; operator: eq, re (an expression), sw (begins with)."""
        get = _KEYS.get(key)
        if get is None:
            raise RpcError(_FAILED, "Invalid matching key parameter")
        matches = _matcher(operator, value)
        limit = limit if 0 < limit < _MOST_LISTED else _MOST_LISTED
        found = list(islice((dialog for dialog in self.table if matches(get(dialog))), limit))
        if not found:
            raise RpcError(_NOT_FOUND, "Not found")
        return [self._described(dialog) for dialog in found]

    @rpc("dlg.list_match_ctx", _INVALID)
    def list_contexts_matching(self, key: str, operator: str, value: str, limit: int = 0) -> Any:
        """List the same as dlg.list_match."""
        return self.list_matching(key, operator, value, limit)

    @rpc("dlg.briefing")
    def briefing(self, what: str = "ftcFT") -> Any:
        """List the dialogs, up to 1,000, with little of each: URIs (f, t), Call-ID (c), tags (F, T), state (s)."""
        parts = [_BRIEF[letter] for letter in what if letter in _BRIEF]
        return [
            {"h_entry": d.h_entry, "h_id": d.h_id} | {name: get(d) for name, get in parts}
            for d in islice(self.table, _MOST_LISTED)
        ]

    @rpc("dlg.is_alive", _TOO_FEW)
    def is_alive(self, callid: str, from_tag: str, to_tag: str) -> str:
        """Tell whether a dialog is confirmed: Alive, or an error."""
        if self._find(callid, from_tag, to_tag).state != CONFIRMED:
            raise RpcError(_FAILED, "Dialog not in confirmed state")
        return "Alive"

    @rpc("dlg.set_state", (400, "Need the callid, from tag,to tag and state"))
    def set_state_of(self, callid: str, from_tag: str, to_tag: str, state: int, *, now: float) -> str:
        """Set the state of a dialog, 1 to 5 as dlg.list shows it; nobody is told of it. 5: it has ended."""
        dialog = self.table.find(callid, from_tag, to_tag)[0]
        if dialog is None:
            raise RpcError(_FAILED, "Dialog not found")
        if not UNCONFIRMED <= state <= DELETED:
            raise RpcError(_FAILED, "Invalid state value")
        self.put_state(dialog, state, now)
        return "Done"

    @rpc("dlg.end_dlg", _INVALID)
    def end_dialog(self, h_entry: int, h_id: int) -> Any:
        """End a dialog: BYE to both sides, within a second."""
        dialog = self.table.get(h_entry, h_id)
        if dialog is None:
            raise RpcError(_NOT_FOUND, "Dialog not found")
        return self._end_soon(dialog)

    @rpc("dlg.terminate_dlg", (400, "Need a Callid ,from tag ,to tag"))
    def terminate_dialog(self, callid: str, from_tag: str, to_tag: str) -> Any:
        """End the dialog with this Call-ID and these tags: BYE to both sides, within a second."""
        dialog = self.table.find(callid, from_tag, to_tag)[0]
        if dialog is None:
            raise RpcError(_FAILED, "Couldnt find callid in dialog")
        return self._end_soon(dialog)

    def _end_soon(self, dialog: Dialog) -> dict[str, Any]:
        if not dialog.is_live:
            raise RpcError(_FAILED, "Operation failed: the dialog is not confirmed")
        self.to_end.append(dialog)
        return {}

    @rpc("dlg.bridge_dlg", _INVALID)
    def bridge_dialog(self, caller: str, to: str, proxy: str = "", *, now: float) -> dict[str, Any]:
        """Call ``caller``, through ``proxy`` when it is given, and refer it to ``to`` when it answers."""
        transfers = self.transfers()
        if transfers is None or not caller or not to:
            raise RpcError(*_INVALID)
        if not transfers.bridge(caller, to, proxy, now):
            raise RpcError(_FAILED, f"{caller} cannot be called")
        return {}

    def transfers(self) -> Transfers | None:
        """Return what makes calls, None without tm."""
        tm = self.services.modules.get("tm")
        return Transfers(tm, self.params) if tm is not None else None

    def _find(self, callid: str, from_tag: str, to_tag: str) -> Dialog:
        dialog = self.table.find(callid, from_tag, to_tag)[0]
        if dialog is None:
            raise RpcError(_NOT_FOUND, "Dialog not found")
        return dialog

    @rpc("dlg.stats_active")
    def count_by_state(self) -> Any:
        """Count the dialogs by state."""
        states = [dialog.state for dialog in self.table]
        counts = {
            "starting": states.count(UNCONFIRMED),
            "connecting": states.count(EARLY),
            "answering": states.count(CONFIRMED_NA),
            "ongoing": states.count(CONFIRMED),
        }
        return counts | {"all": sum(counts.values())}

    @rpc("dlg.profile_get_size")
    def profile_size(self, profile: str, value: str = "") -> Any:
        """Return how many dialogs are in a profile, with this value when it is given."""
        self._check_profile(profile)
        return self.profiles.size(profile, value or None)

    @rpc("dlg.profile_list")
    def profile_list(self, profile: str, value: str = "") -> Any:
        """List the dialogs of a profile, with this value when it is given."""
        self._check_profile(profile)
        found = [d for d in self.table if any(p == profile and value in ("", v) for p, v in d.profiles)]
        return [self._described(dialog) for dialog in found]

    def _check_profile(self, profile: str) -> None:
        if self.profiles.has_value(profile) is None:
            raise RpcError(_NOT_FOUND, f"Profile not found: {profile}")

    def _described(self, d: Dialog) -> dict[str, Any]:
        duration = (d.ended or self.now) - d.started if d.started else 0
        out: dict[str, Any] = {
            "h_entry": d.h_entry,
            "h_id": d.h_id,
            "ref": 1,
            "call-id": d.call_id,
            "from_uri": d.from_uri,
            "to_uri": d.to_uri,
            "state": d.state,
            "start_ts": int(d.started),
            "init_ts": int(d.created),
            "end_ts": int(d.ended),
            "duration": int(max(duration, 0)),
            "timeout": int(d.deadline) if d.is_live else 0,
            "lifetime": d.lifetime,
            "dflags": d.dflags,
            "sflags": d.sflags,
            "iflags": d.iflags,
        }
        for name, leg in (("caller", d.legs[CALLER]), ("callee", d.legs[CALLEE])):
            known = name == "caller" or leg.tag != ""
            out[name] = {
                "tag": leg.tag if known else None,
                "contact": leg.contact if known else None,
                "cseq": str(leg.cseq) if known else None,
                "route_set": ",".join(leg.route_set) if known else None,
                "socket": (str(leg.listener) if leg.listener is not None else "") if known else None,
            }
        live = d.state != DELETED
        out["profiles"] = [{p: v} if self.profiles.has_value(p) else p for p, v in d.profiles]
        out["variables"] = [{name: value} for name, value in d.variables.items()] if live else []
        return out


def _matcher(operator: str, value: str) -> Callable[[str], object]:
    """Return what tells whether a text fits. Raise RpcError."""
    if operator == "eq":
        return lambda text: text == value
    if operator == "sw":
        return lambda text: text.startswith(value)
    if operator != "re":
        raise RpcError(_FAILED, "Invalid matching operator parameter")
    try:
        return compile_posix(value).search
    except BadPattern:
        raise RpcError(_FAILED, "Invalid matching value parameter") from None
