"""Make the callable that a script calls: argument checks, conversion, context and errors around one export.

Generated once for each export and engine, so that a call costs one Python frame and no loop. How values of the wrong
type are taken differs between Kamailio's engines (``Conversion``); that they are checked here does not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from typing import Any, Protocol

from polykemi.errors import SipError
from polykemi.kemi.context import Current
from polykemi.kemi.registry import Export
from polykemi.kemi.route import ROUTE_NAMES, Route

log = logging.getLogger("polykemi.kemi")

MISSING: Any = object()
_FAILED = {"int": -1, "bool": False, "xval": None, "none": False}


class Refused(Exception):
    """An argument that cannot be taken; the text says what was expected and what came."""


class Conversion(Protocol):
    """How one engine takes arguments and gives results."""

    unicode: bool  # script strings are Unicode text: they cross the border as UTF-8
    extra_arguments: bool  # arguments to a function without parameters are ignored (else: refused)
    none_result: Any  # what a function without parameters and result gives

    def to_int(self, value: Any) -> int:
        """Return ``value`` as the engine coerces it to an integer, or raise Refused."""

    def to_str(self, value: Any) -> str:
        """Return ``value`` as the engine coerces it to text, or raise Refused."""

    def missing(self) -> Any:
        """Return what stands for an argument that was not given, or raise Refused."""

    def where(self) -> str:
        """Return the script's ``file:line`` of the call that is running."""


def to_octets(text: str) -> str:
    """Turn a script's Unicode text into polykemi's one-character-per-octet text (UTF-8)."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def from_octets(text: str) -> str:
    """Turn one-character-per-octet text into Unicode; octets that are no UTF-8 survive as lone surrogates."""
    return text.encode("latin-1").decode("utf-8", "surrogateescape")


def bind(
    export: Export,
    function: Callable[..., Any],
    current: Current,
    conversion: Conversion,
    *,
    drive: Callable[[Generator[Any, None, Any]], Any] | None = None,
    trace: Callable[[str, tuple[Any, ...], Any], None] | None = None,
) -> Callable[..., Any]:
    """Return the callable for ``export``.

    ``drive`` runs a Process to its end and returns its value; without it a Process is returned for the engine to drive.
    ``trace`` is called with path, arguments and result of every call.
    """

    def no_context() -> Any:
        log.error("%s: called outside of message processing at %s", export.path, conversion.where())
        return False

    def not_here(kind: Route) -> Any:
        log.warning("%s: makes no sense in %s, at %s", export.path, ROUTE_NAMES[kind], conversion.where())
        return _FAILED[export.returns]

    def refuse(refusal: Refused) -> Any:
        log.error("%s: %s at %s", export.path, refusal, conversion.where())
        return False

    def failed(error: SipError) -> Any:
        log.info("%s: %s", export.path, error)
        return _FAILED[export.returns]

    def wrong(value: Any, param: str, convert: Callable[[Any], Any]) -> Any:
        try:
            if value is MISSING:
                value = conversion.missing()
            return convert(value)
        except Refused as refusal:
            raise Refused(f"argument {param}: {refusal}") from None

    names = [p.name for p in export.params]
    signature = ", ".join([*(f"{n}=MISSING" for n in names), "*extra"])
    lines = [f"def {export.name}_({signature}):", " ctx = current.ctx", " if ctx is None: return no_context()"]
    if export.routes != Route.ANY:
        lines.append(f" if not ctx.kind & {int(export.routes)}: return not_here(ctx.kind)")
    lines.append(" try:")
    if not names and not conversion.extra_arguments:
        lines.append('  if extra: raise Refused(f"takes no arguments, {len(extra)} given")')
    for p in export.params:
        if p.type == "int":
            lines.append(f"  if type({p.name}) is not int: {p.name} = wrong({p.name}, '{p.name} (int)', to_int)")
        else:
            lines.append(f"  if type({p.name}) is not str: {p.name} = wrong({p.name}, '{p.name} (str)', to_str)")
            if conversion.unicode:
                lines.append(f"  if not {p.name}.isascii(): {p.name} = to_octets({p.name})")
    call = f"function({', '.join(['ctx', *names])})"
    if export.is_process and drive is not None:
        call = f"drive({call})"
    lines.append(f"  result = {call}")
    lines.append(" except Refused as refusal: return refuse(refusal)")
    lines.append(" except SipError as error: result = failed(error)")
    if export.returns == "none":
        lines.append(f" if result is None: result = {'none_result' if not names else '0'}")
    if trace is not None:
        lines.append(f" trace({export.path!r}, ({''.join(n + ', ' for n in names)}), result)")
    if export.returns == "xval" and conversion.unicode:
        lines.append(" if type(result) is str and not result.isascii(): result = from_octets(result)")
    lines.append(" return result")
    scope: dict[str, Any] = {
        "MISSING": MISSING,
        "Refused": Refused,
        "SipError": SipError,
        "current": current,
        "drive": drive,
        "failed": failed,
        "from_octets": from_octets,
        "function": function,
        "no_context": no_context,
        "none_result": conversion.none_result,
        "not_here": not_here,
        "refuse": refuse,
        "to_int": conversion.to_int,
        "to_octets": to_octets,
        "to_str": conversion.to_str,
        "trace": trace,
        "wrong": wrong,
    }
    exec("\n".join(lines), scope)
    bound: Callable[..., Any] = scope[f"{export.name}_"]
    return bound
