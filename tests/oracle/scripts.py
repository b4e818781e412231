"""The scripts of the oracle suite: one for a group of cases, in each language, the same text for both servers.

A control request (``OPTIONS sip:oracle@...`` with ``X-Oracle: CASE STEP``) says which case and step comes next; both are
kept in a shared variable, for Kamailio's processes. ``begin CASE`` before a case takes back what others have registered. Each value goes into the log as ``#oracle CASE BLOCK@STEP NUMBER VALUE``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from tests.conformance.export_cases import REQUEST, Case

MARK: Final = "#oracle "
CONTROL_USER: Final = "oracle"
EXTENSIONS: Final = {"lua": "lua", "js": "js", "python": "py"}

# run(block): what the case that runs does there; show(value): what it gave, octets beyond ASCII escaped
_PRELUDE: Final = {
    "lua": """\
local blocks, number, place = {}, 0, ""
local function escaped(c) return string.format("\\\\x%02x", string.byte(c)) end
local function shown(v)
    local t = type(v)
    if t == "nil" then return "null" end
    if t == "number" then return "num " .. string.format("%.14g", v) end
    if t == "string" then return "str " .. string.gsub(v, "[%c\\\\\\128-\\255]", escaped) end
    if t ~= "table" then return tostring(v) end
    local keys = {}
    for k in pairs(v) do keys[#keys + 1] = k end
    table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
    local out = {}
    for _, k in ipairs(keys) do out[#out + 1] = tostring(k) .. ": " .. shown(v[k]) end
    return "{" .. table.concat(out, ", ") .. "}"
end
function show(v)
    KSR.info("#oracle " .. place .. " " .. number .. " " .. shown(v) .. "\\n")
    number = number + 1
end
local function run(block)
    local now = KSR.pv.get("$shv(oracle)")
    local case, step = string.match(now, "^(%S+) (%S+)")
    local todo = blocks[case] and (blocks[case][block .. "@" .. step] or blocks[case][block])
    if not todo then return end
    local outer_number, outer_place = number, place  -- a block may run inside of another
    number, place = 0, case .. " " .. block .. "@" .. step
    show("begin")
    todo()
    show("end")
    number, place = outer_number, outer_place
end
local function control()
    if KSR.pv.get("$rU") ~= "oracle" then return false end
    local order = KSR.pv.get("$hdr(X-Oracle)")
    KSR.pv.sets("$shv(oracle)", order)
    if string.find(order, "^begin") then KSR.registrar.unregister("location", "sip:alice@example.test") end
    KSR.info("#oracle control " .. order .. "\\n")
    KSR.sl.sl_send_reply(200, "OK")
    return true
end
""",
    "js": """\
var blocks = {}, number = 0, place = "";
function escaped(c) { var n = c.charCodeAt(0); return "\\\\x" + (n < 16 ? "0" : "") + n.toString(16); }
function shown(v) {
    if (v === null || v === undefined) return "null";
    if (typeof v == "number") return "num " + v;
    if (typeof v == "string") return "str " + v.replace(/[^\\x20-\\x5b\\x5d-\\x7e]/g, escaped);
    if (typeof v != "object") return String(v);
    return JSON.stringify(v);
}
function show(v) {
    KSR.info("#oracle " + place + " " + number + " " + shown(v) + "\\n");
    number++;
}
function run(block) {
    var now = KSR.pv.get("$shv(oracle)").split(" ");
    var all = blocks[now[0]] || {};
    var todo = all[block + "@" + now[1]] || all[block];
    if (!todo) return;
    var outer = [number, place];
    number = 0; place = now[0] + " " + block + "@" + now[1];
    show("begin");
    todo();
    show("end");
    number = outer[0]; place = outer[1];
}
function control() {
    if (KSR.pv.get("$rU") != "oracle") return false;
    var order = KSR.pv.get("$hdr(X-Oracle)");
    KSR.pv.sets("$shv(oracle)", order);
    if (order.indexOf("begin") == 0) KSR.registrar.unregister("location", "sip:alice@example.test");
    KSR.info("#oracle control " + order + "\\n");
    KSR.sl.sl_send_reply(200, "OK");
    return true;
}
""",
    "python": """\
import KSR as KSR
import re

blocks, number, place = {}, 0, ""

def escaped(match):
    return "\\\\x%02x" % ord(match.group())

def shown(v):
    if v is None:
        return "null"
    if isinstance(v, bool):
        return "true" if v else "false"
    if isinstance(v, (int, float)):
        return "num %.14g" % v
    if isinstance(v, str):
        return "str " + re.sub(r"[^\\x20-\\x5b\\x5d-\\x7e]", escaped, v)
    return repr(v)

def show(v):
    global number
    KSR.info("#oracle %s %d %s\\n" % (place, number, shown(v)))
    number += 1

def run(block):
    global number, place
    case, step = KSR.pv.get("$shv(oracle)").split(" ")
    every = blocks.get(case, {})
    todo = every.get(block + "@" + step) or every.get(block)
    if todo is None:
        return
    outer = number, place
    number, place = 0, "%s %s@%s" % (case, block, step)
    show("begin")
    todo()
    show("end")
    number, place = outer

def control():
    if KSR.pv.get("$rU") != "oracle":
        return False
    order = KSR.pv.get("$hdr(X-Oracle)")
    KSR.pv.sets("$shv(oracle)", order)
    if order.startswith("begin"):
        KSR.registrar.unregister("location", "sip:alice@example.test")
    KSR.info("#oracle control " + order + "\\n")
    KSR.sl.sl_send_reply(200, "OK")
    return True

""",
}
_BODY: Final = {
    "lua": 'blocks["{case}"] = blocks["{case}"] or {{}}\nblocks["{case}"]["{block}"] = function()\n{body}\nend\n',
    "js": 'blocks["{case}"] = blocks["{case}"] || {{}};\nblocks["{case}"]["{block}"] = function () {{\n{body}\n}};\n',
    "python": 'def block():\n{body}\nblocks.setdefault("{case}", {{}})["{block}"] = block\n',
}
_REQUEST: Final = {
    "lua": "function {name}()\n    if control() then return end\n    run('{name}')\nend\n",
    "js": "function {name}() {{\n    if (control()) return;\n    run('{name}');\n}}\n",
    "python": "    def {name}(self, msg):\n        if not control():\n            run('{name}')\n        return 1\n",
}
_OTHER: Final = {
    "lua": "function {name}()\n    run('{name}')\nend\n",
    "js": "function {name}() {{\n    run('{name}');\n}}\n",
    "python": "    def {name}(self, msg, *event):\n        run('{name}')\n        return 1\n",
}
_OBJECT: Final = "class Script:\n    def child_init(self, rank):\n        return 0\n\n"
_END: Final = {"lua": "", "js": "", "python": "\ndef mod_init():\n    return Script()\n"}


def script(cases: Mapping[str, Case], engine: str) -> str:
    """Return the script that plays ``cases`` (id -> case)."""
    text = _PRELUDE[engine]
    names = {REQUEST: None}
    for number, case in cases.items():
        for (name, step), lines in _blocks(case, engine).items():
            names.setdefault(name)
            steps = sum(other == name for other, _ in _blocks(case, engine))
            block = f"{name}@{step}" if name == REQUEST or steps > 1 else name
            body = "\n".join(f"    {line}" for line in lines)
            text += _BODY[engine].format(case=number, block=block, body=body)
    if engine == "python":
        text += _OBJECT
    for name in names:
        text += (_REQUEST if name == REQUEST else _OTHER)[engine].format(name=name)
    return text + _END[engine]


def _blocks(case: Case, engine: str) -> dict[tuple[str, int], list[str]]:
    """Return (block, step) -> its lines."""
    blocks = {key: [f"show({call.source})" for call in calls] for key, calls in case.blocks.items()}
    return blocks | case.code.get(engine, {})


def runs_in(case: Case, engine: str) -> bool:
    """Tell whether a case can be written in this language for Kamailio: its Python has no KSR.x, its JavaScript no modf."""
    if case.code:
        return engine in case.code
    return engine != "python" or not any(path.startswith("KSR.x.") for path in case.paths)


def callbacks(cases: Iterable[Case], engine: str) -> set[str]:
    """Return the names of all blocks that the cases have."""
    return {name for case in cases for name, _ in _blocks(case, engine)}
