"""Places that have not answered, passed over for a while (Kamailio's destination blocklist)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from polykemi.sip.flow import Flow

# why a place is here; the numbers are Kamailio's flags
ERR_SEND: Final = 2
ERR_CONNECT: Final = 4
ICMP_RX_ERR: Final = 8
ERR_TIMEOUT: Final = 16
STATUS_503: Final = 32
ADM_PROHIBITED: Final = 64  # put there by hand

_MOST: Final = 10_000  # places: addresses come from the network


class Blocked(NamedTuple):
    """One place of the list."""

    proto: str
    host: str
    port: int
    until: float  # seconds since the epoch
    flags: int


class Blocklist:
    """The list; while ``enabled`` is off nothing gets into it by itself."""

    __slots__ = ("_places", "enabled", "expire")

    def __init__(self, *, enabled: bool = False, expire: float = 60.0) -> None:
        """``expire``: seconds that a place stays."""
        self.enabled = enabled
        self.expire = expire
        self._places: dict[tuple[str, str, int], Blocked] = {}

    def __len__(self) -> int:
        return len(self._places)

    def blocks(self, flow: Flow, now: float) -> bool:
        """Tell whether what ``flow`` leads to is to be passed over at ``now``."""
        if not self._places:
            return False
        key = (flow.listener.proto, flow.host, flow.port)
        place = self._places.get(key)
        if place is None:
            return False
        if place.until > now:
            return True
        del self._places[key]
        return False

    def add(self, flow: Flow, flags: int, now: float, seconds: float = 0.0) -> None:
        """Pass over what ``flow`` leads to for ``seconds``, 0: ``expire``. Does nothing while the list is off."""
        if self.enabled:
            self.put(flow.listener.proto, flow.host, flow.port, flags, now, seconds)

    def put(self, proto: str, host: str, port: int, flags: int, now: float, seconds: float = 0.0) -> None:
        """Pass over ``proto:host:port`` from now on."""
        places = self._places
        key = (proto, host, port)
        if len(places) >= _MOST and key not in places:
            for old in [old for old, place in places.items() if place.until <= now] or [next(iter(places))]:
                del places[old]
        places[key] = Blocked(proto, host, port, now + (seconds or self.expire), flags)

    def view(self, now: float) -> Iterator[Blocked]:
        """Give the places that are passed over at ``now``."""
        return (place for place in list(self._places.values()) if place.until > now)

    def clear(self) -> None:
        """Forget all places."""
        self._places.clear()
