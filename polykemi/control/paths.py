"""Unix sockets in the file system: theirs is the server's own user alone, and what a killed server left is replaced."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from polykemi.errors import UsageError
from polykemi.process import locked

_LONGEST: Final = 107  # octets that a socket's address has room for (struct sockaddr_un)


def bind(sock: socket.socket, path: Path) -> os.stat_result:
    """Bind ``sock`` to ``path`` with mode 0600 and return what ``unbind`` knows it by. Raise UsageError.

    A socket that nobody listens on any more is replaced.
    """
    try:
        os.fchmod(sock.fileno(), 0o600)  # on Linux the file gets the mode that the socket has when it is bound
        with locked(path.parent) as directory:  # one server at a time looks whether a socket is stale
            address = address_of(path, directory)
            try:
                sock.bind(address)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                _remove_stale(path, address, sock.type)
                sock.bind(address)
            return path.lstat()
    except OSError as error:
        # a name that is too long is no error of the system's
        raise UsageError(f"cannot listen on {path}: {error.strerror or error}") from None


def unbind(path: Path, bound: os.stat_result) -> None:
    """Remove the socket that ``bind`` made at ``path``, unless another one has taken its place."""
    try:
        if os.path.samestat(path.lstat(), bound):
            path.unlink()
    except OSError:  # it is gone already, perhaps with its directory
        pass


@contextmanager
def directory_of(path: Path) -> Iterator[int]:
    """Give a descriptor of the directory that ``path`` is in. Raise OSError."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def address_of(path: Path, directory: int) -> str:
    """Return the address of ``path``: by way of its directory's descriptor where it is too long for one."""
    return str(path) if len(os.fsencode(path)) <= _LONGEST else f"/proc/self/fd/{directory}/{path.name}"


def _remove_stale(path: Path, address: str, kind: int) -> None:
    """Remove the socket of a server that was killed. Raise UsageError when one listens there, or when it is no socket."""
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise UsageError(f"cannot listen on {path}: there is a file that is no socket")
    with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:  # somebody listens and is busy
            pass
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:  # somebody listens, in another way
                raise
    raise UsageError(f"cannot listen on {path}: a server that runs already listens there")
