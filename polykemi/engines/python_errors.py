"""What becomes of a Python script's exception: an error that names the script's file and line.

The text of an exception, and the end of what its frames hold, are code of the script: ``script_error`` and ``load_error`` are
called as a script is, watched. ``bare_error`` runs none.
"""

from __future__ import annotations

import signal
import traceback
from types import TracebackType
from typing import Final

from polykemi.engines.python_source import Source
from polykemi.engines.watchdog import TimeLimit
from polykemi.errors import ScriptError, ScriptLoadError, ScriptTimeout
from polykemi.kemi.context import Exit

_LONGEST_CAUSE: Final = 1000  # characters of an error that go into the log
_LONGEST_TRACEBACK: Final = 10_000


def is_interrupt(error: BaseException) -> bool:
    """Tell whether it is somebody's Ctrl-C, and no error of a script; in a server that is a signal of its own."""
    return isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def script_error(error: BaseException, source: Source, late_in: str = "") -> ScriptError:
    """Return the error of a route block: the script's innermost line, and a traceback from its first line on.

    ``late_in``: the KSR function in which its time was over.
    """
    stack = _from_script(error.__traceback__, source)
    try:
        if isinstance(error, TimeLimit):
            return ScriptTimeout.within(*_place(stack, source), "".join(traceback.format_tb(stack)), late_in)
        told = traceback.TracebackException(type(error), error, stack, compact=True)
        cause, text = _cause(error, told), "".join(told.format())
        return ScriptError(*_place(stack, source), _short(cause, _LONGEST_CAUSE), _short(text, _LONGEST_TRACEBACK))
    finally:
        traceback.clear_frames(stack)  # here, where finalizers are watched


def load_error(error: BaseException, source: Source) -> ScriptLoadError:
    """Return why the script does not load."""
    if isinstance(error, ScriptLoadError):
        return error
    if isinstance(error, SyntaxError) and error.filename:
        return ScriptLoadError(error.filename, error.lineno, f"{type(error).__name__}: {error.msg}")
    found = script_error(error, source)
    if isinstance(error, OSError) and error.filename == found.file and found.line is None:  # the script itself
        return ScriptLoadError(found.file, None, error.strerror or str(error))
    return ScriptLoadError(found.file, found.line, found.cause)


def bare_error(error: BaseException, source: Source) -> tuple[str, int | None, str]:
    """Return the file, the line and the kind of an exception that cannot be asked for more."""
    return *_place(_from_script(error.__traceback__, source), source), type(error).__name__


def _place(stack: TracebackType | None, source: Source) -> tuple[str, int | None]:
    """Return the file and line of the innermost frame that is the script's; the script without one when there is none."""
    file, line = str(source.path), None
    while stack is not None:
        if source.is_ours(stack.tb_frame.f_code.co_filename):
            file, line = stack.tb_frame.f_code.co_filename, stack.tb_lineno
        stack = stack.tb_next
    return file, line


def _from_script(stack: TracebackType | None, source: Source) -> TracebackType | None:
    """Return ``stack`` without the server's frames on top."""
    while stack is not None and not source.is_ours(stack.tb_frame.f_code.co_filename):
        stack = stack.tb_next
    return stack


def _cause(error: BaseException, told: traceback.TracebackException) -> str:
    if isinstance(error, (Exit, SystemExit)):
        return "ended itself while it was loading"
    return list(told.format_exception_only())[-1].strip()


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
