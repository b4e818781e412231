"""The README is true: its example configuration loads, its commands and files exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from polykemi import config
from polykemi.cli import main
from polykemi.errors import ConfigError
from polykemi.kemi.route import Route

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def example(tmp_path: Path, old: str = "", new: str = "") -> Path:
    blocks = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 1
    assert old in blocks[0]
    path = tmp_path / "polykemi.toml"
    path.write_text(blocks[0].replace(old, new) if old else blocks[0])
    return path


def test_the_example_configuration_loads(tmp_path: Path) -> None:
    settings = config.load(example(tmp_path))
    assert {one.name for one in settings.engines} == {"lua", "js", "python"}
    assert settings.routes.engine_for(Route.FAILURE, "ksr_failure_manage") == "python"
    assert settings.domains == ("example.com",)


def test_the_mistake_that_is_shown_looks_like_this(tmp_path: Path) -> None:
    path = example(tmp_path, "max_contacts", "max_contact")
    with pytest.raises(ConfigError) as raised:
        config.load(path)
    assert f"polykemi: {str(raised.value).replace(str(path), path.name)}\n" in README


def test_each_command_that_is_shown_exists(capsys: pytest.CaptureFixture[str]) -> None:
    commands = set(re.findall(r"^\.venv/bin/polykemi (serve|functions|rpc|[a-z]+ [a-z]+)\b", README, re.MULTILINE))
    assert commands >= {"serve", "functions", "rpc", "subscriber add", "subscriber import", "subscriber remove"}
    for command in sorted(commands):
        main([*command.split(" "), "--help"])
        assert capsys.readouterr().out.startswith(f"Usage: polykemi {command} ")


def test_each_make_target_that_is_shown_exists() -> None:
    targets = set(re.findall(r"\bmake ([a-z]+)\b", re.sub(r"<!--.*?-->", "", README, flags=re.DOTALL)))
    known = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"serve", "test", "check", "bench"} <= targets
    assert targets <= known


def test_each_file_that_is_shown_exists() -> None:
    shown = {*re.findall(r"\]\(([^)#:]+)\)", README), *re.findall(r"\broutes/[a-z/.]*[a-z]", README)}
    assert {"LICENSE", "routes/lua/basic.lua", "routes/js/basic.js", "routes/py/basic.py"} <= shown
    for path in shown:
        assert (ROOT / path).exists(), path


def test_the_example_test_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})
