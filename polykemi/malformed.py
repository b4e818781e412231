"""What comes in and is no proper SIP message: answered where its headers allow that, else dropped; counted and told of."""

from __future__ import annotations

import logging
from typing import Final

from polykemi.blocks import Blocks
from polykemi.errors import ParseError
from polykemi.sip import build
from polykemi.sip.flow import Flow
from polykemi.sip.message import Request, parse
from polykemi.sip.reply_path import reply_path

log = logging.getLogger("polykemi.router")

_MOST_LINES: Final = 100  # in the log, a second


class Malformed:
    """What the router does with it. ``now``: seconds since the epoch."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks, self._services = blocks, blocks.services
        self._second = self._lines = 0  # how many lines were written in the last second

    def refuse(self, data: bytes, flow: Flow, error: ParseError, now: float) -> None:
        """Answer a request with its error where its headers allow that, else drop it.

        Nobody answers an ACK or a response, nor what has no usable Via (RFC 3261 sections 17.1.1.3 and 18.2.2).
        """
        start, _, rest = data.lstrip(b"\r\n").partition(b"\n")
        reply = None
        if start[:4] != b"ACK " and start[:4] != b"SIP/" and start.strip():
            reply = self._answer(rest, flow, error)
        if reply is None:
            self.drop(data, flow, error, now)
            return
        self._services.count("core.bad_requests")
        self._tell(now, "refused a request from %s:%d: %s", flow.host, flow.port, error)
        for onlooker in self._blocks.onlookers:
            onlooker.malformed(data, flow, str(error), answered=True)
        self._services.outbox.send(*reply)

    def _answer(self, headers: bytes, flow: Flow, error: ParseError) -> tuple[bytes, Flow] | None:
        try:
            request = parse(b"INVALID sip:invalid SIP/2.0\r\n" + headers)
            assert isinstance(request, Request)
            request.believe_first_via()
            received, rport, target = reply_path(request, flow)
            reply = build.response(
                request,
                error.status,
                error.reason,
                to_tag=self._services.ids.stateless_tag(request),
                received=received,
                rport=rport,
                server=self._services.server_header,
            )
        except ParseError:
            return None
        return reply, target

    def drop(self, data: bytes, flow: Flow, error: ParseError, now: float) -> None:
        """Let go of it, without an answer."""
        if not data.strip(b"\r\n\0"):
            self._services.count("core.keepalives")  # RFC 5626 section 3.5.1: not worth a line in the log
            return
        self._services.count("core.dropped")
        self._tell(now, "dropped %d octets from %s:%d: %s", len(data), flow.host, flow.port, error.reason)
        for onlooker in self._blocks.onlookers:
            onlooker.malformed(data, flow, error.reason, answered=False)

    def _tell(self, now: float, text: str, *arguments: object) -> None:
        """Write a line, but not thousands a second: who sends rubbish does not fill the disk. All of it is counted."""
        second = int(now)
        if second != self._second:
            if self._lines > _MOST_LINES:
                log.info("and %d more in that second", self._lines - _MOST_LINES)
            self._second, self._lines = second, 0
        self._lines += 1
        if self._lines <= _MOST_LINES:
            log.info(text, *arguments)
