"""The pseudo-variables that are always there: Kamailio's core, pv, tmx, kex and what stands close to them."""

from __future__ import annotations

from typing import Final

from polykemi.pv.accessor import Factory
from polykemi.pv.classes.auth import CLASSES as AUTH
from polykemi.pv.classes.avp import CLASSES as AVP
from polykemi.pv.classes.branches import CLASSES as BRANCHES
from polykemi.pv.classes.message import CLASSES as MESSAGE
from polykemi.pv.classes.network import CLASSES as NETWORK
from polykemi.pv.classes.parties import CLASSES as PARTIES
from polykemi.pv.classes.script import CLASSES as SCRIPT
from polykemi.pv.classes.times import CLASSES as TIMES
from polykemi.pv.classes.transaction import CLASSES as TRANSACTION
from polykemi.pv.classes.uris import CLASSES as URIS

BUILT_IN: Final[dict[str, Factory]] = {
    **URIS,
    **PARTIES,
    **MESSAGE,
    **NETWORK,
    **AUTH,
    **TIMES,
    **SCRIPT,
    **AVP,
    **BRANCHES,
    **TRANSACTION,
}

__all__ = ["BUILT_IN"]
