-- Appends a segment to what is saved of a response that is not finished, under the newest lease.
-- ARGV: group, index, entry, consumer, fence, now, start, tokens, blob, bytes, min_version. Returns a word and the tokens saved.
local group, index, entry, now = ARGV[1], ARGV[2], ARGV[3], ARGV[6]
local key = GROUP .. group
local sample = read_sample(key, index)
if not sample then return {'unknown'} end
if sample.state ~= QUEUED then return {'dropped'} end
local holder = other_holder(tasks_of(key), entry, ARGV[4], ARGV[5])
if holder or redis.call('HGET', key, 'entry') ~= entry then return {'fenced', holder or 'another entry'} end

local found = redis.call('HMGET', key, 'g' .. index, 'h' .. index, 'window', 'purpose')
local segments, num_saved = parse_segments(found[1])
local start, behind = tonumber(ARGV[7]), tonumber(ARGV[7]) + tonumber(ARGV[8])
local line = table.concat(ARGV, '|', 7, 11)
if start ~= num_saved then
  for _, segment in ipairs(segments) do
    if segment.line == line then return {'duplicate', tostring(num_saved)} end
  end
  return {'misplaced', tostring(num_saved)}
end
if behind > tonumber(found[3]) then return {'outside', found[3]} end

redis.call('HSET', key, 'g' .. index, (found[1] or '') .. line .. '\n')
if behind > tonumber(found[2] or '0') then redis.call('HSET', key, 'moved', '1') end
if found[4] == TRAIN then redis.call('ZADD', SAVED, 'LT', ARGV[11], group .. '\n' .. index) end
sample.since = now  -- for the watchdog: it moves
write_sample(key, sample)
return {'accepted', tostring(behind)}
