-- What a Lua script can reach: the pure libraries, and through load, require and dofile Lua text and the Lua files of its own
-- directory (and the configured path); nothing else unless the configuration allows it.
--
-- Gets the host, the script's directory and what raises errors that end a route; gives the function that compiles a file, and the whole
-- names of files that error messages shorten.

local host, script_directory, stop = ...

local EXIT = "~~ksr~exit~~"
local PIECE = 4096 -- octets that the parser is given at once: the time limit holds from one piece to the next
local JUMPS = 5000 -- labels, and gotos, in a text that a script loads: the parser compares each with all the others

local G, debug, package = _G, debug, package
local error, pairs, select, tostring, type = error, pairs, select, tostring, type
local native_load, native_pcall, native_module = load, pcall, module
local byte, find, gmatch, gsub, sub, concat = string.byte, string.find, string.gmatch, string.gsub, string.sub, table.concat
local getinfo, traceback, seeall = debug.getinfo, debug.traceback, package.seeall
local collect, proxy, as_function = collectgarbage, newproxy, python.as_function
local allow, json_source = host.allow, host.cjson
local read, say = as_function(host.read), as_function(host.say)

-- Loading -----------------------------------------------------------------------------------------------------------

-- As the native load, in pieces.
local function parse(text, name, ...)
  if type(text) == "string" and #text > PIECE then
    local whole, at = text, 1 - PIECE
    name = name or whole
    text = function()
      at = at + PIECE
      return sub(whole, at, at + PIECE - 1)
    end
  end
  local chunk, problem = native_load(text, name, "t", ...)
  if not chunk then stop(problem) end
  return chunk, problem
end

local full_names = {} -- as error messages shorten the name of a chunk -> its whole name

local function compile(text, name, environment)
  if byte(text) == 35 then text = "--" .. text end -- "#!": as luaL_loadfile skips it
  local chunk, problem = parse(text, name, environment)
  if chunk then full_names[getinfo(chunk, "S").short_src] = byte(name) == 64 and sub(name, 2) or nil end
  return chunk, problem
end

local function has_many(text, part)
  local at, count = find(text, part, 1, true), 0
  while at and count <= JUMPS do
    at, count = find(text, part, at + #part, true), count + 1
  end
  return count > JUMPS
end

local function load_text(text, name, ...)
  if type(text) == "function" then -- read to its end here: the native one would catch what ends a route
    local reader, pieces = text, {}
    for piece in reader do
      if piece == "" then break end
      pieces[#pieces + 1] = piece
    end
    text, name = concat(pieces), name or "=(load)"
  end
  if type(text) == "string" and (has_many(text, "goto") or has_many(text, "::")) then
    return nil, "the text has too many labels or gotos"
  end
  return parse(text, name, ...)
end

function load(text, name, _, ...)
  if select("#", ...) > 0 then return load_text(text, name, (...)) end
  return load_text(text, name)
end

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
    for pattern in gmatch(tostring(package.path), "[^;]+") do
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

return compile, full_names
