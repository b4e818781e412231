"""V8 that does not come back: the isolate is given up, another one takes its place, and the event loop goes on there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest
import uvloop

from polykemi.engines.base import Limits
from polykemi.engines.js_isolate import Gate, Isolate
from polykemi.engines.js_run import PATIENCE
from polykemi.engines.js_script import JsScript
from polykemi.errors import ScriptError, ScriptMemory, ScriptTimeout
from tests.engines.js_bench import MAIN, Bench
from tests.waiting import until

PRODUCT = "const n = 2n ** (2n ** 28n) - 1n; n * n;"  # takes seconds, of which V8 does not look up for the first
STUCK = f"""const name = "script"; let runs = 0;
function {MAIN}() {{ runs++; KSR.info(name + runs); }}
function stuck() {{ KSR.pv.sets("a", "b"); {PRODUCT} }}
function around() {{ KSR.tm.run("stuck"); KSR.info("not reached"); }}
"""
LIMIT = Limits(0.2)


def serve(bench: Bench, script: JsScript, callbacks: list[str]) -> list[ScriptError]:
    """Run blocks in an event loop that uvloop has made, as a server does; return what those gave that were given up."""
    loop = uvloop.new_event_loop()
    losses: list[ScriptError] = []
    wake = os.eventfd(1)

    def do() -> None:
        if callbacks:
            bench.engine.enter(lambda: bench.run_block(script, bench.block(callbacks.pop(0))))
        else:
            bench.engine.stop()

    def lost(error: ScriptError) -> None:
        losses.append(error)
        bench.current.ctx = None
        loop.remove_reader(wake)
        loop.add_reader(wake, do)

    loop.add_reader(wake, do)
    bench.engine.serve(loop, lost)
    os.close(wake)
    return losses


def test_what_v8_cannot_stop_costs_its_message_only(hosted: Bench) -> None:
    script = hosted.load(STUCK, LIMIT)
    other = hosted.also(f"function {MAIN}() {{ KSR.info('other'); }}", "other.js")
    hosted.scripts.remove(other)
    for callback in (MAIN, "stuck", MAIN, "around", MAIN):
        error = hosted.run(script, hosted.block(callback)).error
        if callback == MAIN:
            assert error is None
        else:
            assert isinstance(error, ScriptTimeout)
            assert (error.file, error.line) == (f"{hosted.directory}/script.js", None)
            call = "in KSR.tm.run" if callback == "around" else "after KSR.pv.sets"
            cause = f"time limit reached: ran longer than 0.2 s, {call}"
            assert error.cause == f"{cause}; V8 could not be stopped and is started anew"
            assert error.call == call.rpartition(" ")[2]
    hosted.run(other)
    assert hosted.said == ["script1", "script1", "script1", "other"]


def test_the_loop_goes_on_on_another_thread(resident: Bench) -> None:
    script = resident.load(STUCK, LIMIT)
    losses = serve(resident, script, [MAIN, "stuck", MAIN, "around", MAIN, MAIN])
    assert [type(error) for error in losses] == [ScriptTimeout, ScriptTimeout]
    assert resident.said == ["script1", "script1", "script1", "script2"]


def test_what_comes_back_late_does_nothing_more_and_gives_its_memory_back(hosted: Bench) -> None:
    script = hosted.load(
        f"""const octets = new Uint8Array(4000000), all = new Array(1000000).fill(0.5);
        function {MAIN}() {{ {PRODUCT} KSR.info("late"); }}
        function fine() {{ KSR.info("fine"); }}""",
        LIMIT,
    )
    before = hosted.engine.isolate
    assert isinstance(hosted.run(script).error, ScriptTimeout)
    assert hosted.engine.isolate is not before
    until(lambda: before.gate.is_reached)
    hosted.run(script, hosted.block("fine"))
    assert hosted.said == ["fine"]
    assert before.v8.native.used() < 8 << 20


def test_a_script_that_is_stuck_while_it_is_started_anew_is_left_out(
    hosted: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polykemi.engines.js._ANEW", 2.0)
    script = hosted.load(STUCK, LIMIT)
    bad = hosted.also(
        f"function {MAIN}() {{ KSR.info('bad'); }} if (false) {{ {PRODUCT.replace('28n', '29n')} }}", "bad.js"
    )
    hosted.scripts.remove(bad)
    bad.text = bad.text.replace("if (false)", "if (true)")  # as if it depended on something else
    assert isinstance(hosted.run(script, hosted.block("stuck")).error, ScriptTimeout)
    assert hosted.run(script).error is None
    assert str(hosted.run(bad).error) == f"{hosted.directory}/bad.js: could not be started anew when V8 was"
    bad.close()
    assert hosted.said == ["script1"]


def test_a_call_of_ksr_that_takes_long_is_waited_for_and_then_there_is_time_to_stop(
    hosted: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    shut = Gate.shut

    def look(gate: Gate, is_outside: Callable[[], bool]) -> bool:
        looks.append(time.monotonic())
        return shut(gate, is_outside)

    def slow(process: object) -> int:
        until(lambda: len(looks) > 1)
        return 1

    monkeypatch.setattr(Gate, "shut", look)
    script = hosted.load(f"function {MAIN}() {{ KSR.tm.t_relay(); KSR.info('on'); }}", LIMIT, drive=slow)
    before = hosted.engine.isolate
    error = hosted.run(script).error
    assert isinstance(error, ScriptTimeout)
    assert error.cause == "time limit reached: ran longer than 0.2 s, in KSR.tm.t_relay"
    assert (hosted.engine.isolate, hosted.said) == (before, [])
    assert looks[1] - looks[0] >= PATIENCE


def test_what_has_come_back_while_that_was_found_out_is_not_given_up(
    hosted: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosted.load("", LIMIT)
    isolate = hosted.engine.isolate
    run = isolate.run

    def come_back(current: object) -> None:
        run.struck, run.outermost = 0, 2  # and the next block has begun

    monkeypatch.setattr(isolate, "_is_in_v8", lambda: True)
    monkeypatch.setattr(isolate._calls, "take", come_back)
    run.struck = run.outermost = 1
    assert run.is_overdue(PATIENCE)
    assert not isolate.is_lost()
    assert not isolate.gate.is_shut
    run.outermost = 0


def test_a_block_that_could_not_say_where_it_was_is_not_told_to_be_where_another_was(hosted: Bench) -> None:
    hosted.load(f"function {MAIN}() {{}}")
    run = hosted.engine.isolate.run
    run._place = "another.js", 7
    run.outermost = 1
    run.stop(1)
    error = run.overtime("this.js")
    assert (error.file, error.line) == ("this.js", None)
    run.struck = run.outermost = 0


def test_a_block_that_is_held_does_not_ask_for_the_method_of_another_message(hosted: Bench) -> None:
    hosted.load("")
    calls, words = hosted.engine.isolate._calls, hosted.engine.isolate.values.words
    passed: list[str] = []
    calls.take(Gate(hosted.current, lambda: None))
    calls._current.pass_ = lambda: passed.append("passed")
    hosted.current.ctx = hosted.block()
    calls.method()
    hosted.current.ctx = None
    assert (passed, words[0]) == (["passed"], 0)


@pytest.mark.parametrize(
    "code",
    [
        "for (;;) JSON.parse(json);",
        "const octets = new Uint8Array(4000000); for (;;) octets.fill(1);",
        "const b = new ArrayBuffer(1, { maxByteLength: 4000000 }); for (;;) { b.resize(4000000); b.resize(1); }",
    ],
)
def test_a_loop_of_what_takes_v8_a_while_is_stopped(hosted: Bench, code: str) -> None:
    script = hosted.load(f"const json = '[' + '1,'.repeat(100000) + '1]'; function {MAIN}() {{ {code} }}", LIMIT)
    before = hosted.engine.isolate
    assert isinstance(hosted.run(script).error, ScriptTimeout)
    assert hosted.engine.isolate is before


@pytest.mark.parametrize(
    "code",
    [
        "Object.defineProperty(Intl.Locale, Symbol.hasInstance, { value: () => true }); Intl.getCanonicalLocales(new Array(2e9));",
        "let s = '\\u0130'; for (let i = 0; i < 26; i++) s += s; String.prototype.normalize.call({ toString: () => s }, 'NFKD');",
        "let s = '['; for (let i = 0; i < 26; i++) s += s; JSON.parse(s);",
    ],
)
def test_what_only_looks_harmless_is_refused(hosted: Bench, code: str) -> None:
    script = hosted.load(f"function {MAIN}() {{ {code} }}", LIMIT)
    assert "RangeError" in str(hosted.run(script).error)


def test_v8_that_would_end_the_process_costs_its_message_only(hosted: Bench) -> None:
    dying: list[Isolate] = []

    def die(process: object) -> int:
        dying.append(hosted.engine.isolate)
        dying[0].v8._ending()  # as V8 calls it
        raise AssertionError

    source = f"function {MAIN}() {{ KSR.tm.t_relay(); }} function fine() {{ KSR.info('fine'); }}"
    script = hosted.load(source, LIMIT, drive=die)
    error = hosted.run(script).error
    assert isinstance(error, ScriptMemory)
    assert error.cause == "memory limit reached: V8 has none left and is started anew"
    hosted.run(script, hosted.block("fine"))
    assert hosted.said == ["fine"]
    assert hosted.engine.isolate is not dying[0]
