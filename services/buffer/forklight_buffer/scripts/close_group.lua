-- Ends every open sample of a group the same way. A leased group is spared unless ARGV[5] is 1.
-- ARGV: now, group, state, reason, leased too. Returns how many samples ended.
local now, group, state, reason = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local key = GROUP .. group
if redis.call('EXISTS', key) == 0 then return 0 end
if redis.call('HGET', key, 'status') == 'leased' and ARGV[5] ~= '1' then return 0 end
local samples = open_samples(key)
for _, sample in ipairs(samples) do finish_sample(key, group, sample, state, reason, now) end
place_group(key, group, 'closed')
return #samples
