"""A server's life as its manager sees it: how it starts or says why not, what it tells systemd, how it ends, who starts it anew."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.ports import free_port
from polykemi.control import client
from tests.e2e.conftest import ROOT
from tests.waiting import PATIENCE, until

HOST = "127.0.68.5"
FOR_EVER = 10 * int(PATIENCE)  # seconds
SCRIPT = """
function ksr_request_route()
    local user = KSR.pv.gete("$rU")
    if user == "later" then
        KSR.tm.t_relay()
    elseif user == "kill" then
        KSR.jsonrpcs.exec('{"jsonrpc":"2.0","id":1,"method":"core.kill","params":[9]}')
        KSR.sl.send_reply(KSR.pv.get("$jsonrpl(code)"), "Answered")
    elseif KSR.is_method("REGISTER") then
        KSR.registrar.save("location", 0)
    elseif user == "found" then
        local there = KSR.registrar.lookup("location") > 0
        KSR.sl.send_reply(there and 200 or 404, "Looked up")
    else
        KSR.sl.send_reply(200, "OK")
    end
end
"""
WEDGES = """
import itertools
import KSR

def mod_init():
    return Routes()

class Routes:
    def child_init(self, rank):
        return 0

    def ksr_request_route(self, msg):
        if KSR.pv.gete("$rU") == "wedge":
            any(itertools.repeat(0))
        if KSR.is_method("REGISTER"):
            KSR.registrar.save("location", 0)
        elif KSR.registrar.lookup("location") > 0:
            KSR.sl.send_reply(200, "Found")
        else:
            KSR.sl.send_reply(404, "Not Found")
        return 1
"""
ACTIVATE = """
import fcntl, os, sys
passed = [fcntl.fcntl(int(one), fcntl.F_DUPFD, 50) for one in sys.argv[1].split(",")]
for number, one in enumerate(passed, 3):
    os.dup2(one, number)
    os.close(one)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody may go through."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        (Path(directory) / "route.lua").write_text(SCRIPT)
        yield Path(directory)


class Served:
    """A server process, and a phone that asks it."""

    def __init__(
        self,
        place: Path,
        *arguments: str,
        service: str = "",
        port: int = 0,
        script: str = "route.lua",
        python: str = sys.executable,
        environ: dict[str, str] | None = None,
        sockets: tuple[socket.socket, ...] = (),
        user: str | None = None,
    ) -> None:
        self.place, self.data = place, place / "data"
        self.port = port or free_port(HOST)
        (place / "polykemi.toml").write_text(
            f'data = "data"\nlisten = ["udp:{HOST}:{self.port}", "tcp:{HOST}:{self.port}"]\n[modules.tm]\nfr_timer = {FOR_EVER}000\n'
            f'[engines]\n{"python" if script.endswith(".py") else "lua"} = "{script}"\n[service]\n{service}\n'
        )
        command = [python, "-m", "polykemi", "serve", "--config", str(place / "polykemi.toml"), *arguments]
        if sockets:
            command[1:1] = ["-c", ACTIVATE, ",".join(str(sock.fileno()) for sock in sockets)]
            environ = {"LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": ":".join(["a.socket"] * len(sockets))}
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environ or {})},
            pass_fds=[sock.fileno() for sock in sockets],
            user=user,
        )
        self.phone, self.callee = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for sock in (self.phone, self.callee):
            sock.bind((HOST, 0))
            sock.settimeout(PATIENCE)
        self._number = 0

    def wait(self) -> None:
        """Wait until it is ready."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line == "ready\n":
                return
        pytest.fail(f"the server did not start: {self.ended()}")

    def ended(self, seconds: float = PATIENCE) -> tuple[int, str]:
        """Wait for its end; return the exit code and the log."""
        _, log = self.process.communicate(timeout=seconds)
        return self.process.returncode, log

    def close(self) -> None:
        """End what is left."""
        self.phone.close()
        self.callee.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def send(self, user: str, method: str = "OPTIONS", *headers: str, tag: str = "") -> None:
        """Send a request; the callee is who is called."""
        self._number += 1
        number = self._number
        host, port = self.phone.getsockname()
        where = f"{HOST}:{self.callee.getsockname()[1]}"
        lines = [f"{method} sip:{user}@{where} SIP/2.0", f"Via: SIP/2.0/UDP {host}:{port};branch=z9hG4bK{number}"]
        lines += ["From: <sip:a@e2e.test>;tag=a", f"To: <sip:{user}@e2e.test>{tag}", f"Call-ID: c{number}"]
        lines += [f"CSeq: 1 {method}", "Max-Forwards: 70", *headers, "Content-Length: 0", "", ""]
        self.phone.sendto("\r\n".join(lines).encode(), (HOST, self.port))

    def receive(self) -> str:
        """Return the next answer."""
        return self.phone.recv(65536).decode()

    def ask(self, user: str, method: str = "OPTIONS", *headers: str, tag: str = "") -> int:
        """Send a request and return the status of its answer."""
        self.send(user, method, *headers, tag=tag)
        return int(self.receive()[8:11])

    def call(self) -> str:
        """Begin a call, which the callee does not answer yet; return what it has got."""
        self.send("later", "INVITE", f"Contact: <sip:a@{HOST}>")
        assert self.receive().startswith("SIP/2.0 100 ")
        return self.callee.recv(65536).decode()


@pytest.fixture
def serve(place: Path) -> Iterator[Callable[..., Served]]:
    """Start servers, and end them."""
    with contextlib.ExitStack() as ends:

        def start(*arguments: str, **more: object) -> Served:
            served = Served(place, *arguments, **more)  # type: ignore[arg-type]
            ends.callback(served.close)
            return served

        yield start


Serve = Callable[..., Served]


# ---- the start


def refused(served: Served) -> str:
    """Check that it has ended as for a user's mistake, with nothing left behind; return the line."""
    code, log = served.ended()
    assert code == 2, log
    assert log.startswith("polykemi: ")
    assert log.count("\n") == 1, log
    left = {one.name for one in served.place.rglob("*")} & {"control.sock", "x.pid"}
    assert left == set()
    return log.removeprefix("polykemi: ").strip()


@pytest.mark.parametrize(
    ("service", "script", "says"),
    [
        ('pid_file = "none/x.pid"', "", "none/x.pid: No such file or directory"),
        ('pid_file = "route.lua"', "", "route.lua: there is a file that is no PID file"),
        ('pid_file = "x.pid"', "none.lua", "none.lua: No such file or directory"),
    ],
)
def test_a_mistake_ends_it_with_one_line_and_leaves_nothing(serve: Serve, service: str, script: str, says: str) -> None:
    assert says in refused(serve(service=service, script=script or "route.lua"))


def test_a_port_that_is_taken_is_told(serve: Serve) -> None:
    for kind, proto in ((socket.SOCK_DGRAM, "udp"), (socket.SOCK_STREAM, "tcp")):
        with socket.socket(socket.AF_INET, kind) as sock:
            port = free_port(HOST)
            sock.bind((HOST, port))
            if proto == "tcp":
                sock.listen()
            line = refused(serve(service='pid_file = "x.pid"', port=port))
        assert line == f"cannot listen on {proto}:{HOST}:{port}: Address already in use"


def test_an_address_of_another_machine_is_told(serve: Serve) -> None:
    line = refused(serve("--listen", "udp:192.0.2.9:5060"))
    assert line == "cannot listen on udp:192.0.2.9:5060: Cannot assign requested address"


def test_a_data_directory_that_cannot_be_used_is_told(serve: Serve, place: Path) -> None:
    (place / "data").write_text("a file")
    assert refused(serve()) == f"{place}/data: File exists"


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
PYTHON = "/usr/bin/python3"  # one that everybody may read, which this one may not be


def python_for_all() -> tuple[str, dict[str, str]]:
    """Return a Python that an other user can run, and its environment."""
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    parts = [
        os.environ.get("PYTHONPATH", ""),
        packages,
        str(ROOT),
    ]  # the compiled form, where it is tested, goes before
    environ = {"PYTHONPATH": os.pathsep.join(filter(None, parts)), "PYTHONSAFEPATH": "1"}
    for python in (sys.executable, PYTHON):
        command = [python, "-c", "import uvloop, lupa, lmdb, polykemi.server"]
        with contextlib.suppress(OSError):
            ran = subprocess.run(command, cwd=ROOT, env=environ, user="nobody", capture_output=True, check=False)
            if not ran.returncode:
                return python, environ
    pytest.skip("no Python here that the user nobody could run")


@as_root
def test_a_full_disk_is_told(serve: Serve, place: Path) -> None:
    (place / "data").mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place / "data")]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        line = refused(serve(service='pid_file = "x.pid"'))
    finally:
        subprocess.run(["umount", str(place / "data")], check=True)
    assert re.fullmatch(
        rf"{place}/data/.*: (disk I/O error|database or disk is full|.*No space left on device.*)", line
    )


@as_root
def test_ports_are_bound_as_root_and_all_else_is_done_as_the_user(serve: Serve, place: Path) -> None:
    python, environ = python_for_all()
    nobody, group = pwd.getpwnam("nobody"), grp.getgrgid(pwd.getpwnam("nobody").pw_gid)
    (place / "run").mkdir()
    os.chown(place / "run", nobody.pw_uid, -1)
    port = next(n for n in range(600, 1000) if _is_free(n))
    service = 'user = "nobody"\numask = "0027"\npid_file = "run/x.pid"'
    served = serve(service=service, port=port, python=python, environ=environ)
    served.wait()
    pid = int((place / "run" / "x.pid").read_text())
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert status["Uid"].split() == [str(nobody.pw_uid)] * 4
    assert status["Gid"].split() == [str(group.gr_gid)] * 4
    assert {int(one) for one in status["Groups"].split()} == set(os.getgrouplist("nobody", group.gr_gid))
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert (place / "data").owner() == "nobody"
    assert (place / "data" / "lock").stat().st_mode & 0o777 == 0o640
    assert served.ask("x") == 200
    served.process.terminate()
    code, log = served.ended()
    assert (code, "as root" in log) == (0, False)
    assert not (place / "run" / "x.pid").exists()


@as_root
def test_a_port_that_the_user_may_not_bind_is_told(serve: Serve) -> None:
    python, environ = python_for_all()
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) < 1024:
        pytest.skip("everybody may bind all ports here")
    line = refused(serve(port=506, python=python, environ=environ, user="nobody"))
    hint = "(ports below 1024 need root, or CAP_NET_BIND_SERVICE)"
    assert line == f"cannot listen on udp:{HOST}:506: Permission denied {hint}"


@as_root
def test_a_data_directory_of_somebody_else_is_told(serve: Serve, place: Path) -> None:
    python, environ = python_for_all()
    (place / "data").mkdir(mode=0o700)
    line = refused(serve(service='user = "nobody"', python=python, environ=environ))
    assert line == f"{place}/data/lock: Permission denied (the server runs as nobody: chown -R nobody {place}/data)"


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        try:
            udp.bind((HOST, port))
            tcp.bind((HOST, port))
        except OSError:
            return False
    return True


# ---- systemd


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(PATIENCE)
        self.socket.bind(self.path)

    def hear(self, name: str) -> str:
        """Wait for a notice with this assignment; return it."""
        while True:
            text = self.socket.recv(4096).decode()
            if f"{name}=" in text:
                return text


@pytest.fixture
def manager(place: Path) -> Iterator[Manager]:
    one = Manager(place / "notify")
    yield one
    one.socket.close()


def test_systemd_hears_of_readiness_of_the_loop_and_of_the_end(serve: Serve, manager: Manager) -> None:
    served = serve(environ={"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "4000000"})
    ready = manager.hear("READY")
    assert f"STATUS=listening on udp:{HOST}:{served.port}, tcp:{HOST}:{served.port}" in ready
    assert served.ask("x") == 200
    assert manager.hear("WATCHDOG") == "WATCHDOG=1"
    began = time.monotonic()
    assert manager.hear("WATCHDOG") == "WATCHDOG=1"
    assert time.monotonic() - began < 4  # it is sent after half of the time
    served.call()
    served.process.terminate()
    assert "STATUS=no new requests" in manager.hear("STOPPING")
    assert manager.hear("WATCHDOG") == "WATCHDOG=1"  # while it waits for the transaction, too


def bound(kind: int, port: int = 0, host: str = HOST) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    sock.bind((host, port))
    if kind == socket.SOCK_STREAM:
        sock.listen()
    return sock


def test_sockets_of_systemd_are_taken_and_what_waits_in_them_is_answered(serve: Serve, place: Path) -> None:
    with bound(socket.SOCK_DGRAM) as udp:
        port = udp.getsockname()[1]
        with bound(socket.SOCK_STREAM, port) as tcp, bound(socket.SOCK_DGRAM) as other:
            left = other.getsockname()[1]
            served = serve(port=port, sockets=(udp, tcp, other))
            served.send("x")
            served.wait()
            assert served.receive().startswith("SIP/2.0 200 OK")
            with socket.create_connection((HOST, port), PATIENCE):
                pass
            served.process.terminate()
            code, log = served.ended()
    assert code == 0
    assert f"the socket udp:{HOST}:{left} was passed (a.socket), and [listen] does not name it: it is closed" in log
    assert "Address already in use" not in log


def test_a_socket_for_all_addresses_is_refused(serve: Serve) -> None:
    with bound(socket.SOCK_DGRAM, host="0.0.0.0") as sock:
        line = refused(serve(sockets=(sock,)))
        port = sock.getsockname()[1]
    expected = f"(a.socket, udp:0.0.0.0:{port}): expected one for each address"
    assert line == f"a socket for all addresses was passed {expected}"


# ---- what it may have


def test_with_python_scripts_the_memory_of_the_process_is_bounded_by_default(serve: Serve, place: Path) -> None:
    (place / "wedges.py").write_text(WEDGES)
    served = serve(script="wedges.py")
    served.wait()
    most, _ = resource.prlimit(served.process.pid, resource.RLIMIT_DATA)
    assert 0 < most < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# ---- the end


def test_a_server_that_is_told_to_stop_finishes_what_has_begun(serve: Serve) -> None:
    served = serve(service=f"drain = {FOR_EVER}")
    served.wait()
    invite = served.call()
    served.process.terminate()
    answer = ""
    while "503" not in answer:  # the signal may not have come yet
        served.send("x")
        answer = served.receive()
    assert answer.startswith("SIP/2.0 503 Service Unavailable")
    assert re.search(r"^Retry-After: [1-9]\d*\r$", answer, re.MULTILINE)
    assert served.ask("x", "BYE", tag=";tag=b") == 200  # what belongs to a dialog goes on
    lines = [
        line for line in invite.split("\r\n") if line.partition(":")[0] in ("Via", "From", "To", "Call-ID", "CSeq")
    ]
    lines = [f"{line};tag=b" if line.startswith("To:") else line for line in lines]
    response = "\r\n".join(["SIP/2.0 200 OK", *lines, f"Contact: <sip:b@{HOST}>", "Content-Length: 0", "", ""])
    served.callee.sendto(response.encode(), (HOST, served.port))
    assert served.receive().startswith("SIP/2.0 200 OK")
    code, log = served.ended()
    assert code == 0, log


def test_it_does_not_wait_longer_than_it_is_to(serve: Serve) -> None:
    served = serve(service="drain = 0.5")
    served.wait()
    served.call()
    began = time.monotonic()
    served.process.terminate()
    assert served.ended()[0] == 0
    assert time.monotonic() - began >= 0.5


@pytest.mark.parametrize("signals", [("SIGINT", "SIGINT"), ("SIGTERM", "SIGINT"), ("SIGTERM", "SIGTERM")])
def test_a_second_signal_stops_it_at_once(serve: Serve, signals: tuple[str, str]) -> None:
    served = serve(service=f"drain = {FOR_EVER}")
    served.wait()
    served.call()
    served.process.send_signal(getattr(signal, signals[0]))
    while served.ask("x") != 503:
        pass
    served.process.send_signal(getattr(signal, signals[1]))
    assert served.ended()[0] == 0


def test_an_idle_server_stops_at_once_by_signal_and_by_command(serve: Serve) -> None:
    ends: tuple[Callable[[Served], object], ...] = (
        lambda served: served.process.send_signal(signal.SIGINT),
        lambda served: client.call(served.data / client.SOCKET, "core.kill", []),
        lambda served: client.call(served.data / client.SOCKET, "core.kill", [15]),
    )
    for end in ends:
        served = serve(service=f"drain = {FOR_EVER}")
        served.wait()
        end(served)
        assert served.ended()[0] == 0


def test_a_script_cannot_end_it(serve: Serve) -> None:
    served = serve()
    served.wait()
    assert served.ask("kill") == 500
    assert served.ask("x") == 200


@pytest.mark.parametrize("options", [(), ("--supervise",)], ids=["alone", "supervised"])
def test_signals_that_kamailio_answers_in_its_log_end_nothing(serve: Serve, options: tuple[str, ...]) -> None:
    served = serve(*options)
    served.wait()
    processes = [served.process.pid, *children(served)]
    for pid in processes:
        os.kill(pid, signal.SIGUSR1)
        os.kill(pid, signal.SIGUSR2)
    assert served.ask("x") == 200
    assert [served.process.pid, *children(served)] == processes
    served.process.terminate()
    assert served.ended()[0] == 0


# ---- --supervise


def children(served: Served) -> list[int]:
    """Return the process that is supervised, if there is one."""
    pid = served.process.pid
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def waits_in_the_socket(port: int) -> bool:
    """Tell whether a datagram is there that nobody has read."""
    rows = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    (queue,) = [row[4] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "07"]
    return int(queue.partition(":")[2], 16) > 0


def test_a_script_that_is_stuck_in_native_code_costs_a_second_start(serve: Serve, place: Path) -> None:
    (place / "wedges.py").write_text(WEDGES)
    served = serve("--supervise", service='watchdog = 2\npid_file = "x.pid"', script="wedges.py")
    served.wait()
    (first,) = children(served)
    assert (place / "x.pid").read_text() == f"{first}\n"
    assert served.ask("a", "REGISTER", "Contact: <sip:a@192.0.2.7>") == 200
    served.send("wedge")
    until(lambda: not waits_in_the_socket(served.port), "the datagram is read by the one that is stuck")
    served.send("a")  # and this one to wait in the socket until the next is there
    assert served.receive().startswith("SIP/2.0 200 Found")
    (second,) = children(served)
    assert second != first
    assert (place / "x.pid").read_text() == f"{second}\n"
    served.process.terminate()
    code, log = served.ended()
    assert code == 0, log
    assert "the server shows no sign of life: it is ended" in log
    assert "the server has ended (Aborted) and is started anew in 0.1 s" in log
    assert re.search(r'wedges.py", line 14 in ksr_request_route\n', log), log  # who has to repair it is told where
    assert not (place / "x.pid").exists()


def test_a_server_that_is_killed_loses_no_datagram_and_no_connection_that_waits(serve: Serve) -> None:
    served = serve("--supervise")
    served.wait()
    assert served.ask("x") == 200
    (first,) = children(served)
    os.kill(first, signal.SIGKILL)
    until(lambda: children(served) != [first], "its end")
    served.send("x")
    with socket.create_connection((HOST, served.port), PATIENCE):  # nobody is refused
        assert served.receive().startswith("SIP/2.0 200 OK")
    served.process.send_signal(signal.SIGINT)
    assert served.ended()[0] == 0


def test_a_mistake_is_not_tried_again_and_has_its_exit_code(serve: Serve) -> None:
    assert "none.lua: No such file or directory" in refused(serve("--supervise", script="none.lua"))


def test_signals_are_passed_on_and_a_second_one_ends_both(serve: Serve) -> None:
    served = serve("--supervise", service=f"drain = {FOR_EVER}")
    served.wait()
    (child,) = children(served)
    served.call()
    served.process.terminate()
    while served.ask("x") != 503:
        pass
    served.process.send_signal(signal.SIGINT)
    assert served.ended()[0] == 0
    assert not Path(f"/proc/{child}").exists()


def test_under_systemd_there_is_nothing_to_supervise(serve: Serve, place: Path) -> None:
    line = refused(serve("--supervise", environ={"NOTIFY_SOCKET": str(place / "notify")}))
    assert line == "--supervise: systemd does so already (NOTIFY_SOCKET is set)"
