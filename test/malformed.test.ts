/**
 * Malformed jobs by the thousand, between healthy ones. Each run has a seed, shown when it fails: MALFORMED_SEED repeats it.
 */
import { afterEach, describe, expect, test } from "bun:test";
import type { Job, Queue } from "bullmq";
import { Registry } from "prom-client";
import { createBoardApp } from "../src/board/app.ts";
import { type Receiver, startReceiver } from "../src/dev/receiver.ts";
import type { Logger } from "../src/runtime/logger.ts";
import { BOARD_DEFAULTS } from "./support/board.ts";
import { onlyShard } from "./support/only-shard.ts";
import { bounded, eventually, jobData, OPEN_GATE, type Stack, type StackOptions, startStack } from "./support/stack.ts";

const SEED = Number(process.env.MALFORMED_SEED ?? Math.floor(Math.random() * 2 ** 31));
const JOBS = 2_000;
const MAX_BODY = 16 * 1024; // 16 KiB
const LEAK = "leak-secret-4711"; // in every broken job, where a secret or another value stands
const LONE = "\ud800";
const CRLF = "\r\nX-Injected: yes";

const open: { stop(): Promise<void> }[] = [];

afterEach(async () => {
  for (const { stop } of open.splice(0).reverse()) await stop();
});

async function receiver(): Promise<Receiver> {
  const started = await startReceiver();
  open.push(started);
  return started;
}

async function stack(options?: StackOptions): Promise<Stack> {
  const started = await startStack({ maxBodyBytes: MAX_BODY, ...options });
  open.push(started);
  return started;
}

/** The fields of a job's hash, as some client wrote them. */
type Hash = Record<string, string>;

interface Sample {
  readonly hash: Hash | undefined;
  /** What the failure reason must name; undefined for a healthy job. */
  readonly fields: readonly string[] | undefined;
  /** For messages. */
  readonly what: string;
}

interface End {
  readonly state: "completed" | "failed";
  readonly reason: string;
  readonly attempts: number;
}

/** In [0, 1), the same for the same seed (mulberry32). */
function createRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let bits = Math.imul(state ^ (state >>> 15), state | 1);
    bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61);
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  };
}

const nested = (depth: number): string => `${'{"a":'.repeat(depth)}1${"}".repeat(depth)}`;
const wrong = (field: string, values: readonly unknown[]): readonly [string, unknown][] =>
  values.map((value) => [field, value]);

/** A field and what may not stand there; `undefined` takes it away. */
const BAD_FIELDS: readonly (readonly [string, unknown])[] = [
  ...wrong("data.userId", [undefined, null, 7, "", true, [], {}, "usr ü", "usr\u00e9", `u${CRLF}`, LONE, "🦊"]),
  ...wrong("data.userId", ["u".repeat(129), " ", "\u0000", "u".repeat(500_000), [LEAK]]),
  ...wrong("data.endpoint", [undefined, null, 7, LEAK, true, [], {}]),
  ...wrong("data.endpoint.url", [undefined, null, 7, "", LEAK, `ftp://${LEAK}.example/`, `javascript:${LEAK}`]),
  ...wrong("data.endpoint.url", [`https://user:${LEAK}@customer.example/`, "http://", "http://[::1", "//x", [], {}]),
  ...wrong("data.endpoint.url", [`https://customer.example/${"x".repeat(100_000)}`, `data:text/plain,${LEAK}`, LONE]),
  ...wrong("data.endpoint.secret", [undefined, null, 7, "", true, [], {}, [""], [null], [[LEAK]], { [LEAK]: LEAK }]),
  ...wrong("data.endpoint.secret", [`whsec_${LEAK}!`, `${LEAK}${"x".repeat(1025)}`, Array(11).fill(LEAK), "whsec_"]),
  ...wrong("data.endpoint.secret", [[LEAK, 7], LEAK.repeat(50_000)]),
  ...wrong("data.data", [undefined, null, 7, LEAK, true, [], [LEAK]]),
  ...wrong("data.id", [
    null,
    7,
    "",
    LEAK,
    `2c5ea4c0-4067-51fe-9e7f-1b1c3c8f9a10${CRLF}`,
    [],
    {},
    LONE,
    "x".repeat(100_000),
  ]),
];
/** Found when all the rest is right. */
const BAD_BODIES = [
  JSON.stringify({ text: "x".repeat(MAX_BODY) }),
  JSON.stringify({ text: LONE.repeat(MAX_BODY / 6) }),
  JSON.stringify({ text: "ü".repeat(MAX_BODY / 2) }),
  nested(5_000),
  nested(50_000), // Bun takes 1.4 s to find out that it cannot write it
];
const BAD_NAMES = [
  "",
  "file",
  "FILE.CREATED",
  `file.created${CRLF}`,
  " file.created",
  "__proto__",
  "constructor",
  LONE,
];
const BAD_NAMES_TOO = ["file.created\u0000", `${LEAK}🦊`, "x".repeat(500_000), "toString", "null", "0"];
const BAD_TIMESTAMPS = ["", "soon", "NaN", "99999999999999999999", "-99999999999999999999", "Infinity"];
const BAD_DATA = ["null", "true", "42", `"${LEAK}"`, "[]", "{}", `["${LEAK}"]`, "", '""'];
const BAD_JSON = [
  "{",
  LEAK,
  `{"endpoint":{"secret":"${LEAK}`,
  "undefined",
  "NaN",
  "\u0000",
  "{'a':1}",
  "[".repeat(100_000),
];

const BAD_OPTION_VALUES = [null, true, false, -1, 0, 0.5, 3, 1e9, 1e308, -1e308, "", "3", "many", [], [1], {}, LONE];
const BAD_OPTIONS: readonly Readonly<Record<string, unknown>>[] = [
  ..."attempts backoff priority removeOnComplete removeOnFail timestamp repeat lifo sizeLimit stackTraceLimit jobId"
    .split(" ")
    .flatMap((name) => BAD_OPTION_VALUES.map((value) => ({ [name]: value }))),
  ..."parent deduplication de kl fpof cpof idof rdof tm omc telemetry keepLogs prevMillis rateLimiterKey constructor"
    .split(" ")
    .flatMap((name) => BAD_OPTION_VALUES.map((value) => ({ [name]: value }))),
  ...["x", "a:b:c:d:e", "a:b:c::* * * * *", 7, {}, []].map((repeatJobKey) => ({ repeatJobKey })),
  { repeatJobKey: "x", repeat: { pattern: "no cron at all" } },
  { repeatJobKey: "x", repeat: { every: -5 } },
  { repeatJobKey: "x", repeat: { every: 1, pattern: "* * * * *" } },
  { repeatJobKey: "x", repeat: { every: 1, limit: "none", endDate: {} } },
  { backoff: { type: "fixed" } },
  { backoff: { type: "nobody's", delay: 5 } },
  { backoff: { type: "__proto__", delay: {} } },
  { backoff: { type: "exponential", delay: 1e308, jitter: 9 } },
  ...[{ count: "5" }, { count: 1e308 }, { count: 0.5 }, { count: -3 }, { count: null }, { count: {} }].flatMap(keeping),
  ...[{ age: "x" }, { age: {} }, { age: null }, { age: 1e308 }, { age: 60, limit: "x" }, { limit: 0.5 }].flatMap(
    keeping,
  ),
  ...[{ count: [], age: [], limit: [] }, { count: true }, { constructor: 1 }].flatMap(keeping),
  { parent: { id: "x" } },
  { parent: { id: {}, queue: 7 }, fpof: true },
  { parent: { id: "1", queue: "bull:nowhere" }, failParentOnFailure: true, removeDependencyOnFailure: true },
  { delay: 1e308 },
  { delay: "soon" },
];
const BAD_RAW_OPTIONS = [
  "{",
  "null",
  '"text"',
  "7",
  "[]",
  "true",
  LEAK,
  "",
  '{"__proto__":{"attempts":7}}',
  nested(5_000),
];
/** Fields that only BullMQ writes. */
const BAD_EXTRAS: readonly Hash[] = [
  { progress: "{" },
  { progress: LEAK },
  { parent: "{" },
  { parent: "null" },
  { parent: "7" },
  { parent: "{}" },
  { parent: '{"id":{},"queueKey":[]}' },
  { parent: '{"id":"1","queueKey":"bull:nowhere","fpof":true}', parentKey: "bull:nowhere:1" },
  { parentKey: "x" },
  { rjk: "x" },
  { rjk: "a:b:c:d:e" },
  { deid: "" },
  { deid: "x" },
  { stacktrace: "{" },
  { stacktrace: '{"length":-1}' },
  { returnvalue: "{" },
  { finishedOn: "never" },
  { processedOn: "never" },
  { delay: "soon", priority: "high" },
  { stc: "99999" },
  { failedReason: "x".repeat(100_000) },
  { "": "", __proto__x: "1" },
];

function keeping(value: object): Record<string, unknown>[] {
  return [{ removeOnComplete: value }, { removeOnFail: value }];
}

/** Put a value where `data.endpoint.url` says. Takes away what is undefined. */
function place(data: Record<string, unknown>, path: string, value: unknown): void {
  const keys = path.split(".").slice(1);
  const last = keys.pop() as string;
  let parent: unknown = data;
  for (const key of keys) parent = (parent as Record<string, unknown> | undefined)?.[key];
  if (typeof parent === "object" && parent !== null) (parent as Record<string, unknown>)[last] = value;
}

/** One job after the other, broken or healthy, each from a handful of random decisions. */
function createSamples(random: () => number, url: string) {
  const below = (count: number) => Math.floor(random() * count);
  const oneOf = <T>(items: readonly T[]): T => items[below(items.length)] as T;
  const chance = (share: number) => random() < share;

  const healthyBody = () =>
    oneOf([
      "{}",
      '{"__proto__":{"isAdmin":true},"constructor":{"prototype":{"x":1}},"toString":null}',
      JSON.stringify({ text: `${LONE} \u0000 ${CRLF} 🦊 ü` }),
      JSON.stringify({ text: "x".repeat(MAX_BODY - 300) }),
      nested(500),
    ]);
  const healthyHash = (body = healthyBody(), changes: readonly (readonly [string, unknown])[] = []): Hash => {
    const data: Record<string, unknown> = { userId: "usr_malformed", endpoint: { url, secret: LEAK }, data: "<body>" };
    for (const [field, value] of changes) place(data, field, value);
    const text = JSON.stringify(data).replace('"<body>"', () => body);
    return { name: "file.created", data: text, opts: "{}", timestamp: String(Date.now()), delay: "0", priority: "0" };
  };
  const decorate = (hash: Hash): Hash => {
    const options = Object.assign({}, ...Array.from({ length: below(4) }, () => oneOf(BAD_OPTIONS)));
    const opts = chance(0.1) ? oneOf(BAD_RAW_OPTIONS) : JSON.stringify(options);
    const extra = chance(0.1) ? oneOf(BAD_EXTRAS) : {};
    return { ...hash, opts, ...extra };
  };

  const broken = (): Omit<Sample, "what"> => {
    if (chance(0.03)) return { hash: undefined, fields: ["name", "data", "timestamp"] };
    const hash = decorate(healthyHash());
    if (chance(0.1)) return { hash: { ...hash, data: oneOf(BAD_DATA) }, fields: ["data"] };
    if (chance(0.1)) return { hash: { ...hash, data: oneOf(BAD_JSON) }, fields: ["data"] };
    if (chance(0.08))
      return { hash: { ...hash, data: healthyHash(oneOf(BAD_BODIES)).data as string }, fields: ["data.data"] };
    if (chance(0.02)) {
      const secret = `sealed:v1:${LEAK}`;
      const { data } = healthyHash("{}", [["data.endpoint.secret", oneOf([secret, [LEAK, secret]])]]);
      return { hash: { ...hash, data: data as string }, fields: ["data.endpoint.secret"] };
    }
    if (chance(0.05)) {
      const data = hash.data?.replace('"userId"', '"__proto__":{"userId":"usr_1"},"constructor"') as string;
      return { hash: { ...hash, data }, fields: ["data.userId"] };
    }
    const fields: string[] = [];
    if (chance(0.2)) {
      hash.name = oneOf([...BAD_NAMES, ...BAD_NAMES_TOO]);
      fields.push("name");
    }
    if (chance(0.1)) {
      hash.timestamp = oneOf(BAD_TIMESTAMPS);
      fields.push("timestamp");
    }
    if (fields.length === 0 || chance(0.3)) {
      const changes = Array.from({ length: 1 + below(3) }, () => oneOf(BAD_FIELDS));
      // What is below a bad endpoint, or was overwritten by a later change, is not told apart.
      fields.push(changes.length === 1 ? (changes[0]?.[0] as string) : "data.");
      hash.data = healthyHash("{}", changes).data as string;
    }
    return { hash, fields };
  };

  return (): Sample => {
    const sample = chance(0.3) ? { hash: decorate(healthyHash()), fields: undefined } : broken();
    return { ...sample, what: `${sample.fields ?? "healthy"}: ${JSON.stringify(sample.hash)}`.slice(0, 600) };
  };
}

/** Put jobs into the queue as they are, without any client's help. */
async function enqueue({ valkey, queue }: Stack, samples: ReadonlyMap<string, Sample>): Promise<void> {
  const pipeline = valkey.pipeline();
  for (const [id, { hash }] of samples) {
    if (hash !== undefined) pipeline.hset(queue.toKey(id), hash);
    pipeline.lpush(queue.toKey("wait"), id);
  }
  pipeline.zadd(queue.toKey("marker"), 0, "0");
  await pipeline.exec();
}

/** How jobs end, and what the worker complains of. */
function watch({ worker }: Stack) {
  const ends = new Map<string, End[]>();
  const errors: string[] = [];
  const waiting: { count: number; resolve: () => void }[] = [];
  const add = (job: Job | undefined, state: End["state"], reason: string) => {
    if (job?.id === undefined) return;
    ends.set(job.id, [...(ends.get(job.id) ?? []), { state, reason, attempts: job.attemptsMade }]);
    for (const { count, resolve } of waiting) if (ends.size >= count) resolve();
  };
  worker.on("completed", (job) => add(job, "completed", ""));
  worker.on("failed", (job, error) => add(job, "failed", error.message));
  worker.on("error", (error) => errors.push(error.message));
  const ended = (count: number) =>
    new Promise<void>((resolve) => {
      waiting.push({ count, resolve });
      if (ends.size >= count) resolve();
    });
  return { ends, errors, ended };
}

const counts = (queue: Queue) => queue.getJobCounts("active", "wait", "delayed", "prioritized", "waiting-children");
const NOTHING_LEFT = { active: 0, wait: 0, delayed: 0, prioritized: 0, "waiting-children": 0 };

test(`${JOBS} jobs, broken in every way and healthy ones between them: each ends once, as it should (MALFORMED_SEED=${SEED})`, async () => {
  const customer = await receiver();
  const system = await stack({ concurrency: 32, gate: OPEN_GATE });
  const { ends, errors, ended } = watch(system);
  const random = createRandom(SEED);
  const next = createSamples(random, customer.url("/in"));
  const samples = new Map(Array.from({ length: JOBS }, (_, index) => [`m${index}`, next()]));
  const seed = `repeat with MALFORMED_SEED=${SEED}`;

  await enqueue(system, samples);
  const missing = () => [...samples].filter(([id]) => !ends.has(id)).map(([id, { what }]) => `${id} ${what}`);
  await bounded(
    ended(JOBS),
    () => `all ends, ${seed}; ${errors.slice(0, 5)}; missing ${missing().slice(0, 5)}`,
    20_000,
  );

  const healthy = [...samples].filter(([, { fields }]) => fields === undefined);
  expect(healthy.length).toBeGreaterThan(JOBS / 5);
  const findings = [...samples].flatMap(([id, { fields, what }]) => {
    const problem = judge(ends.get(id) ?? [], fields);
    return problem === undefined ? [] : [`${id} ${problem} (${what}); ${seed}`];
  });
  expect(findings).toEqual([]);
  expect({ seed, errors: unexplained(errors) }).toEqual({ seed, errors: [] });
  expect(await counts(system.queue)).toEqual(NOTHING_LEFT);

  const delivered = customer.requests.map(({ headers }) => headers["webhook-id"]);
  expect({ seed, delivered: delivered.length }).toEqual({ seed, delivered: healthy.length });
  expect(new Set(delivered).size).toBe(healthy.length);
  expect(customer.requests.some(({ headers }) => "x-injected" in headers)).toBe(false);
  expect(JSON.stringify(system.lines)).not.toContain(LEAK);
  expect(({} as { isAdmin?: boolean }).isAdmin).toBeUndefined();
}, 30_000);

/** Without what BullMQ says of a `repeatJobKey` that leads nowhere, once bare and once explained; the job itself goes on. */
function unexplained(errors: readonly string[]): string[] {
  const explained = errors.filter((error) => error.startsWith("Failed to add repeatable job"));
  return errors.filter((error) => !explained.some((explanation) => explanation.endsWith(error)));
}

/** What is wrong with a job's end; undefined when nothing is. */
function judge(ends: readonly End[], fields: readonly string[] | undefined): string | undefined {
  const [end] = ends;
  if (end === undefined || ends.length > 1) return `ended ${ends.length} times`;
  const { state, reason, attempts } = end;
  if (fields === undefined) return state === "completed" ? undefined : `is healthy, and failed: ${reason}`;
  if (state === "completed") return "is broken, and was delivered";
  if (attempts !== 1) return `used ${attempts} attempts`;
  if (Buffer.byteLength(reason) > 2_000) return `has a reason of ${Buffer.byteLength(reason)} bytes`;
  if (reason.includes(LEAK)) return `shows a value: ${reason}`;
  const isUnread = reason.includes("data: expected at most"); // so long that none of its fields was looked at
  const unnamed = fields.filter((field) => !reason.includes(field) && !(isUnread && field.startsWith("data")));
  return unnamed.length === 0 ? undefined : `does not name ${unnamed}: ${reason}`;
}

describe("a job whose stored", () => {
  const good = (url: string): Hash => ({
    name: "file.created",
    data: JSON.stringify(jobData(url)),
    opts: "{}",
    timestamp: String(Date.now()),
    delay: "0",
    priority: "0",
  });
  const sampleOf = (hash: Hash): Sample => ({ hash, fields: undefined, what: "" });

  test.each([
    ["options are no JSON", { opts: "{" }],
    ["options are null", { opts: "null" }],
    ["progress is no JSON", { progress: "{" }],
    ["parent is no JSON", { parent: "{", parentKey: "bull:nowhere:1" }],
    ["parent is no parent", { parent: "null" }],
    ["parent's key is none", { parentKey: "x" }],
    ["schedule leads nowhere", { rjk: "nowhere" }],
    ["retention is nonsense", { opts: '{"removeOnComplete":{"count":"many"},"removeOnFail":[]}' }],
    ["retention is null", { opts: '{"removeOnComplete":null,"removeOnFail":null}' }],
  ])("%s is delivered once, and so are those before and after it", async (_, changes) => {
    const customer = await receiver();
    const system = await stack({ concurrency: 1, gate: OPEN_GATE }); // each job is fetched by the script that ends another
    const { ends, ended } = watch(system);
    const url = customer.url("/in");
    const hashes = [good(url), { ...good(url), ...changes }, good(url), { ...good(url), ...changes }, good(url)];
    await enqueue(system, new Map(hashes.map((hash, index) => [`j${index}`, sampleOf(hash as Hash)])));
    await bounded(ended(5), () => `five ends, got ${[...ends.keys()]}`);
    expect([...ends.values()].flat().map(({ state }) => state)).toEqual(Array(5).fill("completed"));
    expect(customer.requests).toHaveLength(5);
    expect(await counts(system.queue)).toEqual(NOTHING_LEFT);
    expect((await system.queue.getCompleted()).map(({ id }) => id).sort()).toEqual(["j0", "j1", "j2", "j3", "j4"]);
  });

  test("data is no JSON stays readable for the board, as a text without its secrets", async () => {
    const system = await stack();
    const { ended } = watch(system);
    const data = `{"endpoint":{"url":"https://user:${LEAK}@customer.example/","secret":"${LEAK}`;
    await enqueue(system, new Map([["j0", sampleOf({ ...good("http://x.example/"), data })]]));
    await bounded(ended(1), () => "an end");
    const stored = () => system.valkey.hget(system.queue.toKey("j0"), "data");
    await eventually(stored, (text) => text?.startsWith('"') === true);
    const app = createBoardApp({
      config: BOARD_DEFAULTS,
      shards: onlyShard(system.queue.name, system.valkey),
      registry: new Registry(),
      logger: { info() {}, error() {} } as unknown as Logger,
    });
    for (const path of [`?activeQueue=${system.queue.name}&status=failed`, `/${system.queue.name}/j0`]) {
      const response = await app.request(`/board/api/queues${path}`);
      const text = await response.text();
      expect([response.status, text.includes("j0"), text.includes(LEAK)]).toEqual([200, true, false]);
    }
  });
});

test("a log that is no sorted set costs nobody a delivery", async () => {
  const customer = await receiver();
  const system = await stack();
  const data = jobData(customer.url());
  await system.valkey.set(`webhooks:log:${data.userId}`, "not a log");
  const job = await system.queue.add("file.created", data);
  const { state } = await system.settled(job);
  expect(state).toBe("completed");
  expect(await system.line("attempt.unlogged")).toMatchObject({ level: "error", user: data.userId });
  expect(customer.requests).toHaveLength(1);
  expect(await system.metrics.registry.metrics()).toContain("fluxhook_unlogged_attempts_total 1");
});

test("what a BullMQ client accepts as options keeps no event from its receiver", async () => {
  const customer = await receiver();
  const system = await stack();
  const data = () => jobData(customer.url());
  const options = [
    { attempts: -5, backoff: -1 },
    { attempts: 1e9, backoff: { type: "nobody's", delay: -1 } },
    { delay: -1e15 },
    { priority: 2 ** 21 - 1, lifo: true },
    { timestamp: -1 },
    { repeatJobKey: "nowhere" },
    { removeOnComplete: { age: "x" } as never },
    { removeOnComplete: -7, removeOnFail: 0.5 },
    { stackTraceLimit: 1e9, keepLogs: -1 },
    { deduplication: { id: "x".repeat(1000) } },
    { jobId: "__proto__" },
  ];
  const jobs = await Promise.all(options.map((option) => system.queue.add("file.created", data(), option)));
  const ends = await Promise.all(jobs.map((job) => system.settled(job)));
  expect(ends.map(({ state }) => state)).toEqual(options.map(() => "completed"));
  expect(customer.requests).toHaveLength(options.length);
});

test("a body that cannot be written in good time is refused in good time", async () => {
  const system = await stack({ maxBodyBytes: 1024 * 1024 });
  const text = JSON.stringify(jobData("http://customer.example/", { data: {} }));
  const data = text.replace('"data":{}', () => `"data":${nested(50_000)}`);
  const hash = { name: "file.created", data, opts: "{}", timestamp: String(Date.now()) };
  const { ends, ended } = watch(system);
  const startedAt = performance.now();
  await enqueue(system, new Map([["j0", { hash, fields: [], what: "" }]]));
  await bounded(ended(1), () => "an end");
  expect(performance.now() - startedAt).toBeLessThan(700); // written, it would take twice that
  expect(ends.get("j0")).toMatchObject([
    { state: "failed", reason: "data.data: expected at most 2000 levels of nesting" },
  ]);
});
