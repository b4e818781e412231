"""The locks: everything that `make` installs is pinned, and nothing in them is particular to one machine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from polykemi.config import load

ROOT = Path(__file__).parent.parent
LOCKS = ("requirements.txt", "requirements-dev.txt")


def pins(lock: str) -> dict[str, str]:
    """Return the names in a lock and what is pinned for each: version and hashes."""
    text = (ROOT / lock).read_text().replace("\\\n", " ")
    return {re.split(r"==|\[", line)[0]: line for line in re.findall(r"^[a-z0-9].*$", text, re.MULTILINE)}


def project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=~!\[; ]", requirement)[0] for requirement in requirements}


@pytest.mark.parametrize("lock", LOCKS)
def test_each_pin_has_a_version_and_hashes(lock: str) -> None:
    assert pins(lock)
    for pin in pins(lock).values():
        assert re.fullmatch(r"[a-z0-9-]+(?:\[[a-z0-9,-]+\])?==[^ ]+(?: +--hash=sha256:[0-9a-f]{64})+", pin.rstrip()), (
            pin
        )


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_registry_and_no_path(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert not re.search(r"^ *-(-index|-extra-index|-find-links|-trusted|i|f|e) ?", text, re.MULTILINE)
    assert not re.search(r"(^|[ #])/[a-z]", text)


def test_the_lock_of_the_browser_phone_pins_all_of_it_and_names_no_registry() -> None:
    directory = ROOT / "tests/e2e/browser"
    wanted = json.loads((directory / "package.json").read_text())["dependencies"]
    packages = json.loads((directory / "package-lock.json").read_text())["packages"]
    assert packages.pop("")["dependencies"] == wanted
    for name, version in wanted.items():
        assert packages[f"node_modules/{name}"]["version"] == version
    assert all(one["integrity"].startswith("sha512-") for one in packages.values())
    assert "://" not in (directory / "package-lock.json").read_text()


def test_the_locks_hold_what_the_project_declares() -> None:
    assert names(project()["dependencies"]) <= set(pins("requirements.txt"))
    for extra in ("dev", "peers"):
        assert names(project()["optional-dependencies"][extra]) <= set(pins("requirements-dev.txt"))


def test_development_runs_on_the_versions_that_users_get() -> None:
    developers = pins("requirements-dev.txt")
    for name, pin in pins("requirements.txt").items():
        assert developers[name] == pin


def test_mini_racer_is_pinned_exactly() -> None:
    """The JavaScript engine calls entry points of its library that are not public."""
    assert "mini-racer==0.14.1" in project()["dependencies"]


# ---- packaging/


def test_the_packaged_configuration_and_the_unit_fit_together() -> None:
    settings = load(ROOT / "packaging/polykemi.toml")
    unit = (ROOT / "packaging/polykemi.service").read_text()
    entries = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and not line.startswith("#"))
    assert settings.data == Path("/var/lib") / entries["StateDirectory"]
    assert settings.service.drain < float(entries["TimeoutStopSec"])
    assert max(one.limits.seconds for one in settings.engines) < float(entries["WatchdogSec"])
    assert entries["ExecStart"].split()[1:] == ["serve", "--config", "/etc/polykemi/polykemi.toml"]
    # as --supervise has it: crashes are none too many, and a mistake (exit code 2, docs/operating.md) is not tried again
    assert (entries["StartLimitIntervalSec"], entries["RestartPreventExitStatus"]) == ("0", "2")
    assert entries["MemoryDenyWriteExecute"] == "no"  # V8 and LuaJIT could not run


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_the_units() -> None:
    units = [str(ROOT / "packaging" / name) for name in ("polykemi.service", "polykemi.socket")]
    ran = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    told = [line for line in ran.stderr.splitlines() if "is not executable" not in line]  # it is not installed here
    assert told == []


def test_the_image_is_built_from_what_is_there() -> None:
    lines = (ROOT / "packaging/Dockerfile").read_text().replace("\\\n", " ").splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY") and "--from" not in line]
    for name in (one for names in copied for one in names):
        assert (ROOT / name).exists(), name
    ignored = (ROOT / "packaging/Dockerfile.dockerignore").read_text().splitlines()
    for name in (one for names in copied for one in names):
        assert any(f"!{part}" in ignored for part in (name, name.split("/")[0])), name
    assert {line.split()[1] for line in lines if line.startswith("FROM")} == {"python:3.11-slim"}
    assert "USER polykemi" in lines
