"""The commands ``cfg``: settings that change while the server runs, one by one. Names, shapes and errors are Kamailio's.

Kamailio says of a value that cannot be set nothing more than that; here the cause stands behind it. Instances of groups
(``cfg.add_group_inst``) are not there: no script could choose one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from polykemi.errors import RpcError
from polykemi.kemi.rpc import rpc
from polykemi.live import Live, Value, Variable

log = logging.getLogger("polykemi.control")

_REFUSED: Final = 400
_NO_VALUE: Final = "Failed to get the variable"
_NOT_SET: Final = "Failed to set the variable"
_NO_HELP: Final = "Failed to get the variable description"


class Cfg:
    """The variables of one server, and the changes that wait for ``cfg.commit``."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._delayed: dict[Variable, Value] = {}

    # ---- what there is
    @rpc("cfg.list")
    def list_(self, group: str = "") -> list[str]:
        """List the variables, of one group or of all, as ``group: name``."""
        variables = self._live.group(group).values() if group else self._live
        return [f"{one.group}: {one.name}" for one in variables]

    @rpc("cfg.get")
    def get(self, group: str, name: str = "") -> Value | dict[str, Value | None] | None:
        """Return the value of a variable, or without a name those of a group as an object."""
        if not name:
            return {one.name: one.value for one in self._live.group(group).values()}
        return self._find(group, name, _NO_VALUE).value

    @rpc("cfg.help")
    def help_(self, group: str, name: str) -> list[str]:
        """Tell what a variable is, and of which type."""
        one = self._find(group, name, _NO_HELP)
        return [one.doc, f"(parameter type is {'string' if one.is_text else 'integer'})"]

    # ---- at once
    @rpc("cfg.set")
    def set_(self, group: str, name: str, value: str) -> dict[str, Any]:
        """Set a variable, a number or a text as the variable has it."""
        return self._set(group, name, value)

    @rpc("cfg.set_now_int")
    def set_now_int(self, group: str, name: str, value: int) -> dict[str, Any]:
        """Set a variable to a number."""
        return self._set(group, name, value)

    @rpc("cfg.seti")
    def seti(self, group: str, name: str, value: int) -> dict[str, Any]:
        """Do as cfg.set_now_int."""
        return self._set(group, name, value)

    @rpc("cfg.set_now_string")
    def set_now_string(self, group: str, name: str, value: str) -> dict[str, Any]:
        """Set a variable to a text; that of a number counts where the variable is one."""
        return self._set(group, name, value)

    @rpc("cfg.sets")
    def sets(self, group: str, name: str, value: str) -> dict[str, Any]:
        """Do as cfg.set_now_string."""
        return self._set(group, name, value)

    @rpc("cfg.reset")
    def reset(self, group: str) -> dict[str, Any]:
        """Set all variables of a group to what the configuration says (when it was read last)."""
        for settings in {one.settings for one in self._live.group(group).values()}:
            settings.reset()
        log.info("the variables of %s have their values of the configuration again", group)
        return {}

    # ---- together
    @rpc("cfg.set_delayed")
    def set_delayed(self, group: str, name: str, value: str) -> dict[str, Any]:
        """Note a new value for a variable; cfg.commit sets it, with all others that are noted."""
        return self._note(group, name, value)

    @rpc("cfg.set_delayed_int")
    def set_delayed_int(self, group: str, name: str, value: int) -> dict[str, Any]:
        """Note a number for a variable."""
        return self._note(group, name, value)

    @rpc("cfg.set_delayed_string")
    def set_delayed_string(self, group: str, name: str, value: str) -> dict[str, Any]:
        """Note a text for a variable."""
        return self._note(group, name, value)

    @rpc("cfg.diff")
    def diff(self) -> list[dict[str, Value]]:
        """List what is noted, with the values of now."""
        names = ("group name", "variable name", "old value", "new value")
        return [
            dict(zip(names, (one.group, one.name, one.value, shown), strict=True))
            for one, shown in self._delayed.items()
        ]

    @rpc("cfg.commit")
    def commit(self) -> dict[str, Any]:
        """Set all that is noted, or nothing when some of it does not fit together."""
        self._change(self._delayed)
        self._delayed.clear()
        return {}

    @rpc("cfg.rollback")
    def rollback(self) -> dict[str, Any]:
        """Forget what is noted."""
        self._delayed.clear()
        return {}

    def _find(self, group: str, name: str, complaint: str) -> Variable:
        one = self._live.group(group).get(name)
        if one is None:
            raise RpcError(_REFUSED, complaint)
        return one

    def _set(self, group: str, name: str, value: Value) -> dict[str, Any]:
        self._change({self._find(group, name, _NOT_SET): value})
        return {}

    def _note(self, group: str, name: str, value: Value) -> dict[str, Any]:
        one = self._find(group, name, _NOT_SET)
        try:
            self._live.check({**self._delayed, one: value})
        except ValueError as error:
            raise RpcError(_REFUSED, f"{_NOT_SET}: {error}") from None
        self._delayed[one] = value
        return {}

    def _change(self, values: Mapping[Variable, Value]) -> None:
        try:
            self._live.change(values)
        except ValueError as error:
            raise RpcError(_REFUSED, f"{_NOT_SET}: {error}") from None
        for one in values:
            log.info("%s.%s has been changed to %s", one.group, one.name, one.value)
