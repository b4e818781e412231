"""polykemi under load: this working copy, one process pinned to CPU 0."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.ports import free_port
from bench.servers import DOMAIN, MEMORY_DOMAIN, ROOT, SCRIPTS, RouteTime, copy_database, end_process
from bench.servers import wait_until_it_answers as wait
from bench.sipp import pin

# the modules and parameters of kamailio/kamailio.cfg
CONFIG = """
[modules]
load = ["kx", "tm", "sl", "rr", "maxfwd", "textops", "siputils", "sanity", "usrloc", "registrar", "htable", "auth", "auth_db"]

[modules.registrar]
max_contacts = 1

[modules.tm]
fr_timer = 10000
fr_inv_timer = 30000

[modules.htable]
htable = ["pw=>size=14;dbtable=passwords"]

[log]
level = "warning"
"""
PYTHON = [sys.executable, "-P"]  # what PYTHONPATH says goes before the working directory
POLYKEMI = [*PYTHON, "-m", "polykemi"]
ASK_FORM = "import polykemi; print('compiled' if polykemi.compiled else 'pure')"


def environment(form: str) -> dict[str, str]:
    """Return the environment in which polykemi runs in ``form``; empty: as it would by itself."""
    variables = dict(os.environ)
    if form:
        variables["PYTHONPATH"] = str(ROOT if form == "pure" else ROOT / "build" / "compiled")
    return variables


def actual_form(form: str) -> str:
    """Return what ``form`` turns out to be: compiled where compiled modules are built and wanted, else pure."""
    command = [*PYTHON, "-c", ASK_FORM]
    return subprocess.run(
        command, cwd=ROOT, env=environment(form), check=True, capture_output=True, text=True
    ).stdout.strip()


class PolykemiServer:
    """One run of polykemi."""

    def __init__(self, engine: str, form: str, database: Path, directory: Path) -> None:
        self._environment, self._data = environment(form), directory / "data"
        self._data.mkdir()
        copy_database(database, self._data)
        config, log = directory / "polykemi.toml", directory / "polykemi.log"
        config.write_text(CONFIG)
        self.port = free_port()
        command = [*pin(0), *POLYKEMI, "serve", "--config", str(config), "--engine", engine, str(SCRIPTS[engine])]
        command += ["--listen", f"udp:127.0.0.1:{self.port}", "--domain", DOMAIN, "--domain", MEMORY_DOMAIN]
        command += ["--data", str(self._data)]
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        self.pid = self._process.pid
        wait(self._process, self.port, log)

    def route_time(self) -> RouteTime | None:
        """Ask the running server with `polykemi rpc route.stats`."""
        command = [*pin(1), *POLYKEMI, "rpc", "--json", "route.stats", "--data", str(self._data)]
        answer = subprocess.run(command, cwd=ROOT, env=self._environment, capture_output=True, text=True, check=False)
        return request_route_time(json.loads(answer.stdout)) if answer.returncode == 0 else None

    def stop(self) -> None:
        """End it."""
        end_process(self._process)


def request_route_time(blocks: Iterable[Mapping[str, Any]]) -> RouteTime:
    """Sum what route.stats tells about the request route: a row for each block and engine."""
    rows = [row for row in blocks if row["block"] == "ksr_request_route"]
    return RouteTime(sum(row["cnt"] for row in rows), sum(row["sum_us"] for row in rows))
