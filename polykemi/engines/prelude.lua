-- The Lua side of the Lua engine: what ends a route, and the entry into the script's functions.
--
-- Law: what ends a route (KSR.x.exit(), the limits of time and memory) can be caught by nothing that a script can call, and a script
-- reaches nothing but what sandbox.lua gives it. Both rest on this: everything used below is a local of this chunk, taken before the
-- script can change it, and only closures go out.
--
-- Script code runs on threads (coroutines) of ours, never on the state's main thread: lupa makes every call into Lua on
-- the main thread, which must therefore be idle when a KSR function, called by a script's coroutine, comes back in.

local host, script_directory = ...

local EXIT = "~~ksr~exit~~" -- Kamailio's error value; scripts raise it themselves too: error("~~ksr~exit~~", 0)
local TIMEOUT, MEMORY = {}, {} -- no script ever gets hold of these
local ENDED = "ended itself while it was loading"
local FULL = "not enough memory" -- what LuaJIT raises when the allocator gives nothing
local DEEPEST = 190 -- coroutines in coroutines, error handlers in error handlers: each uses the C stack (LUAI_MAXCCALLS)
local MESSAGE = 1000 -- octets of an error message that go into the log

local G, jit, debug, package = _G, jit, debug, package
local error, pairs, rawget, select, tonumber, tostring, type = error, pairs, rawget, select, tonumber, tostring, type
local native_load, native_pcall, native_xpcall = load, pcall, xpcall
local byte, find, gsub, sub = string.byte, string.find, string.gsub, string.sub
local create, resume, running, yield = coroutine.create, coroutine.resume, coroutine.running, coroutine.yield
local getinfo, sethook, traceback = debug.getinfo, debug.sethook, debug.traceback
local collect, unpack, loaded = collectgarbage, unpack, package.loaded
local as_function = python.as_function
local classify, expired = as_function(host.classify), as_function(host.expired)

local function function_of_c(kind, address)
  local ffi = require "ffi"
  return ffi.cast(kind, ffi.cast("uintptr_t", address))
end
local has_gil = function_of_c("int (*)(void)", host.has_gil)
local release_gil = function_of_c("void *(*)(void)", host.release_gil)

native_load(host.bounded, "=polykemi", "t")(native_load(host.patterns, "=polykemi", "t")())

jit.off() -- faster for code that calls out all the time, and only then do hooks see every loop

-- What ends a route -------------------------------------------------------------------------------------------------

-- Errors from Python arrive as userdata, which no script may see: Exit becomes EXIT, what is not Lua's to catch stays,
-- all else becomes text.
local stopping -- the limit that was reached: from then on every error is that one (a full stack makes it another)

-- A Python function whose result found no memory: LuaJIT's error has left lupa in the middle, with the GIL taken, for which the next
-- one that wants it would wait for ever.
local function give_gil_back()
  if has_gil() == 1 then release_gil() end
end

local function plain(e)
  if e == FULL then
    give_gil_back()
    stopping = stopping or MEMORY
  end
  if stopping then return stopping, true end
  if type(e) ~= "userdata" then return e, e == EXIT or e == TIMEOUT or e == MEMORY end
  local kind, text = classify(e)
  if kind == "exit" then return EXIT, true end
  if kind == "fatal" then return e, true end
  return text, false
end

local function passed(ok, ...)
  if ok and not stopping then return true, ... end
  local e, ends = plain((...))
  if ends then error(e, 0) end
  return false, e
end

-- Raises the limit that was reached: for functions of C that take errors and return them.
local function stop(e)
  local shown, ends = plain(e)
  if ends then error(shown, 0) end
end

function pcall(...) return passed(native_pcall(...)) end

local handling = 0 -- error handlers that run

function xpcall(f, handler, ...)
  return passed(native_xpcall(f, function(e)
    local shown, ends = plain(e)
    if ends then return shown end
    if handling >= DEEPEST then return "error in error handling" end
    handling = handling + 1
    local ok, result = native_pcall(handler, shown)
    handling = handling - 1
    return ok and result or (plain(result)) -- an exit in the handler is an exit too
  end, ...))
end

local OURS, SCRIPT = 1, 2 -- what runs on one of our threads: code of ours; a function of the script, and ``guard`` takes what the hook raises
local entries = setmetatable({}, { __mode = "k" }) -- our threads, which are no coroutines to the script -> OURS or SCRIPT
local current -- the thread that runs now
local depth = 0 -- coroutines that wait for one that they have resumed
local loading = false -- the script's file is run

local function came_back(outer, ...)
  current = outer
  depth = depth - 1
  return passed(...)
end

local function resumed(co, ...)
  if depth >= DEEPEST then return false, "C stack overflow" end
  local outer = current
  current = co
  depth = depth + 1
  return came_back(outer, resume(co, ...))
end

coroutine.resume = resumed

function coroutine.running()
  local co = running()
  if not entries[co] then return co end
end

function coroutine.isyieldable() return not entries[running()] end

function coroutine.yield(...)
  if entries[running()] then error("attempt to yield across C-call boundary", 2) end
  return yield(...)
end

function coroutine.wrap(f)
  local co = create(f)
  local function unwrapped(ok, ...)
    if ok then return ... end
    local e = ...
    error(e, type(e) == "string" and 2 or 0) -- the native one adds the position as well
  end
  return function(...) return unwrapped(resumed(co, ...)) end
end

-- Where the script stands -------------------------------------------------------------------------------------------

local compile, full_names = native_load(host.sandbox, "=polykemi", "t")(host, script_directory, stop)

local function location(thread, level)
  for i = level, level + 100 do
    local info = getinfo(thread, i, "Sl")
    if not info then return nil, nil end
    if byte(info.source) == 64 then return sub(info.source, 2), info.currentline end -- "@file"
  end
end

-- The error handler of every entry: runs where the error happened, while the stack still stands.
local function failure(e)
  entries[running()] = OURS -- nothing of the script is called any more
  local shown, ends = plain(e)
  if shown == EXIT then
    if not loading then return EXIT end
    shown, ends = ENDED, false
  end
  local file, line = location(running(), 2)
  if shown == TIMEOUT or shown == MEMORY then
    return { shown == TIMEOUT and "timeout" or "memory", "", file, line, traceback("", 2) }
  end
  local exception = type(e) == "userdata" and e or nil
  if type(shown) == "string" then
    if #shown > MESSAGE then shown = sub(shown, 1, MESSAGE) .. "..." end
    shown = gsub(shown, "^polykemi:%d+: ", "")
    local from, _, short, at = find(shown, "^(.-):(%d+): ")
    if from and full_names[short] then
      file, line, shown = full_names[short], tonumber(at), sub(shown, #short + #at + 4)
    end
  elseif type(shown) ~= "number" and not ends then
    shown = "(error object is a " .. type(shown) .. " value)"
  end
  return { ends and "fatal" or "error", shown, file, line, traceback("", 2), exception }
end

-- Nothing when the script came to its end, else: kind (error, timeout, memory or fatal), message, file, line, traceback,
-- exception.
local function outcome(ok, e)
  if ok or e == EXIT then return end
  if e == TIMEOUT then return "timeout", "" end
  if e == MEMORY then
    collect() -- LuaJIT does not by itself when an allocation fails
    return "memory", ""
  end
  if type(e) ~= "table" then return "error", tostring(e) end -- too little stack for the handler
  return e[1], e[2], e[3], e[4], e[5], e[6]
end

KSR, KSRVERSION = {}, "2.0"

local library = {} -- what stands in G before the script
for name, value in pairs(G) do
  library[name] = value
end

-- What Python calls -------------------------------------------------------------------------------------------------

local entry = {}

function entry.export(module, name, f, ends)
  local ksr = KSR
  if module ~= "" then
    ksr[module] = ksr[module] or {}
    ksr = ksr[module]
  end
  f = as_function(f)
  if ends then -- an exit costs 2.4 us in this way, 3.6 us as a Python exception through lupa
    ksr[name] = function(...)
      local result = f(...)
      if result == EXIT then error(EXIT, 0) end
      return result
    end
  else
    ksr[name] = f
  end
end

local function left(me, outer_depth, outer_handling, ok, e)
  if ok and not stopping then return true end -- nothing was cut off: all counts are what they were
  entries[me], depth, handling = OURS, outer_depth, outer_handling
  if not ok and type(e) ~= "table" then e = plain(e) end
  if stopping and (ok or type(e) ~= "table") then ok, e = false, stopping end -- the report failed, or the script had just ended
  stopping = nil
  return ok, e
end

local function run(me, f, ...)
  entries[me] = SCRIPT
  f(...)
  entries[me] = OURS
end

-- Calls a function of the script on our thread ``me``.
local function guard(me, f, ...) return left(me, depth, handling, native_xpcall(run, failure, me, f, ...)) end

-- Returns what is to be run as a thread: it loads a script and yields the outcome.
function entry.loader(text, file)
  return function()
    local me, chunk, problem = running(), nil, nil
    entries[me], current = OURS, me
    local ok, e = guard(me, function()
      chunk, problem = compile(text, "@" .. file, G)
      loading = true
      if chunk then chunk() end
    end)
    loading = false
    if not problem then yield(outcome(ok, e)) end
    local _, _, line, cause = find(problem, "^.-:(%d+): (.*)$")
    yield("error", cause or problem, file, line and tonumber(line))
  end
end

function entry.functions()
  local names, n = {}, 0
  for name, value in pairs(G) do
    if type(value) == "function" and type(name) == "string" and library[name] ~= value then
      n = n + 1
      names[n] = name
    end
  end
  return names
end

-- Returns what is to be run as a thread: each time it is resumed it calls the script's function ``name`` and yields the
-- outcome. The function is looked up each time, for scripts may set their globals at any time.
function entry.handler(name)
  if type(rawget(G, name)) ~= "function" then return nil end
  return function()
    local me = running()
    entries[me] = OURS
    local argument = yield()
    while true do
      local outer, ok, e = current, nil, nil
      current = me
      if argument == nil then
        ok, e = guard(me, rawget(G, name))
      else
        ok, e = guard(me, rawget(G, name), argument)
      end
      current = outer
      argument = yield(outcome(ok, e))
    end
  end
end

-- Returns what is to be run as a thread: it calls the script's function ``name`` and yields ("result", value) for a number
-- or a text that this gives, else the outcome; nil when there is no such function.
function entry.invoker(name, ...)
  local f = rawget(G, name)
  if type(f) ~= "function" then return nil end
  return entry.runner(f, ...)
end

function entry.runner(f, ...)
  local arguments, count = { ... }, select("#", ...)
  return function()
    local me, outer, result = running(), current, nil
    entries[me], current = OURS, me
    local ok, e = guard(me, function() result = f(unpack(arguments, 1, count)) end)
    current = outer
    if ok and (type(result) == "number" or type(result) == "string") then yield("result", result) end
    yield(outcome(ok, e))
  end
end

-- Returns the function that runs ``text``, or nil and what is wrong with it.
function entry.compiled(text, apart)
  local environment = G
  if apart then
    environment = {}
    for name, value in pairs(library) do
      environment[name] = value
    end
    environment._G = environment
  end
  return compile(text, "=(text)", environment)
end

function entry.where()
  local file, line
  if current then file, line = location(current, 0) end
  if file then return file .. ":" .. line end
  return script_directory
end

function entry.heap()
  collect()
  return collect("count") * 1024
end

-- Lets go of all that the script holds.
function entry.drop()
  for _, place in pairs({ G, loaded, entries }) do
    for name in pairs(place) do
      place[name] = nil
    end
  end
  collect()
end

entry.anchor = create(function() end)
entry.address = tostring(entry.anchor) -- "thread: 0x..."

function entry.watch(instructions, octets)
  sethook(function(event)
    local me = running()
    if me ~= current or not me or entries[me] == OURS then return end
    if event == "line" and expired() then
      stopping = TIMEOUT
      error(TIMEOUT, 0)
    end
    if octets > 0 and collect("count") * 1024 > octets and entry.heap() > octets then
      stopping = MEMORY
      error(MEMORY, 0)
    end
  end, "", instructions)
end

return entry
