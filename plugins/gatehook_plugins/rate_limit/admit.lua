-- Decide one request by all of its limits, and charge all of them or none.
--
-- KEYS: one for each limit. ARGV: now ('' is the server's time), lease, holder, then for each limit unit, most, cost.
-- Answers with the second, 1 if admitted, then for each limit: what is used, the wait (-1 is never), the reset.

local BUSY = SECOND -- when a running request ends, nobody knows
local NEVER = -1

local now, lease, holder = clock(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local slot = math.floor(now / SECOND)
local admitted = 1
local gauges = {}

-- How long until `over` less is used.
local function wait_for(window, over)
  if over <= 0 then
    return 0
  end
  for place = 1, #window, 2 do
    over = over - window[place + 1]
    if over <= 0 then
      return expiry(window[place], now)
    end
  end
  return NEVER
end

local function count_running(key)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  -- A lease that is longer than any was given before the clock was set back.
  for _, one in ipairs(redis.call('ZRANGEBYSCORE', key, string.format('(%.0f', now + lease), '+inf')) do
    redis.call('ZADD', key, now + lease, one)
  end
  return redis.call('ZCARD', key)
end

for number, key in ipairs(KEYS) do
  local unit, most, cost = ARGV[3 * number + 1], tonumber(ARGV[3 * number + 2]), tonumber(ARGV[3 * number + 3])
  local gauge = { key = key, unit = unit, cost = cost }
  if unit == 'concurrent' then
    gauge.used = count_running(key)
    gauge.wait = gauge.used < most and 0 or most > 0 and BUSY or NEVER
  else
    local set_back
    gauge.window, gauge.used, set_back = load_window(key, slot)
    gauge.wait = wait_for(gauge.window, gauge.used + cost - most)
    if set_back then
      save_window(key, gauge.window, now)
    end
  end
  if gauge.wait ~= 0 then
    admitted = 0
  end
  gauges[number] = gauge
end

local answer = { slot, admitted }
for _, gauge in ipairs(gauges) do
  local window = gauge.window
  if admitted == 1 then
    gauge.used = gauge.used + gauge.cost
    if not window then
      hold(gauge.key, holder, now, lease)
    else
      if window[#window - 1] ~= slot then
        window[#window + 1] = slot
        window[#window + 1] = 0
      end
      window[#window] = window[#window] + gauge.cost
      save_window(gauge.key, window, now)
    end
  end
  answer[#answer + 1] = gauge.used
  answer[#answer + 1] = gauge.wait
  answer[#answer + 1] = window and #window > 0 and expiry(window[#window - 1], now) or 0
end
return answer
