-- Control fields of the run, all at once. ARGV: weights ('' leaves them), then field and value.
if ARGV[1] ~= '' then redis.call('SET', WEIGHTS, ARGV[1]) end
for at = 2, #ARGV, 2 do redis.call('HSET', RUN, ARGV[at], ARGV[at + 1]) end
return 1
