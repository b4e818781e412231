"""The configuration read anew by a server that runs: what changes, what does not, and that a mistake changes nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from polykemi import config
from polykemi.errors import ConfigError, DataError, RpcError, ScriptLoadError
from polykemi.kemi.ids import Ids
from polykemi.node import Node, assemble
from polykemi.sip.flow import Flow, Listener
from polykemi.storage.location import MemoryLocation
from polykemi.storage.provisioned import Database
from tests.test_router import request

NOW = 1_800_000_000.0
LISTENER = Listener("udp", "192.0.2.1", 5060)
SCRIPT = """
function ksr_request_route()
  local ours = KSR.is_myself_ruri()
  KSR.rr.loose_route()
  KSR.sl.sl_send_reply(ours and 200 or 403, "OK")
end
"""
FILE = """
domains = ["example.test"]
[engines]
lua = "route.lua"
[modules.dispatcher]
list_file = "list"
[modules.permissions]
address_file = "addresses"
[modules.registrar]
default_expires = 600
[modules.tm]
fr_timer = 9000
"""


class Site:
    """A directory with a configuration, and the server that runs with it."""

    def __init__(self, directory: Path, text: str = FILE) -> None:
        self.file = directory / "polykemi.toml"
        self.directory = directory
        if text is FILE:
            self.write("route.lua", SCRIPT)
        self.write("polykemi.toml", text)
        self.write("list", "1 sip:192.0.2.3\n1 sip:192.0.2.4\n")
        self.write("addresses", "1 192.0.2.10\n")
        self.sent: list[bytes] = []
        self.database = Database()
        self.node: Node = assemble(
            config.load(self.file),
            listeners=(LISTENER,),
            location=MemoryLocation(),
            database=self.database,
            send=lambda items: self.sent.extend(data for data, _ in items),
            now=NOW,
            ids=Ids(),
        )
        self.modules: Any = self.node.modules

    def write(self, name: str, text: str) -> None:
        """Write a file of the site."""
        (self.directory / name).write_text(text)

    def edit(self, old: str, new: str) -> None:
        """Change the configuration."""
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new))

    def reload(self) -> Any:
        """Do as the command."""
        return self.node.rpc.commands["cfg.reload"].run([], NOW)

    def get(self, group: str, name: str) -> Any:
        """Return a variable."""
        return self.node.rpc.commands["cfg.get"].run([group, name], NOW)

    def status_of(self, domain: str, branch: str) -> str:
        """Return the status of the answer to a request to a domain."""
        data = request(Via=f"SIP/2.0/UDP h;branch=z9hG4bK{branch}", Route=f"<sip:{domain};lr>")
        data = data.replace(b"sip:b@example.test SIP/2.0", f"sip:b@{domain} SIP/2.0".encode())
        self.node.router.receive(data, Flow(LISTENER, "192.0.2.10", 5060), NOW)
        self.node.router.pump()
        return self.sent.pop().decode()[8:11]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    one = Site(tmp_path)
    loggers = [logging.getLogger(name) for name in ("polykemi", "polykemi.tm")]
    levels = [logger.level for logger in loggers]
    yield one
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    one.node.close()


def test_nothing_new_changes_nothing(site: Site) -> None:
    states = site.modules["dispatcher"].sets[1].destinations
    states[0].flags |= 1
    answer = site.reload()
    assert (answer["changed"], answer["needs restart"]) == ([], [])
    assert "dispatcher" not in answer["read anew"]
    assert site.modules["dispatcher"].sets[1].destinations[0] is states[0]  # what was found out about it stays


def test_parameters_that_can_change_do_and_others_need_a_restart(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.edit("default_expires = 600", "default_expires = 700\nuse_path = 1")
    site.edit("fr_timer = 9000", "")
    site.file.write_text(
        "listen = ['udp:192.0.2.1:5070']\n"
        + site.file.read_text()
        + "[dns]\nretr_no = 1\n[hep]\nserver = 'udp:192.0.2.9'\n"
    )
    answer = site.reload()
    assert sorted(answer["changed"]) == [
        "[dns] retr_no",
        "[modules.registrar] default_expires",
        "[modules.tm] fr_timer",
    ]
    assert sorted(answer["needs restart"]) == ["[hep]", "[modules.registrar] use_path", "listen"]
    assert "needs a restart: " in caplog.text
    assert site.modules["registrar"].params.default_expires == 700
    assert site.modules["registrar"].params.use_path == 0
    assert site.modules["tm"].layer.timings.fr == 30.0
    assert site.get("core", "dns_retr_no") == 1
    again = site.reload()
    assert again["changed"] == []
    assert sorted(again["needs restart"]) == ["[hep]", "[modules.registrar] use_path", "listen"]


def test_what_an_operator_has_set_goes_and_reset_leads_to_the_new_file(site: Site) -> None:
    commands = site.node.rpc.commands
    commands["cfg.set"].run(["registrar", "default_expires", "5"], NOW)
    site.edit("fr_timer = 9000", "fr_timer = 8000")
    assert sorted(site.reload()["changed"]) == ["[modules.registrar] default_expires", "[modules.tm] fr_timer"]
    assert site.get("registrar", "default_expires") == 600
    commands["cfg.set"].run(["tm", "fr_timer", "5"], NOW)
    commands["cfg.reset"].run(["tm"], NOW)
    assert site.get("tm", "fr_timer") == 8000


def test_domains_change_for_the_next_message(site: Site) -> None:
    assert [site.status_of(one, f"1{one}") for one in ("example.test", "other.test")] == ["200", "403"]
    site.edit('"example.test"', '"other.test"')
    assert site.reload()["changed"] == ["domains"]
    assert [site.status_of(one, f"2{one}") for one in ("example.test", "other.test")] == ["403", "200"]


def test_domains_of_the_configuration_and_of_the_database_come_together(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.node.close()
    site.write("polykemi.toml", FILE + "[modules.domain]\nregister_myself = 1\n")
    site.database = Database()
    site.database.query("INSERT INTO domain (domain) VALUES ('entered.test')")
    site.node = assemble(
        config.load(site.file),
        listeners=(LISTENER,),
        location=MemoryLocation(),
        database=site.database,
        send=lambda items: None,
        now=NOW,
    )
    assert site.node.services.domains == {"example.test", "entered.test"}
    site.edit('"example.test"', '"other.test"')
    site.database.query("INSERT INTO domain (domain) VALUES ('more.test')")
    assert "domain" in site.reload()["read anew"]
    assert site.node.services.domains == {"other.test", "entered.test", "more.test"}
    site.node.close()


def test_lists_and_tables_are_read_anew(site: Site) -> None:
    site.write("list", "1 sip:192.0.2.5\n2 sip:192.0.2.6\n")
    site.write("addresses", "1 192.0.2.99\n")
    site.database.query(
        "INSERT INTO dialplan (dpid, pr, match_op, match_exp, match_len, subst_exp, repl_exp, attrs) VALUES (7, 1, 0, 'x', 0, '', '', '')"
    )
    answer = site.reload()
    assert {"dispatcher", "permissions", "dialplan"} <= set(answer["read anew"])
    assert [d.uri for d in site.modules["dispatcher"].sets[2].destinations] == ["sip:192.0.2.6"]
    assert 7 in site.modules["dialplan"]._plans


def test_the_log_level_changes(site: Site) -> None:
    site.file.write_text(site.file.read_text() + '[log]\nlevel = "error"\n')
    assert site.reload()["changed"] == ["[log] level"]
    assert logging.getLogger("polykemi").level == logging.ERROR
    site.file.write_text(site.file.read_text() + 'format = "json"\nlevels = { tm = "debug" }\n')
    answer = site.reload()
    assert (answer["changed"], answer["needs restart"]) == (["[log] levels"], ["[log] format"])
    assert logging.getLogger("polykemi.tm").level == logging.DEBUG
    assert site.reload()["needs restart"] == ["[log] format"]
    site.edit("levels = { tm", "# levels = { tm")
    assert site.reload()["changed"] == ["[log] levels"]
    site.edit('format = "json"', "")
    assert site.reload()["needs restart"] == []
    assert logging.getLogger("polykemi.tm").level == logging.NOTSET


def test_a_logger_that_there_is_not_is_told_of(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.file.write_text(site.file.read_text() + '[log]\nlevels = { dilog = "debug", dialog = "info" }\n')
    assert site.reload()["changed"] == ["[log] levels"]
    assert "[log] levels: dilog is unknown, did you mean dialog?" in caplog.messages
    assert len([text for text in caplog.messages if "[log] levels" in text]) == 1
    site.edit("levels = {", "# levels = {")
    assert site.reload()["changed"] == ["[log] levels"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "fr_timer = 9000",
            "fr_timer = 0",
            "polykemi.toml:12: [modules.tm] fr_timer: expected milliseconds, 1 or more, got 0",
        ),
        ("fr_timer = 9000", 'fr_timer = "x"', 'polykemi.toml:12: [modules.tm] fr_timer: expected an integer, got "x"'),
        (
            "[modules.registrar]",
            "[modules.registar]",
            "polykemi.toml:9: [modules.registar]: unknown, did you mean registrar?",
        ),
        ('domains = ["example.test"]', 'domains = ["exa mple"]', "expected a host name or an IP address"),
        ("default_expires = 600", "default_expires = = 600", "polykemi.toml:10:"),
    ],
)
def test_a_mistake_changes_nothing(site: Site, old: str, new: str, message: str) -> None:
    site.write("list", "1 sip:192.0.2.5\n")
    site.edit("default_expires = 600", "default_expires = 1")
    site.edit(old.replace("600", "1"), new)
    with pytest.raises(RpcError) as error:
        site.reload()
    assert message in str(error.value)
    assert site.get("registrar", "default_expires") == 600
    assert len(site.modules["dispatcher"].sets[1].destinations) == 2


def test_a_list_with_a_mistake_changes_nothing_either(site: Site) -> None:
    site.edit("default_expires = 600", "default_expires = 1")
    site.write("addresses", "nonsense\n")
    site.write("list", "1 sip:192.0.2.5\n")
    with pytest.raises(DataError, match="addresses:1: expected group address"):
        site.node.reconfiguration.apply(NOW)
    assert site.get("registrar", "default_expires") == 600
    assert len(site.modules["dispatcher"].sets[1].destinations) == 2


def test_the_command_line_is_laid_over_the_file_again(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.node.close()
    settings = config.load(site.file, domains=["given.test"], listen=iter(["udp:192.0.2.1:5080"]))
    site.write("polykemi.toml", FILE.replace("example", "other"))
    assert settings.again is not None
    again = settings.again()
    assert (again.domains, again.listen) == (("given.test",), settings.listen)


def test_a_server_without_a_configuration_says_so(site: Site) -> None:
    site.node.reconfiguration.settings = config.Settings()
    with pytest.raises(ConfigError, match="without a configuration"):
        site.node.reconfiguration.apply(NOW)


def test_hash_tables_are_read_anew_when_their_rows_have_changed(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.node.close()
    tables = '["a=>dbtable=htable;", "b=>dbtable=htable;dbmode=1;"]'
    site.write("polykemi.toml", FILE + f"[modules.htable]\nhtable = {tables}\n")
    site.database = Database()
    columns = "(key_name, key_type, value_type, key_value)"
    site.database.query(f"INSERT INTO htable {columns} VALUES ('k', 0, 0, 'one')")
    node = assemble(
        config.load(site.file),
        listeners=(LISTENER,),
        location=MemoryLocation(),
        database=site.database,
        send=lambda items: None,
        now=NOW,
    )
    table: Any = node.modules["htable"]
    kept, stored = table.tables["a"], table.tables["b"]
    kept.set("counted", 5, NOW)
    assert "htable" not in node.reconfiguration.apply(NOW).read_anew
    assert kept.get("counted", NOW) == 5
    site.database.query("UPDATE htable SET key_value = 'two'")
    assert "htable" in node.reconfiguration.apply(NOW).read_anew
    assert (kept.get("k", NOW), kept.get("counted", NOW)) == ("two", None)
    assert stored.get("k", NOW) == "one"  # what is stored at the end is newer here
    node.close()


ENDLESS = {
    "lua": "function ksr_request_route() while true do end end",
    "js": "function ksr_request_route() { for (;;) {} }",
    "python": "def ksr_request_route():\n    while True:\n        pass\n",
}


@pytest.fixture(params=["lua", "js", "python"])
def endless(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A site whose script does not end, and may run for a minute."""
    name = {"lua": "route.lua", "js": "route.js", "python": "route.py"}[request.param]
    (tmp_path / name).write_text(ENDLESS[request.param])
    one = Site(tmp_path, f"[engines.{request.param}]\nscript = '{name}'\ntimeout = 60.0\n")
    yield one
    one.node.close()


def test_the_time_of_a_route_block_changes_at_once(endless: Site, caplog: pytest.LogCaptureFixture) -> None:
    endless.edit("timeout = 60.0", "timeout = 0.05")
    answer = endless.reload()
    engine = endless.node.reconfiguration.settings.engines[0].name
    assert (answer["changed"], answer["needs restart"]) == ([f"[engines.{engine}] timeout"], [])
    began = time.monotonic()
    assert endless.status_of("example.test", "z9hG4bK1") == "500"
    assert time.monotonic() - began < 20
    assert "time limit reached" in caplog.text


def test_memory_and_what_a_script_may_reach_come_with_the_next_version(tmp_path: Path) -> None:
    (tmp_path / "route.lua").write_text(
        'local held = string.rep("x", 3000000)\nfunction ksr_request_route()\n'
        '  KSR.sl.sl_send_reply(200, os and os.getenv and "reached " .. #held or "not there")\nend\n'
    )
    site = Site(tmp_path, "[engines.lua]\nscript = 'route.lua'\n")
    with closing(site.node):
        site.edit("script = 'route.lua'", "script = 'route.lua'\nmax_memory = '2M'\nallow = ['os']")
        assert sorted(site.reload()["changed"]) == ["[engines.lua] allow", "[engines.lua] max_memory"]
        assert site.status_of("example.test", "z9hG4bK1") == "200"
        with pytest.raises(ScriptLoadError, match="memory limit reached"):
            site.node.versions.reload(NOW)
        site.edit("2M", "20M")
        site.reload()
        site.node.versions.reload(NOW)
        site.node.router.receive(request(Via="SIP/2.0/UDP h;branch=z9hG4bK2"), Flow(LISTENER, "192.0.2.10", 5060), NOW)
        site.node.router.pump()
        assert site.sent.pop().startswith(b"SIP/2.0 200 reached 3000000")


def test_which_engine_runs_a_block_comes_with_the_next_version_and_goes_with_a_rollback(tmp_path: Path) -> None:
    (tmp_path / "route.lua").write_text("function ksr_request_route() KSR.sl.sl_send_reply(200, 'OK') end")
    (tmp_path / "route.py").write_text("import KSR\ndef ksr_request_route():\n    KSR.sl.sl_send_reply(202, 'OK')\n")
    site = Site(tmp_path, "[engines]\nlua = 'route.lua'\npython = 'route.py'\n[routes]\ndefault = 'lua'\n")
    with closing(site.node):
        assert site.status_of("example.test", "z9hG4bK1") == "200"
        site.edit("default = 'lua'", "default = 'lua'\nrequest_route = 'python'")
        answer = site.reload()
        assert (answer["changed"], answer["needs restart"]) == (["[routes]"], [])
        assert site.status_of("example.test", "z9hG4bK2") == "200"
        site.node.versions.reload(NOW)
        assert site.status_of("example.test", "z9hG4bK3") == "202"
        site.node.versions.rollback()
        assert site.status_of("example.test", "z9hG4bK4") == "200"
        blocks = {(one.engine, one.cnt) for one in site.node.router.stats}
        assert blocks == {("lua", 3), ("python", 1)}


def test_an_engine_more_needs_a_restart_and_so_do_the_blocks_it_is_to_run(site: Site) -> None:
    site.write("route.py", "def ksr_request_route():\n    pass\n")
    site.edit('lua = "route.lua"', 'lua = "route.lua"\npython = "route.py"\n[routes]\ndefault = "python"')
    answer = site.reload()
    assert (answer["changed"], answer["needs restart"]) == ([], ["[engines]", "[routes]"])
    site.node.versions.reload(NOW)
    assert site.status_of("example.test", "z9hG4bK1") == "200"
