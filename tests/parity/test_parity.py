"""The three sample scripts behave the same: the same octets leave, and the same KSR calls are made with the same results."""

from __future__ import annotations

from pathlib import Path

import pytest

from polykemi.modules import MODULES
from polykemi.testing import ServerUnderTest
from tests.parity.scenario import Run, play

ROOT = Path(__file__).parents[2]
SCRIPTS = {"lua": "routes/lua/basic.lua", "js": "routes/js/basic.js", "python": "routes/py/basic.py"}
SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


def run(scenario: Path, engine: str) -> Run:
    """Play a scenario on one engine, with the same clock and randomness each time."""
    with ServerUnderTest({engine: ROOT / SCRIPTS[engine]}, domains=["example.test"]) as server:
        return play(scenario, server)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.stem)
def test_the_three_sample_scripts_send_the_same_octets_and_make_the_same_calls(scenario: Path) -> None:
    lua, js, python = (run(scenario, engine) for engine in SCRIPTS)
    assert lua.sent
    assert lua.calls
    for other in (js, python):
        assert other.sent == lua.sent
        assert other.calls == lua.calls


@pytest.mark.parametrize("engine", SCRIPTS)
@pytest.mark.parametrize("caller", ["carol@elsewhere.test", "alice@example.test"])
def test_without_the_auth_module_a_sample_script_is_no_open_relay_either(engine: str, caller: str) -> None:
    modules = [
        name for name, one in MODULES.items() if one.by_default and name not in ("auth", "auth_db", "auth_ephemeral")
    ]
    invite = (
        "INVITE sip:someone@elsewhere.test SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK1\r\n"
        f"Max-Forwards: 70\r\nFrom: <sip:{caller}>;tag=a\r\nTo: <sip:someone@elsewhere.test>\r\nCall-ID: c\r\n"
        "CSeq: 1 INVITE\r\nContact: <sip:a@192.0.2.10:5060>\r\nContent-Length: 0\r\n\r\n"
    )
    with ServerUnderTest({engine: ROOT / SCRIPTS[engine]}, domains=["example.test"], load=modules) as server:
        sent = server.receive(invite.encode(), "192.0.2.10:5060")
        assert [s.start_line for s in sent] == ["SIP/2.0 403 Not relaying"]
