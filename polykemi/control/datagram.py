"""The control plane's datagram socket, as of Kamailio's jsonrpcs (``dgram_socket``): what kamcli and kamcmd ask.

A datagram is a request, its answer goes to the path that the sender has bound. Only the server's own user can send.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from polykemi.control.jsonrpc import INVALID_REQUEST, SERVER_ERROR, Answer, failure
from polykemi.control.paths import bind, unbind
from polykemi.errors import UsageError
from polykemi.kemi.rpc import Later

LONGEST: Final = 65536  # octets of a request
_LONGEST_ANSWER: Final = 4 << 20  # that is asked of the kernel, which may allow less (net.core.wmem_max)

log = logging.getLogger("polykemi.control")


class DatagramSocket:
    """A Unix datagram socket that answers requests, from the server's start to its end."""

    def __init__(self, path: Path) -> None:
        """Bind ``path`` with mode 0600; a socket that nobody listens on any more is replaced. Raise UsageError."""
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LONGEST_ANSWER)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._answer: Callable[[bytes], Answer]
        try:
            self._file = bind(self._socket, path)
        except UsageError:
            self._socket.close()
            raise

    def open(self, loop: asyncio.AbstractEventLoop, answer: Callable[[bytes], Answer]) -> None:
        """Begin to answer; called before ``loop`` runs."""
        self._loop, self._answer = loop, answer
        loop.add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        """Remove the socket; called when the loop runs no more."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        unbind(self.path, self._file)

    def _readable(self) -> None:
        """Answer one request: the next one has to wait for the loop's next pass."""
        try:
            data, _, flags, sender = self._socket.recvmsg(LONGEST)
        except BlockingIOError:
            return
        if flags & socket.MSG_TRUNC:
            answer: Answer = failure(INVALID_REQUEST, f"expected a request of at most {LONGEST} octets")
        else:
            answer = self._answer(data)
        if isinstance(answer, Later):
            answer.then(partial(self._send, sender))
        else:
            self._send(sender, answer)

    def _send(self, sender: Any, answer: bytes | None) -> None:
        if answer is None or not sender:
            return
        try:
            self._socket.sendto(answer, sender)
        except OSError as error:  # whoever asked is gone, does not read, or has room for less
            if error.errno == errno.EMSGSIZE:
                cause = f"an answer of {len(answer)} octets fits no datagram: ask with polykemi rpc, or over HTTP"
                self._send(sender, failure(SERVER_ERROR, cause))
            else:
                log.info("%s: an answer was not taken: %s", self.path, error.strerror)
