-- Opens a group and puts its task on the queue of its purpose. Nothing happens when the group is there.
-- ARGV: group, now, purpose, size, window, bytes_per_token, task, number of meta pairs, meta pairs,
--       then index, state, reason of samples that are terminal already. Returns 1 when opened.
local group, now, purpose = ARGV[1], ARGV[2], ARGV[3]
local size, window, bytes_per_token, task = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local num_meta = tonumber(ARGV[8])
local key = GROUP .. group
if redis.call('EXISTS', key) == 1 then return 0 end

local ended = {}
for at = 9 + 2 * num_meta, #ARGV, 3 do
  ended[tonumber(ARGV[at])] = {state = tonumber(ARGV[at + 1]), reason = ARGV[at + 2]}
end
local num_open = 0
for index = 0, size - 1 do
  local final = ended[index]
  local sample = {index = index, state = QUEUED, since = now, version = 0, tokens = window, bytes = window * bytes_per_token, reason = ''}
  if final then
    sample.state, sample.reason, sample.tokens, sample.bytes = final.state, final.reason, 0, 0
  else
    num_open = num_open + 1
    count(QUEUED, 1)
    hold_credit(sample.tokens, sample.bytes)
  end
  write_sample(key, sample)
end
for at = 9, 8 + 2 * num_meta, 2 do redis.call('HSET', key, ARGV[at], ARGV[at + 1]) end
local queue, stream = 'tasks', TASKS
if purpose == EVALUATE then queue, stream = 'evaluate', EVALUATIONS end
local entry = redis.call('XADD', stream, '*', 'body', task)
redis.call('HSET', key, 'purpose', purpose, 'size', size, 'window', window, 'at', now, 'queue', queue, 'entry', entry,
  'queued', num_open, 'undecided', num_open, 'terminal', size - num_open, 'oldest', 0)
place_group(key, group, 'open')
redis.call('ZADD', LIVE, now, group)
return 1
