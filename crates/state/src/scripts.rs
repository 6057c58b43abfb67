//! The Lua scripts. Each touches keys of one hash tag only, all of them named in KEYS.

/// Decimal numbers of any size are compared as text: Lua's numbers are exact only below 2^53.
///
/// The key of a slot's last write holds five of them: the epoch and number of the write, how many
/// writes were refused because they were not newer, and the epoch and number of the last write of
/// an earlier epoch.
macro_rules! with_last {
    ($body:literal) => {
        concat!(
            "local function less(a, b) return #a < #b or (#a == #b and a < b) end\n",
            "local function last_of(key)\n",
            "  local text = redis.call('GET', key) or ''\n",
            "  local e, n, old, pe, pn = ",
            "string.match(text, '^(%d+) (%d+) (%d+) (%d+) (%d+)$')\n",
            "  if not e then e = string.match(text, '^%d+') end\n",
            "  return {e or '0', n or '0', old or '0', pe or '0', pn or '0'}\n",
            "end\n",
            "local function keep(key, last) redis.call('SET', key, table.concat(last, ' ')) end\n",
            // Counts a write that is refused.
            "local function refuse(key, last)\n",
            "  last[3] = string.format('%.0f', tonumber(last[3]) + 1)\n",
            "  keep(key, last)\n",
            "  return {'F', last[1], last[2], last[3]}\n",
            "end\n",
            // Notes a write, unless a newer one is known.
            "local function note(key, last, epoch, n)\n",
            "  if less(last[1], epoch) then\n",
            "    keep(key, {epoch, n, last[3], last[1], last[2]})\n",
            "  elseif last[1] == epoch and less(last[2], n) then\n",
            "    keep(key, {epoch, n, last[3], last[4], last[5]})\n",
            "  end\n",
            "end\n",
            $body
        )
    };
}

/// The field of an object's hash that holds its version, `epoch.n` of the last write that changed
/// it; the router has no field of this name.
pub(crate) const VERSION: &str = "\0v";

/// KEYS: last write, index, staging, objects and further staging places…  ARGV: epoch, n, whether to check the epoch, the
/// order and the base versions, then the operations:
/// `R`, key number, name, count, (field, value)…;
/// `U`, key number, name, base, count, (field, value)…, count, field…;
/// `D`, key number, name;
/// `P`, key number, empty, version of the staged object (empty: drop it), count, (field, append, value)…;
/// `T`, key number, name, key number and version of the staged object;
/// `V`, key number, name, key number and version of the staged object, base, count, field….
/// [`LIST`], and programs of 0.1.0, know the first staging place only: what is left in others expires.
/// Returns `O`, `F` (not newer) or `S` (stale), with the last write before this one (epoch, number,
/// refused writes), and after `S` the names of the stale objects (then only the last write is
/// changed).
pub(crate) const APPLY: &str = with_last!(
    r#"
local epoch, n = ARGV[1], ARGV[2]
local last = last_of(KEYS[1])
local replaced = less(epoch, last[1]) and ARGV[3] == '1'
local older = epoch == last[1] and not less(last[2], n) and ARGV[4] == '1'
if replaced or older then return refuse(KEYS[1], last) end
note(KEYS[1], last, epoch, n)
local stamp = epoch .. '.' .. n

local ops, at = {}, 6
local function word() at = at + 1; return ARGV[at - 1] end
while at <= #ARGV do
  local op = {kind = word(), key = KEYS[tonumber(word())], name = word()}
  local kind = op.kind
  if kind == 'P' then op.from = op.key end
  if kind == 'T' or kind == 'V' then op.from = KEYS[tonumber(word())] end
  if op.from then op.staged = word() end
  if kind == 'U' or kind == 'V' then op.base = word() end
  if kind == 'R' or kind == 'U' or kind == 'P' then
    op.sets = tonumber(word())
    op.set = at
    at = at + (kind == 'P' and 3 or 2) * op.sets
  end
  if kind == 'U' or kind == 'V' then
    op.removes = tonumber(word())
    op.remove = at
    at = at + op.removes
  end
  ops[#ops + 1] = op
end

local versions, stale = {}, {}
local function is_stale(key, base)
  if versions[key] == nil then versions[key] = redis.call('HGET', key, '\0v') end
  return versions[key] ~= base
end
for _, op in ipairs(ops) do
  if op.base and is_stale(op.key, op.base) then stale[#stale + 1] = op.name end
  if op.staged and op.staged ~= '' and is_stale(op.from, op.staged) then stale[#stale + 1] = '' end
  if op.kind == 'T' or op.kind == 'V' then versions[op.from] = false end
  versions[op.key] = op.kind ~= 'D' and stamp
end
if #stale > 0 and ARGV[5] == '1' then
  for i, field in ipairs({'S', last[1], last[2], last[3]}) do table.insert(stale, i, field) end
  return stale
end

-- Lua's stack bounds how many arguments one call can take.
local function many(command, key, words, first, count, step)
  local to = first + count - 1
  for from = first, to, step do
    redis.call(command, key, unpack(words, from, math.min(from + step - 1, to)))
  end
end
for _, op in ipairs(ops) do
  local kind = op.kind
  if kind == 'R' or kind == 'D' or kind == 'T' then redis.call('UNLINK', op.key) end
  if kind == 'P' then
    if op.staged == '' then redis.call('UNLINK', op.key) end
    for from = op.set, op.set + 3 * op.sets - 1, 3 do
      local value = ARGV[from + 2]
      if ARGV[from + 1] == '1' then value = (redis.call('HGET', op.key, ARGV[from]) or '') .. value end
      redis.call('HSET', op.key, ARGV[from], value)
    end
  elseif kind == 'T' then
    redis.call('RENAME', op.from, op.key)
    redis.call('PERSIST', op.key)
  elseif kind == 'V' then
    many('HDEL', op.key, ARGV, op.remove, op.removes, 1000)
    local staged = redis.call('HGETALL', op.from)
    many('HSET', op.key, staged, 1, #staged, 1000)
    redis.call('UNLINK', op.from)
  elseif kind == 'U' then
    many('HDEL', op.key, ARGV, op.remove, op.removes, 1000)
  end
  if kind == 'R' or kind == 'U' then many('HSET', op.key, ARGV, op.set, 2 * op.sets, 1000) end
  if kind == 'D' then
    redis.call('SREM', KEYS[2], op.name)
  else
    redis.call('HSET', op.key, '\0v', stamp)
    if kind == 'R' or kind == 'T' then redis.call('SADD', KEYS[2], op.name) end
    if kind == 'P' and op.key ~= KEYS[3] then redis.call('EXPIRE', op.key, 3600) end
  end
end
return {'O', last[1], last[2], last[3]}
"#
);

/// KEYS: last write, index, staging. ARGV: epoch, n (0: only installs the epoch), whether to check
/// the epoch, the order and the base versions (there are none). Returns `O`, the last write before
/// this one (epoch, number, refused writes), the last write now, the last one of an earlier epoch,
/// and the names of all objects; or `F` as above.
pub(crate) const LIST: &str = with_last!(
    r#"
local epoch, n = ARGV[1], ARGV[2]
local last = last_of(KEYS[1])
local replaced = less(epoch, last[1]) and ARGV[3] == '1'
local older = n ~= '0' and epoch == last[1] and not less(last[2], n) and ARGV[4] == '1'
if replaced or older then return refuse(KEYS[1], last) end
note(KEYS[1], last, epoch, n)
local now = last_of(KEYS[1])
if now[1] ~= last[1] or now[2] ~= last[2] then redis.call('UNLINK', KEYS[3]) end
local names = redis.call('SMEMBERS', KEYS[2])
for i, word in ipairs({'O', last[1], last[2], last[3], now[1], now[2], now[4], now[5]}) do
  table.insert(names, i, word)
end
return names
"#
);

/// KEYS: last write, objects. ARGV: the place in the first object after which to begin (empty: at
/// its beginning), how many bytes an answer should hold. Returns epoch and number of the last
/// write, the place after which the last object continues (empty: it is complete), and version,
/// fields and values of as many objects as fit, in order. The fields of an object are ordered by
/// the hashes of their names: the order of a hash table may change from one call to the next.
pub(crate) const FETCH: &str = with_last!(
    r#"
local last = last_of(KEYS[1])
local all, bytes, most = {last[1], last[2], ''}, 0, tonumber(ARGV[2])
for at = 2, #KEYS do
  local version, object, names, order = redis.call('HGET', KEYS[at], '\0v'), {}, {}, {}
  if version then
    object = {'\0v', version}
    for _, name in ipairs(redis.call('HKEYS', KEYS[at])) do
      local place = redis.sha1hex(name)
      if name ~= '\0v' and (at > 2 or ARGV[1] < place) then
        names[place] = name
        order[#order + 1] = place
      end
    end
    table.sort(order)
  end
  local before = ''
  for _, place in ipairs(order) do
    local name = names[place]
    local value = redis.call('HGET', KEYS[at], name)
    local size = #name + #value + 64
    if bytes > 0 and bytes + size > most then
      if before ~= '' then
        all[3] = before
        all[#all + 1] = object
      end
      return all
    end
    bytes = bytes + size
    object[#object + 1] = name
    object[#object + 1] = value
    before = place
  end
  all[#all + 1] = object
end
return all
"#
);

/// The result of [`RENEW`] and [`RELEASE`], which then change nothing, if the incarnation has
/// stored the hash of another secret.
pub(crate) const WRONG_SECRET: i64 = -1;

/// The start of both: keeps the hash of the secret, under the fourth key, as long as incarnations
/// are remembered.
macro_rules! with_proof {
    ($body:literal) => {
        concat!(
            "local kept = redis.call('GET', KEYS[4])\n",
            "if kept and kept ~= ARGV[3] and ARGV[4] == '1' then return -1 end\n",
            "redis.call('SET', KEYS[4], ARGV[3], 'PX', ARGV[5])\n",
            $body
        )
    };
}

/// KEYS: holder, mark, nodes, proof, terms. ARGV: incarnation, name, proof, whether to check it, how
/// long to keep it, milliseconds, node. Returns 1, or 0 if the lease is marked or held by another incarnation.
pub(crate) const RENEW: &str = with_proof!(
    r#"
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[6])
redis.call('HSET', KEYS[3], ARGV[2], ARGV[7])
redis.call('HSET', KEYS[5], ARGV[2], ARGV[6])
return 1
"#
);

/// KEYS: holder, mark, nodes, proof, terms. ARGV: incarnation, name, proof, whether to check it,
/// how long to keep it and the mark. Ends the lease; the mark refuses a renewal that is under way.
pub(crate) const RELEASE: &str = with_proof!(
    r#"
redis.call('SET', KEYS[2], '1', 'PX', ARGV[5])
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
  redis.call('HDEL', KEYS[3], ARGV[2])
  redis.call('HDEL', KEYS[5], ARGV[2])
end
return 1
"#
);

/// KEYS: holder, mark. ARGV: incarnation, milliseconds. Returns 1 if the lease was marked, 0 if it
/// is fresh.
pub(crate) const MARK: &str = r#"
if redis.call('GET', KEYS[1]) == ARGV[1] then return 0 end
redis.call('SET', KEYS[2], '1', 'PX', ARGV[2])
return 1
"#;

/// KEYS: nodes, terms, holders… ARGV: their names. Returns holder and remaining milliseconds of
/// each (-1: none), and removes the nodes that hold no lease. Redis counts by the clock of its
/// machine: a lease of which more than its term is left ends one term from now, because that clock
/// was set back.
pub(crate) const FRESH: &str = r#"
local all = {}
for at, name in ipairs(ARGV) do
  local key = KEYS[at + 2]
  local holder = redis.call('GET', key)
  if holder then
    local left, term = redis.call('PTTL', key), tonumber(redis.call('HGET', KEYS[2], name))
    if term and left > term then
      redis.call('PEXPIRE', key, term)
      left = term
    end
    all[at] = {holder, left}
  else
    redis.call('HDEL', KEYS[1], name)
    redis.call('HDEL', KEYS[2], name)
    all[at] = {'', -1}
  end
end
return all
"#;
