-- Which samples of a group still wait for a trajectory. ARGV: group, entry, consumer, fence. Each with its segments below it.
local key = GROUP .. ARGV[1]
if redis.call('EXISTS', key) == 0 then return {'unknown'} end
local holder = other_holder(tasks_of(key), ARGV[2], ARGV[3], ARGV[4])
if holder or redis.call('HGET', key, 'entry') ~= ARGV[2] then return {'fenced', holder or 'another entry'} end
local reply, fields = {'pending'}, {}
for _, sample in ipairs(open_samples(key)) do
  if sample.state == QUEUED then
    reply[#reply + 1] = tostring(sample.index)
    fields[#fields + 1] = 'g' .. sample.index
  end
end
if #fields == 0 then return reply end
for at, body in ipairs(redis.call('HMGET', key, unpack(fields))) do
  if body then reply[at + 1] = reply[at + 1] .. '\n' .. body end
end
return reply
