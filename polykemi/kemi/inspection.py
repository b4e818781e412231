"""What can be told of a script before it runs: calls of functions that are not there, names that are no variables.

The text is not parsed: strings and comments are passed over, and what looks like a call of KSR is looked up. So a name that a
script makes up while it runs is not seen, and a call that never happens is told of all the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final, NamedTuple

_QUOTED: Final = r'"(?:\\.|[^"\\\n])*"|' + r"'(?:\\.|[^'\\\n])*'"
_PASSED: Final = {  # comments and strings
    "lua": rf"--\[(?P<c>=*)\[.*?\](?P=c)\]|--[^\n]*|\[(?P<s>=*)\[.*?\](?P=s)\]|{_QUOTED}",
    "js": rf"//[^\n]*|/\*.*?\*/|`(?:\\.|[^`\\])*`|{_QUOTED}",
    "python": rf"#[^\n]*|\"\"\".*?\"\"\"|'''.*?'''|{_QUOTED}",
}
_CALL: Final = r"(?<![\w.$])KSR(?:[._](?P<module>[a-z]\w*))?\.(?P<function>\w+)\s*\("
_PATTERNS: Final = {language: re.compile(f"{passed}|{_CALL}", re.DOTALL) for language, passed in _PASSED.items()}
_LITERAL: Final = re.compile(rf"\s*({_QUOTED})\s*[,)]")
_FILES: Final = {  # how a script names other files of its directory
    "lua": re.compile(r"\b(?:require|dofile|loadfile)\s*\(?\s*[\"']([\w./-]+)[\"']"),
    "js": re.compile(r"\brequire\s*\(\s*[\"']([\w./-]+)[\"']"),
    "python": re.compile(r"^[ \t]*(?:import|from)[ \t]+(\w[\w.]*)", re.MULTILINE),
}
_SUFFIXES: Final = {"lua": ".lua", "js": ".js", "python": ".py"}
_MOST_FILES: Final = 100
_VARIABLE: Final = re.compile(r"KSR\.pv\.(?:get\w*|set\w*|unset|is_null)")  # their first argument is a variable


class Finding(NamedTuple):
    """What is wrong, and where."""

    file: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


def inspect(
    script: Path, language: str, functions: Collection[str], problem: Callable[[str], str | None]
) -> list[Finding]:
    """Return what is wrong in ``script`` and the files of its directory that it loads, each function once.

    ``functions`` are those that there are, as ``KSR.module.function``; ``problem`` tells what is wrong with a variable.
    """
    findings: list[Finding] = []
    told: set[str] = set()
    for file, text in _texts(script, language):
        for match in _PATTERNS[language].finditer(text):
            function = match["function"]
            if function is None:  # a comment or a string
                continue
            module = match["module"]
            path = f"KSR.{module}.{function}" if module else f"KSR.{function}"
            cause = "" if path in functions else f"there is no function {path}"
            if not cause and _VARIABLE.fullmatch(path) and (literal := _LITERAL.match(text, match.end())):
                name = re.sub(r"\\(.)", r"\1", literal[1][1:-1])
                wrong = problem(name.encode().decode("latin-1"))
                cause = f"{name!r} is no variable: {wrong}" if wrong else ""
            if cause and cause not in told:
                told.add(cause)
                findings.append(Finding(file, text.count("\n", 0, match.start()) + 1, cause))
    return findings


def _texts(script: Path, language: str) -> Iterator[tuple[Path, str]]:
    """Yield a script and the files beside it that it names, with their texts."""
    suffix, directory = _SUFFIXES[language], script.parent
    waiting, seen = [script], {script}
    while waiting and len(seen) < _MOST_FILES:
        path = waiting.pop()
        try:
            text = path.read_text("utf-8", "replace")
        except OSError:
            continue
        yield path, text
        for name in _FILES[language].findall(text):
            plain = name if name.endswith(suffix) else (name if language == "js" else name.replace(".", "/")) + suffix
            other = directory / plain
            if other not in seen and other.is_file():
                seen.add(other)
                waiting.append(other)
