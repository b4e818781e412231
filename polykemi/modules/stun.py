"""stun: answers the STUN keep-alives of phones over UDP (RFC 5626 section 4.4.2; Kamailio: stun)."""

from __future__ import annotations

from typing import Any

from polykemi.modules.base import Module, Services
from polykemi.sip.flow import Flow
from polykemi.sip.stun import binding_response


class Stun(Module):
    """Without functions: it is loaded, or it is not."""

    name = "stun"

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self.requests = self  # the router brings what is no SIP message

    def take(self, data: bytes, flow: Flow, now: float) -> bool:
        """Answer a Binding request; False for what is none."""
        response = binding_response(data, flow.host, flow.port) if flow.listener.proto == "udp" else b""
        if not response:
            return False
        self.services.count("stun.binding_requests")
        self.services.outbox.send(response, flow)
        return True
