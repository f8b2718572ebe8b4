-- Gives samples of a group terminal states. The same state again is nothing new; another one is refused, unless the
-- ledger has spoken (by_ledger is 1): then Redis was behind a rewind.
-- ARGV: now, group, by_ledger, then index, state, reason. Returns the group's status, then the refused indices.
local now, group, by_ledger = ARGV[1], ARGV[2], ARGV[3] == '1'
local key = GROUP .. group
if redis.call('EXISTS', key) == 0 then return {'unknown'} end
local refused = {}
if by_ledger then ended_groups[group] = now end  -- so that a group that is over is forgotten
for at = 4, #ARGV, 3 do
  local sample, state = read_sample(key, ARGV[at]), tonumber(ARGV[at + 1])
  if sample.state < TRAINED then
    finish_sample(key, group, sample, state, ARGV[at + 2], now)
  elseif sample.state ~= state and by_ledger then
    sample.state, sample.reason = state, ARGV[at + 2]
    write_sample(key, sample)
  elseif sample.state ~= state then
    refused[#refused + 1] = ARGV[at]
  end
end
return {review_group(key, group, now), unpack(refused)}
