"""KSR.app_jsdt: functions of the JavaScript script, called from a script in any language (Kamailio: modules/app_jsdt).

All is as in ``app_lua``, for the other script.
"""

from __future__ import annotations

from polykemi.modules.app_lua import AppLua


class AppJsdt(AppLua):
    """Calls into the JavaScript script."""

    name = "app_jsdt"
    language = "js"
