-- Forgets dead letters. ARGV: ids.
for _, id in ipairs(ARGV) do redis.call('HDEL', DEAD, id) end
return #ARGV
