"""What a JavaScript script can do to a server, and what comes of it."""

from __future__ import annotations

from typing import Final

from tests.hostile.driver import Case

TIME: Final = "time limit reached"
ANEW: Final = "V8 could not be stopped and is started anew"
ANEW_IN: Final = 3.0  # seconds at most, on a machine that is busy with other tests
MEMORY: Final = "limit reached"  # of memory or of time, whichever comes first as fast as the machine is
STACK: Final = "Maximum call stack size exceeded"
MORE: Final = 'max_memory = "12M"'
FRAME: Final = {
    "begin": "'use strict';\nconst hostile = {}, kept = [];",
    "case": "hostile.NAME = function () {\n    BODY\n};",
    "end": """
function ksr_request_route() {
    const part = hostile[KSR.pv.getvs("$rU", "")];
    const given = part && part();
    if (given && given.then) return given;
    KSR.sl.send_reply(200, "OK");
}

function ksr_branch() { KSR.tm.t_relay(); }
function again() { KSR.app_jsdt.run("again"); }
""",
}

CASES: Final = [
    # ---- loops of every shape
    Case("loop_while", "while (true) {}", log=TIME),
    Case("loop_for", "for (;;);", log=TIME),
    Case("loop_do", "do {} while (true);", log=TIME),
    Case("loop_in_try", "for (;;) { try { for (;;) {} } catch (e) {} finally { continue; } }", log=TIME),
    Case("loop_in_getter", "const o = { get a() { for (;;) {} } }; o.a;", log=TIME),
    Case("loop_in_proxy", "const p = new Proxy({}, { get() { for (;;) {} } }); p.a;", log=TIME),
    Case("loop_of_proxies", "Array.prototype.fill.call(new Proxy({ length: 2 ** 53 - 1 }, {}), 0);", log=TIME),
    Case("loop_in_comparator", "[1, 2, 3].sort(() => { for (;;) {} });", log=TIME),
    Case("loop_in_replace", "'a'.replace(/a/, () => { for (;;) {} });", log=TIME),
    Case("loop_in_to_string", "`${{ toString() { for (;;) {} } }}`;", log=TIME),
    Case("loop_in_to_json", "JSON.stringify({ toJSON() { for (;;) {} } });", log=TIME),
    Case("loop_in_reviver", "JSON.parse('[1]', () => { for (;;) {} });", log=TIME),
    Case("loop_in_generator", "for (const _ of (function* () { for (;;) yield 1; })()) {}", log=TIME),
    Case("loop_of_promises", "(function again() { Promise.resolve().then(again); })();", 200, TIME),
    Case("loop_of_thenables", "const t = { then(resolve) { resolve(t); } }; Promise.resolve(t);", 200, TIME),
    Case("loop_in_async", "return (async () => { for (;;) await null; })();", log=TIME),
    Case(
        "loop_in_async_generator",
        "return (async () => { for await (const _ of (async function* () { for (;;) yield 1; })()) {} })();",
        log=TIME,
    ),
    Case("loop_in_eval", "eval('for (;;) {}');", log=TIME),
    Case("loop_in_function", "new Function('for (;;) {}')();", log=TIME),
    Case("loop_of_ksr_calls", "for (;;) KSR.pv.get('$ru');", log=TIME),
    # ---- functions that stay inside of V8
    Case("regexp_that_backtracks", "/^(a+)+$/.test('a'.repeat(40) + 'b');", log=TIME),
    Case("regexp_of_stars", "new RegExp('(x+x+)+y').exec('x'.repeat(60));", log=TIME),
    Case("regexp_in_split", "('a'.repeat(60) + 'b').split(/(a+)+$/);", log=TIME),
    Case("array_without_elements", "new Array(4294967295).indexOf(1);", log=TIME),
    Case("array_sorted", "new Array(4294967295).sort();", log="RangeError"),
    Case("array_filled", "new Array(4294967295).fill(0);", log=TIME),
    Case("array_of_arrays", "[new Array(4294967295)].flat(9);", log=TIME),
    Case("what_looks_like_an_array", "Array.prototype.lastIndexOf.call({ length: 2 ** 53 - 1 }, 1);", log=TIME),
    Case(
        "what_lies_about_its_length",
        "let n = 0; Array.prototype.some.call({ get length() { return n++ ? 2 ** 53 - 1 : 1; } }, (x) => x);",
        200,
    ),
    Case("array_from_what_looks_like_one", "Array.from({ length: 4294967295 });", log=MEMORY),
    Case("too_many_arguments", "Math.max.apply(null, { length: 60000000 });", log="RangeError"),
    Case("list_of_locales", "Intl.getCanonicalLocales(new Array(4294967295));", log="RangeError"),
    Case("languages_of_an_array", "new Uint8Array(4000000).toLocaleString();", log="RangeError"),
    Case("finalizer", "new FinalizationRegistry(() => { for (;;) {} });", log="ReferenceError"),
    Case("big_integer", "let a = 3n; for (;;) a *= a;", log=TIME),
    Case("power_of_big_integers", "3n ** (2n ** 27n);", log=TIME),
    Case("keys_of_a_text", "Object.keys('x'.repeat(4000000));", log="RangeError"),
    # ---- what V8 does not stop at all
    Case(
        "loop_over_a_text",
        "let s = 'x'; for (let i = 0; i < 22; i++) s += s; for (const k in new String(s)) {}",
        log=TIME,  # a fast machine is done with it before V8 is given up
        more=ANEW_IN,
    ),
    Case("product_of_big_integers", "const a = 2n ** (2n ** 29n) - 1n; a * a;", log=ANEW, more=ANEW_IN),
    Case("source_of_megabytes", "eval('[' + '{a:1},'.repeat(600000) + ']');", log="", more=ANEW_IN),
    # ---- memory
    Case("memory_of_arrays", "const all = []; for (;;) all.push(new Array(1000).fill(0));", log=MEMORY),
    Case("memory_of_objects", "let o = {}; for (;;) o = { o, p: [] };", log=MEMORY),
    Case("memory_of_keys", "const o = {}; for (let i = 0; ; i++) o['key' + i] = i;", log=MEMORY),
    Case("memory_of_texts", "const all = []; for (let i = 0; ; i++) all.push('x'.repeat(1000) + i);", log=MEMORY),
    Case("memory_of_a_map", "const m = new Map(); for (let i = 0; ; i++) m.set(i, [i]);", log=""),
    Case("memory_of_closures", "const all = []; for (let i = 0; ; i++) all.push(() => i);", log=MEMORY),
    Case("memory_of_a_generator", "[...(function* () { for (;;) yield [1, 2, 3]; })()];", log=MEMORY),
    Case("memory_of_buffers", "const all = []; for (;;) all.push(new Uint8Array(1000000).fill(1));", log=""),
    Case("memory_of_one_buffer", "new ArrayBuffer(2 ** 32);", log=""),
    Case("memory_that_grows", "new ArrayBuffer(0, { maxByteLength: 2 ** 32 }).resize(2 ** 31);", log="RangeError"),
    Case("memory_shared", "new SharedArrayBuffer(2 ** 30);", log="ReferenceError"),
    Case("memory_of_webassembly", "new WebAssembly.Memory({ initial: 65536 });", log="ReferenceError"),
    Case("text_doubled", "let s = 'xy'; for (;;) s += s;", log="RangeError"),
    Case("text_repeated", "'x'.repeat(2 ** 29);", log="RangeError"),
    Case(
        "text_of_json",
        "const a = []; a.push(a.slice(), a.slice()); let o = 1; for (;;) o = JSON.stringify([o, o]);",
        log="",
    ),
    Case("memory_kept_in_globals", "for (;;) kept.push(new Array(1000).fill(0));", log="started anew"),
    Case(
        "memory_kept_in_prototypes",
        "for (let i = 0; ; i++) Object.prototype['k' + i] = new Array(1000).fill(0);",
        log="started anew",
    ),
    Case("memory_of_pieces", "KSR.info('x'.repeat(16777217));", log="RangeError"),
    # ---- depth
    Case("recursion", "(function f() { return f() + 1; })();", log=STACK),
    Case("recursion_of_getters", "const o = { get a() { return this.a; } }; o.a;", log=STACK),
    Case("recursion_of_proxies", "let p = {}; for (let i = 0; i < 1e5; i++) p = new Proxy(p, {}); p.a;", log=""),
    Case("recursion_of_to_json", "const o = { toJSON() { return { o }; } }; JSON.stringify(o);", log=STACK),
    Case("recursion_of_brackets", "eval('('.repeat(1e6));", log=STACK),
    Case("recursion_of_json", "let a = []; for (let i = 0; i < 1e5; i++) a = [a]; JSON.stringify(a);", 200),
    Case("recursion_of_errors", "(function f() { try { f(); } catch (e) { f(); } })();", log=""),
    Case("route_in_itself", "KSR.app_jsdt.run('again');", 200),
    # ---- the end of the process
    Case("process_exit", "process.exit(1);", log="ReferenceError: process is not defined"),
    Case("quit", "quit();", log="ReferenceError"),
    Case("exit_of_the_route", "KSR.sl.send_reply(403, 'No'); KSR.x.exit();", 403),
    Case("natives", "new Function('%Abort(1)');", log="SyntaxError"),
    Case("natives_in_eval", "eval('%SystemBreak()');", log="SyntaxError"),
    # ---- exceptions of every kind
    Case("throw_undefined", "throw undefined;", log="undefined"),
    Case("throw_null", "throw null;", log="null"),
    Case("throw_number", "throw 5;", log="5"),
    Case("throw_symbol", "throw Symbol('s');", log="Symbol(s)"),
    Case("throw_object", "throw {};", log="[object Object]"),
    Case("throw_without_text", "throw Object.create(null);", log="a value that has no text was thrown"),
    Case("throw_what_throws", "throw { toString() { throw this; } };", log="a value that has no text was thrown"),
    Case("throw_what_loops", "throw { toString() { for (;;) {} } };", log=TIME),
    Case("throw_proxy", "throw new Proxy({}, { get() { throw 1; } });", log="a value that has no text was thrown"),
    Case("throw_stack", "throw Object.defineProperty(new Error('x'), 'stack', { get() { for (;;) {} } });", log=TIME),
    Case(
        "throw_prepared", "Error.prepareStackTrace = () => { throw 1; }; throw new Error('prepared');", log="prepared"
    ),
    Case("throw_long", "throw new Error('x'.repeat(4000000));", log="Error: xxx"),
    Case("throw_lines", "throw new Error('one\\n2026-01-01 ERROR two');", log="Error: one 2026"),
    Case("reject", "return Promise.reject(new Error('rejected'));", log="rejected"),
    # ---- wrong values to exports
    Case(
        "wrong_types",
        "for (const v of [{}, [], () => 1, Symbol('x'), new Proxy({}, {}), NaN, 1e300, -1n]) { KSR.info(v); KSR.pv.seti(v, v); KSR.sl.send_reply(v, v); }",
        200,
    ),
    Case("too_many_values", "KSR.pv.sets(...new Array(100).fill('x')); KSR.pv.get();", 200),
    Case(
        "hostile_values",
        "KSR.info({ toString() { throw 1; } }); KSR.pv.seti('$var(x)', { valueOf() { for (;;) {} } });",
        200,
    ),
    Case("ksr_after_the_route", "Promise.resolve().then(() => { throw new Error('late'); }); KSR.x.exit();", 0),
    # ---- reaching out
    Case("file", "require('/etc/passwd');", log="Cannot find module"),
    Case("file_above", "require('../polykemi.toml');", log="Cannot find module"),
    Case("module_of_node", "require('fs');", log="Cannot find module"),
    Case("imported", "return import('/etc/passwd');", log=""),
    Case("socket", "new WebSocket('ws://127.0.0.1:1');", log="ReferenceError"),
    Case("shell_functions", "read('/etc/passwd');", log="ReferenceError"),
    Case("python", "KSR.pv.get.__globals__.os.system('true');", log="TypeError"),
    Case("constructor", "KSR.pv.get.constructor('return this')().process.exit();", log="TypeError"),
    Case("caller", "const f = KSR.info.caller; f();", log="TypeError"),
    Case("worker", "new Worker('x');", log="ReferenceError"),
    Case("atomics", "Atomics.wait(new Int32Array(4), 0, 0);", log="TypeError"),
    # ---- breaking what the runtime uses
    Case(
        "prototypes",
        "for (const o of [Array, Object, String, Map, Promise, Function]) for (const k of Object.getOwnPropertyNames(o.prototype)) { try { o.prototype[k] = null; } catch (e) {} }",
        200,
    ),
    Case(
        "globals",
        "for (const k of Object.getOwnPropertyNames(globalThis)) { if (k !== 'KSR') try { globalThis[k] = null; } catch (e) {} }",
        200,
    ),
]
