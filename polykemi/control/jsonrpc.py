"""JSON-RPC 2.0 (https://www.jsonrpc.org/specification): the octets of a request to the octets of its answer.

No sockets here: whatever brings requests (a Unix socket today) calls ``answer``. JSON is Unicode, text inside is octets;
this is the border between the two.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

from polykemi.config import unknown
from polykemi.errors import RpcError, UsageError
from polykemi.kemi.binding import to_octets
from polykemi.kemi.documents import with_unicode
from polykemi.kemi.rpc import INVALID_PARAMS, Command, Later, commands_of

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INTERNAL_ERROR: Final = -32603
SERVER_ERROR: Final = -32000
LARGEST_BATCH: Final = 64

log = logging.getLogger("polykemi.control")

Answer = bytes | Later | None  # None: none is wanted (notifications)


class Client(Protocol):
    """A connection that can be told of more than answers."""

    closed: list[Callable[[], None]]  # called when it is gone
    relieved: list[Callable[[], None]]  # called when there is room again

    def push(self, line: bytes) -> bool:
        """Send a line; tell whether there was room for it, as there is not while what went before is not read."""


class JsonRpc:
    """Answers requests from a table of commands."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """``clock`` shows seconds since the epoch."""
        self.commands: dict[str, Command] = {}
        self.client: Client | None = None  # who asks, while a command runs; None when it is on no connection that stays
        # calls something when the messages have had their turn; None: nothing comes between the requests of a batch
        self.soon: Callable[[Callable[[], None]], object] | None = None
        self._clock = clock

    def add(self, *parts: object) -> None:
        """Take the commands of ``parts`` (``kemi/rpc.py``). Raise TypeError when a name is taken."""
        for command in (command for part in parts for command in commands_of(part)):
            if command.name in self.commands:
                raise TypeError(f"{command.name} is there twice")
            self.commands[command.name] = command

    def answer(self, data: bytes, client: Client | None = None) -> Answer:
        """Return the answer to a request or a batch, without a newline."""
        self.client = client
        try:
            return self._answer(data)
        finally:
            self.client = None

    def _answer(self, data: bytes) -> Answer:
        try:
            request = json.loads(data, parse_constant=_finite, parse_float=_finite)
        except (ValueError, RecursionError):
            return failure(PARSE_ERROR, "Parse error")
        if not isinstance(request, list):
            return self._one(request)
        if not 0 < len(request) <= LARGEST_BATCH:
            return failure(INVALID_REQUEST, f"expected a batch of 1 to {LARGEST_BATCH} requests, got {len(request)}")
        return _together([self._one(one) for one in request]) if self.soon is None else self._one_by_one(request)

    def _one_by_one(self, batch: list[Any]) -> Later:
        """Answer a batch with the messages' turn between its requests."""
        assert self.soon is not None
        soon, client, out = self.soon, self.client, Later()
        answers: list[Answer] = []

        def step() -> None:
            if len(answers) < len(batch):
                self.client = client
                try:
                    answers.append(self._one(batch[len(answers)]))
                finally:
                    self.client = None
                soon(step)
                return
            answer = _together(answers)
            if isinstance(answer, Later):
                answer.then(out.settle)
            else:
                out.settle(answer)

        soon(step)
        return out

    def _one(self, request: Any) -> Answer:
        if not isinstance(request, dict) or request.get("jsonrpc") != "2.0":
            return failure(INVALID_REQUEST, 'expected an object with "jsonrpc": "2.0"', _id_of(request))
        method, ident, silent = request.get("method"), request.get("id"), "id" not in request
        if not isinstance(method, str) or type(ident) not in (str, int, float, type(None)):
            return failure(INVALID_REQUEST, "expected a method, a text, and an id, a text or a number", _id_of(request))
        try:
            result = self._call(method, request.get("params", []))
        except RpcError as error:
            return None if silent else failure(error.code, str(error), ident)
        if silent:
            return None
        return (
            result.made(partial(_success, method, ident))
            if isinstance(result, Later)
            else _success(method, ident, result)
        )

    def _call(self, method: str, params: Any) -> Any:
        if isinstance(params, dict):
            return self.ask(method, {name: _octets(value) for name, value in params.items()})
        if isinstance(params, list):
            return self.ask(method, [_octets(value) for value in params])
        raise RpcError(INVALID_PARAMS, f"{to_octets(method)}: expected params to be a list or an object")

    def ask(self, method: str, params: Sequence[Any] | Mapping[str, Any]) -> Any:
        """Return the result of a command or a ``Later``, text being octets on both sides. Raise RpcError for what goes wrong."""
        command = self.commands.get(method)
        if command is None:
            raise RpcError(METHOD_NOT_FOUND, f"method {to_octets(method)}: {unknown(method, self.commands)}")
        try:
            return command.run(params, self._clock(), may_wait=True)
        except RpcError:
            raise
        except UsageError as error:
            raise RpcError(SERVER_ERROR, str(error)) from None
        except Exception:
            log.exception("%s: internal error", method)
            raise RpcError(INTERNAL_ERROR, "Internal error") from None


def _together(answers: list[Answer]) -> Answer:
    """Return the answer to a batch from those to its requests."""
    waiting = [one for one in answers if isinstance(one, Later)]
    if not waiting:
        there = [one for one in answers if isinstance(one, bytes)]
        return b"[" + b",".join(there) + b"]" if there else None
    out = Later()

    def take(place: int, answer: bytes) -> None:
        answers[place] = answer
        if not any(isinstance(one, Later) for one in answers):
            out.settle(_together(answers))

    for place, one in enumerate(answers):
        if isinstance(one, Later):
            one.then(partial(take, place))
    return out


def _success(method: str, ident: Any, result: Any) -> bytes:
    try:
        return _encode("result", result, ident)
    except Exception:  # a result that is no JSON
        log.exception("%s: internal error", to_octets(method))
        return failure(INTERNAL_ERROR, "Internal error", ident)


def failure(code: int, message: str, ident: Any = None) -> bytes:
    """Return the octets of an error."""
    return _encode("error", {"code": code, "message": message}, ident)


def _id_of(request: Any) -> Any:
    """Return the id of an invalid request where it has a usable one."""
    ident = request.get("id") if isinstance(request, dict) else None
    return ident if type(ident) in (str, int, float) else None


def _finite(text: str) -> float:
    """Return a number that JSON can hold; Python's parser takes NaN and Infinity too."""
    if not math.isfinite(value := float(text)):
        raise ValueError(text)
    return value


def _octets(value: Any) -> Any:
    return to_octets(value) if isinstance(value, str) else value  # what is no scalar fits no parameter


def _encode(name: str, value: Any, ident: Any) -> bytes:
    answer = {"jsonrpc": "2.0", name: value, "id": ident}
    text = _json(answer)
    if "\\u00" in text:  # octets beyond ASCII, perhaps; the id goes back as it came
        text = _json(answer | {name: with_unicode(value)})
    return text.encode()


_json: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
