//! The Lua scripts. Each touches keys of one hash tag only, all of them named in KEYS.

/// Decimal numbers of any size are compared as text: Lua's numbers are exact only below 2^53.
macro_rules! with_less {
    ($body:literal) => {
        concat!(
            "local function less(a, b) return #a < #b or (#a == #b and a < b) end\n",
            // Installs an epoch; returns the stored one if it is higher.
            "local function fenced(key, epoch, check)\n",
            "  local known = redis.call('GET', key) or '0'\n",
            "  if check == '1' and less(epoch, known) then return known end\n",
            "  if less(known, epoch) then redis.call('SET', key, epoch) end\n",
            "  return false\n",
            "end\n",
            $body
        )
    };
}

/// The field of an object's hash that holds its version; no field of the router is named so.
pub(crate) const VERSION: &str = "\0v";

/// KEYS: epoch, index, objects…  ARGV: epoch, whether to check it, then the operations:
/// `R`, key number, name, version, count, (field, value)…;
/// `U`, key number, name, base, new version, count, (field, value)…, count, field…;
/// `D`, key number, name.
/// Returns `O`, or `F` and the higher epoch, or `S` and the names of stale objects (nothing is
/// changed then but the epoch).
pub(crate) const APPLY: &str = with_less!(
    r#"
local known = fenced(KEYS[1], ARGV[1], ARGV[2])
if known then return {'F', known} end

local ops, at = {}, 3
while at <= #ARGV do
  local op = {kind = ARGV[at], key = KEYS[tonumber(ARGV[at + 1])], name = ARGV[at + 2]}
  at = at + 3
  if op.kind == 'U' then op.base = ARGV[at]; at = at + 1 end
  if op.kind ~= 'D' then
    op.version = ARGV[at]
    op.set = at + 2
    op.sets = tonumber(ARGV[at + 1])
    at = op.set + 2 * op.sets
  end
  if op.kind == 'U' then
    op.remove = at + 1
    op.removes = tonumber(ARGV[at])
    at = op.remove + op.removes
  end
  ops[#ops + 1] = op
end

local versions, stale = {}, {}
for _, op in ipairs(ops) do
  if op.kind == 'D' then
    versions[op.key] = false
  else
    if op.kind == 'U' then
      if versions[op.key] == nil then versions[op.key] = redis.call('HGET', op.key, '\0v') end
      if versions[op.key] ~= op.base then stale[#stale + 1] = op.name end
    end
    versions[op.key] = op.version
  end
end
if #stale > 0 then
  table.insert(stale, 1, 'S')
  return stale
end

-- Lua's stack bounds how many arguments one call can take.
local function many(command, key, first, count, step)
  local last = first + count - 1
  for from = first, last, step do
    redis.call(command, key, unpack(ARGV, from, math.min(from + step - 1, last)))
  end
end
for _, op in ipairs(ops) do
  if op.kind ~= 'U' then redis.call('DEL', op.key) end
  if op.kind == 'D' then
    redis.call('SREM', KEYS[2], op.name)
  else
    if op.kind == 'U' then many('HDEL', op.key, op.remove, op.removes, 1000) end
    many('HSET', op.key, op.set, 2 * op.sets, 1000)
    redis.call('HSET', op.key, '\0v', op.version)
    if op.kind == 'R' then redis.call('SADD', KEYS[2], op.name) end
  end
end
return {'O'}
"#
);

/// KEYS: epoch, index. ARGV: epoch, whether to check it. Returns `O` and the names of all objects,
/// or `F` and the higher epoch.
pub(crate) const INSTALL: &str = with_less!(
    r#"
local known = fenced(KEYS[1], ARGV[1], ARGV[2])
if known then return {'F', known} end
local names = redis.call('SMEMBERS', KEYS[2])
table.insert(names, 1, 'O')
return names
"#
);

/// KEYS: objects. Returns each one's fields and values.
pub(crate) const FETCH: &str = r#"
local all = {}
for at, key in ipairs(KEYS) do all[at] = redis.call('HGETALL', key) end
return all
"#;

/// KEYS: holder, mark, nodes. ARGV: incarnation, milliseconds, name, node. Returns 1, or 0 if the
/// lease is marked or held by another incarnation.
pub(crate) const RENEW: &str = r#"
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('HSET', KEYS[3], ARGV[3], ARGV[4])
return 1
"#;

/// KEYS: holder, mark, nodes. ARGV: incarnation, milliseconds, name. Ends the lease, and keeps a
/// renewal that is under way from taking it back.
pub(crate) const RELEASE: &str = r#"
redis.call('SET', KEYS[2], '1', 'PX', ARGV[2])
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
  redis.call('HDEL', KEYS[3], ARGV[3])
end
return 1
"#;

/// KEYS: holder, mark. ARGV: incarnation, milliseconds. Returns 1 if it was marked, 0 if the lease
/// is fresh.
pub(crate) const MARK: &str = r#"
if redis.call('GET', KEYS[1]) == ARGV[1] then return 0 end
redis.call('SET', KEYS[2], '1', 'PX', ARGV[2])
return 1
"#;

/// KEYS: nodes, holders… ARGV: their names. Returns holder and remaining milliseconds of each (-1:
/// none), and removes from the nodes who holds nothing.
pub(crate) const FRESH: &str = r#"
local all = {}
for at, name in ipairs(ARGV) do
  local holder = redis.call('GET', KEYS[at + 1])
  if holder then
    all[at] = {holder, redis.call('PTTL', KEYS[at + 1])}
  else
    redis.call('HDEL', KEYS[1], name)
    all[at] = {'', -1}
  end
end
return all
"#;
