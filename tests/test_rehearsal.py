"""The smoke message of a reload: whatever the script does with it, nothing outside of its own server changes."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

from polykemi import config
from polykemi.node import assemble
from polykemi.rehearsal import rehearse
from polykemi.sip.flow import Listener
from polykemi.storage.location import MemoryLocation
from polykemi.storage.provisioned import FILE_NAME, Database

SMOKE = (
    "OPTIONS sip:example.test SIP/2.0\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\nFrom: <sip:a@h>;tag=1\nTo: <sip:b@h>\n"
    "Call-ID: 1\nCSeq: 1 OPTIONS\nContent-Length: 0\n\n"
)
SCRIPT = """
function ksr_request_route()
  KSR.sqlops.sql_query("polykemi", "insert into domain (domain) values ('smoke.test')", "r")
  KSR.sqlops.sql_query("elsewhere", "create table smoke (a int)", "r")
  KSR.sqlops.sql_query("missing", "create table smoke (a int)", "r")
  KSR.corex.file_write("smoke", "text")
  KSR.kex.setdebug(3)
  KSR.jsonrpcs.exec('{"jsonrpc":"2.0","id":1,"method":"cfg.set","params":["limits","depth",3]}')
  KSR.jsonrpcs.exec('{"jsonrpc":"2.0","id":1,"method":"log.level","params":["debug"]}')
  KSR.sl.sl_send_reply(200, "OK")
end
"""
FILE = """
[engines]
lua = "route.lua"
[modules.sqlops]
sqlcon = ["elsewhere=>sqlite://{0}/elsewhere.sqlite", "missing=>sqlite://{0}/missing.sqlite"]
[modules.corex]
file_directory = "{0}/files"
"""


def files(directory: Path) -> dict[Path, bytes]:
    """Return what is in all files below, but SQLite's own that it keeps while a database is open."""
    found = (path for path in directory.rglob("*") if path.is_file() and not path.name.endswith(("-shm", "-wal")))
    return {path: path.read_bytes() for path in found}


def test_the_smoke_message_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for name, text in {"route.lua": SCRIPT, "smoke.sip": SMOKE, "polykemi.toml": FILE.format(tmp_path)}.items():
        (tmp_path / name).write_text(text)
    settings = config.load(tmp_path / "polykemi.toml")
    start = partial(
        assemble, settings, listeners=(Listener("udp", "192.0.2.1", 5060),), location=MemoryLocation(), now=0.0
    )
    start(database=Database(tmp_path / FILE_NAME), send=lambda items: None).close()
    (tmp_path / "missing.sqlite").unlink()
    before = files(tmp_path)
    level = logging.getLogger("polykemi").level
    make = partial(start, database=Database(tmp_path / FILE_NAME, query_only=True), rehearsal=True)
    try:
        assert rehearse(lambda send: make(send=send), tmp_path / "smoke.sip") == ("SIP/2.0 200 OK",)
        assert logging.getLogger("polykemi").level == level
    finally:
        logging.getLogger("polykemi").setLevel(level)
    assert settings.limits.depth == 16
    assert files(tmp_path) == before
