"""What scripts can call and which script runs, by engine. Names and shapes are Kamailio's (``app_lua.api_list``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from polykemi.engines.base import Script
from polykemi.kemi.binding import to_octets
from polykemi.kemi.registry import exports_of
from polykemi.kemi.rpc import rpc


class Api:
    """The functions of KSR and the scripts of one server."""

    def __init__(self, modules: Iterable[object], scripts: Callable[[], Mapping[str, Script]]) -> None:
        """``modules``: the loaded ones, when it is asked; ``scripts``: those that run, by engine."""
        self._modules, self._scripts = modules, scripts

    @rpc("app_lua.api_list")
    def of_lua(self) -> dict[str, Any]:
        """List the functions of KSR."""
        return self._list()

    @rpc("app_jsdt.api_list")
    def of_js(self) -> dict[str, Any]:
        """List the functions of KSR."""
        return self._list()

    @rpc("app_python3.api_list")
    def of_python(self) -> dict[str, Any]:
        """List the functions of KSR."""
        return self._list()

    @rpc("app_lua.list")
    def scripts(self) -> str:
        """Show the Lua script."""
        script = self._scripts().get("lua")
        return f"0: [{to_octets(str(script.path))}]" if script is not None else ""

    def _list(self) -> dict[str, Any]:
        methods = [
            {
                "func": {
                    "ret": export.returns,
                    "module": export.module,
                    "name": export.name,
                    "params": ", ".join(param.type for param in export.params) or "none",
                }
            }
            for module in self._modules
            for export, _ in exports_of(type(module)).values()
        ]
        return {"msize": len(methods), "methods": methods}
