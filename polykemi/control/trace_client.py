"""Attach to a running server, as `polykemi trace` does."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from polykemi.control.client import SECONDS, reaching, result_of, send
from polykemi.control.jsonrpc import SERVER_ERROR
from polykemi.control.trace_view import View
from polykemi.control.unix import connect
from polykemi.errors import RpcError, UsageError
from polykemi.sip.grammar import to_ip

Events = Iterator[dict[str, Any]]


@contextmanager
def attached(
    path: Path, *, call_id: str = "", user: str = "", ip: str = "", messages: bool = False, once: bool = False
) -> Iterator[Events]:
    """Give the events of a trace (``trace.attach``) as they happen; behind them stands ``end`` unless the server has ended.

    Raise RpcError with the server's error, UsageError when it cannot be reached or ``ip`` is none.
    """
    if ip and to_ip(ip) is None:
        raise UsageError(f"--ip: expected an IP address, got {ip!r}")
    params = {"call_id": call_id, "user": user, "ip": ip, "messages": int(messages), "once": int(once)}
    request = {"jsonrpc": "2.0", "method": "trace.attach", "params": params, "id": 1}
    with reaching(path):
        sock = connect(path, SECONDS)
    with sock, sock.makefile("rb") as stream:
        with reaching(path):
            send(sock, request)
            early: list[bytes] = []  # events of the turn in which the request is answered
            while b'"id":' not in (line := stream.readline()) and line:
                early.append(line)
            result_of(path, line)
        sock.settimeout(None)
        yield _events(chain(early, iter(stream.readline, b"")))


def _events(lines: Iterator[bytes]) -> Events:
    try:
        for line in lines:
            event: dict[str, Any] = json.loads(line)["params"]
            yield event
            if event["event"] == "end":
                return
    except ConnectionResetError:  # a server that ends does not wait until all is read
        return


def printed(events: Events, out: TextIO, *, as_json: bool = False) -> Iterator[str]:
    """Give the lines of a trace as ``out`` can show them: colours and its width for a terminal. Raise RpcError when
    the server has ended.
    """
    terminal = out.isatty()
    view = View(colours=terminal and not os.environ.get("NO_COLOR"), zone=None)
    for event in events:
        if event["event"] == "end":
            return
        if as_json:
            yield json.dumps(event)
            continue
        view.width = (os.get_terminal_size(out.fileno()).columns or None) if terminal else None
        yield from view.lines(event)
    raise RpcError(SERVER_ERROR, "the server has ended")
