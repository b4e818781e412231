"""Kamailio's own sample scripts, unmodified, where they are installed: phones register, call, cancel, are refused.

The stories are those of tests/parity. With the same script, the same packets have to leave Kamailio and polykemi.
"""

from __future__ import annotations

import difflib
import re
import select
import socket
import time
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest

from bench.kamailio_server import why_not
from polykemi.sip.flow import Flow, Listener
from polykemi.storage.provisioned import Database
from polykemi.testing import Sent
from tests.conformance.export_cases import Case, Step
from tests.oracle import servers
from tests.oracle.compare import comparable
from tests.oracle.replay import Outcome, used_octets
from tests.parity.scenario import message_of, reply_of, sections

EXAMPLES: Final = Path("/usr/share/doc/kamailio/examples/kemi")  # Debian: kamailio
SCRIPTS: Final = {
    "lua": "kamailio-basic-kemi-lua.lua",
    "python": "kamailio-basic-kemi-python.py",
    "js": "kamailio-basic-kemi-jsdt.js",
}
SCENARIOS: Final = sorted((Path(__file__).parents[1] / "parity/scenarios").glob("*.txt"))
LONGEST: Final = 3.0  # seconds that a story may take
CONFIG: Final[dict[str, dict[str, Any]]] = {
    "pike": {"reqs_density_per_unit": 1000},
    "htable": {"htable": "ipban=>size=8;autoexpire=300"},
}

Seen = list[list[tuple[str, bytes]]]  # by step: (host:port, datagram)


def _moves(path: Path) -> list[tuple[str, str]]:
    """Return the steps of a story; its dialogs and transactions are its own among those of all stories."""
    text = []
    for heading, body in sections(path):
        own = re.sub(r"^Call-ID: ", f"Call-ID: {path.stem}-", body, flags=re.MULTILINE)
        text.append((heading, own.replace("z9hG4bK", f"z9hG4bK{path.stem}-")))
    return text


def _length(path: Path) -> float:
    times = [float(h.split()[0]) for h, _ in sections(path) if h[0].isdigit()]
    return max(times) - min(times)


PLAYED: Final = [path for path in SCENARIOS if _length(path) <= LONGEST]


class Stage:
    """The phones of all stories, as sockets."""

    def __init__(self) -> None:
        self._sockets: dict[str, socket.socket] = {}

    def close(self) -> None:
        """Close the sockets."""
        for sock in self._sockets.values():
            sock.close()

    def at(self, peer: str) -> socket.socket:
        """Return the socket of ``peer``, host:port."""
        if peer not in self._sockets:
            host, _, port = servers.used(peer).rpartition(":")
            sock = self._sockets[peer] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((host, int(port)))
            sock.setblocking(False)
        return self._sockets[peer]

    def send(self, data: bytes, peer: str) -> None:
        """Send to the server."""
        self.at(peer).sendto(used_octets(data), (f"{servers.USED}1", servers.PORT))

    def collect(self, wanted: int) -> list[tuple[str, bytes]]:
        """Return what comes: ``wanted`` datagrams, or what there is in a second."""
        found: list[tuple[str, bytes]] = []
        end = time.monotonic() + 1
        grace = 0.03
        while (left := (end if len(found) < wanted else time.monotonic() + grace) - time.monotonic()) > 0:
            readable = select.select(list(self._sockets.values()), [], [], left)[0]
            if not readable and len(found) >= wanted:
                break
            for peer, sock in self._sockets.items():
                if sock in readable:
                    found.append((peer, servers.written(sock.recv(65536))))
        return sorted(found, key=lambda one: one[0])  # in order for each phone


def _wait_until_ready(server: servers.Running, stage: Stage) -> None:
    for n in range(150):
        stage.send(
            f"OPTIONS sip:example.test SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.250:5060;branch=z9hG4bKready{n}\r\n"
            f"From: <sip:ready@192.0.2.250>;tag=r\r\nTo: <sip:example.test>\r\nCall-ID: ready{n}\r\n"
            "CSeq: 1 OPTIONS\r\nMax-Forwards: 9\r\nContent-Length: 0\r\n\r\n".encode(),
            "192.0.2.250:5060",
        )
        if select.select([stage.at("192.0.2.250:5060")], [], [], 0.1)[0]:
            stage.collect(0)
            return
    raise TimeoutError("the server does not answer:\n" + "\n".join(server.lines[-40:]))


def _play(path: Path, stage: Stage) -> Seen:
    seen: Seen = []
    everything: list[Sent] = []
    for heading, text in _moves(path):
        words = heading.split()
        if words[0] == "expect":
            seen.append(stage.collect(len(text.splitlines())))
            for peer, data in seen[-1]:
                host, _, port = peer.rpartition(":")
                everything.append(Sent(0.0, Flow(Listener("udp", "192.0.2.1", 5060), host, int(port)), data))
        elif words[0] != "subscriber" and words[1] == "from":
            stage.send(message_of(text, words[2], everything), words[2])
        elif words[0] != "subscriber":
            method = words[1].removeprefix("reply").removeprefix("-to-")
            stage.send(reply_of(text, words[2], int(words[3]), " ".join(words[4:]), method, everything), words[2])
    return seen


@cache
def _run(engine: str, product: str) -> dict[str, Seen | str]:
    """Play all stories on one server; return what left by story, or why it could not be played to its end."""
    text = (EXAMPLES / SCRIPTS[engine]).read_text()
    used = sorted(set(re.findall(r"\bKSR\.([a-z_]+)\.", text)) - {"rtpproxy"} | set(CONFIG))
    outcomes: dict[str, Seen | str] = {}
    with TemporaryDirectory() as temporary:
        directory = Path(temporary)
        servers.make_database(directory, [])
        with Database.at(directory) as database:
            database.add_subscriber("bob", servers.DOMAIN, "builder")
        if product == "kamailio":
            callbacks = set(re.findall(r"\bksr_(?:reply|onsend)_route\b", text))
            server = servers.start_kamailio(directory, engine, text, CONFIG, used, callbacks)
        else:
            server = servers.start_polykemi(directory, engine, text, CONFIG)
        stage = Stage()
        try:
            _wait_until_ready(server, stage)
            for path in PLAYED:
                for heading, _ in sections(path):
                    if "from" in heading or "reply" in heading:
                        stage.at(next(word for word in heading.split() if re.fullmatch(r"[\d.]+:\d+", word)))
                try:
                    outcomes[path.stem] = _play(path, stage)
                except StopIteration:
                    outcomes[path.stem] = "nobody to answer to\n" + "\n".join(server.lines[-20:])
        finally:
            stage.close()
            server.stop()
    return outcomes


@pytest.mark.parametrize("story", [path.stem for path in PLAYED])
@pytest.mark.parametrize("engine", SCRIPTS)
def test_a_sample_script_of_kamailio_does_the_same_here(engine: str, story: str) -> None:
    if reason := why_not(engine):
        pytest.skip(reason)
    if not (EXAMPLES / SCRIPTS[engine]).exists():
        pytest.skip(f"{EXAMPLES / SCRIPTS[engine]} is not installed")
    theirs, ours = (_run(engine, product)[story] for product in ("kamailio", "polykemi"))
    assert not isinstance(theirs, str), f"Kamailio: {theirs}"
    assert not isinstance(ours, str), f"polykemi: {ours}"
    assert any(theirs)
    steps = [Step("message", text) for _, text in _moves(next(path for path in PLAYED if path.stem == story))]
    case = Case("samples", story, steps=steps)
    left, right = (comparable(Outcome(sent=seen), case)[1] for seen in (theirs, ours))
    for n, (there, here) in enumerate(zip(left, right, strict=True)):
        if here != there:
            one, other = ("\n\n".join(datagrams).splitlines() for datagrams in (there, here))
            told = difflib.unified_diff(one, other, f"step {n}: Kamailio", "polykemi", n=2, lineterm="")
            pytest.fail("\n".join(told), pytrace=False)
