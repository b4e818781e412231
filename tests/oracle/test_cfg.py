"""The commands ``cfg`` beside Kamailio's: the same names, shapes and errors."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest

from bench.kamailio_server import modules_directory
from polykemi.control.jsonrpc import JsonRpc
from polykemi.testing import ServerUnderTest
from tests.oracle.servers import USED

GROUPS: Final = ("maxfwd", "registrar", "tm", "dispatcher", "rtpengine", "websocket", "core", "tcp")
OWN: Final = {  # what cannot be changed at run time in Kamailio, or is not there
    "registrar": {"min_expires_mode"},
    "tm": {"failure_reply_mode", "remap_503_500", "loop_detection", "max_breadth"},
    "websocket": {"keepalive_interval"},
    "tcp": {"accept_iplimit", "msg_read_timeout", "longest_message"},
}
MODULES: Final = (
    "tm",
    "sl",
    "pv",
    "rr",
    "maxfwd",
    "usrloc",
    "registrar",
    "dispatcher",
    "rtpengine",
    "xhttp",
    "websocket",
)
STORY: Final[tuple[tuple[Any, ...], ...]] = (
    ("cfg.list", "maxfwd"),
    ("cfg.list", "nope"),
    ("cfg.get", "maxfwd"),
    ("cfg.get", "maxfwd", "max_limit"),
    ("cfg.get", "registrar", "default_expires"),
    ("cfg.get", "nope"),
    ("cfg.get", "nope", "x"),
    ("cfg.get", "tm", "nope"),
    ("cfg.set", "maxfwd", "max_limit", 60),  # a text would be 0 there
    ("cfg.get", "maxfwd", "max_limit"),
    ("cfg.set", "maxfwd", "max_limit", 61),
    ("cfg.get", "maxfwd", "max_limit"),
    ("cfg.set", "maxfwd", "max_limit", 300),
    ("cfg.set_now_string", "maxfwd", "max_limit", "many"),
    ("cfg.set", "maxfwd", "nope", 3),
    ("cfg.set_now_int", "maxfwd", "max_limit", 30),
    ("cfg.seti", "maxfwd", "max_limit", 31),
    ("cfg.set_now_string", "maxfwd", "max_limit", "33"),
    ("cfg.sets", "registrar", "realm_pref", "sip."),
    ("cfg.get", "registrar", "realm_pref"),
    ("cfg.get", "maxfwd", "max_limit"),
    ("cfg.set", "registrar", "default_q", 2000),
    ("cfg.set", "registrar", "expires_range", 101),
    ("cfg.set", "tm", "default_code", 200),
    ("cfg.set", "tm", "unmatched_cancel", 3),
    ("cfg.set", "tm", "relay_100", 5),
    ("cfg.set", "tm", "cancel_b_method", 3),
    ("cfg.set_delayed", "maxfwd", "max_limit", 22),
    ("cfg.set_delayed_int", "registrar", "max_expires", 900),
    ("cfg.set_delayed", "maxfwd", "nope", 22),
    ("cfg.get", "maxfwd", "max_limit"),
    ("cfg.commit",),
    ("cfg.get", "maxfwd", "max_limit"),
    ("cfg.get", "registrar", "max_expires"),
    ("cfg.set_delayed_string", "registrar", "realm_pref", "x"),
    ("cfg.rollback",),
    ("cfg.commit",),
    ("cfg.get", "registrar", "realm_pref"),
    ("cfg.help", "nope", "nope"),
    ("cfg.reset", "maxfwd"),
    ("cfg.get", "maxfwd", "max_limit"),
    ("cfg.reset", "nope"),
)


class Kamailio:
    """A Kamailio that is asked over jsonrpcs' datagram socket."""

    def __init__(self, directory: Path) -> None:
        modules = modules_directory()
        if shutil.which("kamailio") is None or modules is None or not (modules / "cfg_rpc.so").exists():
            pytest.skip("Kamailio is not installed (Debian: kamailio)")
        lines = ["#!KAMAILIO", "debug=0", "log_stderror=yes", "children=1", "tcp_children=1"]
        lines += [f"listen={proto}:{USED}1:5060" for proto in ("udp", "tcp")]
        lines += [f'mpath="{modules}/"', *(f'loadmodule "{one}.so"' for one in ("jsonrpcs", "cfg_rpc", *MODULES))]
        lines += [f'modparam("jsonrpcs", "dgram_socket", "{directory}/asked")', 'modparam("jsonrpcs", "transport", 4)']
        lines += [f'modparam("dispatcher", "list_file", "{directory}/list")']
        lines += ['modparam("rtpengine", "rtpengine_sock", "udp:127.0.0.1:2")']
        lines += ["request_route { exit; }", "event_route[xhttp:request] { exit; }"]
        (directory / "list").write_text("1 sip:192.0.2.3\n")
        (directory / "k.cfg").write_text("\n".join(lines) + "\n")
        command = ["kamailio", "-f", str(directory / "k.cfg"), "-DD", "-E", "-m", "64", "-P", str(directory / "pid")]
        self._log = (directory / "log").open("wb")
        self._process = subprocess.Popen(
            [*command, "-Y", str(directory)], stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )
        self._asked = directory / "asked"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(directory / "answers"))
        self._socket.settimeout(5)
        end = time.monotonic() + 10
        while not self._asked.exists():
            assert self._process.poll() is None, (directory / "log").read_text(errors="replace")
            assert time.monotonic() < end, "Kamailio does not start"
            time.sleep(0.02)

    def ask(self, method: str, *params: Any) -> Any:
        """Return the answer to a request."""
        self._socket.sendto(asked(method, params), str(self._asked))
        return json.loads(self._socket.recv(65536))

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(10)
        self._log.close()
        self._socket.close()


def asked(method: str, params: tuple[Any, ...]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": method, "params": params, "id": 1}).encode()


@pytest.fixture(scope="module")
def kamailio() -> Iterator[Kamailio]:
    with TemporaryDirectory() as directory:  # a short path: it is one of sockets
        server = Kamailio(Path(directory))
        yield server
        server.close()


@pytest.fixture
def rpc(tmp_path: Path) -> Iterator[JsonRpc]:
    (tmp_path / "route.lua").write_text("function ksr_request_route() end")
    with ServerUnderTest({"lua": tmp_path / "route.lua"}) as server:
        yield server.node.rpc


def answer(rpc: JsonRpc, method: str, *params: Any) -> Any:
    data = rpc.answer(asked(method, params))
    assert isinstance(data, bytes)
    return json.loads(data)


def test_the_same_answers(kamailio: Kamailio, rpc: JsonRpc) -> None:
    for step in STORY:
        theirs, ours = kamailio.ask(*step), answer(rpc, *step)
        if "error" in theirs:
            assert ours["error"]["code"] == theirs["error"]["code"], step
            assert ours["error"]["message"].startswith(theirs["error"]["message"]), (step, ours)  # ours says why
        else:
            assert ours["result"] == theirs["result"], step


@pytest.mark.parametrize("group", GROUPS)
def test_every_variable_has_the_name_and_type_that_it_has_in_kamailio(
    group: str, kamailio: Kamailio, rpc: JsonRpc
) -> None:
    theirs = set(kamailio.ask("cfg.list", group)["result"])
    ours = [one for one in answer(rpc, "cfg.list", group)["result"] if one.split(": ")[1] not in OWN.get(group, ())]
    assert set(ours) <= theirs
    for name in (one.split(": ")[1] for one in ours):
        if (group, name) == ("core", "udp_mtu_try_proto"):  # a number there
            continue
        type_of = kamailio.ask("cfg.help", group, name)["result"]
        assert answer(rpc, "cfg.help", group, name)["result"][-1] == type_of
