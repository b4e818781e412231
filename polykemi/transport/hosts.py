"""The names of /etc/hosts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from polykemi.sip.grammar import to_ip

log = logging.getLogger("polykemi.dns")

PATH: Final = Path("/etc/hosts")
_LOOK_AFTER: Final = 5.0  # seconds


class Hosts:
    """The file as it is: read again when it has changed, which is looked for now and then."""

    def __init__(self, path: Path = PATH) -> None:
        self._path = path
        self._looked_at = 0.0
        self._stamp: tuple[int, int] | None = None
        self._names: dict[str, dict[int, tuple[str, ...]]] = {}

    def addresses(self, name: str, family: int, now: float) -> tuple[str, ...] | None:
        """Return the addresses of ``name`` (lower case) in the family 4 or 6; None when the name does not stand there."""
        if not 0 <= now - self._looked_at < _LOOK_AFTER:
            self._looked_at = now
            self._look()
        known = self._names.get(name)
        return None if known is None else known.get(family, ())

    def _look(self) -> None:
        try:
            status = self._path.stat()
            stamp = status.st_mtime_ns, status.st_size
            if stamp != self._stamp:
                self._stamp = stamp
                self._names = parse_hosts(self._path.read_text("latin-1"))
        except OSError as error:
            if self._stamp is not None:
                log.warning("%s: %s", self._path, error.strerror)
            self._stamp, self._names = None, {}


def parse_hosts(text: str) -> dict[str, dict[int, tuple[str, ...]]]:
    """Return name in lower case -> family -> addresses; lines that say nothing are passed over."""
    out: dict[str, dict[int, tuple[str, ...]]] = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        ip = to_ip(address)
        if ip is None:
            continue
        for name in names:
            families = out.setdefault(name.lower(), {})
            families[ip.version] = (*families.get(ip.version, ()), str(ip))
    return out
