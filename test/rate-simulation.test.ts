/** The rate limit's script over hours of virtual time, with late and lost jobs: what holds whatever happens. In a real Valkey. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { ASK, EXPIRED, GO } from "../src/endpoints/rate-script.ts";
import { DELAYED_SCORE_PER_MS, queueKey, queueKeys } from "../src/queue/layout.ts";
import { rateKey, rateLineKey, rateReleasedKey } from "../src/queue/own-keys.ts";
import { openValkey } from "../src/valkey/connection.ts";
import { createChance } from "./support/chance.ts";
import { testValkeyUrl } from "./support/valkey.ts";

setDefaultTimeout(60_000); // thousands of scripts, on a machine that may be busy
const valkey = openValkey(await testValkeyUrl(), {});
afterAll(() => valkey.disconnect());

// The script with a clock that is handed in.
const CLOCK = 'redis.call("TIME")';
valkey.defineCommand("askTimed", { lua: ASK.replace(CLOCK, "{ ARGV[#ARGV - 1], ARGV[#ARGV] }") });
const { askTimed } = valkey as unknown as { askTimed: (...args: (string | number)[]) => Promise<[number, number]> };

const START_MS = 1_900_000_000_000;
const PATIENCE_MS = 250;
const ENDLESS_MS = 1e15;

interface Limit {
  readonly perSecond: number;
  readonly burst?: number;
}

interface Run {
  readonly limit: Limit;
  /** When events are enqueued, ms from the start. */
  readonly enqueued: readonly number[];
  /** The limit changes at this time. */
  readonly change?: { readonly atMs: number; readonly to: Limit };
  /** No worker takes a job in this span. */
  readonly outage?: { readonly fromMs: number; readonly toMs: number };
  /** The share of parked jobs that vanish, as those that are canceled. */
  readonly lost?: number;
  /** How late workers take due jobs at the most. */
  readonly lateMs?: number;
  readonly seed: number;
}

interface Went {
  readonly event: number;
  /** Ms from the start. */
  readonly at: number;
}

interface Ran {
  readonly went: readonly Went[];
  readonly asks: number;
  readonly lost: number;
}

/** Let events ask for their turns until all have gone. */
async function run({ limit, enqueued, change, outage, lost = 0, lateMs = 20, seed }: Run): Promise<Ran> {
  const chance = createChance(seed);
  const prefix = queueKey(`test-${crypto.randomUUID()}`);
  const { delayed, marker, jobs } = queueKeys(prefix);
  const userId = crypto.randomUUID();
  const keys = [rateKey, rateLineKey, rateReleasedKey].map((keyOf) => keyOf(userId, "main"));
  const taken = enqueued.map((at, event) => ({ event, at })); // to be asked for at a time
  const went: Went[] = [];
  let [asks, lostCount] = [0, 0];
  const pipeline = valkey.pipeline();
  for (const event of enqueued.keys()) pipeline.hset(`${jobs}${event}`, "name", "file.created");
  await pipeline.exec();

  const takenAt = (dueAt: number) => {
    const at = dueAt + chance.between(0, lateMs);
    return outage !== undefined && at >= outage.fromMs && at < outage.toMs ? outage.toMs + chance.between(0, 50) : at;
  };
  for (let now = 0; ; ) {
    const [next, score] = await valkey.zrange(delayed, "0", "0", "WITHSCORES");
    const dueAt = score === undefined ? Number.POSITIVE_INFINITY : Number(score) / DELAYED_SCORE_PER_MS - START_MS;
    taken.sort((a, b) => b.at - a.at || b.event - a.event);
    const first = taken.at(-1);
    if (next !== undefined && dueAt <= (first?.at ?? Number.POSITIVE_INFINITY)) {
      await valkey.zrem(delayed, next);
      taken.push({ event: Number(next), at: Math.max(now, takenAt(dueAt)) });
      continue;
    }
    if (first === undefined) break;
    taken.pop();
    now = Math.max(now, first.at);
    const { perSecond, burst = 1 } = change !== undefined && now >= change.atMs ? change.to : limit;
    const stamp = change !== undefined && now >= change.atMs ? 2 : 1;
    const epochMs = START_MS + now;
    const clock = [Math.floor(epochMs / 1000), Math.floor((epochMs % 1000) * 1000)];
    const own = [first.event, stamp, perSecond, burst, PATIENCE_MS, ENDLESS_MS, ...clock];
    const named = [delayed, marker, ...keys, `${jobs}${first.event}`];
    const [kind, afterMs] = await askTimed.call(valkey, named.length, ...named, jobs, ...own);
    asks += 1;
    expect(kind).not.toBe(EXPIRED);
    if (kind === GO) went.push({ event: first.event, at: now + afterMs });
    else if (chance.between(0, 1) < lost) lostCount += 1;
    else await valkey.zadd(delayed, Math.ceil(epochMs + afterMs) * DELAYED_SCORE_PER_MS, first.event);
  }
  await valkey.del(delayed, marker, ...keys, ...[...enqueued.keys()].map((event) => `${jobs}${event}`));
  return { went: went.sort((a, b) => a.at - b.at), asks, lost: lostCount };
}

/** Those that went before the limit allowed it (GCRA). @param toleranceMs  for waits in whole ms, and what comes back late */
function early(went: readonly Went[], { perSecond, burst = 1 }: Limit, toleranceMs: number): Went[] {
  const intervalMs = 1000 / perSecond;
  let freeAt = Number.NEGATIVE_INFINITY;
  return went.filter(({ at }) => {
    const isEarly = at < freeAt - (burst - 1) * intervalMs - toleranceMs;
    freeAt = Math.max(freeAt, at) + intervalMs;
    return isEarly;
  });
}

const atOnce = (count: number) => Array.from({ length: count }, () => 0);
const evenly = (count: number, everyMs: number) => Array.from({ length: count }, (_, index) => index * everyMs);
const spanOf = (went: readonly Went[]) => (went.at(-1)?.at ?? 0) - (went[0]?.at ?? 0);

test.each([
  ["800 at once at 10 a second", { limit: { perSecond: 10 }, enqueued: atOnce(800) }],
  ["1,000 in 50 s at 8 a second", { limit: { perSecond: 8 }, enqueued: evenly(1_000, 50) }],
  ["20 at once at one in 20 s", { limit: { perSecond: 0.05 }, enqueued: atOnce(20) }],
  ["800 at once at 20 a second, 50 of them in a burst", { limit: { perSecond: 20, burst: 50 }, enqueued: atOnce(800) }],
  ["500 at once at 300 a second", { limit: { perSecond: 300 }, enqueued: atOnce(500) }],
])("%s: all go, none early, with 95 %% of the limit used, few questions and in order", async (_, given) => {
  const { limit, enqueued } = given as Pick<Run, "limit" | "enqueued">;
  const { went, asks } = await run({ limit, enqueued, seed: 1 });
  const { perSecond, burst = 1 } = limit;
  expect(went.length).toBe(enqueued.length);
  expect(new Set(went.map(({ event }) => event)).size).toBe(enqueued.length);
  expect(early(went, limit, 25)).toEqual([]);
  const idealMs = ((enqueued.length - burst) * 1000) / perSecond;
  expect(idealMs / spanOf(went)).toBeGreaterThan(0.95);
  const looks = 2.5 / perSecond / 30; // of a slow limit's jobs that have a moment, every 30 s
  expect(asks / enqueued.length).toBeLessThan(3.2 + looks);
  const overtaken = went.map(({ event }, place) => (Math.abs(place - event) * 1000) / perSecond);
  expect(Math.max(...overtaken)).toBeLessThan(1_000 + 3_000 / perSecond);
});

test("an outage of 40 s: all go, none early, and the time is lost once", async () => {
  const limit = { perSecond: 10 };
  const outage = { fromMs: 20_000, toMs: 60_000 };
  const { went } = await run({ limit, enqueued: atOnce(1_000), outage, seed: 2 });
  expect(went.length).toBe(1_000);
  expect(early(went, limit, 25)).toEqual([]);
  expect(spanOf(went)).toBeLessThan((100_000 + 40_000) / 0.95);
});

test("a tenth of the jobs vanish: the others go, none early, and what the lost ones reserved is all that is unused", async () => {
  const limit = { perSecond: 10 };
  const { went, lost } = await run({ limit, enqueued: atOnce(800), lost: 0.1, seed: 3 });
  expect(lost).toBeGreaterThan(50);
  expect(went.length + lost).toBe(800);
  expect(early(went, limit, 25)).toEqual([]);
  expect(spanOf(went)).toBeLessThan(80_000 / 0.95);
});

test("a limit that is raised tenfold holds for all that wait, within seconds and not exceeded", async () => {
  const [limit, to] = [{ perSecond: 10 }, { perSecond: 100 }];
  const { went } = await run({ limit, enqueued: atOnce(1_500), change: { atMs: 20_000, to }, seed: 4 });
  expect(went.length).toBe(1_500);
  expect(early(went, to, 25)).toEqual([]);
  expect(
    early(
      went.filter(({ at }) => at < 20_000),
      limit,
      25,
    ),
  ).toEqual([]);
  expect(went.at(-1)?.at).toBeLessThan(20_000 + 13_000 / 0.95 + 5_000);
});

test("a slow limit that is raised is noticed within 30 s, and what comes back early to see keeps its moment", async () => {
  const [limit, to] = [{ perSecond: 0.01 }, { perSecond: 100 }];
  const raised = await run({ limit, enqueued: atOnce(10), change: { atMs: 20_000, to }, seed: 6 });
  expect(raised.went.length).toBe(10);
  expect(raised.went[1]?.at).toBeGreaterThan(20_000);
  expect(raised.went.at(-1)?.at).toBeLessThan(20_000 + 30_000 + 5_000);
  const { went, asks } = await run({ limit, enqueued: atOnce(10), seed: 7 });
  expect(early(went, limit, 25)).toEqual([]);
  expect(spanOf(went)).toBeLessThan(900_000 / 0.95);
  expect(asks).toBeLessThan(150); // three of them at a time, every 30 s
});

test("a limit that is lowered tenfold holds at once for all that wait", async () => {
  const [limit, to] = [{ perSecond: 50 }, { perSecond: 5 }];
  const { went } = await run({ limit, enqueued: atOnce(600), change: { atMs: 4_000, to }, seed: 5 });
  expect(went.length).toBe(600);
  expect(
    early(
      went.filter(({ at }) => at >= 4_000 + PATIENCE_MS),
      to,
      25,
    ),
  ).toEqual([]);
  expect(went.at(-1)?.at).toBeLessThan(4_000 + 80_000 / 0.95 + 5_000);
});
