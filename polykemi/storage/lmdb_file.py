"""An LMDB environment as a file that grows: what a full disk, a cut-off file and other processes may do to it.

LMDB can write through its memory map, which makes a commit three to four times cheaper than a system call for each run
of pages. Its danger is a hole in the file: where the disk has no room for a page, touching it is a SIGBUS. So the file
is always as large as the map, and every block of it is allocated before LMDB may use it: a full disk is met when the
file is to grow, as an error. That holds on file systems that write a block in place (``_IN_PLACE``); elsewhere (btrfs,
ZFS, xfs with shared extents, unknown ones) LMDB writes with system calls, which can fail properly.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import lmdb

from polykemi.errors import DataError

MIN_STEP: Final = 4 << 20  # octets that the file grows by: as many as it has, within these limits
MAX_STEP: Final = 64 << 20

_ABOUT: Final = b"#about"  # the named database that tells whose file this is
_IN_PLACE: Final = frozenset(("ext2", "ext3", "ext4", "tmpfs"))

T = TypeVar("T")


class LmdbFile:
    """An open environment, with one read transaction that is kept between reads.

    ``commit``s are handed to the operating system without waiting for the disk. ``map_size`` (octets) is what the file
    has at first, ``what`` is its name for people. Raise DataError for whatever cannot be used.
    """

    def __init__(self, path: Path, map_size: int, max_dbs: int, what: str = "location store") -> None:
        self.path = path
        self._file = path / "data.mdb"
        self._what = what
        self.reader: Any = None  # a read transaction that is kept from the first read to ``end_reading``
        self._locked = False
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise DataError(f"{path}: cannot be opened as a {what}: {error.strerror}") from None
        try:
            self._lock()
            self._mapped = _writes_in_place(self._descriptor)
            self.env = self._open_as_it_is(map_size, max_dbs)
        except (lmdb.Error, OSError) as error:
            os.close(self._descriptor)
            raise DataError(f"{path}: cannot be opened as a {what}: {error}") from None
        except DataError:
            os.close(self._descriptor)
            raise
        self._unlock()

    def _open_as_it_is(self, map_size: int, max_dbs: int) -> Any:
        while True:
            try:
                return self._open(map_size, max_dbs)
            except lmdb.MapResizedError:  # others have written since its size was asked for
                continue

    def _open(self, map_size: int, max_dbs: int) -> Any:
        path, size = str(self.path), os.fstat(self._descriptor).st_size
        if size:
            with lmdb.open(path, readonly=True, lock=False) as env:
                used = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
            # pages that the file does not have would be a SIGBUS when they are read, and zeros once it is mapped
            if used > (size := os.fstat(self._descriptor).st_size):  # asked again: others may write meanwhile
                raise DataError(f"{self._file}: cut off after {size} octets")
        size = max(size, map_size)
        env = lmdb.open(path, map_size=size, max_dbs=max_dbs, sync=False, metasync=False, writemap=self._mapped)
        try:
            if self._mapped:  # blocks that are there cost nothing; a copy of the file may have holes
                os.posix_fallocate(self._descriptor, 0, env.info()["map_size"])
            env.reader_check()  # a process that was killed while it read would keep old pages for ever
        except BaseException:
            env.close()
            raise
        return env

    def claim(self, format_: bytes) -> None:
        """Make a new file one of ``format_``; raise DataError when it is another one."""
        if self.retrying(lambda: self._format(format_)) != format_:
            raise DataError(f"{self.path}: not a {self._what} of this version (expected {format_.decode()!r})")

    def _format(self, ours: bytes) -> bytes | None:
        """Return the format of the file, which is ours when the file is new, None for a foreign one."""
        with self.env.begin() as txn:
            is_new = not txn.stat()["entries"]
        if is_new:
            with self.env.begin(write=True) as txn:  # in one: another process may look
                txn.put(b"format", ours, db=self.env.open_db(_ABOUT, txn))
            return ours
        try:
            about = self.env.open_db(_ABOUT, create=False)
        except lmdb.NotFoundError:
            return None
        with self.env.begin() as txn:
            found: bytes | None = txn.get(b"format", db=about)
        return found

    # ---- transactions
    def read(self) -> Any:
        """Begin the read transaction that is kept as ``reader``."""
        self.reader = self.begin()
        return self.reader

    def end_reading(self) -> None:
        """Give ``reader`` up: the next one sees what was committed meanwhile."""
        if self.reader is not None:
            self.reader.abort()
            self.reader = None

    def begin(self) -> Any:
        """Return a read transaction of its own."""
        try:
            return self.env.begin()
        except lmdb.MapResizedError:
            self.end_reading()
            return self.retrying(self.env.begin)

    def retrying(self, action: Callable[[], T]) -> T:
        """Run ``action``, which writes, as often as it needs a larger file. No read transaction may be open."""
        try:
            while True:
                try:
                    return action()
                except lmdb.MapFullError:
                    self._grow()
                except lmdb.MapResizedError:  # another process has made it larger
                    self._follow()
                except lmdb.Error as error:
                    self.fail(error)
        finally:
            if self._locked:
                self._unlock()

    def fail(self, error: Exception) -> NoReturn:
        """Raise the DataError that names the path."""
        raise DataError(f"{self.path}: {error}") from None

    def sync(self) -> None:
        """Wait until all that is committed stands on the disk."""
        self.env.sync(force=True)

    def close(self) -> None:
        """Close the file."""
        self.end_reading()
        self.env.close()
        os.close(self._descriptor)

    # ---- size. LMDB cuts the file to the size of a new map: so no process makes one while another one grows the file,
    # which is done when the commit that needed it has been made
    def _grow(self) -> None:
        self._lock()
        size = self.env.info()["map_size"]
        try:
            found = os.fstat(self._descriptor).st_size
            if self._mapped and found > size:  # another process was quicker
                size = found
            else:
                size += min(max(size, MIN_STEP), MAX_STEP)
            if self._mapped:
                os.posix_fallocate(self._descriptor, 0, size)
        except OSError as error:
            raise DataError(f"{self._file}: cannot grow to {size} octets: {error.strerror}") from None
        self.env.set_mapsize(size)

    def _follow(self) -> None:
        self._lock()
        self.env.set_mapsize(os.fstat(self._descriptor).st_size if self._mapped else 0)

    def _lock(self) -> None:
        if not self._locked:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            self._locked = True

    def _unlock(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self._locked = False


def _writes_in_place(descriptor: int) -> bool:
    """Tell whether an allocated block of this file can be written when the disk is full."""
    device = os.fstat(descriptor).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return False
    for mount in mounts:  # 36 35 98:0 /root /point rw,noatime shared:1 - ext4 /dev/sda1 rw
        left, _, right = mount.partition(" - ")
        if left.split(" ")[2] == number:
            return right.split(" ")[0] in _IN_PLACE
    return False
