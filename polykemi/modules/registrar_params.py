"""The parameters of registrar, with Kamailio's names and defaults. Part of registrar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from polykemi.live import live

# outbound_mode: whether phones may, or have to, keep several flows (RFC 5626)
OUTBOUND_NONE: Final = 0
OUTBOUND_REQUIRED: Final = 2
FILTER_BFLAGS: Final = 1  # the bits of lookup_filter_mode
FILTER_CONNECTIONS: Final = 2

_LONGEST_FLOW_TIMER: Final = 999  # seconds, as Kamailio's


@dataclass(frozen=True, slots=True)
class RegistrarParams:
    """Kamailio's names and defaults; times in seconds, ranges in percent."""

    default_expires: int = live(3600, "expiry of a contact that asks for none")
    default_expires_range: int = live(0, "default_expires is shortened or lengthened by up to so much, at random")
    expires_range: int = live(0, "the same for what a phone asks for")
    min_expires: int = live(60, "no shorter expiry is granted, see min_expires_mode; 0: any")
    min_expires_mode: int = live(0, "1: shorter ones are answered with 423, 0: they are raised to min_expires")
    max_expires: int = live(0, "no longer expiry is granted; 0: any")
    default_q: int = live(-1, "q of a contact that says none, in thousandths; -1: none")
    realm_prefix: str = live("", "taken off the domain of an address of record", name="realm_pref")
    append_branches: int = live(1, "lookup makes branches of the other contacts; 0: the best one alone")
    case_sensitive: int = live(0, "1: addresses of record in capitals are others")
    received_param: str = "received"
    received_avp: str = ""  # the AVP that says where a REGISTER came from; else what nathelper.fix_nated_register knows
    sock_hdr_name: str = ""  # the header that says to which listener a REGISTER came (add_sock_hdr of another server)
    sock_flag: int = -1  # only of requests with this message flag
    max_contacts: int = live(0, "contacts that an address of record may have; 0: 1,000")
    retry_after: int = live(0, "Retry-After of a 5xx to a REGISTER; 0: none")
    method_filtering: int = 0
    use_path: int = 0
    path_mode: int = 2
    path_use_received: int = 0
    path_check_local: int = 0
    gruu_enabled: int = 1  # phones that support it get GRUUs (RFC 5627)
    outbound_mode: int = OUTBOUND_NONE  # 1: phones may keep several flows (RFC 5626), 2: all have to support that
    regid_mode: int = 0  # 0: reg-id counts when the first hop supports outbound, 1: always
    flow_timer: int = 0  # Flow-Timer of the 200 with outbound; 0: none
    lookup_filter_mode: int = 0  # bits: 1 with a flag of $xavp(CFG=>rlf_bflags), 2 whose connection is there
    xavp_cfg: str = ""  # the xavp that says max_contacts, expires, q, socket, rlf_bflags of this one request
    xavp_rcd: str = ""  # the xavp that lookup and registered put the contact that they found into
    xavp_rcd_mask: int = 0  # what they leave out: 1 ruid, 2 contact, 4 expires, 8 received, 16 path
    contact_max_size: int = 512
    event_callback: str = ""
    use_expired_contacts: int = live(0, "1: lookup takes contacts that have expired and are still there")

    def __post_init__(self) -> None:
        if self.received_avp and not self.received_avp.startswith(("$avp(", "$(avp(")):
            raise ValueError(f"received_avp: expected $avp(NAME), got {self.received_avp!r}")
        for name in ("default_expires_range", "expires_range"):
            if not 0 <= getattr(self, name) <= 100:
                raise ValueError(f"{name}: expected 0 to 100 percent, got {getattr(self, name)}")
        if not -1 <= self.default_q <= 1000:
            raise ValueError(f"default_q: expected -1 to 1000, got {self.default_q}")
        for name in ("default_expires", "min_expires", "max_expires", "max_contacts", "retry_after"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        if not -1 <= self.sock_flag <= 31:
            raise ValueError("sock_flag: expected a message flag, 0 to 31, or -1")
        for name, most in (("path_mode", 2), ("outbound_mode", 2), ("regid_mode", 1), ("lookup_filter_mode", 3)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name}: expected 0 to {most}, got {getattr(self, name)}")
        if not 0 <= self.flow_timer <= _LONGEST_FLOW_TIMER:
            raise ValueError(f"flow_timer: expected 0 to {_LONGEST_FLOW_TIMER} seconds, got {self.flow_timer}")
        if self.flow_timer and self.outbound_mode == OUTBOUND_NONE:
            raise ValueError("flow_timer: expected outbound_mode to be 1 or 2")
