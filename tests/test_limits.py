"""What scripts may keep and make ([limits]): a call that goes beyond fails, the log says where, and the server goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from polykemi import config
from polykemi.errors import ConfigError, RpcError
from polykemi.kemi.limits import ScriptLimits
from polykemi.testing import ServerUnderTest
from tests.test_router import PEER, request

SMALL = ScriptLimits(
    value=100,
    variables=10,
    variables_total=250,
    avps=5,
    avps_total=300,
    htable_key=10,
    htable_value=50,
    htable_total=200,
    mqueue_total=100,
    dialog_variables=3,
    dialog_total=60,
    headers=2,
    header=60,
)
LOAD = ("sl", "app_lua", "tm", "rr", "pvx", "htable", "mqueue", "dialog")
MODULES: dict[str, dict[str, Any]] = {
    "mqueue": {"mqueue": ["name=q"]},
    "htable": {"htable": ["t=>size=4;", "u=>size=4;"]},
}
# ruff: noqa: ISC004
# what a script does -> the results of the calls, which are collected with `r(...)`
CASES: dict[str, tuple[str, list[Any], str]] = {
    "a long value of a variable": (
        'r(KSR.pv.sets("$var(x)", A(100))) r(KSR.pv.sets("$var(x)", A(101))) r(#KSR.pv.get("$var(x)"))',
        [True, False, 100],
        "KSR.pv.sets: a value of 101 octets, and [limits] value is 100 at ",
    ),
    "a value that doubles": (
        'KSR.pv.sets("$var(x)", A(60)) r(KSR.pvx.evalx("$var(x)", "$var(x)$var(x)")) r(#KSR.pv.get("$var(x)"))',
        [-1, 60],
        "KSR.pvx.evalx: a value of 120 octets",
    ),
    "names": (
        'for i = 1, 10 do KSR.pvx.shv_seti("n" .. i, i) end r(KSR.pvx.shv_seti("n11", 1)) r(KSR.pvx.shv_seti("n1", 5))',
        [-1, 1],
        "KSR.pvx.shv_seti: 11 variables with 'n11', and [limits] variables is 10",
    ),
    "all variables": (
        'for i = 1, 2 do r(KSR.pv.sets("$vn(x" .. i .. ")", A(100))) end r(KSR.pv.sets("$vn(z)", A(51)))'
        ' r(KSR.pv.unset("$vn(x1)")) r(KSR.pv.sets("$vn(z)", A(51)))',
        [True, True, False, True, True],
        "251 octets in all variables, and [limits] variables_total is 250",
    ),
    "values of AVPs": (
        'for i = 1, 5 do r(KSR.pv.seti("$avp(x)", i)) end r(KSR.pv.seti("$avp(x)", 6)) r(KSR.pvx.xavp_seti("y", 7))'
        ' KSR.pv.unset("$avp(x)") r(KSR.pvx.xavp_child_seti("w", "z", 7)) r(KSR.pv.get("$avp(x)"))',
        [True] * 5 + [False, -1, 1, 4],
        "KSR.pv.seti: 6 values of AVPs and XAVPs, and [limits] avps is 5",
    ),
    "octets of AVPs": (
        'for i = 1, 3 do r(KSR.pvx.avp_sets("x", A(100))) end r(KSR.pvx.xavp_sets("x", "a")) r(KSR.pvx.xavp_sets("x", ""))',
        [1, 1, 1, -1, 1],
        "301 octets in AVPs and XAVPs, and [limits] avps_total is 300",
    ),
    "a long key of a hash table": (
        'r(KSR.htable.sht_sets("t", A(10), "x")) r(KSR.htable.sht_sets("t", A(11), "x"))',
        [1, -1],
        "KSR.htable.sht_sets: a key of 11 octets of htable t, and [limits] htable_key is 10",
    ),
    "a long value of a hash table": (
        'r(KSR.htable.sht_sets("t", "k", A(50))) r(KSR.htable.sht_sets("t", "k", A(51))) r(KSR.pv.sets("$sht(t=>k)", A(51)))'
        ' r(#KSR.htable.sht_get("t", "k"))',
        [1, -1, False, 50],
        "a value of 51 octets of htable t, and [limits] htable_value is 50",
    ),
    "all hash tables": (
        'for i = 1, 2 do r(KSR.htable.sht_sets("t", "k" .. i, A(48))) r(KSR.htable.sht_sets("u", "k" .. i, A(48))) end'
        ' r(KSR.htable.sht_seti("t", "n", 1)) KSR.htable.sht_rm("u", "k1") r(KSR.htable.sht_seti("t", "n", 1))',
        [1, 1, 1, 1, -1, 1],
        "209 octets in all hash tables, and [limits] htable_total is 200",
    ),
    "a queue": (
        'r(KSR.mqueue.mq_add("q", "k", A(99))) r(KSR.mqueue.mq_add("q", "", "x")) r(KSR.mqueue.mq_fetch("q"))'
        ' r(KSR.mqueue.mq_add("q", "", "x")) r(KSR.mqueue.mq_size("q"))',
        [1, -1, 1, 1, 1],
        "101 octets in the queue q, and [limits] mqueue_total is 100",
    ),
    "variables of a dialog": (
        'for i = 1, 3 do r(KSR.pv.sets("$dlg_var(x" .. i .. ")", "a")) end r(KSR.pv.sets("$dlg_var(x4)", "a"))'
        ' r(KSR.pv.sets("$dlg_var(x1)", A(59)))',
        [True, True, True, False, False],
        "61 octets in variables of the dialog, and [limits] dialog_total is 60",
    ),
    "headers": (
        'r(KSR.hdr.append("X: " .. A(90) .. "\\r\\n")) r(KSR.hdr.append("X: 1\\r\\n")) r(KSR.hdr.insert("X: 2\\r\\n"))'
        ' r(KSR.hdr.append("X: 3\\r\\n")) r(KSR.hdr.append_to_reply("X: 4\\r\\n"))',
        [-1, 1, 1, -1, 1],
        "KSR.hdr.append: 3 added headers, and [limits] headers is 2",
    ),
}


@contextmanager
def serving(directory: Path, body: str, limits: ScriptLimits = SMALL) -> Iterator[ServerUnderTest]:
    script = directory / "route.lua"
    script.write_text(
        "local out = {}\nlocal function r(x) out[#out + 1] = x end\nlocal function A(n) return string.rep('a', n) end\n"
        f"function ksr_request_route()\n  {body}\n"
        '  for i = 1, #out do KSR.info("result " .. tostring(out[i])) end\n  out = {}\n  KSR.sl.sl_send_reply(200, "OK")\nend\n'
    )
    with ServerUnderTest(
        {"lua": script}, domains=["example.test"], modules=MODULES, load=LOAD, limits=limits
    ) as server:
        yield server


def results(server: ServerUnderTest, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.set_level(logging.INFO)
    (sent,) = server.receive(request("INVITE", Contact="<sip:a@b>"), PEER)
    assert sent.start_line == "SIP/2.0 200 OK"
    return [
        record.getMessage().removeprefix("result ") for record in caplog.records if "result " in record.getMessage()
    ]


@pytest.mark.parametrize("case", CASES)
def test_a_call_beyond_a_limit_fails_and_the_log_says_where(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body, expected, line = CASES[case]
    with serving(tmp_path, body) as server:
        assert results(server, caplog) == [str(one).lower() for one in expected]
    assert line in caplog.text
    assert "route.lua:5" in next(one for one in caplog.text.split("\n") if line in one)


def test_the_same_is_no_matter_without_small_limits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for body, expected, line in CASES.values():
        caplog.clear()
        with serving(tmp_path, body, ScriptLimits()) as server:
            got = results(server, caplog)
            assert len(got) == len(expected)
            assert not {"false", "-1"} & set(got)
        assert line not in caplog.text


def test_removed_values_make_room_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    body = 'for i = 1, 50 do KSR.pv.sets("$avp(x)", A(90)) KSR.pv.unset("$avp(x)") end r(KSR.pvx.avp_sets("x", A(90)))'
    with serving(tmp_path, body) as server:
        assert results(server, caplog) == ["1"]


def test_limits_change_at_run_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with serving(tmp_path, 'r(KSR.pv.sets("$var(x)", A(150)))') as server:
        assert results(server, caplog) == ["false"]
        server.node.rpc.commands["cfg.set"].run(["limits", "value", 200], 0.0)
        caplog.clear()
        assert results(server, caplog) == ["true"]


def test_a_command_is_told_of_the_limit(tmp_path: Path) -> None:
    says = "Failed to set the item: a value of 51 octets of htable t"
    with serving(tmp_path, "") as server, pytest.raises(RpcError, match=says):
        server.node.rpc.commands["htable.sets"].run(["t", "k", "x" * 51], 0.0)


def test_what_tables_hold_is_counted_right_whatever_happens(tmp_path: Path) -> None:
    with serving(tmp_path, "") as server:
        module: Any = server.node.modules["htable"]
        one, other = module.tables["t"], module.tables["u"]
        one.set("a", "12345", 0.0)
        one.set("a", "1", 0.0)
        one.set("b", 5, 0.0)
        other.set("c", "x", 0.0)
        assert (one.octets, other.octets, one.room.octets) == (11, 2, 13)
        fresh = one.empty()
        fresh.set("z", "zz", 0.0)
        assert one.room.octets == 13
        one.take(fresh)
        assert (one.octets, one.room.octets) == (3, 5)
        one.keep([("p", ("qq", 9.0))])
        assert one.room.octets == 8
        one.remove("z")
        other.clear()
        one.remove("none")
        assert (one.octets, other.octets, one.room.octets) == (3, 0, 3)


def test_the_table_of_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "polykemi.toml"
    file.write_text('[limits]\nvalue = "1M"\ndepth = 7\n')
    limits = config.load(file, serving=False).limits
    assert (limits.value, limits.depth, limits.headers) == (1 << 20, 7, ScriptLimits().headers)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[limits]\nvalue = 0", "2: [limits] value: expected 1 or more, got 0"),
        ("[limits]\nvalue = -1", "2: [limits] value: expected octets, or a size such as 64M, got -1"),
        ("[limits]\nvalues = 1", "2: [limits] values: unknown, did you mean value?"),
        ("[limits]\nvalue = '1X'", '2: [limits] value: expected octets, or a size such as 64M, got "1X"'),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "polykemi.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        config.load(file, serving=False)
    assert str(error.value) == f"{file}:{says}"


def test_the_page_names_every_limit_with_its_default() -> None:
    page = (Path(__file__).parents[1] / "docs" / "limits.md").read_text()
    for one in fields(ScriptLimits):
        default = getattr(ScriptLimits(), one.name)
        shown = next(
            (f'"{default // n}{unit}"' for unit, n in (("M", 1 << 20), ("k", 1 << 10)) if default % n == 0),
            str(default),
        )
        assert f"\n{one.name} = {shown} " in page, (one.name, shown)


def test_route_blocks_go_no_deeper_than_allowed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    body = 'n = (n or 0) + 1  KSR.app_lua.run("ksr_request_route")'
    with serving(tmp_path, body, ScriptLimits(depth=5)) as server:
        server.receive(request("INVITE"), PEER)
        assert "more than 5 calls inside each other" in caplog.text
        server.node.rpc.commands["cfg.set"].run(["limits", "depth", 3], 0.0)
        caplog.clear()
        server.receive(request("INVITE", Via="SIP/2.0/UDP h;branch=z9hG4bK3"), PEER)
        assert "more than 3 calls inside each other" in caplog.text
        with pytest.raises(RpcError, match="depth: expected 1 to 16, got 17"):
            server.node.rpc.commands["cfg.set"].run(["limits", "depth", 17], 0.0)
