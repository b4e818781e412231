"""The machine and the versions that figures belong to."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path

from bench import kamailio_server
from bench.servers import ROOT


def facts() -> dict[str, str]:
    """Return them by name, none of which tells whose machine it is."""
    found = {
        "processor": _field("/proc/cpuinfo", "model name"),
        "cores": str(os.cpu_count()),
        "memory": _field("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "python": f"{platform.python_version()} {platform.python_compiler()}",
        "commit": _output("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "sipp": next((line.strip() for line in _output("sipp", "-v").splitlines() if "SIPp" in line), ""),
        "kamailio": kamailio_server.version() if shutil.which("kamailio") else "",
    }
    for name in ("lmdb", "lupa", "mini-racer", "uvloop"):
        try:
            found[name] = package_version(name)
        except PackageNotFoundError:
            pass
    return {name: value for name, value in found.items() if value}


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return ""


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
