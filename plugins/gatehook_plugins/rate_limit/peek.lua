-- Tell how limits stand; nothing is charged, and nothing written.
--
-- KEYS: one for each limit. ARGV: now ('' is the server's time), then for each limit its unit.
-- Answers for each limit: what is used, the reset.

local now = clock(ARGV[1])
local slot = math.floor(now / SECOND)

local answer = {}
for number, key in ipairs(KEYS) do
  local window, used = {}, 0
  if ARGV[number + 1] == 'concurrent' then
    used = redis.call('ZCOUNT', key, string.format('(%.0f', now), '+inf')
  else
    window, used = load_window(key, slot)
  end
  answer[#answer + 1] = used
  answer[#answer + 1] = #window > 0 and expiry(window[#window - 1], now) or 0
end
return answer
