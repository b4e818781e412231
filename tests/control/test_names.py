"""The commands about DNS and the blocklist."""

from __future__ import annotations

from typing import Any

import pytest

from polykemi.control.jsonrpc import JsonRpc
from polykemi.control.names import Dns, DstBlocklist
from polykemi.errors import RpcError
from polykemi.sip.locate import Destination, Naptr, Srv
from polykemi.transaction.blocklist import ERR_TIMEOUT, Blocklist
from polykemi.transport.resolver import Reply, Resolver

NOW = 1_800_000_000.0
USABLE = {"udp": (4,)}


async def _nobody(name: str, kind: str) -> Reply | None:
    return None


@pytest.fixture
def resolver() -> Resolver:
    one = Resolver(_nobody)
    one.put(("a.test", "A"), Reply(("192.0.2.1", "192.0.2.2"), 60.0), NOW)
    one.put(("_sip._udp.a.test", "SRV"), Reply((Srv(1, 2, 5060, "a.test"),), 60.0), NOW)
    one.put(("a.test", "NAPTR"), Reply((Naptr(1, 2, "s", "SIP+D2U", "", "b.test"),), 60.0), NOW)
    one.put(("none.test", "A"), Reply((), 30.0), NOW)
    return one


@pytest.fixture
def blocklist() -> Blocklist:
    one = Blocklist(enabled=True, expire=60)
    one.put("udp", "192.0.2.1", 5060, ERR_TIMEOUT, NOW)
    return one


@pytest.fixture
def server(resolver: Resolver, blocklist: Blocklist) -> JsonRpc:
    one = JsonRpc()
    one.add(Dns(resolver), DstBlocklist(blocklist))
    return one


def call(server: JsonRpc, method: str, *params: Any, now: float = NOW + 10) -> Any:
    return server.commands[method].run(params, now)


def test_what_is_known_of_a_name(server: JsonRpc) -> None:
    entry = {"name": "a.test", "type": "A", "permanent": "no", "expires": 50, "negative_entry": "no"}
    more = {"rr_permanent": "no", "rr_expires": 50}
    records = [{"rr_idx": 0, "rr_ip": "192.0.2.1", **more}, {"rr_idx": 1, "rr_ip": "192.0.2.2", **more}]
    assert call(server, "dns.lookup", "a", "A.test.") == {**entry, "name": "A.test.", "records": records}
    assert call(server, "dns.lookup", "T_A", "none.test")["negative_entry"] == "yes"


def test_what_an_operator_enters_takes_the_place_of_what_dns_said(server: JsonRpc, resolver: Resolver) -> None:
    to_a = Destination("a.test", 5060, "udp")
    assert [place.host for place in resolver.locate(to_a, USABLE, NOW + 10) or []][:1] == ["192.0.2.1"]
    call(server, "dns.add_a", "A.test", 60, "192.0.2.9", 0)
    assert [place.host for place in resolver.locate(to_a, USABLE, NOW + 10) or []] == ["192.0.2.9"]
    call(server, "dns.add_a", "a.test", 60, "192.0.2.9", 1)
    assert resolver.locate(to_a, USABLE, NOW + 10) == []
    call(server, "dns.add_srv", "_sip._udp.b.test", 60, 1, 2, 5070, "a.test", 0)
    assert call(server, "dns.lookup", "SRV", "_sip._udp.b.test")["records"][0]["rr_port"] == 5070
    call(server, "dns.delete_srv", "_sip._udp.b.test")
    with pytest.raises(RpcError, match="Not found"):
        call(server, "dns.delete_srv", "_sip._udp.b.test")


def test_what_is_entered_for_ever_is_forgotten_by_force(server: JsonRpc) -> None:
    call(server, "dns.add_a", "x.test", 60, "192.0.2.9", 2)
    call(server, "dns.add_aaaa", "x.test", 60, "2001:db8::9", 2)
    late = {row["type"]: row for row in call(server, "dns.view", now=NOW + 1_000_000)}
    assert (late["A"]["permanent"], late["A"]["expires"], late["A"]["records"][0]["rr_permanent"]) == ("yes", 0, "yes")
    assert call(server, "dns.delete_all") == {"status": "ok"}
    assert {row["type"] for row in call(server, "dns.view")} == {"A", "AAAA"}
    with pytest.raises(RpcError, match="Permanent entries cannot be deleted"):
        call(server, "dns.delete_a", "x.test")
    call(server, "dns.delete_all_force")
    assert call(server, "dns.view") == []


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("dns.add_a", ["x.test", 60, "nonsense", 0]),
        ("dns.add_a", ["x.test", 60, "::1", 0]),
        ("dns.add_aaaa", ["x.test", 60, "192.0.2.9", 0]),
        ("dns.add_srv", ["x.test", 60, 1, 2, 65536, "a.test", 0]),
    ],
)
def test_records_that_cannot_be_are_refused(server: JsonRpc, method: str, given: list[Any]) -> None:
    with pytest.raises(RpcError, match="Failed to add the entry to the cache"):
        call(server, method, *given)
    assert len(call(server, "dns.view")) == 4


def test_all_that_is_kept(server: JsonRpc) -> None:
    by_kind = {(entry["name"], entry["type"]): entry.get("records") for entry in call(server, "dns.view")}
    assert by_kind["_sip._udp.a.test", "SRV"] == [
        {
            "rr_idx": 0,
            "rr_name": "a.test",
            "rr_port": 5060,
            "rr_priority": 1,
            "rr_weight": 2,
            "rr_permanent": "no",
            "rr_expires": 50,
        }
    ]
    assert by_kind["a.test", "NAPTR"][0]["rr_replacement"] == "b.test"
    assert by_kind["none.test", "A"] is None
    assert len(call(server, "dns.view", now=NOW + 40)) == 3
    assert call(server, "dns.mem_info")["used"] == 4
    call(server, "dns.delete_all")
    assert call(server, "dns.view") == []


@pytest.mark.parametrize(("kind", "name", "code"), [("MX", "a.test", 400), ("A", "other.test", 404)])
def test_what_cannot_be_told(server: JsonRpc, kind: str, name: str, code: int) -> None:
    with pytest.raises(RpcError) as error:
        call(server, "dns.lookup", kind, name)
    assert error.value.code == code


def test_the_blocklist(server: JsonRpc) -> None:
    assert call(server, "dst_blocklist.view") == [
        {"protocol": "udp", "ip": "192.0.2.1", "port": 5060, "expires in (s)": 50, "flags": 16}
    ]
    call(server, "dst_blocklist.add", "2001:DB8::1", 5061, 3, 64)
    assert call(server, "dst_blocklist.debug")[5:] == ["tls", "2001:db8::1", 5061, 60, 64]
    assert call(server, "dst_blocklist.mem_info") == {"used": 2}
    call(server, "dst_blocklist.delete_all")
    assert call(server, "dst_blocklist.view") == []


@pytest.mark.parametrize("place", [("x", 5060, 1), ("192.0.2.1", 0, 1), ("192.0.2.1", 5060, 9)])
def test_what_is_no_place(server: JsonRpc, place: tuple[str, int, int]) -> None:
    with pytest.raises(RpcError):
        call(server, "dst_blocklist.add", *place, 64)


def test_a_list_that_is_off_says_so(server: JsonRpc, blocklist: Blocklist) -> None:
    blocklist.enabled = False
    for method in ("view", "debug", "mem_info", "delete_all"):
        with pytest.raises(RpcError, match="disabled"):
            call(server, f"dst_blocklist.{method}")
