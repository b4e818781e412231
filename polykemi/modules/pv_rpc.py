"""What an operator asks of shared variables (Kamailio: the RPC commands pv.shvGet and pv.shvSet). Part of pv."""

from __future__ import annotations

from typing import Any, Final

from polykemi.errors import RpcError
from polykemi.kemi.rpc import rpc

_MOST: Final = 1 << 63
_NOT_FOUND: Final = (404, "Variable not found")


class PvCommands:
    """The commands."""

    def __init__(self, shared: dict[str, int | str]) -> None:
        """``shared``: name -> value of $shv."""
        self._shared = shared

    @rpc("pv.shvGet")
    def get(self, name: str = "") -> dict[str, Any]:
        """Return a shared variable, or all of them."""
        if not name:
            return {"items": [{"shv": _described(one, value)} for one, value in self._shared.items()]}
        value = self._shared.get(name)
        if value is None:
            raise RpcError(*_NOT_FOUND)
        return _described(name, value)

    @rpc("pv.shvSet", (500, "Missing parameter (Parameters: varname type value)"))
    def set(self, name: str, kind: str, value: str) -> str:
        """Set a shared variable that there is; kind: int or str."""
        if kind not in ("int", "str"):
            raise RpcError(500, "Unknown parameter type (Types: int or str)")
        if name not in self._shared:
            raise RpcError(*_NOT_FOUND)
        try:
            self._shared[name] = shared_value(kind, value)
        except ValueError as error:
            raise RpcError(500, str(error)) from None
        return "Ok. Variable set to new value."


def shared_value(kind: str, text: str) -> int | str:
    """Return the value that ``text`` stands for; kind: int or str. Raise ValueError for what is no integer of 64 bits."""
    if kind == "str":
        return text
    try:
        number = int(text)
    except ValueError:
        number = _MOST
    if not -_MOST <= number < _MOST:
        raise ValueError(f"expected an integer, got {text}")
    return number


def _described(name: str, value: int | str) -> dict[str, Any]:
    return {"name": name, "type": "int" if isinstance(value, int) else "string", "value": value}
