"""What can be told of a script before it runs: calls of functions that are not there, names that are no variables or handlers.

The text is not parsed: strings and comments are passed over, and what looks like a call of KSR is looked up. So a name that a
script makes up while it runs is not seen, and a call that never happens is told of all the same.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from polykemi.kemi.coverage import kamailio_exports
from polykemi.kemi.route import Route

_QUOTED: Final = r'"(?:\\.|[^"\\\n])*"|' + r"'(?:\\.|[^'\\\n])*'"
_PASSED: Final = {  # comments and strings
    "lua": rf"--\[(?P<c>=*)\[.*?\](?P=c)\]|--[^\n]*|\[(?P<s>=*)\[.*?\](?P=s)\]|{_QUOTED}",
    "js": rf"//[^\n]*|/\*.*?\*/|`(?:\\.|[^`\\])*`|{_QUOTED}",
    "python": rf"#[^\n]*|\"\"\".*?\"\"\"|'''.*?'''|{_QUOTED}",
}
_CALL: Final = r"(?<![\w.$])KSR(?:[._](?P<module>[a-z]\w*))?\.(?P<function>\w+)\s*\("
_PATTERNS: Final = {language: re.compile(f"{passed}|{_CALL}", re.DOTALL) for language, passed in _PASSED.items()}
_ASKED: Final = re.compile(
    r"(?<![\w.$])KSR\.(\w+)(?![\w.(\[])|\bhasattr\(\s*KSR\s*,\s*[\"'](\w+)[\"']"
)  # is the module there?
_LITERAL: Final = re.compile(rf"\s*({_QUOTED})\s*[,)]")
_FILES: Final = {  # how a script names other files of its directory
    "lua": re.compile(r"\b(?:require|dofile|loadfile)\s*\(?\s*[\"']([\w./-]+)[\"']"),
    "js": re.compile(r"\brequire\s*\(\s*[\"']([\w./-]+)[\"']"),
    "python": re.compile(r"^[ \t]*(?:import|from)[ \t]+(\w[\w.]*)", re.MULTILINE),
}
_SUFFIXES: Final = {"lua": ".lua", "js": ".js", "python": ".py"}
_MOST_FILES: Final = 100
_HANDLERS: Final = {  # whose argument names a function of the script: which one, and the blocks that it is to run
    "KSR.tm.t_on_branch": (0, Route.BRANCH),
    "KSR.tm.t_on_reply": (0, Route.ONREPLY),
    "KSR.tm.t_on_failure": (0, Route.FAILURE),
    "KSR.tm.t_on_branch_failure": (0, Route.BRANCH_FAILURE),
    "KSR.tmx.t_continue": (2, Route.REQUEST),
}
_ARGUMENT: Final = r"[^,()\"']*,"  # in front of a literal
_VARIABLE: Final = re.compile(r"KSR\.pv\.(?:get\w*|set\w*|unset|is_null)")  # their first argument is a variable


class Finding(NamedTuple):
    """What is wrong, and where."""

    file: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


def inspect(
    script: Path,
    language: str,
    functions: Collection[str],
    problem: Callable[[str], str | None],
    defines: Callable[[Route, str], bool],
) -> list[Finding]:
    """Return what is wrong in ``script`` and the files of its directory that it loads, each function once.

    ``functions`` are those that there are, as ``KSR.module.function``. A module that is not there and that a script asks for
    (``if KSR.pike then``) is no mistake. ``problem`` tells what is wrong with a variable,
    ``defines`` whether the scripts have a function for blocks of a kind.
    """
    findings: list[Finding] = []
    told: set[str] = set()
    modules = {path.split(".")[1] for path in functions}
    for file, text in _texts(script, language):
        absent = {one or other for one, other in _ASKED.findall(text)} - modules
        for match in _PATTERNS[language].finditer(text):
            function = match["function"]
            if function is None:  # a comment or a string
                continue
            module = match["module"]
            path = f"KSR.{module}.{function}" if module else f"KSR.{function}"
            cause = "" if path in functions or module in absent else _missing(path, module or "", function, functions)
            if path in _HANDLERS:
                place, kind = _HANDLERS[path]
                name = _literal(text, match.end(), place)
                if name and not defines(kind, name):
                    cause = f"{path}: the script defines no function {name}"
            elif not cause and _VARIABLE.fullmatch(path) and (name := _literal(text, match.end(), 0)) is not None:
                wrong = problem(name.encode().decode("latin-1"))
                cause = f"{name!r} is no variable: {wrong}" if wrong else ""
            if cause and cause not in told:
                told.add(cause)
                findings.append(Finding(file, text.count("\n", 0, match.start()) + 1, cause))
    return findings


def _missing(path: str, module: str, function: str, functions: Collection[str]) -> str:
    """Say that there is no function ``path``, and what may have been meant."""
    cause = f"there is no function {path}"
    if function in kamailio_exports().get(module, ()):
        return f"{cause}, one of Kamailio's that is not here or not loaded"
    elsewhere = [one for one in sorted(functions) if one.endswith(f".{function}")]
    if meant := elsewhere[:1] or difflib.get_close_matches(path, functions, n=1, cutoff=0.8):
        return f"{cause}, did you mean {meant[0]}?"
    return cause


def _literal(text: str, at: int, place: int) -> str | None:
    """Return the string that is written as argument ``place`` of a call whose arguments begin ``at``; None for all else."""
    before = re.compile(_ARGUMENT * place).match(text, at)
    found = _LITERAL.match(text, before.end()) if before else None
    return re.sub(r"\\(.)", r"\1", found[1][1:-1]) if found else None


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
