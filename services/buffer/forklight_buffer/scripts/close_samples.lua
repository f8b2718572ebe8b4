-- Gives samples of a group terminal states. The same state again is nothing new; another one is refused.
-- ARGV: now, group, then index, state, reason. Returns the group's status, then the refused indices.
local now, group = ARGV[1], ARGV[2]
local key = GROUP .. group
if redis.call('EXISTS', key) == 0 then return {'unknown'} end
local refused = {}
for at = 3, #ARGV, 3 do
  local sample, state = read_sample(key, ARGV[at]), tonumber(ARGV[at + 1])
  if sample.state < TRAINED then
    finish_sample(key, group, sample, state, ARGV[at + 2], now)
  elseif sample.state ~= state then
    refused[#refused + 1] = ARGV[at]
  end
end
return {review_group(key, group, now), unpack(refused)}
