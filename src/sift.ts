/**
 * Sifting: when one endpoint owns a great part of the queue and may not go, its jobs are moved out of the way together.
 *
 * One by one each would have to be picked up first, before the others' events behind it: 18,000 jobs are three seconds of
 * everyone's time. One script parks hundreds, at the turns they would have been given. This file knows how BullMQ lays
 * out a queue (version pinned in package.json): `wait`, a list, next job last; `delayed`, a sorted set with score time in
 * ms * 4096; `marker`, which wakes the workers; a hash per job, in which `ats` counts pick-ups.
 */
import type { Gate } from "./gate.ts";
import type { Logger } from "./logger.ts";
import { endpointName } from "./payload.ts";
import type { Valkey } from "./valkey.ts";

const CHUNK = 1_000; // jobs looked at by one script: some 10 ms during which Valkey does nothing else
const ENOUGH = 32; // jobs of one endpoint parked one by one before it is worth looking for more
const LULL_MS = 1000; // 1 s: those 32 must come within it
const WORTHWHILE = 1 / 10; // of a chunk; below it the rest is left to be parked one by one
const MAX_DATA_BYTES = 16 * 1024; // 16 KiB: a job with more is parked by itself, since decoding it would hold up Valkey

/**
 * KEYS: wait, delayed, marker. ARGV: prefix of job keys, jobs to look at, host, endpoint, and the line's from,
 * spacingMs, startAt, horizonAt. Returns how many jobs it moved and how many it looked at.
 *
 * The host is looked for in the text first: most jobs are somebody else's, and need no decoding. What a job's key holds
 * cannot stop it (pcall) between its writes to `delayed` and to `wait`, which would leave an id in both.
 */
const SIFT = `
local ids = redis.call("LRANGE", KEYS[1], -ARGV[2], -1)
local from, spacing, start, horizon = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local kept, moved = {}, 0
local function isTheirs(data)
  if #data > ${MAX_DATA_BYTES} or not string.find(data, ARGV[3], 1, true) then return false end
  local ok, job = pcall(cjson.decode, data)
  if not ok or type(job) ~= "table" or type(job.endpoint) ~= "table" or type(job.endpoint.url) ~= "string" then
    return false
  end
  local name = string.match(job.endpoint.url, "^[^?#]*")
  return name == ARGV[4] or name .. "/" == ARGV[4]
end
for i = #ids, 1, -1 do
  local id = ids[i]
  local key = ARGV[1] .. id
  local data = redis.pcall("HGET", key, "data")
  if type(data) == "string" and isTheirs(data) then
    local turn = from + moved * spacing
    if turn > horizon then turn = start + (horizon - start) * (0.5 + 0.5 * ((moved * 0.6180339887) % 1)) end
    turn = math.floor(turn)
    redis.call("ZADD", KEYS[2], turn * 4096 + moved % 4096, id)
    redis.pcall("HSET", key, "delay", turn - math.floor(start))
    redis.pcall("HINCRBY", key, "ats", 1)
    moved = moved + 1
  else
    table.insert(kept, id)
  end
end
if moved > 0 then
  redis.call("LTRIM", KEYS[1], 0, -1 - #ids)
  for i = #kept, 1, -1 do redis.call("RPUSH", KEYS[1], kept[i]) end
  redis.call("ZADD", KEYS[3], redis.call("ZRANGE", KEYS[2], 0, 0, "WITHSCORES")[2] / 4096, "1")
end
return {moved, #ids}`;

export interface SifterOptions {
  readonly valkey: Valkey;
  /** The prefix of the queue's keys, as in `bull:webhooks`. */
  readonly prefix: string;
  readonly gate: Pick<Gate, "line" | "joined">;
  readonly logger: Pick<Logger, "debug">;
  /** Epoch ms. */
  readonly now?: () => number;
}

/**
 * Make a sifter. Call it for each job that was parked one by one; now and then it parks many more, behind the back of the
 * caller.
 *
 * @returns a function that never throws
 */
export function createSifter({ valkey, prefix, gate, logger, now = Date.now }: SifterOptions): (endpoint: URL) => void {
  valkey.defineCommand("siftQueue", { numberOfKeys: 3, lua: SIFT });
  const { siftQueue } = valkey as unknown as { siftQueue(...args: unknown[]): Promise<[number, number]> };
  const recent = new Map<string, number>(); // endpoints and how often they were parked since the last lull
  let lullAt = 0;
  let isSifting = false;

  async function sift(url: URL): Promise<void> {
    const name = endpointName(url);
    for (;;) {
      const line = gate.line(name);
      if (line === undefined) return; // it may go again
      const [moved, seen] = await siftQueue.call(
        valkey,
        `${prefix}:wait`,
        `${prefix}:delayed`,
        `${prefix}:marker`,
        `${prefix}:`,
        CHUNK,
        url.host,
        name,
        line.from,
        line.spacingMs,
        line.startAt,
        line.horizonAt,
      );
      gate.joined(name, moved, line);
      logger.debug({ endpoint: name, moved, seen }, "queue.sifted");
      if (seen < CHUNK || moved < CHUNK * WORTHWHILE) return;
    }
  }

  return (url) => {
    if (now() - lullAt > LULL_MS) {
      recent.clear();
      lullAt = now();
    }
    const name = endpointName(url);
    const times = (recent.get(name) ?? 0) + 1;
    recent.set(name, times);
    if (times < ENOUGH || isSifting) return;
    recent.delete(name);
    isSifting = true;
    sift(url)
      .catch((error: Error) => logger.debug({ endpoint: name, reason: error.message }, "queue.unsifted"))
      .finally(() => {
        isSifting = false;
      });
  };
}
