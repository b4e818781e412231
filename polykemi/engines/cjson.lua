-- require("cjson") and require("cjson.safe") for scripts: JSON as the library lua-cjson 2.1 reads and writes it.
--
-- Loaded inside of the sandbox when a script asks for it; the chunk is given cjson.null and returns the two modules.

local null = ...

local byte, char, concat, find, floor, format, gsub, huge, match, sub =
  string.byte, string.char, table.concat, string.find, math.floor, string.format, string.gsub, math.huge, string.match, string.sub
local error, pairs, pcall, rawget, select, tonumber, tostring, type =
  error, pairs, pcall, rawget, select, tonumber, tostring, type

-- Writing -----------------------------------------------------------------------------------------------------------

local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["/"] = "\\/", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function escape(c) return escapes[c] or format("\\u%04x", byte(c)) end

local function quoted(text) return '"' .. gsub(text, '[%z\1-\31"\\/\127]', escape) .. '"' end

local function refuse(value, why) error("Cannot serialise " .. type(value) .. ": " .. why, 0) end

-- The length of an array; nil when the table is an object.
local function array_length(t, options)
  local most, items = 0, 0
  for k in pairs(t) do
    if type(k) ~= "number" or k < 1 or floor(k) ~= k then return nil end
    if k > most then most = k end
    items = items + 1
  end
  if items == 0 then return nil end
  local sparse = options.sparse_ratio > 0 and most > items * options.sparse_ratio and most > options.sparse_safe
  if not sparse then return most end
  if not options.sparse_convert then refuse(t, "excessively sparse array") end
end

local function written_number(n, options)
  if n ~= n or n == huge or n == -huge then
    if options.encode_invalid == "null" then return "null" end
    if not options.encode_invalid then refuse(n, "must not be NaN or Inf") end
    return n ~= n and "nan" or n > 0 and "inf" or "-inf"
  end
  return format(options.precision, n)
end

local write

local function write_table(t, out, depth, options)
  depth = depth + 1
  if depth > options.encode_depth then error("Cannot serialise, excessive depth (" .. depth .. ")", 0) end
  local length = array_length(t, options)
  if length then
    out[#out + 1] = "["
    for i = 1, length do
      if i > 1 then out[#out + 1] = "," end
      write(rawget(t, i), out, depth, options)
    end
    out[#out + 1] = "]"
    return
  end
  local separator = "{"
  for k, v in pairs(t) do
    local kind = type(k)
    if kind == "number" then k = '"' .. written_number(k, options) .. '"'
    elseif kind == "string" then k = quoted(k)
    else refuse(t, "table key must be a number or string") end
    out[#out + 1] = separator .. k .. ":"
    write(v, out, depth, options)
    separator = ","
  end
  out[#out + 1] = separator == "{" and "{}" or "}"
end

function write(value, out, depth, options)
  local kind = type(value)
  if kind == "string" then out[#out + 1] = quoted(value)
  elseif kind == "number" then out[#out + 1] = written_number(value, options)
  elseif kind == "boolean" then out[#out + 1] = tostring(value)
  elseif kind == "table" then write_table(value, out, depth, options)
  elseif value == nil or value == null then out[#out + 1] = "null"
  else refuse(value, "type not supported") end
end

-- Reading -----------------------------------------------------------------------------------------------------------

local unescaped = { ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }
local words = { ["true"] = true, ["false"] = false, ["null"] = null }
local names = {
  ["{"] = "T_OBJ_BEGIN", ["}"] = "T_OBJ_END", ["["] = "T_ARR_BEGIN", ["]"] = "T_ARR_END", [":"] = "T_COLON", [","] = "T_COMMA",
  ['"'] = "T_STRING", [""] = "T_END",
}

local function utf8(code)
  if code < 0x80 then return char(code) end
  if code < 0x800 then return char(0xC0 + floor(code / 64), 0x80 + code % 64) end
  if code < 0x10000 then return char(0xE0 + floor(code / 4096), 0x80 + floor(code / 64) % 64, 0x80 + code % 64) end
  return char(0xF0 + floor(code / 262144), 0x80 + floor(code / 4096) % 64, 0x80 + floor(code / 64) % 64, 0x80 + code % 64)
end

local function unexpected(text, at, wanted)
  local c = sub(text, at, at)
  local word = match(text, "^%a+", at)
  local name = names[c] or word and (words[word] ~= nil and (word == "null" and "T_NULL" or "T_BOOLEAN")) or
    find(c, "[%d-]") and "T_NUMBER" or "invalid token"
  error("Expected " .. wanted .. " but found " .. name .. " at character " .. at, 0)
end

local function space(text, at) return select(2, find(text, "^[ \t\r\n]*", at)) + 1 end

-- The text that begins behind the quote at ``at``, and the place behind its end.
local function read_string(text, at)
  local start, parts = at + 1, nil
  local from = start
  while true do
    local stop = find(text, '[%z\1-\31"\\]', from)
    local c = stop and sub(text, stop, stop)
    if c == '"' then
      local last = sub(text, from, stop - 1)
      if not parts then return last, stop + 1 end
      parts[#parts + 1] = last
      return concat(parts), stop + 1
    elseif c ~= "\\" then
      error("Expected value but found unexpected end of string at character " .. (stop or #text + 1), 0)
    end
    parts = parts or {}
    parts[#parts + 1] = sub(text, from, stop - 1)
    local e = sub(text, stop + 1, stop + 1)
    if e == "u" then
      local code = tonumber(match(text, "^%x%x%x%x", stop + 2) or "", 16)
      from = stop + 6
      if code and code >= 0xD800 and code < 0xE000 then
        local low = tonumber(match(text, "^\\u(%x%x%x%x)", from) or "", 16)
        if code >= 0xDC00 or not low or low < 0xDC00 or low > 0xDFFF then code = nil
        else code, from = 0x10000 + (code - 0xD800) * 1024 + low - 0xDC00, from + 6 end
      end
      if not code then error("Expected value but found invalid unicode escape code at character " .. stop, 0) end
      parts[#parts + 1] = utf8(code)
    else
      if not unescaped[e] then error("Expected value but found invalid escape code at character " .. stop, 0) end
      parts[#parts + 1] = unescaped[e]
      from = stop + 2
    end
  end
end

local function read_number(text, at, options)
  local shown = match(text, "^-?%d+%.?%d*[eE][+-]?%d+", at) or match(text, "^-?%d+%.?%d*", at)
  if options.decode_invalid then
    local word = match(text, "^[+-]?%w+", at)
    local lower = word and word:lower()
    if lower and find(lower, "^[+-]?0x%x+$") then return tonumber(lower), at + #word end
    if lower == "nan" or lower == "-nan" then return 0 / 0, at + #word end
    if lower == "inf" or lower == "infinity" then return huge, at + #word end
    if lower == "-inf" or lower == "-infinity" then return -huge, at + #word end
  elseif shown and find(shown, "^-?0%d") then
    error("Expected value but found invalid number at character " .. at, 0)
  end
  if shown then return tonumber(shown), at + #shown end
end

local read

local function read_container(text, at, depth, options)
  depth = depth + 1
  if depth > options.decode_depth then
    error("Found too many nested data structures (" .. depth .. ") at character " .. at, 0)
  end
  local object = sub(text, at, at) == "{"
  local close, result, n = object and "}" or "]", {}, 0
  at = space(text, at + 1)
  if sub(text, at, at) == close then return result, at + 1 end
  while true do
    local key, value
    if object then
      if sub(text, at, at) ~= '"' then unexpected(text, at, "object key string") end
      key, at = read_string(text, at)
      at = space(text, at)
      if sub(text, at, at) ~= ":" then unexpected(text, at, "colon") end
      at = space(text, at + 1)
    else
      n = n + 1
      key = n
    end
    value, at = read(text, at, depth, options)
    result[key] = value
    at = space(text, at)
    local c = sub(text, at, at)
    if c == close then return result, at + 1 end
    if c ~= "," then unexpected(text, at, object and "comma or object end" or "comma or array end") end
    at = space(text, at + 1)
  end
end

function read(text, at, depth, options)
  local c = sub(text, at, at)
  if c == '"' then return read_string(text, at) end
  if c == "{" or c == "[" then return read_container(text, at, depth, options) end
  local word = match(text, "^%a+", at)
  if word and words[word] ~= nil then return words[word], at + #word end
  local number, behind = read_number(text, at, options)
  if not number then unexpected(text, at, "value") end
  return number, behind
end

-- The modules -------------------------------------------------------------------------------------------------------

local function make()
  local options = {
    sparse_convert = false, sparse_ratio = 2, sparse_safe = 10, encode_depth = 1000, decode_depth = 1000,
    precision = "%.14g", encode_invalid = false, decode_invalid = true, digits = 14, keep = true,
  }
  local module = { null = null, _NAME = "cjson", _VERSION = "2.1.0" }

  function module.encode(...)
    if select("#", ...) ~= 1 then error("bad argument #1 to 'encode' (expected 1 argument)", 2) end
    local out = {}
    write((...), out, 0, options)
    return concat(out)
  end

  function module.decode(...)
    local text = ...
    if select("#", ...) ~= 1 then error("bad argument #1 to 'decode' (expected 1 argument)", 2) end
    if type(text) == "number" then text = tostring(text) end
    if type(text) ~= "string" then
      error("bad argument #1 to 'decode' (string expected, got " .. (text == nil and "nil" or type(text)) .. ")", 2)
    end
    local value, at = read(text, space(text, 1), 0, options)
    at = space(text, at)
    if at <= #text then unexpected(text, at, "the end") end
    return value
  end

  local function setting(name, key, convert)
    module[name] = function(value)
      if value ~= nil then options[key] = convert and convert(value) or value end
      return options[key]
    end
  end
  setting("encode_max_depth", "encode_depth")
  setting("decode_max_depth", "decode_depth")
  setting("encode_keep_buffer", "keep")

  function module.encode_number_precision(digits)
    if digits then options.digits, options.precision = digits, "%." .. digits .. "g" end
    return options.digits
  end

  local function invalid(value) return value == true or value == "on" or value == "null" and "null" or false end

  function module.encode_invalid_numbers(value)
    if value ~= nil then options.encode_invalid = invalid(value) end
    return options.encode_invalid
  end

  function module.decode_invalid_numbers(value)
    if value ~= nil then options.decode_invalid = invalid(value) end
    return options.decode_invalid
  end

  function module.encode_sparse_array(convert, ratio, safe)
    if convert ~= nil then options.sparse_convert = invalid(convert) end
    options.sparse_ratio, options.sparse_safe = ratio or options.sparse_ratio, safe or options.sparse_safe
    return options.sparse_convert, options.sparse_ratio, options.sparse_safe
  end

  return module
end

local function answered(ok, ...)
  if ok then return ... end
  return nil, (...)
end

local function safe(module)
  local encode, decode = module.encode, module.decode
  function module.encode(...) return answered(pcall(encode, ...)) end
  function module.decode(...) return answered(pcall(decode, ...)) end
  return module
end

local plain, careful = make(), safe(make())
function plain.new() return make() end
function careful.new() return safe(make()) end
return plain, careful
