"""permissions: addresses by group, IPv4 and IPv6, single and in networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polykemi.errors import DataError, RpcError
from polykemi.kemi.context import RouteContext
from polykemi.modules.base import Services
from polykemi.modules.permissions import Permissions
from polykemi.storage.provisioned import Database
from tests.support import NOW, message, request_context, services

ROWS: list[tuple[int, str, int, int, str | None]] = [
    (1, "192.0.2.10", 32, 0, "gateway"),
    (1, "198.51.100.0", 24, 0, None),
    (2, "198.51.100.7", 32, 5070, None),
    (3, "203.0.113.9", 0, 0, None),
    (4, "2001:db8::", 32, 0, None),
    (5, "gw.example.test", 32, 0, None),
    (6, "10.0.0.0", 40, 0, None),  # no such mask
    (7, "10.1.255.255", 16, 0, None),  # bits behind the mask do not count
]


def server(rows: list[tuple[int, str, int, int, str | None]] = ROWS, **params: Any) -> Services:
    database = Database()
    for row in rows:
        database.query("INSERT INTO address (grp, ip_addr, mask, port, tag) VALUES (?, ?, ?, ?, ?)", row)
    return services(Permissions, params={"permissions": params}, database=database)


def ctx_of(host: str, port: int = 5060, uri: str = "sip:bob@example.test", **more: Any) -> RouteContext:
    return request_context(message(f"INVITE {uri} SIP/2.0", **more), source=(host, port))


@pytest.mark.parametrize(
    "host, port, groups",
    [
        ("192.0.2.10", 5060, {1}),
        ("192.0.2.11", 5060, set()),
        ("198.51.100.0", 1, {1}),
        ("198.51.100.255", 1, {1}),
        ("198.51.101.0", 1, set()),
        ("198.51.100.7", 5070, {1, 2}),
        ("198.51.100.7", 5071, {1}),
        ("203.0.113.9", 9, {3}),
        ("203.0.113.8", 9, set()),
        ("2001:db8:ffff::1", 9, {4}),
        ("2001:db9::1", 9, set()),
        ("10.0.0.1", 9, set()),
        ("10.1.2.3", 9, {7}),
        ("0.0.0.0", 9, set()),
    ],
)
def test_the_groups_of_a_source(host: str, port: int, groups: set[int]) -> None:
    permissions = server().modules["permissions"]
    ctx = ctx_of(host, port)
    for _ in range(2):  # found, then remembered
        assert {g for g in range(1, 8) if permissions.allow_source_address(ctx, g) == 1} == groups
        assert {g for g in range(1, 8) if permissions.allow_address(ctx, g, host, port) == 1} == groups
        group = permissions.allow_source_address_group(ctx)
        assert group in groups or (group == -1 and not groups)
        assert permissions.allow_address_group(ctx, host, port) == group


def test_single_addresses_go_before_networks_and_networks_by_their_groups() -> None:
    rows: list[tuple[int, str, int, int, str | None]] = [
        (9, "198.51.100.0", 28, 0, None),
        (8, "198.51.0.0", 16, 0, None),
        (1, "198.51.100.7", 32, 5070, None),
        (2, "198.51.100.7", 32, 5070, None),
        (1, "gw.test", 32, 0, None),
        (2, "gw.test", 32, 0, None),
    ]
    permissions, ctx = server(rows).modules["permissions"], ctx_of("192.0.2.1")
    assert permissions.allow_address_group(ctx, "198.51.100.7", 5070) == 2  # the last one entered
    assert permissions.allow_address_group(ctx, "198.51.100.7", 5060) == 8  # not the closest one
    assert permissions.allow_address_group(ctx, "gw.test", 5060) == 2


def test_a_file_in_place_of_the_table(tmp_path: Path) -> None:
    path = tmp_path / "address.list"
    path.write_text("# trunks\n1 192.0.2.10\n\n2 198.51.100.0 24 5060 carrier # a tag\n3 gw.test\n")
    permissions = server(address_file=path, peer_tag_avp="$avp(tag)").modules["permissions"]
    ctx = ctx_of("192.0.2.10")
    assert permissions.allow_source_address_group(ctx) == 1
    assert permissions.allow_address_group(ctx, "198.51.100.9", 5060) == 2
    assert ctx.shared.avps["tag"] == ["carrier"]
    assert permissions.allow_address_group(ctx, "gw.test", 5060) == 3
    path.write_text("1 192.0.2.10 x\n")
    with pytest.raises(DataError, match=r"address.list:1: expected group address"):
        permissions.reread(NOW)()
    with pytest.raises(DataError, match="No such file"):
        server(address_file=tmp_path / "none")


def test_names_and_other_spellings_of_addresses() -> None:
    permissions, ctx = server().modules["permissions"], ctx_of("192.0.2.1")
    assert permissions.allow_address(ctx, 5, "gw.example.test", 5060) == 1
    assert permissions.allow_address(ctx, 5, "GW.example.test", 5060) == -1
    assert permissions.allow_address(ctx, 5, "other.test", 5060) == -1
    assert permissions.allow_address(ctx, 4, "[2001:DB8:0:0::1]", 5060) == 1
    assert permissions.allow_address(ctx, 4, "", 5060) == -1
    assert permissions.allow_address(ctx, 4, "x" * 1000, 5060) == -1


def test_reload_takes_what_the_table_says_now() -> None:
    made = server()
    permissions, ctx = made.modules["permissions"], ctx_of("192.0.2.99")
    assert permissions.allow_source_address(ctx, 1) == -1
    made.database.query("UPDATE address SET ip_addr = '192.0.2.99' WHERE ip_addr = '192.0.2.10'")
    assert permissions.allow_source_address(ctx, 1) == -1
    permissions.reread(NOW)()
    assert permissions.allow_source_address(ctx, 1) == 1
    assert permissions.allow_source_address(ctx_of("192.0.2.10"), 1) == -1


def test_the_tag_of_a_row_goes_into_an_avp() -> None:
    permissions = server(peer_tag_avp="$avp(tag)").modules["permissions"]
    ctx = ctx_of("192.0.2.10")
    assert permissions.allow_source_address(ctx, 1) == 1
    assert ctx.shared.avps["tag"] == ["gateway"]
    ctx = ctx_of("198.51.100.1")
    assert permissions.allow_source_address(ctx, 1) == 1
    assert ctx.shared.avps == {}


def test_memory_for_sources_is_bounded() -> None:
    permissions, ctx = server().modules["permissions"], ctx_of("192.0.2.1")
    for n in range(10000):
        permissions.allow_address(ctx, 1, f"10.{n // 65536}.{n // 256 % 256}.{n % 256}", 5060)
    assert len(permissions._found) <= 4096


def trusted(*rows: tuple[str, str, str | None, str | None, str | None], **params: Any) -> Services:
    made = server([], peer_tag_avp="$avp(tag)", **params)
    for row in rows:
        made.database.query(
            "INSERT INTO trusted (src_ip, proto, from_pattern, ruri_pattern, tag, priority) VALUES (?, ?, ?, ?, ?, 0)",
            row,
        )
    made.modules["permissions"].reread(NOW)()
    return made


@pytest.mark.parametrize(
    "row, result",
    [
        (("192.0.2.10", "any", None, None, "t"), 1),
        (("192.0.2.10", "udp", None, None, "t"), 1),
        (("192.0.2.10", "tcp", None, None, "t"), -1),
        (("192.0.2.10", "none", None, None, "t"), -1),
        (("192.0.2.11", "any", None, None, "t"), -1),
        (("192.0.2.10", "any", "^sip:alice@", None, "t"), 1),
        (("192.0.2.10", "any", "^sip:bob@", None, "t"), -1),
        (("192.0.2.10", "any", None, "^sip:bob@", "t"), 1),
        (("192.0.2.10", "any", None, "^sip:carol@", "t"), -1),
        (("192.0.2.10", "any", "(", None, "t"), -1),
    ],
)
def test_trusted_rows(row: tuple[str, str, str | None, str | None, str | None], result: int) -> None:
    ctx = ctx_of("192.0.2.10")
    assert trusted(row).modules["permissions"].allow_trusted(ctx) == result
    assert ctx.shared.avps == ({"tag": ["t"]} if result == 1 else {})


def test_all_trusted_rows_count_when_peer_tag_mode_says_so() -> None:
    rows = [("192.0.2.10", "any", None, None, tag) for tag in ("one", "two")]
    ctx = ctx_of("192.0.2.10")
    assert trusted(*rows, peer_tag_mode=1).modules["permissions"].allow_trusted(ctx) == 2
    assert sorted(ctx.shared.avps["tag"]) == ["one", "two"]


def test_without_a_trusted_table_nobody_is_trusted() -> None:
    assert server().modules["permissions"].allow_trusted(ctx_of("192.0.2.10")) == -1


def test_an_operator_reads_the_tables_anew() -> None:
    made = server([])
    permissions: Permissions = made.modules["permissions"]
    made.database.query("INSERT INTO address (grp, ip_addr) VALUES (1, '192.0.2.10')")
    assert permissions.allow_source_address(ctx_of("192.0.2.10"), 1) == -1
    assert permissions.reload_addresses(now=NOW) == "Reload OK"
    assert permissions.allow_source_address(ctx_of("192.0.2.10"), 1) == 1
    made.database.query("DROP TABLE address")
    with pytest.raises(RpcError, match=r"Reload failed: .*no such table: address"):
        permissions.reload_addresses(now=NOW)
    assert permissions.allow_source_address(ctx_of("192.0.2.10"), 1) == 1


def test_trusted_rows_are_asked_for_or_kept() -> None:
    insert = "INSERT INTO trusted (src_ip, proto, tag, priority) VALUES ('192.0.2.10', 'any', ?, ?)"
    for mode, order in ((0, ["low", "high"]), (1, ["high", "low"])):
        made = server([], db_mode=mode, peer_tag_avp="$avp(t)", peer_tag_mode=1)
        permissions: Permissions = made.modules["permissions"]
        for row in (("high", 2), ("low", 1)):
            made.database.query(insert, row)
        ctx = ctx_of("192.0.2.10")
        assert permissions.allow_trusted(ctx) == (2 if mode == 0 else -1)
        assert permissions.reload_trusted() == "Reload OK"
        ctx = ctx_of("192.0.2.10")
        assert permissions.allow_trusted(ctx) == 2
        assert ctx.shared.avps["t"] == order[::-1]  # the newest first
    with pytest.raises(ValueError, match="db_mode: expected 0 or 1, got 2"):
        server([], db_mode=2)
