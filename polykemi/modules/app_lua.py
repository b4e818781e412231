"""KSR.app_lua: functions of the Lua script, called from a script in any language (Kamailio: modules/app_lua).

A function runs on the message of the caller. Its arguments are texts; a number or a text that it gives is the result, 1
stands for all else, -1 when it fails or [engines] names no Lua script.
"""

from __future__ import annotations

import logging
from typing import ClassVar

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval, export
from polykemi.modules.base import Module

log = logging.getLogger("polykemi.script")


class AppLua(Module):
    """Calls into the Lua script."""

    name = "app_lua"
    language: ClassVar[str] = "lua"  # the key of [engines]

    @export()
    def run(self, ctx: RouteContext, func: str) -> Xval:
        """Call ``func``."""
        return self._run(func)

    @export()
    def run_p1(self, ctx: RouteContext, func: str, p1: str) -> Xval:
        """Call ``func`` with one text."""
        return self._run(func, p1)

    @export()
    def run_p2(self, ctx: RouteContext, func: str, p1: str, p2: str) -> Xval:
        """Call ``func`` with two texts."""
        return self._run(func, p1, p2)

    @export()
    def run_p3(self, ctx: RouteContext, func: str, p1: str, p2: str, p3: str) -> Xval:
        """Call ``func`` with three texts."""
        return self._run(func, p1, p2, p3)

    def _run(self, func: str, *arguments: str) -> Xval:
        result = self.services.routes.invoke(self.language, func, arguments)
        return 1 if result is None else result

    @export()
    def runstring(self, ctx: RouteContext, script: str) -> int:
        """Run a text with the globals of the script: 1, or -1 when it fails."""
        return self.services.routes.evaluate(self.language, script, apart=False)

    @export()
    def dostring(self, ctx: RouteContext, script: str) -> int:
        """Run a text apart from the script: 1, or -1 when it fails."""
        return self.services.routes.evaluate(self.language, script, apart=True)

    @export()
    def dofile(self, ctx: RouteContext, script: str) -> int:
        """Run a file that stands beside the script, apart from it: 1, or -1 when it fails."""
        text = self.services.routes.read(self.language, script)
        if text is None:
            log.error("%s.dofile: no file %s beside the script", self.name, script)
            return -1
        return self.services.routes.evaluate(self.language, text, apart=True)
