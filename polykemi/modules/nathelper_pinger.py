"""Keep NAT bindings of phones open: a few octets, or a request, to each contact from time to time. Part of nathelper."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from polykemi.errors import DataError, ParseError
from polykemi.modules.base import Module, Services
from polykemi.modules.usrloc import is_valid
from polykemi.modules.usrloc_pings import Pings, Rounds, Silence
from polykemi.sip.flow import Flow, Listener, find_listener
from polykemi.sip.grammar import canonical_host
from polykemi.sip.header import parse_name_addr, split_quoted
from polykemi.sip.message import Response
from polykemi.sip.uri import Uri, parse_uri
from polykemi.storage.location import Binding

log = logging.getLogger("polykemi.nathelper")

PING: Final = b"\0\0\0\0"  # what a phone does not answer


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
    keepalive_timeout: int = 0  # seconds without an answer to a request after which a contact is removed; 0: none is
    force_socket: str = ""  # the listener that pings leave from: udp:host:port; "": the one that the REGISTER came to
    natping_socket: str = ""  # the listener that the octets leave from: host:port
    udpping_from_path: int = (
        0  # octets come from the address in the last (2: first, 3: second, ...) Path, if that is ours
    )
    natping_processes: int = 1
    filter_server_id: int = 0

    def __post_init__(self) -> None:
        for name in ("natping_interval", "keepalive_timeout"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected seconds, or 0")
        if self.udpping_from_path < 0:
            raise ValueError("udpping_from_path: expected 0 or more")
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
        self.enabled = True
        self._rounds: Rounds | None = None
        self._nat_flag = 0
        self._listeners: dict[str, Listener] = {}
        self._forced: Listener | None = None
        self._of_octets: Listener | None = None

    def start(self, now: float) -> None:
        """Begin, when there is an interval. Raise DataError for a socket that is none of ours."""
        services, p = self._services, self._params
        if not p.natping_interval:
            return
        self._listeners = {str(listener): listener for listener in services.listeners}
        self._forced, self._of_octets = self._named("force_socket"), self._named("natping_socket")
        usrloc = services.modules.get("usrloc")
        self._nat_flag = usrloc.nat_flag if usrloc is not None else 0
        self._pings = Pings(services, p.sipping_method, p.sipping_from)
        self._silence = Silence(services, p.keepalive_timeout)
        services.strays.append(self._absorb)
        tables = usrloc.params.preload if usrloc is not None else ("location",)
        self._rounds = Rounds(services, tables, p.natping_interval, now)

    def _named(self, parameter: str) -> Listener | None:
        """Return the listener over UDP that a parameter names, None for an empty one."""
        text: str = getattr(self._params, parameter)
        ours = [listener for listener in self._services.listeners if listener.proto == "udp"]
        found = find_listener(text, ours, 5060) if text else None
        if text and found is None:
            raise DataError(f"nathelper: {parameter}: {text} is no UDP listener of this server")
        return found

    def next_timeout(self) -> float | None:
        """Return when the next contacts are pinged."""
        return None if self._rounds is None else self._rounds.due

    def run(self, now: float) -> None:
        """Ping the contacts whose turn it is."""
        rounds = self._rounds
        if rounds is None:
            return
        for table, aor, bindings in rounds.take(now):
            for binding in bindings:
                if self.enabled and is_valid(binding, now):
                    self._ping(table, aor, binding, now)
        self._silence.forget(now - self._params.keepalive_timeout - 2 * self._params.natping_interval)

    def _ping(self, table: str, aor: str, binding: Binding, now: float) -> None:
        p = self._params
        if p.ping_nated_only and self._nat_flag and not binding.bflags & self._nat_flag:
            return
        if p.natping_disable_bflag >= 0 and binding.bflags >> p.natping_disable_bflag & 1:
            return
        wants_request = p.sipping_bflag >= 0 and bool(not p.ping_nated_only or binding.bflags >> p.sipping_bflag & 1)
        try:
            target = binding.received or binding.uri
            if binding.path and wants_request:
                target = _hops(binding)[0]
            uri = parse_uri(target)
            listener = self._forced or (None if wants_request else self._source(binding))
        except ParseError as error:
            log.info("a contact that cannot be pinged: %s", error)
            return
        if uri.transport not in ("", "udp"):
            return
        if listener is None:
            listener = self._listener_for(binding, uri)
        if wants_request and not self._silence.asked(table, aor, binding, now):
            return
        flow = Flow(listener, canonical_host(uri.host), uri.effective_port)
        self._services.outbox.send(self._pings.request(binding, listener) if wants_request else PING, flow)
        self._services.count("nathelper.pings")

    def _listener_for(self, binding: Binding, uri: Uri) -> Listener:
        """Return the listener that the REGISTER came to: the phone's NAT lets nobody else in. Else one over UDP."""
        listener = self._listeners.get(binding.listener)
        if listener is not None and listener.proto == "udp":
            return listener
        return next((one for one in self._services.listeners if one.proto == "udp"), self._services.listeners[0])

    def _source(self, binding: Binding) -> Listener | None:
        """Return where octets leave from when not from the contact's own listener. Raise ParseError for a foreign Path.

        Kamailio writes the address of a foreign edge proxy into its packets; that takes a raw socket, and is not done here.
        """
        number = self._params.udpping_from_path
        if number and binding.path:
            hops = _hops(binding)
            hop = parse_uri(hops[-1] if number == 1 else hops[min(number - 1, len(hops)) - 1])
            listener = find_listener(f"{hop.host}:{hop.effective_port}", self._services.listeners)
            if listener is None or listener.proto != "udp":
                self._services.count("nathelper.pings_not_sent")
                raise ParseError(f"{hop.host} in its Path is no UDP listener of this server (udpping_from_path)")
            return listener
        return self._of_octets

    def _absorb(self, response: Response) -> bool:
        """Tell whether ``response`` is the answer to a ping: nobody else is to see it."""
        ruid = self._pings.ruid_of(response)
        if ruid is None:
            return False
        self._silence.answered(ruid)
        return True


def _hops(binding: Binding) -> list[str]:
    """Return the URIs of the Path. Raise ParseError."""
    return [parse_name_addr(value).uri for value in split_quoted(binding.path, ",") if value]
