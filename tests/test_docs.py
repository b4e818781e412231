"""What the guides show can be used as it stands: functions exist, configurations load."""

from __future__ import annotations

import re
import textwrap
from dataclasses import fields
from pathlib import Path

import pytest

from polykemi.config import load
from polykemi.kemi.registry import exports_of
from polykemi.modules import MODULES

TEXT = (Path(__file__).parents[1] / "docs/registrar.md").read_text()
SCRIPTS = re.findall(r"```lua\n(.*?)```", TEXT, re.DOTALL)
CONFIGURATIONS = [
    textwrap.dedent(block) for block in re.findall(r"(?:^ {4}.*\n)+", TEXT, re.MULTILINE) if "[modules." in block
]


def test_there_is_something_to_test() -> None:
    assert len(SCRIPTS) >= 4
    assert len(CONFIGURATIONS) >= 3


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_functions_of_the_scripts_exist(script: str) -> None:
    exported = {(name, function) for name, module in MODULES.items() for function in exports_of(module)}
    used = set(re.findall(r"KSR\.(\w+)\.(\w+)\(", script))
    assert used
    assert used <= exported


@pytest.mark.parametrize("text", CONFIGURATIONS)
def test_the_configurations_load(text: str, tmp_path: Path) -> None:
    file = tmp_path / "polykemi.toml"
    file.write_text(text)
    assert load(file, serving=False).modules.params


def test_the_configuration_of_the_log_loads(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs/logging.md").read_text()
    (block,) = [textwrap.dedent(one) for one in re.findall(r"(?:^ {4}.*\n)+", text, re.MULTILINE) if "[log]" in one]
    file = tmp_path / "polykemi.toml"
    file.write_text(block)
    assert load(file, serving=False).log.fields == ("call_id", "at")


def test_the_parameters_that_movers_are_told_of_exist() -> None:
    text = (Path(__file__).parents[1] / "docs/migrating.md").read_text()
    table = text.partition("## The parameters")[2].partition("## Data")[0]
    rows = re.findall(r"^\| ([a-z_]+(?:, [a-z_]+)*) \| (`.*?) \|", table, re.MULTILINE)
    assert len(rows) > 10
    for modules, parameters in rows:
        there = {one.name for name in modules.split(", ") for one in fields(MODULES[name].Params)}
        assert set(re.findall(r"`(\w+)`", parameters.partition("; tables")[0])) <= there, modules
