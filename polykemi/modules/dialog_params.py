"""The parameters of dialog, and what a script says of a dialog before there is one. Part of dialog."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from polykemi.modules.dialog_profiles import profile_names

STRICT_ID: Final = 0  # dlg_match_mode
NO_ID: Final = 2


@dataclass(frozen=True, slots=True)
class DialogParams:
    """Kamailio's names and defaults; times in seconds."""

    rr_param: str = "did"
    dlg_flag: int = -1  # an INVITE with this message flag begins a dialog when its transaction does
    timeout_avp: str = ""  # the variable that says how long a dialog may last
    default_timeout: int = 43200
    dlg_extra_hdrs: str = ""  # header lines of BYEs, with their CRLF
    dlg_match_mode: int = STRICT_ID  # how requests find it: 0 by Route alone, 1 by Route, then by tags, 2 by tags
    detect_spirals: int = 1
    profiles_with_value: str = ""  # "name; name"
    profiles_no_value: str = ""
    bridge_controller: str = "sip:controller@kamailio.org"
    bridge_contact: str = "sip:controller@kamailio.org:5060"
    ruri_pvar: str = "$ru"
    send_bye: int = 0  # 1: BYE to both sides when it times out
    wait_ack: int = 1  # without effect
    ka_timer: int = 0  # with ka_interval: OPTIONS to the sides that ask for it (dlg_set_property)
    ka_interval: int = 0
    ka_failed_limit: int = 1
    timeout_noreset: int = 0  # 1: requests within it do not give it more time
    lreq_callee_headers: str = ""
    event_callback: str = ""
    early_timeout: int = 300
    noack_timeout: int = 60
    end_timeout: int = 300
    hash_size: int = 4096
    h_id_start: int = 0
    h_id_step: int = 1
    enable_stats: int = 1  # without effect: counters are always there
    db_mode: int = 0  # 0: dialogs are kept in memory alone; 1, 2, 3: in the database too, which is written at once
    db_url: str = ""
    db_skip_load: int = 0  # 1: those of the database are not read at the start

    def __post_init__(self) -> None:
        if not -1 <= self.dlg_flag <= 31:
            raise ValueError("dlg_flag: expected a message flag, 0 to 31, or -1")
        if self.dlg_match_mode not in (0, 1, 2):
            raise ValueError("dlg_match_mode: expected 0, 1 or 2")
        for name in ("default_timeout", "early_timeout", "noack_timeout", "hash_size"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected a positive number")
        if self.db_mode not in (0, 1, 2, 3):
            raise ValueError("db_mode: expected 0 to 3")
        profile_names("profiles_with_value", self.profiles_with_value)
        profile_names("profiles_no_value", self.profiles_no_value)


class Asked:
    """What a script says in $dlg_ctx before there is a dialog, and in dlg_setflag and dlg_set_property."""

    __slots__ = (
        "direction",
        "flags",
        "iflags",
        "on",
        "pending",
        "timeout",
        "timeout_bye",
        "timeout_route",
        "variables",
    )

    def __init__(self) -> None:
        self.on = self.flags = self.iflags = self.timeout = self.timeout_bye = self.direction = 0
        self.timeout_route = ""
        self.variables: dict[str, str] = {}
        self.pending: list[tuple[str, str]] = []  # profiles
