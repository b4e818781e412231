"""The blocks that the core runs by itself, and what they are called (Kamailio: core/cfg.y, ``kemi.*_callback``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from polykemi.kemi.faked import event_context
from polykemi.kemi.route import Callbacks
from polykemi.modules.base import Services
from polykemi.modules.core_network import CoreNetwork

# [modules.core] kemi.NAME -> field of Callbacks
_CALLBACKS: Final = {
    "request_route_callback": "request",
    "reply_route_callback": "reply",
    "onsend_route_callback": "onsend",
    "event_route_callback": "event",
    "received_route_callback": "received",
    "pre_routing_callback": "pre_routing",
}
_WORKER_INIT: Final = "core:worker-one-init"


@dataclass(frozen=True, slots=True)
class CoreParams:
    """Kamailio's global parameters that are about scripts, and those that functions of KSR and of corex work with."""

    kemi: Mapping[str, str] = field(default_factory=dict)  # kemi.request_route_callback ...: names, "none" for no block
    define: Mapping[str, str] = field(default_factory=dict)  # $def, KSR.kx.get_def: what #!define does in kamailio.cfg
    server_id: int = 0  # what corex.via_add_srvid writes
    xavp_via_params: str = ""  # name of the XAVP whose fields corex.via_add_xavp_params writes
    xavp_via_fields: str = ""  # name of the XAVP with the address and the port for corex.via_use_xavp_fields
    received_route_mode: int = 0  # 1: the block of kemi.received_route_callback runs

    def __post_init__(self) -> None:
        """Refuse names that are not known. Raise ValueError."""
        for key, name in self.kemi.items():
            if key not in _CALLBACKS:
                raise ValueError(f"kemi.{key}: expected one of {', '.join(_CALLBACKS)}")
            if key == "request_route_callback" and name.lower() in ("", "none"):
                raise ValueError(f"kemi.{key}: expected the name of a function, got {name!r}")
        for name in self.define:
            if not (name.isascii() and name.isidentifier()):
                raise ValueError(f"define.{name}: expected a name of letters, digits and _")

    def callbacks(self) -> Callbacks:
        """Return the names of the core's blocks."""
        given = {_CALLBACKS[key]: "" if name.lower() == "none" else name for key, name in self.kemi.items()}
        if not self.received_route_mode:
            given.pop("received", None)
        return Callbacks(**given)


class CoreEvents(CoreNetwork):
    """The core's parameters and events."""

    Params = CoreParams
    events: ClassVar[Mapping[str, str]] = {
        _WORKER_INIT: "the server has started (kemi.event_route_callback)",
        "core:pre-routing": "a message has come, before its route block; drop ends it (kemi.pre_routing_callback)",
        "core:msg-received": "octets have come, in $rcv(buf); drop throws them away (kemi.received_route_callback)",
    }

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        services.callbacks = self.params.callbacks()
        services.variables.environment.definitions = self.params.define

    def start(self, now: float) -> None:
        """Ask for the event of the first worker."""
        callback = self.services.callbacks.event
        if callback:
            self.services.events.append(event_context(callback, _WORKER_INIT, self.services.listeners[0], now))
