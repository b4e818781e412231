"""Kamailio's kamcli and kamcmd ask a running server, through the datagram socket that is made for them.

What reads or writes the database by itself (subscriber, ul showdb, dispatcher add ...) is left out: kamcli does not ask for it.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from polykemi.storage.provisioned import Database
from tests.e2e.conftest import DOMAIN, ServerProcess
from tests.e2e.peers import tool
from tests.udp_phone import UdpPhone

SCRIPT = """
function ksr_request_route()
    KSR.pike.pike_check_req()
    if KSR.is_REGISTER() then KSR.registrar.save("location", 0) return end
    if KSR.is_INVITE() and KSR.siputils.has_totag() < 0 then KSR.dialog.dlg_manage() end
    if KSR.siputils.has_totag() > 0 then KSR.rr.loose_route()
    elseif KSR.registrar.lookup("location") < 0 then KSR.sl.sl_send_reply(404, "Not Found") return end
    KSR.rr.record_route()
    KSR.tm.t_relay()
end
"""
CONFIG = """
[control]
datagram = "rpc.sock"
[modules.dialog]
[modules.pv]
[modules.htable]
htable = "kamcli=>size=4"
[modules.dispatcher]
list_file = "dispatcher.list"
[modules.pike]
reqs_density_per_unit = 3
sampling_time_unit = 60
[modules.uac]
reg_db_url = "polykemi"
reg_contact_addr = "127.0.0.1:5060"
[modules.domain]
register_myself = 1
"""
KAMCLI = """
[main]
domain = {domain}
[jsonrpc]
transport = socket
srvaddr = {directory}/rpc.sock
rcvaddr = {directory}/kamcli.sock
outformat = json
"""


class Kamcli:
    """Runs kamcli against a server."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self._path = tool("kamcli", "Debian: kamcli")
        self._config = server.data / "kamcli.ini"
        self._config.write_text(KAMCLI.format(domain=DOMAIN, directory=server.data))

    def text(self, *arguments: str) -> str:
        """Return what it prints."""
        command = [self._path, "--config", str(self._config), *arguments]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert "Traceback" not in ran.stderr, ran.stderr
        assert (ran.returncode, ran.stdout != "") == (0, True), ran.stderr
        return ran.stdout

    def answer(self, *arguments: str) -> dict[str, Any]:
        """Return the whole JSON-RPC answer."""
        answer: dict[str, Any] = json.loads(self.text(*arguments))
        return answer

    def __call__(self, *arguments: str) -> Any:
        """Return the result."""
        return self.answer(*arguments)["result"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose script uses what kamcli asks about."""
    directory = tmp_path_factory.mktemp("kamcli")
    (directory / "script.lua").write_text(SCRIPT)
    (directory / "polykemi.toml").write_text(CONFIG)
    (directory / "dispatcher.list").write_text("1 sip:127.0.0.1:9 0 5 weight=50;duid=abc\n")
    with Database.at(directory) as database:
        database.query("INSERT INTO address(grp,ip_addr,mask,port,tag) VALUES (1,'192.0.2.3',32,5060,'trunk')")
        rows = "(1,1,1,'^0',0,'^0(.*)$','+49\\1','attrs')"
        database.query(
            f"INSERT INTO dialplan(dpid,pr,match_op,match_exp,match_len,subst_exp,repl_exp,attrs) VALUES {rows}"
        )
    config = str(directory / "polykemi.toml")
    process = ServerProcess(directory, ["--config", config, "--engine", "lua", str(directory / "script.lua")])
    yield process
    assert process.stop() == 0
    assert not (directory / "rpc.sock").exists()
    assert "Traceback" not in process.log()


@pytest.fixture
def kamcli(server: ServerProcess) -> Kamcli:
    return Kamcli(server)


@pytest.fixture(scope="module")
def phones(server: ServerProcess) -> Iterator[tuple[UdpPhone, UdpPhone]]:
    """Two phones, one of which calls the other."""
    alice, bob = (UdpPhone(("127.0.0.1", server.port), user, DOMAIN) for user in ("alice", "bob"))
    bob.register("Expires: 600")
    alice.send("INVITE", f"sip:bob@{DOMAIN}", bob.aor)
    bob.answer(bob.receive("INVITE"), 180)
    alice.receive("SIP/2.0 180")
    yield alice, bob
    alice.close()
    bob.close()


def test_what_the_server_is(server: ServerProcess, kamcli: Kamcli) -> None:
    assert kamcli("uptime").keys() == {"now", "up_since", "uptime"}
    assert re.search(rf"^ *0 +{server.process.pid} main process", kamcli.text("ps"), re.MULTILINE)
    assert kamcli("srv", "version").startswith("polykemi ")
    assert kamcli("srv", "info")["version"].startswith("polykemi ")
    assert "tm" in kamcli("srv", "modules")
    sockets = {(one["PROTO"], one["PORT"]) for one in kamcli("srv", "sockets")}
    assert sockets == {("udp", str(server.port)), ("tcp", str(server.port))}
    assert DOMAIN in [one["ADDR"] for one in kamcli("srv", "aliases")]
    assert "core.uptime" in kamcli("srv", "rpclist")
    assert "core.uptime" in kamcli("rpcmethods")


def test_any_method_can_be_asked(kamcli: Kamcli) -> None:
    assert kamcli("rpc", "core.echo", "a", "i:5", "s:i:5") == ["a", "5", "i:5"]
    assert kamcli("jsonrpc", "system.listMethods")
    error = kamcli.answer("rpc", "ul.lookup", "nowhere", "bob")["error"]
    assert error == {"code": 500, "message": "Domain table not found"}


def test_counters(kamcli: Kamcli, phones: tuple[UdpPhone, UdpPhone]) -> None:
    assert "core:rcv_requests = 2" in kamcli("stats")
    assert kamcli("stats", "core") == [line for line in kamcli("stats") if line.startswith("core:")]
    assert kamcli("stats", "--single", "rcv_requests") == ["core:rcv_requests = 2"]
    assert "rcv_requests" in kamcli.text("moni", "--no-refresh")


def test_who_is_registered(kamcli: Kamcli, phones: tuple[UdpPhone, UdpPhone]) -> None:
    def contacts(*arguments: str) -> list[str]:
        return [one["Contact"]["Address"] for one in kamcli(*arguments)["Contacts"]]

    (domain,) = kamcli("ul", "show")["Domains"]
    assert [one["Info"]["AoR"] for one in domain["Domain"]["AoRs"]] == ["bob"]
    (domain,) = kamcli("ul", "show", "--brief")["Domains"]
    assert domain["Domain"]["AoRs"] == [{"AoR": "bob"}]
    assert contacts("ul", "show", "bob") == [f"sip:bob@127.0.0.1:{phones[1].port}"]
    assert kamcli("ul", "add", "--expires", "60", "--q", "0.5", "carol", "sip:carol@192.0.2.9") == {}
    assert kamcli("ul", "add", f"carol@{DOMAIN}", "sip:carol@192.0.2.10") == {}
    assert contacts("ul", "show", "carol") == ["sip:carol@192.0.2.10", "sip:carol@192.0.2.9"]
    assert kamcli("ul", "rm", "carol", "sip:carol@192.0.2.9") == {}
    assert contacts("ul", "show", "carol") == ["sip:carol@192.0.2.10"]
    assert kamcli("ul", "rm", "carol") == {}
    assert kamcli.answer("ul", "show", "carol")["error"]["message"] == "AOR not found in location table"


def test_calls(kamcli: Kamcli, phones: tuple[UdpPhone, UdpPhone]) -> None:
    alice, bob = phones
    (dialog,) = kamcli("dialog", "list")
    assert (dialog["call-id"], dialog["state"]) == ("INVITE-alice", 2)
    assert kamcli("dialog", "stats_active")["connecting"] == 1
    assert kamcli("rpc", "tm.list")[0]["callid"] == "Call-ID: INVITE-alice\r\n"
    assert kamcli("rpc", "tm.stats")["current"] == 1
    assert kamcli("rpc", "tm.cancel", "INVITE-alice", "1") == "branches remaining (waiting for timeout)"
    bob.receive("CANCEL")
    assert kamcli("rpc", "tm.reply_callid", "486", "Busy", "INVITE-alice", "1", "tag") == {}
    assert alice.receive("SIP/2.0 486").startswith("SIP/2.0 486 Busy\r\n")
    error = kamcli.answer("dialog", "terminate", "nobody", "a", "b")["error"]
    assert error == {"code": 500, "message": "Couldnt find callid in dialog"}


def test_destinations_tables_and_floods(kamcli: Kamcli, phones: tuple[UdpPhone, UdpPhone]) -> None:
    (record,) = kamcli("dispatcher", "list")["RECORDS"]
    assert record["SET"]["TARGETS"][0]["DEST"]["ATTRS"]["DUID"] == "abc"
    assert kamcli("rpc", "dispatcher.set_state", "i", "1", "sip:127.0.0.1:9") == "Ok. Dispatcher state updated."
    assert kamcli("dispatcher", "list")["RECORDS"][0]["SET"]["TARGETS"][0]["DEST"]["FLAGS"][0] == "I"
    assert kamcli("rpc", "htable.sets", "kamcli", "key", "value") == "Ok. Key set to new value."
    (entry,) = kamcli("rpc", "htable.dump", "kamcli")
    assert entry["slot"] == [{"name": "key", "value": "value", "type": "str"}]
    phones[0].register()  # pike forgets who has been silent
    assert kamcli("rpc", "pike.top", "ALL")["list"][0]["ip_addr"] == "127.0.0.1"
    assert kamcli("dialplan", "translate", "1", "0123") == {"Output": "+49123", "Attributes": "attrs"}
    assert kamcli("domain", "list")["domains"] == []


def test_addresses_and_connections(server: ServerProcess, kamcli: Kamcli) -> None:
    assert kamcli("rpc", "permissions.addressDump")[0]["item"] == {"ip": "192.0.2.3", "port": 5060, "tag": "trunk"}
    assert kamcli("address", "reload") == "Reload OK"
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b"OPTIONS")
        (row,) = kamcli("tcp", "list")
        assert (row["type"], row["src_port"], row["dst_port"]) == ("TCP", sock.getsockname()[1], server.port)
        assert kamcli("tcp", "info")["opened_connections"] == 1
    assert kamcli("tcp", "options")["max_connections(soft)"] == 2048
    assert kamcli("tls", "conlist") == []
    assert kamcli("uacreg", "list") == []


def test_what_is_not_there_is_an_error(kamcli: Kamcli) -> None:
    error = kamcli.answer("mtree", "list", "t")["error"]  # a module that polykemi does not have
    assert error["message"].startswith("method mtree.list: unknown")


def kamcmd(server: ServerProcess, *arguments: str) -> tuple[int, str]:
    """Run Kamailio's kamcmd; return its exit code and what it prints."""
    command = [tool("kamcmd", "Debian: kamailio"), "-s", f"unixd:{server.data / 'rpc.sock'}", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL)
    return ran.returncode, ran.stdout + ran.stderr


def test_kamcmd_asks_through_the_same_socket(server: ServerProcess, phones: tuple[UdpPhone, UdpPhone]) -> None:
    assert kamcmd(server, "core.echo", "a", "5", "s:7") == (0, "a\n5\n7\n")
    assert kamcmd(server, "core.printi", "5") == (0, "5\n")
    uptime = kamcmd(server, "core.uptime")[1]
    assert re.fullmatch(r"\{\n\tnow: .*\n\tup_since: .*\n\tuptime: \d+\n\}\n", uptime)
    registered = kamcmd(server, "ul.lookup", "location", "bob")[1]
    assert f"Address: sip:bob@127.0.0.1:{phones[1].port}\n" in registered
    assert "AoR: bob" in registered
    assert "500 - AOR not found in location table" in kamcmd(server, "ul.lookup", "location", "nobody")[1]
    listed = kamcmd(server, "system.listMethods")[1].splitlines()
    assert {"core.uptime", "ul.dump"} <= set(listed)
    for method in ("ul.dump", "dlg.list", "tm.list", "dispatcher.list", "htable.listTables", "core.ps", "core.shmmem"):
        code, text = kamcmd(server, method)
        assert (code, "error" in text.lower()) == (0, False), text
