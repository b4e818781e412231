"""What an operator asks dialog (Kamailio: the RPC commands dlg.*). Part of dialog."""

from __future__ import annotations

from typing import Any, Final

from polykemi.errors import RpcError
from polykemi.kemi.rpc import rpc
from polykemi.modules.dialog_state import CALLEE, CALLER, CONFIRMED, CONFIRMED_NA, DELETED, EARLY, UNCONFIRMED, Dialog
from polykemi.modules.dialog_tracking import DialogTracking

_NOT_FOUND: Final = 404
_FAILED: Final = 500


class DialogCommands(DialogTracking):
    """The commands; what scripts call is in ``dialog``."""

    @rpc("dlg.list")
    def list_dialogs(self) -> Any:
        """List all dialogs."""
        return [self._described(dialog) for dialog in self.table]

    @rpc("dlg.dlg_list")
    def list_of_call(self, callid: str, from_tag: str = "") -> Any:
        """List the dialogs of a Call-ID, and of this tag of the caller when it is given."""
        found = [d for d in self.table.of_call_id(callid) if from_tag in ("", d.legs[CALLER].tag)]
        return [self._described(dialog) for dialog in found]

    @rpc("dlg.end_dlg")
    def end_dialog(self, h_entry: int, h_id: int) -> Any:
        """End a dialog: BYE to both sides, within a second."""
        return self._end_soon(self.table.get(h_entry, h_id))

    @rpc("dlg.terminate_dlg")
    def terminate_dialog(self, callid: str, from_tag: str, to_tag: str) -> Any:
        """End the dialog with this Call-ID and these tags: BYE to both sides, within a second."""
        return self._end_soon(self.table.find(callid, from_tag, to_tag)[0])

    def _end_soon(self, dialog: Dialog | None) -> str:
        if dialog is None:
            raise RpcError(_NOT_FOUND, "Dialog not found")
        if not dialog.is_live:
            raise RpcError(_FAILED, "Operation failed: the dialog is not confirmed")
        self.to_end.append(dialog)
        return "Done"

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
            out[name] = {
                "tag": leg.tag,
                "contact": leg.contact,
                "cseq": str(leg.cseq),
                "route_set": ",".join(leg.route_set),
                "socket": str(leg.listener) if leg.listener is not None else "",
            }
        live = d.state != DELETED
        out["profiles"] = [{p: v} if self.profiles.has_value(p) else p for p, v in d.profiles]
        out["variables"] = [{name: value} for name, value in d.variables.items()] if live else []
        return out
