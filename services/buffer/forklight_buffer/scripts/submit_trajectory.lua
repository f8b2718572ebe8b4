-- Accepts a trajectory: dedupe, fence, then the scoring task, or a terminal state at once.
-- ARGV: group, index, entry, consumer, fence, now, min_version, tokens, bytes, cancelled, trajectory,
--       scoring task, payload blob.
local group, index, entry, consumer, fence, now = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local key = GROUP .. group
local sample = read_sample(key, index)
if not sample then return {'unknown'} end
if sample.state >= TRAINED then return {'dropped'} end
if sample.state ~= QUEUED then return {'duplicate'} end
local holder = other_holder(tasks_of(key), entry, consumer, fence)
if holder or redis.call('HGET', key, 'entry') ~= entry then return {'fenced', holder or 'another entry'} end

hold_credit(tonumber(ARGV[8]) - sample.tokens, tonumber(ARGV[9]) - sample.bytes)
sample.version, sample.tokens, sample.bytes = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
redis.call('HSET', key, 't' .. index, ARGV[11])
local lag = run_number('version') - sample.version
if ARGV[10] == '1' then
  finish_sample(key, group, sample, CANCELLED, 'generation_cancelled', now)
elseif redis.call('HGET', key, 'purpose') == TRAIN and lag > run_number('max_staleness') then
  finish_sample(key, group, sample, STALE, 'stale_on_arrival', now)
else
  leave_queue(key)
  discard_segments(key, group, index, '', ARGV[13])
  redis.call('HSET', key, 'e' .. index, redis.call('XADD', SCORING, '*', 'body', ARGV[12]))
  move_sample(key, sample, GENERATED, now)
end
return {'accepted', review_group(key, group, now)}
