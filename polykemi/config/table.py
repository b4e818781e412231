"""Tables of a TOML file that know where they stand: values of the type that is wanted, or an error with its place."""

from __future__ import annotations

import difflib
import re
import tomllib
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from polykemi.errors import ConfigError
from polykemi.kemi.binding import from_octets, to_octets

FILE_NAME: Final = "polykemi.toml"

_SIZE: Final = re.compile(r"([0-9]{1,15}) ?([kMG]?)", re.ASCII)
_SIZE_UNITS: Final = {"": 1, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_AT_LINE: Final = re.compile(r" \(at line ([0-9]+), column [0-9]+\)")

T = TypeVar("T")


def unknown(name: str, known: Collection[str]) -> str:
    """Say that ``name`` is not one of ``known``: the closest one, or all when they are few."""
    if close := difflib.get_close_matches(name, known, n=1):
        return f"unknown, did you mean {close[0]}?"
    return f"unknown, expected {one_of(known)}" if 0 < len(known) < 9 else "unknown"


class Table:
    """A table of the file that knows where it stands, for errors."""

    def __init__(self, file: Path | None, path: tuple[str, ...], content: Mapping[str, Any]) -> None:
        self.file, self.path, self.content = file, path, content

    def fail(self, key: str, cause: str) -> NoReturn:
        """Raise the ConfigError about ``key`` ("": about the table itself)."""
        path = (*self.path, key) if key else self.path
        names = path if isinstance(self.content.get(key), dict) else self.path
        table = f"[{'.'.join(names)}]" if names else ""
        key = "" if names is path else key
        place = f"{self.file}:{_line(self.file, path)}" if self.file else FILE_NAME
        raise ConfigError(f"{place}: {' '.join(filter(None, (table, key)))}: {cause}")

    def only(self, known: Collection[str]) -> None:
        """Refuse keys that are not ``known``."""
        for key in self.content:
            if key not in known:
                self.fail(key, unknown(key, known))

    def get(self, key: str, kind: Any, default: Any = None) -> Any:
        """Return the value of ``key`` as the type ``kind``."""
        if key not in self.content:
            return default
        try:
            return convert(self.content[key], kind)
        except ValueError as error:
            self.fail(key, str(error))

    def table(self, key: str) -> Table:
        """Return the table ``key``, empty when it is not there."""
        content = self.content.get(key, {})
        if not isinstance(content, dict):
            self.fail(key, f"expected a table, got {shown(content)}")
        return Table(self.file, (*self.path, key), content)

    def texts(self, key: str, parse: Callable[[str], T]) -> tuple[T, ...]:
        """Return the list of texts ``key``, each parsed."""
        try:
            return tuple(parse(from_octets(text)) for text in self.get(key, list[str], []))
        except ValueError as error:
            self.fail(key, str(error))

    def relative(self, key: str) -> Path | None:
        """Return the path ``key``, relative to the file's directory; None when it is not there."""
        path: Path | None = self.get(key, Path)
        return self.file.parent / path if path and self.file else path


def read(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file. Raise ConfigError."""
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: expected UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        at = _AT_LINE.search(str(error))
        line = int(at[1]) if at else path.read_bytes().count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: {_AT_LINE.sub('', str(error))}") from None


def _line(file: Path, path: tuple[str, ...]) -> int:
    """Return the line where ``path`` begins: the one after which the beginning of the file holds it for the first time."""
    lines = file.read_text(encoding="utf-8").split("\n")
    begin = 1
    for end in range(1, len(lines) + 1):
        try:
            found: Any = tomllib.loads("\n".join(lines[:end]))
        except tomllib.TOMLDecodeError:
            continue  # inside of a value of several lines
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        if found is not None:
            return begin
        begin = end + 1
    return 1


def filled(kind: type[T], table: Table, **read: Any) -> T:
    """Return the settings ``kind`` with what ``table`` has, by names of fields; ``read``: what was read of it before."""
    hints = get_type_hints(kind)
    table.only(hints)
    values = {key: table.get(key, hints[key]) for key in table.content if key not in read}
    try:
        return kind(**values, **read)
    except ValueError as error:  # its own check
        key, _, cause = str(error).partition(": ")
        table.fail(key, cause)


def size(table: Table, key: str) -> int:
    """Return octets: a number, or a text such as ``64M``."""
    value = table.get(key, int | str, 0)
    match = _SIZE.fullmatch(str(value))
    if not match:
        table.fail(key, f"expected octets, or a size such as 64M, got {shown(value)}")
    return int(match[1]) * _SIZE_UNITS[match[2]]


def convert(value: Any, kind: Any) -> Any:
    """Return a TOML value as the type ``kind``. Raise ValueError saying what was expected and what came.

    Text becomes octets; one text is taken for a list of texts, an integer for a float, 0 and 1 for a bool.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        some = [one for one in inner if one is not types.NoneType]
        if len(some) == 1:
            return convert(value, some[0])
        for one in some:
            try:
                return convert(value, one)
            except ValueError:
                continue
    elif origin is Literal:
        if value in inner:
            return value
        raise ValueError(f"expected {one_of([str(i) for i in inner])}, got {shown(value)}")
    elif origin in (list, tuple, frozenset):
        if isinstance(value, str | list):
            return origin(convert(item, inner[0]) for item in ([value] if isinstance(value, str) else value))
    elif origin in (dict, Mapping):
        if isinstance(value, dict):
            return {to_octets(k): _convert_item(k, v, inner[1]) for k, v in value.items()}
    elif kind is bool:
        if isinstance(value, bool) or (type(value) is int and value in (0, 1)):
            return bool(value)
    elif kind is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif kind is Path:
        if isinstance(value, str) and value and "\0" not in value:
            return Path(value)
    elif kind is str:
        if isinstance(value, str):
            return to_octets(value)
    elif type(value) is kind:
        return value
    raise ValueError(f"expected {_kind_name(kind)}, got {shown(value)}")


def _convert_item(key: str, value: Any, kind: Any) -> Any:
    try:
        return convert(value, kind)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _kind_name(kind: Any) -> str:
    names = {int: "an integer", float: "a number", str: "a text", Path: "a path", bool: "true or false"}
    if kind in names:
        return names[kind]
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_kind_name(one) for one in inner if one is not types.NoneType)
    if origin in (list, tuple, frozenset):
        return "a list of texts" if inner[0] is str else f"a list, each {_kind_name(inner[0])}"
    return "a table"


def shown(value: Any) -> str:
    """Return a TOML value as an error shows it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    return f'"{value}"' if isinstance(value, str) else str(value)


def one_of(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last
