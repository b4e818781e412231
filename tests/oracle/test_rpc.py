"""The commands of the control plane, asked of Kamailio and of polykemi after the same calls: the same shapes, texts, errors.

Values that cannot be the same (times, ids, addresses of memory) have to be of the same type; all others are compared. What
differs on purpose stands in ``docs/differences.md``, and here in ``_OURS``. Without Kamailio all is skipped.
"""

from __future__ import annotations

import json
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from bench.kamailio_server import modules_directory, why_not
from polykemi.control.process import SHMEM
from polykemi.storage.provisioned import FILE_NAME
from tests.e2e.peers import until
from tests.oracle import servers
from tests.udp_phone import UdpPhone

HOST: Final = f"{servers.USED}1"
DOMAIN: Final = servers.DOMAIN
SERVER: Final = (HOST, servers.PORT)
SCRIPT: Final = """
function ksr_request_route()
    KSR.pv.sets("$shv(name)", "bob")
    KSR.pipelimit.pl_check_limit("p1", "taildrop", 5)
    if KSR.is_REGISTER() then KSR.registrar.save("location", 0) return end
    if KSR.is_INVITE() and KSR.siputils.has_totag() < 0 then
        KSR.dialog.dlg_manage()
        KSR.dialog.set_dlg_profile("calls", "a")
    end
    if KSR.siputils.has_totag() > 0 then KSR.rr.loose_route()
    elseif KSR.registrar.lookup("location") < 0 then KSR.sl.sl_send_reply(404, "Not Found") return end
    KSR.rr.record_route()
    KSR.tm.t_relay()
end
"""
PARAMETERS: Final[dict[str, dict[str, Any]]] = {
    "htable": {"htable": ["a=>size=8;", "b=>size=4;autoexpire=300;"]},
    "dialog": {"profiles_with_value": "calls", "profiles_no_value": "all"},
    "dispatcher": {"list_file": "{dir}/dispatcher.list"},
    "mqueue": {"mqueue": "name=q;size=5;"},
    "ratelimit": {"pipe": "0:TAILDROP:10"},
    "uac": {"reg_db_url": "{db}", "reg_contact_addr": "192.0.2.1:5060", "restore_mode": "none"},
}
_KAMAILIO: Final[dict[str, dict[str, Any]]] = {
    "usrloc": {"db_mode": 0, "preload": "location"},
    "pv": {"shvset": "name=s:bob"},
    "htable": {"db_url": "{db}"},
    "dispatcher": {"xavp_dst": "_dsdst_", "xavp_ctx": "_dsctx_"},
    "jsonrpcs": {"dgram_socket": "{dir}/rpc.sock", "fifo_name": ""},
    **{name: {"db_url": "{db}"} for name in ("permissions", "domain", "dialplan")},
}
_POLYKEMI: Final = {"dispatcher": {}, "usrloc": {"db_mode": 0}, "permissions": {}, "dialplan": {}, "domain": {}}
_LOADED: Final = (
    *(
        "kex",
        "corex",
        "tm",
        "tmx",
        "sl",
        "rr",
        "pv",
        "maxfwd",
        "textops",
        "siputils",
        "xlog",
        "kemix",
        "xhttp",
        "jsonrpcs",
    ),
    *("db_sqlite", "usrloc", "registrar", "htable", "dialog", "dispatcher", "permissions", "pike", "uac", "mqueue"),
    *("ratelimit", "pipelimit", "domain", "dialplan", "statistics", "counters", "cfgutils", "app_lua", "app_jsdt"),
    *("cfg_rpc", "ctl", "debugger", "nathelper", "websocket", "regex", "auth", "auth_xkeys"),
)
_ROWS: Final = (
    "INSERT INTO address(grp,ip_addr,mask,port,tag) VALUES (1,'192.0.2.3',32,5060,'a'), (1,'10.0.0.0',8,0,'net')",
    "INSERT INTO dialplan VALUES (1,1,1,1,'^0',0,'^0(.*)$','+49\\1','at')",
    "INSERT INTO domain(domain,did,last_modified) VALUES ('b.test','b.test','2020-01-01 00:00:00')",
)

# what is asked, in this order: method and parameters
ASKED: Final[list[tuple[Any, ...]]] = [
    ("core.uptime",),
    ("core.echo", "a", 1, "b"),
    ("core.echo",),
    ("core.printi", 5),
    ("core.prints", "x"),
    ("core.sockets_list",),
    ("core.aliases_list",),
    ("core.tcp_info",),
    ("core.tcp_list",),
    ("core.shmmem",),
    ("shm.stats",),
    ("core.runinfo",),
    ("core.info",),
    ("corex.list_sockets",),
    ("corex.list_aliases",),
    ("system.methodHelp",),
    ("tm.stats",),
    ("tm.list",),
    ("ul.dump",),
    ("ul.lookup", "location", "bob"),
    ("ul.lookup", "location", "Bob@example.test"),
    ("ul.lookup", "location", "nobody"),
    ("ul.lookup", "nowhere", "bob"),
    ("ul.lookup", "location"),
    ("ul.add", "location", "carol", "sip:carol@192.0.2.9", 60, 0.5, "0", 0, 0, 8191),
    ("ul.add", "location"),
    ("ul.lookup", "location", "carol"),
    ("ul.rm_contact", "location", "carol", "sip:other@192.0.2.9"),
    ("ul.rm_contact", "location", "other", "sip:carol@192.0.2.9"),
    ("ul.rm_contact", "location"),
    ("ul.rm_contact", "location", "carol", "sip:carol@192.0.2.9"),
    ("ul.rm", "location", "carol"),
    ("ul.rm", "location"),
    ("ul.rm", "nowhere", "carol"),
    ("ul.flush",),
    ("ul.db_users", "location"),
    ("ul.db_contacts", "location"),
    ("ul.db_expired_contacts", "location"),
    ("dlg.list",),
    ("dlg.list_ctx",),
    ("dlg.dlg_list", "call-1"),
    ("dlg.dlg_list", "call-1", "fromalice"),
    ("dlg.dlg_list", "call-1", "x"),
    ("dlg.dlg_list",),
    ("dlg.list_match", "callid", "eq", "call-1"),
    ("dlg.list_match", "callid", "re", "L-1$", 1),
    ("dlg.list_match", "ruri", "sw", "sips:"),
    ("dlg.list_match", "x", "eq", "call-1"),
    ("dlg.list_match", "furi", "x", "call-1"),
    ("dlg.list_match", "furi", "re", "("),
    ("dlg.list_match", "furi"),
    ("dlg.briefing",),
    ("dlg.briefing", "sc"),
    ("dlg.stats_active",),
    ("dlg.profile_list", "calls"),
    ("dlg.profile_list", "calls", "b"),
    ("dlg.profile_list", "nix"),
    ("dlg.profile_get_size", "calls"),
    ("dlg.profile_get_size", "calls", "a"),
    ("dlg.profile_get_size", "all"),
    ("dlg.profile_get_size", "nix"),
    ("dlg.is_alive", "call-1", "fromalice", "callee"),
    ("dlg.is_alive", "call-x", "fromalice", "callee"),
    ("dlg.is_alive", "call-1"),
    ("dlg.set_state", "call-1"),
    ("dlg.set_state", "call-x", "a", "b", 5),
    ("dlg.set_state", "call-1", "fromalice", "callee", 6),
    ("dlg.end_dlg", 1, 2),
    ("dlg.end_dlg",),
    ("dlg.terminate_dlg", "call-x", "a", "b"),
    ("dlg.terminate_dlg", "call-1"),
    ("dlg.bridge_dlg",),
    ("tm.cancel", "call-x", "1"),
    ("tm.cancel",),
    ("tm.cancel", "call-2", "1"),
    ("tm.reply_callid",),
    ("tm.reply_callid", "404", "x"),
    ("tm.reply_callid", "404", "x", "call-2"),
    ("tm.reply_callid", "404", "x", "call-2", "1"),
    ("tm.reply_callid", "404", "x", "call-x", "1", "t", ""),
    ("tm.reply", "404"),
    ("tm.reply", "404", "x"),
    ("tm.reply", "404", "x", "1:2", "t", ""),
    ("tm.reply", "404", "x", "nonsense", "t", ""),
    ("tm.t_uac_start", "OPTIONS", "nonsense", ".", ".", "From: <sip:a@b>\r\nTo: <sip:c@d>\r\n"),
    ("tm.t_uac_start", "OPTIONS", "sip:x@y", "nonsense", ".", "From: <sip:a@b>\r\nTo: <sip:c@d>\r\n"),
    ("tm.t_uac_start", "OPTIONS", "sip:x@y", ".", "udp:9.9.9.9:5", "From: <sip:a@b>\r\nTo: <sip:c@d>\r\n"),
    ("tm.clean",),
    ("sl.stats",),
    ("pv.shvGet", "name"),
    ("pv.shvGet", "nix"),
    ("pv.shvSet", "name", "str", "x"),
    ("pv.shvSet", "name", "xx", "x"),
    ("pv.shvSet", "nix", "str", "x"),
    ("pv.shvGet", "name"),
    ("htable.dump", "a"),
    ("htable.sets", "a", "k", "v"),
    ("htable.seti", "a", "n", 5),
    ("htable.get", "a", "k"),
    ("htable.get", "a", "n"),
    ("htable.get", "a", "nix"),
    ("htable.get", "nix", "nix"),
    ("htable.get", "a"),
    ("htable.delete", "a", "k"),
    ("htable.delete", "a", "k"),
    ("htable.delete", "a"),
    ("htable.dump", "a"),
    ("htable.dump", "nix"),
    ("htable.dump",),
    ("htable.listTables",),
    ("htable.stats",),
    ("htable.setex", "a", "n", 5),
    ("htable.setxs", "b", "k", "v", 5),
    ("htable.setxi", "b", "k", 4, 5),
    ("htable.sets", "a"),
    ("htable.flush", "a"),
    ("htable.flush", "nix"),
    ("htable.reload", "a"),
    ("htable.store", "a"),
    ("dispatcher.list",),
    ("dispatcher.list", "short"),
    ("dispatcher.set_state", "i", 1, "sip:192.0.2.9:5080"),
    ("dispatcher.set_state", "q", 1, "sip:192.0.2.9:5080"),
    ("dispatcher.set_state", "a", 9, "sip:192.0.2.9:5080"),
    ("dispatcher.set_state", "a"),
    ("dispatcher.set_duid_state", "a", 1, "abc"),
    ("dispatcher.set_duid_state", "a", 1, "abx"),
    ("dispatcher.ping_active",),
    ("dispatcher.ping_active", 0),
    ("dispatcher.ping_active", 1),
    ("dispatcher.hash", 4, "a", "b"),
    ("dispatcher.hash",),
    ("dispatcher.add", 3),
    ("permissions.addressDump",),
    ("permissions.subnetDump",),
    ("permissions.addressReload",),
    ("pike.list",),
    ("pike.top", "ALL"),
    ("pike.top", "x"),
    ("pl.list",),
    ("pl.list", "p1"),
    ("pl.list", "nix"),
    ("pl.get_pipes",),
    ("pl.stats",),
    ("pl.set_pipe", "p1", "red", 7),
    ("pl.set_pipe", "p1", "nix", 7),
    ("pl.set_pipe", "nix", "red", 7),
    ("pl.get_pid",),
    ("pl.set_pid", 0.1, 0.2, 0.3),
    ("pl.push_load", 0.5),
    ("rl.get_pid",),
    ("rl.set_pipe", 0, "RED", 5),
    ("rl.set_pipe", 99, "RED", 5),
    ("rl.set_pipe", 0, "NIX", 5),
    ("domain.dump",),
    ("domain.reload",),
    ("dialplan.dump", 1),
    ("dialplan.dump", 9),
    ("dialplan.dump",),
    ("dialplan.translate", 1, "0123"),
    ("dialplan.translate", 1, "999"),
    ("dialplan.translate", 9, "999"),
    ("dialplan.translate", 1),
    ("dialplan.reload",),
    ("mqueue.get_size", "q"),
    ("mqueue.get_size", "nix"),
    ("mqueue.get_size",),
    ("mqueue.get_sizes",),
    ("mqueue.fetch", "q"),
    ("mqueue.fetch", "nix"),
    ("mqueue.fetch",),
    ("uac.reg_dump",),
    ("uac.reg_add", "u9", "lu", "ld", "ru", "rd", "re", "au", "ap", ".", "sip:192.0.2.7:9", 60, 0, 1, ".", ""),
    ("uac.reg_info", "l_uuid", "u9"),
    ("uac.reg_info", "l_uuid", "nix"),
    ("uac.reg_info", "nix", "nix"),
    ("uac.reg_info",),
    ("uac.reg_disable", "l_uuid", "u9"),
    ("uac.reg_enable", "l_uuid", "u9"),
    ("uac.reg_enable",),
    ("uac.reg_refresh", "nix"),
    ("uac.reg_refresh",),
    ("uac.reg_remove", "u9"),
    ("uac.reg_remove", "u9"),
    ("uac.reg_remove",),
    ("uac.reg_unregister", "l_uuid", "nix"),
    ("uac.reg_active", 0),
    ("uac.reg_active",),
    ("cnt.get", "core", "nix"),
    ("cnt.get", "usrloc"),
    ("cnt.get_raw", "core", "nix"),
    ("cnt.get_raw", "usrloc", "location_users"),
    ("cnt.help", "core", "nix"),
    ("cnt.help", "registrar", "max_contacts"),
    ("cnt.reset", "core", "nix"),
    ("cnt.reset", "registrar", "accepted_regs"),
    ("stats.fetch", "registrar:"),
    ("stats.fetch", "usrloc:"),
    ("stats.fetch", "uac:"),
    ("stats.fetchn", "shmem:"),
    ("stats.fetchn", "tmx.active_transactions"),
    ("dns.add_a", "x.test", 60, "192.0.2.4", 0),
    ("dns.add_a", "x.test", 60, "192.0.2.4", 2),
    ("dns.add_a", "x.test", 60, "nonsense", 0),
    ("dns.add_a", "x.test", 60, "::1", 0),
    ("dns.add_aaaa", "x.test", 60, "::1", 2),
    ("dns.add_srv", "_sip._udp.x.test", 60, 1, 2, 5060, "x.test", 2),
    ("dns.view",),
    ("dns.delete_a", "x.test"),
    ("dns.delete_a", "x.test"),
    ("dns.delete_srv", "nix.test"),
    ("dns.delete_naptr", "nix.test"),
    ("dns.delete_all",),
    ("dns.delete_aaaa", "x.test"),
    ("dns.delete_all_force",),
    ("dns.view",),
    ("rl.set_queue", 0, "INVITE", 99),
    ("rl.set_queue", 9, "INVITE", 0),
    ("stats.get_statistics",),
    ("stats.get_statistics", "nix"),
    ("stats.fetch",),
    ("stats.fetch", "nix"),
    ("stats.reset_statistics",),
    ("stats.reset_statistics", "nix"),
    ("stats.clear_statistics",),
    ("cfgutils.rand_set_prob", 50),
    ("cfgutils.rand_set_prob", 500),
    ("cfgutils.rand_set_prob",),
    ("cfgutils.rand_get_prob",),
    ("cfgutils.rand_reset_prob",),
    ("app_lua.list",),
    ("jsonrpc.echo", "a", "b"),
]

_NOT_KEPT: Final = ("size_bytes", "reference_counter", "last_used")  # of answers of DNS

# what polykemi answers otherwise on purpose: what is left of an answer to be compared
_OURS: Final[dict[str, Callable[[Any], Any]]] = {
    # of a call that was answered nothing is kept but what retransmissions need
    "tm.list": lambda rows: [row for row in rows if "call-1" not in row["callid"] and row["callid"]],
    # Kamailio shows the caller's tag as the callee's
    "dns.view": lambda rows: [{key: row[key] for key in row if key not in _NOT_KEPT} for row in rows],
    "dlg.briefing": lambda rows: [{key: value for key, value in row.items() if key != "to_tag"} for row in rows],
}

# keys whose values are those of one run, or of one server
_VOLATILE: Final = {
    *("now", "up_since", "uptime", "time_now", "time_started", "uptime_secs", "utime_days"),
    *("name", "version", "id", "sourceid", "compiler", "compiled", "flags", "total", "free", "used", "real_used"),
    *("max_used", "fragments", "cell", "tindex", "tlabel", "tflags", "lifetime", "ref_count", "readers"),
    *("h_entry", "h_id", "ref", "start_ts", "init_ts", "end_ts", "duration", "timeout", "dflags", "table", "entry"),
    *("State", "Ruid", "Size", "Call-ID", "User-Agent", "Last-Keepalive", "Last-Modified", "Max-Slots", "Methods"),
    *("expire", "diff_expires", "timer_expires", "reg_init", "max_connections", "max_tls_connections", "delayed_free"),
    "uac.regdisabled",  # falls below 0 there when one is enabled that was not disabled
    *(f"shmem.{name}" for name in SHMEM),
    *("size", "min", "max", "slots", "counter", "last_counter", "unused_intervals", "current", "waiting", "freed"),
}


def kamailio(directory: Path) -> servers.Running:
    """Start Kamailio."""
    script = directory / "script.lua"
    script.write_text(SCRIPT)
    lines = ["#!KAMAILIO", "debug=2", "log_stderror=yes", "children=1", f"listen=udp:{HOST}:{servers.PORT}"]
    lines += [f"listen=tcp:{HOST}:{servers.PORT}", f"alias={DOMAIN}", "auto_aliases=no", "dns=no", "rev_dns=no"]
    lines += [
        'kemi.reply_route_callback="none"',
        'kemi.onsend_route_callback="none"',
        f'mpath="{modules_directory()}/"',
    ]
    lines += [f'loadmodule "{name}.so"' for name in _LOADED]
    for module in sorted({*PARAMETERS, *_KAMAILIO}):
        given = PARAMETERS.get(module, {}) | _KAMAILIO.get(module, {})
        for key, value in given.items():
            for one in value if isinstance(value, list) else [value]:
                one = _filled(one, directory)
                lines.append(f'modparam("{module}", "{key}", {one if isinstance(one, int) else json.dumps(one)})')
    lines += [
        'modparam("xhttp", "event_callback", "none")',
        f'modparam("app_lua", "load", "{script}")',
        'cfgengine "lua"',
    ]
    file = directory / "kamailio.cfg"
    file.write_text("\n".join(lines) + "\n")
    command = ["kamailio", "-f", str(file), "-DD", "-E", "-m", "64", "-M", "16", "-P", str(directory / "pid")]
    return servers.Running([*command, "-Y", str(directory), "-w", str(directory)])


def polykemi(directory: Path) -> servers.Running:
    """Start polykemi."""
    script = directory / "script.lua"
    script.write_text(SCRIPT)
    listen = f'["udp:{HOST}:{servers.PORT}", "tcp:{HOST}:{servers.PORT}"]'
    lines = [f"listen = {listen}", f'domains = ["{DOMAIN}"]', f'data = "{directory}"', "[engines]", f'lua = "{script}"']
    lines += ["[control]", 'datagram = "rpc.sock"', "[overload]", "delay = 0"]
    for module in sorted({*PARAMETERS, *_POLYKEMI}):
        lines.append(f"[modules.{module}]")
        for key, value in (PARAMETERS.get(module, {}) | _POLYKEMI.get(module, {})).items():
            lines.append(
                f"{key} = {json.dumps([_filled(one, directory) for one in value] if isinstance(value, list) else _filled(value, directory))}"
            )
    file = directory / "polykemi.toml"
    file.write_text("\n".join(lines) + "\n")
    return servers.Running([sys.executable, "-m", "polykemi", "serve", "--config", str(file)])


def _filled(value: Any, directory: Path) -> Any:
    if not isinstance(value, str):
        return value
    return servers.used(value).replace("{dir}", str(directory)).replace("{db}", f"sqlite:///{directory / FILE_NAME}")


Both = tuple[list[dict[str, Any]], list[dict[str, Any]]]  # the answers of Kamailio and of polykemi


class Client:
    """Asks over the datagram socket, as kamcli does."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._server = str(directory), str(directory / "rpc.sock")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(directory / "client.sock"))
        self._socket.settimeout(10)

    def ask(self, method: str, *params: Any) -> dict[str, Any]:
        """Return the answer without its frame."""
        given = [servers.used(one) if isinstance(one, str) else one for one in params]
        request = {"jsonrpc": "2.0", "method": method, "params": given, "id": 1}
        self._socket.sendto(json.dumps(request).encode(), self._server)
        text = servers.written(self._socket.recv(1 << 20)).replace(self._directory.encode(), b"DIRECTORY")
        answer = json.loads(text, object_pairs_hook=_object)
        return {name: value for name, value in answer.items() if name in ("result", "error")}

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _object(pairs: list[tuple[str, Any]]) -> Any:
    assert len(dict(pairs)) == len(pairs), f"a key comes twice: {pairs}"
    return dict(pairs)


def answers(product: str, directory: Path) -> list[dict[str, Any]]:
    """Let the same happen to one server, ask it everything, and return the answers."""
    servers.make_database(directory, [servers.used(row) for row in _ROWS])
    (directory / "dispatcher.list").write_text(servers.used("1 sip:192.0.2.9:5080 0 5 weight=50;duid=abc\n"))
    server = (kamailio if product == "kamailio" else polykemi)(directory)
    phones: list[UdpPhone] = []
    try:
        until(lambda: server.ended or (directory / "rpc.sock").exists(), f"{product} starts")
        assert not server.ended, "\n".join(server.lines[-20:])
        client = Client(directory)
        until(lambda: client.ask("core.version"), f"{product} answers")
        phones += [
            UdpPhone(SERVER, name, DOMAIN, (f"{servers.USED}{n}", 5070)) for name, n in (("alice", 4), ("bob", 3))
        ]
        alice, bob = phones
        bob.register("Expires: 600", "User-Agent: Phone")
        for call in ("call-1", "call-2"):
            alice.send("INVITE", f"sip:bob@{DOMAIN}", bob.aor, call=call)
            invite = bob.receive("INVITE")
            bob.answer(invite, 180)
            alice.receive("SIP/2.0 180")
            if call == "call-1":
                bob.answer(invite, 200)
                reply = alice.receive("SIP/2.0 200")
                (route,) = (line[14:] for line in reply.split("\r\n") if line.startswith("Record-Route: "))
                alice.send(
                    "ACK", f"sip:bob@{bob.host}:{bob.port}", f"{bob.aor};tag=callee", f"Route: {route}", call=call
                )
                bob.receive("ACK")
        given = [client.ask(*one) for one in (*ASKED, ("system.listMethods",))]
        client.close()
        return given
    finally:
        for phone in phones:
            phone.close()
        server.stop()


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """The answers of Kamailio and those of polykemi."""
    if reason := why_not("lua"):
        pytest.skip(reason)
    return (
        answers("kamailio", tmp_path_factory.mktemp("kamailio")),
        answers("polykemi", tmp_path_factory.mktemp("polykemi")),
    )


def test_what_kamailio_can_be_asked_and_we_cannot_stands_in_the_documentation(answered: Both) -> None:
    theirs, ours = (set(answers[-1]["result"]) for answers in answered)
    section = (
        Path("docs/differences.md").read_text().partition("**Commands that are not there.**")[2].partition("\n\n## ")[0]
    )
    named = set(re.findall(r"`([a-z]+\.[A-Za-z0-9_]+)`", section))
    assert theirs - ours - named == set()
    assert named & ours == {"cfg.reload", "dns.mem_info", "dns.view", "tls.list"}  # what takes the place of some


def differences(theirs: Any, ours: Any, where: str = "") -> list[str]:
    """Return what differs, a line each."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        out = [f"{where}.{key}: ours alone" for key in ours if key not in theirs]
        out += [f"{where}.{key}: Kamailio's alone" for key in theirs if key not in ours]
        for key in theirs.keys() & ours.keys():
            volatile = key in _VOLATILE and not isinstance(theirs[key], (dict, list))
            if not volatile or kind(theirs[key]) != kind(ours[key]):
                out += differences(theirs[key], ours[key], f"{where}.{key}")
        return out
    if isinstance(theirs, list) and isinstance(ours, list):
        if len(theirs) != len(ours):
            return [f"{where}: {len(theirs)} and {len(ours)} of them: {theirs!r}, {ours!r}"]
        pairs = zip(sorted(theirs, key=_place), sorted(ours, key=_place), strict=True)
        return [line for n, (one, other) in enumerate(pairs) for line in differences(one, other, f"{where}[{n}]")]
    return [] if theirs == ours and kind(theirs) == kind(ours) else [f"{where}: {theirs!r}, ours {ours!r}"]


def kind(value: Any) -> str:
    """Return the type of a value: JSON has one for numbers."""
    return "number" if type(value) in (int, float) else type(value).__name__


def _place(value: Any) -> str:
    """Return what lists are sorted by: their order is that of hash tables."""
    for key in ("callid", "call-id", "name", "AoR"):
        if isinstance(value, dict) and key in value:
            return f"{value[key]} {value.get('type', '')}"
    return ""


@pytest.mark.parametrize("n", range(len(ASKED)), ids=[" ".join(map(str, one)).replace("\r\n", " ") for one in ASKED])
def test_the_answer_is_kamailios(answered: Both, n: int) -> None:
    theirs, ours = answered[0][n], answered[1][n]
    part = _OURS.get(ASKED[n][0])
    if part is not None:
        theirs, ours = {"result": part(theirs["result"])}, {"result": part(ours["result"])}
        assert theirs["result"] or ASKED[n][0] == "dns.view"
    assert differences(theirs, ours) == []
