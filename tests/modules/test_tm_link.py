"""Calls through a whole server over a link that loses, doubles and reorders: both sides agree how each of them ended."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from tests.modules.tm_phones import Caller, Link

SEEDS = range(int(os.environ.get("POLYKEMI_STORIES", "3")))  # make stories plays more of them
CALLS = 40

SCRIPT = """
function ksr_request_route()
    if KSR.maxfwd.process_maxfwd(10) < 0 then KSR.sl.send_reply(483, "Too Many Hops") return end
    if KSR.is_CANCEL() then KSR.tm.t_relay() return end
    if KSR.siputils.has_totag() > 0 then
        if KSR.rr.loose_route() > 0 then KSR.tm.t_relay()
        elseif not KSR.is_ACK() then KSR.sl.send_reply(404, "Not Here") end
        return
    end
    KSR.rr.record_route()
    local user = KSR.pv.get("$rU")
    KSR.seturi("sip:phone@192.0.2.21")
    if user ~= "one" then KSR.corex.append_branch_uri("sip:phone@192.0.2.22") end
    if user == "three" then KSR.corex.append_branch_uri("sip:phone@192.0.2.23") end
    if user == "serial" then KSR.tm.t_on_failure("further") end
    if user == "busy" then KSR.tm.t_send_reply(486, "Busy Here") return end
    KSR.tm.t_on_reply("replied")
    KSR.tm.t_relay()
end
function replied() end
function further()
    if KSR.tm.t_is_canceled() > 0 then return end
    KSR.seturi("sip:phone@192.0.2.24")
    KSR.tm.t_relay()
end
"""


@pytest.mark.parametrize("loss", [0.0, 0.15])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_call_ends_alike_on_both_sides_and_nothing_is_left(tmp_path: Path, seed: int, loss: float) -> None:
    script = tmp_path / "script.lua"
    script.write_text(SCRIPT)
    link = Link(script, seed, loss=loss)
    with link.server:
        for number in range(CALLS):
            user = link.random.choice(["one", "two", "three", "serial", "busy"])
            link.after(link.random.uniform(0.0, 5.0), partial(Caller, link, user, number))
        link.run()
        tm = link.server.node.router.services.modules["tm"]
        assert len(tm.layer) == 0
        assert tm.active() == 0
        counters = link.server.node.router.services.counters
        assert "core.internal_errors" not in counters
        assert "core.script_errors" not in counters
    assert len(link.callers) == CALLS
    for caller in link.callers.values():
        callees = [c for c in link.callees.values() if c.invite.call_id == caller.call_id]
        assert caller.status, "a call without an end"
        assert len(caller.finals) <= 1
        assert all(caller.talks.values()), "a BYE without an answer"
        assert sorted(c.tag for c in callees if c.status == 200) == sorted(caller.talks), "a 200 that got lost"
        for callee in callees:
            if callee.status:
                assert callee.is_acked
            assert callee.has_bye == (callee.status == 200)
