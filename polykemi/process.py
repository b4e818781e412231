"""What a server takes and gives up as a process: its data directory, its PID file, its privileges."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from polykemi.errors import DataError, UsageError

LOCK: Final = "lock"  # in the data directory
PATIENCE: Final = 5.0  # seconds that another server may have a directory locked


class DataLock:
    """A data directory that belongs to this process, until it ends in whatever way: the kernel gives the lock back."""

    def __init__(self, data: Path) -> None:
        """Make ``data`` when it is missing and lock it. Raise DataError, also when another server has it."""
        path = data / LOCK
        try:
            data.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise DataError(f"{path if data.is_dir() else data}: {error.strerror}{_whose(data, error)}") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, f"{os.getpid()}\n".encode())
        except OSError as error:
            pid = os.pread(self._descriptor, 32, 0).decode("latin-1").strip()
            os.close(self._descriptor)
            if error.errno != errno.EWOULDBLOCK:
                raise DataError(f"{path}: {error.strerror}") from None
            raise DataError(f"{data}: a server that runs already (process {pid}) has this data directory") from None

    def close(self) -> None:
        """Give it up; the file stays, as another one may wait for its lock."""
        os.close(self._descriptor)


def _whose(data: Path, error: OSError) -> str:
    """Return a hint when a directory is another user's."""
    if error.errno not in (errno.EACCES, errno.EPERM):
        return ""
    user = _name(os.geteuid())
    return f" (the server runs as {user}: chown -R {user} {data})" if data.is_dir() else f" (the server runs as {user})"


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


class PidFile:
    """The file with the number of this process. It is locked as long as the process lives: so a stale one is known."""

    def __init__(self, path: Path, user: str = "") -> None:
        """Write it, in one step, in the place of a stale one; ``user`` is who will have to remove it.

        Raise UsageError: also for that of a server that runs, and for a file that is no PID file.
        """
        self._path = path
        fresh = path.with_name(f".{path.name}.new")  # always the same: what was left half-written is overwritten
        try:
            with locked(path.parent):  # two that start look one after the other
                self._refuse_others()
                self._descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.write(self._descriptor, f"{os.getpid()}\n".encode())
                os.fchmod(self._descriptor, 0o644)  # whatever the umask: others signal by it
                if user:
                    os.fchown(self._descriptor, pwd.getpwnam(user).pw_uid, -1)
                fresh.rename(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise UsageError(f"[service] pid_file: {path}: {error.strerror}") from None

    def _refuse_others(self) -> None:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            text = os.read(descriptor, 64).decode("latin-1").strip()
            if text and not (text.isascii() and text.isdecimal()):
                raise UsageError(f"[service] pid_file: {self._path}: there is a file that is no PID file")
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"[service] pid_file: {self._path}: a server that runs already (process {text}) has this file"
            ) from None
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Remove it; where the directory does not let us, leave an empty one."""
        with contextlib.suppress(OSError):
            if os.path.samestat(self._path.lstat(), os.fstat(self._descriptor)):
                try:
                    self._path.unlink()
                except PermissionError:
                    os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Lock a directory, and give its descriptor. Raise OSError: also when somebody keeps it, as anybody can who may read it."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise BlockingIOError(errno.EWOULDBLOCK, f"another process holds a lock of {path}") from None
            time.sleep(0.01)
        yield directory
    finally:
        os.close(directory)


def drop_privileges(user: str, group: str, data: Path) -> None:
    """Become ``user`` for good, once what needs root is done. Raise UsageError.

    A data directory that is not there is made, and is the user's; one that is there stays whose it is. ``group`` is by
    default that of the user; the other groups are those that the user has. Without ``user`` nothing changes.
    """
    if not user:
        return
    entry = pwd.getpwnam(user)
    gid = grp.getgrnam(group).gr_gid if group else entry.pw_gid
    if os.geteuid() == entry.pw_uid and os.getegid() == gid:
        return
    if os.geteuid() != 0:
        raise UsageError(f"[service] user: only root can become {user}; this is {_name(os.geteuid())}")
    try:
        if not data.exists():
            data.mkdir(parents=True)
            os.chown(data, entry.pw_uid, gid)
        os.setgroups(os.getgrouplist(user, gid))
        os.setgid(gid)
        os.setuid(entry.pw_uid)  # of root: real, effective and saved; all capabilities go with them
    except OSError as error:
        raise UsageError(f"[service] user: cannot become {user}: {error.strerror}: {error.filename or ''}") from None
    for needed in (os.__file__, __file__):  # modules are loaded later, too
        if not os.access(needed, os.R_OK):
            raise UsageError(f"[service] user: {user} may not read {Path(needed).parent}, which the server needs")
    os.environ.update(HOME=entry.pw_dir, USER=user, LOGNAME=user)
