"""The two servers of the oracle suite, each started for a group of cases on the same address, one after the other."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from bench.kamailio_server import modules_directory
from polykemi.storage.provisioned import FILE_NAME, Database
from tests.oracle.scripts import EXTENSIONS, MARK

ROOT: Final = Path(__file__).parents[2]
DOMAIN: Final = "example.test"
# The cases are written with the documentation's network 192.0.2.0/24; on the wire it is a part of the loopback network,
# of which every address can be bound. Both are written with the same number of octets.
WRITTEN: Final = "192.0.2."
USED: Final = os.environ.get("ORACLE_NET", "127.0.2") + "."
PORT: Final = 5060

_MODULES: Final = [  # loaded for every group; Kamailio's names
    *("kex", "corex", "tm", "tmx", "sl", "rr", "pv", "maxfwd", "textops", "siputils", "sanity", "xlog", "kemix"),
    *("db_sqlite", "usrloc", "registrar", "auth", "auth_db", "nathelper", "htable"),
]
_SO: Final = {
    "pvx": "pv",
    "kx": "kemix",
    "core": "",
    "x": "",
    "hdr": "",
    "app_lua": "",
    "app_jsdt": "",
    "app_python3": "",
}
_NEEDS: Final = {  # loaded before
    "textopsx": ("textops",),
    "websocket": ("xhttp",),
    "auth_xkeys": ("auth",),
    "auth_ephemeral": ("auth",),
    "uac_redirect": ("acc",),
}
# where polykemi's defaults are others than Kamailio's on purpose, and what Kamailio needs to see the same data
_DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "pv": {"shvset": "oracle=s:none 0"},
    "htable": {"htable": "ipban=>size=8;autoexpire=300"},
    "auth": {"nonce_count": 1, "qop": "auth"},
    "auth_db": {
        "calculate_ha1": 1,
        "password_column": "password",
        "load_credentials": "$avp(oracle)=username",
        "db_url": "{db}",
    },
    "usrloc": {"db_mode": 0, "preload": "location"},
    "permissions": {"db_url": "{db}", "address_table": "address"},
    "tm": {
        "failure_reply_mode": 3,
        "auto_inv_100": 1,
        "auto_inv_100_reason": "Trying",
        "contacts_avp": "tm_contacts",
        "contact_flows_avp": "tm_contact_flows",
    },
    "nathelper": {"received_avp": "$avp(RECEIVED)"},
    "registrar": {"received_avp": "$avp(RECEIVED)"},
    "xhttp": {"event_callback": "ksr_xhttp_event"},
    "xmlrpc": {"event_callback": "ksr_xmlrpc_event"},
    "rr": {"enable_full_lr": 0, "append_fromtag": 1},
}
_DATABASE: Final = {  # modules that read the database, with their parameter for it
    "acc",
    "alias_db",
    "dialog",
    "dialplan",
    "dispatcher",
    "domain",
    "group",
    "htable",
    "pipelimit",
    "uri_db",
}
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS trusted (id INTEGER PRIMARY KEY NOT NULL, src_ip VARCHAR(50) NOT NULL, proto VARCHAR(4) NOT NULL,
    from_pattern VARCHAR(64), ruri_pattern VARCHAR(64), tag VARCHAR(64), priority INTEGER NOT NULL DEFAULT 0);
INSERT OR REPLACE INTO version VALUES ('trusted', 6), ('version', 1);
"""  # that Kamailio wants to find, and polykemi does not have
_ENGINES: Final = {"lua": ("app_lua", "lua"), "js": ("app_jsdt", "jsdt"), "python": ("app_python3", "python")}


def used(text: str) -> str:
    """Return ``text`` with the addresses as they are on the wire."""
    return text.replace(WRITTEN, USED)


def written(data: bytes) -> bytes:
    """Return what came from the wire with the addresses as the cases have them."""
    return data.replace(USED.encode(), WRITTEN.encode())


class Running:
    """A server that runs: its log is read as it is written."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.lines: list[str] = []  # of the log, without what stands before the mark of the suite's own lines
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            text = written(line).decode("latin-1").rstrip("\r\n")
            _, mark, rest = text.partition(MARK)
            with self._changed:
                self.lines.append(mark + rest if mark else text)
                self._changed.notify_all()

    def log_until(self, line: str, start: int, seconds: float = 5) -> int:
        """Wait for ``line`` behind the first ``start`` lines; return where it stands. Raise TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: line in self.lines[start:], seconds):
                raise TimeoutError(f"{line!r} is not in the log:\n" + "\n".join(self.lines[start:][-30:]))
            return self.lines.index(line, start)

    @property
    def ended(self) -> bool:
        """Whether the process has ended by itself."""
        return self._process.poll() is not None

    def stop(self) -> None:
        """End it, with all its processes."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


def make_database(directory: Path, statements: Iterable[str]) -> None:
    """Make the database of a group: alice, and what its cases want to find."""
    with Database.at(directory) as database:
        database.add_subscriber("alice", DOMAIN, "wonderland")
        for statement in statements:
            database.query(used(statement))


def start_polykemi(directory: Path, engine: str, text: str, config: Mapping[str, Mapping[str, Any]]) -> Running:
    """Start polykemi in ``directory``, where its database is."""
    script = directory / f"polykemi_script.{EXTENSIONS[engine]}"
    script.write_text(used(text), "utf-8")
    lines = [f'listen = ["udp:{USED}1:{PORT}"]', f'domains = ["{DOMAIN}"]', f'data = "{directory}"']
    lines += ["[engines]", f'{engine} = "{script}"', "[log]", 'level = "info"', "fields = []"]
    lines += ["[overload]", "delay = 0"]  # the machine may be busy with other tests
    config = {**config, "tm": {"max_breadth": 0, **config.get("tm", {})}}  # which Kamailio does not know
    for module, parameters in config.items():
        lines.append(f"[modules.{module}]")
        lines += [f"{name} = {_toml(_filled(value, directory))}" for name, value in parameters.items()]
    file = directory / "polykemi.toml"
    file.write_text("\n".join(lines) + "\n")
    return Running([sys.executable, "-m", "polykemi", "serve", "--config", str(file)])


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r") + '"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _filled(value: Any, directory: Path) -> Any:
    """Fill in the addresses, the database and the directory of the case's files."""
    if isinstance(value, (list, tuple)):
        return [_filled(one, directory) for one in value]
    if not isinstance(value, str):
        return value
    value = value.replace("=>polykemi", "=>{db}")  # sqlops: the server's own database
    if value.endswith("=>polykemi"):  # its name for its own database
        value = value.removesuffix("polykemi") + "{db}"
    return used(value.replace("{db}", f"sqlite:///{directory / FILE_NAME}").replace("{dir}", str(directory)))


def kamailio_modules(modules: Iterable[str]) -> list[str]:
    """Return the modules to load, in order; ``modules`` are named as in KSR."""
    names = list(_MODULES)
    for one in modules:
        name = _SO.get(one, one)
        for needed in (*_NEEDS.get(name, ()), name):
            if needed and needed not in names:
                names.append(needed)
    return names


def missing_modules(modules: Iterable[str], engine: str) -> list[str]:
    """Return the modules that the installed Kamailio does not have."""
    directory = modules_directory()
    assert directory is not None
    names = [*kamailio_modules(modules), _ENGINES[engine][0]]
    return [name for name in names if not (directory / f"{name}.so").exists()]


def start_kamailio(
    directory: Path,
    engine: str,
    text: str,
    config: Mapping[str, Mapping[str, Any]],
    modules: Iterable[str],
    callbacks: set[str],
) -> Running:
    """Start Kamailio in ``directory``, where its database is; ``modules``: those that the cases call."""
    connection = sqlite3.connect(directory / FILE_NAME)
    connection.executescript(_TABLES)
    connection.close()
    script = directory / f"kamailio_script.{EXTENSIONS[engine]}"
    script.write_text(used(text), "utf-8")
    module, name = _ENGINES[engine]
    lines = ["#!KAMAILIO", "debug=2", "log_stderror=yes", "log_prefix_mode=0", "children=1"]
    lines += [f"listen=udp:{USED}1:{PORT}", "auto_aliases=no", f"alias={DOMAIN}", "dns=no", "rev_dns=no"]
    lines += ['server_header="Server: polykemi"', 'user_agent_header="User-Agent: polykemi"']
    for route in ("reply", "onsend"):
        if f"ksr_{route}_route" not in callbacks:
            lines.append(f'kemi.{route}_route_callback="none"')
    lines.append(f'mpath="{modules_directory()}/"')
    parameters: dict[str, dict[str, Any]] = {}
    loaded = kamailio_modules([*modules, *config])
    if "tls" in loaded:
        lines.append("enable_tls=yes")
        _make_certificate(directory / "cert.pem")  # it does not start without
    elif "websocket" not in loaded:  # it crashes without TCP
        lines.append("disable_tcp=yes")
    for one in loaded:
        parameters[one] = dict(_DEFAULTS.get(one, {}))
        if one in _DATABASE:
            parameters[one]["db_url"] = "{db}"
    for one, given in config.items():
        parameters.setdefault(_SO.get(one, one), {}).update(given)
    core = parameters.pop("", {})
    kemi = core.pop("kemi", {})
    lines[1:1] = [f"#!define {name} {value}".rstrip() for name, value in core.pop("define", {}).items()]
    lines += [f'kemi.{key}="{value}"' for key, value in kemi.items()]
    lines += [f"{key}={_cfg(_filled(value, directory))}" for key, value in core.items()]
    lines += [f'loadmodule "{one}.so"' for one in [*loaded, module]]
    for one, given in parameters.items():
        for key, value in given.items():
            for single in value if isinstance(value, (list, tuple)) else [value]:
                lines.append(f'modparam("{one}", "{key}", {_cfg(_filled(single, directory))})')
    lines += [f'modparam("{module}", "load", "{script}")', f'cfgengine "{name}"']
    file = directory / "kamailio.cfg"
    file.write_text("\n".join(lines) + "\n")
    command = ["kamailio", "-f", str(file), "-DD", "-E", "-m", "64", "-M", "16", "-P", str(directory / "pid")]
    return Running([*command, "-Y", str(directory), "-w", str(directory)])


def _make_certificate(file: Path) -> None:
    """Make a certificate with its key."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "-", "-subj", "/CN=oracle"]
    made = subprocess.run(["openssl", "req", "-x509", *key], check=True, capture_output=True)
    file.write_bytes(made.stdout)


def _cfg(value: Any) -> str:
    if isinstance(value, str):
        return '"' + re.sub(r'(["\\])', r"\\\1", value).replace("\r\n", "\\r\\n") + '"'
    return str(int(value)) if isinstance(value, (bool, int)) else f'"{value}"'
