"""``make kills``: rounds of ``kill -9`` under load. What somebody was told is there is there afterwards, and the next start repairs.

Phones register and unregister, set up calls and end them, and change the items of a hash table with ``persist=1``, as fast as
they are answered; at a random moment the server is killed (in some rounds while it starts). The next one is asked for everything.
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
import select
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from polykemi.control import client
from polykemi.errors import RpcError
from tests.e2e.conftest import DOMAIN, ServerProcess
from tests.waiting import PATIENCE

SCRIPT: Final = """
function ksr_request_route()
    local method = KSR.pv.get("$rm")
    if KSR.siputils.has_totag() > 0 then
        KSR.rr.loose_route()
        KSR.tm.t_relay()
    elseif method == "REGISTER" then
        KSR.registrar.save("location", 0)
    elseif method == "OPTIONS" then
        local found = KSR.registrar.lookup("location") > 0
        KSR.sl.send_reply(found and 200 or 404, found and "OK" or "Not Found")
    elseif method == "MESSAGE" then
        KSR.htable.sht_seti("kept", KSR.pv.get("$rU"), tonumber(KSR.pv.get("$rb")))
        KSR.sl.send_reply(200, "OK")
    elseif method == "INVITE" then
        KSR.dialog.dlg_manage()
        KSR.rr.record_route()
        KSR.tm.t_relay()
    end
end
"""
CONFIG: Final = """
[engines]
lua = "kills.lua"
[modules.dialog]
db_mode = 1
[modules.htable]
htable = ["kept=>persist=1;autoexpire=7200"]
[overload]
delay = 0
"""
AT_ONCE: Final = 40  # requests under way
KEYS: Final = 60  # of the hash table
LONGEST: Final = 0.6  # seconds of load in a round
LEAST: Final = 30  # answers in a round, however slow the machine is
LISTED: Final = 200  # dialogs in one answer
STARTING: Final = 5  # each so many rounds the server is killed while it starts, too


class Phones:
    """All callers behind one socket and all callees behind another, and what they have been told."""

    def __init__(self, server: ServerProcess, rng: random.Random) -> None:
        self._server, self._rng = server, rng
        self._caller, self._callee = _socket(server.host), _socket(server.host)
        self._numbers = itertools.count(1)
        self._asked: dict[str, tuple[str, str, int]] = {}  # branch -> method, subject, number
        self.contacts: dict[str, bool] = {}  # AoR -> whether it has one; those under way are not in it
        self._fresh: set[str] = set()  # the AoRs that have been told of since the last check
        # Call-ID of an established call -> To and Route lines, Contact of the callee
        self.calls: dict[str, list[str]] = {}
        self.ended: set[str] = set()  # Call-IDs
        self.items: dict[str, list[int]] = {}  # key -> the number that was confirmed, the last that was sent
        self.answers = 0

    def close(self) -> None:
        """Close the sockets."""
        self._caller.close()
        self._callee.close()

    # ---- load
    def load(self, seconds: float) -> None:
        """Ask as fast as there are answers, for so long and until there are some."""
        until, enough = time.monotonic() + seconds, self.answers + LEAST
        while (left := until - time.monotonic()) > 0 or self.answers < enough:
            while len(self._asked) < AT_ONCE:
                self._ask_something()
            self.hear(max(left, 0.01))

    def hear(self, seconds: float) -> bool:
        """Take what comes within so many seconds; False when nothing does."""
        ready, _, _ = select.select([self._caller, self._callee], [], [], seconds)
        for sock in ready:
            message = sock.recv(65536).decode("latin-1")
            if sock is self._callee:
                self._answer(message)
            elif message.startswith("SIP/2.0 "):
                self._answered(message)
        return bool(ready)

    def killed(self) -> None:
        """Take the answers that the server had sent; what it has left open may be one way or the other."""
        while self.hear(0.0):
            pass
        self._asked.clear()

    def _ask_something(self) -> None:
        kind, number = self._rng.random(), next(self._numbers)
        if kind < 0.4:
            self._register(f"u{number}", 3600)
        elif kind < 0.5 and (known := [aor for aor, there in self.contacts.items() if there]):
            self._register(self._rng.choice(known), 0)
        elif kind < 0.7:
            key = f"k{self._rng.randrange(KEYS)}"
            state = self.items.setdefault(key, [0, 0])
            state[1] = number
            self._ask("MESSAGE", key, number, f"sip:{key}@{DOMAIN}", body=str(number))
        elif kind < 0.9 or not self.calls:
            call = f"call{number}"
            callee = f"{self._server.host}:{self._callee.getsockname()[1]}"
            self._ask("INVITE", call, number, f"sip:callee@{callee}", "Contact: <sip:caller@[own]>", call_id=call)
        else:
            call = self._rng.choice(list(self.calls))
            contact, to, *routes = self.calls.pop(call)
            self._ask("BYE", call, number, contact, *routes, to=to, call_id=call)

    def _register(self, aor: str, expires: int) -> None:
        self.contacts.pop(aor, None)
        self._ask(
            "REGISTER",
            aor,
            next(self._numbers),
            f"sip:{DOMAIN}",
            f"Contact: <sip:{aor}@192.0.2.7>;expires={expires}",
            to=f"<sip:{aor}@{DOMAIN}>",
            call_id=f"reg-{aor}",
        )

    def _ask(
        self,
        method: str,
        subject: str,
        number: int,
        uri: str,
        *lines: str,
        to: str = "",
        call_id: str = "",
        body: str = "",
    ) -> None:
        branch = f"z9hG4bK{number}"
        self._asked[branch] = method, subject, int("expires=0" not in " ".join(lines))
        self._send(method, branch, number, uri, *lines, to=to, call_id=call_id or f"c{number}", body=body)

    def _send(
        self, method: str, branch: str, number: int, uri: str, *lines: str, to: str, call_id: str, body: str = ""
    ) -> None:
        own = f"{self._server.host}:{self._caller.getsockname()[1]}"
        message = [
            f"{method} {uri} SIP/2.0",
            f"Via: SIP/2.0/UDP {own};branch={branch}",
            "Max-Forwards: 70",
            f"From: <sip:caller@{DOMAIN}>;tag=caller",
            f"To: {to or f'<{uri}>'}",
            f"Call-ID: {call_id}",
            f"CSeq: {number} {method}",
            *(line.replace("[own]", own) for line in lines),
            f"Content-Length: {len(body)}",
        ]
        data = "\r\n".join([*message, "", body]).encode("latin-1")
        self._caller.sendto(data, (self._server.host, self._server.port))

    def _answer(self, request: str) -> None:
        """Do what a callee does: everything is answered 200."""
        if request.startswith("ACK"):
            return
        lines = [line for line in request.split("\r\n") if re.match(r"(?i)(via|from|call-id|cseq|record-route):", line)]
        to = _value(request, "To")
        tag = "" if ";tag=" in to else ";tag=callee"
        own = f"{self._server.host}:{self._callee.getsockname()[1]}"
        answer = [
            "SIP/2.0 200 OK",
            *lines,
            f"To: {to}{tag}",
            f"Contact: <sip:callee@{own}>",
            "Content-Length: 0",
            "",
            "",
        ]
        self._callee.sendto("\r\n".join(answer).encode("latin-1"), (self._server.host, self._server.port))

    def _answered(self, response: str) -> None:
        """Note what the server has said."""
        branch = re.search(r"branch=(\w+)", _value(response, "Via"))
        status = int(response[8:11])
        if branch is None or status < 200 or branch[1] not in self._asked:
            return
        method, subject, number = self._asked.pop(branch[1])
        assert status == 200, response
        self.answers += 1
        if method == "REGISTER":
            self.contacts[subject] = bool(number)
            self._fresh.add(subject)
        elif method == "MESSAGE":
            confirmed = int(_value(response, "CSeq").split()[0])
            self.items[subject][0] = max(self.items[subject][0], confirmed)
        elif method == "INVITE":
            routes = [f"Route: {one}" for one in re.findall(r"(?im)^record-route: *(.*?)\r$", response)[::-1]]
            contact, to = _value(response, "Contact").strip("<>"), _value(response, "To")
            self.calls[subject] = [contact, to, *routes]
            cseq = int(_value(response, "CSeq").split()[0])
            self._send("ACK", f"z9hG4bKa{cseq}", cseq, contact, *routes, to=to, call_id=subject)
        elif method == "BYE":
            self.ended.add(subject)

    # ---- afterwards
    def check(self, *, all_contacts: bool = False) -> None:
        """Ask the server for what it has confirmed: of contacts those since the last time, or all, which takes longer.

        Raise AssertionError for what is not as it was told.
        """
        path = self._server.data / client.SOCKET
        slots: Any = client.call(path, "htable.dump", ["kept"])
        found = {one["name"]: one["value"] for slot in slots for one in slot["slot"]}
        for key, (confirmed, sent) in self.items.items():
            assert confirmed <= found.get(key, 0) <= sent, f"item {key}: confirmed {confirmed}, found {found.get(key)}"
        there = _dialogs(path)
        assert there >= self.calls.keys(), f"calls that are lost: {sorted(self.calls.keys() - there)}"
        assert not there & self.ended, f"calls that had ended: {sorted(there & self.ended)}"
        for aor, is_there in self.contacts.items():
            if aor not in self._fresh and not all_contacts:
                continue
            status = self._lookup(aor)
            assert status == (200 if is_there else 404), f"contact {aor}: told {is_there}, found {status}"
        self._fresh.clear()

    def _lookup(self, aor: str) -> int:
        number = next(self._numbers)
        branch = f"z9hG4bK{number}"
        for _ in range(int(PATIENCE) // 2):
            self._send("OPTIONS", branch, number, f"sip:{aor}@{DOMAIN}", to="", call_id=f"c{number}")
            until = time.monotonic() + 2
            while (left := until - time.monotonic()) > 0:
                if select.select([self._caller], [], [], left)[0]:
                    message = self._caller.recv(65536).decode("latin-1")
                    if f"branch={branch}" in message:
                        return int(message[8:11])
        raise AssertionError(f"no answer about {aor}")


def run(data: Path, rounds: int, seed: int, host: str = "127.0.0.1", told: Any = lambda line: None) -> int:
    """Kill a server so many times; return how many answers the phones had. Raise AssertionError for what is lost."""
    rng = random.Random(seed)
    (data / "kills.lua").write_text(SCRIPT)
    (data / "polykemi.toml").write_text(CONFIG)
    server = ServerProcess(data, ["--config", str(data / "polykemi.toml")], host)
    phones = Phones(server, rng)
    try:
        for number in range(1, rounds + 1):
            phones.load(rng.uniform(0.02, LONGEST))
            server.stop(signal.SIGKILL)
            phones.killed()
            if number % STARTING == 0:
                server.launch()
                time.sleep(rng.uniform(0.0, 1.0))
                server.stop(signal.SIGKILL)
            server.start()
            phones.check()
            told(
                f"round {number}: {phones.answers} answers, {sum(phones.contacts.values())} contacts, "
                f"{len(phones.calls)} calls, {len(phones.items)} items"
            )
        assert server.stop() == 0
        server.start()
        phones.check(all_contacts=True)
        assert "Traceback" not in server.log(), server.log()
    finally:
        phones.close()
        if server.process.poll() is None:
            server.stop(signal.SIGKILL)
    return phones.answers


def _dialogs(path: Path) -> set[str]:
    """Return the Call-IDs of all dialogs; a list has ``LISTED`` at most, so that they are asked for by how they begin."""
    found: set[str] = set()
    beginnings = [f"call{digit}" for digit in range(1, 10)]
    for beginning in beginnings:  # which grows
        listed = _listed(path, "sw", beginning)
        found |= listed
        if len(listed) == LISTED:
            found |= _listed(path, "eq", beginning)
            beginnings += [f"{beginning}{digit}" for digit in range(10)]
    return found


def _listed(path: Path, operator: str, value: str) -> set[str]:
    try:
        dialogs: Any = client.call(path, "dlg.list_match", ["callid", operator, value, LISTED])
    except RpcError as error:
        if error.code != 404:  # there is none
            raise
        return set()
    return {one["call-id"] for one in dialogs}


def _socket(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    return sock


def _value(message: str, name: str) -> str:
    found = re.search(rf"(?im)^{name}: *(.*?)\r$", message)
    return found[1] if found else ""


def main() -> int:
    """Run the rounds and tell of each; 1 when something is lost."""
    options = argparse.ArgumentParser(prog="make kills", description=__doc__)
    options.add_argument("--rounds", type=int, default=50)
    options.add_argument("--seed", type=int, default=int(time.time()))
    given = options.parse_args()
    print(f"seed {given.seed}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        try:
            answers = run(Path(directory), given.rounds, given.seed, told=lambda line: print(line, flush=True))
        except AssertionError as error:
            print(f"FAILED: {error}")
            return 1
    print(f"{given.rounds} kills, {answers} answers, nothing lost; {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
