-- Accepts a verdict: dedupe, fence, score or failure, then whether the group is complete.
-- ARGV: group, index, entry, consumer, fence, now, verdict, reward ('' for none), state and reason without a reward.
local group, index, entry, consumer, fence, now = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local key = GROUP .. group
local sample = read_sample(key, index)
if not sample or sample.state == QUEUED then return {'unknown'} end
local holder = other_holder(SCORING, entry, consumer, fence)
if sample.state ~= GENERATED then
  if not holder then settle(SCORING, entry) end
  return {sample.state >= TRAINED and 'dropped' or 'duplicate'}
end
if holder or not stands_for(key, index, entry) then return {'fenced', holder or 'another entry'} end

redis.call('HSET', key, 'v' .. index, ARGV[7])
if ARGV[8] ~= '' then
  redis.call('HSET', key, 'r' .. index, ARGV[8])
  redis.call('HINCRBY', key, 'undecided', -1)
  leave_scoring(key, index)
  move_sample(key, sample, SCORED, now)
else
  finish_sample(key, group, sample, tonumber(ARGV[9]), ARGV[10], now)
end
return {'accepted', review_group(key, group, now)}
