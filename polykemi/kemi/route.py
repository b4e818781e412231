"""The kinds of route blocks and the names of their callbacks (KEMI: kemi.*_route_callback)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class Route(enum.IntFlag):
    """A kind of route block; as a mask, where an export may be called."""

    REQUEST = 1
    REPLY = 2  # the core's reply_route: every reply, before its transaction is known
    ONSEND = 4
    BRANCH = 8
    ONREPLY = 16  # by name, for the replies of one transaction
    FAILURE = 32
    BRANCH_FAILURE = 64
    EVENT = 128
    ANY = 255


# the name of each kind in polykemi.toml, and in tm.t_is_set()
CONFIG_NAMES: Final[dict[str, Route]] = {
    "request_route": Route.REQUEST,
    "reply_route": Route.REPLY,
    "onsend_route": Route.ONSEND,
    "branch_route": Route.BRANCH,
    "onreply_route": Route.ONREPLY,
    "failure_route": Route.FAILURE,
    "branch_failure_route": Route.BRANCH_FAILURE,
    "event_route": Route.EVENT,
}

ROUTE_NAMES: Final[dict[Route, str]] = {route: name for name, route in CONFIG_NAMES.items()}

# blocks that a script does not name itself
REQUEST_ROUTE: Final = "ksr_request_route"
REPLY_ROUTE: Final = "ksr_reply_route"
ONSEND_ROUTE: Final = "ksr_onsend_route"


@dataclass(frozen=True, slots=True)
class Callbacks:
    """The names of the blocks that the core runs (Kamailio: ``kemi.*_callback``); where a name is empty, none is run."""

    request: str = REQUEST_ROUTE
    reply: str = REPLY_ROUTE
    onsend: str = ONSEND_ROUTE
    event: str = ""  # the core's own events
    received: str = ""  # every datagram, before it is looked at
    pre_routing: str = ""  # every message, before its request or reply route
