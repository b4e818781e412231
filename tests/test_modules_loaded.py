"""Any choice of modules either serves, or says in one line which module another one needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from polykemi.errors import ConfigError
from polykemi.modules import MODULES
from polykemi.testing import ServerUnderTest

NEEDS = {
    "tmx": "tm",
    "auth": "sl",
    "auth_ephemeral": "auth",
    "registrar": "sl",
    "uac": "tm",
    "uac_redirect": "tm",
    "pipelimit": "sl",
    "xhttp": "sl",
    "xmlrpc": "sl",
    "websocket": "sl",
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_alone_serves_or_names_what_it_needs(name: str, tmp_path: Path) -> None:
    script = tmp_path / "nothing.lua"
    script.write_text("function ksr_request_route() end")
    if name in NEEDS:
        with pytest.raises(
            ConfigError, match=rf"\[modules\] load: {name} needs {NEEDS[name]}, which is not in the list"
        ):
            ServerUnderTest({"lua": script}, load=[name])
    else:
        with ServerUnderTest({"lua": script}, load=[name]) as server:
            assert name in server.node.modules
