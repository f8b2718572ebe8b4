-- Forgets the segments of a sample from a token on: they cannot be read. The holder of the lease generates them again.
-- ARGV: group, index, entry, consumer, fence, token. Returns a word, the tokens still saved, the tokens dropped, their blobs.
local group, index, entry, from = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[6])
local key = GROUP .. group
local sample = read_sample(key, index)
if not sample then return {'unknown'} end
if sample.state ~= QUEUED then return {'dropped'} end
local holder = other_holder(tasks_of(key), entry, ARGV[4], ARGV[5])
if holder or redis.call('HGET', key, 'entry') ~= entry then return {'fenced', holder or 'another entry'} end

local segments, num_saved = parse_segments(redis.call('HGET', key, 'g' .. index))
if from >= num_saved then return {'duplicate', tostring(num_saved)} end
local kept, blobs, num_kept, oldest = {}, {}, 0, nil
for _, segment in ipairs(segments) do
  if segment.start < from then
    kept[#kept + 1] = segment.line .. '\n'
    num_kept = num_kept + segment.tokens
    oldest = math.min(oldest or segment.version, segment.version)
  else
    blobs[#blobs + 1] = segment.blob
  end
end
if num_kept ~= from then return {'misplaced', tostring(num_saved)} end

local member = group .. '\n' .. index
if oldest then
  redis.call('HSET', key, 'g' .. index, table.concat(kept))
  redis.call('ZADD', SAVED, 'XX', oldest, member)
else
  redis.call('HDEL', key, 'g' .. index)
  redis.call('ZREM', SAVED, member)
end
local most = math.max(num_saved, tonumber(redis.call('HGET', key, 'h' .. index) or '0'))
redis.call('HSET', key, 'h' .. index, most)  -- the same tokens saved again are no progress
return {'accepted', tostring(num_kept), tostring(num_saved - num_kept), unpack(blobs)}
