"""Every KSR function on every engine: the cases of ``exports/`` (their form: ``export_cases.py``) on whole servers.

What a call gives is taken where the script sees it, behind the engine's conversion of values.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from polykemi.engines import ENGINES
from polykemi.kemi.registry import exports_of
from polykemi.modules import MODULES
from polykemi.sip import build
from polykemi.sip.message import Request, parse
from polykemi.testing import Sent, ServerUnderTest
from tests.conformance.export_cases import CALLEE, SOURCE, Case, CaseError, Expected, holds, read_cases, unescape

FILES = {path.stem: path for path in sorted((Path(__file__).parent / "exports").glob("*.txt"))}
CASES = [case for path in FILES.values() for case in read_cases(path)]

# show(number of the call, its result); is_method changes nothing, and the server's trace keeps what it was given
SHOW = {
    "lua": """\
local function show(i, v)
    local t = type(v)
    KSR.is_method("#" .. i .. " " .. (t == "nil" and "null" or t == "number" and "num " .. string.format("%.0f", v)
        or t == "string" and "str " .. v or tostring(v)))
end
""",
    "js": """\
function show(i, v) {
    KSR.is_method("#" + i + " " + (v === null ? "null" : typeof v == "number" ? "num " + v
        : typeof v == "string" ? "str " + v : String(v)));
}
""",
    "python": """\
import KSR

def show(i, v):
    KSR.is_method(f"#{i} " + ("null" if v is None else str(v).lower() if isinstance(v, bool)
        else f"num {v}" if isinstance(v, int) else f"str {v}" if isinstance(v, str) else repr(v)))

""",
}
EXTENSIONS = {"lua": "lua", "js": "js", "python": "py"}
FUNCTIONS = {"lua": "function %s()\n%s\nend\n", "js": "function %s() {\n%s\n}\n", "python": "def %s():\n%s\n"}
NOTHING = {"lua": "false", "js": "false", "python": "num 0"}  # what a function without parameters and result gives

BLOCK = "ksr_case"  # the name of blocks that a script names itself
SURROUNDING = {  # what a relayed INVITE does by itself
    "branch": ["100", "INVITE"],
    "onreply": ["100", "INVITE", "180"],
    "failure": ["100", "INVITE", "ACK", "486"],
}


def script(case: Case, engine: str) -> str:
    """Return the script: one block that shows what each call gives, and the surrounding call."""
    calls = [f"show({i}, {call.source})" for i, call in enumerate([*case.calls, None]) if call is not None]
    if case.calls[-1].expected == "ends":
        calls.append(f'show({len(case.calls)}, "goes on")')
    name = {"request": "ksr_request_route", "reply": "ksr_reply_route"}.get(case.route, BLOCK)
    blocks = [(name, calls)]
    if case.route in SURROUNDING:
        arm = {"branch": "t_on_branch", "onreply": "t_on_reply", "failure": "t_on_failure"}[case.route]
        surround = [f'KSR.tm.{arm}("{BLOCK}")', 'KSR.seturi("sip:bob@192.0.2.20:5060")', "KSR.tm.t_relay()"]
        blocks.append(("ksr_request_route", surround))
    text = SHOW[engine]
    for name, lines in blocks:
        text += FUNCTIONS[engine] % (name, "\n".join(f"    {line}" for line in lines))
    return text
