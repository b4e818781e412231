"""What module tests share: services without a server, and a context for one message."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from polykemi.kemi.context import Current, RouteContext
from polykemi.kemi.ids import Ids
from polykemi.kemi.network import Dns, Locator, Offline, Peers, Unlocated
from polykemi.kemi.registry import Xval
from polykemi.kemi.route import Route
from polykemi.modules.base import Outbox, Services
from polykemi.pv.compiler import Environment, Variables
from polykemi.sip.flow import Flow, Listener
from polykemi.sip.message import parse
from polykemi.storage.location import LocationStore, MemoryLocation
from polykemi.storage.provisioned import Database

NOW = 1_800_000_000.0
LISTENER = Listener("udp", "192.0.2.1", 5060)


class NoRoutes:
    """Scripts that define the functions named, and no others."""

    def __init__(self, *functions: str) -> None:
        self.functions = functions

    def invoke(self, engine: str, function: str, arguments: Sequence[str]) -> Xval:
        """There is no script."""
        return -1

    def evaluate(self, engine: str, text: str, *, apart: bool) -> int:
        """There is no script."""
        return -1

    def read(self, engine: str, name: str) -> str | None:
        """There is no script."""
        return None

    def where(self) -> str:
        """No script runs."""
        return ""

    def defines(self, kind: Route, callback: str, version: Any = None) -> bool:
        """Tell whether the function is one of them."""
        return callback in self.functions


def services(
    *modules: type[Any],
    params: Mapping[str, Mapping[str, Any]] | None = None,
    domains: Iterable[str] = ("example.test",),
    listeners: tuple[Listener, ...] = (LISTENER,),
    location: LocationStore | None = None,
    database: Database | None = None,
    routes: Any = None,
    start: float = NOW,
    peers: Peers | None = None,
    dns: Dns | None = None,
    locator: Locator | None = None,
    **more: Any,
) -> Services:
    """Return services with instances of ``modules``, started; ``params`` are theirs by module name, ``more`` other services."""
    environment = Environment(listeners=listeners, started=start)
    made = Services(
        listeners=listeners,
        domains=frozenset(domains),
        outbox=Outbox(),
        ids=Ids(random.Random(0)),
        current=Current(),
        variables=Variables(environment=environment),
        location=location if location is not None else MemoryLocation(),
        database=database if database is not None else Database(),
        routes=routes or NoRoutes(),
        peers=peers or Offline(),
        dns=dns or Offline(),
        locator=Unlocated() if locator is None else locator,
        **more,
    )
    instances: dict[str, Any] = {}
    made.modules = instances
    for module in modules:
        given = (params or {}).get(module.name)
        instances[module.name] = module(made, module.Params(**given) if given else None)
        made.variables.add(instances[module.name].pv_classes(), instances[module.name].transformations())
    for instance in instances.values():
        instance.start(start)
    return made


def message(start_line: str, *headers: str, body: str = "", **replaced: str) -> bytes:
    """Return a message; the mandatory headers are there unless ``replaced`` gives them: ``to="<sip:bob@example.test>"``."""
    method = start_line.partition(" ")[0]
    fields = {
        "via": "SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKtest",
        "from_": "<sip:alice@example.test>;tag=from",
        "to": "<sip:alice@example.test>",
        "call_id": "call-1@192.0.2.10",
        "cseq": f"1 {method}",
        **replaced,
    }
    lines = [start_line]
    for name, value in fields.items():
        lines.append(f"{name.rstrip('_').replace('_', '-').title()}: {value}")
    lines += headers
    lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", body]).encode("latin-1")


def request_context(
    data: bytes, *, now: float = NOW, source: tuple[str, int] = ("192.0.2.10", 5060), kind: Route = Route.REQUEST
) -> RouteContext:
    """Return the context of a route block that runs on ``data``, which came from ``source``."""
    return RouteContext(kind, "ksr_request_route", parse(data), Flow(LISTENER, *source), now)


def replies(made: Services) -> list[str]:
    """Return what left so far, as text, and empty the outbox."""
    items, made.outbox.items = made.outbox.items, []
    return [data.decode("latin-1") for data, _ in items]


def headers(reply: str, name: str) -> list[str]:
    """Return the values of the headers ``name`` in ``reply``."""
    lines = (line.partition(":") for line in reply.partition("\r\n\r\n")[0].split("\r\n"))
    return [value.strip(" ") for found, _, value in lines if found.lower() == name.lower()]
