"""Kamailio beside the server under test, or in its place: the configurations are in ``kamailio/``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bench.kamailio_server import modules_directory
from bench.ports import free_port
from polykemi.storage.provisioned import FILE_NAME
from tests.e2e.conftest import ROOT, SCRIPTS, listens
from tests.e2e.peers import PeerProcess, missing, tool
from tests.pki import Pki

_CONFIGS: Final = Path(__file__).parent / "kamailio"
_PACKAGES: Final = {  # by module
    "app_lua": "kamailio-lua-modules",
    "db_sqlite": "kamailio-sqlite-modules",
    "kemix": "kamailio-extra-modules",
    "tls": "kamailio-tls-modules",
    "websocket": "kamailio-websocket-modules",
}


class Kamailio(PeerProcess):
    """A Kamailio on a port of its own, over UDP and TCP."""

    def __init__(self, config: str, directory: Path, *needed: str, **defines: str) -> None:
        """Start it with a configuration and what that wants defined; the test is skipped without a module that is ``needed``."""
        program, modules = tool("kamailio", "Debian: kamailio"), modules_directory()
        for one in needed:
            if modules is None or not (modules / f"{one}.so").exists():
                missing(f"Kamailio's {one} is not installed (Debian: {_PACKAGES[one]})")
        self.port, self.tls_port = free_port(), free_port()
        for proto, port in (("udp", self.port), ("tcp", self.port), ("tls", self.tls_port)):
            defines[f"LISTEN_{proto.upper()}"] = f"{proto}:127.0.0.1:{port}"
        defines["MODULES"] = f'"{modules}/"'
        command = [program, "-f", str(_CONFIGS / config), "-DD", "-E", "-m", "64", "-M", "8"]
        command += ["-P", str(directory / "kamailio.pid"), "-Y", str(directory), "-w", str(directory)]
        super().__init__(command + [a for pair in defines.items() for a in ("-A", "=".join(pair))], directory)
        self.wait(lambda: listens(self.port), "listener")  # it forks the receivers of UDP before


def proxy(directory: Path, *, phone: str, server: str, pki: Pki | None = None) -> Kamailio:
    """Start a proxy that relays what is for itself to ``phone`` and all else to ``server``, SIP URIs both.

    With ``pki`` it speaks TLS too, on ``tls_port``.
    """
    routes = {"PHONE": f'"{phone}"', "SERVER": f'"{server}"'}
    if pki is None:
        return Kamailio("proxy.cfg", directory, **routes)
    files = {"CERTIFICATE": f'"{pki.path("server.pem")}"', "KEY": f'"{pki.path("server.key")}"', "CA": f'"{pki.ca}"'}
    return Kamailio("proxy.cfg", directory, "tls", WITH_TLS="1", **routes, **files)


def registrar(data: Path, pki: Pki) -> Kamailio:
    """Start a registrar with the Lua sample script and the subscribers in the data directory ``data``."""
    return Kamailio(
        "registrar.cfg",
        data,
        *("app_lua", "db_sqlite", "kemix", "tls", "websocket"),
        CERTIFICATE=f'"{pki.path("server.pem")}"',
        KEY=f'"{pki.path("server.key")}"',
        DATABASE=f'"sqlite:///{data / FILE_NAME}"',
        SCRIPT=f'"{ROOT / SCRIPTS["lua"]}"',
    )
