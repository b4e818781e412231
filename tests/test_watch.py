"""``serve --watch``: a change is seen, however a deployment brings it about. Saved files: tests/e2e/test_reload.py."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from polykemi import watch


class Site:
    """Two releases, a link to the first, and a watcher of the script that it leads to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for release in ("1", "2"):
            self.release(release)
        (root / "current").symlink_to("1")
        self.seen = threading.Event()
        self.watcher = watch.Watcher(lambda: [root / "current" / "route.lua"], self.seen.set)

    def release(self, name: str) -> None:
        """Make a directory with a script."""
        (self.root / name).mkdir()
        (self.root / name / "route.lua").write_text(name)

    def is_seen(self) -> bool:
        """Wait until a change is seen."""
        seen = self.seen.wait(30)
        self.seen.clear()
        return seen


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(watch, "_LOOK", 20)
    made = Site(tmp_path)
    yield made
    made.watcher.close()


def test_a_link_that_leads_to_another_release_is_a_change(site: Site) -> None:
    for release in ("2", "1"):
        (site.root / "new").symlink_to(release)
        (site.root / "new").replace(site.root / "current")
        assert site.is_seen()


def test_a_link_beside_the_script_and_what_is_behind_it_is_watched(site: Site) -> None:
    for release in ("one", "two"):
        (site.root / release).mkdir()
        (site.root / "new").symlink_to(site.root / release)
        (site.root / "new").replace(site.root / "1" / "lib")
        assert site.is_seen()
        (site.root / release / "module.lua").write_text(release)
        assert site.is_seen()


def test_a_script_that_is_a_link_is_watched_where_it_stands(site: Site) -> None:
    (site.root / "1" / "route.lua").unlink()
    (site.root / "1" / "route.lua").symlink_to(site.root / "2" / "route.lua")
    assert site.is_seen()
    (site.root / "2" / "route.lua").write_text("saved")
    assert site.is_seen()


def test_a_directory_that_is_made_anew_is_a_change(site: Site) -> None:
    shutil.rmtree(site.root / "1")
    assert site.is_seen()
    site.release("1")
    assert site.is_seen()
