-- The Lua side of the Lua engine: the sandbox, what ends a route, and the entry into the script's functions.
--
-- Law: a script reaches Lua's pure libraries, KSR and the Lua files of its own directory (and the configured path), nothing else
-- unless the configuration allows it; and what ends a
-- route (KSR.x.exit(), the limits of time and memory) can be caught by nothing that a script can call. Both rest on
-- this: everything used below is a local of this chunk, taken before the script can change it, and only closures go out.
--
-- Script code runs on threads (coroutines) of ours, never on the state's main thread: lupa makes every call into Lua on
-- the main thread, which must therefore be idle when a KSR function, called by a script's coroutine, comes back in.

local host, script_directory = ...

local EXIT = "~~ksr~exit~~" -- Kamailio's error value; scripts raise it themselves too: error("~~ksr~exit~~", 0)
local TIMEOUT, MEMORY = {}, {} -- no script ever gets hold of these
local DEEPEST = 190 -- coroutines in coroutines, error handlers in error handlers: each uses the C stack (LUAI_MAXCCALLS)
local SOURCE = 2 ^ 23 -- octets of a text that is loaded: a tenth of a second
local MESSAGE = 1000 -- octets of an error message that go into the log

local G, python, jit, debug, package = _G, python, jit, debug, package
local error, pairs, rawget, select, tonumber, tostring, type = error, pairs, rawget, select, tonumber, tostring, type
local native_load, native_pcall, native_xpcall = load, pcall, xpcall
local byte, find, gsub, sub, concat = string.byte, string.find, string.gsub, string.sub, table.concat
local string_gmatch = string.gmatch
local create, resume, running, yield = coroutine.create, coroutine.resume, coroutine.running, coroutine.yield
local getinfo, sethook, traceback = debug.getinfo, debug.sethook, debug.traceback
local collect, unpack = collectgarbage, unpack
local as_function, proxy = python.as_function, newproxy
local json_source, allow = host.json, host.allow
local classify, expired, read, say = as_function(host.classify), as_function(host.expired), as_function(host.read),
  as_function(host.say)

native_load(host.bounded, "=polykemi", "t")()

jit.off() -- faster for code that calls out all the time, and only then does the count hook see every loop

-- What ends a route -------------------------------------------------------------------------------------------------

-- Errors from Python arrive as userdata, which no script may see: Exit becomes EXIT, what is not Lua's to catch stays,
-- all else becomes text.
local stopping -- the limit that was reached: from then on every error is that one (a full stack makes it another)

local function plain(e)
  if stopping then return stopping, true end
  if type(e) ~= "userdata" then return e, e == EXIT or e == TIMEOUT or e == MEMORY end
  local kind, text = classify(e)
  if kind == "exit" then return EXIT, true end
  if kind == "fatal" then return e, true end
  return text, false
end

local function passed(ok, ...)
  if stopping then error(stopping, 0) end
  if ok then return true, ... end
  local e, ends = plain((...))
  if ends then error(e, 0) end
  return false, e
end

function pcall(...) return passed(native_pcall(...)) end

local handling = 0 -- error handlers that run

function xpcall(f, handler, ...)
  return passed(native_xpcall(f, function(e)
    local shown, ends = plain(e)
    if ends then return shown end
    if handling >= DEEPEST then return "error in error handling" end
    handling = handling + 1
    local _, result = native_pcall(handler, shown) -- an exit in the handler is an exit too
    handling = handling - 1
    return result
  end, ...))
end

local entries = setmetatable({}, { __mode = "k" }) -- our threads, which are no coroutines to the script
local current -- the thread that runs now
local guarded = false -- whether a function of the script runs, with something below it that takes what the hook raises
local depth = 0 -- coroutines that wait for one that they have resumed

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

local full_names = {} -- as error messages shorten the name of a chunk -> its whole name

local function location(thread, level)
  for i = level, level + 100 do
    local info = getinfo(thread, i, "Sl")
    if not info then return nil, nil end
    if byte(info.source) == 64 then return sub(info.source, 2), info.currentline end -- "@file"
  end
end

-- The error handler of every entry: runs where the error happened, while the stack still stands.
local function failure(e)
  guarded = false -- nothing of the script is called any more
  local shown, ends = plain(e)
  if shown == EXIT then return EXIT end
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
  if e == "not enough memory" then
    collect() -- LuaJIT does not by itself when an allocation fails
    return "memory", ""
  end
  if type(e) ~= "table" then return "error", tostring(e) end -- too little memory or stack for the handler
  return e[1], e[2], e[3], e[4], e[5], e[6]
end

-- Loading -----------------------------------------------------------------------------------------------------------

local function compile(text, name, environment)
  if byte(text) == 35 then text = "--" .. text end -- "#!": as luaL_loadfile skips it
  local chunk, problem = native_load(text, name, "t", environment)
  if chunk then full_names[getinfo(chunk, "S").short_src] = byte(name) == 64 and sub(name, 2) or nil end
  return chunk, problem
end

local function load_text(text, name, _, ...)
  if type(text) == "function" then -- read to its end here: the native one would catch what ends a route
    local reader, pieces = text, {}
    for piece in reader do
      if piece == "" then break end
      pieces[#pieces + 1] = piece
    end
    text, name = concat(pieces), name or "=(load)"
  end
  if type(text) == "string" and #text > SOURCE then return nil, "the text is too long" end
  if select("#", ...) > 0 then return native_load(text, name, "t", (...)) end
  return native_load(text, name, "t")
end

function load(text, name, mode, ...) return load_text(text, name, mode, ...) end

function loadstring(text, name) return load_text(text, name) end

local function load_file(path)
  local text, name = read(path)
  if not text then return nil, "cannot open " .. tostring(path) .. ": no such file in the script's directory" end
  return compile(text, "@" .. name, G)
end

loadfile = load_file

function dofile(path)
  local chunk, problem = load_file(path)
  if not chunk then error(problem, 0) end
  return chunk()
end

local loaded = package.loaded

-- Returns what loads the module ``name`` from anywhere on the machine, of Lua or of C, where that is allowed.
local function host_module(name)
  for _, loader in pairs(allow.package and package.loaders or {}) do
    local found = loader(name)
    if type(found) == "function" then return found end
  end
end

local seeall, native_module = package.seeall, module

function module(name, ...)
  for i = 1, select("#", ...) do
    if select(i, ...) ~= seeall then error("module: only package.seeall is known", 2) end -- C would call the others
  end
  return native_module(name, ...)
end

function require(name)
  if type(name) ~= "string" then error("bad argument #1 to 'require' (string expected)", 2) end
  if loaded[name] ~= nil then return loaded[name] end
  local chunk
  if type(package.preload) == "table" then chunk = package.preload[name] end
  if not chunk then
    local path, text, file = gsub(name, "%.", "/"), nil, nil
    local tried = ""
    for pattern in string_gmatch(tostring(package.path), "[^;]+") do
      local place = gsub(pattern, "%?", (gsub(path, "%%", "%%%%")))
      text, file = read(place)
      if text then break end
      tried = tried .. "\n\tno file '" .. place .. "'"
    end
    if text then
      local problem
      chunk, problem = compile(text, "@" .. file, G)
      if not chunk then error("error loading module '" .. name .. "': " .. problem, 0) end
    else
      chunk = host_module(name)
      if not chunk then error("module '" .. name .. "' not found:" .. tried, 2) end
    end
  end
  loaded[name] = true
  local ok, value = native_pcall(chunk, name)
  if not ok then
    loaded[name] = nil
    error(value, 0)
  end
  if value ~= nil then loaded[name] = value end
  return loaded[name]
end

-- The sandbox -------------------------------------------------------------------------------------------------------

for _, name in pairs({ "ffi", "jit", "io", "debug", "python" }) do
  if not allow[name] then
    G[name], loaded[name] = nil, nil
  end
end
newproxy = nil -- a way to a finalizer, which no hook can stop
string.dump = nil
if not allow.debug then
  G.debug = { traceback = traceback }
  loaded.debug = G.debug
end
for _, name in pairs({ "execute", "getenv", "remove", "rename", "setlocale", "tmpname" }) do
  if not allow.os then os[name] = nil end
end
function os.exit() error(EXIT, 0) end
for name in pairs(loaded) do
  if find(name, "^jit%.") and not allow.jit then loaded[name] = nil end
end
local ffi = package.preload.ffi
if not allow.package then
  for name in pairs(package) do
    if name ~= "loaded" and name ~= "seeall" and name ~= "config" then package[name] = nil end
  end
  package.preload, package.cpath = {}, ""
end
package.preload.ffi = allow.ffi and ffi or nil
package.path = script_directory .. "/?.lua;" .. script_directory .. "/?/init.lua" ..
  (host.path ~= "" and ";" .. host.path or "")

local json_modules
for i, name in pairs({ "cjson", "cjson.safe" }) do
  package.preload[name] = function()
    json_modules = json_modules or { native_load(json_source, "=cjson", "t", G)(proxy()) }
    return json_modules[i]
  end
end

function collectgarbage(option)
  if option == "count" then return collect("count") end
  if option == nil or option == "collect" or option == "step" then return collect(option or "collect", 0) end
  return 0 -- the collector's pace is the server's
end

function print(...)
  local texts = {}
  for i = 1, select("#", ...) do
    texts[i] = tostring((select(i, ...)))
  end
  say(concat(texts, "\t"))
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

local function left(outer, ok, e)
  guarded = outer
  local stopped = stopping
  stopping = nil
  if stopped and (ok or type(e) ~= "table") then return false, { stopped == TIMEOUT and "timeout" or "memory", "" } end
  return ok, e
end

-- Calls a function of the script.
local function guard(f, ...)
  local outer = guarded
  guarded = true
  return left(outer, native_xpcall(f, failure, ...))
end

-- Returns what is to be run as a thread: it loads a script and yields the outcome.
function entry.loader(text, file)
  return function()
    current = running()
    entries[current] = true
    local chunk, problem = compile(text, "@" .. file, G)
    if chunk then yield(outcome(guard(chunk))) end
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
    entries[me] = true
    local argument = yield()
    while true do
      local outer, ok, e = current, nil, nil
      current = me
      if argument == nil then
        ok, e = guard(rawget(G, name))
      else
        ok, e = guard(rawget(G, name), argument)
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
    entries[me] = true
    current = me
    local ok, e = guard(function() result = f(unpack(arguments, 1, count)) end)
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
    if event == "line" and expired() and guarded then
      stopping = TIMEOUT
      error(TIMEOUT, 0)
    end
    if guarded and octets > 0 and collect("count") * 1024 > octets and entry.heap() > octets then
      stopping = MEMORY
      error(MEMORY, 0)
    end
  end, "", instructions)
end

return entry
