"""Lua that the work queue runs on the server.

XPENDING says who holds an entry and how often it was delivered: that is the fence.
"""

from __future__ import annotations

# KEYS: stream. ARGV: group, consumer, lease in ms, count, most deliveries. Returns id, body,
# deliveries of each entry taken over. An entry delivered as often as allowed is left alone: the buffer makes
# it a dead letter.
RECLAIM = """
local spare = 256
local expired = redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[3], '-', '+', tonumber(ARGV[4]) + spare)
local taken = {}
for _, held in ipairs(expired) do
  if #taken == tonumber(ARGV[4]) then break end
  if held[4] < tonumber(ARGV[5]) then
    local entry = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], held[1])[1]
    if entry then taken[#taken + 1] = {entry[1], entry[2][2], held[4] + 1} end
  end
end
return taken
"""

_OWNED = """
local function owned(entry, consumer, fence)
  local held = redis.call('XPENDING', KEYS[1], ARGV[1], entry, entry, 1)
  return #held > 0 and held[1][2] == consumer and held[1][4] == tonumber(fence)
end
"""

# ARGV: group, then entry, consumer, fence of each lease. Returns 1 or 0 for each.
HEARTBEAT = (
    _OWNED
    + """
local kept = {}
for i = 2, #ARGV, 3 do
  if owned(ARGV[i], ARGV[i + 1], ARGV[i + 2]) then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[i + 1], 0, ARGV[i], 'JUSTID')
    kept[#kept + 1] = 1
  else
    kept[#kept + 1] = 0
  end
end
return kept
"""
)

# ARGV: group, entry, consumer, fence. A released entry is idle for so long that anyone may take it at once.
RELEASE = (
    _OWNED
    + """
if not owned(ARGV[2], ARGV[3], ARGV[4]) then return 0 end
redis.call('XCLAIM', KEYS[1], ARGV[1], 'released', 0, ARGV[2], 'IDLE', 2592000000, 'JUSTID')
return 1
"""
)

# ARGV: group, entry, consumer, fence.
SETTLE = (
    _OWNED
    + """
if not owned(ARGV[2], ARGV[3], ARGV[4]) then return 0 end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
return 1
"""
)
