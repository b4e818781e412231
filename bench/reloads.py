"""Scripts are changed on a server under load, good ones and broken ones in turn; no caller may notice.

    make reloads                                   each engine: 100 reloads, 1,000 registrations and 100 calls a second
    make reloads ARGS="--engines lua --reloads 20 --registrations 200 --calls 20"

Every version of the script writes its name into what it answers and forwards. So the phones see by which version each part of
their calls was routed: a call is to be routed by one version from its INVITE to the answer of its BYE, a registration by the
version that the operator was told of last, and nothing by a broken one.

Fails when a call or a registration fails, when an answer takes so long that a phone would have sent its request again (500 ms,
RFC 3261 T1), when the server has sent a request again, when a version is not the one that it has to be, or when the operator
was told wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import random
import re
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.ports import free_port
from bench.reload_scripts import BROKEN, SCRIPTS, SUFFIXES
from bench.servers import ROOT
from polykemi.control.client import SOCKET, call
from polykemi.errors import RpcError, UsageError

HOST: Final = "127.0.0.1"
DOMAIN: Final = "reloads.test"
USERS: Final = 500
T1: Final = 0.5  # seconds; then a phone sends its request again
GIVEN_UP: Final = 5.0  # seconds without an answer: it has failed
LONGEST_CALL: Final = 2.0  # seconds, many reloads long
PATIENT: Final = 60.0  # seconds: both when nobody measures
FEW: Final = 20  # requests that are under way then
REFUSED: Final = 0.1  # of the calls
PAUSE: Final = 0.3  # seconds between two reloads

_CONFIG: Final = """
domains = ["{domain}"]
[engines]
{engine} = "{script}"
[modules.dialog]
default_timeout = 600
"""
_PATIENT: Final = """
[modules.tm]
retr_timer1 = 60000
[overload]
delay = 0
"""
_BRANCH: Final = re.compile(r"branch=([^;\r\n]+)")


@dataclass
class Tally:
    """What was seen."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0  # seconds from a request to its first answer

    def fault(self, what: str, detail: str) -> None:
        """Count something that may not happen."""
        self.counts[what] += 1
        if len(self.faults) < 20:
            self.faults.append(f"{what}: {detail}")

    def answered(self, what: str, seconds: float) -> None:
        """Take how long an answer took."""
        self.slowest = max(self.slowest, seconds)
        if seconds > T1:
            self.fault("late", f"{what} after {seconds:.3f} s")


@dataclass
class Known:
    """Which good version the operator was told of, and when: what is sent later has to be routed by it."""

    number: int
    since: float


class Phones:
    """Phones that register, phones that call, phones that are called."""

    def __init__(
        self, server: tuple[str, int], registrations: float, calls: float, seed: int, *, patient: bool = False
    ) -> None:
        """``registrations`` and ``calls``: a second; those who are ``patient`` send no more while many wait for an answer."""
        self.tally = Tally()
        self.known = Known(1, 0.0)
        self.registered = threading.Event()  # everybody is
        self.stop = threading.Event()
        self._server = server
        self._rates = registrations, calls
        self._most, self._given_up = (FEW, PATIENT) if patient else (sys.maxsize, GIVEN_UP)
        self._chance = random.Random(seed)
        self._numbers = itertools.count(1)
        self._registrations = itertools.count(1)
        self._sockets = {
            name: socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for name in ("register", "caller", "callee")
        }
        for sock in self._sockets.values():
            sock.bind((HOST, 0))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            sock.settimeout(0)
        self._at = {name: f"{HOST}:{sock.getsockname()[1]}" for name, sock in self._sockets.items()}
        self._due: list[tuple[float, int, Callable[[float], None]]] = []
        self._pending: dict[str, tuple[str, float, str]] = {}  # branch -> what it was, when it was sent, known version
        self._calls: dict[str, dict[str, str]] = {}  # by Call-ID
        self._seen: set[str] = set()  # branches that came to the callee

    # ---- time
    def run(self) -> None:
        """Keep up the load until ``stop``, then wait for what is under way."""
        names = {sock.fileno(): name for name, sock in self._sockets.items()}
        began = now = time.monotonic()
        sent = {"register": 0, "call": 0}
        end = None
        while end is None or (now < end and (self._pending or self._calls)):
            now = time.monotonic()
            if end is None and self.stop.is_set():
                end = now + self._given_up + LONGEST_CALL
            if end is None:
                registrations, calls = self._rates
                while sent["register"] < (now - began) * registrations and len(self._pending) < self._most:
                    sent["register"] += 1
                    self._register(now)
                if not self.registered.is_set() and sent["register"] > 2 * USERS:
                    self.registered.set()
                    called = now
                while (
                    self.registered.is_set()
                    and sent["call"] < (now - called) * calls
                    and len(self._pending) <= self._most
                ):
                    sent["call"] += 1
                    self._invite(now)
            while self._due and self._due[0][0] <= now:
                heapq.heappop(self._due)[2](now)
            wait = min(0.002, max(0.0, self._due[0][0] - now)) if self._due else 0.002
            for fileno in select.select(list(names), [], [], wait)[0]:
                self._read(names[fileno])
        for what, _, detail in self._pending.values():
            self.tally.fault("no answer", f"{what} {detail}")
        self.tally.counts["calls not ended"] += len(self._calls)
        for sock in self._sockets.values():
            sock.close()

    def _later(self, when: float, what: Callable[[float], None]) -> None:
        heapq.heappush(self._due, (when, next(self._numbers), what))

    def _read(self, name: str) -> None:
        sock = self._sockets[name]
        for _ in range(64):
            try:
                text = sock.recv(65536).decode("latin-1")
            except BlockingIOError:
                return
            (self._answered if text.startswith("SIP/2.0") else self._asked)(text, time.monotonic())

    # ---- requests
    def _request(self, name: str, method: str, uri: str, lines: list[str], now: float, *, awaited: bool = True) -> None:
        branch = f"z9hG4bK{next(self._numbers)}"
        if awaited:
            self._pending[branch] = method, now, uri
        head = [f"{method} {uri} SIP/2.0", f"Via: SIP/2.0/UDP {self._at[name]};branch={branch}", "Max-Forwards: 70"]
        text = "\r\n".join([*head, *lines, "Content-Length: 0", "", ""])
        self._sockets[name].sendto(text.encode(), self._server)

    def _register(self, now: float) -> None:
        number = next(self._registrations)
        user = f"sip:u{number % USERS}@{DOMAIN}"
        lines = [
            *(
                f"From: <{user}>;tag={number}",
                f"To: <{user}>",
                f"Call-ID: r{number % USERS}",
                f"CSeq: {number} REGISTER",
            ),
            f"Contact: <sip:u{number % USERS}@{self._at['callee']}>;expires=600",
        ]
        self._request("register", "REGISTER", f"sip:{DOMAIN}", lines, now)

    def _invite(self, now: float) -> None:
        number = next(self._numbers)
        uri = f"sip:u{number % USERS}@{DOMAIN}"
        call_id = f"c{number}"
        self._calls[call_id] = {"uri": uri, "busy": "yes" if self._chance.random() < REFUSED else ""}
        self._request("caller", "INVITE", uri, self._dialog(call_id, "INVITE"), now)

    def _dialog(self, call_id: str, method: str) -> list[str]:
        call = self._calls[call_id]
        to = f"To: <{call['uri']}>" + (f";tag={call['tag']}" if "tag" in call else "")
        cseq = 2 if method == "BYE" else 1
        lines = [f"From: <sip:a@{DOMAIN}>;tag=a", to, f"Call-ID: {call_id}", f"CSeq: {cseq} {method}"]
        lines.append(f"Contact: <sip:a@{self._at['caller']}>")
        if method == "INVITE":
            lines.append(f"X-Busy: {call['busy'] or 'no'}")
        return lines + ([f"Route: {call['route']}"] if "route" in call else [])

    # ---- answers
    def _answered(self, text: str, now: float) -> None:
        status = int(text[8:11])
        branch = _value(_BRANCH, text)
        pending = self._pending.get(branch)
        if pending is None:
            return
        what, sent, _ = pending
        if status == 100:
            self.tally.answered(what, now - sent)
            return
        call_id = header(text, "Call-ID")
        if status < 200:
            return
        del self._pending[branch]
        if what != "INVITE":
            self.tally.answered(what, now - sent)
        if what == "REGISTER":
            self._has_registered(text, status, sent)
        elif what == "INVITE":
            self._was_answered(text, status, call_id, now)
        else:
            self.tally.counts["calls"] += 1
            version = header(text, "X-Reply")
            call = self._calls.pop(call_id)
            if status != 200:
                self.tally.fault("failed calls", text.partition("\r\n")[0])
            elif version != call["version"]:
                self.tally.fault("mixed", f"{call_id} began in {call['version']}, its BYE ended in {version}")

    def _has_registered(self, text: str, status: int, sent: float) -> None:
        self.tally.counts["registrations"] += 1
        known, version = self.known, header(text, "X-Version")
        if status != 200:
            self.tally.fault("failed registrations", text.partition("\r\n")[0])
        elif not version.startswith("g"):
            self.tally.fault("broken", f"REGISTER by {version}")
        elif sent > known.since and int(version[1:]) < known.number:
            self.tally.fault("mixed", f"REGISTER by {version}, the operator was told of {known.number}")

    def _was_answered(self, text: str, status: int, call_id: str, now: float) -> None:
        call = self._calls[call_id]
        call["tag"] = header(text, "To").partition(";tag=")[2]
        if status == 200 and not call["busy"]:
            call["version"] = header(text, "X-Seen")
            if header(text, "X-Reply") != call["version"]:
                self.tally.fault("mixed", f"INVITE by {call['version']}, its answer by {header(text, 'X-Reply')}")
            call["route"], call["uri"] = header(text, "Record-Route"), header(text, "Contact").strip("<>")
            self._request("caller", "ACK", call["uri"], self._dialog(call_id, "ACK"), now, awaited=False)
            self._later(now + self._chance.random() * LONGEST_CALL, lambda then: self._bye(call_id, then))
            return
        branch = _value(_BRANCH, text)
        lines = [f"ACK {call['uri']} SIP/2.0", f"Via: SIP/2.0/UDP {self._at['caller']};branch={branch}"]
        self._sockets["caller"].sendto(
            "\r\n".join(
                [*lines, "Max-Forwards: 70", *self._dialog(call_id, "ACK"), "Content-Length: 0", "", ""]
            ).encode(),
            self._server,
        )
        del self._calls[call_id]
        self.tally.counts["calls"] += 1
        if status != 480 or not call["busy"]:
            self.tally.fault("failed calls", text.partition("\r\n")[0])
        elif text[12:].partition("\r\n")[0] != (seen := call.get("invited", "")):
            self.tally.fault("mixed", f"INVITE by {seen}, its failure by {text[12:].partition(chr(13))[0]}")

    def _bye(self, call_id: str, now: float) -> None:
        self._request("caller", "BYE", self._calls[call_id]["uri"], self._dialog(call_id, "BYE"), now)

    # ---- the called
    def _asked(self, text: str, now: float) -> None:
        method, branch, call_id = text.partition(" ")[0], _value(_BRANCH, text), header(text, "Call-ID")
        versions = {header(text, name) for name in ("X-Request", "X-Branch")} - {""}
        call = self._calls.get(call_id)
        if method == "ACK":
            return
        if branch in self._seen:
            self.tally.fault("sent again", f"{method} {call_id}")
            return
        self._seen.add(branch)
        if len(versions) != 1 or not min(versions).startswith("g"):
            self.tally.fault("mixed", f"{method} {call_id} by {sorted(versions)}")
        version = min(versions, default="")
        if call is None:
            return
        if method == "INVITE":
            call["invited"] = version
            if call["busy"]:
                self._answer(text, "486 Busy Here", [])
                return
            self._answer(text, "180 Ringing", [])
        elif version != call["version"]:
            self.tally.fault("mixed", f"{call_id} began in {call['version']}, its {method} came by {version}")
        self._answer(text, "200 OK", [f"Contact: <sip:{call_id}@{self._at['callee']}>", f"X-Seen: {version}"])

    def _answer(self, request: str, status: str, lines: list[str]) -> None:
        kept = [
            line
            for line in request.split("\r\n")
            if line.startswith(("Via:", "From:", "Call-ID:", "CSeq:", "Record-Route:"))
        ]
        to = header(request, "To")
        to = to if ";tag=" in to else f"{to};tag=b"
        text = "\r\n".join([f"SIP/2.0 {status}", *kept, f"To: {to}", *lines, "Content-Length: 0", "", ""])
        self._sockets["callee"].sendto(text.encode(), self._server)


def header(text: str, name: str) -> str:
    """Return the first value of a header; empty when there is none."""
    start = text.find(f"\r\n{name}: ")
    return text[start + len(name) + 4 : text.find("\r\n", start + 2)] if start >= 0 else ""


def _value(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""


class Operator:
    """Reloads, good scripts and broken ones in turn."""

    def __init__(self, engine: str, script: Path, control: Path, phones: Phones) -> None:
        self.engine, self.script, self.control, self.phones = engine, script, control, phones
        self.told: Counter[str] = Counter()

    def write(self, name: str, more: str = "") -> None:
        """Put the version ``name`` in place, as a deployment does: in one step."""
        new = self.script.with_suffix(".new")
        new.write_text(SCRIPTS[self.engine].replace("@", name) + more)
        new.replace(self.script)

    def reload(self, number: int) -> None:
        """Do reload ``number``: the even ones are good."""
        good = number % 2 == 0
        name = f"{'g' if good else 'b'}{number}"
        broken = list(BROKEN[self.engine].values())
        if good:
            self.write(name)
        else:
            text = broken[number // 2 % len(broken)]
            self.write(name, text) if text[:1] == "\n" else self.script.write_text(text.replace("@", name))
        tally = self.phones.tally
        try:
            call(self.control, "app.reload")
        except RpcError as error:
            self.told["refused"] += 1
            if good:
                tally.fault("good one refused", str(error))
            elif not re.search(rf"{re.escape(str(self.script))}\S*: ", str(error)):
                tally.fault("no reason", str(error))
        else:
            self.told["taken"] += 1
            self.phones.known = Known(number, time.monotonic())
            if not good:
                tally.fault("broken one taken", broken[number // 2 % len(broken)])


@contextlib.contextmanager
def serving(engine: str, directory: Path, more: str = "") -> Iterator[tuple[Path, Path, int]]:
    """Run a server as a user starts it, ``more`` in its configuration; give its script, its control socket and its port."""
    script, port = directory / f"route.{SUFFIXES[engine]}", free_port()
    script.write_text(SCRIPTS[engine].replace("@", "g1"))
    config = directory / "polykemi.toml"
    config.write_text(_CONFIG.format(domain=DOMAIN, engine=engine, script=script) + more)
    command = [sys.executable, "-m", "polykemi", "serve", "--config", config, "--listen", f"udp:{HOST}:{port}"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [*map(str, command), "--data", str(directory / "data")], cwd=ROOT, stdout=subprocess.PIPE, stderr=log
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.strip() == b"ready":
                    break
            else:
                raise UsageError(f"the server did not start: {(directory / 'log').read_text()}")
            yield script, directory / "data" / SOCKET, port
        finally:
            process.terminate()
            process.wait(30)
            process.stdout.close()


def measure(
    engine: str, reloads: int, registrations: float, calls: float, directory: Path, *, patient: bool = False
) -> tuple[Tally, Counter[str]]:
    """Reload ``reloads`` times under load; return what the phones saw and what the operator was told.

    ``patient``: the machine may have much to do, so what is late is neither sent again nor given up.
    """
    with serving(engine, directory, _PATIENT if patient else "") as (script, control, port):
        phones = Phones((HOST, port), registrations, calls, seed=1, patient=patient)
        operator = Operator(engine, script, control, phones)
        load = threading.Thread(target=phones.run)
        load.start()
        try:
            phones.registered.wait()
            for number in range(1, reloads + 1):
                time.sleep(PAUSE)
                operator.reload(number)
            time.sleep(PAUSE)
        finally:
            phones.stop.set()
            load.join()
        versions = call(control, "app.versions")
        operator.told["versions"] = len(versions)
        return phones.tally, operator.told


def report(engine: str, tally: Tally, told: Counter[str]) -> list[str]:
    """Return what was seen, in lines."""
    counts = tally.counts
    operator = f"{told['taken']} reloads taken, {told['refused']} refused, {told['versions']} versions at the end"
    load = f"{counts['registrations']} registrations, {counts['calls']} calls"
    lines = [f"{engine}: {operator}; {load}; slowest answer {1000 * tally.slowest:.0f} ms"]
    wrong = {name: n for name, n in counts.items() if name not in ("registrations", "calls") and n}
    lines.append(f"  faults: {', '.join(f'{n} {name}' for name, n in wrong.items()) or 'none'}")
    return lines + [f"    {one}" for one in tally.faults]


def main() -> None:
    """Run it from the command line; exit 1 when somebody has noticed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--engines", default=",".join(SCRIPTS), help="comma-separated")
    parser.add_argument("--reloads", type=int, default=100)
    parser.add_argument("--registrations", type=float, default=1000, help="a second")
    parser.add_argument("--calls", type=float, default=100, help="a second")
    options = parser.parse_args()
    failed = False
    for engine in options.engines.split(","):
        with tempfile.TemporaryDirectory(prefix="reloads") as directory:
            tally, told = measure(engine, options.reloads, options.registrations, options.calls, Path(directory))
            print("\n".join(report(engine, tally, told)), flush=True)
            failed = failed or bool(tally.faults) or tally.counts["calls not ended"] > 0
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
