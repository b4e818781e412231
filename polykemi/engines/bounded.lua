-- The functions of Lua's libraries that can stay inside of C for long, or call back from there: bounded.
--
-- No hook stops a C function. So string.find, match, gmatch and gsub look first at how many steps their pattern may take
-- at most on as long a subject (worked out once for each pattern). What may take too many is matched by code of the same semantics in
-- patterns.lua, where the hook of the time limit counts; all else, which is nearly everything, goes to the native function.
-- And no C function calls the script: a recursion through one (a callback of gsub that calls gsub) would use up the C stack
-- before Lua's own, which ends the process.
--
-- Gets what patterns.lua gives, and the pristine libraries; puts its functions in the place of theirs.

local patterns = ...

local string, table, os = string, table, os
local byte, find, sub, concat = string.byte, string.find, string.sub, table.concat
local native_match, native_gmatch, native_gsub = string.match, string.gmatch, string.gsub
local native_format, native_sort, native_time, native_date = string.format, table.sort, os.time, os.date
local error, pairs, rawget, select, tonumber, tostring, type, unpack = error, pairs, rawget, select, tonumber, tostring, type, unpack
local floor, max, min = math.floor, math.max, math.min
local STEPS, OCTETS, longest, is_short, is_pattern = patterns.STEPS, patterns.OCTETS, patterns.longest, patterns.is_short, patterns.is_pattern
local plain_find, search, captures = patterns.plain_find, patterns.search, patterns.captures

local SORTED = 20000 -- elements that the native sort may sort: some 5 ms
local FORMAT = 1000 -- octets of a format of dates

local function slow_find(s, p, at)
  local from, behind, m = search(s, p, at)
  if from then return from, behind - 1, captures(m, from, behind, true) end
  return nil
end

-- Returns where a search from ``init`` on begins, as LuaJIT reads it.
local function beginning(s, init)
  init = floor(init or 1)
  if init < 0 then init = #s + init + 1 end
  return min(max(init, 1), #s + 1)
end

-- Tells whether the native function may do it: as it is short, or is a mistake that the native one names.
local function is_native(s, p, init)
  local kind = type(s)
  if kind == "number" then
    s = tostring(s)
  elseif kind ~= "string" then
    return true
  end
  if type(p) == "number" then p = tostring(p) end
  return type(p) ~= "string" or (init ~= nil and type(init) ~= "number") or is_short(s, p)
end

local function bounded_find(s, p, init, plain)
  if plain and type(s) == "string" and type(p) == "string" and (init == nil or type(init) == "number") then
    if #p * #s <= OCTETS then return find(s, p, init, true) end
  elseif is_native(s, p, init) then
    return find(s, p, init, plain)
  end
  local at = beginning(s, init)
  if plain or not is_pattern(p) then return plain_find(s, p, at) end
  return slow_find(s, p, at)
end

-- The first line of each is what ordinary calls pay: a look at the table.
function string.find(s, p, init, plain)
  local length = longest[p]
  if length and not plain and type(s) == "string" and #s <= length then return find(s, p, init) end
  return bounded_find(s, p, init, plain)
end

function string.match(s, p, init)
  local length = longest[p]
  if length and type(s) == "string" and #s <= length or is_native(s, p, init) then return native_match(s, p, init) end
  local from, behind, m = search(s, p, beginning(s, init))
  if from then return captures(m, from, behind) end
  return nil
end

function string.gmatch(s, p)
  if type(p) == "string" and byte(p) == 94 then p = "%" .. p end -- "^" means itself here
  if is_native(s, p) then return native_gmatch(s, p) end
  local at = 1
  return function()
    if at > #s + 1 then return nil end
    local from, behind, m = search(s, p, at)
    if not from then
      at = #s + 2
      return nil
    end
    at = behind > from and behind or behind + 1
    return captures(m, from, behind)
  end
end
string.gfind = string.gmatch

-- Returns the function of the captures that gives what the text ``repl`` stands for.
local function replacement(repl)
  return function(whole, ...)
    local pieces, n, at = {}, 0, 1
    while true do
      local escape = find(repl, "%", at, true)
      n = n + 1
      pieces[n] = sub(repl, at, (escape or 0) - 1)
      if not escape then return concat(pieces) end
      local c = byte(repl, escape + 1)
      n = n + 1
      if c and c >= 48 and c <= 57 then
        local number = c - 48
        if number > 0 and number > max(1, select("#", ...)) then error("invalid capture index", 0) end
        local value = whole
        if number > 0 and select("#", ...) > 0 then value = select(number, ...) end
        pieces[n] = tostring(value)
      else
        pieces[n] = sub(repl, escape + 1, escape + 1)
      end
      at = escape + 2
    end
  end
end

-- string.gsub by means of ``search_on`` (as string.find), which calls no function of the script from C.
local function substituted(s, p, repl, limit, search_on)
  local kind = type(repl)
  local expand = kind == "string" and replacement(repl)
  local pieces, n, count, at = {}, 0, 0, 1

  local function go_on(from, to, ...)
    if not from then return false end
    local whole, value = sub(s, from, to), nil
    if expand then
      value = expand(whole, ...)
    elseif kind == "table" then
      value = repl[select("#", ...) > 0 and ... or whole]
    elseif select("#", ...) > 0 then
      value = repl(...)
    else
      value = repl(whole)
    end
    if not value then
      value = whole
    elseif type(value) ~= "string" and type(value) ~= "number" then
      error("invalid replacement value (a " .. type(value) .. ")", 0)
    end
    count = count + 1
    pieces[n + 1], pieces[n + 2], n = sub(s, at, from - 1), value, n + 2
    if to >= from then
      at = to + 1
      return true
    end
    at = from + 1
    n = n + 1
    pieces[n] = sub(s, from, from)
    return from <= #s
  end

  local anchored = byte(p) == 94
  while count < limit and go_on(search_on(s, p, at)) and not anchored do
  end
  pieces[n + 1] = sub(s, at)
  return concat(pieces), count
end

local function bounded_gsub(s, p, repl, limit)
  local kind = type(repl)
  if type(s) == "number" then s = tostring(s) end
  if type(p) == "number" then p = tostring(p) end
  if kind == "number" then repl, kind = tostring(repl), "string" end
  if type(s) ~= "string" or type(p) ~= "string" or kind ~= "string" and kind ~= "table" and kind ~= "function" then
    return native_gsub(s, p, repl, limit) -- says what is wrong
  end
  if limit ~= nil and not tonumber(limit) then return native_gsub(s, p, "", limit) end -- says so too
  limit = tonumber(limit) or #s + 1
  local short = is_short(s, p)
  if short and kind == "string" and #s * (#repl + 1) <= STEPS then return native_gsub(s, p, repl, limit) end
  return substituted(s, p, repl, limit, short and is_pattern(p) and find or slow_find)
end

function string.gsub(s, p, repl, limit)
  local length = longest[p]
  if length and type(repl) == "string" and type(s) == "string" and #s <= length and #s * (#repl + 1) <= STEPS then
    return native_gsub(s, p, repl, limit)
  end
  return bounded_gsub(s, p, repl, limit)
end

-- What else takes long, or calls back from C -------------------------------------------------------------------------

local function with_texts(...)
  local arguments, count = { ... }, select("#", ...)
  for i = 2, count do
    local kind = type(arguments[i])
    if kind == "table" or kind == "userdata" then arguments[i] = tostring(arguments[i]) end
  end
  return native_format(unpack(arguments, 1, count))
end

function string.format(...)
  for i = 2, select("#", ...) do
    local kind = type((select(i, ...)))
    if kind == "table" or kind == "userdata" then return with_texts(...) end -- __tostring
  end
  return native_format(...)
end

local function less(a, b) return a < b end

local function sort(t, low, high, before)
  while low < high do
    local middle = floor((low + high) / 2)
    if before(t[middle], t[low]) then t[low], t[middle] = t[middle], t[low] end
    if before(t[high], t[middle]) then
      t[middle], t[high] = t[high], t[middle]
      if before(t[middle], t[low]) then t[low], t[middle] = t[middle], t[low] end
    end
    if high - low < 3 then return end
    local pivot, i, j = t[middle], low + 1, high - 1
    while i <= j do
      while before(t[i], pivot) do
        if i >= high then error("invalid order function for sorting", 0) end
        i = i + 1
      end
      while before(pivot, t[j]) do
        if j <= low then error("invalid order function for sorting", 0) end
        j = j - 1
      end
      if i <= j then
        t[i], t[j] = t[j], t[i]
        i, j = i + 1, j - 1
      end
    end
    if j - low < high - i then -- the shorter part first: so it never goes deep
      sort(t, low, j, before)
      low = i
    else
      sort(t, i, high, before)
      high = j
    end
  end
end

local function is_plain(t, count)
  for i = 1, count do
    local kind = type(rawget(t, i))
    if kind ~= "number" and kind ~= "string" then return false end
  end
  return true
end

function table.sort(t, before)
  if type(t) ~= "table" or before ~= nil and type(before) ~= "function" then return native_sort(t, before) end
  local count = #t
  if before == nil and count <= SORTED and is_plain(t, count) then return native_sort(t) end
  sort(t, 1, count, before or less)
end

function os.date(format, time)
  if type(format) == "string" and #format > FORMAT then error("bad argument #1 to 'date' (too long)", 2) end
  return native_date(format, time)
end

function os.time(t)
  if type(t) ~= "table" then return native_time(t) end
  local fields = {}
  for _, name in pairs({ "year", "month", "day", "hour", "min", "sec", "isdst" }) do
    fields[name] = t[name]
  end
  return native_time(fields)
end
