"""What connections may use, and what is counted of them (Kamailio: the core parameters and statistics of tcp)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from polykemi.live import live
from polykemi.sip.framing import LONGEST


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What connections may use; the names are those of Kamailio's core parameters without ``tcp_``."""

    connection_lifetime: float = live(120.0, "seconds without a message")
    max_connections: int = live(2048, "connections at once")
    accept_iplimit: int = live(1024, "connections that one address may open to us")
    connect_timeout: float = live(10.0, "seconds; a TLS handshake may take so long too")
    msg_read_timeout: float = live(20.0, "seconds for all of a message, from its first octet on")
    send_timeout: float = live(10.0, "seconds that a peer may take nothing while something waits for it")
    conn_wq_max: int = live(1 << 20, "octets that wait for a peer to take them")
    wq_max: int = live(64 << 20, "the same for all peers; those that let others wait share it")
    longest_message: int = live(LONGEST, "octets, on connections that come")
    accept_aliases: bool = live(
        default=False, doc="take the port of a Via with ;alias for one of its connection (RFC 5923)"
    )

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not isinstance(value, bool) and not value > 0:  # nan too
                raise ValueError(f"{one.name}: expected more than 0, got {value:g}")


# Kamailio's statistics group tcp
COUNTERS: Final = tuple(
    f"tcp.{name}"
    for name in (
        "con_reset",
        "con_timeout",
        "connect_failed",
        "connect_success",
        "current_opened_connections",
        "established",
        "local_reject",
        "msg_read_timeout",  # messages that were not complete in time: ours
        "passive_open",
        "send_timeout",
        "sendq_full",
        "silent_dropped",  # connections that made room for others: ours
        "tls_failed",  # handshakes: these four are ours
        "tls_not_spoken",  # something else was
        "tls_opened",
        "tls_timeout",
        "unreadable",  # what came could not be followed: ours
    )
)
