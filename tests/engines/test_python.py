"""The Python engine: what only Python has. What all engines have in common is in tests/conformance."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from polykemi.engines import watchdog
from polykemi.engines.base import Limits
from polykemi.errors import ScriptError, ScriptLoadError, ScriptTimeout
from polykemi.testing import ServerUnderTest
from tests.conformance.conftest import RINGING, Bench
from tests.support import message


@pytest.fixture
def python(tmp_path: Path) -> Iterator[Bench]:
    """A Python engine with generous limits."""
    bench = Bench("python", tmp_path, Limits(seconds=5.0))
    yield bench
    bench.engine.close()


# ---- the object shape of app_python3

_OBJECT = """
class Routes:
    def child_init(self, rank):
        self.rank = rank
        return 0
    def ksr_request_route(self, msg): show(self.rank, msg.Type)
    def ksr_event(self, msg, evname): show(msg.Type, evname)
    def failure(self): show("no arguments")
    def any(self, *args): show(len(args))
def mod_init():
    return Routes()
"""


def test_callbacks_are_methods_of_what_mod_init_returns(python: Bench) -> None:
    python.script(python=_OBJECT)
    assert {"ksr_request_route", "ksr_event", "failure", "any"} <= python.loaded.functions()
    assert not python.loaded.has("mod_init")
    python.call()
    assert python.seen == ["num 1", "str SIP_REQUEST"]
    python.call("ksr_event", event="tm:local-request")
    assert python.seen == ["str SIP_REQUEST", "str tm:local-request"]
    python.call("failure")
    python.call("any")
    python.call("any", event="e")
    assert python.seen == ["str no arguments", "num 1", "num 2"]


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ("def mod_init(): return None", "mod_init() must return an object, not None"),
        ("def mod_init(): return 5", "what mod_init() returned has no child_init()"),
        (
            "class R:\n  def child_init(self, rank): return 'x'\ndef mod_init(): return R()",
            "must return an integer, not str",
        ),
        ("class R:\n  def child_init(self, rank): return 1 / 0\ndef mod_init(): return R()", ":3: ZeroDivisionError"),
        ("import sys\nsys.exit()", ":3: ended itself while it was loading"),
        ("KSR.x.exit()", ":2: ended itself while it was loading"),
        ("import nothing_of_that_name", ":2: ModuleNotFoundError"),
        ("raise GeneratorExit", ":2: GeneratorExit"),
        ("class E(BaseException):\n  def __str__(self): raise self\nraise E", ":4: route.E: <exception str() failed>"),
        ("async def ksr_request_route(msg): pass", ":2: ksr_request_route is async or has a yield"),
        (
            "class R:\n  def child_init(self, rank): return 0\n  def ksr_x(self): yield\ndef mod_init(): return R()",
            ":4: ksr_x is",
        ),
    ],
)
def test_a_script_that_does_not_start_is_refused_with_the_reason(python: Bench, script: str, cause: str) -> None:
    with pytest.raises(ScriptLoadError) as caught:
        python.script(python=script)
    assert cause in str(caught.value)


def test_plain_functions_may_have_mod_init_and_child_init_too(python: Bench) -> None:
    python.script(
        python="""
        ranks = []
        def mod_init(): ranks.append("mod_init")
        def child_init(rank): ranks.append(str(rank))
        def ksr_request_route(): show(*ranks)
        """
    )
    python.call()
    assert python.seen == ["str mod_init", "str 1"]


def test_ksr_works_while_the_script_loads_on_a_made_up_options_request(
    python: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    python.script(
        python="""
        show(KSR.is_OPTIONS())
        def mod_init(): show(KSR.lab.text("x"), KSR.lab.in_branch())
        def ksr_request_route(): pass
        """
    )
    assert python.seen == ["true", "str x", "num -1"]
    assert "makes no sense in event_route" in caplog.text
    assert python.current.ctx is None


# ---- the message object


def test_the_message_of_a_request(python: Bench) -> None:
    python.script(
        python="""
        def ksr_request_route(msg):
            show(msg.Type, msg.Method, msg.RURI, *msg.src_address, *msg.dst_address)
            show(msg.getHeader("From"), msg.getHeader("i"), msg.getHeader("X-None"), msg.copy().Method)
            msg.rewrite_ruri("sip:jürgen@example.test")
            msg.set_dst_uri("sip:192.0.2.99")
        """
    )
    ctx = python.call()
    assert python.seen == [
        *("str SIP_REQUEST", "str OPTIONS", "str sip:bob@example.test"),
        *("str 192.0.2.10", "num 5062", "str 192.0.2.1", "num 5060"),
        *("str <sip:alice@example.test>;tag=1", "str c1", "null", "str OPTIONS"),
    ]
    assert (ctx.ruri, ctx.dst_uri) == ("sip:j\xc3\xbcrgen@example.test", "sip:192.0.2.99")


def test_the_message_of_a_reply(python: Bench) -> None:
    python.script(python="def ksr_reply_route(msg): show(msg.Type, msg.Status, msg.getHeader('CSeq'))")
    python.call("ksr_reply_route", message=RINGING)
    assert python.seen == ["str SIP_REPLY", "str 180", "str 1 INVITE"]


@pytest.mark.parametrize(
    ("use", "message", "reason"),
    [
        ("msg.Status", None, "not a reply"),
        ("msg.Method", RINGING, "not a request"),
        ("msg.RURI", RINGING, "not a request"),
        ("msg.rewrite_ruri('sip:x')", RINGING, "not a request"),
        ("msg.call_function('sl_send_reply', '200', 'OK')", None, "no native function"),
    ],
)
def test_what_a_message_does_not_have_raises_runtime_error(python: Bench, use: str, message: Any, reason: str) -> None:
    python.script(python=f"def route(msg):\n    try: {use}\n    except RuntimeError as e: show(str(e))")
    python.call("route", **({"message": message} if message else {}))
    assert reason in python.seen[0]


def test_a_message_is_gone_when_its_route_has_ended(python: Bench) -> None:
    python.script(python="kept = []\ndef ksr_request_route(msg): kept.append(msg)\ndef later(): kept[0].Type")
    python.call()
    with pytest.raises(ScriptError, match="the message is gone"):
        python.call("later")


# ---- KSR


def test_ksr_can_be_imported_anywhere_and_at_any_time(python: Bench, tmp_path: Path) -> None:
    (tmp_path / "polykemi_test_helper.py").write_text("def late():\n    import KSR\n    return KSR.lab.number(4)")
    python.script(
        python="""
        import KSR as K
        from KSR import lab
        import polykemi_test_helper as helper
        def ksr_request_route():
            import KSR
            show(KSR is K, lab is KSR.lab, helper.late(), KSR.__version__)
        """
    )
    python.call()
    assert python.seen == ["true", "true", "num 4", "num 1002"]


def test_two_engines_have_their_own_ksr_and_their_own_helpers(python: Bench, tmp_path: Path) -> None:
    (tmp_path / "polykemi_test_helper.py").write_text("import KSR\ndef tell(text): KSR.lab.saw(text)")
    source = "import polykemi_test_helper as helper\ndef ksr_request_route():\n    import KSR as K\n    helper.tell('h'); K.lab.saw('k')"
    other = Bench("python", tmp_path, Limits())
    try:
        python.script(python=source)
        other.script(python=source)
        python.call()
        other.call()
        python.call()
        assert (python.seen, other.seen) == (["h", "k", "h", "k"], ["h", "k"])
    finally:
        other.engine.close()


def test_router_and_its_logger_are_there_as_in_app_python3(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "helper.py").write_text("import Router.Logger as Logger\nLogger.LM_ERR('from a helper')\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import Router.Logger as Logger, helper\nfrom Router import Core, Ranks\n"
        "def ksr_request_route(msg):\n"
        "    Logger.LM_WARN('careful'); Logger.LM_GEN1(Logger.L_NOTICE, 'well'); Logger.LM_GEN2(0, 9, Ranks.PROC_INIT)\n"
    )
    with ServerUnderTest({"python": script}) as server, caplog.at_level("DEBUG", "polykemi.script"):
        server.receive(message("OPTIONS sip:example.test SIP/2.0"), "192.0.2.10:5060")
    assert [(r.levelno, r.getMessage()) for r in caplog.records if r.name == "polykemi.script"] == [
        (40, "from a helper"),
        (30, "careful"),
        (25, "well"),
        (10, "-127"),
    ]


def test_what_a_script_changes_in_ksr_is_its_own(python: Bench) -> None:
    python.script(python="KSR.lab.number = lambda n: 0\ndef ksr_request_route(): show(KSR.lab.number(4))")
    old = python.loaded
    python.script(python="def ksr_request_route(): show(KSR.lab.number(4))")
    python.call()
    assert python.seen == ["num 4"]
    del old


def test_packages_without_init_are_the_scripts_own(python: Bench, tmp_path: Path) -> None:
    package = tmp_path / "polykemi_test_package"
    package.mkdir()
    source = "import polykemi_test_package.values as values\ndef ksr_request_route():\n    import polykemi_test_package\n    show(polykemi_test_package.values.value)\n"
    (package / "values.py").write_text("value = 1")
    python.script(python=source)
    old = python.loaded
    (package / "values.py").write_text("value = 1000")
    new = python.engine.load(python.path)
    for python.loaded in (new, old):
        python.call()
    new.close()
    assert python.seen == ["num 1000", "num 1"]
    python.loaded.close()
    assert "polykemi_test_package" not in sys.modules


def test_a_missing_function_is_an_attribute_error(python: Bench) -> None:
    with pytest.raises(ScriptError, match="AttributeError: module 'KSR' has no attribute 'auth'"):
        python.route(python="KSR.auth.check()")


def test_a_load_reads_helpers_anew_and_a_failing_one_leaves_all_as_it_was(python: Bench, tmp_path: Path) -> None:
    helper = tmp_path / "polykemi_test_helper.py"
    source = "import polykemi_test_helper\ndef ksr_request_route(): show(polykemi_test_helper.value)\n"
    helper.write_text("value = 1")
    python.script(python=source)
    before = sys.path.copy()
    helper.write_text("value = 1000")
    with pytest.raises(ScriptLoadError):
        python.script(python=source + "1 / 0")
    assert sys.path == before
    assert sys.modules["polykemi_test_helper"].value == 1
    python.call()
    python.script(python=source)
    python.call()
    assert python.seen == ["num 1", "num 1000"]
    assert sys.path == before


def test_closing_leaves_nothing_behind(tmp_path: Path) -> None:
    path, modules, threads = sys.path.copy(), set(sys.modules), threading.active_count()
    (tmp_path / "polykemi_test_helper.py").write_text("")
    bench = Bench("python", tmp_path, Limits())
    bench.route(python="import polykemi_test_helper")
    bench.script(python="import polykemi_test_helper\ndef ksr_request_route(): pass")
    bench.call()
    assert threading.active_count() == threads + 1
    bench.engine.close()
    assert sys.path == path
    assert not {"KSR", "route"} & (set(sys.modules) - modules)
    assert threading.active_count() == threads
    assert not bench.loaded.has("ksr_request_route")


def test_modules_of_the_server_survive_a_script_that_lies_above_them(tmp_path: Path) -> None:
    (tmp_path / "polykemi_test_helper.py").write_text("")
    sys.path.insert(0, str(tmp_path))
    try:
        import polykemi_test_helper  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(tmp_path))
    bench = Bench("python", tmp_path, Limits())
    bench.route(python="import polykemi_test_helper")
    bench.engine.close()
    assert sys.modules.pop("polykemi_test_helper") is polykemi_test_helper


def test_dataclasses_and_annotations_work_in_a_script(python: Bench) -> None:
    python.script(
        python="""
        from dataclasses import dataclass
        @dataclass
        class Peer:
            name: "str"
        def ksr_request_route(): show(Peer("a").name, __name__, __file__)
        """
    )
    python.call()
    assert python.seen == ["str a", "str route", f"str {python.path}"]


# ---- the end of a route, errors


@pytest.mark.parametrize(
    "end", ["sys.exit()", "sys.exit('text')", "exit()", "quit()", "raise SystemExit", "KSR.x.exit()"]
)
def test_an_exit_ends_the_route_unless_a_bare_except_takes_it(python: Bench, end: str) -> None:
    stdin = sys.stdin
    python.route(python=f"import sys\ntry: {end}\nexcept Exception: show(1)\nshow(2)")
    assert python.seen == []
    python.route(python=f"import sys\ntry: {end}\nexcept: show(1)\nshow(2)")
    assert python.seen == ["num 1", "num 2"]
    assert sys.stdin is stdin
    assert not stdin.closed


def test_an_error_in_a_helper_names_the_helpers_line(python: Bench, tmp_path: Path) -> None:
    helper = tmp_path / "polykemi_test_helper.py"
    helper.write_text("def f():\n    import json\n    json.loads('{')")
    python.script(python="import polykemi_test_helper as helper\ndef ksr_request_route(): helper.f()")
    with pytest.raises(ScriptError) as caught:
        python.call()
    assert (caught.value.file, caught.value.line) == (str(helper), 3)
    assert caught.value.cause.startswith("json.decoder.JSONDecodeError: ")
    assert "polykemi/engines" not in caught.value.traceback
    helper.write_text("def f(:")
    with pytest.raises(ScriptLoadError, match=r"polykemi_test_helper\.py:1: SyntaxError: "):
        python.script(python="import polykemi_test_helper")


def test_an_interrupt_is_not_an_error_of_the_script(python: Bench) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests may have it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            python.route(python="raise KeyboardInterrupt")
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_text_of_an_error_may_have_no_end(tmp_path: Path) -> None:
    bench = Bench("python", tmp_path, Limits(seconds=0.05))
    error = "class E(Exception):\n    def __str__(self):\n        while True: pass\n"
    try:
        with pytest.raises(ScriptError) as caught:
            bench.route(python=f"{error}raise E")
        assert str(caught.value) == f"{bench.path}:6: route.ksr_request_route.<locals>.E: <exception str() failed>"
        with pytest.raises(ScriptLoadError, match=r"route\.py:5: route.E"):
            bench.script(python=f"{error}raise E")
    finally:
        bench.engine.close()


def test_an_error_with_too_many_causes_is_told_by_its_kind(tmp_path: Path) -> None:
    bench = Bench("python", tmp_path, Limits(seconds=0.5))
    chain = (
        "error = None\nfor _ in range(20_000):\n    error, cause = ValueError(), error\n    error.__cause__ = cause\n"
    )
    try:
        bench.script(python=f"{chain}def ksr_request_route():\n    raise error")
        with pytest.raises(ScriptError, match=r"route\.py:7: ValueError$"):
            bench.call()
    finally:
        bench.engine.close()


def test_what_a_failed_route_holds_ends_within_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # where the time limit of __del__ goes
    bench = Bench("python", tmp_path, Limits(seconds=0.05))
    ends = "class A:\n    def __del__(self):\n        show('ends')\n        while True: pass\n"
    try:
        with pytest.raises(ScriptError, match=r"route\.py:8: ValueError$"):
            bench.route(python=f"{ends}a = A()\nraise ValueError")
        assert bench.seen == ["str ends"]
    finally:
        bench.engine.close()


# ---- the time limit


def test_the_time_limit_comes_again_when_a_bare_except_takes_it(tmp_path: Path) -> None:
    bench = Bench("python", tmp_path, Limits(seconds=0.03))
    try:
        with pytest.raises(ScriptTimeout) as caught:
            bench.route(
                python="for _ in range(3):\n    try: sum(n for n in iter(int, 1))\n    except: show(1)\nwhile True: pass"
            )
        assert len(bench.seen) < 3  # what takes the first may do something; the second comes again and again
        assert caught.value.file == str(bench.path)
    finally:
        bench.engine.close()


def test_a_stopped_route_leaves_no_interrupt_behind(tmp_path: Path) -> None:
    bench = Bench("python", tmp_path, Limits(seconds=0.02))
    traced: list[str] = []

    def tracer(frame: FrameType, event: str, _: object) -> None:
        traced.append(event)

    outer = sys.gettrace()
    try:
        with pytest.raises(ScriptTimeout):
            bench.route(python="while True: pass")
        sys.settrace(tracer)  # with an interrupt still set, CPython 3.11 would not come out of the next traced call
        Limits()
    finally:
        sys.settrace(outer)
        bench.engine.close()
    assert traced[0] == "call"


def test_the_time_limit_does_not_leave_an_export_half_done(tmp_path: Path) -> None:
    bench = Bench("python", tmp_path, Limits(seconds=0.02))
    done: list[str] = []

    def slow(text: str) -> None:
        end = time.monotonic() + 0.06
        while time.monotonic() < end:
            pass
        done.append(text)

    bench.lab.seen = type("Seen", (list,), {"append": lambda _self, text: slow(text)})()
    try:
        with pytest.raises(ScriptTimeout):
            bench.route(python="KSR.lab.saw('whole')\nwhile True: pass")
        assert done == ["whole"]
    finally:
        bench.engine.close()


def test_the_time_limit_never_strikes_after_the_route_has_ended(tmp_path: Path) -> None:
    bench = Bench("python", tmp_path, Limits(seconds=0.002))
    bench.script(
        python="""
        import time
        def ksr_request_route(msg):
            end = time.monotonic() + 0.002
            while time.monotonic() < end: pass
        """
    )
    outcomes = {"ended": 0, "stopped": 0}
    try:
        for _ in range(150):
            try:
                bench.call()
                outcomes["ended"] += 1
            except ScriptTimeout:
                outcomes["stopped"] += 1
            for _ in range(200):  # the server goes on; nothing may be raised here
                pass
    finally:
        bench.engine.close()
    assert sum(outcomes.values()) == 150


def test_loading_may_take_longer_than_a_route_but_not_for_ever(tmp_path: Path) -> None:
    bench = Bench("python", tmp_path, Limits(seconds=0.02))
    try:
        bench.script(python="import time\nend = time.monotonic() + 0.05\nwhile time.monotonic() < end: pass")
        with pytest.raises(ScriptLoadError, match=r"route\.py:2: time limit reached"):
            bench.script(python="while True: pass")
    finally:
        bench.engine.close()


def test_a_script_has_time_to_stop_after_a_pause_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    jump = 0.0

    def pause(_self: object, _text: str) -> None:  # as SIGSTOP, or a machine that is moved
        nonlocal jump
        jump = 3600.0

    monkeypatch.setattr(watchdog, "monotonic", lambda: time.monotonic() + jump)
    monkeypatch.setattr(watchdog, "end_process", lambda where, _seconds: ended.append(where))
    bench = Bench("python", tmp_path, Limits(seconds=0.05))
    bench.lab.seen = type("Seen", (list,), {"append": pause})()
    try:
        with pytest.raises(ScriptTimeout):
            bench.route(python="KSR.lab.saw('pause')\nwhile True: pass")
    finally:
        bench.engine.close()
    assert ended == []


def test_without_a_limit_nothing_watches(tmp_path: Path) -> None:
    threads = threading.active_count()
    bench = Bench("python", tmp_path, Limits(seconds=0))
    bench.route(python="show(1)")
    assert bench.seen == ["num 1"]
    assert threading.active_count() == threads
    bench.engine.close()


# ---- memory
def test_what_scripts_hold_is_measured(python: Bench) -> None:
    python.script(python="kept = []\ndef ksr_request_route(): kept.append('x' * 100_000 + str(len(kept)))")
    before = python.engine.memory()
    for _ in range(10):
        python.call()
    assert 1_000_000 < python.engine.memory() - before < 1_100_000
    python.script(python="def ksr_request_route(): pass")
    assert python.engine.memory() < 100_000


def test_what_the_server_lends_is_not_counted_and_what_is_endless_is_counted_in_part(python: Bench) -> None:
    python.script(python="kept = []\ndef ksr_request_route(msg): kept.append(msg)")
    python.call()
    assert python.engine.memory() < 10_000
    python.script(python="kept = [str(i) for i in range(200_000)]\ndef ksr_request_route(): pass")
    assert 2_000_000 < python.engine.memory() < 6_000_000
