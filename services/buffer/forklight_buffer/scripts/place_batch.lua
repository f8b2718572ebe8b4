-- Sets or, without groups, dissolves the outstanding batch of a step; groups of a dissolved one are ready again.
-- ARGV: now, step, version, groups.
local now, step = ARGV[1], ARGV[2]
if #ARGV > 3 then
  redis.call('HSET', BATCHES, step, ARGV[3] .. '\n' .. table.concat(ARGV, '\n', 4))
  return 1
end
for _, group in ipairs(batch_groups(step) or {}) do
  local key = GROUP .. group
  if redis.call('HGET', key, 'status') == 'leased' and redis.call('HGET', key, 'step') == step then
    for _, sample in ipairs(open_samples(key)) do move_sample(key, sample, IS_READY, now) end
    place_group(key, group, 'ready')
  end
end
return redis.call('HDEL', BATCHES, step)
