"""The exceptions of polykemi.

PolykemiError
    UsageError              a user's mistake outside of SIP: one line, exit code 2
        ConfigError         configuration: file, table, key, what was expected
        ScriptLoadError     a script that does not load: file, line, cause
        DataError           storage or CSV: file, row, cause
    SipError                carries the status and the reason to answer with
        ParseError          malformed SIP
        NoRequest           the request is asked for where there is none: a reply without transaction, one that ended
        LimitReached        a script would keep or make more than [limits] allows
    ScriptError             a script that failed while it ran: file, line, cause
        ScriptTimeout       ... because it ran longer than its limit
        ScriptMemory        ... because the script holds more memory than its limit
    RpcError                an RPC command that is answered with an error: its code and what to say
"""

from typing import Final

# exit status (EX_SOFTWARE) of a server that has ended itself because a script was stuck in native code
WEDGED: Final = 70


class PolykemiError(Exception):
    """Base of everything that polykemi raises on purpose."""


class UsageError(PolykemiError):
    """A user's mistake; ``str()`` is the one line to print, the exit code is 2."""


class ConfigError(UsageError):
    """A wrong configuration: names file, table and key, and what was expected."""


class DataError(UsageError):
    """Stored or imported data that cannot be used: names the file and the row."""


class ScriptLoadError(UsageError):
    """A script that does not load; ``file:line: cause``."""

    def __init__(self, file: str, line: int | None, cause: str) -> None:
        super().__init__(f"{file}:{line}: {cause}" if line else f"{file}: {cause}")
        self.file, self.line, self.cause = file, line, cause


class SipError(PolykemiError):
    """An error that is already a response: ``status`` and ``reason``."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status} {reason}")
        self.status, self.reason = status, reason


class ParseError(SipError):
    """Malformed SIP; 400 unless the RFC names another status."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(status, reason)


class NoRequest(SipError, LookupError):
    """There is no request (any more); an export that needs one fails."""

    def __init__(self, reason: str) -> None:
        super().__init__(500, reason)


class LimitReached(SipError):
    """A script would keep or make more than a limit allows: what, and the key of the limit with its value."""

    def __init__(self, what: str, key: str, value: int, *, place: str = "[limits]") -> None:
        super().__init__(500, f"{what}, and {place} {key} is {value}")

    def __str__(self) -> str:
        return self.reason


class ScriptError(PolykemiError):
    """A script that failed at run time; ``file:line: cause``, with a traceback of the script if there is one.

    ``call``: the KSR function that it was in, or had called last, where the cause names one.
    """

    def __init__(self, file: str, line: int | None, cause: str, traceback: str = "", call: str = "") -> None:
        super().__init__(f"{file}:{line}: {cause}" if line else f"{file}: {cause}")
        self.file, self.line, self.cause, self.traceback, self.call = file, line, cause, traceback, call


class ScriptTimeout(ScriptError):
    """A route that ran longer than its limit and was stopped."""

    @classmethod
    def within(cls, file: str, line: int | None, traceback: str, call: str) -> "ScriptTimeout":
        """Return the error of one that was in ``call``, a KSR function, when its time was over; "" in code of its own."""
        return cls(file, line, f"time limit reached, in {call}" if call else "time limit reached", traceback, call)


class ScriptMemory(ScriptError):
    """A route that was stopped because the script holds more memory than its limit."""


class RpcError(PolykemiError):
    """An RPC command that cannot be done; ``code`` is JSON-RPC's (-32xxx) or Kamailio's (400, 404, 500)."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
