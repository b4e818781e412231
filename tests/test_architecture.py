"""docs/architecture.md stays true: every part of the package has its line, and every line its part."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
ROOMS = dict(re.findall(r"^\| (`[^|]*?`) \| (.*) \|$", PAGE, re.MULTILINE))


def names(package: str) -> set[str]:
    """Return the modules of a package that the page has to name."""
    return {p.stem for p in (ROOT / "polykemi" / package).glob("*.py") if not p.stem.startswith("_")}


def test_every_package_and_top_level_module_has_a_room() -> None:
    named = {name for rooms in ROOMS for name in re.findall(r"`([^`]+)`", rooms)}
    package = ROOT / "polykemi"
    there = {p.name for p in package.glob("*.py") if p.name != "__init__.py"}
    there |= {f"{p.parent.name}/" for p in package.glob("*/__init__.py")}
    assert there <= named


def test_every_file_of_a_described_package_is_named_in_its_room() -> None:
    for package in ("sip", "transaction", "kemi", "pv", "engines", "storage", "transport", "control"):
        room = next(text for name, text in ROOMS.items() if name == f"`{package}/`")
        named = {n.split(".")[0] for n in re.findall(r"`([A-Za-z0-9_.]+)`", room)}
        assert names(package) <= named, package


def test_every_file_that_the_page_names_with_its_path_exists() -> None:
    for path in re.findall(r"`((?:[a-z_]+/)+[a-z_0-9]+\.[a-z]+)`", PAGE):
        assert (ROOT / "polykemi" / path).exists() or (ROOT / path).exists(), path
