"""No regular expression of ours takes more than linear time, whatever it is given: each one in the sources is found, and
timed on texts that are made of what stands in it, in the way in which it is used."""

from __future__ import annotations

import ast
import importlib
import re
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from polykemi.kemi.pcre import compile_pcre
from polykemi.kemi.posix import compile_posix
from tests.waiting import cpu_seconds

ROOT = Path(__file__).parents[1]
SIZE = 16_000
SECONDS = 0.1  # CPU; linear ones take a hundredth, quadratic ones ten times as long
# what an operator writes: scripts, configuration and documentation are no attackers
OWN = ("__main__.py", "config.py", "reference.py", "kemi/inspection.py", "engines/js_sources.py", "kemi/pcre.py")
WAYS: dict[str, Callable[[Any, Any], object]] = {
    "match": lambda pattern, text: pattern.match(text),
    "fullmatch": lambda pattern, text: pattern.fullmatch(text),
    "search": lambda pattern, text: pattern.search(text),
    "split": lambda pattern, text: pattern.split(text),
    "findall": lambda pattern, text: pattern.findall(text),
    "finditer": lambda pattern, text: deque(
        pattern.finditer(text), maxlen=0
    ),  # a list of them would be the collector's work
    "sub": lambda pattern, text: pattern.sub(text[:0], text),
    "subn": lambda pattern, text: pattern.subn(text[:0], text),
}
PARTS = [
    "a",
    "1",
    " ",
    "\t",
    "\n",
    "\r\n",
    "\r\n ",
    '"',
    "\\",
    '\\"',
    "<",
    ">",
    ";",
    ",",
    ":",
    "=",
    "@",
    "%",
    ".",
    "[",
    "]",
    "-",
    "/",
    "(",
    "\xff",
]


class Use(NamedTuple):
    """A pattern, where it stands, and in which way it is used."""

    place: str
    source: str | bytes
    flags: int
    way: str


def literal(node: ast.expr) -> str | bytes | None:
    """Return the text of a pattern, what is filled in taken for ``x``."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(one.value) if isinstance(one, ast.Constant) else "x" for one in node.values)
    return None


def uses(path: Path) -> Iterator[Use]:
    """Give the patterns of a file: those that are compiled once, and those that stand in calls."""
    text = path.read_text()
    name = str(path.relative_to(ROOT))
    module = importlib.import_module(name.removesuffix(".py").replace("/", ".").removesuffix(".__init__"))
    for key, pattern in vars(module).items():
        if isinstance(pattern, re.Pattern) and re.search(rf"^{key}\b.*= re\.compile|^{key}\b", text, re.MULTILINE):
            for way in sorted({*re.findall(rf"\b{key}\.(\w+)\(", text)} & set(WAYS)) or ("fullmatch", "search"):
                yield Use(f"{name}:{key}", pattern.pattern, pattern.flags, way)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            of = node.func.value
            if isinstance(of, ast.Name) and of.id == "re" and node.func.attr in WAYS:
                source = literal(node.args[0])
                if source is not None:
                    flags = re.MULTILINE | re.IGNORECASE if "MULTILINE" in ast.unparse(node) else 0
                    yield Use(f"{name}:{node.lineno}", source, flags, node.func.attr)


def all_uses() -> list[Use]:
    found = []
    for path in sorted((ROOT / "polykemi").rglob("*.py")):
        if not str(path).endswith(OWN) and "testing" not in path.parts:
            found += list(uses(path))
    return found


USES = all_uses()


def beginnings(source: str | bytes) -> list[str]:
    """Return texts with which a match may begin: the literal characters at the head of the pattern."""
    text = source.decode("latin-1") if isinstance(source, bytes) else source
    parsed, head = re._parser.parse(text), ""  # type: ignore[attr-defined]
    for operation, argument in parsed:
        if str(operation) == "LITERAL":
            head += chr(argument)
        elif str(operation) not in ("AT", "ASSERT", "ASSERT_NOT"):
            break
    return [start + more for start in ({"": 0, head: 0}) for more in ("", "1", "1 ", '"')]


def pumps(source: str | bytes) -> list[str]:
    """Return what hostile texts are made of: usual parts, the characters of the pattern, and each pair of these."""
    text = source.decode("latin-1") if isinstance(source, bytes) else source
    own = [c for c in dict.fromkeys(text) if c not in "()[]{}|?*+^$\\"][:12]
    pairs = [a + b for a in own[:5] for b in (*own[:5], " ", '"', "1")]
    return list(dict.fromkeys([*PARTS, *own, *pairs]))


@pytest.mark.pure
@pytest.mark.parametrize("use", USES, ids=[f"{use.place}-{use.way}" for use in USES])
def test_a_pattern_takes_linear_time(use: Use) -> None:
    pattern, run = re.compile(use.source, use.flags), WAYS[use.way]
    for pump in pumps(use.source):
        for head in beginnings(use.source):
            for tail in ("\0", '"'):
                for size in (30, SIZE):  # what is exponential is found before it takes for ever
                    text = head + pump * (size // len(pump)) + tail
                    subject = text.encode("latin-1", "replace") if isinstance(use.source, bytes) else text
                    assert cpu_seconds(partial(run, pattern, subject)) < SECONDS, (use.source, head, pump, tail, size)


@pytest.mark.pure
def test_the_patterns_were_found() -> None:
    places = {use.place.partition(":")[0] for use in USES}
    assert len(USES) > 80
    assert {f"polykemi/sip/{name}.py" for name in ("uri", "header", "digest", "grammar", "framing", "sdp")} <= places


@pytest.mark.parametrize("compiled", [compile_posix, compile_pcre], ids=["posix", "pcre"])
@pytest.mark.parametrize("source", ["(a+)+$", "(a|aa)+$", "(a*)*b", "(.*)*(.*)*(.*)*x", "^(([a-z])+.)+[A-Z]([a-z])+$"])
def test_a_pattern_of_a_script_is_stopped(source: str, compiled: Callable[[str], Any]) -> None:
    pattern = compiled(source)
    assert cpu_seconds(lambda: [pattern.search("a" * 5000 + "!") for _ in range(20)]) < 1.5
