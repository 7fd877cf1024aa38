/**
 * Jobs as a plain BullMQ client adds them, half of them right but for one thing, between healthy ones. Each run has a seed, shown when
 * it fails: FUZZ_SEED repeats it.
 */
import { afterAll, expect, test } from "bun:test";
import { type JobsOptions, Queue } from "bullmq";
import { ContractError, EVENT_TYPES, parseEvent } from "../src/delivery/contract.ts";
import { startReceiver } from "../src/dev/receiver.ts";
import type { Job } from "../src/queue/worker.ts";
import { type Chance, createChance } from "./support/chance.ts";
import { bounded, jobData, LIMITS, startStack } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const SEED = Number(process.env.FUZZ_SEED ?? Math.floor(Math.random() * 2 ** 31));
const JOBS = 2_000;
const HEALTHY = 500; // beside them
const HANG_MS = 1_000;
const SECRET = "leak-secret-0815";
const AT_ONCE = 100; // adds under way

const receiver = await startReceiver();
const stack = await startStack({
  concurrency: 64,
  resolve: () => Promise.reject(Object.assign(new Error(), { code: "ENOTFOUND" })), // a mutated host is nobody's
});
const client = new Queue(stack.queue.name, { connection: { url: await testValkeyUrl() } });
afterAll(async () => {
  await client.close();
  await stack.stop();
  await receiver.stop();
});

interface Sample {
  name: unknown;
  data: unknown;
  opts: Record<string, unknown>;
}

const TEXTS = [
  "",
  " ",
  "\0",
  "x\r\nX-Injected: yes",
  "\ud800",
  "🦊",
  "__proto__",
  "null",
  "[object Object]",
  "é".repeat(200),
];
const VALUES: readonly unknown[] = [
  undefined,
  null,
  true,
  0,
  -1,
  1.5,
  1e308,
  2 ** 53,
  [],
  {},
  [[]],
  [null],
  { toString: 1 },
  ...TEXTS,
];

/** One text with one slip in it. */
function slip(text: string, { pick, between }: Chance): string {
  const at = Math.floor(between(0, text.length + 1));
  return pick([
    () => text.slice(0, at),
    () => text.slice(at),
    () => text.slice(0, at) + pick([...TEXTS, ":", "/", "@", "#", "?", "%", "0", "A", "-"]) + text.slice(at),
    () => text.toUpperCase(),
    () => ` ${text}`,
    () => `${text}\n`,
    () => `"${text}"`,
    () => text.repeat(3),
    () => "x".repeat(pick([129, 1_025, 2_049, 300_000])),
  ])();
}

/** A copy with one thing changed somewhere inside: taken away, replaced, misspelled, put a level deeper, or something added. */
function mutate(value: unknown, chance: Chance): unknown {
  const { pick } = chance;
  if (Array.isArray(value)) return pick([[...value, ...value], value[0], [value], [...value, pick(VALUES)]]);
  if (typeof value !== "object" || value === null) {
    return typeof value === "string" && pick([true, true, false]) ? slip(value, chance) : pick(VALUES);
  }
  const entries = Object.entries(value);
  if (entries.length === 0 || pick([true, false, false, false, false])) {
    return pick([
      () => pick(VALUES),
      () => [value],
      () => ({ ...value, [pick(TEXTS)]: pick(VALUES) }),
      () => ({ value }),
    ])();
  }
  const [key, child] = pick(entries);
  const others = entries.filter(([name]) => name !== key);
  return pick([
    () => Object.fromEntries(others),
    () => Object.fromEntries([...others, [slip(key, chance), child]]),
    () => Object.fromEntries([...others, [key, mutate(child, chance)]]),
    () => Object.fromEntries([...others, [key, mutate(child, chance)]]),
    () => Object.fromEntries([...others, [key, mutate(child, chance)]]),
  ])();
}

const OPTIONS: readonly (readonly [string, readonly unknown[]])[] = [
  ["attempts", [...VALUES, 7, 101]],
  [
    "backoff",
    [...VALUES, { type: "fixed", delay: 1 }, { type: "nobody's" }, { type: "exponential", delay: -1, jitter: 7 }],
  ],
  ["delay", [...VALUES.filter((value) => typeof value !== "number" || value < 1e6), 50]],
  ["priority", [...VALUES, 1, 2 ** 21 - 1]],
  ["timestamp", [...VALUES, 1, Date.now() - 1e9, 8.64e15 + 1]],
  ["lifo", VALUES],
  ["removeOnComplete", [...VALUES, { count: -1 }, { age: "x" }]],
  ["removeOnFail", [...VALUES, { count: 1e308 }]],
  // Not half a surrogate pair: as bytes it is no UTF-8, and no client finds a job of such an id again.
  ["jobId", [...TEXTS.filter((text) => text.isWellFormed()), "x".repeat(1_000), "a:b", "17", "💥", 7, {}]],
  ["parent", [...VALUES, { id: "1", queue: "bull:nowhere" }]],
  ["deduplication", [...VALUES, { id: "only" }, { id: "" }]],
  ["telemetry", VALUES],
  ["sizeLimit", VALUES],
  ["keepLogs", VALUES],
  ["stackTraceLimit", VALUES],
];

function createSample(chance: Chance, url: string): Sample {
  const { pick } = chance;
  const data = jobData(url, {
    userId: "usr_fuzz",
    endpoint: { url, secret: pick([SECRET, [SECRET, "whsec_YWJj"]]) },
    data: { text: "größe", list: [1, { a: null }], number: 1.5 },
    ...pick([{}, { id: crypto.randomUUID() }]),
  });
  const sample: Sample = { name: pick(EVENT_TYPES), data, opts: {} };
  const mutations = [
    () => Object.assign(sample, { name: mutate(sample.name, chance) }),
    () => Object.assign(sample, { data: mutate(data, chance) }),
    () => Object.assign(sample, { data: mutate(data, chance) }),
    () => Object.assign(sample, { data: mutate(data, chance) }),
    () => {
      const [option, values] = pick(OPTIONS);
      sample.opts = { [option]: pick(values) };
    },
  ];
  if (pick([true, false])) return sample;
  pick(mutations)();
  return sample;
}

/** How each job ended: BullMQ's state, and the reason. */
const ends = new Map<string, string[]>();
/** The jobs as the worker had them: what Valkey keeps of them. */
const stored = new Map<string, Job>();
const add = (job: Job | undefined, end: string) => {
  const id = String(job?.id);
  ends.set(id, [...(ends.get(id) ?? []), end]);
  if (job !== undefined) stored.set(id, job);
  check();
};
let check = (): void => {};
stack.worker.on("completed", (job) => add(job, "completed"));
stack.worker.on("failed", (job, error) => {
  if (job?.finishedOn !== undefined || job === undefined) add(job, error.message);
});

/** What may come of a job, by the contract itself. */
function expectedOf({ name, data, id, timestamp }: Job): { reason: string } | { isOurs: boolean } {
  try {
    const job = { id, name, data, timestamp, queueName: stack.queue.name };
    const { endpoint } = parseEvent(job, LIMITS);
    return { isOurs: endpoint.url.origin === new URL(receiver.url()).origin };
  } catch (error) {
    if (error instanceof ContractError) return { reason: error.message };
    throw error;
  }
}

/** The longest time in which nothing else could run, by the processor's clock: on a busy machine others hold it up too. */
function watchLoop() {
  let longestMs = 0;
  let since = process.cpuUsage();
  const timer = setInterval(() => {
    const { user, system } = process.cpuUsage(since);
    longestMs = Math.max(longestMs, (user + system) / 1000);
    since = process.cpuUsage();
  }, 5);
  return () => {
    clearInterval(timer);
    return longestMs;
  };
}

test(`${JOBS} jobs, half of them right but for one thing, cost ${HEALTHY} healthy ones nothing (FUZZ_SEED=${SEED})`, async () => {
  const chance = createChance(SEED);
  const url = receiver.url("/fuzz");
  const samples = Array.from({ length: JOBS }, () => createSample(chance, url));
  const healthy = Array.from({ length: HEALTHY }, () => jobData(receiver.url("/healthy"), { id: crypto.randomUUID() }));
  const stopLoop = watchLoop();

  const added = new Map<string, Sample>();
  let refused = 0;
  const adds = [
    ...samples.map((sample) => async () => {
      try {
        const job = await client.add(sample.name as string, sample.data, sample.opts as JobsOptions);
        if (!added.has(String(job.id))) added.set(String(job.id), sample);
      } catch {
        refused += 1; // by the client: it never got to us
      }
    }),
    ...healthy.map((data) => async () => {
      await client.add("file.created", data, { jobId: data.id as string });
    }),
  ].sort(() => chance.between(-1, 1));
  for (let i = 0; i < adds.length; i += AT_ONCE) await Promise.all(adds.slice(i, i + AT_ONCE).map((start) => start()));

  const expected = [...added.keys(), ...healthy.map(({ id }) => id as string)];
  const missing = () => expected.filter((id) => !ends.has(id));
  const all = new Promise<void>((resolve) => {
    check = () => {
      if (missing().length === 0) resolve();
    };
    check();
  });
  const seed = `repeat with FUZZ_SEED=${SEED}`;
  const show = (id: string) => `${id}: ${JSON.stringify(added.get(id))}`.slice(0, 500);
  await bounded(
    all,
    () => `all ends, ${seed}; missing ${missing().length}: ${missing().slice(0, 3).map(show)}`,
    60_000,
  );

  const wrong = [...added.keys()].flatMap((id) => {
    const told = ends.get(id) as string[];
    const expectation = expectedOf(stored.get(id) as Job);
    const isRight =
      "reason" in expectation ? told[0] === expectation.reason : !expectation.isOurs || told[0] === "completed";
    const isSafe = told.length === 1 && !String(told).includes(SECRET);
    return isRight && isSafe
      ? []
      : [`${show(id)} ended ${JSON.stringify(told)}, expected ${JSON.stringify(expectation)}`];
  });
  expect({ seed, wrong: wrong.slice(0, 5), count: wrong.length }).toEqual({ seed, wrong: [], count: 0 });
  expect(healthy.flatMap(({ id }) => ends.get(id as string) ?? "lost")).toEqual(healthy.map(() => "completed"));
  const arrived = receiver.requests
    .filter(({ path }) => path === "/healthy")
    .map(({ headers }) => headers["webhook-id"]);
  expect(arrived.sort()).toEqual(healthy.map(({ id }) => id).sort());
  expect(receiver.requests.some(({ headers }) => "x-injected" in headers)).toBe(false);
  expect(JSON.stringify(stack.lines)).not.toContain(SECRET);
  expect(await stack.queue.getJobCounts("wait", "active", "delayed", "prioritized", "waiting-children")).toEqual({
    ...{ wait: 0, active: 0, delayed: 0, prioritized: 0, "waiting-children": 0 },
  });
  // Enough of both kinds, or it says nothing.
  expect(added.size).toBeGreaterThan(JOBS * 0.8);
  expect(refused).toBeLessThan(JOBS * 0.2);
  expect([...added.keys()].filter((id) => "reason" in expectedOf(stored.get(id) as Job)).length).toBeGreaterThan(
    JOBS * 0.15,
  );
  expect({ seed, isQuick: stopLoop() < HANG_MS }).toEqual({ seed, isQuick: true });
}, 120_000);
