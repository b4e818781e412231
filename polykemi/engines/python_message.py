"""The message object that app_python3 hands to the methods of a script, and the made-up message while a script loads."""

from __future__ import annotations

from polykemi.kemi.binding import from_octets, to_octets
from polykemi.kemi.context import RouteContext
from polykemi.sip.header import canonical_names
from polykemi.sip.message import Request, Response


class ScriptMessage:
    """The message of the running route block, ``msg`` to scripts; of no use when the block has ended."""

    __slots__ = ("_ctx",)

    def __init__(self, ctx: RouteContext | None) -> None:
        self._ctx = ctx

    def end(self) -> None:
        """Let go of the message."""
        self._ctx = None

    def _context(self) -> RouteContext:
        if self._ctx is None:
            raise RuntimeError("the message is gone: its route block has ended")
        return self._ctx

    def _request(self, what: str) -> Request:
        message = self._context().message
        if not isinstance(message, Request):
            raise RuntimeError(f"not a request: no {what}")
        return message

    @property
    def Type(self) -> str:  # noqa: N802
        """``SIP_REQUEST`` or ``SIP_REPLY``."""
        return "SIP_REQUEST" if self._context().message.is_request else "SIP_REPLY"

    @property
    def Method(self) -> str:  # noqa: N802
        """The method of a request. Raise RuntimeError for a reply."""
        return from_octets(self._request("method").method)

    @property
    def Status(self) -> str:  # noqa: N802
        """The status code of a reply, as text. Raise RuntimeError for a request."""
        message = self._context().message
        if not isinstance(message, Response):
            raise RuntimeError("not a reply: no status")
        return str(message.status)

    @property
    def RURI(self) -> str:  # noqa: N802
        """The Request-URI as it came. Raise RuntimeError for a reply."""
        return from_octets(self._request("Request-URI").uri)

    @property
    def src_address(self) -> tuple[str, int]:
        """Where the message came from: IP address, port."""
        flow = self._context().flow
        return flow.host, flow.port

    @property
    def dst_address(self) -> tuple[str, int]:
        """Where the message arrived: IP address, port."""
        listener = self._context().flow.listener
        return listener.host, listener.port

    def getHeader(self, name: str) -> str | None:  # noqa: N802
        """Return the value of the first header ``name`` (long or compact form), None when there is none."""
        value = self._context().message.get(canonical_names[to_octets(name)])
        return None if value is None else from_octets(value)

    def rewrite_ruri(self, uri: str) -> None:
        """Set the Request-URI of what will be sent ($ru). Raise RuntimeError for a reply."""
        self._request("Request-URI")
        self._context().ruri = to_octets(uri)

    def set_dst_uri(self, uri: str) -> None:
        """Set the destination URI ($du)."""
        self._context().dst_uri = to_octets(uri)

    def copy(self) -> ScriptMessage:
        """Return another handle of the same message; it ends with its route block as well."""
        return ScriptMessage(self._context())

    def call_function(self, name: str, *_parameters: str) -> int:
        """Native functions of kamailio.cfg do not exist here: raise RuntimeError."""
        raise RuntimeError(f"no native function {name}: call it through KSR")
