-- A step is in the ledger: its samples are trained, what the trainer left out of the batch is filtered.
-- ARGV: now, step, then group and comma-separated sample indices. Returns ids of samples that ended otherwise before.
local now, step = ARGV[1], ARGV[2]
local refused = {}
for at = 3, #ARGV, 2 do
  local group, key = ARGV[at], GROUP .. ARGV[at]
  for index in string.gmatch(ARGV[at + 1], '%d+') do
    local sample = read_sample(key, index)
    if sample and sample.state < TRAINED then
      finish_sample(key, group, sample, TRAINED, '', now)
    elseif sample and sample.state ~= TRAINED then
      refused[#refused + 1] = group .. '/s' .. index
    end
  end
  local status = redis.call('HGET', key, 'status')
  if status and status ~= 'leased' then review_group(key, group, now) end
end
for _, group in ipairs(batch_groups(step) or {}) do
  local key = GROUP .. group
  if redis.call('HGET', key, 'status') == 'leased' then
    for _, sample in ipairs(open_samples(key)) do finish_sample(key, group, sample, FILTERED, 'left_out', now) end
    place_group(key, group, 'closed')
  end
end
redis.call('HDEL', BATCHES, step)
if tonumber(step) > run_number('step') then redis.call('HSET', RUN, 'step', step) end
return refused
