-- What the scripts share. Times are microseconds.
-- A window is a list of seconds and what was used in each: second, amount, second, amount, … in rising order.

local SECOND = 1000000
local SLOTS = 61 -- seconds that count: the one that is going on, and the sixty that lie, also in part, in the window

-- The time: `given` by tests, otherwise the server's.
local function clock(given)
  if given ~= '' then
    return tonumber(given)
  end
  local time = redis.call('TIME')
  return time[1] * SECOND + time[2]
end

-- A window as it counts in this second, what is used of it, and whether the clock was set back since it was saved:
-- what then lies in the future counts as used now.
local function load_window(key, slot)
  local window, used, set_back = {}, 0, false
  local packed = redis.call('GET', key)
  local saved = packed and cmsgpack.unpack(packed) or {}
  for place = 1, #saved, 2 do
    local at, amount = saved[place], saved[place + 1]
    if at > slot then
      at, set_back = slot, true
    end
    if at > slot - SLOTS then
      if window[#window - 1] == at then
        window[#window] = window[#window] + amount
      else
        window[#window + 1] = at
        window[#window + 1] = amount
      end
      used = used + amount
    end
  end
  return window, used, set_back
end

-- How long until a second is out of the window.
local function expiry(slot, now)
  return (slot + SLOTS) * SECOND - now
end

local function save_window(key, window, now)
  if #window == 0 then
    redis.call('DEL', key)
  else
    local milliseconds = math.ceil(expiry(window[#window - 1], now) / 1000)
    redis.call('SET', key, cmsgpack.pack(window), 'PX', milliseconds)
  end
end

-- Running requests: a sorted set of their names, by when their leases end.
local function hold(key, holder, now, lease)
  redis.call('ZADD', key, now + lease, holder)
  redis.call('PEXPIRE', key, math.ceil(lease / 1000))
end
