"""The table [service]."""

from __future__ import annotations

from pathlib import Path

import pytest

from polykemi.config import load
from polykemi.config.service import ServiceSettings
from polykemi.errors import ConfigError


def settings(tmp_path: Path, text: str) -> ServiceSettings:
    file = tmp_path / "polykemi.toml"
    file.write_text(f"[service]\n{text}\n")
    return load(file, serving=False).service


def test_all_of_it_is_optional(tmp_path: Path) -> None:
    assert settings(tmp_path, "") == ServiceSettings("", "", None, None, 5.0, 10.0)


def test_what_it_says_is_taken(tmp_path: Path) -> None:
    text = 'user = "root"\ngroup = "root"\npid_file = "x.pid"\numask = "0027"\ndrain = 0\nwatchdog = 2'
    assert settings(tmp_path, text) == ServiceSettings("root", "root", tmp_path / "x.pid", 0o27, 0.0, 2.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('user = "nobody-at-all"', 'user: expected a user of this machine, got "nobody-at-all"'),
        ('user = "root"\ngroup = "none-at-all"', 'group: expected a group of this machine, got "none-at-all"'),
        ('group = "root"', "group: expected a user beside it"),
        ("user = 0", "user: expected a text, got 0"),
        ('umask = "99"', 'umask: expected octal digits such as "0027", got "99"'),
        ('umask = "7777"', 'umask: expected octal digits such as "0027", got "7777"'),
        ("umask = 27", "umask: expected a text, got 27"),
        ("drain = -1", "drain: expected seconds from 0 to 3600, got -1"),
        ("watchdog = 0.1", "watchdog: expected seconds from 1 to 3600, got 0.1"),
        ("usr = 1", "usr: unknown, did you mean user?"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settings(tmp_path, text)
    file, line, cause = str(refused.value).split(":", 2)
    assert (file, cause) == (f"{tmp_path}/polykemi.toml", f" [service] {says}")
    assert int(line) in (2, 3)
