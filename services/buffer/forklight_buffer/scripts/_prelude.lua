-- Put before every script. KEYS come in the order of keys.py, so scripts find them by name; WORKERS is set by the loader.
-- Group hash: size kind prompt purpose version at spec spec_bytes window queue entry status queued undecided terminal oldest,
--   and per sample i: s<i> state|since|min_version|tokens|bytes|reason, t<i> Trajectory, v<i> Verdict, r<i> reward, e<i> scoring entry.
-- Segments, only of queued samples: g<i> start|tokens|blob|bytes|min_version, one a line; h<i> tokens it had before some were dropped;
--   moved: 1 when segments were saved under the present task entry; trash blob|tokens|reason, one a line: blobs nobody needs any more.
-- Credit (RUN tokens, bytes) is held by samples that are not terminal.
local RUN, LIVE, READY, UNJOURNALLED, COUNTS, TASKS, EVALUATIONS, SCORING, WEIGHTS, DEAD, BATCHES, SAVED, GROUP = unpack(KEYS)
local QUEUED, GENERATED, SCORED, IS_READY, LEASED = 1, 2, 3, 4, 5
local TRAINED, FILTERED, STALE, REWARD_FAILED, INFRA_FAILED, CANCELLED = 10, 11, 12, 13, 14, 15
local TRAIN, EVALUATE = '1', '2'

local function run_number(field)
  return tonumber(redis.call('HGET', RUN, field) or '0')
end

local function parse_sample(raw, index)
  local state, since, version, tokens, bytes, reason = string.match(raw, '^(%d+)|([^|]*)|(%d+)|(%d+)|(%d+)|(.*)$')
  return {
    index = index, state = tonumber(state), since = since, version = tonumber(version),
    tokens = tonumber(tokens), bytes = tonumber(bytes), reason = reason,
  }
end

local function read_sample(key, index)
  local raw = redis.call('HGET', key, 's' .. index)
  return raw and parse_sample(raw, tonumber(index))
end

local function write_sample(key, sample)
  redis.call('HSET', key, 's' .. sample.index, string.format('%d|%s|%d|%d|%d|%s',
    sample.state, sample.since, sample.version, sample.tokens, sample.bytes, sample.reason))
end

-- Samples of a group that are not terminal, by index.
local function open_samples(key)
  local size = tonumber(redis.call('HGET', key, 'size') or '0')
  local fields, found = {}, {}
  for index = 0, size - 1 do fields[#fields + 1] = 's' .. index end
  if size == 0 then return found end
  for position, raw in ipairs(redis.call('HMGET', key, unpack(fields))) do
    local sample = parse_sample(raw, position - 1)
    if sample.state < TRAINED then found[#found + 1] = sample end
  end
  return found
end

-- Sums that no script reads back are added up here and written once, when the script ends (see adapters/scripts.py).
local sums, sum_order, ended_groups = {}, {}, {}

local function add(hash, field, change)
  local name = hash .. '\n' .. field
  if not sums[name] then
    sums[name] = {hash, field, 0}
    sum_order[#sum_order + 1] = name
  end
  sums[name][3] = sums[name][3] + change
end

local function write_sums()
  for _, name in ipairs(sum_order) do
    local sum = sums[name]
    if sum[3] ~= 0 then redis.call('HINCRBY', sum[1], sum[2], sum[3]) end
  end
  for group, now in pairs(ended_groups) do redis.call('ZADD', UNJOURNALLED, now, group) end
end

local function count(state, change)
  if state < TRAINED then add(COUNTS, state, change) end
end

local function hold_credit(tokens, bytes)
  add(RUN, 'tokens', tokens)
  add(RUN, 'bytes', bytes)
end

local function move_sample(key, sample, state, now)
  count(sample.state, -1)
  count(state, 1)
  sample.state, sample.since = state, now
  write_sample(key, sample)
end

local function settle(stream, entry)
  if entry and entry ~= '' then
    redis.call('XACK', stream, WORKERS, entry)
    redis.call('XDEL', stream, entry)
  end
end

-- nil when the lease is the newest one of the entry, else who holds it.
local function other_holder(stream, entry, consumer, fence)
  local held = redis.pcall('XPENDING', stream, WORKERS, entry, entry, 1)  -- an error is an id no stream has
  if held.err or #held == 0 then return 'nobody' end
  if held[1][2] == consumer and held[1][4] == tonumber(fence) then return nil end
  return held[1][2] .. ' (delivery ' .. held[1][4] .. ')'
end

-- The queue that a group's task went to. Ids of entries are unique in one queue only.
local function tasks_of(key)
  return redis.call('HGET', key, 'queue') == 'evaluate' and EVALUATIONS or TASKS
end

-- One sample fewer waits for its trajectory; with the last one the task entry is settled.
local function leave_queue(key)
  if redis.call('HINCRBY', key, 'queued', -1) == 0 then
    settle(tasks_of(key), redis.call('HGET', key, 'entry'))
    redis.call('HSET', key, 'entry', '')
  end
end

local function leave_scoring(key, index)
  settle(SCORING, redis.call('HGET', key, 'e' .. index))
  redis.call('HDEL', key, 'e' .. index)
end

-- Whether an entry stands for a sample that waits for its verdict. A front without room puts a body back at the end of
-- the queue, under another id: the id that is known is gone then, and the new one takes its place.
local function stands_for(key, index, entry)
  local known = redis.call('HGET', key, 'e' .. index)
  if known == entry then return true end
  if not known or #redis.call('XRANGE', SCORING, known, known) > 0 then return false end
  redis.call('HSET', key, 'e' .. index, entry)
  return true
end

-- Segments of a sample from what its group's hash says of them, and how many tokens they have.
local function parse_segments(body)
  local found, num_saved = {}, 0
  for line in string.gmatch(body or '', '[^\n]+') do
    local start, tokens, blob, _, version = string.match(line, '^(%d+)|(%d+)|([^|]*)|(%d+)|(%d+)$')
    found[#found + 1] = {line = line, start = tonumber(start), tokens = tonumber(tokens), blob = blob, version = tonumber(version)}
    num_saved = num_saved + tonumber(tokens)
  end
  return found, num_saved
end

-- The sample needs its segments no more. Their blobs go to the ledger's discards with the next journal of the group,
-- but for one that is kept.
local function discard_segments(key, group, index, reason, kept)
  local body = redis.call('HGET', key, 'g' .. index)
  if not body then return end
  local trash = {redis.call('HGET', key, 'trash') or ''}
  for _, segment in ipairs(parse_segments(body)) do
    if segment.blob ~= kept then
      trash[#trash + 1] = segment.blob .. '|' .. segment.tokens .. '|' .. string.match(reason, '^[^:]*') .. '\n'
    end
  end
  redis.call('HSET', key, 'trash', table.concat(trash))
  redis.call('HDEL', key, 'g' .. index, 'h' .. index)
  redis.call('ZREM', SAVED, group .. '\n' .. index)
end

-- The one way into a terminal state. The group stays until the ledger has it.
local function finish_sample(key, group, sample, state, reason, now)
  if sample.state == QUEUED then
    leave_queue(key)
    discard_segments(key, group, sample.index, reason)
  end
  if sample.state == GENERATED then leave_scoring(key, sample.index) end
  if sample.state <= GENERATED then redis.call('HINCRBY', key, 'undecided', -1) end
  hold_credit(-sample.tokens, -sample.bytes)
  add(key, 'terminal', 1)
  sample.reason = reason
  move_sample(key, sample, state, now)
  ended_groups[group] = now
end

local function status_counter(purpose, status)
  return (purpose == TRAIN and status or 'evaluating') .. '_groups'
end

-- Moves a group between open, ready, leased and closed, with the counters and the ready list.
local function place_group(key, group, status)
  local found = redis.call('HMGET', key, 'status', 'purpose')
  local before, purpose = found[1], found[2]
  if before == status then return end
  if before and before ~= 'closed' then add(RUN, status_counter(purpose, before), -1) end
  if status ~= 'closed' then add(RUN, status_counter(purpose, status), 1) end
  if before == 'ready' then redis.call('ZREM', READY, group) end
  if status == 'ready' then
    local first = before ~= 'open'  -- it was ready before: it goes to the front, so that it does not age for nothing
    redis.call('ZADD', READY, redis.call('HINCRBY', RUN, first and 'ready_front' or 'ready_back', first and -1 or 1), group)
  end
  redis.call('HSET', key, 'status', status)
end

-- Why these samples, all scored, may not be trained on; nil when they may.
local function find_fault(key, samples)
  if redis.call('HGET', key, 'purpose') == EVALUATE then return 'evaluation' end
  if #samples < run_number('min_scored_samples') then return 'too_few_scored' end
  if run_number('dynamic_sampling') == 0 then return nil end
  local fields = {}
  for _, sample in ipairs(samples) do fields[#fields + 1] = 'r' .. sample.index end
  local rewards = redis.call('HMGET', key, unpack(fields))
  for _, reward in ipairs(rewards) do
    if tonumber(reward) ~= tonumber(rewards[1]) then return nil end
  end
  return 'all_equal'
end

local function make_ready(key, group, samples, now)
  local oldest = samples[1].version
  for _, sample in ipairs(samples) do
    oldest = math.min(oldest, sample.version)
    move_sample(key, sample, IS_READY, now)
  end
  redis.call('HSET', key, 'oldest', oldest)
  place_group(key, group, 'ready')
end

-- After any change: is the group complete, may it still be trained on, is it over? Returns its status.
local function review_group(key, group, now)
  local found = redis.call('HMGET', key, 'status', 'undecided')
  if found[1] == 'open' and tonumber(found[2]) > 0 then return 'open' end
  local samples = open_samples(key)
  if #samples == 0 then
    place_group(key, group, 'closed')
    return 'closed'
  end
  local fault = find_fault(key, samples)
  if fault then
    for _, sample in ipairs(samples) do finish_sample(key, group, sample, FILTERED, fault, now) end
    place_group(key, group, 'closed')
    return 'closed'
  end
  if found[1] == 'open' then
    make_ready(key, group, samples, now)
    return 'ready'
  end
  return found[1]
end

-- Groups of an outstanding batch.
local function batch_groups(step)
  local groups = {}
  local body = redis.call('HGET', BATCHES, step)
  if not body then return nil end
  for line in string.gmatch(body, '[^\n]+') do groups[#groups + 1] = line end
  local version = table.remove(groups, 1)
  return groups, version
end
