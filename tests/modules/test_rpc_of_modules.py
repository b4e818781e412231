"""Commands of smaller modules: what they show, what they change, and Kamailio's errors."""

from __future__ import annotations

from typing import Any

import pytest

from polykemi.control.api import Api
from polykemi.control.process import Core
from polykemi.errors import RpcError
from polykemi.kemi.rpc import commands_of
from polykemi.modules.base import Module, Services
from polykemi.modules.core import Core as CoreModule
from polykemi.modules.corex import Corex
from polykemi.modules.htable import Htable
from polykemi.modules.permissions import Permissions
from polykemi.modules.pike import Pike
from polykemi.modules.pipelimit import Pipelimit
from polykemi.modules.pv import Params as PvParams
from polykemi.modules.pv import Pv
from polykemi.modules.ratelimit import Ratelimit
from polykemi.modules.sl import Sl
from polykemi.sip.flow import Listener
from polykemi.storage.provisioned import Database
from tests.support import NOW, message, request_context, services


def ask(made: Services, method: str, *params: Any, now: float = NOW) -> Any:
    parts = [part for module in made.modules.values() for part in module.commands()]
    return {one.name: one for part in parts for one in commands_of(part)}[method].run(params, now)


def refused(made: Services, method: str, *params: Any) -> tuple[int, str]:
    with pytest.raises(RpcError) as raised:
        ask(made, method, *params)
    return raised.value.code, str(raised.value)


def test_pike_lists_its_sources() -> None:
    made = services(Pike, params={"pike": {"reqs_density_per_unit": 3, "remove_latency": 20}})
    for address, times in (("192.0.2.1", 5), ("192.0.2.2", 2), ("2001:db8::1", 1)):
        for _ in range(times):
            made.modules["pike"]._check(address, NOW)
    blocked = {"ip_addr": "192.0.2.1", "leaf_hits_prev": 0, "leaf_hits_curr": 5, "expires": 20, "status": "HOT"}
    assert ask(made, "pike.list") == ask(made, "pike.top") == {"max_hits": 3, "list": [blocked], "number_of_rows": 1}
    everything = ask(made, "pike.top", "all", now=NOW + 2)
    assert [(row["ip_addr"], row["status"], row["leaf_hits_prev"], row["expires"]) for row in everything["list"]] == [
        ("192.0.2.1", "HOT", 5, 18),
        ("192.0.2.2", "WARM", 2, 18),
        ("2001:db8::1", "WARM", 1, 18),
    ]
    assert [row["ip_addr"] for row in ask(made, "pike.top", "WARM")["list"]] == ["192.0.2.2", "2001:db8::1"]
    assert ask(made, "pike.top", "ALL", now=NOW + 22)["list"] == []
    assert refused(made, "pike.top", "x") == (500, "Bad argument. Select: ALL, HOT or WARM")


def test_shared_variables_are_shown_and_set() -> None:
    made = services(Pv)
    shared = made.variables.environment.shared
    shared.update({"debug": 1, "name": "bob"})
    debug = {"name": "debug", "type": "int", "value": 1}
    assert ask(made, "pv.shvGet", "debug") == debug
    assert ask(made, "pv.shvGet") == {
        "items": [{"shv": debug}, {"shv": {"name": "name", "type": "string", "value": "bob"}}]
    }
    assert ask(made, "pv.shvSet", "debug", "int", "7") == "Ok. Variable set to new value."
    assert ask(made, "pv.shvSet", "name", "str", 5) == "Ok. Variable set to new value."
    assert shared == {"debug": 7, "name": "5"}
    assert (
        refused(made, "pv.shvGet", "nix")
        == refused(made, "pv.shvSet", "nix", "str", "a")
        == (404, "Variable not found")
    )
    assert refused(made, "pv.shvSet", "name", "xx", "a")[1] == "Unknown parameter type (Types: int or str)"
    assert refused(made, "pv.shvSet", "debug", "int", "a") == (500, "expected an integer, got a")
    assert refused(made, "pv.shvSet", "debug", "int", "9" * 19) == (500, f"expected an integer, got {'9' * 19}")
    assert refused(made, "pv.shvSet", "debug")[0] == 500


def test_variables_begin_with_what_the_configuration_says() -> None:
    made = services(Pv, params={"pv": {"shvset": ("debug=i:-1", "name=s:a=b:c", "no=s:"), "varset": ("v=i:7",)}})
    environment = made.variables.environment
    assert environment.shared == {"debug": -1, "name": "a=b:c", "no": ""}
    assert environment.variables == {"v": 7}
    assert ask(made, "pv.shvGet", "debug")["value"] == -1


def test_an_item_that_expires_after_all_dates_never_does() -> None:
    made = services(Htable, params={"htable": {"htable": ("a=>size=4",)}})
    ask(made, "htable.setxs", "a", "k", "v", 10**18 - 1)
    assert ask(made, "htable.get", "a", "k")["item"]["expire"] == "NEVER"


@pytest.mark.parametrize("text", ["x", "x=1", "x=i", "x=i:", "x=i:1a", "=i:1", "x=f:1", f"x=i:{1 << 63}"])
def test_what_no_variable_can_begin_with_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^shvset: expected "):
        PvParams(shvset=(text,))


def test_the_tables_of_permissions_are_shown() -> None:
    database = Database()
    rows = "(1,'192.0.2.3',32,5060,'a'),(1,'10.0.0.0',8,0,NULL),(2,'2001:db8::1',128,0,'v6'),(1,'example.org',32,0,'d')"
    database.query(f"INSERT INTO address(grp,ip_addr,mask,port,tag) VALUES {rows}")
    made = services(Permissions, database=database)
    assert ask(made, "permissions.addressDump") == [
        {"table": 0, "group": 1, "item": {"ip": "192.0.2.3", "port": 5060, "tag": "a"}},
        {"table": 1, "group": 2, "item": {"ip": "2001:db8::1", "port": 0, "tag": "v6"}},
    ]
    assert ask(made, "permissions.subnetDump") == [
        {"id": 0, "group": 1, "item": {"ip": "10.0.0.0", "mask": 8, "port": 0, "tag": ""}}
    ]
    assert ask(made, "permissions.domainDump") == [
        {"table": 0, "group": 1, "item": {"domain_name": "example.org", "port": 0, "tag": "d"}}
    ]
    assert refused(made, "permissions.trustedDump")[0] == 500


def test_the_trusted_table_is_shown() -> None:
    database = Database()
    database.query(
        "INSERT INTO trusted(src_ip,proto,from_pattern,tag,priority) VALUES ('192.0.2.8','udp','^sip:.*$','t',3),"
        "('192.0.2.9','any',NULL,NULL,0)"
    )
    made = services(Permissions, database=database, params={"permissions": {"db_mode": 1}})
    one, other = (row["item"] for row in ask(made, "permissions.trustedDump"))
    assert one == {
        "ip": "192.0.2.8", "proto": 1, "pattern": "^sip:.*$", "ruri_pattern": "NULL", "tag": "t", "priority": 3
    }  # fmt: skip
    assert other == {
        "ip": "192.0.2.9", "proto": 0, "pattern": "NULL", "ruri_pattern": "NULL", "tag": "NULL", "priority": 0
    }  # fmt: skip


def test_pipes_are_shown_and_set() -> None:
    made = services(Sl, Pipelimit)
    ctx = request_context(message("OPTIONS sip:a SIP/2.0"))
    for _ in range(3):
        made.modules["pipelimit"].pl_check_limit(ctx, "p1", "TAILDROP", 2)
    assert ask(made, "pl.get_pipes") == ["PIPE: id=p1 algorithm=TAILDROP limit=2 counter=3"]
    assert ask(made, "pl.stats") == ["PIPE: id=p1 load=0 counter=0"]
    assert ask(made, "pl.set_pipe", "p1", "red", 7) == {}
    assert [(row["algorithm"], row["limit"]) for row in ask(made, "pl.list", "p1")] == [("RED", 7)]
    assert refused(made, "pl.list", "x") == refused(made, "pl.set_pipe", "x", "RED", 5) == (400, "Unknown pipe id x")
    assert refused(made, "pl.set_pipe", "p1", "nix", 5) == (400, "Unknown algorithm")


@pytest.mark.parametrize("group", ["pl", "rl"])
def test_the_controller_behind_feedback_is_shown_and_set(group: str) -> None:
    made = services(Sl, Pipelimit, Ratelimit)
    assert ask(made, f"{group}.get_pid") == "ki[-25.000000] kp[0.000000] kd[0.000000] "
    assert ask(made, f"{group}.set_pid", 0.5, 1, "2.5") == {}
    assert ask(made, f"{group}.get_pid") == "ki[0.500000] kp[1.000000] kd[2.500000] "
    assert ask(made, f"{group}.push_load", 0.5) == {}
    assert refused(made, f"{group}.push_load", 1.5) == (400, "expected a load from 0 to 1, got 1.5")


def test_ratelimit_shows_pipes_and_queues() -> None:
    made = services(Sl, Ratelimit, params={"ratelimit": {"pipe": ["0:TAILDROP:10"], "queue": ["0:INVITE", "0:*"]}})
    assert ask(made, "rl.stats") == ["PIPE[0]: 0/10 (drop rate: 0)"]
    assert ask(made, "rl.get_queues") == ["QUEUE[0]: 0:INVITE", "QUEUE[1]: 0:*"]
    assert ask(made, "rl.set_queue", 0, "message", 3) == {}
    assert ask(made, "rl.get_queues")[0] == "QUEUE[0]: 3:MESSAGE"
    for given, cause in (((0, "INVITE", 99), "Invalid pipe number"), ((2, "INVITE", 0), "MAX_QUEUES reached")):
        with pytest.raises(RpcError, match=cause):
            ask(made, "rl.set_queue", *given)
    assert ask(made, "rl.set_pipe", 0, "red", 5) == {}
    assert ask(made, "rl.get_pipes") == ["PIPE[0]: 1:RED 0/5 (drop rate: 0) [0]"]


def test_corex_lists_sockets_and_domains() -> None:
    listeners = (Listener("udp", "192.0.2.1", 5060, "203.0.113.1", 5070, "ext"), Listener("tls", "2001:db8::1", 5061))
    made = services(CoreModule, Corex, listeners=listeners, domains=["b.test", "a.test"])
    one, other = ask(made, "corex.list_sockets")
    assert (one["PROTO"], one["NAME"], one["PORT"], one["SOCKNAME"], one["ADVERTISE"]) == (
        *("udp", "192.0.2.1", "5060", "ext", "203.0.113.1"),
    )
    assert (other["ADDRLIST"], other["SOCKNAME"], other["ADVERTISE"]) == ({"ADDR": "2001:db8::1"}, "-", "-")
    assert [row["ADDR"] for row in ask(made, "corex.list_aliases")] == ["a.test", "b.test"]


def test_the_functions_of_ksr_are_listed() -> None:
    made = services(Sl)
    parts: list[Module] = list(made.modules.values())
    commands = {one.name: one for one in commands_of(Api(parts, dict))}
    listed = commands["app_lua.api_list"].run([], NOW)
    assert listed["msize"] == len(listed["methods"])
    assert {"func": {"ret": "int", "module": "sl", "name": "send_reply", "params": "int, str"}} in listed["methods"]
    assert commands["app_jsdt.api_list"].run([], NOW) == commands["app_python3.api_list"].run([], NOW) == listed
    assert commands["app_lua.list"].run([], NOW) == ""
    assert not [one for one in commands_of(Core("", 0.0)) if one.name in commands]
