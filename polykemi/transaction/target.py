"""What a transaction is begun with: the targets of its request (RFC 3261 section 16.5) and the state that its blocks share."""

from __future__ import annotations

from typing import Any, Final

from polykemi.sip.flow import Listener


class Shared:
    """What all route blocks of one transaction share: message flags, $avp, $xavp (Kamailio attaches them to the transaction)."""

    __slots__ = (
        "acc_upstream",
        "avps",
        "dialog",
        "flags",
        "octets",
        "record_routes",
        "route_params",
        "values",
        "version",
        "xavis",
        "xavps",
        "xavus",
        "xflags",
    )

    def __init__(self) -> None:
        self.flags = 0
        self.acc_upstream = False  # acc: the callee has sent the request
        self.dialog: Any = None  # dialog: the one that the message belongs to (modules/dialog_state.Dialog)
        # of the scripts that the first block ran in: the others run there too (versions.Version)
        self.version: Any = None
        self.xflags = 0  # corex's extended flags, 0..63
        self.route_params = ""  # URI parameters of our own Route, as rr.loose_route found them
        self.record_routes: tuple[str, ...] = ()  # lines that rr has added
        self.values = self.octets = 0  # of AVPs and XAVPs, those too that were removed since the last recount
        self.avps: dict[str, list[int | str]] = {}  # name -> values, the newest first
        # root name -> its items, the newest first; see pv/classes/avp.py
        self.xavps: dict[str, list[dict[str, Any]]] = {}
        self.xavis: dict[str, list[dict[str, Any]]] = {}  # the same with names in lower case
        self.xavus: dict[str, list[dict[str, Any]]] = {}  # the same with one item a root and one value a field

    def recount(self) -> tuple[int, int]:
        """Return how many values AVPs and XAVPs have, and how many octets."""
        every = [one for values in self.avps.values() for one in values]
        for store in (self.xavps, self.xavis, self.xavus):
            every += [one for items in store.values() for item in items for values in item.values() for one in values]
        return len(every), sum(len(one) for one in every if isinstance(one, str))


MOST_TARGETS: Final = 31  # besides the Request-URI, as Kamailio's max_branches allows at most


class Target:
    """One entry of the destination set besides the Request-URI itself (append_branch, contacts found by lookup)."""

    __slots__ = ("dst_uri", "flags", "instance", "listener", "path", "q", "ruid", "uri", "user_agent")

    def __init__(
        self,
        uri: str,
        dst_uri: str = "",
        *,
        path: str = "",
        q: int = -1,
        flags: int = 0,
        listener: Listener | None = None,
        instance: str = "",
        ruid: str = "",
        user_agent: str = "",
    ) -> None:
        self.uri = uri
        self.dst_uri = dst_uri  # $du of this branch, "" when there is none
        self.path = path  # Route values, comma-separated, "" when there are none
        self.q = q  # thousandths: 0..1000, -1 for none
        self.flags = flags  # branch flags
        self.listener = listener  # socket to send from, None: chosen by the transport
        self.instance = instance
        self.ruid = ruid
        self.user_agent = user_agent

    def copy(self) -> Target:
        """Return an independent copy."""
        return Target(
            self.uri,
            self.dst_uri,
            path=self.path,
            q=self.q,
            flags=self.flags,
            listener=self.listener,
            instance=self.instance,
            ruid=self.ruid,
            user_agent=self.user_agent,
        )
