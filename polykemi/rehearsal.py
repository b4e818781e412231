"""A smoke message through scripts that are about to be taken: in a server of its own, which sends nothing and changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from polykemi.errors import ParseError, ScriptError, ScriptLoadError, UsageError
from polykemi.node import Node
from polykemi.sip.flow import Flow
from polykemi.sip.message import parse

Send = Callable[[list[tuple[bytes, Flow]]], None]


def rehearse(make: Callable[[Send], Node], smoke: Path) -> tuple[str, ...]:
    """Route the message of the file ``smoke`` in the node that ``make`` gives; return the start lines of what it would send.

    Raise ScriptLoadError when the scripts do not load, one fails, or nothing would be sent.
    """
    try:
        data = smoke.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    except OSError as error:
        raise ScriptLoadError(str(smoke), None, error.strerror or str(error)) from None
    sent: list[tuple[bytes, Flow]] = []
    try:
        node = make(sent.extend)
    except ScriptLoadError:
        raise
    except UsageError as error:
        raise ScriptLoadError(str(smoke), None, f"cannot be tried: {error}") from None
    try:
        router = node.router
        router.pump()  # what the modules begin with
        sent.clear()
        router.receive(data, Flow(router.services.listeners[0], "127.0.0.1", 5060), time.time())
        router.pump()
        if isinstance(failed := router.last_error, ScriptError):
            raise ScriptLoadError(failed.file, failed.line, f"{failed.cause} (with {smoke})")
        if not sent:
            raise ScriptLoadError(str(smoke), None, f"gets no answer and is sent nowhere{_flaw(data)}")
        return tuple(octets.partition(b"\r\n")[0].decode("latin-1") for octets, _ in sent)
    finally:
        node.close()


def _flaw(data: bytes) -> str:
    """Return why ``data`` is no SIP message; "" when it is one."""
    try:
        parse(data)
    except ParseError as error:
        return f": it is no SIP message ({error.reason})"
    return ""
