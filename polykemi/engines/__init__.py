"""Script engines: they bind exports, convert values, call, limit. No SIP knowledge here."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from polykemi.engines.base import Engine, Host
from polykemi.errors import UsageError

ENGINES: Final = {  # name -> class, imported when it is chosen
    "lua": "polykemi.engines.lua:LuaEngine",
    "js": "polykemi.engines.js:JsEngine",
    "python": "polykemi.engines.python:PythonEngine",
}


def make_engine(name: str, host: Host) -> Engine:
    """Return a new engine without a script. Raise UsageError when there is no engine ``name``."""
    place = ENGINES.get(name)
    if place is None:
        raise UsageError(f"unknown engine {name!r}: expected {', '.join(ENGINES)}")
    module, _, class_name = place.partition(":")
    engine: Engine = getattr(import_module(module), class_name)(host)
    return engine
