"""What a module is: a class with a name as in KSR, typed parameters, exports and state; and what it is given to work with.

A module file holds one class. Its parameters are a frozen dataclass with Kamailio's names and defaults, filled from
``[modules.NAME]`` of polykemi.toml.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from mypy_extensions import mypyc_attr

from polykemi.errors import DataError
from polykemi.kemi.context import Current, Process, RouteContext
from polykemi.kemi.figures import Counted, Figures
from polykemi.kemi.ids import Ids
from polykemi.kemi.limits import ScriptLimits
from polykemi.kemi.log_levels import Levels
from polykemi.kemi.network import Connections, Dns, Locator, NoConnections, NoTls, Offline, Peers, Tls, Unlocated
from polykemi.kemi.registry import Xval
from polykemi.kemi.route import Callbacks, Route
from polykemi.kemi.rpc import Command
from polykemi.live import Live
from polykemi.pv.accessor import Accessor
from polykemi.pv.compiler import Factory, Variables
from polykemi.pv.transformations.shape import Step
from polykemi.sip.flow import Flow, Listener, UdpSettings, is_at, listener_for, moved
from polykemi.sip.grammar import canonical_host
from polykemi.sip.message import Response
from polykemi.sip.reply_path import response_target
from polykemi.storage.items import ItemStore, MemoryItems
from polykemi.storage.location import LocationStore
from polykemi.storage.provisioned import Database
from polykemi.transaction.blocklist import Blocklist


class Outbox:
    """What leaves when the script has returned and what it stored is committed. The transport empties it."""

    __slots__ = ("items",)

    def __init__(self) -> None:
        self.items: list[tuple[bytes, Flow]] = []

    def send(self, data: bytes, flow: Flow) -> None:
        """Put ``data`` for ``flow`` behind what is there already."""
        self.items.append((data, flow))


class Routes(Protocol):
    """What modules may know of the scripts."""

    def defines(self, kind: Route, callback: str, version: Any = None) -> bool:
        """Tell whether the script that runs this block has the function, in ``version``: that of the block which runs by default."""

    def invoke(self, engine: str, function: str, arguments: Sequence[str]) -> Xval:
        """Call a function of the script of ``engine`` and return its number or text; null for all else, -1 when it fails."""

    def evaluate(self, engine: str, text: str, *, apart: bool) -> int:
        """Run ``text`` in ``engine``, with the globals of its script or apart from them: 1 or -1."""

    def read(self, engine: str, name: str) -> str | None:
        """Return the file ``name`` that stands beside the script of ``engine``; None when there is none."""

    def where(self) -> str:
        """Return ``file:line`` of the script's call that is running; empty when none is."""


@dataclass(slots=True)
class Services:
    """The parts of the server that modules work with. Built once by ``server.py`` (or a test)."""

    listeners: tuple[Listener, ...]
    domains: frozenset[str]  # lower case, names that the server is responsible for; ``serve`` changes them
    outbox: Outbox
    ids: Ids
    current: Current
    variables: Variables
    location: LocationStore
    database: Database
    routes: Routes
    modules: Mapping[str, Any] = field(
        default_factory=dict
    )  # the loaded modules by name; complete before the first message
    counters: dict[str, int] = field(default_factory=dict)  # "sl.sent_replies" -> n: names are Kamailio's group.name
    figures: Figures = field(default_factory=dict)  # statistics that are worked out when somebody asks, named alike
    events: list[RouteContext] = field(default_factory=list)  # event route blocks waiting to run
    work: list[Process[None]] = field(default_factory=list)  # processes waiting to run, behind what runs now
    pause: Callable[[float], None] = lambda seconds: None  # let so many seconds pass, with everything standing still
    levels: Levels = field(default_factory=Levels)  # of the log
    is_rehearsal: bool = False  # a message is only tried: nothing outside of this server may change
    abort: Callable[[], None] = lambda: None  # end the process at once; a server sets both
    kill: Callable[[int], None] = lambda number: None  # send this process a signal
    items: ItemStore = field(default_factory=MemoryItems)  # of hash tables that outlive the process
    # what is to be made durable before the outbox leaves, besides ``location``; each is called once and may raise DataError
    commits: list[Callable[[], None]] = field(default_factory=list)
    strays: list[Callable[[Response], bool]] = field(
        default_factory=list
    )  # take responses of no transaction, if theirs
    # told the Call-ID of a call whose BYE nobody has answered, or whose dialog has ended; the router's
    call_is_over: Callable[[str], None] = lambda call_id: None
    server_header: str = "polykemi"
    udp: UdpSettings = field(default_factory=UdpSettings)
    callbacks: Callbacks = field(default_factory=Callbacks)  # set by the core before the first message
    connections: Connections = field(default_factory=NoConnections)
    tls: Tls = field(default_factory=NoTls)
    rpc: Mapping[str, Command] = field(default_factory=dict)  # the commands of the control plane, filled before run
    peers: Peers = field(default_factory=Offline)  # other servers that exports may ask, and DNS
    dns: Dns = field(default_factory=Offline)
    locator: Locator = field(default_factory=Unlocated)  # where names lead to
    blocklist: Blocklist = field(default_factory=Blocklist)  # places that have not answered
    limits: ScriptLimits = field(init=False)  # what scripts may keep and make; those of ``variables``
    live: Live = field(default_factory=Live)  # the settings that can change while the server runs
    dns_failover: bool = True  # the next place that a name leads to is tried when one does not answer
    on_domains: list[Callable[[], None]] = field(default_factory=list)  # called when the domains have changed
    _configured: frozenset[str] = field(init=False, repr=False)  # domains of the configuration
    _entered: frozenset[str] = field(init=False, repr=False, default=frozenset())  # and of the database
    _listeners_at: dict[str, list[Listener]] = field(init=False, repr=False, default_factory=dict)  # by host

    def __post_init__(self) -> None:
        self._configured = self.domains
        self.limits = self.variables.environment.limits
        for listener in self.listeners:
            for host in {listener.host, listener.advertised_host or listener.host}:
                self._listeners_at.setdefault(host, []).append(listener)

    @property
    def statistics(self) -> Mapping[str, int]:
        """All counters and figures."""
        return Counted(self.counters, self.figures)

    def serve(self, *, configured: frozenset[str] | None = None, entered: frozenset[str] | None = None) -> None:
        """Be responsible for other domains from now on: those of the configuration, those of the database."""
        self._configured = self._configured if configured is None else configured
        self._entered = self._entered if entered is None else entered
        self.domains = self._configured | self._entered
        for call in self.on_domains:
            call()

    def is_myself(self, host: str, port: int = 0, proto: str = "") -> bool:
        """Tell whether ``host`` is one of our domains or listeners, by their own address or the advertised one.

        Port 0 matches every port (Kamailio's check_self).
        """
        host = canonical_host(host)
        for x in self._listeners_at.get(host, ()):
            if (not port or is_at(x, host, port)) and (not proto or proto in (x.proto, x.transport)):
                return True
        return host in self.domains

    def listener_of(self, proto: str, host: str, listener: Listener) -> Listener | None:
        """Return ``listener``, or the first other one from which ``host`` is reached over ``proto``; None without any."""
        return listener_for(proto, host, listener, self.listeners)

    def instead_of_udp(self, flow: Flow, size: int) -> Flow | None:
        """Return where a request of ``size`` octets goes when it is too long for UDP (RFC 3261 section 18.1.1), else None."""
        if not 0 < self.udp.mtu < size or flow.listener.proto != "udp":
            return None
        listener = self.listener_of(self.udp.mtu_try_proto, flow.host, flow.listener)
        return None if listener is None else moved(flow, listener)

    def response_target(self, response: Response, listener: Listener) -> Flow | None:
        """Return where a response that belongs to no transaction goes, None when it does not say that.

        By its second Via; over a connection where our own tells its number (``;i=``, as Kamailio's do).
        """
        ident = response.via.param("i")
        if ident and len(ident) <= 8 and self.ids.is_stateless_branch(response):  # anybody could name a connection
            try:
                flow = self.connections.flow_of(int(ident, 16))
            except ValueError:
                flow = None
            if flow is not None:
                return flow
        return response_target(response, listener, self.listeners)

    def lasting_secret(self, name: str) -> bytes:
        """Return 32 octets that nobody else knows, the same after a restart with the same database. Raise DataError."""
        return self.database.secret(name, hmac.digest(self.ids.secret, name.encode("ascii"), "sha256"))

    def count(self, name: str, by: int = 1) -> None:
        """Add to the counter ``name`` (``group.name``)."""
        self.counters[name] = self.counters.get(name, 0) + by


@dataclass(frozen=True, slots=True)
class NoParams:
    """The parameters of a module that has none."""


@mypyc_attr(allow_interpreted_subclasses=True)  # not every module is compiled
class Module:
    """Base of all modules. ``name`` is that of KSR ("" for the core), ``Params`` its parameters' dataclass."""

    name: ClassVar[str] = ""
    Params: ClassVar[type[Any]] = NoParams
    requires: ClassVar[tuple[str, ...]] = ()  # the modules that this one cannot do without
    by_default: ClassVar[bool] = True  # False: not loaded unless the configuration names it
    events: ClassVar[Mapping[str, str]] = {}  # evname of its event route blocks -> when they run and what they know

    def __init__(self, services: Services, params: Any = None) -> None:
        self.services = services
        self.params = params if params is not None else self.Params()

    def start(self, now: float) -> None:
        """Called once when all modules are built and before the first message."""

    def params_changed(self) -> None:
        """Called when parameters have changed at run time (``polykemi.live``): work out anew what was made of them."""

    def reread(self, now: float) -> Callable[[], None] | None:
        """Read anew what is kept in memory of tables and files; return what puts it in place, None when nothing is new.

        Raise DataError; all stays as it is then.
        """
        return None

    def stop(self, now: float) -> None:
        """Called once when the server ends, before its storage is closed."""

    def pv_classes(self) -> Mapping[str, Factory]:
        """Return the pseudo-variable classes that this module adds: name without ``$`` -> factory."""
        return {}

    def commands(self) -> tuple[object, ...]:
        """Return what has the module's RPC commands (``kemi/rpc.py``): itself, or what it has put them into."""
        return (self,)

    def transformations(self) -> Mapping[str, Step]:
        """Return the transformations that this module adds: ``class.name`` (``sql.val``), in lower case -> step."""
        return {}

    def variable(self, key: str, name: str, *, settable: bool = False) -> Accessor | None:
        """Return the variable that the parameter ``key`` names, None when that is empty. Raise DataError for what is none."""
        accessor = self.services.variables.compile(name) if name else None
        if name and (accessor is None or (settable and accessor.set is None)):
            raise DataError(f"{self.name}: {key}: {name!r} is no variable{' that can be set' * settable}")
        return accessor

    def next_timeout(self) -> float | None:
        """Return when ``handle_timer`` wants to be called next (seconds since the epoch), None for never."""
        return None

    def handle_timer(self, now: float) -> Any:
        """Do what is due; may return a Process that needs route blocks run."""
        return None
