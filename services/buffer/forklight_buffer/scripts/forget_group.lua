-- The ledger has the terminal samples of a group. It goes when all are, unless one more ended meanwhile.
-- ARGV: group, number of terminal samples the ledger has, bytes of its trash the ledger has. Returns 1 when the group is gone.
local group, known, trash = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local key = GROUP .. group
local found = redis.call('HMGET', key, 'terminal', 'size')
if not found[1] then
  redis.call('ZREM', UNJOURNALLED, group)
  return 1
end
if trash > 0 then
  redis.call('HSET', key, 'trash', string.sub(redis.call('HGET', key, 'trash') or '', trash + 1))
end
if tonumber(found[1]) ~= known then return 0 end
redis.call('ZREM', UNJOURNALLED, group)
if found[1] ~= found[2] then return 0 end
place_group(key, group, 'closed')
redis.call('ZREM', LIVE, group)
redis.call('DEL', key)
return 1
