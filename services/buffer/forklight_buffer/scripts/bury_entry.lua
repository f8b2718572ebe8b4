-- An entry was delivered too often and nobody holds it: dead letter, and its samples end.
-- ARGV: queue (tasks, evaluate or scoring), entry, idle ms, deliveries allowed, now, group, index, reason, letter id, letter.
-- A task under which segments were saved is not given up: it goes back as a new entry, with all its deliveries before it.
-- Returns 1 when buried, 0 when somebody holds it again, 2 when it went back.
local stream = ({tasks = TASKS, evaluate = EVALUATIONS, scoring = SCORING})[ARGV[1]]
local entry, now, group = ARGV[2], ARGV[5], ARGV[6]
local held = redis.call('XPENDING', stream, WORKERS, 'IDLE', ARGV[3], entry, entry, 1)
if #held == 0 or held[1][4] < tonumber(ARGV[4]) then return 0 end

local key = GROUP .. group
local is_its_task = stream == tasks_of(key) and redis.call('HGET', key, 'entry') == entry
if is_its_task and redis.call('HGET', key, 'moved') then
  local body = redis.call('XRANGE', stream, entry, entry)[1][2][2]
  settle(stream, entry)
  redis.call('HSET', key, 'entry', redis.call('XADD', stream, '*', 'body', body))
  redis.call('HDEL', key, 'moved')
  return 2
end
redis.call('HSET', DEAD, ARGV[9], ARGV[10])
if redis.call('EXISTS', key) == 1 then
  for _, sample in ipairs(open_samples(key)) do
    if is_its_task and sample.state == QUEUED then
      finish_sample(key, group, sample, INFRA_FAILED, ARGV[8], now)
    elseif ARGV[1] == 'scoring' and sample.state == GENERATED and sample.index == tonumber(ARGV[7])
      and stands_for(key, sample.index, entry) then
      finish_sample(key, group, sample, REWARD_FAILED, ARGV[8], now)
    end
  end
  review_group(key, group, now)
end
settle(stream, entry)
return 1
