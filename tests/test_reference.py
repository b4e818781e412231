"""docs/reference: written from the declarations, and up to date."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from polykemi.modules import MODULES
from polykemi.reference import DIRECTORY, pages
from polykemi.testing import ServerUnderTest

pytestmark = pytest.mark.pure  # the sources are read


@cache
def written() -> dict[str, str]:
    """Return the pages as they would be written now."""
    return pages((DIRECTORY.parent / "differences.md").read_text("utf-8"))


def test_the_pages_are_what_the_sources_say() -> None:
    on_disk = {path.name: path.read_text("utf-8") for path in DIRECTORY.glob("*.md")}
    assert sorted(name for name in {*written(), *on_disk} if written().get(name) != on_disk.get(name)) == [], (
        "run make reference"
    )


@pytest.mark.parametrize(
    "page, text",
    [
        ("sl.md", "### `KSR.sl.send_reply(code: int, reason: str) -> int`"),
        ("auth.md", "In Kamailio since a version after 5.6"),
        ("auth_db.md", "Kamailio has no such function for KEMI"),
        ("pike.md", "| `sampling_time_unit` | int | `2` |"),
        ("htable.md", "- `htable:mod-init`: "),
        ("variables.md", "| `$ru` | request URI | can be set |"),
        ("transformations.md", "| `{s.len}` | number of bytes |"),
        ("commands.md", "- `core.version` (no parameters): "),
        ("README.md", "| [maxfwd](maxfwd.md) | "),
    ],
)
def test_a_page_tells_what_is_declared(page: str, text: str) -> None:
    assert text in written()[page]


def test_each_command_that_a_server_has_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "a.lua").write_text("function ksr_request_route() end\n")
    with ServerUnderTest({"lua": str(tmp_path / "a.lua")}) as server:
        names = set(server.node.rpc.commands)
    told = set(re.findall(r"^- `([\w.]+)` \(", written()["commands.md"], re.MULTILINE))
    assert names - told == set()


def test_the_events_that_are_raised_are_declared() -> None:
    declared = {event for module in MODULES.values() for event in module.events}
    assert declared >= {
        "htable:mod-init",
        "htable:expired:TABLE",
        "dispatcher:dst-up",
        "dispatcher:dst-down",
        "usrloc:contact-expired",
        "tm:local-request",
    }
