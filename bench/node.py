"""A polykemi without sockets, with its storage on disk: what the guard counts and the micro-benchmarks time."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from bench.servers import DOMAIN
from polykemi.config import EngineSettings, ModuleSettings, RouteSettings, Settings
from polykemi.kemi.ids import Ids
from polykemi.logs import LogSettings
from polykemi.node import Node, assemble
from polykemi.server import open_data
from polykemi.sip.flow import Flow, Listener

NOW = 1_800_000_000.0  # seconds since the epoch
LISTENER = Listener("udp", "192.0.2.1", 5060)
PHONE = Flow(LISTENER, "192.0.2.10", 5060)


def make_node(
    data: Path, engine: str, script: Path, send: Callable[[list[tuple[bytes, Flow]]], None], users: int = 0
) -> Node:
    """Return a node that runs ``script``, with its location and subscribers (``users`` of them) under ``data``."""
    location, database = open_data(data)
    for i in range(users):
        database.add_subscriber(f"u{i:05}", DOMAIN, f"pw-{i:05}")
    settings = Settings(
        listen=(LISTENER,),
        domains=(DOMAIN,),
        data=data,
        engines=(EngineSettings(engine, script),),
        routes=RouteSettings(engine),
        modules=ModuleSettings(params={"registrar": {"max_contacts": 1}}),
        log=LogSettings(level="warning"),
    )
    return assemble(
        settings,
        listeners=(LISTENER,),
        location=location,
        database=database,
        send=send,
        now=NOW,
        ids=Ids(random.Random(0)),
    )


def register(i: int, cseq: int, *more: str) -> bytes:
    """Return a REGISTER of user ``i``, as sipp sends it."""
    lines = [
        f"REGISTER sip:{DOMAIN} SIP/2.0",
        f"Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK-{i}-{cseq}",
        "Max-Forwards: 70",
        f"From: <sip:u{i:05}@{DOMAIN}>;tag=4711r{i}",
        f"To: <sip:u{i:05}@{DOMAIN}>",
        f"Call-ID: {i}-4711@192.0.2.10",
        f"CSeq: {cseq} REGISTER",
        f"Contact: <sip:u{i:05}@192.0.2.10:5060>",
        *more,
        "Expires: 3600",
        "User-Agent: bench",
        "Content-Length: 0",
    ]
    return "\r\n".join([*lines, "", ""]).encode()
