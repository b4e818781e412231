"""What a Lua script can do to a server, and what comes of it."""

from __future__ import annotations

from typing import Final

from tests.hostile.driver import ANY, Case

TIME: Final = "time limit reached"
MEMORY: Final = "memory limit reached"
EITHER: Final = "limit reached"  # on a busy machine the time is over first
MORE: Final = 'max_memory = "24M"'
FRAME: Final = {
    "begin": "local hostile = {}",
    "case": "function hostile.NAME()\n    BODY\nend",
    "end": """
function ksr_request_route()
    local part = hostile[KSR.pv.getvs("$rU", "")]
    if part then part() end
    KSR.sl.send_reply(200, "OK")
end

function ksr_branch() KSR.tm.t_relay() end
function again() KSR.app_lua.run("again") end
""",
}

PARTS: Final = 8  # of the functions, by the length of their names: all of them at once may take longer than the limit
WRONG_TYPES: Final = (
    "for _, m in pairs(KSR) do if type(m) == 'table' then for name, f in pairs(m) do"
    f" if #name % {PARTS} == PART and not name:find('exit') and not name:find('drop') and not name:find('sleep') then"
    " pcall(f, {}, print, nil, 0 / 0, coroutine.create(print), {}) end end end end"
)

CASES: Final = [
    # ---- loops of every shape
    Case("loop_while", "while true do end", log=TIME),
    Case("loop_repeat", "repeat until false", log=TIME),
    Case("loop_for", "for i = 1, math.huge do end", log=TIME),
    Case("loop_goto", "::again:: goto again", log=TIME),
    Case("loop_of_tail_calls", "local function f() return f() end f()", log=TIME),
    Case("loop_in_coroutine", "coroutine.wrap(function() while true do end end)()", log=TIME),
    Case(
        "loop_of_yields",
        "local c = coroutine.wrap(function() while true do coroutine.yield() end end) while true do c() end",
        log=TIME,
    ),
    Case("loop_in_pcall", "while true do pcall(function() while true do end end) end", log=TIME),
    Case(
        "loop_in_xpcall",
        "while true do xpcall(function() while true do end end, function() while true do end end) end",
        log=TIME,
    ),
    Case("loop_in_error_handler", "xpcall(error, function() while true do end end)", log=TIME),
    Case(
        "loop_in_index",
        "local t = setmetatable({}, { __index = function() while true do end end }) local x = t.a",
        log=TIME,
    ),
    Case("loop_in_tostring", "tostring(setmetatable({}, { __tostring = function() while true do end end }))", log=TIME),
    Case("loop_in_gsub", "string.gsub('x', 'x', function() while true do end end)", log=TIME),
    Case("loop_in_comparator", "table.sort({ 1, 2, 3 }, function() while true do end end)", log=TIME),
    Case("loop_in_reader", "load(function() return 'x = 1 ' end)", log=EITHER),
    Case("loop_of_ksr_calls", "while true do KSR.pv.get('$ru') end", log=TIME),
    Case("loop_of_text", "while true do load(('x = 1 '):rep(100000)) end", log=TIME),
    # ---- functions that stay inside of C
    Case("pattern_that_backtracks", "string.find(('a'):rep(3000), '.-.-.-.-.-b')", log=TIME),
    Case("pattern_of_stars", "string.match(('a'):rep(40), ('a*'):rep(40) .. 'b')", log=TIME),
    Case("pattern_of_options", "string.find(('a'):rep(60), ('a?'):rep(60) .. ('a'):rep(60))", log=TIME),
    Case("pattern_in_gmatch", "for _ in string.gmatch(('a'):rep(5000), '.-.-.-x') do end", log=TIME),
    Case("pattern_in_gsub", "string.gsub(('a'):rep(5000), '.-.-.-x', '')", log=TIME),
    Case("pattern_that_is_balanced", "string.find(('('):rep(200000), '%b()')", log=TIME),
    Case("pattern_that_refers_back", "string.find(('a'):rep(5000), '(.-)(.-)%1%2x')", log=TIME),
    Case("pattern_of_a_huge_class", "string.find(('a'):rep(10000000), '[' .. ('b'):rep(1000000) .. ']')", log=TIME),
    Case("find_long_in_long", "string.find(('a'):rep(10000000), ('a'):rep(5000000) .. 'b', 1, true)", log=TIME),
    Case("copies_of_a_long_text", "local s = ('x'):rep(20000000) while true do s:lower() end", log=TIME),
    Case("concatenations", "local s = ('x'):rep(10000000) while true do local _ = s .. 'a' end", log=TIME),
    Case(
        "sorting",
        "local t = {} for i = 1, 300000 do t[i] = i * 7919 % 1000003 end while true do table.sort(t) end",
        log=TIME,
    ),
    Case("inserting_in_front", "local t = {} for i = 1, 1000000 do table.insert(t, 1, i) end", log=TIME),
    Case("replacing_by_much", "string.gsub(('x'):rep(1000000), 'x', ('%0'):rep(100000))"),
    # ---- memory
    Case("memory_of_a_text", "local s = ('x'):rep(1e9)", log=MEMORY),
    Case("memory_of_doubling", "local s = 'x' while true do s = s .. s end", log=EITHER),
    Case("memory_of_tables", "local t = {} while true do t = { t } end", log=EITHER),
    Case("memory_of_texts", "local t = {} while true do t[#t + 1] = ('x'):rep(1000) .. #t end", log=EITHER),
    Case("memory_of_closures", "local t = {} while true do t[#t + 1] = function() return t end end", log=EITHER),
    Case("memory_of_coroutines", "local t = {} while true do t[#t + 1] = coroutine.create(print) end", log=EITHER),
    Case(
        "memory_in_globals",
        "hoard = hoard or {} while true do hoard[#hoard + 1] = ('x'):rep(100000) .. #hoard end",
        log="started anew",
    ),
    Case(
        "memory_in_pcall",
        "while true do pcall(function() local t = {} while true do t = { t } end end) end",
        log=EITHER,
    ),
    Case(
        "memory_without_collector",
        "collectgarbage('stop') collectgarbage('setpause', 1e9) while true do local t = {} end",
        log=TIME,
    ),
    Case(
        "memory_of_variables",  # what fails is the result of a KSR function on its way into Lua
        """
        KSR.pv.sets("$var(x)", ("0123456789abcdef"):rep(4000))
        local t = {}
        while true do t[#t + 1] = KSR.pv.get("$(var(x){s.substr," .. #t .. ",0})") end
        """,
        log=EITHER,
    ),
    Case(
        "memory_that_is_full_in_pcall",
        """
        local t, size = {}, 4000000
        local function fill() t[#t + 1] = ("x"):rep(size - #t) end
        while size > 100 do if not pcall(fill) then size = size / 2 end end
        """,
        log=EITHER,
    ),
    # ---- depth
    Case("deep_recursion", "local function f() f() f() end f()", log="stack overflow"),
    Case("deep_gsub", "local function f() string.gsub('x', 'x', f) end f()", log="overflow"),
    Case("deep_sort", "local function f() table.sort({ 1, 2, 3 }, f) return true end f()", log="overflow"),
    Case("deep_coroutines", "local function f() coroutine.wrap(f)() end f()"),
    Case(
        "deep_coroutines_of_handlers",
        "local function f() xpcall(error, function() coroutine.wrap(f)() end) end f()",
        status=200,
    ),
    Case(
        "deep_format",
        "local t t = setmetatable({}, { __tostring = function() return string.format('%s', t) end }) tostring(t)",
        log="overflow",
    ),
    Case(
        "deep_time",
        "local t t = setmetatable({}, { __index = function() return os.time(t) end }) os.time(t)",
        log="overflow",
    ),
    Case(
        "deep_tostring",
        "local m = {} m.__tostring = function(t) return 'x' .. tostring(t) end tostring(setmetatable({}, m))",
        log="overflow",
    ),
    Case("deep_handlers", "local function f() xpcall(f, f) error('x') end f()", log=TIME),
    Case("long_source", "assert(load(('x = 1 '):rep(3000000)))", log=EITHER),
    Case(
        "source_of_many_names",
        """
        local text = {}
        for i = 1, 90 do
            local names = {}
            for k = 1, 190 do names[k] = "a" .. i .. "_" .. k end
            text[i] = "local " .. table.concat(names, ",") .. " return function()"
        end
        load(table.concat(text, " ") .. (" x = 1"):rep(600000) .. (" end"):rep(90))
        """,
        log=EITHER,
    ),
    Case(
        "source_of_many_labels",
        """
        local text = {}
        for i = 1, 6000 do text[i] = "goto x ::l" .. i .. "::" end
        assert(load(table.concat(text, " ")))
        """,
        log="too many labels or gotos",
    ),
    Case("long_date", "os.date(('%c'):rep(1000000))", log="too long"),
    Case("deep_source", "assert(load('return ' .. ('('):rep(100000) .. '1' .. (')'):rep(100000)))", log="levels"),
    Case("deep_pattern", "string.find(('a'):rep(300000), ('.-'):rep(3000) .. 'b')", log="too complex"),
    Case("deep_calls_of_itself", "KSR.app_lua.run('again')", status=200),
    # ---- ends
    Case("exit", "os.exit(3)", status=0),
    Case("exit_in_pcall", "pcall(os.exit, 3)", status=0),
    Case("error_of_nothing", "error()", log="error object is a nil value"),
    Case("error_that_is_huge", "error(('x'):rep(10000000))", log="xxx..."),
    Case(
        "error_that_is_a_table",
        "error(setmetatable({}, { __tostring = function() while true do end end }))",
        log="is a table value",
    ),
    Case("error_in_error_handler", "xpcall(error, function() error('x') end) error('done')", log="done"),
    Case("yield_of_the_route", "coroutine.yield()", log="yield"),
    # ---- what is out of reach
    Case("reach_for_files", "io.open('/etc/passwd')", log="'io'"),
    Case("reach_for_a_shell", "os.execute('kill -9 $PPID')", log="'execute'"),
    Case("reach_for_libraries", "package.loadlib('libc.so.6', 'abort')()", log="'loadlib'"),
    Case("reach_for_ffi", "require('ffi').C.abort()", log="module 'ffi' not found"),
    Case("reach_for_debug", "debug.sethook()", log="'sethook'"),
    Case("reach_for_bytecode", "assert(loadstring('\\27LJ\\2\\n\\0'))", log="attempt to load"),
    Case("reach_for_python", "KSR.pv.get.__globals__.os._exit(1)"),
    Case(
        "reach_for_environments",
        "setfenv(0, {}) setfenv(pcall, {}) for _, f in pairs(KSR.pv) do pcall(setfenv, f, {}) end",
        status=200,
    ),
    Case(
        "reach_for_texts",
        "getmetatable('').__index = nil local ok = pcall(function() return ('x'):rep(2) end) getmetatable('').__index = string"
        " assert(not ok)",
        status=200,
    ),
    Case("reach_for_a_file_above", "dofile('../../../etc/passwd')", log="cannot open"),
    # ---- wrong types
    *(Case(f"wrong_types_{part}", WRONG_TYPES.replace("PART", str(part)), status=ANY) for part in range(PARTS)),
]
