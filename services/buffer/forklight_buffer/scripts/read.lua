-- Reads through a script, so that what is read is never of a server that restarted behind our back (it forgets scripts).
-- ARGV: what, then its argument.
local what = ARGV[1]
if what == 'group' then return redis.call('HGETALL', GROUP .. ARGV[2]) end
if what == 'live' then return redis.call('ZRANGE', LIVE, 0, -1) end
if what == 'older' then return redis.call('ZRANGEBYSCORE', LIVE, '-inf', ARGV[2]) end
if what == 'unjournalled' then return redis.call('ZRANGE', UNJOURNALLED, 0, tonumber(ARGV[2]) - 1) end
if what == 'batches' then return redis.call('HGETALL', BATCHES) end
if what == 'run' then return redis.call('HGETALL', RUN) end
if what == 'counts' then return redis.call('HGETALL', COUNTS) end
if what == 'dead' then return redis.call('HGETALL', DEAD) end
if what == 'unmoved' then
  -- Of some groups, those with an open sample that has stayed where it is since before a time; their samples are not sent.
  local before, found = tonumber(ARGV[2]), {}
  for at = 3, #ARGV do
    for _, sample in ipairs(open_samples(GROUP .. ARGV[at])) do
      if tonumber(sample.since) < before then
        found[#found + 1] = ARGV[at]
        break
      end
    end
  end
  return found
end
return redis.error_reply('nothing is called ' .. what)
