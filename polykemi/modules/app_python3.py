"""KSR.app_python3 and KSR.app_python3s: functions of the Python script, called from a script in any language.

(Kamailio: modules/app_python3, app_python3s.) A function runs on the message of the caller. A number or a text that it
gives is the result; all else is -1, as are an exception and a configuration without a Python script.
"""

from __future__ import annotations

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval, export
from polykemi.modules.base import Module


class AppPython3(Module):
    """Calls into the Python script."""

    name = "app_python3"

    @export(name="exec")
    def exec_(self, ctx: RouteContext, method: str) -> Xval:
        """Call ``method`` of the script, with the message when it takes an argument."""
        return self.services.routes.invoke("python", method, ())

    @export()
    def execx(self, ctx: RouteContext, method: str) -> Xval:
        """Call ``method`` of the script, as ``exec``, which is a keyword in some languages."""
        return self.services.routes.invoke("python", method, ())

    @export()
    def exec_p1(self, ctx: RouteContext, method: str, p1: str) -> Xval:
        """Call ``method`` of the script with a text, behind the message when it takes two arguments."""
        return self.services.routes.invoke("python", method, (p1,))


class AppPython3s(AppPython3):
    """The same under the name of Kamailio's module for scripts of plain functions."""

    name = "app_python3s"
