-- Which samples of a group still wait for a trajectory. ARGV: group, entry, consumer, fence.
local key = GROUP .. ARGV[1]
if redis.call('EXISTS', key) == 0 then return {'unknown'} end
local holder = other_holder(TASKS, ARGV[2], ARGV[3], ARGV[4])
if holder or redis.call('HGET', key, 'entry') ~= ARGV[2] then return {'fenced', holder or 'another entry'} end
local reply = {'pending'}
for _, sample in ipairs(open_samples(key)) do
  if sample.state == QUEUED then reply[#reply + 1] = sample.index end
end
return reply
