"""The message of route blocks that no message caused: expired contacts, start-up (Kamailio: faked_msg_next)."""

from __future__ import annotations

from typing import Final

from polykemi.kemi.context import RouteContext
from polykemi.kemi.route import Route
from polykemi.sip.flow import Flow, Listener
from polykemi.sip.message import parse

FAKED_MESSAGE: Final = parse(
    b"OPTIONS sip:you@polykemi.invalid SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1\r\nFrom: <sip:you@polykemi.invalid>;tag=fake\r\n"
    b"To: <sip:you@polykemi.invalid>\r\nCall-ID: fake\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
)


def event_context(callback: str, event: str, listener: Listener, now: float) -> RouteContext:
    """Return the context of an event route block without a message of its own."""
    ctx = RouteContext(Route.EVENT, callback, FAKED_MESSAGE, Flow(listener, "127.0.0.1", 5060), now)
    ctx.event = event
    return ctx
