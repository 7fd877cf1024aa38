/** The command over six shards on a cluster of three nodes, with jobs of the same id in several of them. */
import { afterAll, beforeAll, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Queue } from "bullmq";
import { Redis } from "ioredis";
import { type Cluster, startCluster } from "../src/dev/cluster.ts";
import { type Receiver, startReceiver } from "../src/dev/receiver.ts";
import { startValkey } from "../src/dev/valkey.ts";
import type { Attempt } from "../src/log/attempts.ts";
import { type OpenShard, openShard } from "../src/queue/open-shard.ts";
import { endpointIndexKey, endpointOffKey, logKey, responsesKey } from "../src/queue/own-keys.ts";
import { homeOf, shardsOf } from "../src/queue/shards.ts";
import { slotOf } from "../src/valkey/cluster.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { createCommand, startCommand } from "./support/command.ts";
import { dumpAll } from "./support/dump.ts";
import { startWorkerProcess, type WorkerProcess } from "./support/process.ts";
import { eventually, jobData } from "./support/stack.ts";

setDefaultTimeout(120_000); // processes that start, on a machine that may be busy

const SHARDS = 6;
const BUSY_MS = 60_000; // for what takes a moment, on a machine that may be busy
const HOUR_MS = 60 * 60 * 1000;
const SECRET = "s3cret-of-the-test";
const AWAY = "https://a.example/in?token=hush";
let cluster: Cluster;
let receiver: Receiver;
let worker: WorkerProcess;
let env: Record<string, string>;
let fluxhook: ReturnType<typeof createCommand>;
let all: readonly OpenShard[];

beforeAll(async () => {
  [cluster, receiver] = await Promise.all([startCluster({ replicas: 0, password: "p@ss/word" }), startReceiver()]);
  env = { VALKEY_URL: cluster.url, WEBHOOK_SHARDS: `${SHARDS}`, SECRET };
  fluxhook = createCommand(env);
  // Two more than the settings have: nobody serves them.
  all = shardsOf({ queue: "webhooks", shards: SHARDS + 2, valkeyUrls: [cluster.url] }).map((shard) =>
    openShard(shard, connectValkey(cluster.url, "test:cli", { info() {}, warn() {} }, { key: shard.queue })),
  );
  worker = startWorkerProcess({ ...env, LOG_LEVEL: "error", WEBHOOK_RETRY_DELAYS: "1h" });
  await eventually(
    () => Promise.all(all.slice(0, SHARDS).map(({ client }) => client.getWorkersCount())),
    (counts) => counts.every((count) => count === 1),
    BUSY_MS,
  );
});
afterAll(async () => {
  await worker.stop();
  for (const { valkey } of all) valkey.disconnect();
  await Promise.all([cluster.stop(), receiver.stop()]);
});
let isNodeAway = false;
beforeEach(async () => {
  receiver.answer({ status: 204 });
  if (!isNodeAway) await clean();
});

async function clean(): Promise<void> {
  for (const { client, valkey, tag } of all) {
    await client.obliterate({ force: true });
    for await (const keys of valkey.scanStream({ match: `webhooks:*${tag}*`, count: 1_000 })) {
      for (const key of keys as string[]) await valkey.unlink(key);
    }
    await valkey.unlink(`webhooks:holds:webhooks-${tag.slice(0, -1)}`);
  }
}

const shardAt = (index: number): OpenShard => all[index] as OpenShard;

/** A user whose events go to this shard, with braces in the name. */
function userOf(shard: number, shards = SHARDS): string {
  const numbers = Array.from({ length: 1_000 }, (_, number) => `usr_{${number}}`);
  return numbers.find((user) => homeOf(user, shards) === shard) as string;
}

/** A job that waits for an hour. Its id is the next of the shard, as BullMQ counts them, if it is a number. */
async function add(shard: number, id: string, userId: string, url = AWAY): Promise<void> {
  const { client, valkey } = shardAt(shard);
  const isNumber = /^\d+$/.test(id);
  if (isNumber) await valkey.set(client.toKey("id"), Number(id) - 1);
  await client.add("file.created", jobData(url, { userId }), { delay: HOUR_MS, ...(!isNumber && { jobId: id }) });
}

const arrived = (path: string) =>
  eventually(
    () => receiver.requests.filter((request) => request.path === path).length,
    (count) => count === 1,
    BUSY_MS,
  );

let lastFailedAt = 0;

/** A job that failed, later than all before it. */
async function fail(shard: number, id: string, userId: string, url = AWAY): Promise<void> {
  await add(shard, id, userId, url);
  const { client, valkey } = shardAt(shard);
  await valkey.zrem(client.toKey("delayed"), id);
  lastFailedAt = Math.max(lastFailedAt + 1, Date.now());
  await valkey.zadd(client.toKey("failed"), lastFailedAt, id);
  await valkey.hset(client.toKey(id), "finishedOn", lastFailedAt, "failedReason", "HTTP 410", "delay", 0);
}

async function run(...args: string[]) {
  const { out, err, code } = await fluxhook([...args, "--json"]);
  return { ...(out === "" ? {} : JSON.parse(out)), err, code };
}

const stateOf = (shard: number, id: string) => shardAt(shard).client.getJobState(id);

test("an event goes to its user's shard, is followed there, and is listed under the shard's name", async () => {
  const user = userOf(4);
  const target = ["--url", receiver.url("/in"), "--user", user, "--secret-env", "SECRET"];
  const { out, code } = await fluxhook(["send", "--event", "file.created", ...target, "--wait"]);
  expect([out.split("\n")[0], out.trimEnd().split("\n").at(-1), code]).toEqual([
    `Queued file.created for ${user} as job 4/1.`,
    "Delivered.",
    0,
  ]);
  const { job, state, attempts } = await run("trigger", "file.deleted", ...target, "--wait");
  expect([job, state, attempts.map((attempt: Attempt) => attempt.job)]).toEqual(["4/2", "delivered", ["4/2"]]);

  await add(1, "1", user, receiver.url("/in")); // some producer puts it into another shard
  await (await shardAt(1).client.getJob("1"))?.promote();
  const listed = await eventually(
    async () => JSON.parse((await fluxhook(["attempts", user, "--json"])).out) as Attempt[],
    (attempts) => attempts.length === 3,
    BUSY_MS,
  );
  expect(listed.map((attempt) => attempt.job)).toEqual(["1/1", "4/2", "4/1"]);
});

describe("status", () => {
  test("has the sums of all shards, then each of them with its node", async () => {
    await add(1, "7", "usr_1");
    await add(3, "7", "usr_1");
    await fail(3, "8", "usr_1");
    const { out, code } = await fluxhook(["status"]);
    const lines = out.split("\n");
    expect(lines.slice(0, 6).map((line) => line.split(/ {2,}/))).toEqual([
      ["queue", "webhooks"],
      ["waiting", "0"],
      ["active", "0"],
      ["delayed", "2"],
      ["completed", "0"],
      ["failed", "1"],
    ]);
    const start = lines.findIndex((line) => line.startsWith("shard "));
    expect(lines.slice(start, start + 1 + SHARDS).map((line) => line.split(/ {2,}/))).toEqual([
      ["shard", "waiting", "active", "delayed", "failed", "workers", "node"],
      ...Array.from({ length: SHARDS }, (_, index) => [
        ...[`${index}`, "0", "0", index === 1 || index === 3 ? "1" : "0", index === 3 ? "1" : "0", "1"],
        expect.stringMatching(/^127\.0\.0\.1:\d+$/),
      ]),
    ]);
    expect(code).toBe(0);
    const { queue, depth, shards, problems, workers } = await run("status");
    expect([queue, depth.delayed, depth.failed, workers, problems]).toEqual(["webhooks", 2, 1, 1, []]);
    expect(shards[3]).toEqual({
      ...{ shard: "3", queue: "webhooks-{3}", is_away: false, workers: 1, paused: false },
      depth: { waiting: 0, active: 0, delayed: 1, completed: 0, failed: 1 },
      node: `127.0.0.1:${(await cluster.ownerOf(slotOf("webhooks-{3}")))?.port}`,
    });
  });

  test("says where events wait that nobody serves, since the settings have fewer shards", async () => {
    await add(7, "1", "usr_1");
    const { problems, code } = await run("status");
    expect(problems).toEqual([
      expect.objectContaining({
        ...{ code: "unserved", severity: "critical" },
        text: expect.stringContaining("1 event waits in shard 7, which nobody serves"),
      }),
    ]);
    expect(code).toBe(1);
  });
});

describe("redeliver", () => {
  test("takes a job by its shard's name, and asks which is meant of several with the same id", async () => {
    for (const shard of [1, 3]) await fail(shard, "4711", "usr_1", receiver.url(`/${shard}`));
    const plain = await fluxhook(["redeliver", "4711"]);
    expect([plain.err, plain.code]).toEqual(["fluxhook: 4711 is in several shards: use 1/4711 or 3/4711\n", 2]);
    const { jobs, code } = await run("redeliver", "3/4711");
    expect([jobs, code]).toEqual([[{ job: "3/4711", redelivery: "queued" }], 0]);
    await arrived("/3");
    expect(await stateOf(1, "4711")).toBe("failed");
  });

  test("finds an id that is in one shard, tells which, and what is in none", async () => {
    const id = crypto.randomUUID();
    await fail(5, id, "usr_1", receiver.url("/in"));
    const { jobs } = await run("redeliver", id, "4/nowhere", "9/nowhere", "nowhere", "--dry-run");
    expect(jobs.map(({ job, state }: { job: string; state: string }) => [job, state])).toEqual([
      [`5/${id}`, "failed"],
      ["4/nowhere", null],
      ["9/nowhere", null],
      ["nowhere", null],
    ]);
    expect((await run("redeliver", "9/nowhere")).jobs).toEqual([{ job: "9/nowhere", redelivery: "gone" }]);
  });

  test("takes all failed events of all shards, in the order in which they failed", async () => {
    for (const shard of [4, 0, 2]) await fail(shard, "1", "usr_1", receiver.url(`/all/${shard}`));
    const listed = await run("redeliver", "--failed", "--dry-run");
    expect(listed.jobs.map(({ job }: { job: string }) => job)).toEqual(["2/1", "0/1", "4/1"]);
    expect(await run("redeliver", "--failed", "--yes")).toMatchObject({ queued: 3, pending: 0, gone: 0, code: 0 });
    for (const shard of [0, 2, 4]) await arrived(`/all/${shard}`);
  });
});

test("cancel goes over all shards, and each keeps what fits", async () => {
  for (const id of ["1", "2", "3"]) await add(2, id, "usr_1");
  await add(5, "1", "usr_1");
  await add(5, "2", "usr_2");
  const census = await run("cancel", "--user", "usr_1", "--dry-run");
  expect([census.count, census.jobs.map(({ job }: { job: string }) => job).sort()]).toEqual([
    4,
    ["2/1", "2/2", "2/3", "5/1"],
  ]);
  const few = await fluxhook(["cancel", "--user", "usr_1", "--yes"], { env: { WEBHOOK_KEEP_FAILED: "2" } });
  expect(few.err).toContain("4 match, but only 3 more failed events can be kept");
  expect(await run("cancel", "--user", "usr_1", "--yes")).toMatchObject({ count: 4, done: true, code: 0 });
  const states = await Promise.all([stateOf(2, "1"), stateOf(2, "3"), stateOf(5, "1"), stateOf(5, "2")]);
  expect(states).toEqual(["failed", "failed", "failed", "delayed"]);
});

test("forget leaves nothing of a user in any shard, and everything of others", async () => {
  const user = "usr_{3}";
  for (const shard of [0, 2, 3]) {
    const { valkey, tag } = shardAt(shard);
    await add(shard, "1", user);
    await fail(shard, "2", user);
    await add(shard, "3", "usr_other");
    await valkey.zadd(logKey(user, tag), 1, "{}");
    await valkey.zadd(responsesKey(user, tag), 1, "{}");
  }
  expect((await run("hold", "--user", user, "--for", "1h")).code).toBe(0);
  const expected = { jobs: expect.objectContaining({ delayed: 3, failed: 3 }), attempts: 3, holds: 1 };
  expect(await run("forget", user, "--dry-run")).toMatchObject(expected);
  expect(await run("forget", user, "--yes")).toMatchObject({ ...expected, done: true, code: 0 });
  for (const { client } of cluster.nodes) {
    expect((await dumpAll(client)).filter((text) => text.includes(user))).toEqual([]);
  }
  for (const shard of [0, 2, 3]) expect(await stateOf(shard, "3")).toBe("delayed");
  expect(await run("forget", user, "--dry-run")).toMatchObject({ attempts: 0, holds: 0 });
});

test("endpoints of users in several shards are applied, listed, indexed anew, exported and forgotten", async () => {
  const users = [1, 3, 5].map((shard) => userOf(shard));
  const path = join(tmpdir(), `fluxhook-shards-${crypto.randomUUID()}.jsonl`);
  const lines = users.map((user) => JSON.stringify({ user, id: "main", url: AWAY, state: "paused" }));
  writeFileSync(path, lines.join("\n"));
  const registering = { env: { WEBHOOK_ALLOW_PLAIN: "1" } };
  const applied = await fluxhook(["endpoints", "apply", path, "--json"], registering);
  expect([applied.err, JSON.parse(applied.out).created]).toEqual(["", 3]);
  const listed = async () =>
    (await run("endpoints", "list", "--state", "off")).endpoints.map(({ user }: { user: string }) => user);
  expect(await listed()).toEqual(users.toReversed());
  for (const { valkey, tag } of all) await valkey.unlink(endpointIndexKey(tag), endpointOffKey(tag));
  expect(await listed()).toEqual([]);
  expect(await run("endpoints", "reindex")).toMatchObject({ users: 3, endpoints: 3, repaired: 6, code: 0 });
  expect((await listed()).sort()).toEqual(users.toSorted());
  const exported = await fluxhook(["endpoints", "export", "--with-plain"]);
  writeFileSync(path, exported.out);
  const again = await fluxhook(["endpoints", "apply", path], registering);
  expect(again.out).toBe("0 created, 0 updated, 0 deleted, 3 left as they are.\n");
  rmSync(path);
  for (const user of users) expect(await run("forget", user, "--yes")).toMatchObject({ endpoints: 1, code: 0 });
  for (const { client } of cluster.nodes) {
    expect((await dumpAll(client)).filter((text) => users.some((user) => text.includes(user)))).toEqual([]);
  }
});

test("recover restores strays of every shard, by name", async () => {
  for (const shard of [2, 5]) {
    const { client, valkey } = shardAt(shard);
    await client.pause(); // so that they stay where they are restored to
    await add(shard, "9", "usr_1");
    await valkey.zrem(client.toKey("delayed"), "9");
  }
  const { out } = await fluxhook(["recover", "--dry-run"]);
  expect(out.split("\n").map((line) => line.split(/ {2,}/)[0])).toEqual([
    ...["job", "2/9", "5/9", "2 events are in none of the queue's lists.", ""],
  ]);
  const status = await run("status");
  expect([status.strays, status.paused]).toEqual([2, true]);
  expect(await run("recover", "--yes")).toMatchObject({ count: 2, jobs: ["2/9", "5/9"], code: 0 });
  expect(await Promise.all([stateOf(2, "9"), stateOf(5, "9")])).toEqual(["waiting", "waiting"]);
  for (const shard of [2, 5]) {
    await shardAt(shard).client.drain();
    await shardAt(shard).client.resume();
  }
});

test("pause and resume are for all shards, and say so when some are paused already", async () => {
  await shardAt(1).client.pause();
  await shardAt(4).client.pause();
  expect((await fluxhook(["pause", "--dry-run"])).out).toStartWith(
    "The queue webhooks would be paused, in shards 0, 2, 3 and 5 of 6: 0 waiting",
  );
  const paused = await run("pause", "--yes");
  expect([paused.paused, paused.changed, paused.shards.length]).toEqual([true, true, SHARDS]);
  expect(await Promise.all(all.slice(0, SHARDS).map(({ client }) => client.isPaused()))).not.toContain(false);
  expect((await fluxhook(["pause", "--yes"])).out).toStartWith("The queue webhooks is already paused");
  expect((await fluxhook(["resume", "--yes"])).out).toBe(
    "Resumed the queue webhooks: 0 waiting, 0 active, 0 delayed.\n",
  );
  expect(await Promise.all(all.slice(0, SHARDS).map(({ client }) => client.isPaused()))).not.toContain(true);
});

test("holds are once for all shards; a text that is also the id of a user in any shard is asked about", async () => {
  await shardAt(4).valkey.zadd(logKey("hooks.example.com", "{4}:"), 1, "{}");
  const asked = await fluxhook(["hold", "hooks.example.com", "--for", "1h"]);
  expect([asked.err, asked.code]).toEqual([expect.stringContaining("could be a host or a user"), 2]);
  expect((await run("hold", "--host", "hooks.example.com", "--for", "1h")).code).toBe(0);
  const { out } = await fluxhook(["holds", "--json"]);
  expect(JSON.parse(out)).toMatchObject([{ kind: "host", target: "hooks.example.com" }]);
  expect((await run("status")).holds).toHaveLength(1);
  expect((await run("release", "hooks.example.com")).released).toHaveLength(1);
});

test("find looks into all shards, and names jobs with theirs", async () => {
  const id = crypto.randomUUID();
  for (const shard of [2, 5]) await add(shard, "12", userOf(shard));
  await shardAt(3).client.add("file.deleted", { ...jobData(AWAY, { userId: "usr_9" }), id }, { delay: HOUR_MS });
  const event = await run("find", id);
  expect(event.found).toMatchObject([{ kind: "event", found: id, user: "usr_9", job: expect.stringMatching(/^3\//) }]);
  const named = await run("find", "5/12");
  expect(named.found).toMatchObject([{ kind: "job", user: userOf(5), job: "5/12", state: "delayed" }]);
});

test("listen --forward-to posts the user's events from every shard", async () => {
  const local = await startReceiver();
  const args = ["listen", "--forward-to", local.url("/dev"), "--user", "usr_1", "--count", "3", "--json"];
  const command = startCommand(args, env);
  await command.until("\n"); // it has said what it does, and follows the streams
  for (const shard of [0, 3, 5]) await add(shard, "1", "usr_1");
  await add(4, "1", "usr_2");
  expect(await command.exited).toBe(0);
  const [head, ...posted] = command
    .output()
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
  expect(head.queue).toBe("webhooks");
  expect(posted.map(({ job }) => job).sort()).toEqual(["0/1", "3/1", "5/1"]);
  expect(local.requests).toHaveLength(3);
  await local.stop();
});

test("a shard that moves to another node ends a command that is reading it, as a lost connection does", async () => {
  const command = startCommand(["listen", "--forward-to", receiver.url("/dev"), "--user", "usr_1"], env);
  await command.until("\n");
  const slot = slotOf("webhooks-{2}");
  const owner = await cluster.ownerOf(slot);
  await cluster.moveSlot(slot, cluster.nodes.find((node) => node !== owner) as Cluster["nodes"][number]);
  expect(await command.exited).toBe(69);
  expect((await run("status")).code).toBe(0);
});

test("the queue that a move into the cluster left behind is the shard named old", async () => {
  await using left = await startLeftQueue();
  const old = createCommand({ ...env, WEBHOOK_DRAIN_URL: left.url });
  await left.queue.add("file.created", jobData(AWAY, { userId: "usr_1" }), { delay: HOUR_MS });
  await left.valkey.zadd(logKey("usr_1"), Date.now(), JSON.stringify({ ...ATTEMPT, job: "old/1" }));
  const { shards, queue } = JSON.parse((await old(["status", "--json"])).out);
  expect(queue).toBe("webhooks");
  expect(shards.at(-1)).toMatchObject({ shard: "old", queue: "webhooks", depth: { delayed: 1 }, workers: 0 });
  expect(JSON.parse((await old(["attempts", "usr_1", "--json"])).out)).toMatchObject([{ job: "old/1" }]);
  const { jobs } = JSON.parse((await old(["cancel", "--user", "usr_1", "--dry-run", "--json"])).out);
  expect(jobs).toMatchObject([{ job: "old/1", state: "delayed" }]);
  expect((await old(["redeliver", "old/1"])).out).toBe("1 queued, 0 already pending, 0 gone.\n");
});

const ATTEMPT = {
  ...{ id: crypto.randomUUID(), delivery: crypto.randomUUID(), attempt: 1, event: "file.created" },
  ...{ endpoint: "https://a.example/in", timestamp: new Date().toISOString(), duration_ms: 5 },
  ...{ status_code: 204, success: true, error: null, cause: null },
};

async function startLeftQueue() {
  const server = await startValkey();
  const valkey = new Redis(server.url, { maxRetriesPerRequest: null });
  const queue = new Queue("webhooks", { connection: valkey });
  return {
    ...{ url: server.url, valkey, queue },
    async [Symbol.asyncDispose]() {
      await queue.close();
      valkey.disconnect();
      await server.stop();
    },
  };
}

describe("while a node is away", () => {
  let away: number[];
  let there: number[];
  const inAny = (shards: readonly number[]) => shards[0] as number;

  beforeAll(async () => {
    const owners = await Promise.all(all.map(({ queue }) => cluster.ownerOf(slotOf(queue))));
    const [first] = owners;
    const victim = cluster.nodes.find((node) => node !== first && owners.slice(0, SHARDS).includes(node));
    const indexes = Array.from({ length: SHARDS }, (_, index) => index);
    away = indexes.filter((index) => owners[index] === victim);
    there = indexes.filter((index) => owners[index] !== victim);
    await clean();
    await add(inAny(away), "1", "usr_1");
    await add(inAny(there), "1", "usr_1");
    await victim?.kill();
    isNodeAway = true;
  });

  test("what reads goes on with the other shards, says which are missing, and exits with 1", async () => {
    const status = await run("status");
    expect(status.code).toBe(1);
    const shards = away.length === 1 ? `shard ${away[0]}` : `shards ${away.slice(0, -1).join(", ")} and ${away.at(-1)}`;
    expect(status.problems[0]).toMatchObject({
      ...{ code: "shard_away", severity: "critical" },
      text: expect.stringMatching(new RegExp(`^${shards.replace("s", "S")} do(es)? not answer`)),
    });
    expect(status.depth.delayed).toBe(1);
    expect(status.shards.filter((shard: { is_away: boolean }) => shard.is_away)).toHaveLength(away.length);
    expect(status.err).toContain(`cannot use ${shards} of Valkey at 127.0.0.1:`);
    expect(`${status.err}${JSON.stringify(status)}`).not.toContain("p@ss");
    const text = await fluxhook(["status"]);
    expect(text.out).toMatch(new RegExp(`^${away[0]} +- .* away$`, "m"));

    const attempts = await fluxhook(["attempts", userOf(inAny(there))]);
    expect([attempts.code, attempts.err]).toEqual([1, expect.stringContaining(`cannot use ${shards} of Valkey`)]);
    expect(attempts.err).toContain("What is there is left out.");
    expect((await fluxhook(["find", userOf(inAny(there))])).code).toBe(1);
  });

  test("what needs all shards changes nothing, and says why", async () => {
    for (const args of [
      ["cancel", "--user", "usr_1", "--yes"],
      ["pause", "--yes"],
      ["forget", "usr_1", "--yes"],
    ]) {
      const { err, code } = await fluxhook(args);
      expect([args[0], code]).toEqual([args[0], 69]);
      expect(err).toMatch(/^fluxhook: cannot use shards? \d.* of Valkey at 127.* Check VALKEY_URL\.\n$/);
    }
    expect(await stateOf(inAny(there), "1")).toBe("delayed");
    expect(await shardAt(inAny(there)).client.isPaused()).toBe(false);
  });

  test("what needs only other shards works", async () => {
    const target = ["--event", "file.created", "--url", receiver.url("/on"), "--secret-env", "SECRET"];
    expect(await run("send", ...target, "--user", userOf(inAny(there)), "--wait")).toMatchObject({
      ...{ state: "delivered", code: 0 },
    });
    expect((await run("send", ...target, "--user", userOf(inAny(away)))).code).toBe(69);
    expect((await run("redeliver", `${inAny(there)}/1`)).jobs).toMatchObject([{ redelivery: "queued" }]);
    expect((await run("redeliver", `${inAny(away)}/1`)).code).toBe(69);
    expect((await run("hold", "--host", "hooks.example.com", "--for", "1h")).code).toBe(0);
  });
});

test("over two Valkeys each is a shard; in another order their events are found, and without the second the first is shown", async () => {
  const [first, second] = await Promise.all([startValkey(), startValkey()]);
  const two = createCommand({ VALKEY_URL: `${first.url} ${second.url}`, WEBHOOK_SHARDS: "2", SECRET });
  try {
    const target = ["--event", "file.created", "--url", AWAY, "--secret-env", "SECRET", "--delay", "1h"];
    for (const user of [userOf(0, 2), userOf(1, 2)])
      expect((await two(["send", ...target, "--user", user])).code).toBe(0);
    const { shards } = JSON.parse((await two(["status", "--json"])).out);
    expect(shards).toMatchObject([
      { shard: "0", queue: "webhooks", depth: { delayed: 1 }, node: `127.0.0.1:${first.port}` },
      { shard: "1", queue: "webhooks-{1}", depth: { delayed: 1 }, node: `127.0.0.1:${second.port}` },
    ]);
    const reordered = { env: { VALKEY_URL: `${second.url} ${first.url}` } };
    const { problems } = JSON.parse((await two(["status", "--json"], reordered)).out);
    expect(problems.slice(0, 2)).toMatchObject([
      {
        code: "unserved",
        text: `1 event waits in webhooks-{1} on 127.0.0.1:${second.port}, which nobody serves there`,
      },
      { code: "unserved", text: `1 event waits in webhooks on 127.0.0.1:${first.port}, which nobody serves there` },
    ]);
    await second.kill();
    const { out, code } = await two(["status", "--json"]);
    expect([JSON.parse(out).depth.delayed, code]).toEqual([1, 1]);
    expect(JSON.parse((await two(["attempts", "usr_1", "--json"])).err)).toEqual({
      warning: `cannot use shard 1 of Valkey at 127.0.0.1:${second.port}: nothing listens there. What is there is left out.`,
    });
    await first.kill();
    const none = await two(["status"]);
    expect([none.code, none.err.split("\n").length]).toEqual([69, 3]);
  } finally {
    await Promise.all([first.stop(), second.stop()]);
  }
});
