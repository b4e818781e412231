"""Play the cases of a group on one running server: packets in, and what leaves and what the script saw."""

from __future__ import annotations

import re
import select
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from polykemi.sip.flow import Flow, Listener
from polykemi.testing import Sent
from tests.conformance.export_cases import CALLEE, SOURCE, Case, Step, answer_of
from tests.oracle.scripts import CONTROL_USER, MARK
from tests.oracle.servers import PORT, USED, WRITTEN, Running, used, written
from tests.parity.scenario import message_of, reply_of

LONGEST_WAIT: Final = 2  # seconds that a case may let pass
_CONTROLLER: Final = ("250", 5060)
_SERVER: Final = Listener("udp", f"{WRITTEN}1", PORT)
_ADDRESS: Final = re.compile(rf"{re.escape(WRITTEN)}(\d+)(?::(\d+))?")
_VERSION: Final = re.compile(r":\d+ VF?( \d+)?$")  # each process of Kamailio asks an RTPproxy what it can, at some time
_CALL_ID: Final = re.compile(rb"^(?:Call-ID|i): *(.*?)\r\n", re.IGNORECASE | re.MULTILINE)


@dataclass
class Outcome:
    """What one case gave on one server."""

    seen: dict[str, list[str]] = field(default_factory=dict)  # by block@step: the values, in order
    sent: list[list[tuple[str, bytes]]] = field(default_factory=list)  # by step: (host:port, datagram), by peer
    log: list[str] = field(default_factory=list)
    trouble: str = ""  # why the case could not be played to its end


class Peers:
    """The servers that exports ask: they answer on the wire, in a thread, as the case that runs wants it."""

    def __init__(self, cases: Mapping[str, Case]) -> None:
        self._all: dict[str, list[tuple[str, str | None]]] = {}
        for case in cases.values():
            for address, answers in case.peers.items():
                self._all.setdefault(address, []).extend(answers)
        self.answers: Mapping[str, list[tuple[str, str | None]]] = self._all
        self.asked: list[str] = []
        self._sockets = {}
        for address in self._all:
            host, _, port = address.rpartition(":")
            self._sockets[Replay.open_socket(host.removeprefix(WRITTEN), int(port))] = address
        self._closing = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def play(self, case: Case) -> None:
        """Answer as ``case`` wants it."""
        self.asked = []
        self.answers = case.peers

    def _serve(self) -> None:
        while True:
            ready, _, _ = select.select([*self._sockets, self._closing[0]], [], [])
            if self._closing[0] in ready:
                return
            for sock in ready:
                data, source = sock.recvfrom(65536)
                address = self._sockets[sock]
                question, answer = answer_of(self.answers.get(address, self._all[address]), written(data))
                self.asked.append(f"{address} {question}")
                if answer is not None:
                    sock.sendto(used_octets(answer), source)

    def close(self) -> None:
        """End the thread, close the sockets."""
        self._closing[1].send(b"x")
        self._thread.join()
        for sock in (*self._sockets, *self._closing):
            sock.close()


class Replay:
    """The peers of a group of cases, and one server that they talk to."""

    def __init__(self, server: Running, cases: Mapping[str, Case]) -> None:
        self._server = server
        self._cases = cases
        self._sockets: dict[str, socket.socket] = {}
        self._controller = self.open_socket(*_CONTROLLER)
        self._controls = 0
        self._peers = Peers(cases)
        taken = {address for case in cases.values() for address in case.peers}
        for address in {SOURCE, CALLEE}.union(*(_addresses(case) for case in cases.values())):
            host, _, port = address.rpartition(":")
            if address != f"{_SERVER.host}:{PORT}" and address not in taken:
                self._sockets[address] = self.open_socket(host.removeprefix(WRITTEN), int(port))

    @staticmethod
    def open_socket(host: str, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((f"{USED}{host}", port))
        sock.setblocking(False)
        return sock

    def close(self) -> None:
        """Close the sockets."""
        for sock in (self._controller, *self._sockets.values()):
            sock.close()
        self._peers.close()

    def wait_until_ready(self, seconds: float = 15) -> None:
        """Wait until the script answers. Raise TimeoutError with the log."""
        end = time.monotonic() + seconds
        while not self._server.ended and time.monotonic() < end:
            try:
                self._control("none 0", 0.1)
            except TimeoutError:
                continue
            return
        raise TimeoutError("the server does not answer:\n" + "\n".join(self._server.lines[-40:]))

    def play(self, number: str) -> Outcome:
        """Play one case."""
        case, outcome = self._cases[number], Outcome()
        call_id = f"{number}@".encode()
        everything: list[Sent] = []
        begin = len(self._server.lines)
        try:
            self._control(f"begin {number}")
            self._peers.play(case)
            for i, step in enumerate(case.steps):
                self._control(f"{number} {i}")
                self._bring(step, number, everything)
                self._control(f"{number} {i}")  # the server has done what it could at once
                sent = [(peer, data) for peer, data in self._collect() if _belongs(data, call_id)]
                outcome.sent.append(sent)
                for peer, data in sent:
                    host, _, port = peer.rpartition(":")
                    everything.append(Sent(0.0, Flow(_SERVER, host, int(port)), data))
        except (TimeoutError, StopIteration) as error:
            outcome.trouble = f"step {len(outcome.sent)}: {str(error) or 'nobody to answer to'}"
        if case.peers:
            asked = [text for text in self._peers.asked if not _VERSION.search(text)]
            outcome.seen["asked@0"] = [f"{i} {text}" for i, text in enumerate(asked)]
        outcome.log = self._server.lines[begin:]
        for line in outcome.log:
            words = line.split(" ", 4)
            if line.startswith(f"{MARK}{number} ") and len(words) == 5:
                outcome.seen.setdefault(words[2], []).append(f"{words[3]} {words[4]}")
        return outcome

    def _bring(self, step: Step, number: str, before: list[Sent]) -> None:
        if step.kind == "wait":
            time.sleep(step.seconds)
            return
        if step.kind == "reply":
            status, _, reason = step.status.partition(" ")
            data = reply_of(step.head, step.peer, int(status), reason, step.method, before)
        else:
            data = message_of(step.head.replace("{credentials ", "{"), step.peer, before) + step.body.encode()
        data = used_octets(data.replace(b"case@192.0.2.10", f"{number}@192.0.2.10".encode()))
        data = data.replace(b"z9hG4bKcase", f"z9hG4bK{number}".encode())
        self._sockets[step.peer].sendto(data, (f"{USED}1", PORT))

    def _control(self, order: str, seconds: float = 5) -> None:
        """Tell the script what comes next; the answer comes when the server has done all that came before."""
        self._controls += 1
        begin = len(self._server.lines)
        host, port = self._controller.getsockname()
        me = f"{self._controls}-{id(self):x}"
        self._controller.sendto(
            f"OPTIONS sip:{CONTROL_USER}@{USED}1 SIP/2.0\r\nVia: SIP/2.0/UDP {host}:{port};branch=z9hG4bK{me}\r\n"
            f"From: <sip:{CONTROL_USER}@{host}>;tag={me}\r\nTo: <sip:{CONTROL_USER}@{USED}1>\r\nCall-ID: {me}\r\n"
            f"CSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nX-Oracle: {order}\r\nContent-Length: 0\r\n\r\n".encode(),
            (f"{USED}1", PORT),
        )
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._server.ended:
            if select.select([self._controller], [], [], min(left, 0.2))[0]:
                answer = self._controller.recv(65536)
                if f"Call-ID: {me}".encode() in answer:
                    self._server.log_until(f"{MARK}control {order}", begin)
                    return
        raise TimeoutError("the server has ended" if self._server.ended else "the server does not answer")

    def _collect(self) -> list[tuple[str, bytes]]:
        """Return what has come to the peers, peer by peer."""
        found = []
        for peer, sock in sorted(self._sockets.items()):
            while True:
                try:
                    found.append((peer, written(sock.recv(65536))))
                except BlockingIOError:
                    break
                except ConnectionError:
                    continue
        return found


def used_octets(data: bytes) -> bytes:
    """Return ``data`` with the addresses as they are on the wire."""
    return used(data.decode("latin-1")).encode("latin-1")


def _belongs(data: bytes, call_id: bytes) -> bool:
    """Tell whether a datagram is of this case, and not one that another repeats."""
    match = _CALL_ID.search(data)
    return match is None or re.match(rb"c\d\d\d\d?@", match[1]) is None or match[1].startswith(call_id)


def _addresses(case: Case) -> set[str]:
    """Return the addresses that a case names, as host:port."""
    texts = [step.peer for step in case.steps] + [step.head for step in case.steps]
    texts += [call.source for calls in case.blocks.values() for call in calls]
    texts += [e.line for step in case.steps for e in step.sent or []] + [e.line for e in case.sent or []]
    texts += [line for blocks in case.code.values() for lines in blocks.values() for line in lines]
    texts += [*case.sql, str(case.config)]
    found = {(int(m[1]), int(m[2] or PORT)) for text in texts for m in _ADDRESS.finditer(text)}
    return {f"{WRITTEN}{host}:{port}" for host, port in found if 0 < host < 250 and 0 < port < 65536}
