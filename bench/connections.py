"""Measure the memory that idle connections hold: TCP, TLS, WebSocket and secure WebSocket, and what a handshake costs.

    .venv/bin/python -m bench.connections                              10,000 of each kind
    .venv/bin/python -m bench.connections --kinds tls,wss --number 5000 --form compiled

A child process opens the connections from some addresses of loopback, sends an OPTIONS over each, reads the answer and
falls silent. ``kB`` is what the server's resident memory has grown by, for one connection; ``all MB`` is that memory in all.
``us`` is the server's CPU for one connection, handshake and OPTIONS. As many files have to be open as there are
connections (ulimit -n).
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from wsproto.frame_protocol import FrameProtocol

from bench.polykemi_server import CONFIG, POLYKEMI, environment
from bench.ports import free_port
from bench.procfs import Watch, memory
from bench.rounds import directory
from bench.servers import DOMAIN, HERE, ROOT, end_process, wait_until_it_answers
from bench.transports import HANDSHAKE, tls_table

KINDS: Final = ("tcp", "tls", "ws", "wss")
_SOURCES: Final = 20  # addresses that the connections come from
_OTHER_FILES: Final = 200
_SCRIPT: Final = "function ksr_request_route() KSR.sl.send_reply(200, 'OK') end\n"


def hold(kind: str, port: int, number: int) -> None:
    """Open the connections, say so, and keep them until standard input ends: what the child process does."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    kept: list[socket.socket] = []
    for i in range(number):
        sock = socket.create_connection(("127.0.0.1", port), 20, (f"127.0.11.{i % _SOURCES + 1}", 0))
        if kind in ("tls", "wss"):
            sock = context.wrap_socket(sock)
        kept.append(sock)
        request = (
            f"OPTIONS sip:{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/{kind.upper()} bench.invalid;branch=z9hG4bK{i}\r\n"
            f"Max-Forwards: 70\r\nFrom: <sip:bench@{DOMAIN}>;tag={i}\r\nTo: <sip:{DOMAIN}>\r\nCall-ID: {i}-bench\r\n"
            "CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
        )
        if kind in ("ws", "wss"):
            sock.sendall(HANDSHAKE.encode())
            _expect(sock, b"HTTP/1.1 101")
            sock.sendall(FrameProtocol(client=True, extensions=[]).send_data(request, fin=True))
        else:
            sock.sendall(request.encode())
        _expect(sock, b"SIP/2.0 200")
    print("open", flush=True)
    sys.stdin.read()


def _expect(sock: socket.socket, what: bytes) -> None:
    data = sock.recv(65536)
    if what not in data:
        raise SystemExit(f"bench: expected {what!r}, got {data[:60]!r}")


def measure(kind: str, number: int, form: str, here: Path) -> tuple[float, float, float]:
    """Return kB of resident memory for a connection, kB in all, and seconds of CPU for one."""
    port, script, config, log = free_port(), here / "bench.lua", here / "polykemi.toml", here / "log"
    script.write_text((HERE / "scripts/websocket.lua").read_text() + _SCRIPT)
    base = {"ws": "tcp", "wss": "tls"}.get(kind, kind)
    modules = CONFIG.replace('["kx", ', '["kx", "xhttp", "websocket", ').partition("[modules.htable]")[0]
    modules += '[modules.xhttp]\nevent_callback = "ksr_xhttp_event"\n[log]\nlevel = "warning"\n'
    limits = f"[tcp]\nmax_connections = {number + 1}\naccept_iplimit = {number + 1}\nconnection_lifetime = 600\n"
    config.write_text(modules + limits + (tls_table(here) if base == "tls" else ""))
    command = [*POLYKEMI, "serve", "--config", str(config), "--engine", "lua", str(script), "--data", str(here)]
    command += ["--listen", f"udp:127.0.0.1:{port}", "--listen", f"{base}:127.0.0.1:{port}", "--domain", DOMAIN]
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, cwd=ROOT, env=environment(form), stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        wait_until_it_answers(server, port, log)
        before, watch = memory([server.pid]).rss, Watch(server.pid)
        child = [
            sys.executable,
            "-m",
            "bench.connections",
            "--hold",
            kind,
            "--port",
            str(port),
            "--number",
            str(number),
        ]
        with subprocess.Popen(child, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            if holder.stdout.readline() != b"open\n":
                raise SystemExit(f"bench: the connections could not be opened\n{log.read_text()[-2000:]}")
            time.sleep(1)  # the memory that is given back late
            watch.end()
            after = memory([server.pid]).rss
            assert holder.stdin is not None
            holder.stdin.close()
        return (after - before) / number, after, watch.server_cpu / number
    finally:
        end_process(server)


def main(arguments: Sequence[str] | None = None, say: Callable[[str], None] = print) -> None:
    """Measure one kind after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(KINDS), help="some of them, with commas")
    parser.add_argument("--number", type=int, default=10_000, help="of connections (default: 10,000)")
    parser.add_argument("--form", default="", choices=("", "pure", "compiled"))
    parser.add_argument("--hold", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if options.number + _OTHER_FILES > hard:
        parser.error(f"--number: a process may open {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.hold:
        hold(options.hold, options.port, options.number)
        return
    kinds = options.kinds.split(",")
    for kind in kinds:
        if kind not in KINDS:
            parser.error(f"--kinds {kind}: expected some of {','.join(KINDS)}")
    say(f"{'':5}{'kB':>7}{'all MB':>8}{'us':>7}")
    for kind in kinds:
        with directory() as here:
            each, total, cpu = measure(kind, options.number, options.form, Path(here))
        say(f"{kind:5}{each:7.1f}{total / 1024:8.0f}{cpu * 1e6:7.0f}")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(ROOT))
    main()
