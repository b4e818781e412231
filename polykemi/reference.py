"""The pages of ``docs/reference``, written from the declarations: ``python -m polykemi.reference [DIRECTORY]``.

Functions come from ``@export``, commands from ``@rpc``, parameters with their comments from the modules' ``Params``,
variables and events from the modules, what Kamailio has besides from the facts in ``kemi/kamailio_exports.tsv``,
``pv/kamailio_variables.tsv`` and ``pv/kamailio_transformations.tsv``.
"""

from __future__ import annotations

import csv
import inspect
import io
import re
import sys
import textwrap
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from polykemi.control import commands
from polykemi.control.api import Api
from polykemi.control.app import App
from polykemi.control.cfg import Cfg
from polykemi.control.logs import Logs
from polykemi.control.names import Dns, DstBlocklist
from polykemi.control.process import Core, Memory
from polykemi.control.sockets import Sockets, Tcp
from polykemi.control.trace import Tracing
from polykemi.kemi.context import Current
from polykemi.kemi.coverage import CORE, Coverage, coverage, kamailio_exports
from polykemi.kemi.ids import Ids
from polykemi.kemi.registry import Export, Xval, exports_of
from polykemi.kemi.route import Route
from polykemi.kemi.rpc import Command, commands_of, declared
from polykemi.live import mark_of
from polykemi.modules import MODULES
from polykemi.modules.base import Module, Outbox, Services
from polykemi.pv.classes import (
    BUILT_IN,
    auth,
    avp,
    branches,
    message,
    network,
    parties,
    script,
    times,
    transaction,
    uris,
)
from polykemi.pv.compiler import Variables
from polykemi.pv.transformations import STEPS
from polykemi.reconfigure import Reconfiguration
from polykemi.sip.flow import Listener
from polykemi.storage.location import MemoryLocation
from polykemi.storage.provisioned import Database

DIRECTORY: Final = Path(__file__).parents[1] / "docs/reference"
_TOPICS: Final = (uris, parties, message, network, auth, times, script, avp, branches, transaction)
_ACCESS: Final = {"r": "read-only", "rw": "can be set"}
_NOTE: Final = "<!-- Written by `make reference` from the sources: change those. -->\n"


class _NoScripts:
    """Scripts that define nothing."""

    def defines(self, kind: Route, callback: str, version: Any = None) -> bool:
        return False

    def invoke(self, engine: str, function: str, arguments: Sequence[str]) -> Xval:
        return None

    def evaluate(self, engine: str, text: str, *, apart: bool) -> int:
        return -1

    def read(self, engine: str, name: str) -> str | None:
        return None

    def where(self) -> str:
        return ""


def _instances() -> dict[str, Module]:
    services = Services(
        listeners=(Listener("udp", "127.0.0.1", 5060),),
        domains=frozenset(),
        outbox=Outbox(),
        ids=Ids(),
        current=Current(),
        variables=Variables(),
        location=MemoryLocation(),
        database=Database(),
        routes=_NoScripts(),
    )
    services.modules = made = {name: module(services) for name, module in MODULES.items()}
    return made


def pages(differences: str) -> dict[str, str]:
    """Return the name of each file and what is in it. ``differences``: the text of docs/differences.md."""
    instances = _instances()
    compared = {one.module or CORE: one for one in coverage(MODULES.values())}
    out = {f"{name}.md": _page(name, instances[name], compared.get(name), differences) for name in MODULES}
    out["variables.md"] = _variables(instances)
    out["transformations.md"] = _transformations(instances)
    out["commands.md"] = _commands(instances)
    out["README.md"] = _index(instances, compared)
    return {name: _NOTE + text.rstrip("\n") + "\n" for name, text in out.items()}


# ---- one module
def _page(name: str, module: Module, compared: Coverage | None, differences: str) -> str:
    parts = [f"# {name}\n", _module_doc(module)]
    exports = [export for export, _ in sorted(exports_of(type(module)).values(), key=lambda pair: pair[0].name)]
    if exports:
        parts += ["\n## Functions\n", *map(_function, exports)]
    if compared is not None and compared.missing:
        missing = ", ".join(f"`{one}`" for one in compared.missing)
        parts.append(f"\nKamailio also has, and polykemi has not: {missing}.\n")
    rows = list(_parameters(type(module).Params))
    if rows:
        table = "".join(f"| `{n}` | {t} | {default} | {what} |\n" for n, t, default, what in rows)
        head = f"\n## Parameters\n\nIn `[modules.{name}]` of the configuration.\n"
        parts += [head, _indented_doc(type(module).Params), "\n| name | type | default | |\n|---|---|---|---|\n", table]
    variables = module.pv_classes()
    if variables:
        parts += ["\n## Variables\n\n", _variable_table(variables), _indented_doc(type(module).pv_classes)]
    lacking = sorted(n for n, row in _facts("variables").items() if row["module"] == name and n not in _here(variables))
    if lacking:
        parts.append(
            f"\nVariables that Kamailio also has, and polykemi has not: {', '.join(f'`{n}`' for n in lacking)}.\n"
        )
    steps = module.transformations()
    if steps:
        parts += ["\n## Transformations\n\n", _step_table(steps), _indented_doc(type(module).transformations)]
    events = type(module).events
    if events:
        parts += ["\n## Events\n\n", *(f"- `{event}`: {what}\n" for event, what in events.items())]
    found = [command for part in module.commands() for command in commands_of(part)]
    if found:
        parts += ["\n## Commands\n\n", *map(_command, found)]
    titles = _differences_of(name, differences)
    if titles:
        parts.append("\n## Differences from Kamailio\n\n")
        parts += [f"- {title} (see [differences](../differences.md))\n" for title in titles]
    return "".join(parts)


def _module_doc(module: Module) -> str:
    """Return what the file of the module says of itself, the class where the file says nothing."""
    text = inspect.getdoc(sys.modules[type(module).__module__]) or inspect.getdoc(type(module)) or ""
    return f"\n{_prose(text)}\n"


def _indented_doc(declared: Any) -> str:
    text = inspect.getdoc(declared) if declared.__doc__ else ""
    inherited = text in (inspect.getdoc(Module.pv_classes), inspect.getdoc(Module.transformations))
    made = text and text.startswith(f"{getattr(declared, '__name__', '')}(")  # dataclasses write one of their own
    return "" if not text or inherited or made else f"\n{_prose(text)}\n"


def _prose(text: str) -> str:
    """Return a docstring as Markdown: ``code`` in one backtick."""
    return textwrap.dedent(text).replace("``", "`")


def _function(export: Export) -> str:
    signature = f"{export.path}({', '.join(f'{p.name}: {p.type}' for p in export.params)}) -> {export.returns}"
    theirs = kamailio_exports().get(export.module, {}).get(export.name)
    notes = []
    if export.routes != Route.ANY:
        places = [route.name or "" for route in list(Route) if int(route) & int(export.routes)]
        notes.append("Where: " + ", ".join(place.lower() for place in places))
    if theirs is None:
        notes.append("Kamailio has no such function for KEMI")
    elif theirs.later:
        notes.append("In Kamailio since a version after 5.6")
    tail = f"\n\n*{'. '.join(notes)}.*" if notes else ""
    return f"\n### `{signature}`\n\n{_prose(export.doc)}{tail}\n"


def _parameters(params: type[Any]) -> Iterator[tuple[str, str, str, str]]:
    """Give name, type, default and comment of each parameter."""
    comments: dict[str, str] = {}
    for one in reversed(params.__mro__[:-1]):
        comments |= _comments(one)
    for one_field in fields(params):
        default = one_field.default
        if default is MISSING:
            default = one_field.default_factory() if one_field.default_factory is not MISSING else ""
        kind = str(one_field.type).replace("|", "or")
        mark = mark_of(one_field.metadata)
        meaning = comments.get(one_field.name, "")
        if mark is not None:
            meaning = f"{mark.doc}. *Can change at run time{f', as `{mark.name}`' if mark.name else ''}.*"
        yield one_field.name, kind, _toml(default), meaning.replace("|", "\\|")


def _toml(value: object) -> str:
    if isinstance(value, (tuple, list, frozenset, set)):
        return f"`[{', '.join(_toml(one).strip('`') for one in value)}]`"
    if isinstance(value, str):
        return f'`"{value}"`'.replace("|", "\\|")
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _comments(declared: type[Any]) -> dict[str, str]:
    """Return field -> the comment behind its declaration."""
    out: dict[str, str] = {}
    name = ""
    for token in tokenize.generate_tokens(io.StringIO(textwrap.dedent(inspect.getsource(declared))).readline):
        if match := re.match(r"    (\w+): ", token.line):
            name = match[1]
        if token.type == tokenize.COMMENT and name and "noqa" not in token.string:
            out.setdefault(name, token.string.lstrip("# "))
    return out


@cache
def _facts(what: str) -> dict[str, dict[str, str]]:
    """Return name -> what is known of Kamailio's variables or transformations; of two of one name the first."""
    text = files("polykemi.pv").joinpath(f"kamailio_{what}.tsv").read_text("ascii")
    out: dict[str, dict[str, str]] = {}
    for row in csv.DictReader(text.splitlines(), delimiter="\t"):
        out.setdefault(row["name"], row)
    return out


def _here(variables: Iterable[str]) -> set[str]:
    return {f"${name}" for name in (*variables, *BUILT_IN)}


def _variable_table(names: Iterable[str]) -> str:
    rows = []
    for name in sorted(names, key=lambda name: (name.lower(), name)):
        fact = _facts("variables").get(f"${name}", {})
        form, access = fact.get("form", f"${name}"), fact.get("access", "")
        rows.append(f"| `{_cell(form)}` | {_cell(fact.get('meaning', ''))} | {_ACCESS.get(access, '')} |\n")
    return "| | | |\n|---|---|---|\n" + "".join(rows)


def _step_table(names: Iterable[str]) -> str:
    facts = _facts("transformations")
    rows = [(facts.get(n, {}).get("form", f"{{{n}}}"), facts.get(n, {}).get("meaning", "")) for n in sorted(names)]
    return "| | |\n|---|---|\n" + "".join(f"| `{_cell(form)}` | {_cell(meaning)} |\n" for form, meaning in rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _command(command: Command) -> str:
    return f"- `{command.name}` ({command.usage}): {' '.join(_prose(command.doc).split())}\n"


def _differences_of(name: str, differences: str) -> list[str]:
    """Return the titles in docs/differences.md that stand in the section of the module, or begin with its name."""
    found, here = [], False
    for heading, title in re.findall(r"^(?:## (.+)|\*\*(.+?)\*\*)", differences, re.MULTILINE):
        if heading:
            here = name in heading.split(", ")
        elif here or re.match(rf"{re.escape(name)}[.: ]", title):
            found.append(title.rstrip("."))
    return found


# ---- what belongs to several modules
def _variables(instances: Mapping[str, Module]) -> str:
    parts = ["# Variables\n\nRead and written with `KSR.pv`. Those of single modules:\n\n"]
    for name, module in instances.items():
        if classes := module.pv_classes():
            parts.append(f"- [{name}]({name}.md#variables): {', '.join(f'`${one}`' for one in sorted(classes))}\n")
    for topic in _TOPICS:
        first, _, rest = (inspect.getdoc(topic) or "").partition("\n")
        title = _prose(first).partition(": `$")[0].rstrip(".")
        parts.append(f"\n## {title[0].upper()}{title[1:]}\n\n{_variable_table(topic.CLASSES)}")
        parts.append(f"\n{_prose(rest.strip())}\n" if rest.strip() else "")
    return "".join(parts)


def _transformations(instances: Mapping[str, Module]) -> str:
    parts = ["# Transformations\n\nWritten behind a variable, one after the other: `$(ru{uri.user}{s.len})`.\n"]
    classes: dict[str, list[str]] = {}
    for step in STEPS:
        classes.setdefault(step.partition(".")[0], []).append(step)
    for name, steps in sorted(classes.items()):
        parts.append(f"\n## {name}\n\n{_step_table(steps)}")
    for name, module in instances.items():
        if steps_of := module.transformations():
            parts.append(f"\n## Of [{name}]({name}.md)\n\n{_step_table(steps_of)}")
    return "".join(parts)


# the parts of a server that have commands and are no modules
_OF_SERVER: Final = (
    *(Core, Memory, Sockets, Tcp, Api, App, Reconfiguration, Cfg, Logs, Tracing),
    *(commands.Stats, commands.Counters, commands.Routes, commands.System, Dns, DstBlocklist),
)


def _commands(instances: Mapping[str, Module]) -> str:
    parts = ["# Commands\n\nAsked with `polykemi rpc`. Those of the server:\n\n"]
    parts += [_command(command) for part in _OF_SERVER for _, command in declared(part)]
    for name, module in instances.items():
        if found := [command for part in module.commands() for command in commands_of(part)]:
            parts += [f"\n## {name}\n\n", *map(_command, found)]
    return "".join(parts)


def _index(instances: Mapping[str, Module], compared: Mapping[str, Coverage]) -> str:
    parts = ["# Reference\n\n| module | | functions, of Kamailio's |\n|---|---|---|\n"]
    for name, module in instances.items():
        first = _module_doc(module).strip().partition("\n")[0].rstrip(".")
        one = compared.get(name)
        share = f"{len(one.have)} of {one.all}" if one is not None else ""
        parts.append(f"| [{name}]({name}.md) | {first.partition(': ')[2] or first} | {share} |\n")
    parts.append(
        "\n[Variables](variables.md), [transformations](transformations.md), [commands](commands.md), and where "
    )
    parts.append("polykemi and Kamailio [differ](../differences.md).\n")
    return "".join(parts)


def main() -> None:
    """Write the pages into the directory that is named, or docs/reference; remove pages that are no more."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else DIRECTORY
    directory.mkdir(parents=True, exist_ok=True)
    written = pages((DIRECTORY.parent / "differences.md").read_text("utf-8"))
    for name, text in written.items():
        (directory / name).write_text(text, "utf-8")
    for path in directory.glob("*.md"):
        if path.name not in written:
            path.unlink()


if __name__ == "__main__":
    main()
