"""A reload: the new version takes over between two messages, what has begun goes on in the one that it began with."""

from __future__ import annotations

import gc
import logging
import os
import re
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from lupa.luajit21 import LuaRuntime

from polykemi.config import RouteSettings
from polykemi.engines import js_isolate
from polykemi.errors import ScriptLoadError
from polykemi.kemi.route import Route
from polykemi.reload import MOST, NoVersion
from polykemi.testing import Sent, ServerUnderTest

CALLER, CALLEE = "192.0.2.10:5060", "192.0.2.20:5060"
SUFFIXES = {"lua": "lua", "js": "js", "python": "py"}

# every block tells its version in a header of what leaves
SCRIPTS = {
    "lua": """
function ksr_request_route()
  KSR.hdr.append_to_reply("X-Version: @\\r\\n")
  if KSR.is_method_in("OM") then KSR.sl.send_reply(200, "OK @") return end
  if KSR.is_CANCEL() then
    KSR.info("cancel in @\\n")
    KSR.tm.t_relay()
    return
  end
  KSR.hdr.append("X-Request: @\\r\\n")
  if KSR.pv.is_null("$tt") == false and KSR.rr.loose_route() > 0 then KSR.tm.t_relay() return end
  KSR.dialog.dlg_manage()
  KSR.rr.record_route()
  KSR.tm.t_on_failure("on_failure")
  KSR.tm.t_relay()
end
function on_failure() KSR.tm.t_reply(480, "failed in @") end
function ksr_reply_route() KSR.hdr.append("X-Reply: @\\r\\n") end
""",
    "js": """
function ksr_request_route() {
  KSR.hdr.append_to_reply("X-Version: @\\r\\n");
  if (KSR.is_method_in("OM")) { KSR.sl.send_reply(200, "OK @"); return; }
  if (KSR.is_CANCEL()) { KSR.info("cancel in @\\n"); KSR.tm.t_relay(); return; }
  KSR.hdr.append("X-Request: @\\r\\n");
  if (!KSR.pv.is_null("$tt") && KSR.rr.loose_route() > 0) { KSR.tm.t_relay(); return; }
  KSR.dialog.dlg_manage();
  KSR.rr.record_route();
  KSR.tm.t_on_failure("on_failure");
  KSR.tm.t_relay();
}
function on_failure() { KSR.tm.t_reply(480, "failed in @"); }
function ksr_reply_route() { KSR.hdr.append("X-Reply: @\\r\\n"); }
""",
    "python": """
import KSR

def ksr_request_route():
    KSR.hdr.append_to_reply("X-Version: @\\r\\n")
    if KSR.is_method_in("OM"):
        KSR.sl.send_reply(200, "OK @")
        return
    if KSR.is_CANCEL():
        KSR.info("cancel in @\\n")
        KSR.tm.t_relay()
        return
    KSR.hdr.append("X-Request: @\\r\\n")
    if not KSR.pv.is_null("$tt") and KSR.rr.loose_route() > 0:
        KSR.tm.t_relay()
        return
    KSR.dialog.dlg_manage()
    KSR.rr.record_route()
    KSR.tm.t_on_failure("on_failure")
    KSR.tm.t_relay()

def on_failure():
    KSR.tm.t_reply(480, "failed in @")

def ksr_reply_route():
    KSR.hdr.append("X-Reply: @\\r\\n")
""",
}
BROKEN = {"lua": "function ksr_request_route(", "js": "function ksr_request_route(", "python": "def ksr_request_route("}
ENDLESS = {"lua": "while true do end", "js": "for (;;) {}", "python": "while True: pass"}
MISTYPED = {
    "lua": '\nfunction never() KSR.sl.sen_reply(200, "OK") end\n',
    "js": '\nfunction never() { KSR.sl.sen_reply(200, "OK"); }\n',
    "python": '\ndef never():\n    KSR.sl.sen_reply(200, "OK")\n',
}
NO_HANDLER = {
    "lua": '\nfunction never() KSR.tm.t_on_failure("nowhere") end\n',
    "js": '\nfunction never() { KSR.tm.t_on_failure("nowhere"); }\n',
    "python": '\ndef never():\n    KSR.tm.t_on_failure("nowhere")\n',
}


class Lab:
    """A server with one script, whose versions are called by letters."""

    def __init__(self, engine: str, directory: Path, seconds: float = 10.0, *, dialogs_last: int = 43_200) -> None:
        self.engine = engine
        self.tracks = True  # the dialogs of calls
        directory.mkdir(exist_ok=True)
        self.path = directory / f"route.{SUFFIXES[engine]}"
        self.write("A")
        modules = {"dialog": {"default_timeout": dialogs_last}}
        self.server = ServerUnderTest({engine: self.path}, modules=modules, seconds=seconds)

    def write(self, letter: str, more: str = "") -> None:
        """Write version ``letter`` of the script."""
        text = SCRIPTS[self.engine].replace("@", letter)
        self.path.write_text((text if self.tracks else text.replace("dialog.dlg_manage", "is_INVITE")) + more)

    def reload(self, letter: str, **options: bool) -> None:
        """Let version ``letter`` take over."""
        self.write(letter)
        self.server.reload(**options)

    def send(self, method: str, call: str = "c", *, more: str = "", to: str = "", cseq: int = 1) -> list[Sent]:
        """Let a request come from the caller; a CANCEL has the branch of its INVITE."""
        branch = "INVITE" if method == "CANCEL" else method
        return self.server.receive(
            f"{method} sip:b@{CALLEE} SIP/2.0\r\nVia: SIP/2.0/UDP {CALLER};branch=z9hG4bK{call}{branch}{cseq}\r\n"
            f"From: <sip:a@example.test>;tag=a\r\nTo: <sip:b@example.test>{to}\r\nCall-ID: {call}\r\n"
            f"CSeq: {cseq} {method}\r\nContact: <sip:a@{CALLER}>\r\nMax-Forwards: 70\r\n{more}Content-Length: 0\r\n\r\n".encode(),
            CALLER,
        )

    def answer(self, request: Sent, status: str) -> list[Sent]:
        """Let the callee answer what was sent to it."""
        kept = [
            line
            for line in request.data.decode().split("\r\n")
            if line.startswith(("Via:", "From:", "Call-ID:", "CSeq:", "Record-Route:"))
        ]
        to = "To: <sip:b@example.test>;tag=b"
        lines = [f"SIP/2.0 {status}", *kept, to, f"Contact: <sip:b@{CALLEE}>", "Content-Length: 0", "", ""]
        return self.server.receive("\r\n".join(lines).encode(), CALLEE)

    def version(self) -> str:
        """Return the letter of the version that routes an OPTIONS."""
        (sent,) = self.send("OPTIONS")
        return sent.start_line.removeprefix("SIP/2.0 200 OK ")

    def versions(self) -> list[tuple[int, str]]:
        """Return number and state of each version."""
        self.server.node.versions.sweep()
        return [(row["version"], row["state"]) for row in self.server.node.versions.rows()]


def header(sent: Sent, name: str) -> list[str]:
    """Return the values of a header."""
    lines = sent.data.decode().split("\r\n")
    return [line.removeprefix(f"{name}: ") for line in lines if line.startswith(f"{name}: ")]


def to_callee(sent: list[Sent]) -> Sent:
    """Return what goes to the callee."""
    return next(one for one in sent if one.to == CALLEE)


def to_caller(sent: list[Sent]) -> Sent:
    """Return what goes to the caller, but no 100."""
    return next(one for one in sent if one.to == CALLER and " 100 " not in one.start_line)


@pytest.fixture(params=list(SUFFIXES))
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    """A server with the script in one of the three languages."""
    made = Lab(request.param, tmp_path)
    with made.server:
        yield made


def test_the_new_version_takes_over_between_two_messages(lab: Lab) -> None:
    assert lab.version() == "A"
    lab.reload("B")
    assert lab.version() == "B"


def test_a_broken_one_does_not_get_in(lab: Lab) -> None:
    lab.path.write_text(BROKEN[lab.engine])
    with pytest.raises(ScriptLoadError, match=rf"{lab.path}:\d+: "):
        lab.server.reload()
    assert lab.version() == "A"
    assert lab.server.node.services.counters["app.failed_reloads"] == 1
    lab.reload("B")
    assert lab.version() == "B"


@pytest.mark.parametrize("engine", SUFFIXES)
def test_one_that_loads_for_ever_holds_up_the_server_for_a_second(engine: str, tmp_path: Path) -> None:
    lab = Lab(engine, tmp_path, seconds=1.0)
    with lab.server:
        lab.path.write_text(ENDLESS[engine])
        began = time.process_time()
        with pytest.raises(ScriptLoadError, match="time limit reached"):
            lab.server.reload()
        assert time.process_time() - began < 5  # at the start it has ten
        assert lab.version() == "A"


@pytest.mark.parametrize("engine", ["lua", "python"])
def test_one_that_ends_itself_while_it_loads_does_not_get_in(engine: str, tmp_path: Path) -> None:
    with (lab := Lab(engine, tmp_path)).server:
        lab.write("B", {"lua": "\nos.exit(3)", "python": "\nimport sys\nsys.exit(3)"}[engine])
        with pytest.raises(ScriptLoadError, match=rf"{lab.path}:\d+: ended itself while it was loading"):
            lab.server.reload()
        assert lab.version() == "A"


def test_a_pipe_in_the_place_of_a_script_holds_up_nothing(lab: Lab) -> None:
    lab.path.unlink()
    os.mkfifo(lab.path)
    with pytest.raises(ScriptLoadError, match="is no file"):
        lab.server.reload()
    assert lab.version() == "A"


def test_a_python_script_that_would_be_compiled_for_long_does_not_get_in(tmp_path: Path) -> None:
    with (lab := Lab("python", tmp_path)).server:
        lab.write("B", "\nx = 1" * 300_000)
        with pytest.raises(ScriptLoadError, match=r"has 18\d+ octets, more than 524288"):
            lab.server.reload()
        assert lab.version() == "A"


def test_one_without_a_request_route_does_not_get_in(lab: Lab) -> None:
    lab.path.write_text("")
    with pytest.raises(ScriptLoadError, match="defines no function ksr_request_route"):
        lab.server.reload()
    assert lab.version() == "A"


@pytest.mark.parametrize(
    ("texts", "cause"),
    [
        (MISTYPED, "there is no function KSR.sl.sen_reply, did you mean KSR.sl.send_reply?"),
        (NO_HANDLER, "KSR.tm.t_on_failure: the script defines no function nowhere"),
    ],
)
def test_calls_of_what_is_not_there_do_not_get_in_unless_forced_and_are_known_then(
    lab: Lab, texts: dict[str, str], cause: str
) -> None:
    lab.write("B", texts[lab.engine])
    with pytest.raises(ScriptLoadError, match=rf"{lab.path}:\d+: {re.escape(cause)}"):
        lab.server.reload()
    assert lab.version() == "A"
    (finding,) = lab.server.reload(force=True).findings
    assert re.fullmatch(rf"{lab.path}:\d+: {re.escape(cause)}", finding)
    assert lab.version() == "B"
    lab.write("C", texts[lab.engine])
    lab.server.reload()
    assert lab.version() == "C"


def test_how_many_mistakes_there_are_is_told(lab: Lab) -> None:
    lab.write("B", MISTYPED[lab.engine] + NO_HANDLER[lab.engine])
    with pytest.raises(ScriptLoadError, match=r"send_reply\? \(and 1 more: polykemi check\)$"):
        lab.server.reload()


def test_a_dry_run_changes_nothing(lab: Lab) -> None:
    lab.reload("B", dry_run=True)
    assert lab.version() == "A"
    lab.path.write_text(BROKEN[lab.engine])
    with pytest.raises(ScriptLoadError):
        lab.server.reload(dry_run=True)
    assert "app.failed_reloads" not in lab.server.node.services.counters
    assert lab.versions() == [(1, "current")]


def test_a_transaction_ends_in_the_version_that_it_began_with(lab: Lab) -> None:
    invite = to_callee(lab.send("INVITE"))
    lab.reload("B")
    other = to_callee(lab.send("INVITE", "other"))
    assert [header(one, "X-Request") for one in (invite, other)] == [["A"], ["B"]]
    ringing = to_caller(lab.answer(invite, "180 Ringing"))
    assert header(ringing, "X-Reply") == ["A"]
    assert to_caller(lab.answer(invite, "486 Busy Here")).start_line == "SIP/2.0 480 failed in A"
    assert to_caller(lab.answer(other, "486 Busy Here")).start_line == "SIP/2.0 480 failed in B"


def test_a_2xx_that_comes_again_runs_in_the_version_of_its_invite(lab: Lab) -> None:
    invite = to_callee(lab.send("INVITE"))
    lab.answer(invite, "200 OK")
    lab.reload("B")
    for _ in range(2):
        assert header(to_caller(lab.answer(invite, "200 OK")), "X-Reply") == ["A"]


def test_a_cancel_runs_in_the_version_of_its_invite(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    invite = to_callee(lab.send("INVITE"))
    lab.answer(invite, "180 Ringing")
    lab.reload("B")
    sent = lab.send("CANCEL")
    assert "CANCEL" in to_callee(sent).start_line
    assert "cancel in A" in caplog.text


def answered_call(lab: Lab) -> tuple[Sent, str]:
    """Let a call be set up; return its INVITE to the callee, and the Route of its other requests."""
    invite = to_callee(lab.send("INVITE"))
    lab.answer(invite, "200 OK")
    more = f"Route: {header(invite, 'Record-Route')[0]}\r\n"
    lab.send("ACK", more=more, to=";tag=b")
    return invite, more


def test_a_dialog_keeps_its_version_until_it_ends(lab: Lab) -> None:
    _, more = answered_call(lab)
    lab.reload("B")
    assert lab.versions() == [(1, "kept"), (2, "current")]
    assert lab.server.node.versions.rows()[0]["dialogs"] == 1
    reinvite = to_callee(lab.send("INVITE", more=more, to=";tag=b", cseq=2))
    assert header(reinvite, "X-Request") == ["A"]
    lab.answer(reinvite, "200 OK")
    lab.send("ACK", more=more, to=";tag=b", cseq=2)
    bye = to_callee(lab.send("BYE", more=more, to=";tag=b", cseq=3))
    assert header(bye, "X-Request") == ["A"]
    assert lab.answer(bye, "200 OK")
    assert header(to_callee(lab.send("INVITE", "new")), "X-Request") == ["B"]


def test_a_call_whose_dialog_times_out_holds_its_version_no_longer(tmp_path: Path) -> None:
    lab = Lab("lua", tmp_path, dialogs_last=60)
    with lab.server:
        answered_call(lab)
        for letter in "BCDEFG":
            lab.reload(letter)
        lab.server.advance(50)
        assert lab.versions()[0] == (1, "ending")
        lab.server.advance(20)
        assert lab.versions()[0] == (3, "kept")


def begun_call(lab: Lab) -> str:
    """Let a call be answered in version A, and B take over; return the Route of its requests."""
    lab.tracks = False
    lab.reload("A")
    _, more = answered_call(lab)
    lab.reload("B")
    return more


def test_a_call_whose_dialog_is_not_tracked_keeps_its_version_until_its_bye_is_answered(lab: Lab) -> None:
    more = begun_call(lab)
    for letter in "CDEFG":
        lab.reload(letter)
    assert (lab.versions()[0], lab.server.node.versions.rows()[0]["calls"]) == ((2, "ending"), 1)
    challenged = to_callee(lab.send("BYE", more=more, to=";tag=b", cseq=2))
    assert header(challenged, "X-Request") == ["A"]
    lab.answer(challenged, "407 Proxy Authentication Required")
    bye = to_callee(lab.send("BYE", more=more, to=";tag=b", cseq=3))
    assert header(bye, "X-Request") == ["A"]
    lab.answer(bye, "200 OK")
    assert header(to_callee(lab.send("INFO", more=more, to=";tag=b", cseq=4)), "X-Request") == ["G"]
    lab.server.advance(60)
    assert lab.versions()[0] == (4, "kept")


def test_a_2xx_that_comes_again_after_the_bye_begins_no_call(lab: Lab) -> None:
    lab.tracks = False
    lab.reload("A")
    invite, more = answered_call(lab)
    lab.answer(to_callee(lab.send("BYE", more=more, to=";tag=b", cseq=2)), "200 OK")
    assert to_caller(lab.answer(invite, "200 OK")).start_line == "SIP/2.0 200 OK"
    assert lab.server.node.versions.rows()[-1]["calls"] == 0


def test_a_call_that_is_answered_when_it_was_given_up_keeps_its_version(lab: Lab) -> None:
    lab.tracks = False
    lab.reload("A")
    invite = to_callee(lab.send("INVITE"))
    lab.answer(invite, "180 Ringing")
    assert "SIP/2.0 480 failed in A" in [sent.start_line for sent in lab.server.advance(125)]
    assert to_caller(lab.answer(invite, "200 OK")).start_line == "SIP/2.0 200 OK"
    assert lab.server.node.versions.rows()[-1]["calls"] == 1


def test_a_call_ends_with_a_bye_that_nobody_answers(lab: Lab) -> None:
    more = begun_call(lab)
    bye = to_callee(lab.send("BYE", more=more, to=";tag=b", cseq=2))
    assert header(bye, "X-Request") == ["A"]
    assert lab.server.node.versions.rows()[1]["calls"] == 1
    assert "SIP/2.0 408 Request Timeout" in [sent.start_line for sent in lab.server.advance(40)]
    assert lab.server.node.versions.rows()[1]["calls"] == 0


def test_a_call_whose_bye_never_comes_holds_its_version_for_half_a_day(lab: Lab) -> None:
    more = begun_call(lab)
    router = lab.server.node.router
    router.beat(0.0, 0, 0, lab.server.now + 43_100)
    assert header(to_callee(lab.send("INFO", more=more, to=";tag=b", cseq=2)), "X-Request") == ["A"]
    router.beat(0.0, 0, 0, lab.server.now + 43_300)
    assert header(to_callee(lab.send("INFO", more=more, to=";tag=b", cseq=3)), "X-Request") == ["B"]


def test_a_version_ends_with_its_last_call(lab: Lab) -> None:
    invite = to_callee(lab.send("INVITE"))
    lab.answer(invite, "180 Ringing")
    for letter in "BCDEFG":
        lab.reload(letter)
    assert lab.versions() == [(1, "ending"), (3, "kept"), (4, "kept"), (5, "kept"), (6, "kept"), (7, "current")]
    old = next(iter(lab.server.node.versions.alive()))
    scripts: Any = list(old.scripts.values())
    del old
    assert to_caller(lab.answer(invite, "486 Busy Here")).start_line == "SIP/2.0 480 failed in A"
    assert scripts[0].has("ksr_request_route")
    lab.server.advance(60)
    assert lab.versions()[0] == (3, "kept")
    assert not scripts[0].has("ksr_request_route")  # closed


def test_an_error_does_not_keep_the_version_that_it_happened_in(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    fails = {
        "lua": "function ksr_request_route() KSR.pv.get('$ru').x.y() end",
        "js": "function ksr_request_route() { null.x; }",
        "python": "import KSR\ndef ksr_request_route():\n    None.x()\n",
    }
    caplog.set_level(logging.CRITICAL, "polykemi.router")  # pytest's records keep what they tell of
    lab.path.write_text(fails[lab.engine])
    lab.server.reload()
    (failed,) = lab.send("OPTIONS")
    assert failed.start_line == "SIP/2.0 500 Server Internal Error"
    for letter in "CDEFG":
        lab.reload(letter)
    lab.send("OPTIONS", "other")
    assert [number for number, _ in lab.versions()] == [3, 4, 5, 6, 7]


def test_rollback_goes_to_the_version_before_or_to_one_by_number(lab: Lab) -> None:
    versions = lab.server.node.versions
    with pytest.raises(NoVersion, match="there is no earlier version"):
        versions.rollback()
    for letter in "BCDEFG":
        lab.reload(letter)
    assert versions.rollback() == 6
    assert lab.version() == "F"
    assert versions.rollback(3) == 3
    assert lab.version() == "C"
    with pytest.raises(NoVersion, match="no version 1; kept: 3, 4, 5, 6, 7"):
        versions.rollback(1)
    with pytest.raises(NoVersion, match="version 3 is the current one"):
        versions.rollback(3)
    lab.reload("H")
    assert lab.version() == "H"
    assert versions.current == 8


def test_the_calls_of_the_oldest_of_too_many_versions_go_on_with_the_current_one(lab: Lab) -> None:
    held = [to_callee(lab.send("INVITE", "c0"))]
    for i in range(1, MOST + 1):
        lab.reload(f"v{i}.")
        held.append(to_callee(lab.send("INVITE", f"c{i}")))
    assert len(lab.versions()) == MOST
    assert to_caller(lab.answer(held[0], "486 Busy Here")).start_line == f"SIP/2.0 480 failed in v{MOST}."
    assert to_caller(lab.answer(held[1], "486 Busy Here")).start_line == "SIP/2.0 480 failed in v1."


def test_they_go_on_with_a_later_one_when_that_has_become_the_oldest(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polykemi.reload.MOST", 2)
    held = [to_callee(lab.send("INVITE", "c0"))]
    for i in range(1, 6):
        lab.reload(f"v{i}.")
        held.append(to_callee(lab.send("INVITE", f"c{i}")))
    assert [row["version"] for row in lab.server.node.versions.rows()] == [5, 6]
    answers = [to_caller(lab.answer(invite, "486 Busy Here")).start_line for invite in held[:4]]
    assert answers == [f"SIP/2.0 480 failed in {letter}." for letter in ("v4", "v5", "v4", "v5")]


def test_what_scripts_share_outlives_a_reload(lab: Lab) -> None:
    count = {
        "lua": "function ksr_request_route() KSR.sl.send_reply(200, 'OK ' .. KSR.x.shared_inc('n', 1)) end",
        "js": "function ksr_request_route() { KSR.sl.send_reply(200, 'OK ' + KSR.x.shared_inc('n', 1)); }",
        "python": "import KSR\ndef ksr_request_route():\n    KSR.sl.send_reply(200, f'OK {KSR.x.shared_inc(\"n\", 1)}')\n",
    }
    lab.path.write_text(count[lab.engine])
    lab.server.reload()
    assert lab.version() == "1"
    lab.server.reload()
    assert lab.version() == "2"


def test_a_python_version_has_modules_of_its_own_also_those_it_imports_late(tmp_path: Path) -> None:
    helper, script = tmp_path / "late_helper.py", tmp_path / "route.py"
    helper.write_text("letter = 'A'\n")
    script.write_text(
        "import KSR\ndef ksr_request_route():\n    KSR.tm.t_on_failure('failed')\n    KSR.tm.t_relay()\n"
        "def failed():\n    import late_helper\n    KSR.tm.t_reply(480, late_helper.letter)\n"
    )
    lab = Lab("lua", tmp_path)
    lab.server.close()
    lab.server = ServerUnderTest({"python": script})
    with lab.server:
        first, second = to_callee(lab.send("INVITE", "1")), to_callee(lab.send("INVITE", "2"))
        assert to_caller(lab.answer(first, "486 Busy Here")).start_line == "SIP/2.0 480 A"
        helper.write_text("letter = 'BB'\n")
        lab.server.reload()
        third = to_callee(lab.send("INVITE", "3"))
        assert to_caller(lab.answer(third, "486 Busy Here")).start_line == "SIP/2.0 480 BB"
        assert to_caller(lab.answer(second, "486 Busy Here")).start_line == "SIP/2.0 480 A"


@pytest.mark.parametrize("other", ["js", "python"])
def test_all_languages_change_together_or_none(tmp_path: Path, other: str) -> None:
    replies = {
        "js": "function ksr_branch() { KSR.hdr.append('X-Branch: @\\r\\n'); }",
        "python": "import KSR\ndef ksr_branch():\n    KSR.hdr.append('X-Branch: @\\r\\n')\n",
    }
    lua, second = tmp_path / "route.lua", tmp_path / f"route.{SUFFIXES[other]}"
    request_route = "KSR.hdr.append('X-Request: @\\r\\n') KSR.tm.t_on_branch('ksr_branch') KSR.tm.t_relay()"

    def write(letter: str) -> None:
        lua.write_text(f"function ksr_request_route() {request_route} end".replace("@", letter))
        second.write_text(replies[other].replace("@", letter))

    write("A")
    lab = Lab("lua", tmp_path / "unused")
    routes = RouteSettings("lua", by_kind={Route.BRANCH: other})
    lab.server.close()
    lab.server = ServerUnderTest({"lua": lua, other: second}, routes=routes)
    with lab.server:
        write("B")
        second.write_text(BROKEN[other])
        with pytest.raises(ScriptLoadError, match=str(second)):
            lab.server.reload()
        sent = to_callee(lab.send("INVITE", "1"))
        assert header(sent, "X-Request") == header(sent, "X-Branch") == ["A"]
        write("B")
        lab.server.reload()
        sent = to_callee(lab.send("INVITE", "2"))
        assert header(sent, "X-Request") == header(sent, "X-Branch") == ["B"]


@pytest.mark.parametrize("engine", ["lua", "python"])
def test_what_ended_versions_held_is_free_at_once_and_not_when_the_collector_comes(tmp_path: Path, engine: str) -> None:
    # the collector hardly ever looks at everything in a server, whose messages leave no cycles
    def held(one: object) -> bool:
        if engine == "lua":
            return isinstance(one, LuaRuntime)
        return isinstance(one, ModuleType) and one.__name__ == "route"

    lab = Lab(engine, tmp_path)
    with lab.server:
        gc.collect()
        gc.freeze()  # as the server does when it begins to serve
        gc.disable()
        try:
            for i in range(8):
                lab.reload(f"v{i}.")
                lab.send("OPTIONS", f"c{i}")
                if engine == "lua":  # Python's has the collector to come at the next reload
                    lab.write("bad", "\nerror('bad')")
                    with pytest.raises(ScriptLoadError, match="bad"):
                        lab.server.reload()
            assert len(lab.versions()) == 5
            assert sum(map(held, gc.get_objects())) == 5
        finally:
            gc.enable()
            gc.unfreeze()


@pytest.mark.parametrize("engine", SUFFIXES)
def test_a_closed_server_is_not_held_by_its_versions(tmp_path: Path, engine: str) -> None:
    lab = Lab(engine, tmp_path)
    with lab.server:
        lab.reload("B")
        version = weakref.ref(lab.server.node.router.version)
    del lab
    gc.collect()
    assert version() is None


def test_v8_frees_what_ended_versions_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(js_isolate, "_LYING", 4 << 20)  # with what it is, this would take some hundred reloads
    lab = Lab("js", tmp_path)
    with lab.server:
        for i in range(30):
            lab.write(f"v{i}.", "\nvar much = []; for (var i = 0; i < 20000; i++) much.push('value' + i);\n")
            lab.server.reload()
            lab.send("OPTIONS", f"c{i}")
        assert lab.server.node.engines["js"].memory() < 18 << 20


def test_v8_frees_what_broken_ones_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(js_isolate, "_LYING", 4 << 20)
    (tmp_path / "much.js").write_text("// " + "x" * 500_000)
    lab = Lab("js", tmp_path)
    with lab.server:
        lab.write(
            "bad",
            "\nrequire('./much'); var much = []; for (var i = 0; i < 20000; i++) much.push('value' + i); throw 'bad';\n",
        )
        for _ in range(30):
            with pytest.raises(ScriptLoadError, match="bad"):
                lab.server.reload()
        engine: Any = lab.server.node.engines["js"]
        assert engine.memory() < 18 << 20
        assert not any(load.modules for load in engine._sources._loads)


def test_a_script_cannot_let_itself_be_loaded_anew(lab: Lab) -> None:
    command = """KSR.jsonrpcs.exec('{"jsonrpc":"2.0","id":1,"method":"app.reload"}')"""
    routes = {
        "lua": f"function ksr_request_route()\n  {command}\n  KSR.x.shared_sets('answer', KSR.pv.get('$jsonrpl(body)'))\nend\n",
        "js": f"function ksr_request_route() {{\n  {command}\n  KSR.x.shared_sets('answer', KSR.pv.get('$jsonrpl(body)'));\n}}\n",
        "python": f"import KSR\ndef ksr_request_route():\n    {command}\n    KSR.x.shared_sets('answer', KSR.pv.get('$jsonrpl(body)'))\n",
    }
    lab.path.write_text(routes[lab.engine])
    lab.server.reload()
    lab.send("OPTIONS")
    modules: Any = lab.server.node.modules
    assert f"{lab.path}:" in modules["x"].shared_values["answer"]
    assert "a script cannot let itself be loaded anew" in modules["x"].shared_values["answer"]
    assert lab.server.node.versions.current == 2
