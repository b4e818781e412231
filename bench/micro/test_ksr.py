"""What a call of a KSR function costs from each engine: a request route that makes 1,000 of them, so microseconds are
nanoseconds a call. The loop and the way of the request to the script are in it too; the empty loop shows how much that is.
What cannot change during a route JavaScript asks only once; an effect goes to Python from every engine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.node import NOW, PHONE, make_node, register
from polykemi.sip.flow import Flow

LOOPS = {
    "lua": "function ksr_request_route()\n  for i = 1, 1000 do {call} end\nend\n",
    "python": "import KSR\n\ndef ksr_request_route(msg):\n    for i in range(1000):\n        {call}\n    return 1\n",
    "js": "function ksr_request_route() {{\n  for (let i = 0; i < 1000; i++) {{ {call} }}\n}}\n",
}
NOTHING = {"lua": "", "python": "pass", "js": ""}
CALLS = {
    "empty loop": "",
    "no arguments": "KSR.siputils.has_totag()",
    "string to value": 'KSR.pv.get("$fU")',
    "effect": "KSR.setflag(5)",
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("engine", LOOPS)
def test_1000_ksr_calls(benchmark: Any, tmp_path: Path, engine: str, call: str) -> None:
    script = tmp_path / "script"
    script.write_text(LOOPS[engine].format(call=CALLS[call] or NOTHING[engine]))
    sent: list[tuple[bytes, Flow]] = []
    node = make_node(tmp_path, engine, script, sent.extend)
    request = register(1, 1)

    def route() -> None:
        node.router.receive(request, PHONE, NOW)
        node.router.pump()

    try:
        benchmark(route)
        assert sent == []  # a script that fails is answered 500
    finally:
        node.close()
