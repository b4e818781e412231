"""Make the callable that a script calls: argument checks, conversion, context and errors around one export.

Generated once for each export and engine, so that a call costs one Python frame and no loop. The rules:

- What converts is converted, alike in all languages (``as_int``, ``as_str``): a number in a text is an integer, a number
  is a text, null an empty text, true 1.

- Outside of message processing a call is logged and gives false.
- An argument that cannot be taken, is missing or is one too many is logged and the call gives false: the export is
  not called and the script goes on. Where the server is strict the script gets ``Misuse`` instead.
- In a route block where the export makes no sense the call is logged and gives -1 (false, null), and so does a
  ``SipError`` that the export raises.
- ``Exit`` and every exception that is not foreseen go through to the engine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from functools import cache
from types import CodeType, FrameType
from typing import Any, Final, Protocol

from polykemi.errors import LimitReached, SipError
from polykemi.kemi.context import Current
from polykemi.kemi.probes import FAILED, Probe, Probes, Tally
from polykemi.kemi.registry import Export
from polykemi.kemi.route import ROUTE_NAMES, Route

log = logging.getLogger("polykemi.kemi")

BOUND_CODE: Final = "<KSR>"  # the file name of the generated functions' code
MISSING: Any = object()
MAX_ARGUMENTS: Final = 6  # of any function (SR_KEMI_PARAMS_MAX)
_PLAIN: Final = (
    bool,
    float,
    int,
    str,
    type(None),
)  # arguments that may outlive their call: see ``forget_arguments`` (Lua)
_SHOWN: Final = 64  # characters of a refused text that go into the log


class Refused(Exception):
    """An argument that cannot be taken; the text says what was expected and what came."""


class Misuse(TypeError):
    """A call that cannot be made as it is, raised in the script where ``[ksr] strict`` is set."""


class Conversion(Protocol):
    """How one engine takes arguments and gives results."""

    checked: bool  # the engine gives as many arguments as there are parameters, of their types
    unicode: bool  # script strings are Unicode text: they cross the border as UTF-8
    extra_arguments: bool  # surplus arguments are ignored (else: only by functions with parameters, up to six in all)
    none_result: Any  # what a function without result gives

    def type_name(self, value: Any) -> str:
        """Return the language's word for the type of ``value``."""

    def to_data(self, value: Any) -> Any:
        """Return a result with its lists and dictionaries as the language's own."""

    def where(self) -> str:
        """Return the script's ``file:line`` of the call that is running."""


def to_octets(text: str) -> str:
    """Turn a script's Unicode text into polykemi's one-character-per-octet text (UTF-8).

    A lone surrogate that stands for an octet (``from_octets``) becomes that octet again, any other a question mark.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("latin-1")
    except UnicodeEncodeError:
        text = "".join("?" if "\ud800" <= c <= "\udfff" and not "\udc80" <= c <= "\udcff" else c for c in text)
        return text.encode("utf-8", "surrogateescape").decode("latin-1")


def from_octets(text: str) -> str:
    """Turn one-character-per-octet text into Unicode; octets that are no UTF-8 survive as lone surrogates."""
    return text.encode("latin-1").decode("utf-8", "surrogateescape")


def as_int(value: Any, type_name: Callable[[Any], str]) -> int:
    """Return ``value`` as an integer: a number without its fraction, a number in a text, true as 1. Raise Refused.

    What is no integer of 64 bits is none (languages could not take it back).
    """
    if isinstance(value, int):
        return int(value)
    number = _number(value) if isinstance(value, str) else value
    if isinstance(number, (int, float)) and -(2.0**63) <= number < 2.0**63:
        return int(number)
    raise expected("an integer", value, type_name(value))


def as_str(value: Any, type_name: Callable[[Any], str]) -> str:
    """Return ``value`` as a text: numbers as C prints them (%.14g), null as the empty text. Raise Refused."""
    if isinstance(value, str):
        return str(value)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return format(value, ".14g")
    raise expected("a text", value, type_name(value))


def _number(text: str) -> int | float | None:
    """Return the number that stands in ``text`` (decimal or hexadecimal, blanks around it), None when there is none."""
    text = text.strip(" \t\r\n\f\v")
    try:
        if "_" in text or not text.isascii():
            return None
        return int(text, 16) if text.lstrip("+-")[:2].lower() == "0x" else float(text)
    except ValueError:
        return None


def expected(kind: str, value: Any, type_name: str) -> Refused:
    """Return the refusal of ``value``: what was expected and what came, one line, bounded."""
    if isinstance(value, str):
        more = "..." if len(value) > _SHOWN else ""
        return Refused(f'expected {kind}, got "{repr(value[:_SHOWN])[1:-1]}{more}" ({type_name})')
    if isinstance(value, (int, float)):
        return Refused(f"expected {kind}, got {value} ({type_name})")
    return Refused(f"expected {kind}, got {type_name}")


def bind(
    export: Export,
    function: Callable[..., Any],
    current: Current,
    conversion: Conversion,
    *,
    drive: Callable[[Generator[Any, None, Any]], Any],
    probes: Probes,
    unhold: Callable[[], None] | None = None,
    strict: bool = False,
) -> Callable[..., Any]:
    """Return the callable for ``export``.

    ``drive`` runs a Process to its end and returns its value. ``probes`` see the calls (``unhold``: see ``Probe``).
    ``strict``: see ``Misuse``.
    """
    scope: dict[str, Any] = {}
    scope.update(
        MISSING=MISSING,
        PATH=export.path,  # for who finds the frame in a traceback
        Refused=Refused,
        SipError=SipError,
        current=current,
        drive=drive,
        from_octets=from_octets,
        function=function,
        to_data=conversion.to_data,
        to_int=as_int,
        to_octets=to_octets,
        to_str=as_str,
    )
    probe = Probe(export, scope, conversion.where, unhold)
    tally = probes.tally(export.path) if probes.counting else None
    scope.update(_helpers(export, current, conversion, probe, tally, strict=strict))
    exec(_code("\n".join(_source(export, conversion, counted=tally is not None))), scope)
    probes.add(probe)
    bound: Callable[..., Any] = scope[f"{export.name}_"]
    return bound


def running_call(frame: FrameType | None) -> str:
    """Return the innermost KSR function that runs in ``frame`` or around it, as ``KSR.pv.get``; "" when none does."""
    while frame is not None and frame.f_code.co_filename != BOUND_CODE:
        frame = frame.f_back
    return str(frame.f_globals["PATH"]) if frame is not None else ""


@cache
def _code(source: str) -> CodeType:
    """Compile, once in a process: a reload binds the same functions again."""
    return compile(source, BOUND_CODE, "exec")


def _helpers(
    export: Export, current: Current, conversion: Conversion, probe: Probe, tally: Tally | None, *, strict: bool
) -> dict[str, Any]:
    """Return what the generated code calls off the beaten track."""
    path = export.path

    def unanswered(args: tuple[Any, ...], refusal: Exception, *, result: Any) -> Any:
        if tally is not None:
            tally.errors += 1
        given = tuple(a if type(a) in _PLAIN else f"<{conversion.type_name(a)}>" for a in args if a is not MISSING)
        probe.refused(current.ctx, given, result, refusal)
        return result

    def no_context(*args: Any) -> Any:
        log.error("%s: called outside of message processing at %s", path, conversion.where())
        return unanswered(args, Refused("called outside of message processing"), result=False)

    def not_here(kind: Route, *args: Any) -> Any:
        log.warning("%s: makes no sense in %s, at %s", path, ROUTE_NAMES[kind], conversion.where())
        return unanswered(args, Refused(f"makes no sense in {ROUTE_NAMES[kind]}"), result=FAILED[export.returns])

    def refuse(refusal: Refused, *args: Any) -> Any:
        if strict:
            misuse = Misuse(f"{path}: {refusal}")
            unanswered(args, misuse, result=None)
            raise misuse
        log.error("%s: %s at %s", path, str(refusal), conversion.where())
        return unanswered(args, refusal, result=False)

    def failed(error: SipError) -> Any:
        if tally is not None:
            tally.errors += 1
        if isinstance(error, LimitReached):
            log.error("%s: %s at %s", path, str(error), conversion.where())
        else:
            log.info("%s: %s", path, str(error))  # whoever keeps the record keeps no frames
        return FAILED[export.returns]

    def wrong(value: Any, param: str, convert: Callable[..., Any]) -> Any:
        try:
            if value is MISSING:
                raise expected("an argument", None, "nothing")
            return convert(value, conversion.type_name)
        except Refused as refusal:
            raise Refused(f"argument {param}: {refusal}") from None

    def surplus(extra: tuple[Any, ...]) -> None:
        count = len(export.params) + len(extra)
        if not export.params:
            raise Refused(f"takes no arguments, {count} given")
        if count > MAX_ARGUMENTS:
            raise Refused(f"at most {MAX_ARGUMENTS} arguments, {count} given")

    return {
        "failed": failed,
        "no_context": no_context,
        "not_here": not_here,
        "refuse": refuse,
        "surplus": surplus,
        "tally": tally,
        "wrong": wrong,
    }


def _source(export: Export, conversion: Conversion, *, counted: bool) -> list[str]:
    """Return the lines of the generated function. It names its export, so that no two share code: CPython adapts that."""
    names = [p.name for p in export.params]
    given = ", ".join(names if conversion.checked else [*names, "*extra"])
    parameters = names if conversion.checked else [*(f"{n}=MISSING" for n in names), "*extra"]
    lines = [
        f"def {export.name}_({', '.join(parameters)}):  # {export.path}",
        *([" tally.calls += 1"] if counted else []),
        " ctx = current.ctx",
        f" if ctx is None: return no_context({given})",
    ]
    if export.routes != Route.ANY:
        lines.append(f" if not ctx.kind._value_ & {int(export.routes)}: return not_here(ctx.kind, {given})")
    lines.append(" try:")
    if not (conversion.checked or conversion.extra_arguments):
        lines.append("  if extra: surplus(extra)")
    for p in export.params:
        if not conversion.checked:
            lines.append(
                f"  if type({p.name}) is not {p.type}: {p.name} = wrong({p.name}, '{p.name} ({p.type})', to_{p.type})"
            )
        if p.type == "str" and conversion.unicode:
            lines.append(f"  if not {p.name}.isascii(): {p.name} = to_octets({p.name})")
    call = f"function({', '.join(['ctx', *names])})"
    lines.append(f"  result = {f'drive({call})' if export.is_process else call}")
    if not conversion.checked:
        lines.append(f" except Refused as refusal: return refuse(refusal, {given})")
    lines.append(" except SipError as error: result = failed(error)")
    if counted:
        lines += [" except Exception:", "  tally.errors += 1", "  raise"]
    if export.returns == "none":
        lines.append(f" if result is None: result = {conversion.none_result!r}")
    if export.returns == "data":
        lines.append(" if type(result) is list or type(result) is dict: return to_data(result)")
    if export.returns in ("xval", "data") and conversion.unicode:
        lines.append(" if type(result) is str and not result.isascii(): result = from_octets(result)")
    return [*lines, " return result"]
