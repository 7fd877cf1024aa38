/** What our scripts know of BullMQ's keys is what BullMQ writes. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { FlowProducer, type Job, Queue, Worker } from "bullmq";
import {
  DELAYED_SCORE_PER_MS,
  FLOW_SUFFIXES,
  JOB_FIELDS,
  JOB_LISTS,
  JOB_SETS,
  JOB_STATES,
  KEY_TYPES,
  keysOf,
  LOCK_SUFFIX,
  LOGS_SUFFIX,
  MARKER,
  PRIORITY_SCORE,
  queueKey,
  queueKeys,
} from "../src/queue/layout.ts";
import { connectValkey, type Valkey } from "../src/valkey/connection.ts";
import { testValkeyUrl } from "./support/valkey.ts";

let valkey: Valkey;
let queue: Queue;
let keys: ReturnType<typeof queueKeys>;
const add = async (opts: object) => (await queue.add("file.created", { text: "ü" }, opts)).id as string;
const scores = (key: string) => valkey.zrange(key, "0", "-1", "WITHSCORES");

beforeAll(async () => {
  const name = `layout-${crypto.randomUUID()}`;
  valkey = connectValkey(await testValkeyUrl(), "test:layout", { info() {}, warn() {} });
  queue = new Queue(name, { connection: valkey });
  keys = queueKeys(queueKey(name));
});
afterAll(async () => {
  await queue.obliterate({ force: true });
  await queue.close();
  valkey.disconnect();
});

test("every key is where BullMQ has it", () => {
  const { jobs, ...named } = keys;
  for (const [name, key] of Object.entries(named)) expect(key).toBe(queue.toKey(name));
  expect(jobs).toBe(queue.toKey(""));
  expect(keysOf(queue)).toEqual(keys);
});

test("every place of jobs is one of BullMQ's, and every state of its jobs but that of parents", async () => {
  expect(await queue.getJobCounts()).toContainAllKeys([
    ...[...JOB_LISTS, ...JOB_SETS].filter((name) => name !== "wait" && name !== "paused"),
    "waiting",
  ]);
  expect(Object.keys(await queue.getJobCounts(...JOB_STATES)).sort()).toEqual([...JOB_STATES].sort());
});

test("each key that a job owns is the job's own and a suffix that is known", async () => {
  const flow = new FlowProducer({ connection: valkey });
  const worker = new Worker(queue.name, null, { connection: valkey, autorun: false });
  const child = (opts: object) => ({ name: "child", queueName: queue.name, opts });
  try {
    const { job: parent } = await flow.add({
      ...{ name: "parent", queueName: queue.name },
      children: [
        child({}),
        child({ ignoreDependencyOnFailure: true }),
        child({}),
        child({ failParentOnFailure: true }),
      ],
    });
    await parent.log("a line");
    const found = new Set<string>();
    const collect = async () => {
      for (const key of await valkey.keys(`${keys.jobs}${parent.id}:*`))
        found.add(key.replace(`${keys.jobs}${parent.id}`, ""));
    };
    await collect();
    for (
      let job = await worker.getNextJob("t");
      job !== undefined;
      job = await worker.getNextJob("t", { block: false })
    ) {
      if (job.opts.ignoreDependencyOnFailure || job.opts.failParentOnFailure)
        await job.moveToFailed(new Error("no"), "t", false);
      else if (job.id !== parent.id) await job.moveToCompleted("", "t", false);
      await collect();
      if (job.id === parent.id) break;
    }
    expect([...found].sort()).toEqual([LOCK_SUFFIX, LOGS_SUFFIX, ...FLOW_SUFFIXES].sort());
  } finally {
    await worker.close();
    await flow.close();
  }
});

test("the next job of wait is last, and a LIFO job goes there", async () => {
  const ids = [await add({}), await add({}), await add({ lifo: true })];
  expect(await valkey.lrange(keys.wait, 0, -1)).toEqual([ids[1], ids[0], ids[2]] as string[]);
});

test("a job is a hash, and its data JSON", async () => {
  const id = await add({});
  expect(await valkey.hget(`${keys.jobs}${id}`, "data")).toBe('{"text":"ü"}');
});

test("every field of a job's hash is the one that BullMQ's Job has under its name", async () => {
  const id = await add({});
  const { name: _, data: __, opts: ___, stacktrace: ____, returnvalue: _____, ...texts } = JOB_FIELDS;
  const values = Object.entries(texts).map(([name, field], index) => ({ name, field, value: 1_000 + index }));
  for (const { field, value } of values) await valkey.hset(`${keys.jobs}${id}`, field, value);
  await valkey.hset(`${keys.jobs}${id}`, JOB_FIELDS.stacktrace, '["at"]', JOB_FIELDS.returnvalue, '"fine"');
  await valkey.hset(`${keys.jobs}${id}`, JOB_FIELDS.name, "share.linked", JOB_FIELDS.opts, '{"attempts":3}');
  const job = (await queue.getJob(id)) as unknown as Record<string, unknown>;
  expect(values.map(({ name }) => [name, String(job[name])])).toEqual(
    values.map(({ name, value }) => [name, String(value)]),
  );
  expect(job).toMatchObject({ name: "share.linked", data: { text: "ü" }, opts: { attempts: 3 } });
  expect(job).toMatchObject({ stacktrace: ["at"], returnvalue: "fine" });
});

test("the least of a producer's priorities has a score above those of ours", async () => {
  const id = await add({ priority: 1 });
  expect(await scores(keys.prioritized)).toEqual([id, String(PRIORITY_SCORE + 1)]);
});

test("a delayed job's score is its time", async () => {
  const before = Date.now();
  await add({ delay: 60_000 });
  const [, score] = await scores(keys.delayed);
  expect(Math.floor(Number(score) / DELAYED_SCORE_PER_MS) - before - 60_000).toBeWithin(0, 5_000);
});

test("a job that waits leaves a marker, unless the queue is paused", async () => {
  await valkey.del(keys.marker);
  await add({});
  expect(await scores(keys.marker)).toEqual([MARKER.member, String(MARKER.score)]);
  await queue.pause();
  expect(await valkey.hexists(keys.meta, "paused")).toBe(1);
  expect(await valkey.exists(keys.marker)).toBe(0);
  await add({});
  expect(await valkey.exists(keys.marker)).toBe(0);
  await queue.resume();
  expect(await valkey.hexists(keys.meta, "paused")).toBe(0);
});

test("an active job's lock holds its worker's token, and without it BullMQ's check moves a job that is marked", async () => {
  await queue.obliterate({ force: true });
  const id = await add({});
  const worker = new Worker(queue.name, null, { connection: valkey, autorun: false });
  try {
    await worker.getNextJob("a token");
    expect(await valkey.lrange(keys.active, 0, -1)).toEqual([id]);
    expect(await valkey.get(`${keys.jobs}${id}${LOCK_SUFFIX}`)).toBe("a token");
    await valkey.del(`${keys.jobs}${id}${LOCK_SUFFIX}`);
    await valkey.sadd(keys.stalled, id);
    await valkey.set(keys["stalled-check"], "");
    expect(await worker.backend.moveStalledJobsToWait()).toEqual([]);
    await valkey.del(keys["stalled-check"]);
    expect(await worker.backend.moveStalledJobsToWait()).toEqual([id]);
    expect(await valkey.lrange(keys.wait, 0, -1)).toEqual([id]);
  } finally {
    await worker.close();
  }
});

test("every key of a queue in use has its type", async () => {
  const used = new Queue(`layout-${crypto.randomUUID()}`, { connection: valkey });
  const worker = new Worker(used.name, null, { connection: valkey, autorun: false });
  try {
    await used.addBulk(Array.from({ length: 4 }, () => ({ name: "file.created", data: {} })));
    const take = async () => (await worker.getNextJob("t")) as Job;
    await (await take()).moveToCompleted("", "t", false);
    await (await take()).moveToFailed(new Error("no"), "t", false);
    await take();
    await used.add("file.created", {}, { delay: 60_000 });
    await used.add("file.created", {}, { priority: 1 });
    const types = Object.entries(keysOf(used)).map(async ([name, key]) => [name, await valkey.type(key)]);
    expect(Object.fromEntries(await Promise.all(types))).toMatchObject(KEY_TYPES);
  } finally {
    await worker.close();
    await used.obliterate({ force: true });
    await used.close();
  }
});
