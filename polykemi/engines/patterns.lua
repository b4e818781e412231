-- Patterns of Lua: how many steps a match may take, and a matcher in Lua of the same semantics as the native one.
--
-- Gives its functions and what bounds them in a table.

local byte, char, find, sub, concat = string.byte, string.char, string.find, string.sub, table.concat
local error, pairs, unpack = error, pairs, unpack
local floor, max = math.floor, math.max

local STEPS = 1e7 -- that the native matcher may take: some 20 ms
local OCTETS = 1e8 -- that a plain search may compare: memcmp does 10 of them a nanosecond
local PATTERNS = 1000 -- that are kept
local DEEPEST = 200 -- of the native matcher, LJ_MAX_XLEVEL
local CAPTURES = 32 -- LUA_MAXCAPTURES

-- Patterns: the items that they are made of ---------------------------------------------------------------------------

local SINGLE, OPEN, CLOSE, POSITION, END, BALANCE, FRONTIER, BACK, WRONG = 1, 2, 3, 4, 5, 6, 7, 8, 9
local STAR, PLUS, MINUS, OPTIONAL = 42, 43, 45, 63

local sets, set_count = {}, 0 -- text of a class -> octet -> whether it is of the class

local function set_of(class)
  local set = sets[class]
  if set then return set end
  if set_count == PATTERNS then sets, set_count = {}, 0 end
  set = {}
  for c = 0, 255 do
    set[c] = find(char(c), class) ~= nil
  end
  sets[class], set_count = set, set_count + 1
  return set
end

-- Returns where the class that begins at ``i`` ends (behind it), or nil and what is wrong with it.
local function class_end(p, i)
  local c = byte(p, i)
  if c == 37 then -- %
    if i == #p then return nil, "malformed pattern (ends with '%')" end
    return i + 2
  end
  if c ~= 91 then return i + 1 end -- [
  i = i + 1
  if byte(p, i) == 94 then i = i + 1 end -- ^
  repeat
    if i > #p then return nil, "malformed pattern (missing ']')" end
    local inside = byte(p, i)
    i = i + 1
    if inside == 37 then
      if i > #p then return nil, "malformed pattern (missing ']')" end
      i = i + 1
    end
  until byte(p, i) == 93 -- ]
  return i + 1
end

-- Returns one item and where the next one begins.
local function item_at(p, i)
  local c, following = byte(p, i, i + 1)
  if c == 40 then -- (
    if following == 41 then return { kind = POSITION }, i + 2 end
    return { kind = OPEN }, i + 1
  elseif c == 41 then -- )
    return { kind = CLOSE }, i + 1
  elseif c == 36 and i == #p then -- $
    return { kind = END }, i + 1
  elseif c == 37 and following == 98 then -- %b
    if i + 3 > #p then return { kind = WRONG, text = "unbalanced pattern" }, #p + 1 end
    return { kind = BALANCE, open = byte(p, i + 2), close = byte(p, i + 3) }, i + 4
  elseif c == 37 and following == 102 then -- %f
    if byte(p, i + 2) ~= 91 then return { kind = WRONG, text = "missing '[' after '%f' in pattern" }, #p + 1 end
    local behind, problem = class_end(p, i + 2)
    if not behind then return { kind = WRONG, text = problem }, #p + 1 end
    return { kind = FRONTIER, class = sub(p, i + 2, behind - 1) }, behind
  elseif c == 37 and following and following >= 48 and following <= 57 then
    return { kind = BACK, number = following - 48 }, i + 2
  end
  local behind, problem = class_end(p, i)
  if not behind then return { kind = WRONG, text = problem }, #p + 1 end
  local class, quantifier = sub(p, i, behind - 1), byte(p, behind)
  if class == "^" or class == "$" or class == "]" or class == "-" or class == "*" or class == "+" or class == "?" then
    class = "%" .. class -- means itself here, but not by itself
  end
  if quantifier == STAR or quantifier == PLUS or quantifier == MINUS or quantifier == OPTIONAL then
    return { kind = SINGLE, class = class, quantifier = quantifier }, behind + 1
  end
  return { kind = SINGLE, class = class }, behind
end

local function parse(p)
  p = sub(p, 1, (find(p, "\0", 1, true) or 0) - 1) -- as for LuaJIT an octet 0 is the end
  local items, n = { anchored = byte(p) == 94 }, 0
  local i = items.anchored and 2 or 1
  while i <= #p do
    n = n + 1
    items[n], i = item_at(p, i)
  end
  return items
end

-- Returns the text that every match begins with.
local function beginning_of(items)
  local texts = {}
  for i = 1, items.anchored and 0 or #items do
    local class = items[i].class
    if items[i].kind ~= SINGLE or items[i].quantifier or class == "." then break end
    if #class == 2 and byte(class) == 37 and find(class, "%p", 2) then
      class = sub(class, 2)
    elseif #class > 1 then
      break
    end
    texts[i] = class
  end
  return concat(texts)
end

-- Tells whether there is one place only where the single item ``i`` can end for what comes behind it to match.
local function is_definite(items, i)
  local set = set_of(items[i].class)
  for k = i + 1, #items do
    local other = items[k]
    if other.kind == END then return true end
    if other.kind == SINGLE then
      if other.quantifier and other.quantifier ~= PLUS then return false end
      local others = set_of(other.class)
      for c = 0, 255 do
        if set[c] and others[c] then return false end
      end
      return true
    end
    if other.kind ~= OPEN and other.kind ~= CLOSE and other.kind ~= POSITION then return false end
  end
  return true -- nothing comes: it matches
end

-- Tells whether there is anything in ``p`` but characters that stand for themselves (lj_str_haspattern).
local function is_pattern(p) return find(p, "[%^%$%*%+%?%.%(%[%%%-]") ~= nil end

-- Returns for how long a subject the native matcher takes no more than STEPS steps.
--
-- A match chooses where it begins (when it is not anchored) and where each item ends that can end at several places: n octets
-- leave n^c / c! choices of c places, two for each "?". For each choice it walks through the items up to the next one.
local function longest_subject(p)
  if not is_pattern(p) then return floor(OCTETS / max(#p, 1)) end
  local items = parse(p)
  local stretch = { places = items.anchored and 0 or 1, choices = 1, steps = 1, walks = 0 }
  local stretches = { stretch }
  local last = #items
  while last > 0 and items[last].kind == CLOSE do
    last = last - 1
  end
  for i = 1, #items do
    local item = items[i]
    local width = item.class and #item.class or 1
    if item.kind == BALANCE or item.kind == BACK then
      stretch.walks = stretch.walks + 1
    elseif not item.quantifier or i == last then
      stretch.steps = stretch.steps + width
    elseif is_definite(items, i) then
      stretch.walks = stretch.walks + width
    else
      local places = stretch.places + (item.quantifier == OPTIONAL and 0 or 1)
      local choices = stretch.choices * (item.quantifier == OPTIONAL and 2 or 1 / places)
      stretch = { places = places, choices = choices, steps = width, walks = 0 }
      stretches[#stretches + 1] = stretch
    end
  end

  local function takes(n)
    local sum = 0
    for i = 1, #stretches do
      local one = stretches[i]
      sum = sum + n ^ one.places * one.choices * (one.steps + one.walks * n)
    end
    return sum
  end

  local low, high = 0, 2 ^ 31
  while high - low > 1 do
    local middle = floor((low + high) / 2)
    if takes(middle) > STEPS then
      high = middle
    else
      low = middle
    end
  end
  return low
end

local longest, longest_count = {}, 0 -- pattern -> longest_subject, of those that were asked for

-- Tells whether the native matcher takes no more than STEPS steps.
local function is_short(s, p)
  local length = longest[p]
  if not length then
    if longest_count == PATTERNS then
      for one in pairs(longest) do
        longest[one] = nil
      end
      longest_count = 0
    end
    length = longest_subject(p)
    longest[p], longest_count = length, longest_count + 1
  end
  return #s <= length
end

-- The matcher -------------------------------------------------------------------------------------------------------

local UNCLOSED, AT = -1, -2 -- lengths of captures: that are open still; that are positions

-- Returns where a match of the items from ``i`` on that begins at ``at`` ends (behind it), or nil. ``m``: subject, items, the captures so far.
local function matched(m, at, i)
  local items, s = m.items, m.subject
  m.depth = m.depth + 1
  if m.depth > DEEPEST then error("pattern too complex", 0) end
  local result
  while true do
    local item = items[i]
    if not item then
      result = at
      break
    end
    local kind = item.kind
    if kind == SINGLE then
      local set, quantifier = item.set, item.quantifier
      if not set then
        set = set_of(item.class)
        item.set = set
      end
      if quantifier == nil then
        if not set[byte(s, at)] then break end
        at = at + 1
      elseif quantifier == OPTIONAL then
        if set[byte(s, at)] then
          result = matched(m, at + 1, i + 1)
          if result then break end
        end
      elseif quantifier == MINUS then
        result = matched(m, at, i + 1)
        while not result and set[byte(s, at)] do
          at = at + 1
          result = matched(m, at, i + 1)
        end
        break
      else
        local last = at
        while set[byte(s, last)] do
          last = last + 1
        end
        if quantifier == PLUS then at = at + 1 end
        while last >= at and not result do
          result = matched(m, last, i + 1)
          last = last - 1
        end
        break
      end
    elseif kind == OPEN or kind == POSITION then
      local level = m.level + 1
      if level > CAPTURES then error("too many captures", 0) end
      m.level, m.starts[level], m.lengths[level] = level, at, kind == OPEN and UNCLOSED or AT
      result = matched(m, at, i + 1)
      if not result then m.level = level - 1 end
      break
    elseif kind == CLOSE then
      local level = m.level
      while level > 0 and m.lengths[level] ~= UNCLOSED do
        level = level - 1
      end
      if level == 0 then error("invalid pattern capture", 0) end
      m.lengths[level] = at - m.starts[level]
      result = matched(m, at, i + 1)
      if not result then m.lengths[level] = UNCLOSED end
      break
    elseif kind == END then
      if at == #s + 1 then result = at end
      break
    elseif kind == BALANCE then
      if byte(s, at) ~= item.open then break end
      local open, close, depth = item.open, item.close, 1
      repeat
        at = at + 1
        local c = byte(s, at)
        if c == close then
          depth = depth - 1
        elseif c == open then
          depth = depth + 1
        end
      until depth == 0 or not c
      if depth > 0 then break end
      at = at + 1
    elseif kind == FRONTIER then
      local set = set_of(item.class)
      if set[at > 1 and byte(s, at - 1) or 0] or not set[byte(s, at) or 0] then break end
    elseif kind == BACK then
      local number = item.number
      local length = number > 0 and number <= m.level and m.lengths[number] or UNCLOSED
      if length == UNCLOSED then error("invalid capture index", 0) end
      local start = m.starts[number]
      if length == AT or #s - at + 1 < length then break end
      if sub(s, start, start + length - 1) ~= sub(s, at, at + length - 1) then break end
      at = at + length
    else
      error(item.text, 0)
    end
    i = i + 1
  end
  m.depth = m.depth - 1
  return result
end

-- As string.find with ``plain``, in pieces that are searched quickly.
local function plain_find(s, p, at)
  local length, step = #p, max(1, floor(OCTETS / #p))
  while at + length - 1 <= #s do
    local from = find(sub(s, at, at + step + length - 2), p, 1, true)
    if from then return at + from - 1, at + from + length - 2 end
    at = at + step
  end
  return nil
end

local parsed, parsed_count = {}, 0 -- pattern -> items

-- Returns beginning and end (behind it) of the first match from ``at`` on, and the matcher with its captures.
local function search(s, p, at)
  local items = parsed[p]
  if not items then
    if parsed_count == PATTERNS then parsed, parsed_count = {}, 0 end
    items = parse(p)
    items.text = beginning_of(items)
    parsed[p], parsed_count = items, parsed_count + 1
  end
  local m = { subject = s, items = items, starts = {}, lengths = {} }
  local last = items.anchored and at or #s + 1
  while at <= last do
    if items.text ~= "" then at = plain_find(s, items.text, at) end
    if not at then return nil end
    m.level, m.depth = 0, 0
    local behind = matched(m, at, 1)
    if behind then return at, behind, m end
    at = at + 1
  end
end

-- Returns the captures of a match; without any the whole match, unless ``bare``.
local function captures(m, from, behind, bare)
  local values, n = {}, m.level
  for i = 1, n do
    local start, length = m.starts[i], m.lengths[i]
    if length == UNCLOSED then error("unfinished capture", 0) end
    values[i] = length == AT and start or sub(m.subject, start, start + length - 1)
  end
  if n == 0 and not bare then return sub(m.subject, from, behind - 1) end
  return unpack(values, 1, n)
end

return {
  STEPS = STEPS,
  OCTETS = OCTETS,
  longest = longest,
  is_short = is_short,
  is_pattern = is_pattern,
  plain_find = plain_find,
  search = search,
  captures = captures,
}
