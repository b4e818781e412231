"""Build the compiled form of polykemi: the same sources, those of the hot path through mypyc.

Only on demand (POLYKEMI_COMPILE=1) and only into a wheel, never beside the sources, where a compiled module would hide the
source that has changed since. What is compiled is listed in pyproject.toml; every module works uncompiled as well.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SETUP = """
import sys
from mypyc.build import mypycify
from setuptools import setup
arguments = ["--config-file", "mypy.ini", *sys.argv[2:]]
# in one file gcc takes three times as long
modules = mypycify(arguments, opt_level="2", debug_level="0", strip_asserts=True, multi_file=True)
sys.argv[2:] = ["--inplace"]
setup(name="polykemi", packages=[], ext_modules=modules)
"""
MYPY = "[mypy]\nignore_missing_imports = True\nexplicit_package_bases = True\n"


class CompileHook(BuildHookInterface[Any]):
    """Adds the compiled modules to the wheel."""

    PLUGIN_NAME = "custom"
    _directory: tempfile.TemporaryDirectory[str] | None = None

    @property
    def _is_wanted(self) -> bool:
        return os.environ.get("POLYKEMI_COMPILE") == "1"

    def dependencies(self) -> list[str]:
        """Return what an isolated build needs besides."""
        return ["mypy>=1.20", "setuptools>=77"] if self._is_wanted else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile in a copy of the sources, before the wheel is put together."""
        if version == "editable" or not self._is_wanted:
            return
        self._directory = tempfile.TemporaryDirectory(prefix="polykemi-")
        copy = Path(self._directory.name)
        shutil.copytree(Path(self.root) / "polykemi", copy / "polykemi", ignore=shutil.ignore_patterns("*.so"))
        (copy / "mypy.ini").write_text(MYPY)
        (copy / "setup.py").write_text(SETUP)
        files = sorted({str(f.relative_to(copy)) for pattern in self.config["modules"] for f in copy.glob(pattern)})
        result = subprocess.run(
            [sys.executable, "setup.py", "build_ext", *files], cwd=copy, capture_output=True, text=True, check=False
        )
        if result.returncode != 0:
            raise RuntimeError(f"mypyc: {result.stdout[-4000:]}\n{result.stderr[-4000:]}")
        for module in (*copy.glob("*.so"), *copy.glob("polykemi/**/*.so")):
            build_data["force_include"][str(module)] = str(module.relative_to(copy))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the copy."""
        if self._directory is not None:
            self._directory.cleanup()
