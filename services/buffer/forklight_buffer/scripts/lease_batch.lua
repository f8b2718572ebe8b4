-- The batch of a step: the outstanding one again, or a new one of the oldest ready groups. ARGV: epoch, step, now.
local step, now = tonumber(ARGV[2]), ARGV[3]
local epoch, committed, version = run_number('epoch'), run_number('step'), run_number('version')
if tonumber(ARGV[1]) ~= epoch then return {'fenced', tostring(epoch)} end
local phase = run_number('phase')
if phase == 2 or phase == 4 then return {'phase', tostring(phase)} end
if step <= committed then return {'past', tostring(committed)} end

local outstanding, made_at = batch_groups(ARGV[2])
if outstanding then return {'again', made_at, unpack(outstanding)} end
for before = committed + 1, step - 1 do
  if redis.call('HEXISTS', BATCHES, before) == 0 then return {'gap', tostring(before)} end
end

local oldest_allowed = version - run_number('max_staleness')
for _, name in ipairs(redis.call('ZRANGEBYSCORE', SAVED, '-inf', '(' .. oldest_allowed)) do
  local group, index = string.match(name, '^(.*)\n(%d+)$')
  finish_sample(GROUP .. group, group, read_sample(GROUP .. group, index), STALE, 'stale_unfinished', now)
  review_group(GROUP .. group, group, now)
end
for _, group in ipairs(redis.call('ZRANGE', READY, 0, -1)) do
  local key = GROUP .. group
  if tonumber(redis.call('HGET', key, 'oldest')) < oldest_allowed then
    for _, sample in ipairs(open_samples(key)) do finish_sample(key, group, sample, STALE, 'stale_in_queue', now) end
    place_group(key, group, 'closed')
  end
end

local wanted = run_number('groups_per_step')
local groups = redis.call('ZRANGE', READY, 0, wanted - 1)
if #groups < wanted then return {'wait', tostring(wanted - #groups)} end
for _, group in ipairs(groups) do
  local key = GROUP .. group
  for _, sample in ipairs(open_samples(key)) do move_sample(key, sample, LEASED, now) end
  place_group(key, group, 'leased')
  redis.call('HSET', key, 'step', step)
end
redis.call('HSET', BATCHES, step, version .. '\n' .. table.concat(groups, '\n'))
return {'new', tostring(version), unpack(groups)}
