"""``polykemi check``: what is wrong is said as a start or a reload would say it, and nothing is touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from polykemi.cli import main
from polykemi.storage.provisioned import FILE_NAME, Database

GOOD = {
    "route.lua": 'function ksr_request_route() KSR.sl.sl_send_reply(200, "OK") end\n',
    "route.js": 'function ksr_request_route() { KSR.sl.sl_send_reply(200, "OK"); }\n',
    "route.py": "import KSR\ndef ksr_request_route(msg):\n    KSR.sl.sl_send_reply(200, 'OK')\n    return 1\n",
}
SMOKE = "OPTIONS sip:example.test SIP/2.0\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\nFrom: <sip:a@h>;tag=1\nTo: <sip:b@h>\nCall-ID: 1\nCSeq: 1 OPTIONS\nContent-Length: 0\n\n"


class Ran(NamedTuple):
    """What the command left."""

    code: int
    out: str
    err: str


Check = Callable[..., Ran]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Run the command in a directory with good scripts."""
    monkeypatch.chdir(tmp_path)
    for name, text in GOOD.items():
        (tmp_path / name).write_text(text)

    def run(*arguments: str) -> Ran:
        try:
            main(("check", *arguments))
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Ran(code, *capsys.readouterr())

    return run


@pytest.mark.parametrize("script", GOOD)
def test_a_good_script_is_in_order_and_nothing_is_left_behind(check: Check, script: str, tmp_path: Path) -> None:
    assert check(script) == Ran(0, "in order\n", "")
    assert sorted(one.name for one in tmp_path.iterdir() if one.name != "__pycache__") == sorted(GOOD)


@pytest.mark.parametrize(
    ("name", "text", "out", "err"),
    [
        ("x.lua", "function ksr_request_route( end", "", "x.lua:1: "),
        ("x.lua", "local a = 1", "", "x.lua: defines no function ksr_request_route"),
        (
            "x.lua",
            'function ksr_request_route()\n  KSR.sl.send_replay(200, "OK")\n  KSR.tm.t_on_failure("nowhere")\nend',
            "x.lua:2: there is no function KSR.sl.send_replay, did you mean KSR.sl.send_reply?\nx.lua:3: KSR.tm.t_on_failure: the script defines no function nowhere\n",
            "polykemi: 2 mistakes in the scripts",
        ),
        (
            "x.js",
            "function ksr_request_route() { KSR.nope.nope(); }",
            "x.js:1: there is no function KSR.nope.nope",
            "1 mistake in the scripts",
        ),
        (
            "x.py",
            "import KSR\ndef ksr_request_route(msg):\n    KSR.nope.nope()\n",
            "x.py:3: there is no function KSR.nope.nope",
            "1 mistake",
        ),
        ("x.py", "def ksr_request_route(msg)\n    pass\n", "", "x.py:1: "),
    ],
)
def test_mistakes_of_scripts_are_named(check: Check, tmp_path: Path, name: str, text: str, out: str, err: str) -> None:
    (tmp_path / name).write_text(text)
    ran = check(name)
    assert ran.code == 2
    assert out in ran.out
    assert err in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            "[modules.tm]\nfr_timer = 0",
            "polykemi.toml:4: [modules.tm] fr_timer: expected milliseconds, 1 or more, got 0",
        ),
        ("[modules.dispatcher]\nlist_file = 'none'", "none: No such file or directory"),
        ("[modules.dispatcher]\nlist_file = 'list'\nds_load_mode = 1", "list: 'udp:192.0.2.77:1' is no listener"),
        ("[modules]\nload = ['registrar']", "[modules] load: registrar needs "),
        ("[tls]\nkey = 'x'", "polykemi.toml:4: [tls] key: expected a certificate beside it"),
    ],
)
def test_mistakes_of_the_configuration_are_named(check: Check, tmp_path: Path, more: str, says: str) -> None:
    (tmp_path / "list").write_text("1 sip:192.0.2.1 0 0 socket=udp:192.0.2.77:1\n")
    (tmp_path / "polykemi.toml").write_text(f"[engines]\nlua = 'route.lua'\n{more}\n")
    ran = check()
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err
    assert ran.err.count("\n") == 1


def test_a_smoke_message_that_is_none_is_told(check: Check, tmp_path: Path) -> None:
    (tmp_path / "smoke.sip").write_text("OPTIONS\n")
    (tmp_path / "polykemi.toml").write_text("[engines]\nlua = 'route.lua'\n[reload]\nsmoke = 'smoke.sip'\n")
    ran = check()
    assert ran.code == 2
    assert "smoke.sip: gets no answer and is sent nowhere: it is no SIP message (" in ran.err


def test_the_smoke_message_is_routed(check: Check, tmp_path: Path) -> None:
    (tmp_path / "smoke.sip").write_text(SMOKE)
    (tmp_path / "polykemi.toml").write_text("[engines]\nlua = 'route.lua'\n[reload]\nsmoke = 'smoke.sip'\n")
    assert check() == Ran(0, "in order\n", "")
    (tmp_path / "route.lua").write_text("function ksr_request_route()\n  local x = nil\n  x.y = 1\nend\n")
    ran = check()
    assert ran.code == 2
    assert "route.lua:3: " in ran.err
    (tmp_path / "route.lua").write_text("function ksr_request_route() end\n")
    assert "smoke.sip: gets no answer and is sent nowhere" in check().err


def test_what_is_provisioned_is_used_and_stays_as_it_is(check: Check, tmp_path: Path) -> None:
    data = tmp_path / "polykemi.data"
    with Database.at(data) as database:
        database.query(
            "INSERT INTO dialplan (dpid, pr, match_op, match_exp, match_len, subst_exp, repl_exp, attrs) VALUES (1, 1, 1, '(', 0, '', '', '')"
        )
    before = {one.name: (one.stat().st_mtime_ns, one.read_bytes()) for one in data.iterdir()}
    ran = check("route.lua")
    assert ran.code == 2
    assert "dialplan: table dialplan, row 1 by pr: " in ran.err
    assert {one.name: (one.stat().st_mtime_ns, one.read_bytes()) for one in data.iterdir()} == before


def test_a_server_that_runs_is_no_hindrance(check: Check, tmp_path: Path) -> None:
    data = tmp_path / "polykemi.data"
    with Database.at(data) as database:
        database.add_subscriber("alice", "example.test", "x")
        assert (data / f"{FILE_NAME}-wal").exists()
        assert check("route.lua").code == 0


def test_a_mistyped_logger_is_said(check: Check, tmp_path: Path) -> None:
    (tmp_path / "polykemi.toml").write_text('[engines]\nlua = "route.lua"\n[log]\nlevels = { disptcher = "debug" }\n')
    assert check() == Ran(0, "[log] levels: disptcher is unknown, did you mean dispatcher?\nin order\n", "")


def test_warnings_are_said_and_are_no_mistakes(check: Check, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("1 sip:192.0.2.1 0 0 socket=udp:192.0.2.77:1\n1 sip:192.0.2.1\n")
    (tmp_path / "polykemi.toml").write_text("[engines]\nlua = 'route.lua'\n[modules.dispatcher]\nlist_file = 'list'\n")
    ran = check()
    assert ran.code == 0
    assert "destination left out" in ran.out
    assert ran.out.endswith("in order\n")
