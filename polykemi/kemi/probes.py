"""What is seen of the calls of KSR functions from outside of them: they are counted, and watched while somebody does.

The code that ``kemi/binding.py`` generates calls its export by a name of its own globals. A watcher is put in the export's
place there and taken out again, so calls that nobody watches run the code that they would run without all this. It works for
references that a script has kept (``local get = KSR.pv.get``), and for scripts that are loaded while somebody watches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from polykemi.errors import SipError

if TYPE_CHECKING:
    from polykemi.kemi.context import RouteContext
    from polykemi.kemi.registry import Export

# Told of a call that begins: the export, the context (None outside of message processing), the arguments (octet text) and
# what returns the script's ``file:line``. It returns None, or what is to be told when the call has ended: the result (octet
# text, None where there is none) and what was raised: SipError or Refused make a failed call with a result.
Ended = Callable[[Any, BaseException | None], None]
Watcher = Callable[["Export", "RouteContext | None", tuple[Any, ...], Callable[[], str]], Ended | None]

FAILED: Final = {"int": -1, "bool": False, "xval": None, "data": None, "none": False}  # what a failed call gives


class Tally:
    """How often one function was called, and how often it could not do its work (arguments, place, a SIP error, a fault)."""

    __slots__ = ("calls", "errors")

    def __init__(self) -> None:
        self.calls = self.errors = 0


class Probe:
    """The place in one bound function where its export is called: ``function``, and ``drive`` for a Process."""

    __slots__ = ("__weakref__", "_drive", "_export", "_function", "_scope", "_unhold", "_watchers", "_where")

    def __init__(
        self, export: Export, scope: dict[str, Any], where: Callable[[], str], unhold: Callable[[], None] | None
    ) -> None:
        """``unhold``: let the engine forget the result that it would give by itself when this is called again."""
        self._export, self._scope, self._where, self._unhold = export, scope, where, unhold
        self._function, self._drive = scope["function"], scope["drive"] if export.is_process else None
        self._watchers: tuple[Watcher, ...] = ()

    def watch(self, watchers: tuple[Watcher, ...]) -> None:
        """Let ``watchers`` see each call from now on; without any it is the export again that is called."""
        self._watchers = watchers
        self._scope["function"] = self._watched if watchers else self._function
        if self._drive is not None:
            self._scope["drive"] = _itself if watchers else self._drive

    def refused(self, ctx: RouteContext | None, arguments: tuple[Any, ...], result: Any, refusal: Exception) -> None:
        """Tell of a call that never came to the export."""
        for ended in self._began(ctx, arguments):
            ended(result, refusal)

    def _began(self, ctx: RouteContext | None, arguments: tuple[Any, ...]) -> list[Ended]:
        ends: list[Ended] = []
        for watcher in self._watchers:
            ended = watcher(self._export, ctx, arguments, self._where)
            if ended is not None:
                ends.append(ended)
        return ends

    def _watched(self, ctx: RouteContext, *arguments: Any) -> Any:
        """Call the export, a Process to its end."""
        if self._unhold is not None:
            self._unhold()
        ends = self._began(ctx, arguments)
        try:
            result = self._function(ctx, *arguments)
            if self._drive is not None:
                result = self._drive(result)
        except BaseException as error:
            given = FAILED[self._export.returns] if isinstance(error, SipError) else None
            for ended in ends:
                ended(given, error)
            raise
        for ended in ends:
            ended(result, None)
        return result


def _itself(value: Any) -> Any:
    return value


class Probes:
    """The probes of all functions that one server has bound, in all engines and versions of scripts."""

    def __init__(self, *, counting: bool = False) -> None:
        """``counting``: calls are counted in ``tallies``; functions that were bound without are not."""
        self.counting = counting
        self.tallies: dict[str, Tally] = {}  # by path: KSR.pv.get
        self._probes: WeakSet[Probe] = WeakSet()  # a probe lives as long as its function
        self._watchers: tuple[Watcher, ...] = ()

    @property
    def are_watched(self) -> bool:
        """Whether anybody sees calls."""
        return bool(self._watchers)

    def add(self, probe: Probe) -> None:
        """Take the probe of a function that has just been bound."""
        self._probes.add(probe)
        if self._watchers:
            probe.watch(self._watchers)

    def tally(self, path: str) -> Tally:
        """Return the counts of a function."""
        return self.tallies.setdefault(path, Tally())

    def watch(self, watcher: Watcher) -> None:
        """Let ``watcher`` see each call that begins from now on."""
        self._change((*self._watchers, watcher))

    def unwatch(self, watcher: Watcher) -> None:
        """Let ``watcher`` see no more calls; it is told the end of those that run."""
        self._change(tuple(one for one in self._watchers if one != watcher))

    def _change(self, watchers: tuple[Watcher, ...]) -> None:
        self._watchers = watchers
        for probe in self._probes:
            probe.watch(watchers)
