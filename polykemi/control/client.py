"""Ask a running server, as `polykemi rpc` does."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from polykemi.control.unix import NAME as SOCKET
from polykemi.control.unix import connect
from polykemi.errors import RpcError, UsageError

__all__ = ["SECONDS", "SOCKET", "argument", "call", "reaching", "result_of", "send"]

SECONDS: Final = 10.0  # that a server may be silent


def argument(text: str) -> int | float | str:
    """Return what the command line means by ``text``: what is written as a number is one; 007, 1.50 and s:7 are texts."""
    if text.startswith("s:"):
        return text[2:]
    for kind in (int, float):
        try:
            if str(number := kind(text)) == text and number - number == 0:  # neither infinite nor NaN
                return number
        except ValueError:
            pass
    return text


def call(path: Path, method: str, params: Sequence[Any] = (), seconds: float = SECONDS) -> Any:
    """Return the result of a method. Raise RpcError with the server's error, UsageError when no answer can be had."""
    request = {"jsonrpc": "2.0", "method": method, "params": list(params), "id": 1}
    with reaching(path, seconds), connect(path, seconds) as sock:
        send(sock, request)
        with sock.makefile("rb") as stream:
            line = stream.readline()
    return result_of(path, line)


def send(sock: socket.socket, request: dict[str, Any]) -> None:
    """Send a request. Raise OSError; who is refused already can read why."""
    with suppress(BrokenPipeError):
        sock.sendall(json.dumps(request).encode() + b"\n")


@contextmanager
def reaching(path: Path, seconds: float = SECONDS) -> Iterator[None]:
    """Raise UsageError for what keeps from asking the server behind ``path``; each step may take ``seconds``."""
    try:
        yield
    except FileNotFoundError:
        raise UsageError(f"cannot reach a server: {path} is not there") from None
    except ConnectionRefusedError:
        raise UsageError(f"cannot reach a server: none runs behind {path} any more") from None
    except TimeoutError:
        raise UsageError(f"cannot reach a server: {path} gave no answer for {seconds:g} s") from None
    except OSError as error:
        raise UsageError(f"cannot reach a server: {path}: {error.strerror}") from None


def result_of(path: Path, line: bytes) -> Any:
    """Return the result in the line of an answer. Raise RpcError with the server's error, UsageError for what is no answer."""
    try:
        answer = json.loads(line)
        if "error" in answer:
            raise RpcError(answer["error"]["code"], answer["error"]["message"])
        return answer["result"]
    except (ValueError, TypeError, KeyError):
        raise UsageError(f"cannot reach a server: {path} gave no JSON-RPC answer") from None
