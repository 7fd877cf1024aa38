/**
 * Looks for one user's jobs in the lists of a queue, which has no index by user. The look is bounded in jobs, time and memory, and
 * tells how much it saw.
 */
import { MAX_BODY_BYTES } from "../delivery/limits.ts";
import { isJobList, type JobPlace, keysOf } from "../queue/layout.ts";
import type { Queue } from "../queue/worker.ts";
import type { Valkey } from "../valkey/connection.ts";
import { parseObject, userOf } from "./job-filter.ts";

const PAGE = 250; // jobs per script: less than 1 ms of Valkey
const PAGE_BYTES = 512 * 1024; // data searched per script: about 1 ms of Valkey; a single job may be larger
const MAX_DATA_BYTES = 4 * MAX_BODY_BYTES; // larger data is not read

/** How far to look. */
export interface LookBounds {
  readonly maxJobs: number;
  /** Of data. */
  readonly maxBytes: number;
  readonly maxMs: number;
}

/** A job of the user, with the fields asked for. */
export interface UsersJob {
  readonly id: string;
  /** Where it was seen last. */
  readonly place: JobPlace;
  /** In a sorted set; undefined in a list. */
  readonly score: number | undefined;
  readonly data: Readonly<Record<string, unknown>>;
  /** As stored, in the order asked for. */
  readonly fields: readonly (string | null)[];
}

/** What a look found. */
export interface Look {
  readonly jobs: readonly UsersJob[];
  /** Jobs looked at, of all users. */
  readonly looked: number;
  /** Jobs in those places. */
  readonly total: number;
  /** Whether it reached the bounds before it saw all. */
  readonly isPartial: boolean;
}

/**
 * KEYS: a list or sorted set of job ids. ARGV: the command that reads it; prefix of job keys; from, to; bytes of data to search;
 * maximum size of a job's data; the text to search for; names of fields to return.
 *
 * Returns the size of the set, how many members were looked at, bytes of data searched, and of each job whose data contains the text its id, score (empty in
 * a list), data and fields. Data without the text never leaves Valkey.
 */
const LOOK = `
local command, prefix, from, to = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local budget, largest, text = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local isList = command == "LRANGE"
local size = redis.call(isList and "LLEN" or "ZCARD", KEYS[1])
local members = isList and redis.call(command, KEYS[1], from, to) or redis.call(command, KEYS[1], from, to, "WITHSCORES")
local looked, searched, found = 0, 0, {}
for i = 1, #members, isList and 1 or 2 do
  local key = prefix .. members[i]
  local bytes = redis.pcall("HSTRLEN", key, "data")
  if type(bytes) == "number" and bytes <= largest then
    if searched + bytes > budget and looked > 0 then break end
    searched = searched + bytes
    local data = redis.call("HGET", key, "data")
    if data and string.find(data, text, 1, true) then
      found[#found + 1] = {
        members[i], isList and "" or members[i + 1], data, redis.call("HMGET", key, unpack(ARGV, 8))
      }
    end
  end
  looked = looked + 1
end
return {size, looked, searched, found}`;

type Page = [
  size: number,
  looked: number,
  searched: number,
  found: [id: string, score: string, data: string, fields: (string | null)[]][],
];

/** How each place is read: the newest of a list, the next ones due, the latest to fail. */
const COMMANDS: Partial<Record<JobPlace, string>> = { delayed: "ZRANGE", prioritized: "ZRANGE" };
const commandOf = (place: JobPlace) => (isJobList(place) ? "LRANGE" : (COMMANDS[place] ?? "ZREVRANGE"));

/** Text that occurs in every JSON with this user: JSON writers escape none of these characters. Empty when they might. */
const textOf = (userId: string) => (/^[\w.:@-]+$/.test(userId) ? `"${userId}"` : "");

/**
 * Look for a user's jobs, taking pages from all places by turns, so that a long list does not hide the others.
 *
 * Jobs that move between places meanwhile may be missed; none is returned twice.
 *
 * @param fields  of each job's hash to return, at least one
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function findUsersJobs(
  queue: Queue,
  valkey: Valkey,
  userId: string,
  places: readonly JobPlace[],
  fields: readonly string[],
  { maxJobs, maxBytes, maxMs }: LookBounds,
): Promise<Look> {
  const keys = keysOf(queue);
  const endAt = performance.now() + maxMs;
  const jobs = new Map<string, UsersJob>();
  const sizes = new Map<JobPlace, number>();
  let open = places.map((place) => ({ place, from: 0 }));
  let [looked, bytes] = [0, 0];
  while (open.length > 0 && looked < maxJobs && bytes < maxBytes && performance.now() < endAt) {
    const next: typeof open = [];
    for (const { place, from } of open) {
      const range = [from, from + PAGE - 1];
      const args = [commandOf(place), keys.jobs, ...range, PAGE_BYTES, MAX_DATA_BYTES, textOf(userId), ...fields];
      const [size, seen, searched, found] = (await valkey.eval(LOOK, 1, keys[place], ...args)) as Page;
      looked += seen;
      bytes += searched;
      sizes.set(place, size);
      if (seen > 0 && from + seen < size) next.push({ place, from: from + seen });
      for (const [id, score, text, values] of found) {
        const data = parseObject(text);
        if (data === undefined || userOf({ name: "", data }) !== userId) continue;
        jobs.set(id, { id, place, score: score === "" ? undefined : Number(score), data, fields: values });
      }
    }
    open = next;
  }
  const total = [...sizes.values()].reduce((sum, size) => sum + size, 0);
  return { jobs: [...jobs.values()], looked: Math.min(looked, total), total, isPartial: open.length > 0 };
}
