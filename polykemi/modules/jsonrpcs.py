"""jsonrpcs: scripts run the commands of the control plane, and let HTTP clients run them (Kamailio: jsonrpcs).

What a command answers is the control plane's; the envelope, with all that is peculiar to it, is Kamailio's.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, get_origin

from polykemi.errors import RpcError, UsageError
from polykemi.kemi.binding import from_octets, to_octets
from polykemi.kemi.context import RouteContext
from polykemi.kemi.documents import compact, pretty, with_octets
from polykemi.kemi.numbers import is_number
from polykemi.kemi.registry import Xval, export
from polykemi.kemi.rpc import rpc
from polykemi.modules.base import Module, Services
from polykemi.pv.accessor import Factory
from polykemi.pv.classes.factories import keyed
from polykemi.sip.http import HttpRequest

log = logging.getLogger("polykemi.jsonrpcs")

_HTTP: Final = 1  # in the parameter transport
_NO_HTTP: Final = -1
_MESSAGES: Final = {  # by code: what the client is told in place of the command's own words
    -32700: "Parse Error",
    -32600: "Invalid Request",
    -32601: "Method Not Found",
    -32602: "Invalid Parameters",
    -32603: "Internal Error",
    -32000: "Execution Error",
}


@dataclass(frozen=True, slots=True)
class JsonrpcsParams:
    """Kamailio's names and defaults; the datagram socket is ``[control] datagram``, and there is no FIFO."""

    pretty_format: int = 1  # 0: the answer is one line
    transport: int = 6  # dispatch() works when 1 is in it, or when it is 0

    def __post_init__(self) -> None:
        if not 0 <= self.transport <= 7:
            raise ValueError(f"transport: expected a sum of 1, 2 and 4, got {self.transport}")


class Answer(NamedTuple):
    """What came of a request: a status as of HTTP, and the document."""

    code: int
    text: str
    body: str


class Jsonrpcs(Module):
    """Commands called by scripts."""

    name = "jsonrpcs"
    Params = JsonrpcsParams

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self.last: Answer | None = None  # of exec

    def pv_classes(self) -> Mapping[str, Factory]:
        """Return $jsonrpl."""
        return {
            "jsonrpl": keyed(
                {
                    "code": lambda ctx: self.last.code if self.last is not None else 0,
                    "text": lambda ctx: self.last.text if self.last is not None else None,
                    "body": lambda ctx: self.last.body if self.last is not None else None,
                }
            )
        }

    @rpc("jsonrpc.echo")
    def echo(self, *values: str) -> list[Any]:
        """Return the first value, and the second as a number when it is one."""
        first, *rest = values or ("",)
        return [first, *(_number(one) for one in rest[:1])] if values else []

    @export()
    def exec(self, ctx: RouteContext, cmd: str) -> int:
        """Run the JSON-RPC request ``cmd``; $jsonrpl has the answer. Answers 1 whatever comes of it, -1 for what is no JSON."""
        return self._exec(ctx, cmd)

    @export()
    def execx(self, ctx: RouteContext, cmd: str) -> int:
        """Do what ``exec`` does, for languages that have a word ``exec`` of their own."""
        return self._exec(ctx, cmd)

    def _exec(self, ctx: RouteContext, cmd: str) -> int:
        answer = self.answer(cmd, ctx.now)
        if answer is None:
            return -1
        self.last = answer
        return 1

    @export()
    def response(self, ctx: RouteContext) -> Xval:
        """Return the document that the last ``exec`` gave, null before the first."""
        return self.last.body if self.last is not None else None

    @export()
    def dispatch(self, ctx: RouteContext) -> int:
        """Run the JSON-RPC request that is the body of the HTTP request, and reply to that.

        Answers 1, also when nothing was done because the request is not HTTP; -1 for what is no JSON, and where the
        parameter ``transport`` does not allow it.
        """
        if not isinstance(ctx.message, HttpRequest):
            return 1
        xhttp = self.services.modules.get("xhttp")
        if xhttp is None or (self.params.transport and not self.params.transport & _HTTP):
            log.error("dispatch: not over HTTP: set transport = 1 in [modules.jsonrpcs], and load xhttp")
            return _NO_HTTP
        answer = self.answer(ctx.message.body.decode("latin-1"), ctx.now)
        if answer is None:
            return -1
        return (
            1 if xhttp.reply(ctx, answer.code, answer.text, "application/json", answer.body.encode("latin-1")) else -1
        )

    # ---- requests
    def answer(self, text: str, now: float) -> Answer | None:
        """Run a request at ``now``; None when it is no JSON. One that is no request has an empty result, as in Kamailio."""
        try:
            document, _ = json.JSONDecoder().raw_decode(from_octets(text.lstrip(" \t\r\n")))
        except (ValueError, RecursionError):
            log.error("invalid JSON: %.200r", text)
            return None
        request = with_octets(document) if isinstance(document, dict) else {}
        code, reason, reply = 200, "OK", {"jsonrpc": "2.0"}
        try:
            reply["result"] = self._result(request, now)
        except RpcError as error:
            code, reason, reply["error"] = _fault(error.code, str(error))
        except UsageError as error:
            code, reason, reply["error"] = _fault(500, str(error))
        if "id" in request:
            reply["id"] = _ident(request["id"])
        body = pretty(reply) if self.params.pretty_format else compact(reply)
        return Answer(code, reason, body)

    def _result(self, request: dict[str, Any], now: float) -> Any:
        method, params = request.get("method"), request.get("params", [])
        if request.get("jsonrpc") != "2.0" or not isinstance(method, str):
            log.error("expected jsonrpc 2.0 and a method, got %.200r", request)
            return {}
        command = self.services.rpc.get(method)
        if command is None:
            log.error("there is no method %r", method)
            raise RpcError(500, "Method Not Found")
        if not isinstance(params, list | dict):
            log.error("%s: params is no list and no object", method)
            return [] if get_origin(command.signature.return_annotation) is list else {}
        return command.run(list(params.values()) if isinstance(params, dict) else params, now)


def _fault(code: int, text: str) -> tuple[int, str, Any]:
    """Return the status, its reason and the error of the document (Kamailio: jsonrpc_fault)."""
    if any(c > "\xff" for c in text):  # Unicode already, such as the path in an error
        text = to_octets(text)
    message = _MESSAGES.get(code, text) or "Unexpected Error"
    return (code if code > 100 else 500), text.replace("\r", " ").replace("\n", " "), {"code": code, "message": message}


def _ident(value: Any) -> Any:
    """Return an id as Kamailio gives it back: a text, or a number, 1 for true, 0 for all else."""
    if isinstance(value, bool):
        return int(value)
    return value if isinstance(value, str | int | float) else 0


def _number(text: str) -> int:
    return int(text) if is_number(text) else 0
