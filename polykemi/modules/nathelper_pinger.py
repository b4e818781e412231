"""Keep NAT bindings of phones open: a few octets, or a request, to each contact from time to time. Part of nathelper."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from polykemi.errors import ParseError
from polykemi.modules.base import Module, Services
from polykemi.modules.usrloc import is_valid
from polykemi.sip.flow import Flow, Listener, bracketed
from polykemi.sip.header import parse_name_addr, split_quoted
from polykemi.sip.message import Response
from polykemi.sip.uri import parse_uri
from polykemi.storage.location import Binding

log = logging.getLogger("polykemi.nathelper")

PING: Final = b"\0\0\0\0"  # what a phone does not answer
_TICK: Final = 1.0  # seconds
_AT_LEAST: Final = 50  # addresses of record in a tick, while nobody knows how many there are


@dataclass(frozen=True, slots=True)
class NatHelperParams:
    """Kamailio's names and defaults. Branch flags are numbers from 0 to 31, -1 for none.

    ``natping_processes`` and ``filter_server_id`` have no effect: one process keeps all contacts.
    """

    nortpproxy_str: str = "a=nortpproxy:yes"  # the line that fix_nated_sdp adds with the flag 4
    append_sdp_oldmediaip: int = 1  # keep addresses that fix_nated_sdp replaces in an a=oldmediaip line
    received_avp: str = ""  # the AVP that fix_nated_register fills, besides what registrar.save knows by itself
    natping_interval: int = 0  # seconds within which each contact is pinged once; 0: none is
    ping_nated_only: int = 0  # 1: only contacts with the branch flag usrloc.nat_bflag
    natping_disable_bflag: int = -1  # contacts with it are not pinged
    sipping_bflag: int = -1  # contacts with it get a request, not just octets
    sipping_method: str = "OPTIONS"
    sipping_from: str = ""  # From of these requests, a URI
    force_socket: str = ""  # the listener that pings leave from: udp:host:port; "": the one that the REGISTER came to
    natping_processes: int = 1
    filter_server_id: int = 0

    def __post_init__(self) -> None:
        if self.natping_interval < 0:
            raise ValueError("natping_interval: expected seconds, or 0")
        for name in ("natping_disable_bflag", "sipping_bflag"):
            if not -1 <= getattr(self, name) <= 31:
                raise ValueError(f"{name}: expected a branch flag, 0 to 31, or -1")
        if self.received_avp and not self.received_avp.startswith(("$avp(", "$(avp(")):
            raise ValueError(f"received_avp: expected $avp(NAME), got {self.received_avp!r}")
        if self.sipping_bflag >= 0 and self.natping_interval and not self.sipping_from:
            raise ValueError(
                "sipping_from: expected the URI that requests to phones come from, as sipping_bflag is set"
            )


class Pinger:
    """Goes through all contacts, over and over, each time within natping_interval."""

    def __init__(self, module: Module, params: NatHelperParams) -> None:
        self._services: Services = module.services
        self._params = params
        self._due: float | None = None
        self._walk: Iterator[tuple[str, list[Binding]]] | None = None
        self._seen = 0  # addresses of record in this round
        self._total = 0  # in the one before
        self._began = 0.0
        self._call_id = ""
        self._count = 0
        self._listeners: dict[str, Listener] = {}
        self._nat_flag = 0

    def start(self, now: float) -> None:
        """Begin, when there is an interval. Raise ValueError for a force_socket that is none of ours."""
        services, p = self._services, self._params
        if not p.natping_interval:
            return
        self._listeners = {str(listener): listener for listener in services.listeners}
        if p.force_socket and p.force_socket not in self._listeners:
            raise ValueError(f"nathelper: force_socket: {p.force_socket} is no listener of this server")
        usrloc = services.modules.get("usrloc")
        bit = usrloc.params.nat_bflag if usrloc is not None else -1
        self._nat_flag = 1 << bit if bit >= 0 else 0
        self._call_id = services.ids.unique()
        services.strays.append(self._absorb)
        self._due = now + _TICK

    def next_timeout(self) -> float | None:
        """Return when the next contacts are pinged."""
        return self._due

    def run(self, now: float) -> None:
        """Ping the contacts whose turn it is."""
        if self._due is None or now < self._due:
            return
        self._due = now + _TICK
        if self._walk is None:
            if now < self._began + self._params.natping_interval:
                return
            self._walk, self._seen, self._began = self._all(), 0, now
        for _ in range(max(_AT_LEAST, self._total // self._params.natping_interval + 1)):
            found = next(self._walk, None)
            if found is None:
                self._walk, self._total = None, self._seen
                return
            self._seen += 1
            for binding in found[1]:
                if is_valid(binding, now):
                    self._ping(binding)

    def _all(self) -> Iterator[tuple[str, list[Binding]]]:
        usrloc = self._services.modules.get("usrloc")
        for table in usrloc.params.preload if usrloc is not None else ("location",):
            yield from self._services.location.items(table)

    def _ping(self, binding: Binding) -> None:
        p = self._params
        if p.ping_nated_only and self._nat_flag and not binding.bflags & self._nat_flag:
            return
        if p.natping_disable_bflag >= 0 and binding.bflags >> p.natping_disable_bflag & 1:
            return
        wants_request = p.sipping_bflag >= 0 and bool(not p.ping_nated_only or binding.bflags >> p.sipping_bflag & 1)
        try:
            target = binding.received or binding.uri
            if binding.path and wants_request:
                target = parse_name_addr(split_quoted(binding.path, ",")[0]).uri
            uri = parse_uri(target)
        except ParseError as error:
            log.info("a contact that cannot be pinged: %s", error)
            return
        if uri.transport not in ("", "udp"):
            return
        listener = self._listeners.get(p.force_socket or binding.listener) or self._services.listeners[0]
        flow = Flow(listener, uri.host.strip("[]"), uri.effective_port)
        self._services.outbox.send(self._request(binding, listener) if wants_request else PING, flow)
        self._services.count("nathelper.pings")

    def _request(self, binding: Binding, listener: Listener) -> bytes:
        self._count += 1
        host, port = listener.advertised
        lines = [
            f"{self._params.sipping_method} {binding.uri} SIP/2.0",
            f"Via: SIP/2.0/UDP {bracketed(host)}:{port};branch={self._services.ids.branch()}",
            *([f"Route: {binding.path}"] if binding.path else []),
            f"From: <{self._params.sipping_from}>;tag={binding.ruid}-{self._count:x}",
            f"To: <{binding.uri}>",
            f"Call-ID: {self._call_id}-{self._count:x}@{listener.host}",
            f"CSeq: 1 {self._params.sipping_method}",
            "Content-Length: 0\r\n\r\n",
        ]
        return "\r\n".join(lines).encode("latin-1")

    def _absorb(self, response: Response) -> bool:
        """Tell whether ``response`` is the answer to a ping: nobody else is to see it."""
        return response.call_id.startswith(f"{self._call_id}-") and len(response.indexes("via")) == 1
