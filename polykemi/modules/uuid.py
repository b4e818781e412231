"""uuid: universally unique identifiers (RFC 4122; Kamailio: modules/uuid)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, Final
from uuid import UUID, uuid4

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval, export
from polykemi.modules.base import Module, Services
from polykemi.pv.accessor import Accessor, Factory
from polykemi.pv.classes.factories import no_index, required

_EPOCH: Final = 0x01B21DD213814000  # of RFC 4122 section 4.1.4: 100 ns from 1582 to 1970
_MULTICAST: Final = 1 << 40  # section 4.5: a node that is no network card


class Uuid(Module):
    """UUIDs of version 4 (chance) and 1 (time)."""

    name = "uuid"

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        source = random.SystemRandom()
        self._node = source.getrandbits(48) | _MULTICAST
        self._sequence = source.getrandbits(14)
        self._last = 0

    def pv_classes(self) -> Mapping[str, Factory]:
        """Return $uuid(g), $uuid(r): by chance; $uuid(t), $uuid(s): by time."""

        def factory(inner: str | None, index: str | None, variables: Any) -> Accessor:
            no_index(index)
            kind = required(inner)[0].lower()
            get: Callable[[RouteContext], Xval] = self.tget if kind in ("t", "s") else self.get
            return Accessor(get)

        return {"uuid": factory}

    @export()
    def get(self, ctx: RouteContext) -> Xval:
        """Return a new UUID."""
        return str(uuid4())

    @export()
    def rget(self, ctx: RouteContext) -> Xval:
        """Return a new UUID made by chance."""
        return str(uuid4())

    @export()
    def tget(self, ctx: RouteContext) -> Xval:
        """Return a new UUID made of the time, each later than the one before."""
        self._last = t = max(int(ctx.now * 1e7) + _EPOCH, self._last + 1)
        fields = (t & 0xFFFFFFFF, (t >> 32) & 0xFFFF, (t >> 48) & 0x0FFF, self._sequence >> 8, self._sequence & 0xFF)
        return str(UUID(fields=(*fields, self._node), version=1))
