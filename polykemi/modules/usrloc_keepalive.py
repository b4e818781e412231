"""Requests to all contacts, over whatever transport, within each timer_interval: who does not answer goes. Part of usrloc."""

from __future__ import annotations

import logging
from typing import Final

from polykemi.errors import ParseError
from polykemi.modules.base import Services
from polykemi.modules.usrloc_pings import Pings, Rounds, Silence
from polykemi.sip.flow import Flow, OpenFlow, listener_for
from polykemi.sip.grammar import canonical_host
from polykemi.sip.header import parse_name_addr, split_quoted
from polykemi.sip.message import Response
from polykemi.sip.uri import parse_uri
from polykemi.storage.location import Binding

log = logging.getLogger("polykemi.usrloc")

ALL: Final = 1  # the bits of ka_mode
NATTED: Final = 2
OVER_UDP: Final = 4
_PREFIX: Final = "ksrulka-"  # of Call-IDs, as Kamailio's: phones and captures may know it


class Keepalive:
    """Asks contacts whether they are there (Kamailio: ka_mode)."""

    def __init__(
        self,
        services: Services,
        *,
        mode: int,
        method: str,
        sender: str,
        domain: str,
        timeout: int,
        nat_flag: int,
        tables: tuple[str, ...],
        interval: int,
        now: float,
    ) -> None:
        """``domain``: of To, for an AoR that has none; ``timeout``: seconds without an answer that are too many, 0: none."""
        self._services, self._mode, self._domain = services, mode, domain
        self._nat_flag, self._timeout, self._interval = nat_flag, timeout, interval
        self._pings = Pings(services, method, sender, _PREFIX)
        self._silence = Silence(services, timeout)
        self._rounds = Rounds(services, tables, interval, now)
        self._listeners = {str(listener): listener for listener in services.listeners}
        services.strays.append(self._absorb)

    @property
    def due(self) -> float:
        """When the next contacts are asked."""
        return self._rounds.due

    def run(self, now: float) -> None:
        """Ask the contacts whose turn it is."""
        rounds = self._rounds
        for table, aor, bindings in rounds.take(now):
            for binding in bindings:
                if (binding.expires > now or not binding.expires) and self._is_meant(binding):
                    self._ask(table, aor, binding, now)
        self._silence.forget(now - self._timeout - 2 * self._interval)

    def _is_meant(self, binding: Binding) -> bool:
        return not self._mode & NATTED or bool(binding.bflags & self._nat_flag)

    def _ask(self, table: str, aor: str, binding: Binding, now: float) -> None:
        try:
            flow = self._flow(binding)
        except ParseError as error:
            log.info("a contact that cannot be asked: %s", error)
            return
        if flow is None or not self._silence.asked(table, aor, binding, now):
            return
        to = f"sip:{aor if '@' in aor else f'{aor}@{self._domain}'}"
        self._services.outbox.send(self._pings.request(binding, flow.listener, to), flow)
        self._services.count("usrloc.keepalives")

    def _flow(self, binding: Binding) -> Flow | None:
        """Return where a contact is: over the connection that it has, when it has one. None: not to be asked."""
        target = binding.received
        if not target:
            target = parse_name_addr(split_quoted(binding.path, ",")[0]).uri if binding.path else binding.uri
        uri = parse_uri(target)
        proto = uri.transport or ("tls" if uri.scheme == "sips" else "udp")
        if self._mode & OVER_UDP and proto != "udp":
            return None
        ours, host = self._services.listeners, canonical_host(uri.host)
        listener = listener_for(proto, host, self._listeners.get(binding.listener) or ours[0], ours)
        if listener is None:
            return None
        kind = Flow if proto == "udp" else OpenFlow
        return kind(listener, host, uri.effective_port)

    def _absorb(self, response: Response) -> bool:
        """Tell whether ``response`` is an answer to us."""
        ruid = self._pings.ruid_of(response)
        if ruid is None:
            return False
        self._silence.answered(ruid)
        return True
