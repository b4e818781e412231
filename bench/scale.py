"""Measure what size costs: a message with more and more registered contacts, memory, start-up, open transactions.

    make scale                      all of it with 1,000, 100,000 and 1,000,000 contacts; two minutes
    make scale ARGS="--contacts 1000,100000 --only register,start --json scale.json"

A server without sockets (``polykemi.node.assemble``) with its real stores, LMDB and SQLite, takes messages by hand, so
that the figures hold no kernel and no load generator. Each measurement has a process of its own; CPU is user + system
time of that process over the server's part alone, in microseconds. There is one column for each number of contacts, and
there are as many subscribers. What is measured:

import
    ``polykemi subscriber import`` of all subscribers, which makes the data: seconds and peak memory.
register
    REGISTER refreshes with authentication (each two messages: 401, 200), four a turn, phones in random order over all
    subscribers, after half as many others to warm up; medians of the rounds, which alternate between the sizes.
    ``ratio`` is to the smallest size and should stay below 1.2. ``own_mib`` is memory of the process without files and
    disk cache, ``octets_more`` how much more of it a contact costs than in the smallest size; the last two lines are the
    disk, and so disk cache, that a contact and a subscriber take.
start
    Seconds from the start of ``polykemi serve`` to "ready", with the files in the disk cache (warm) and after they were
    dropped from it (cold), and the memory of that process then.
expiry
    All contacts are over at once: what one costs, the longest that a batch of them keeps the loop, how many go a second.
transactions
    10,000 calls that ring: the cost of INVITE and 180, of the 200, of the end of all timers; of a stateless OPTIONS with no
    call and beside all of them; memory of a call. Then 10,000 calls that nobody answers, from INVITE to the end, with the
    datagrams that each sent to the phone, and the longest turn. In the end nothing is left.

Compare ratios of one run, not figures of different runs.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from polykemi.config import EngineSettings, ModuleSettings, RouteSettings, Settings
from polykemi.node import Node, assemble
from polykemi.server import open_data
from polykemi.sip import digest
from polykemi.sip.flow import Flow, Listener
from polykemi.storage.lmdb_location import LmdbLocation
from polykemi.storage.location import Binding

ROOT = Path(__file__).parents[1]
SCRIPTS = {"lua": "routes/lua/basic.lua", "js": "routes/js/basic.js", "python": "routes/py/basic.py"}
DOMAIN = "bench.test"
LISTENER = Listener("udp", "127.0.0.1", 5060)
MIB = 1 << 20
TURN = 4  # messages that come in one pass over the socket
STEP = 0.001  # seconds between two turns

REGISTER = (
    "REGISTER sip:bench.test SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:15070;branch=z9hG4bK-{n}\r\nMax-Forwards: 70\r\n"
    "From: <sip:{user}@bench.test>;tag={n}\r\nTo: <sip:{user}@bench.test>\r\nCall-ID: {user}@127.0.0.1\r\n"
    "CSeq: {n} REGISTER\r\nContact: <sip:{user}@127.0.0.1:15070>\r\n{more}Expires: 3600\r\nUser-Agent: bench\r\n"
    "Content-Length: 0\r\n\r\n"
)
CREDENTIALS = (
    'Authorization: Digest username="{user}",realm="bench.test",uri="sip:bench.test",nonce="{nonce}",'
    'response="{response}",algorithm=MD5\r\n'
)
INVITE = (
    "INVITE sip:{user}@bench.test SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:15090;branch=z9hG4bK-{n}\r\n"
    "Max-Forwards: 70\r\nFrom: <sip:caller@elsewhere.test>;tag={n}\r\nTo: <sip:{user}@bench.test>\r\n"
    "Call-ID: {n}@127.0.0.1\r\nCSeq: 1 INVITE\r\nContact: <sip:caller@127.0.0.1:15090>\r\n"
    "Content-Type: application/sdp\r\nContent-Length: 130\r\n\r\n"
    "v=0\r\no=caller 53655765 2353687637 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=audio 6000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
)
OPTIONS = (
    "OPTIONS sip:bench.test SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:15090;branch=z9hG4bK-o{n}\r\nMax-Forwards: 70\r\n"
    "From: <sip:caller@elsewhere.test>;tag={n}\r\nTo: <sip:bench.test>\r\nCall-ID: o{n}@127.0.0.1\r\n"
    "CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
)


def user(i: int) -> str:
    """Return the name of subscriber ``i``."""
    return f"u{i:07}"


# ---- data
def make_data(data: Path, n: int) -> dict[str, float]:
    """Fill ``data`` with ``n`` subscribers and as many contacts, which registered in any order; return seconds."""
    data.mkdir(parents=True)
    rows = data.with_suffix(".csv")
    with rows.open("w") as file:
        file.writelines(f"{user(i)},{DOMAIN},pw-{i}\n" for i in range(n))
    command = [sys.executable, "-m", "polykemi", "subscriber", "import", str(rows), "--data", str(data)]
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit("subscriber import failed")
    imported = time.monotonic() - began
    rows.unlink()
    fill(data / "location", n, time.time())
    return {"rows": n, "import_s": imported, "import_peak_mib": usage.ru_maxrss * 1024 / MIB}


def fill(path: Path, n: int, now: float) -> None:
    """Register ``n`` contacts whose lifetimes end within the hour after ``now``."""
    order = list(range(n))
    draw = random.Random(n)
    draw.shuffle(order)
    store = LmdbLocation(path)
    for at, i in enumerate(order, 1):
        name = user(i)
        binding = Binding(f"sip:{name}@127.0.0.1:15070", now + 1800 + draw.random() * 1800, -1, f"{name}@127.0.0.1", 1)
        binding.user_agent, binding.listener, binding.modified = "bench", str(LISTENER), now
        binding.ruid = f"uloc-{i:08x}-1-{i:x}"
        store.put("location", name, [binding])
        if at % 2000 == 0:
            store.commit()
    store.close()


# ---- a server driven by hand
class Bench:
    """A node with the stores under ``data``, what it has sent, and the CPU that it has taken."""

    def __init__(self, data: Path, engine: str) -> None:
        self.now = time.time()
        self.cpu = 0.0  # seconds
        self.longest = 0.0  # seconds of CPU that one call took
        self.sent: list[tuple[bytes, Flow]] = []
        location, database = open_data(data)
        self.node: Node = assemble(
            Settings(
                domains=(DOMAIN,),
                engines=(EngineSettings(engine, ROOT / SCRIPTS[engine]),),
                routes=RouteSettings(default=engine),
                modules=ModuleSettings(params={"registrar": {"max_contacts": 1}}),
            ),
            listeners=(LISTENER,),
            location=location,
            database=database,
            send=self.sent.extend,
            now=self.now,
            ended=self._ended,
        )
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)  # as Server.run has it

    def _ended(self) -> None:
        self.node.next_timeout()  # as Server does after each turn, to arm its timer

    def turn(self, messages: list[str], port: int = 15070) -> list[bytes]:
        """Take messages that come in one pass over the socket, after the timers that are due; return what leaves."""
        datagrams = [message.encode("latin-1") for message in messages]
        self.now += STEP
        receive, now = self.node.router.receive, self.now
        began = time.process_time()
        if (due := self.node.next_timeout()) is not None and due <= now:
            self.node.timers(now)
        for data in datagrams:
            receive(data, Flow(LISTENER, "127.0.0.1", port), now)
        self.node.router.pump()
        return self._took(began)

    def timers(self, until: float) -> list[bytes]:
        """Let the clock run to ``until``, with all timers when they are due; return what leaves."""
        out: list[bytes] = []
        while (due := self.node.next_timeout()) is not None and due <= until:
            self.now = max(due, self.now)
            began = time.process_time()
            self.node.timers(self.now)
            self.node.router.pump()
            out += self._took(began)
        self.now = until
        return out

    def _took(self, began: float) -> list[bytes]:
        took = time.process_time() - began
        self.cpu += took
        self.longest = max(self.longest, took)
        out = [data for data, _ in self.sent]
        self.sent.clear()
        return out

    def cost(self, action: Callable[[], list[bytes]], number: int) -> tuple[list[bytes], float]:
        """Return what ``action`` makes the server send, and the microseconds that each of ``number`` costs it."""
        before, self.longest = self.cpu, 0.0
        out = action()
        return out, (self.cpu - before) / number * 1e6

    def in_turns(self, messages: list[str], port: int = 15070) -> list[bytes]:
        """Take all ``messages``, a few a turn."""
        out: list[bytes] = []
        for at in range(0, len(messages), TURN):
            out += self.turn(messages[at : at + TURN], port)
        return out

    def register(self, users: list[int], first: int) -> list[bytes]:
        """Let phones register with credentials; ``first`` is the CSeq of the first. Return the 200s."""
        out: list[bytes] = []
        for at in range(0, len(users), TURN):
            some = [(first + 2 * (at + k), i) for k, i in enumerate(users[at : at + TURN])]
            challenges = self.turn([REGISTER.format(n=n, user=user(i), more="") for n, i in some])
            answers = [
                REGISTER.format(n=n + 1, user=user(i), more=credentials(i, challenge))
                for (n, i), challenge in zip(some, challenges, strict=True)
            ]
            replies = self.turn(answers)
            for reply in replies:
                expect(reply, b"SIP/2.0 200")
            out += replies
        return out


def expect(reply: bytes, start: bytes) -> None:
    """Give up when a reply is another than the load is made for."""
    if not reply.startswith(start):
        raise SystemExit(f"expected {start.decode()}, got {reply.decode('latin-1')}")


def credentials(i: int, challenge: bytes) -> str:
    """Return the Authorization line that answers ``challenge`` for subscriber ``i``."""
    expect(challenge, b"SIP/2.0 401")
    nonce = challenge.split(b'nonce="')[1].split(b'"')[0].decode()
    ha1 = digest.ha1(user(i), DOMAIN, f"pw-{i}")
    response = digest.response(ha1, nonce, "REGISTER", f"sip:{DOMAIN}")
    return CREDENTIALS.format(user=user(i), nonce=nonce, response=response)


def own_memory(pid: int | str = "self") -> int:
    """Return how many octets of memory a process has for itself: no files, no disk cache."""
    gc.collect()
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    return 0


def on_disk(path: Path) -> int:
    """Return the octets that the files of ``path`` (a folder, or a file with all that begin with its name) take."""
    files = path.iterdir() if path.is_dir() else path.parent.glob(f"{path.name}*")
    return sum(file.stat().st_blocks * 512 for file in files)


# ---- measurements, each in a process of its own
def measure_register(data: Path, engine: str, n: int, seed: int) -> dict[str, float]:
    """Refresh contacts of phones chosen at random."""
    bench = Bench(data, engine)
    draw = random.Random(seed)
    first = 2 + seed * 100_000  # CSeq numbers go up
    bench.register([draw.randrange(n) for _ in range(5_000)], first)  # caches of parts, the engine's heap
    users = [draw.randrange(n) for _ in range(10_000)]
    _, cost = bench.cost(lambda: bench.register(users, first + 10_000), 2 * len(users))
    out = {"us_per_message": cost, "longest_turn_ms": bench.longest * 1e3, "own_mib": own_memory() / MIB}
    bench.node.close()
    out["octets_of_a_contact"] = on_disk(data / "location") / n
    out["octets_of_a_subscriber"] = on_disk(data / "polykemi.sqlite") / n
    return out


def measure_expiry(data: Path, engine: str, n: int, limit: int) -> dict[str, float]:
    """Let all contacts expire at once, on a copy; stop after ``limit`` of them."""
    with tempfile.TemporaryDirectory(dir=data.parent) as directory:
        copy = Path(directory) / "data"
        shutil.copytree(data, copy)
        bench = Bench(copy, engine)
        began, cpu = bench.now + 7200, bench.cpu
        bench.now, bench.longest = began, 0.0
        counters = bench.node.services.counters
        while (gone := counters.get("usrloc.location-expires", 0)) < min(n, limit):
            due = bench.node.next_timeout()
            assert due is not None
            bench.timers(max(due, bench.now))
        out = {
            "us_per_contact": (bench.cpu - cpu) / gone * 1e6,
            "longest_ms": bench.longest * 1e3,
            "contacts_per_second": gone / max(bench.now - began, 1e-9),
        }
        bench.node.close()
    return out


def measure_transactions(data: Path, engine: str, n: int, number: int) -> dict[str, float]:
    """Have INVITE transactions open, look at what they cost, and let them end: answered, then unanswered."""
    bench = Bench(data, engine)
    layer = bench.node.modules["tm"].layer  # type: ignore[attr-defined]
    bench.in_turns([OPTIONS.format(n=i) for i in range(1000)], 15090)
    out = {"options_alone_us": options_us(bench, "a")}
    before = own_memory()
    forwarded, out["ring_us"] = bench.cost(lambda: ring(bench, invites(n, number, "r")), number)
    out["transactions"] = len(layer)
    out["octets_of_a_call"] = (own_memory() - before - sum(map(sys.getsizeof, forwarded))) / number
    out["options_beside_us"] = options_us(bench, "b")
    answers = [reply_to(data, "200 OK") for data in forwarded]
    _, out["answer_us"] = bench.cost(lambda: bench.in_turns(answers), number)
    _, out["end_us"] = bench.cost(lambda: bench.timers(bench.now + 60), number)
    out["left_of_answered"] = len(layer)

    cpu, retransmissions, until = bench.cpu, 0, bench.now + 600
    pending, bench.longest = invites(n, number, "s"), 0.0
    while (pending or len(layer)) and bench.now < until:
        got = bench.in_turns(pending, 15090) if pending else bench.timers(bench.now + 0.01)
        pending = [ack_to(data) for data in got if data.startswith(b"SIP/2.0 408")]
        retransmissions += sum(data.startswith(b"INVITE ") for data in got)
    out["unanswered_us"] = (bench.cpu - cpu) / number * 1e6
    out["sent_of_unanswered"] = retransmissions / number
    out["longest_turn_ms"] = bench.longest * 1e3
    out["left_of_unanswered"] = len(layer)
    bench.node.close()
    return out


def ring(bench: Bench, calls: list[str]) -> list[bytes]:
    """Let calls come to phones, which ring at once; return what the phones got."""
    out: list[bytes] = []
    for at in range(0, len(calls), TURN):
        forwarded = [data for data in bench.turn(calls[at : at + TURN], 15090) if data.startswith(b"INVITE ")]
        bench.turn([reply_to(data, "180 Ringing") for data in forwarded])
        out += forwarded
    return out


def options_us(bench: Bench, series: str) -> float:
    """Return what a stateless OPTIONS costs now."""
    messages = [OPTIONS.format(n=f"{series}{i}") for i in range(5000)]
    return bench.cost(lambda: bench.in_turns(messages, 15090), len(messages))[1]


def invites(n: int, number: int, series: str) -> list[str]:
    """Return calls to registered phones."""
    return [INVITE.format(n=f"{series}{i}", user=user(i % n)) for i in range(number)]


def reply_to(request: bytes, status: str) -> str:
    """Return the reply of a phone to a forwarded INVITE."""
    lines = request.decode("latin-1").partition("\r\n\r\n")[0].split("\r\n")[1:]
    kept = [x for x in lines if x.startswith(("Via:", "Record-Route:", "From:", "Call-ID:", "CSeq:"))]
    to = next(x for x in lines if x.startswith("To:"))
    kept += [f"{to};tag=phone", "Contact: <sip:phone@127.0.0.1:15070>", "Content-Length: 0", "", ""]
    return "\r\n".join([f"SIP/2.0 {status}", *kept])


def ack_to(reply: bytes) -> str:
    """Return the ACK of a caller to a negative reply."""
    lines = reply.decode("latin-1").split("\r\n")
    kept = [x.partition(";rport=")[0] for x in lines if x.startswith(("Via:", "From:", "To:", "Call-ID:"))]
    callee = next(x for x in lines if x.startswith("To:")).partition("<")[2].partition(">")[0]
    return "\r\n".join([f"ACK {callee} SIP/2.0", *kept, "CSeq: 1 ACK", "Max-Forwards: 70", "Content-Length: 0", "", ""])


def measure_start(data: Path, engine: str, _n: int, cold: int) -> dict[str, float]:
    """Start the command as a user does, with the data in the disk cache or, when ``cold``, not."""
    if cold:
        for file in [*data.iterdir(), *(data / "location").iterdir()]:
            if file.is_file():
                drop_from_cache(file)
    command = [sys.executable, "-m", "polykemi", "serve", "--engine", engine, SCRIPTS[engine], "--domain", DOMAIN]
    command += ["--listen", f"udp:127.0.0.1:{free_port()}", "--data", str(data)]
    began = time.monotonic()
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        while (line := server.stdout.readline()) != "ready\n":
            if not line:
                raise SystemExit("the server did not start")
        return {"seconds": time.monotonic() - began, "own_mib": own_memory(server.pid) / MIB}
    finally:
        server.terminate()
        server.wait()
        assert server.stdout is not None
        server.stdout.close()


def drop_from_cache(file: Path) -> None:
    """Write a file to the disk and let the kernel forget its pages."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def free_port() -> int:
    """Return a UDP port that is free now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# ---- the run
MEASUREMENTS: dict[str, Callable[[Path, str, int, int], dict[str, float]]] = {
    "register": measure_register,
    "start": measure_start,
    "expiry": measure_expiry,
    "transactions": measure_transactions,
}


def measure(name: str, data: Path, engine: str, n: int, more: int) -> dict[str, float]:
    """Run one measurement in a process of its own."""
    command = [sys.executable, __file__, "--child", name, str(data), engine, str(n), str(more)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure."""
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}


def run(options: argparse.Namespace, base: Path) -> dict[str, Any]:
    """Make the data, measure, and return all figures by section and number of contacts."""
    sizes, engine, rounds = options.contacts, options.engine, range(options.rounds)
    data = {n: base / f"data-{n}" for n in sizes}
    figures: dict[str, Any] = {"import": {n: make_data(data[n], n) for n in sizes}}
    say("data made")
    if "register" in options.only:
        runs: dict[int, list[dict[str, float]]] = {n: [] for n in sizes}
        for seed in rounds:
            for n in sizes:  # alternating, so that what disturbs the machine meets all alike
                runs[n].append(measure("register", data[n], engine, n, seed))
        figures["register"] = {n: medians(runs[n]) for n in sizes}
        say("register done")
    if "start" in options.only:
        warm = {n: medians([measure("start", data[n], engine, n, 0) for _ in rounds]) for n in sizes}
        cold = {n: medians([measure("start", data[n], engine, n, 1) for _ in rounds]) for n in sizes}
        figures["start"] = {
            n: {"warm_s": warm[n]["seconds"], "cold_s": cold[n]["seconds"], "own_mib": warm[n]["own_mib"]}
            for n in sizes
        }
        say("start done")
    for name, more in (("expiry", 100_000), ("transactions", options.transactions)):
        if name in options.only:
            figures[name] = {n: measure(name, data[n], engine, n, more) for n in sizes}
            say(f"{name} done")
    return figures


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr)


def table(figures: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that show the figures: one table a section, one column a size."""
    for section, by_size in figures.items():
        sizes = list(by_size)
        smallest = by_size[sizes[0]]
        yield ""
        yield f"{section:28}" + "".join(f"{n:>14,}" for n in sizes)
        for key in smallest:
            yield f"  {key:26}" + "".join(f"{by_size[n][key]:14,.2f}" for n in sizes)
        if section == "register":
            costs, own = ([by_size[n][key] for n in sizes] for key in ("us_per_message", "own_mib"))
            more = [(mine - own[0]) * MIB / n for n, mine in zip(sizes, own, strict=True)]
            yield f"  {'ratio':26}" + "".join(f"{one / costs[0]:14.2f}" for one in costs)
            yield f"  {'octets_more':26}" + "".join(f"{one:14.1f}" for one in more)


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--child"]:
        name, data, engine, n, more = sys.argv[2:]
        print(json.dumps(MEASUREMENTS[name](Path(data), engine, int(n), int(more))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contacts", default="1000,100000,1000000", help="sizes, the smallest first")
    parser.add_argument("--transactions", type=int, default=10_000, help="calls open at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", default="lua", choices=SCRIPTS)
    parser.add_argument("--only", default=",".join(MEASUREMENTS), help="what to measure: " + ",".join(MEASUREMENTS))
    parser.add_argument("--dir", type=Path, help="where the data is made; default: the system's temporary directory")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    options.contacts = [int(n) for n in options.contacts.split(",")]
    options.only = options.only.split(",")
    with tempfile.TemporaryDirectory(dir=options.dir) as directory:
        figures = run(options, Path(directory))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    print("\n".join(table(figures)))


if __name__ == "__main__":
    main()
