"""xmlrpc: HTTP clients run the commands of the control plane with XML-RPC (Kamailio: xmlrpc).

A script calls ``dispatch_rpc`` in the event route block of an HTTP request: that of this module, or of xhttp.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Final
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from polykemi.errors import RpcError, UsageError
from polykemi.kemi.binding import to_octets
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.modules.base import Module, Services
from polykemi.modules.xhttp import HttpRequests, XhttpParams
from polykemi.sip.message import Request

log = logging.getLogger("polykemi.xmlrpc")

EVENT: Final = "xmlrpc:request"

_HEAD: Final = '<?xml version="1.0"?>\n<methodResponse>\n'
_FAULT: Final = (
    "{}<fault>\n<value>\n<struct>\n<member>\n<name>faultCode</name>\n<value><int>{}</int></value>\n</member>\n<member>\n"
    "<name>faultString</name>\n<value><string>{}</string></value>\n</member>\n</struct>\n</value>\n</fault>\n"
    "</methodResponse>"
)
_SUCCESS: Final = "{}<params>\n<param>\n<value>{}</value>\n</param>\n</params>\n</methodResponse>"
_INT_MAX: Final = 1 << 31


class _BadDocument(Exception):
    """What came is no call: the reason for the fault."""


class Xmlrpc(Module):
    """XML-RPC over HTTP."""

    name = "xmlrpc"
    Params = XhttpParams
    requires = ("sl",)
    events: ClassVar[Mapping[str, str]] = {
        EVENT: "an HTTP request has come to a SIP port; xmlrpc looks at them before xhttp does"
    }

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self.requests = HttpRequests(services, self.params, EVENT, ("GET", "POST"))

    @export()
    def dispatch_rpc(self, ctx: RouteContext) -> int:
        """Run the call that is the body of the request, and reply to that. Answers 1, or -1 when the reply has failed."""
        request = ctx.message
        if not isinstance(request, Request):
            return -1
        try:
            method, params = _call(request.body)
            command = self.services.rpc.get(method)
            if command is None:
                body = _fault(500, "Method Not Found")
            else:
                body = _SUCCESS.format(_HEAD, _value(command.run(params, ctx.now), top=True))
        except _BadDocument as error:
            log.error("dispatch_rpc: %s", error)
            body = _fault(400, str(error))
        except RpcError as error:
            body = _fault(error.code, str(error))
        except UsageError as error:
            body = _fault(500, str(error))
        return self._reply(ctx, body)

    @export()
    def xmlrpc_reply(self, ctx: RouteContext, rcode: int, reason: str) -> int:
        """Reply with a fault of this code and reason, below 300 with the number 1. Answers 1, or -1."""
        return self._reply(ctx, _fault(rcode, reason) if rcode >= 300 else _SUCCESS.format(_HEAD, "<int>1</int>"))

    def _reply(self, ctx: RouteContext, body: str) -> int:
        if ctx.cache.get("reply_body"):
            log.error("the reply has a body already")
            return -1
        ctx.cache["reply_body"] = body.encode("latin-1")
        return 1 if self.services.modules["sl"].send_reply(ctx, 200, "OK") > 0 else -1


def _fault(code: int, reason: str) -> str:
    return _FAULT.format(_HEAD, code, escape(reason))


def _call(body: bytes) -> tuple[str, list[Any]]:
    """Return method and parameters of a call. Raise _BadDocument."""
    text = body.strip(b" \t\r\n")
    if not text or b"<!DOCTYPE" in text or b"\0" in text:  # entities could be made to grow without end, in UTF-16 too
        raise _BadDocument("Invalid XML-RPC Document")
    try:
        root = ET.fromstring(text)
    except (ET.ParseError, ValueError, LookupError):
        raise _BadDocument("Invalid XML-RPC Document") from None
    if root.tag != "methodCall":
        raise _BadDocument("Root Element Is Not methodCall")
    name = root.find("methodName")
    if name is None:
        raise _BadDocument("Method Name Not Found")
    if not name.text:
        raise _BadDocument("Cannot Extract Method Name")
    return to_octets(name.text), [_parameter(one) for one in root.findall("params/param/value")]


def _parameter(value: ET.Element) -> int | float | str:
    """Return a parameter: a text without a type is a string. Raise _BadDocument."""
    inner = value[0] if len(value) else value
    text = inner.text or ""
    try:
        if inner.tag in ("int", "i4", "boolean"):
            return int(text)
        if inner.tag == "double":
            return float(text)
    except ValueError:
        raise _BadDocument(f"Invalid {inner.tag} Value") from None
    if inner.tag not in ("string", "value", "dateTime.iso8601"):
        raise _BadDocument(f"Unsupported Parameter Type {inner.tag}")
    return to_octets(text)


def _value(value: Any, *, top: bool = False) -> str:
    """Return what a command answers, without its ``<value>``."""
    if value is None:
        return "<nil/>"
    if isinstance(value, bool):
        return f"<boolean>{int(value)}</boolean>"
    if isinstance(value, int):
        return f"<int>{value}</int>" if -_INT_MAX <= value < _INT_MAX else f"<double>{value}</double>"
    if isinstance(value, float):
        return f"<double>{value:f}</double>"
    if isinstance(value, Mapping):
        members = "".join(
            f"<member><name>{escape(str(key))}</name><value>{_value(one)}</value></member>\n"
            for key, one in value.items()
        )
        return f"<struct>{members}</struct>"
    if isinstance(value, list | tuple):
        return f"<array><data>\n{''.join(f'<value>{_value(one)}</value>{chr(10)}' for one in value)}</data></array>"
    return f"<string>{escape(_clean(str(value)))}</string>" + ("\n" if top else "")


def _clean(text: str) -> str:
    """Return ``text`` as UTF-8 octets without what XML cannot hold; an octet that is no UTF-8 becomes a character."""
    try:
        text.encode("latin-1").decode()
    except UnicodeError:
        text = to_octets(text)
    return "".join(c for c in text if c >= " " or c in "\t\r\n")
