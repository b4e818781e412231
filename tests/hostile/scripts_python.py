"""What a Python script can do to a server, and what comes of it. Python cannot be sandboxed: see docs/security.md."""

from __future__ import annotations

from typing import Final

from tests.hostile.driver import ANY, Case

TIME: Final = "time limit reached"
MORE: Final = '[overload]\nmemory = "1G"\ndelay = 0'
FRAME: Final = {
    "begin": """
import array, copy, ctypes, functools, gc, itertools, json, os, pickle, queue, re, select, signal, socket, subprocess, sys
import threading, time
import KSR as KSR

class Hostile:
""",
    "case": "    def NAME(self):\n        BODY\n",
    "end": """

def ksr_request_route(msg):
    part = getattr(Hostile, KSR.pv.getvs("$rU", ""), None)
    if part:
        part(None)
    KSR.sl.send_reply(200, "OK")
""",
}

PARTS: Final = 8  # of the functions: all of them at once may take longer than the limit
WRONG_TYPES: Final = """
functions = [item for module in list(vars(KSR).values()) for item in getattr(module, '__dict__', {}).items()]
for name, f in functions[PART]:
    if callable(f) and not any(word in name for word in ('exit', 'drop', 'sleep', 'abort', 'reply_error')):
        try: f({}, print, None, float('nan'), object(), [])
        except Exception: pass
"""

CASES: Final = [
    # ---- loops of every shape
    Case("loop_while", "while True: pass", log=TIME),
    Case("loop_for", "for _ in itertools.count(): pass", log=TIME),
    Case("loop_of_generators", "def f():\n    while True: yield\nfor _ in f(): pass", log=TIME),
    Case("loop_in_except", "while True:\n    try:\n        while True: pass\n    except Exception: pass", log=TIME),
    Case(
        "loop_in_bare_except",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        log=TIME,
    ),
    Case("loop_in_finally", "try:\n    while True: pass\nfinally:\n    while True: pass", log=TIME),
    Case(
        "loop_in_nested_excepts",
        """
while True:
    try:
        while True:
            try:
                while True:
                    try:
                        while True: pass
                    except: pass
            except: pass
    except: pass
""",
        log=TIME,
    ),
    Case(
        "loop_in_recursion",
        "def f():\n    while True:\n        try: f()\n        except RecursionError: pass\nf()",
        log=TIME,
    ),
    Case("loop_in_property", "class A:\n    def __getattr__(self, name):\n        while True: pass\nA().x", log=TIME),
    Case(
        "loop_in_comparison",
        "class A:\n    def __lt__(self, other):\n        while True: pass\nsorted([A(), A()])",
        log=TIME,
    ),
    Case("loop_in_del", "class A:\n    def __del__(self):\n        while True: pass\nA()\nwhile True: pass", log=TIME),
    Case("loop_of_ksr_calls", "while True: KSR.pv.get('$ru')", log=TIME),
    Case("loop_of_evals", "while True: eval('1 + 1')", log=TIME),
    # ---- waiting
    Case("wait_asleep", "time.sleep(1000)", log=TIME),
    Case("wait_asleep_for_ever", "while True:\n    try: time.sleep(1000)\n    except BaseException: pass", log=TIME),
    Case("wait_for_a_socket", "a, b = socket.socketpair()\na.recv(1)", log=TIME),
    Case("wait_for_a_lock", "lock = threading.Lock()\nlock.acquire()\nlock.acquire()", log=TIME),
    Case("wait_for_an_event", "threading.Event().wait()", log=TIME),
    Case("wait_for_a_queue", "queue.Queue().get()", log=TIME),
    Case("wait_for_select", "select.select([], [], [], 1000)", log=TIME),
    Case("wait_for_a_process", "subprocess.run(['sleep', '1000'])", log=TIME),
    Case("wait_for_a_pipe", "a, b = os.pipe()\nos.read(a, 1)", log=TIME),
    Case(
        "wait_for_a_thread",
        "threading.Thread(target=time.sleep, args=(3,), daemon=True).start()\n"
        "for one in threading.enumerate():\n    if one.daemon and 'Thread-' in one.name: one.join()",
        log=TIME,
    ),
    Case("wait_in_c", "ctypes.CDLL(None).pause()", log=TIME),
    # ---- C code that looks at signals
    Case("pattern_that_backtracks", "re.match('(a+)+$', 'a' * 50 + 'b')", log=TIME),
    Case("number_that_is_huge", "10 ** 10 ** 8", log=TIME),
    # ---- memory
    Case("memory_of_much", "[0] * (3 * 10 ** 8)", log="MemoryError"),
    Case("memory_of_a_private_map", "bytearray(3 * 10 ** 9)", log="MemoryError"),
    Case("memory_of_a_text", "bytes(10 ** 14)", log="MemoryError"),
    Case("memory_of_a_number", "1 << 10 ** 14", log="Error"),
    Case("memory_of_a_list", "[0] * 10 ** 14", log="MemoryError"),
    Case("memory_of_doubling", "s = b'x'\nwhile True: s += s", log=""),
    Case("memory_of_lists", "a = []\nwhile True: a = [a]", log=TIME),
    # ---- depth
    Case("deep_recursion", "def f(): f()\nf()", log="RecursionError"),
    Case(
        "deep_recursion_without_limit",
        "sys.setrecursionlimit(10 ** 9)\nclass A:\n    def __repr__(self): return repr(self)\nrepr(A())",
        log="RecursionError",
    ),
    Case("deep_json", "json.loads('[' * 1000000)", log="RecursionError"),
    Case("deep_repr", "a = []\nfor _ in range(20000): a = [a]\nrepr(a)", log="RecursionError"),
    Case("deep_copy", "a = []\nfor _ in range(20000): a = [a]\ncopy.deepcopy(a)", log="RecursionError"),
    Case("deep_pickle", "a = []\nfor _ in range(20000): a = [a]\npickle.dumps(a)", log="RecursionError"),
    Case("deep_comparison", "a, b = [], []\nfor _ in range(20000): a, b = [a], [b]\na == b", log="RecursionError"),
    Case("deep_source", "eval('(' * 100000)", log="SyntaxError"),
    Case("deep_destruction", "a = None\nfor _ in range(100000): a = (a,)\ndel a", status=200),
    Case("deep_calls_of_itself", "KSR.app_python.exec('ksr_request_route')"),
    # ---- ends
    Case("exit", "sys.exit(3)", status=0),
    Case("exit_by_name", "exit()", status=0),
    Case("exit_at_once", "os._exit(3)", status=0, log="ends the route, not the server"),
    Case("exit_by_abort", "os.abort()", status=0, log="ends the route, not the server"),
    Case("exit_by_kill", "os.kill(os.getpid(), 9)", status=0, log="ends the route, not the server"),
    Case("exit_by_user_signal", "os.kill(os.getpid(), signal.SIGUSR1)", status=0, log="ends the route, not the server"),
    Case("exit_by_exec", "os.execv('/bin/true', ['true'])", status=0, log="ends the route, not the server"),
    Case("exit_of_the_loop", "import asyncio\nasyncio.get_running_loop().stop()", status=200),
    Case("exit_by_signal", "signal.raise_signal(signal.SIGTERM)", status=0, log="ends the route, not the server"),
    Case("error_that_is_huge", "raise ValueError('x' * 10_000_000)", log="ValueError"),
    Case("error_without_text", "class A(Exception):\n    def __str__(self): raise self\nraise A", log="A"),
    Case("error_of_the_base", "raise BaseException('x')"),
    Case("error_of_generators", "raise StopIteration"),
    Case("error_of_tasks", "import asyncio\nraise asyncio.CancelledError"),
    Case("error_of_the_keyboard", "raise KeyboardInterrupt"),
    Case(
        "error_with_endless_text",
        "class A(Exception):\n    def __str__(self):\n        while True: pass\nraise A",
        log="A",
    ),
    Case(
        "error_with_many_causes",
        "e = None\nfor _ in range(100_000):\n    e, old = ValueError(), e\n    e.__cause__ = old\nraise e",
        log="ValueError",
    ),
    Case("error_of_a_generator_that_ends", "raise GeneratorExit"),
    Case(
        "error_that_holds_endless_ends",
        "class A:\n    def __del__(self):\n        while True: pass\na = A()\nraise ValueError",
        log="ValueError",
    ),
    # ---- what changes the interpreter
    Case(
        "tracing",
        "def f(*a):\n    while True: pass\nsys.settrace(f)",
        status=200,
        log="settrace is the server's to call",
    ),
    Case("profiling", "sys.setprofile(lambda *a: 1 / 0)", status=200, log="setprofile is the server's to call"),
    Case("switch_interval", "sys.setswitchinterval(1000)", status=200, log="nothing is changed"),
    Case("signal_handlers", "signal.signal(signal.SIGTERM, signal.SIG_IGN)", status=200, log="nothing is changed"),
    Case("collector_off", "gc.disable()\ngc.set_threshold(0)", status=200),
    Case("modules_gone", "import math\nfor name in ('json', 're', 'math'): sys.modules.pop(name, None)", status=200),
    Case("path_gone", "sys.path.clear()", status=200),
    # ---- wrong types
    *(
        Case(f"wrong_types_{part}", WRONG_TYPES.replace("PART", f"{part}::{PARTS}"), status=ANY)
        for part in range(PARTS)
    ),
]
