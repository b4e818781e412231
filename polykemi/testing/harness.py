"""A server under test: no socket, no waiting. Messages go in by hand, time jumps, all that leaves and all calls are kept.

with ServerUnderTest({"lua": "routes/lua/basic.lua"}, domains=["example.test"]) as server:
    sent = server.receive(b"OPTIONS sip:example.test SIP/2.0...", "192.0.2.10:5060")
    assert sent[0].data.startswith(b"SIP/2.0 200")
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from polykemi.config import EngineSettings, ModuleSettings, RouteSettings, Settings
from polykemi.control.trace import Event, Filter, Tracer, Watch
from polykemi.control.trace_view import View
from polykemi.engines.base import Limits
from polykemi.errors import SipError
from polykemi.kemi.binding import Refused
from polykemi.kemi.context import Exit
from polykemi.kemi.ids import Ids
from polykemi.kemi.limits import ScriptLimits
from polykemi.kemi.network import Connections, Dns, Locator, Peers
from polykemi.kemi.probes import Ended, Watcher
from polykemi.kemi.registry import Export
from polykemi.node import assemble
from polykemi.reload import Outcome
from polykemi.sip.flow import Flow, Listener, UdpSettings, bracketed
from polykemi.storage.location import MemoryLocation
from polykemi.storage.provisioned import Database

START = 1_800_000_000.0  # what the clock shows at first, seconds since the epoch


class Sent(NamedTuple):
    """One datagram that left: when, from which listener to where, and its octets."""

    at: float  # seconds since the test began
    flow: Flow
    data: bytes

    @property
    def to(self) -> str:
        """The destination as ``host:port``."""
        return f"{bracketed(self.flow.host)}:{self.flow.port}"

    @property
    def start_line(self) -> str:
        """The request line or status line."""
        return self.data.partition(b"\r\n")[0].decode("latin-1")


class Call(NamedTuple):
    """One call of a KSR function: its path, arguments and result (None where there is none)."""

    path: str
    arguments: tuple[Any, ...]
    result: Any


class Trace:
    """What the server has done for messages, as it is told to `polykemi trace`: ``print(trace)`` shows the tree."""

    def __init__(self, tracer: Tracer, wanted: Filter) -> None:
        self.events: list[dict[str, Any]] = []  # docs/tracing.md
        self._tracer, self._watch = tracer, Watch(wanted, self._take)
        tracer.attach(self._watch)

    def _take(self, event: Event) -> bool:
        self.events.append(event.data(whole=True))
        return True

    def text(self, *, times: bool = False) -> str:
        """Return the trees of all blocks and the ladders of the calls; without ``times`` the same in each run."""
        view = View(times=times)
        lines = (view.lines({key: one for key, one in e.items() if key != "message"}) for e in self.events)
        return "\n".join(chain.from_iterable(lines))

    def __str__(self) -> str:
        return self.text()

    def close(self) -> None:
        """Keep no more."""
        self._tracer.detach(self._watch)


def recorder(calls: list[Call]) -> Watcher:
    """Return a watcher that puts all calls of KSR functions into ``calls``, but those that an unforeseen error ended."""

    def called(export: Export, _ctx: object, arguments: tuple[Any, ...], _where: object) -> Ended:
        def ended(result: Any, error: BaseException | None) -> None:
            if error is None or isinstance(error, (SipError, Refused, Exit)):
                calls.append(Call(export.path, arguments, result))

        return ended

    return called


class ServerUnderTest:
    """A whole server (scripts, modules, transactions) that a test drives; randomness and clock are the test's."""

    def __init__(
        self,
        scripts: Mapping[str, str | Path],
        *,
        routes: RouteSettings | None = None,
        domains: Iterable[str] = (),
        listeners: Iterable[Listener] = (Listener("udp", "192.0.2.1", 5060),),
        modules: Mapping[str, Mapping[str, Any]] | None = None,
        load: Iterable[str] | None = None,
        database: Database | None = None,
        seed: int = 0,
        peers: Peers | None = None,
        dns: Dns | None = None,
        locator: Locator | None = None,
        connections: Connections | None = None,
        udp: UdpSettings | None = None,
        limits: ScriptLimits | None = None,
        seconds: float = 10.0,
    ) -> None:
        """``scripts``: engine -> script; the first engine runs all route blocks unless ``routes`` says otherwise.

        ``modules``: parameters by module; ``load``: the modules to load, all by default; ``database``: what is provisioned
        before the server starts, as permissions needs it.
        ``database``: what modules find provisioned when they start; it is closed with the server. ``peers`` and ``dns``:
        who answers when exports ask other servers (media relays) and DNS; nobody by default. ``connections``: those that
        the server is to have; messages come over the first of ``listeners``. ``locator``: where names lead to; by default
        what goes to a name leaves with that name for an address. ``limits``: what scripts may keep.
        ``seconds``: of real time that a route block may run, more than a server gives it: a machine that runs tests is busy.
        """
        self.now = START
        self.calls: list[Call] = []
        self.database = database or Database()
        self._sent: list[Sent] = []
        self._listeners = tuple(listeners)
        settings = Settings(
            domains=tuple(domains),
            engines=tuple(EngineSettings(name, Path(script), Limits(seconds)) for name, script in scripts.items()),
            routes=routes or RouteSettings(default=next(iter(scripts))),
            modules=ModuleSettings(load=None if load is None else tuple(load), params=dict(modules or {})),
            udp=udp or UdpSettings(),
            limits=limits or ScriptLimits(),
        )
        self.node = assemble(
            settings,
            listeners=self._listeners,
            location=MemoryLocation(),
            database=self.database,
            send=self._send,
            now=self.now,
            ids=Ids(random.Random(seed)),
            peers=peers,
            dns=dns,
            locator=locator,
            connections=connections,
            clock=lambda: self.now,
        )
        self.node.probes.watch(recorder(self.calls))

    def _send(self, items: list[tuple[bytes, Flow]]) -> None:
        self._sent += [Sent(self.now - START, flow, data) for data, flow in items]

    def _turn(self) -> list[Sent]:
        self.node.router.pump()
        sent, self._sent = self._sent, []
        return sent

    def receive(self, data: bytes, source: str, *, at: Listener | None = None) -> list[Sent]:
        """Let ``data`` come from ``source`` (host:port, IPv6 in brackets) now; return what leaves.

        ``at``: the listener that it comes to, the first one by default.
        """
        host, _, port = source.rpartition(":")
        self.node.router.receive(data, Flow(at or self._listeners[0], host.strip("[]"), int(port)), self.now)
        return self._turn()

    def trace(self, *, call_id: str = "", user: str = "", ip: str = "") -> Trace:
        """Return what is kept, from now on, of the messages that match, as `polykemi trace` shows it."""
        return Trace(self.node.tracer, Filter(call_id, user, ip))

    def reload(self, *, dry_run: bool = False, force: bool = False) -> Outcome:
        """Load the scripts anew, as ``app.reload`` does. Raise ScriptLoadError; the version that runs goes on then."""
        return self.node.versions.reload(self.now, dry_run=dry_run, force=force)

    def lose(self, flow: Flow) -> list[Sent]:
        """Let the connection of ``flow`` end now; return what leaves."""
        tm: Any = self.node.modules.get("tm")
        process = tm.lost(flow, self.now) if tm is not None else None
        if process is not None:
            self.node.router.put(process)
        return self._turn()

    def advance(self, seconds: float) -> list[Sent]:
        """Let time pass, timer by timer; return what leaves."""
        sent: list[Sent] = []
        end = self.now + seconds
        while (due := self.node.next_timeout()) is not None and due <= end:
            self.now = max(self.now, due)
            self.node.timers(self.now)
            sent += self._turn()
        self.now = end
        return sent

    def close(self) -> None:
        """End the server: modules store what they keep, engines and storage are closed."""
        self.node.stop(self.now)
        self.node.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
