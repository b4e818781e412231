"""The pseudo-variables that are always there: Kamailio's core, pv, tmx, kex and what stands close to them."""

from __future__ import annotations

from typing import Final

from polykemi.pv.accessor import Factory
from polykemi.pv.classes import auth, avp, branches, message, network, parties, script, times, transaction, uris

BUILT_IN: Final[dict[str, Factory]] = {
    **uris.CLASSES,
    **parties.CLASSES,
    **message.CLASSES,
    **network.CLASSES,
    **auth.CLASSES,
    **times.CLASSES,
    **script.CLASSES,
    **avp.CLASSES,
    **branches.CLASSES,
    **transaction.CLASSES,
}

__all__ = ["BUILT_IN"]
