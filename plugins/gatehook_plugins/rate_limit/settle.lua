-- Correct what a request was charged, and let it go from those that run.
--
-- KEYS: one for each limit. ARGV: now ('' is the server's time), the second of its admission, holder, then for each
-- limit unit, excess (negative: too much was charged).

local now, charged, holder = clock(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local slot = math.floor(now / SECOND)

local function amend(key, excess)
  local window = load_window(key, slot)
  local at = math.min(charged, slot) -- as `load_window` does it, should the clock have been set back
  for place = 1, #window, 2 do
    if window[place] == at then
      window[place + 1] = math.max(0, window[place + 1] + excess)
      if window[place + 1] == 0 then
        table.remove(window, place)
        table.remove(window, place)
      end
      save_window(key, window, now)
      return
    end
  end
  if excess > 0 then -- that second has left the window: what was used beyond its charge counts from now on
    if window[#window - 1] ~= slot then
      window[#window + 1] = slot
      window[#window + 1] = 0
    end
    window[#window] = window[#window] + excess
    save_window(key, window, now)
  end
end

for number, key in ipairs(KEYS) do
  local unit, excess = ARGV[2 * number + 2], tonumber(ARGV[2 * number + 3])
  if unit == 'concurrent' then
    redis.call('ZREM', key, holder)
  elseif excess ~= 0 then
    amend(key, excess)
  end
end
