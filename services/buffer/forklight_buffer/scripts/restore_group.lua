-- Writes a group as the ledger says it stands: in the batch of a step, or ready. What Redis had of it is undone first.
-- ARGV: group, now, step ('' for ready), size, number of meta pairs, meta pairs,
--       then index, state, version, tokens, bytes, reason, trajectory, verdict, reward of each sample.
local group, now, step, size = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local num_meta = tonumber(ARGV[5])
local key = GROUP .. group

for _, sample in ipairs(open_samples(key)) do
  count(sample.state, -1)
  hold_credit(-sample.tokens, -sample.bytes)
  if sample.state == GENERATED then leave_scoring(key, sample.index) end
  discard_segments(key, group, sample.index, '')
end
local trash = redis.call('HGET', key, 'trash') or ''
settle(tasks_of(key), redis.call('HGET', key, 'entry'))
if redis.call('EXISTS', key) == 1 then place_group(key, group, 'closed') end
redis.call('DEL', key)

for at = 6, 5 + 2 * num_meta, 2 do redis.call('HSET', key, ARGV[at], ARGV[at + 1]) end
redis.call('HSET', key, 'size', size, 'entry', '', 'queued', 0, 'undecided', 0, 'oldest', 0)
if trash ~= '' then redis.call('HSET', key, 'trash', trash) end
local target = step ~= '' and LEASED or IS_READY
local num_terminal, oldest = 0, nil
for at = 6 + 2 * num_meta, #ARGV, 9 do
  local sample = {
    index = tonumber(ARGV[at]), state = tonumber(ARGV[at + 1]), since = now, version = tonumber(ARGV[at + 2]),
    tokens = tonumber(ARGV[at + 3]), bytes = tonumber(ARGV[at + 4]), reason = ARGV[at + 5],
  }
  if sample.state >= TRAINED then
    num_terminal = num_terminal + 1
  else
    sample.state = target
    oldest = math.min(oldest or sample.version, sample.version)
    count(target, 1)
    hold_credit(sample.tokens, sample.bytes)
    redis.call('HSET', key, 't' .. sample.index, ARGV[at + 6], 'v' .. sample.index, ARGV[at + 7], 'r' .. sample.index, ARGV[at + 8])
  end
  write_sample(key, sample)
end
redis.call('HSET', key, 'terminal', num_terminal, 'oldest', oldest or 0, 'step', step)
redis.call('ZADD', LIVE, redis.call('HGET', key, 'at'), group)
ended_groups[group] = now  -- what ended in here may be news to the ledger too
place_group(key, group, step ~= '' and 'leased' or 'ready')
return review_group(key, group, now)
