"""Which version of the scripts each established call began with, whether a dialog is tracked for it (``dlg_manage``) or not.

A call is known by its Call-ID, from the 2xx to its INVITE on until its BYE is answered, or nobody has answered that, or the last
dialog of it is gone. One whose 2xx has no Record-Route is not noted, as its requests do not come here. Nothing is done for other
methods.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from polykemi.errors import ParseError
from polykemi.sip.message import Request, Response
from polykemi.versions import Version

MOST: Final = 100_000  # some 20 MB; the oldest goes on with the current version when there are more
LASTS: Final = 43_200.0  # seconds; the BYE of some calls never comes (Kamailio: dialog's default_timeout)
_CHALLENGES: Final = (401, 407)  # the BYE comes once more, with credentials


class Calls:
    """The calls of one server. ``now``: seconds since the epoch."""

    def __init__(self) -> None:
        self._begun: OrderedDict[int, tuple[Version, float]] = OrderedDict()  # by hash of the Call-ID: until when

    def answered(self, response: Response, version: Version, now: float) -> None:
        """Note the final answer to an INVITE or a BYE that was routed by ``version``."""
        try:
            begun, call = self._begun, hash(response.call_id)
        except ParseError:  # it has none: its Via alone leads back
            return
        if response.cseq[1] == "BYE":
            if response.status not in _CHALLENGES:
                begun.pop(call, None)
        elif response.status < 300 and response.get("record-route"):
            begun[call] = version, now + LASTS
            begun.move_to_end(call)
            if len(begun) > MOST:
                begun.popitem(last=False)

    def over(self, call_id: str) -> None:
        """Forget a call whose dialog has ended, or whose BYE nobody has answered: it is over as well (RFC 3261 section 15.1.1)."""
        self._begun.pop(hash(call_id), None)

    def version_of(self, request: Request) -> Version | None:
        """Return the version in which the call of ``request`` began, None when it is of none."""
        try:
            found = self._begun.get(hash(request.call_id)) if request.to.tag else None
        except ParseError:
            return None
        return found[0] if found is not None else None

    def sweep(self, now: float) -> None:
        """Forget the calls that have lasted too long."""
        begun = self._begun
        while begun and next(iter(begun.values()))[1] <= now:
            begun.popitem(last=False)

    def __iter__(self) -> Iterator[Version]:
        """Give the version of each call."""
        return (version for version, _ in self._begun.values())
