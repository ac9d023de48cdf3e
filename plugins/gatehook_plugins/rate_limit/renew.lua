-- Prolong the leases of requests that run, also if Redis has lost them, and drop those that have ended.
--
-- KEYS: one for each holder. ARGV: now ('' is the server's time), lease, then for each holder its name, and 1 or 0:
-- whether it runs.

local now, lease = clock(ARGV[1]), tonumber(ARGV[2])

for number, key in ipairs(KEYS) do
  local holder, runs = ARGV[2 * number + 1], ARGV[2 * number + 2]
  if runs == '1' then
    hold(key, holder, now, lease)
  else
    redis.call('ZREM', key, holder)
  end
end
