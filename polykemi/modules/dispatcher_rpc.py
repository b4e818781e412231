"""What an operator asks dispatcher: its sets, their states (Kamailio: the RPC commands of dispatcher). Part of dispatcher."""

from __future__ import annotations

from typing import Any, Final

from polykemi.errors import DataError, RpcError
from polykemi.kemi.rpc import rpc
from polykemi.modules import dispatcher_sets
from polykemi.modules.dispatcher_lists import DispatcherLists
from polykemi.modules.dispatcher_sets import (
    DISABLED,
    INACTIVE,
    PROBING,
    STATES,
    TRYING,
    BadDestination,
    Destination,
    Row,
)

_FAILED: Final = 500
_INVALID: Final = (500, "Invalid Parameters")
_STATES: Final = {"0": INACTIVE, "i": INACTIVE, "1": 0, "a": 0, "2": DISABLED, "d": DISABLED, "3": TRYING, "t": TRYING}


class DispatcherCommands(DispatcherLists):
    """The commands; what scripts call is in ``dispatcher``."""

    @rpc("dispatcher.list")
    def list_sets(self, mode: str = "") -> Any:
        """List the sets and their destinations; mode short: without attributes, full: with addresses."""
        if not self.sets:
            raise RpcError(_FAILED, "No Destination Sets")
        records = [
            {"SET": {"ID": one.id, "TARGETS": [{"DEST": self._described(d, mode.lower())} for d in one.destinations]}}
            for one in self.sets.values()
        ]
        return {"NRSETS": len(self.sets), "RECORDS": records}

    def _described(self, d: Destination, mode: str) -> dict[str, Any]:
        out: dict[str, Any] = {"URI": d.uri, "FLAGS": d.state, "PRIORITY": d.priority}
        if mode == "full":
            out |= {"HOST": d.host, "PORT": d.port, "PROTO": d.proto}
        attrs = d.attrs
        if mode != "short" and attrs.body:
            out["ATTRS"] = {
                "BODY": attrs.body,
                "DUID": attrs.duid,
                "MAXLOAD": attrs.maxload,
                "WEIGHT": attrs.weight,
                "RWEIGHT": attrs.rweight,
                "SOCKET": attrs.socket or None,
                "SOCKNAME": attrs.sockname or None,
                "OBPROXY": attrs.obproxy or None,
            }
        if self.params.ds_ping_latency_stats:
            latency = d.latency
            out["LATENCY"] = {
                "AVG": latency.average,
                "STD": latency.deviation,
                "EST": latency.estimate,
                "MAX": latency.maximum,
                "TIMEOUT": latency.timeouts,
            }
        if self.params.ds_hash_size:
            out["RUNTIME"] = {"DLGLOAD": d.load}
        return out

    @rpc("dispatcher.set_state", _INVALID)
    def set_state(self, state: str, group: int, address: str) -> str:
        """Set the state (a, i, d or t, then p for probed) of a destination by its URI, or of ``all`` of a set."""
        return self._set_state(state, group, address, by_duid=False)

    @rpc("dispatcher.set_duid_state", _INVALID)
    def set_duid_state(self, state: str, group: int, duid: str) -> str:
        """Set the state (a, i, d or t, then p for probed) of a destination by its unique id."""
        return self._set_state(state, group, duid, by_duid=True)

    def _set_state(self, state: str, group: int, key: str, *, by_duid: bool) -> str:
        flags = _STATES.get(state[:1].lower())
        if flags is None:
            raise RpcError(_FAILED, "Unknown State Value")
        if flags != DISABLED and state[1:2].lower() == "p":
            flags |= PROBING
        one = self.sets.get(group)
        if key == "all":
            chosen = one.destinations if one is not None else []
        else:
            found = (one.find_duid(key) if by_duid else one.find(key)) if one is not None else None
            chosen = [found] if found is not None else []
        if one is None or not chosen:
            raise RpcError(_FAILED, "State Update Failed")
        for destination in chosen:
            self.set_flags(one, destination, destination.flags & ~STATES | flags)
        return "Ok. Dispatcher state updated."

    @rpc("dispatcher.ping_active")
    def set_pinging(self, state: int = -1) -> dict[str, int]:
        """Tell whether destinations are probed (with ds_ping_interval); with a state, 1 or 0, set that."""
        old = int(self.is_pinging)
        if state == -1:
            return {"OldPingState": old}
        self.is_pinging = state != 0
        return {"NewPingState": state, "OldPingState": old}

    @rpc("dispatcher.reload")
    def reload_sets(self) -> str:
        """Read the destinations anew; all states and loads are forgotten."""
        try:
            self.read()
        except DataError as error:
            raise RpcError(_FAILED, f"Reload Failed: {error}") from None
        return "Ok. Dispatcher successfully reloaded."

    @rpc("dispatcher.add", _INVALID)
    def add_destination(self, group: int, address: str, flags: int = 0, priority: int = 0, attrs: str = "") -> str:
        """Add a destination until the next reload."""
        try:
            self.add(Row(group, address, flags, priority, attrs))
        except BadDestination as error:
            raise RpcError(_FAILED, f"Adding dispatcher dst failed: {error}") from None
        return "Ok. Dispatcher destination added."

    @rpc("dispatcher.remove", _INVALID)
    def remove_destination(self, group: int, address: str) -> str:
        """Remove a destination until the next reload."""
        self.remove(group, address)
        return "Ok. Dispatcher destination removed."

    @rpc("dispatcher.hash", _INVALID)
    def hash_of(self, slots: int, value: str, more: str = "") -> dict[str, int]:
        """Return the hash of one or two texts, and which of ``slots`` it falls into."""
        number = dispatcher_sets.hash_of(value, more)
        return {"hashid": number, "slot": number % slots if slots > 0 else 0}
