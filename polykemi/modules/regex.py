"""regex: Perl-compatible regular expressions, given by the script or by a file (Kamailio: regex)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polykemi.errors import DataError, RpcError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.pcre import CASELESS, DOTALL, EXTENDED, MULTILINE, BadPattern, Pattern, compile_pcre
from polykemi.kemi.registry import export
from polykemi.kemi.rpc import rpc
from polykemi.modules.base import Module, Services

log = logging.getLogger("polykemi.script")


@dataclass(frozen=True, slots=True)
class RegexParams:
    """Kamailio's names and defaults."""

    file: Path | None = None  # lines "[0]", "[1]" ... begin groups, each further line is an expression of its group
    max_groups: int = 20
    group_max_size: int = 8192  # octets of a group's expressions
    # as in Kamailio these hold only when there is a file, for pcre_match too
    pcre_caseless: int = 0
    pcre_multiline: int = 0  # 1: ^ and $ know lines
    pcre_dotall: int = 0  # 1: . matches newlines
    pcre_extended: int = 0  # 1: white space and comments in expressions do not count

    def __post_init__(self) -> None:
        for key in ("max_groups", "group_max_size"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}: expected 1 or more, got {getattr(self, key)}")


class Regex(Module):
    """Matches texts; the groups of the file are kept in memory."""

    name = "regex"
    Params = RegexParams

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        p: RegexParams = self.params
        self._groups: list[Pattern] = []
        self._options = 0
        if p.file is not None:
            options = (
                (p.pcre_caseless, CASELESS),
                (p.pcre_multiline, MULTILINE),
                (p.pcre_dotall, DOTALL),
                (p.pcre_extended, EXTENDED),
            )
            self._options = sum(option for wanted, option in options if wanted)

    def start(self, now: float) -> None:
        """Read the file. Raise DataError."""
        self.reread(now)()

    def reread(self, now: float) -> Callable[[], None]:
        """Read the groups anew and return what puts them in place. Raise DataError."""
        groups = self._read(self.params.file) if self.params.file is not None else []

        def use() -> None:
            self._groups = groups

        return use

    def _read(self, file: Path) -> list[Pattern]:
        """Return the groups of a file, compiled. Raise DataError."""
        try:
            text = file.read_bytes().decode("latin-1")
        except OSError as error:
            raise DataError(f"regex: {file}: {error.strerror}") from None
        groups: list[list[str]] = []
        for number, line in enumerate(text.split("\n"), 1):
            if not line or line[0] in " \t\r\v\f#":
                continue
            if line[0] == "[":
                groups.append([])
            elif not groups:
                raise DataError(f"regex: {file}:{number}: expected [0] before the first expression")
            else:
                groups[-1].append(line)
        p: RegexParams = self.params
        if not 0 < len(groups) <= p.max_groups:
            raise DataError(f"regex: {file}: expected 1 to {p.max_groups} groups (max_groups), got {len(groups)}")
        compiled = []
        for number, lines in enumerate(groups):
            # an empty group matches what is empty
            pattern = f"({'|'.join(f'({line})' for line in lines)})" if lines else "^$"
            if len(pattern) > p.group_max_size:
                raise DataError(
                    f"regex: {file}: group {number} has more than {p.group_max_size} octets (group_max_size)"
                )
            try:
                compiled.append(compile_pcre(pattern, self._options))
            except BadPattern as error:
                raise DataError(f"regex: {file}: group {number}: {error}") from None
        return compiled

    @export()
    def pcre_match(self, ctx: RouteContext, string: str, regex: str) -> int:
        """Tell whether the expression ``regex`` matches somewhere in ``string``: 1 or -1, -4 when it does not compile."""
        try:
            return 1 if compile_pcre(regex, self._options).matches(string) else -1
        except BadPattern as error:
            log.error("regex.pcre_match: %s", error)
            return -4

    @export()
    def pcre_match_group(self, ctx: RouteContext, string: str, num_pcre: int) -> int:
        """Tell whether an expression of a group of the file matches: 1 or -1, -4 no such group, -2 no file."""
        if self.params.file is None:
            log.error("regex.pcre_match_group: there is no file of groups ([modules.regex] file)")
            return -2
        if not 0 <= num_pcre < len(self._groups):
            log.error("regex.pcre_match_group: there is no group %d, but %d groups", num_pcre, len(self._groups))
            return -4
        return 1 if self._groups[num_pcre].matches(string) else -1

    @rpc("regex.reload")
    def reload(self, *, now: float) -> None:
        """Read the file of groups anew."""
        if self.params.file is None:
            raise RpcError(500, "Group matching not enabled")
        try:
            self.reread(now)()
        except DataError as error:
            raise RpcError(500, f"Failed to reload: {error}") from None
