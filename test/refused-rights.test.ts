/**
 * A Valkey that answers with errors: a worker says so once, with the reason, is unready while it lasts, asks ever more slowly,
 * and goes on by itself.
 */
import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { Queue } from "bullmq";
import { Redis } from "ioredis";
import { type Receiver, startReceiver } from "../src/dev/receiver.ts";
import { startValkey, type ThrowawayValkey, type ThrowawayValkeyOptions } from "../src/dev/valkey.ts";
import { createFluxhook } from "../src/index.ts";
import { startWorkerProcess, type WorkerProcess } from "./support/process.ts";
import { eventually, jobData, type Line } from "./support/stack.ts";

setDefaultTimeout(60_000);

const ROOT = join(import.meta.dir, "..");
const MAX_REFUSED = 20; // commands a second that one process may have refused
const MEASURED_MS = 3000;
const FULL = ["~*", "&*", "+@all"];

let receiver: Receiver;
beforeAll(async () => {
  receiver = await startReceiver();
});
afterAll(() => receiver.stop());

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

interface Setup {
  readonly valkey: ThrowawayValkey;
  readonly admin: Redis;
  readonly queue: Queue;
  /** Give the worker's user these rights and no others. */
  grant(...rules: string[]): Promise<unknown>;
  /** Start a worker as that user. */
  startWorker(): Promise<WorkerProcess & { readonly health: string }>;
}

async function setUp(options: ThrowawayValkeyOptions = {}): Promise<Setup> {
  const valkey = await startValkey({ appendonly: false, ...options });
  ends.push(() => valkey.stop());
  const admin = new Redis(valkey.url).on("error", () => {});
  ends.push(() => admin.disconnect());
  const queue = new Queue("webhooks", { connection: admin });
  const grant = (...rules: string[]) => admin.acl("SETUSER", "limited", "reset", "on", ">pass", ...rules);
  await grant(...FULL);
  return {
    valkey,
    admin,
    queue,
    grant,
    async startWorker() {
      const worker = startWorkerProcess({ VALKEY_URL: valkey.url.replace("//", "//limited:pass@") });
      ends.push(() => worker.stop());
      return { ...worker, health: `${(await worker.line("worker.listening")).url}/readyz` };
    },
  };
}

/** Readiness as probes see it: the status, and the reasons. */
async function ask(health: string): Promise<{ status: number; problems: string }> {
  try {
    const response = await fetch(health, { signal: AbortSignal.timeout(5_000) });
    const { problems = [] } = (await response.json()) as { problems?: string[] };
    return { status: response.status, problems: problems.join("\n") };
  } catch (error) {
    return { status: 0, problems: (error as Error).name };
  }
}

const becomesUnready = (health: string, reason: RegExp) =>
  eventually(
    () => ask(health),
    ({ status, problems }) => status === 503 && reason.test(problems),
  );
const becomesReady = (health: string) =>
  eventually(
    () => ask(health),
    ({ status }) => status === 200,
  );

/** How many commands a second the server refuses. It is about time, and so waits for some. */
async function refusedPerSecond(admin: Redis): Promise<number> {
  await admin.config("RESETSTAT");
  const since = performance.now();
  await Bun.sleep(MEASURED_MS);
  const stats = await admin.info("errorstats");
  const count = [...stats.matchAll(/^errorstat_.*count=(\d+)/gm)].reduce((sum, [, value]) => sum + Number(value), 0);
  return (count * 1000) / (performance.now() - since);
}

/** Warnings that have this reason, without those that another connection gave before. */
const warnings = (lines: readonly Line[], reason: RegExp) =>
  lines.filter(
    (line) => line.level === "warn" && reason.test(JSON.stringify(line)) && line.connection !== "fluxhook:probe",
  );

/** What a worker may meet as it starts; each returns what ends it. */
const STATES: Record<string, { reason: RegExp; begin: (setup: Setup) => Promise<() => unknown> }> = {
  "a user that may not run scripts": {
    reason: /may not run EVAL: grant \+eval/,
    async begin({ grant }) {
      await grant(...FULL, "-eval", "-evalsha");
      return () => grant(...FULL);
    },
  },
  "a user with another pattern of keys": {
    reason: /may not use the keys bull:webhooks:\*: grant ~bull:webhooks:\*/,
    async begin({ grant }) {
      await grant("~other:*", "&*", "+@all");
      return () => grant(...FULL);
    },
  },
  "a user that may not write": {
    reason: /may not run SET: grant \+set/,
    async begin({ grant }) {
      await grant(...FULL, "-@write");
      return () => grant(...FULL);
    },
  },
  "a user that may not wait for jobs": {
    reason: /may not run BZPOPMIN: grant \+bzpopmin/,
    async begin({ grant }) {
      await grant(...FULL, "-bzpopmin");
      return () => grant(...FULL);
    },
  },
  "a queue's key that holds something else": {
    reason: /The key bull:webhooks:wait is a string/,
    async begin({ admin }) {
      await admin.set("bull:webhooks:wait", "x");
      return () => admin.del("bull:webhooks:wait");
    },
  },
  "a primary without enough replicas": {
    reason: /NOREPLICAS /,
    async begin({ admin }) {
      await admin.config("SET", "min-replicas-to-write", 1);
      return () => admin.config("SET", "min-replicas-to-write", 0);
    },
  },
  "a full memory": {
    reason: /OOM /,
    async begin({ admin }) {
      await admin.config("SET", "maxmemory", 1);
      return () => admin.config("SET", "maxmemory", 0);
    },
  },
  "a replica": {
    reason: /it is a replica/,
    async begin({ admin }) {
      await admin.replicaof("127.0.0.1", 1);
      return () => admin.replicaof("NO", "ONE");
    },
  },
  "a wrong password": {
    reason: /WRONGPASS /,
    async begin({ grant, admin }) {
      await admin.acl("SETUSER", "limited", "reset", "on", ">other", ...FULL);
      return () => grant(...FULL);
    },
  },
};

describe("a worker that starts against", () => {
  test.each(Object.entries(STATES))("%s is not ready, says why once, and works when it is over", async (_, state) => {
    const setup = await setUp();
    const end = await state.begin(setup);
    await setup.queue.add("file.created", jobData(receiver.url())).catch(() => {}); // refused, in some of the states
    const worker = await setup.startWorker();
    await becomesUnready(worker.health, state.reason);
    expect(await refusedPerSecond(setup.admin)).toBeLessThan(MAX_REFUSED);
    expect(worker.lines.map(({ message }) => message)).not.toContain("worker.ready");
    await eventually(
      () => warnings(worker.lines, state.reason).length,
      (count) => count === 1,
    );

    await end();
    await becomesReady(worker.health);
    await worker.line("worker.ready");
    const seen = receiver.requests.length;
    await setup.queue.add("file.created", jobData(receiver.url()));
    await eventually(
      () => receiver.requests.length,
      (count) => count > seen,
    );
    expect(warnings(worker.lines, state.reason)).toHaveLength(1);
    expect(worker.errors()).toBe("");
  });
});

test("a worker without the password that Valkey wants says so, asks ever more slowly, and goes on when none is wanted", async () => {
  const { valkey, admin } = await setUp();
  await admin.config("SET", "requirepass", "secret");
  const worker = startWorkerProcess({ VALKEY_URL: valkey.url });
  ends.push(() => worker.stop());
  const health = `${(await worker.line("worker.listening")).url}/readyz`;
  await becomesUnready(health, /NOAUTH /);
  expect(await refusedPerSecond(admin)).toBeLessThan(MAX_REFUSED);
  expect(worker.lines.map(({ message }) => message)).not.toContain("worker.ready");
  expect(warnings(worker.lines, /NOAUTH /)).toHaveLength(1);
  await admin.config("SET", "requirepass", "");
  await becomesReady(health);
});

test("a board whose user may not write is not ready, and says what to grant", async () => {
  const { valkey, admin, grant } = await setUp();
  await grant(...FULL, "-@write");
  const board = Bun.spawn([process.execPath, "src/board.ts"], {
    cwd: ROOT,
    env: {
      PATH: process.env.PATH ?? "",
      VALKEY_URL: valkey.url.replace("//", "//limited:pass@"),
      BOARD_PORT: "0",
    },
    stdio: ["ignore", "pipe", "inherit"],
  });
  ends.push(() => board.kill());
  const [line] = (
    await board.stdout
      .getReader()
      .read()
      .then(({ value }) => new TextDecoder().decode(value))
  ).split("\n");
  const health = `${JSON.parse(line as string).url}/readyz`;
  await becomesUnready(health, /may not run SET: grant \+set/);
  expect(await refusedPerSecond(admin)).toBeLessThan(MAX_REFUSED);
  await grant(...FULL);
  await becomesReady(health);
});

describe("a running worker that meets", () => {
  const { "a wrong password": _, "a replica": __, ...passing } = STATES;
  const cases = Object.entries({
    ...passing,
    "a user that may not acknowledge": {
      reason: /xadd/i,
      async begin({ grant }: Setup) {
        await grant(...FULL, "-xadd");
        return () => grant(...FULL);
      },
    },
  });

  test.each(cases)("%s becomes unready, says so once, and goes on when it is over", async (name, { reason, begin }) => {
    const setup = await setUp();
    const worker = await setup.startWorker();
    await worker.line("worker.ready");
    await becomesReady(worker.health);
    await setup.queue.pause();
    for (let i = 0; i < 300; i++) await setup.queue.add("file.created", jobData(receiver.url()));
    if (name.includes("queue's key")) await setup.admin.rename("bull:webhooks:wait", "aside");
    const end = await begin(setup);
    await setup.queue.resume().catch(() => setup.admin.hdel("bull:webhooks:meta", "paused").catch(() => {}));
    await becomesUnready(worker.health, reason);
    await eventually(
      () => warnings(worker.lines, /valkey\.refuses/).length,
      (count) => count > 0,
    );
    expect(await refusedPerSecond(setup.admin)).toBeLessThan(MAX_REFUSED);
    expect(warnings(worker.lines, /fluxhook:queue.*valkey\.refuses/)).toHaveLength(1);

    await end();
    if (name.includes("queue's key")) await setup.admin.rename("aside", "bull:webhooks:wait");
    await setup.queue.resume();
    await becomesReady(worker.health);
    await worker.line("valkey.accepts");
    await eventually(
      () => setup.queue.getCompletedCount(),
      (count) => count === 300,
      40_000,
    );
    expect(worker.errors()).toBe("");
  });
});

test("a user without INFO, as hosted services give, is enough: the worker delivers and is ready", async () => {
  const setup = await setUp();
  await setup.grant("~*", "&*", "+@all", "-@dangerous");
  const worker = await setup.startWorker();
  await becomesReady(worker.health);
  await setup.queue.add("file.created", jobData(receiver.url()));
  await worker.line("delivery.attempted");
  expect(await refusedPerSecond(setup.admin)).toBeLessThan(MAX_REFUSED);
  expect(worker.lines.filter(({ level }) => level === "warn")).toEqual([]);
  expect(worker.errors()).toBe("");
  expect(await worker.stop()).toBe(0);
});

describe("a Valkey that loads its data for seconds", () => {
  const LOADING = "Valkey is loading";
  const SLOW = { "key-load-delay": "8000", "loading-process-events-interval-bytes": "1024" };

  test("is that for worker, --check, command and package, in the same words, and the worker goes on by itself", async () => {
    const setup = await setUp({ settings: SLOW, appendonly: false });
    const { valkey, admin } = setup;
    const worker = startWorkerProcess({ VALKEY_URL: valkey.url });
    ends.push(() => worker.stop());
    const health = await worker.url("/readyz");
    await admin.mset(...Array.from({ length: 1_000 }, (_, index) => [`key:${index}`, "x".repeat(64)]).flat());
    await admin.save();
    await valkey.kill();
    const restarted = valkey.restart();
    await becomesUnready(health, new RegExp(`^${LOADING}$`));

    const env = { PATH: process.env.PATH ?? "", VALKEY_URL: valkey.url };
    const run = async (...args: string[]) => {
      const child = Bun.spawn([process.execPath, ...args], { cwd: ROOT, env, stdio: ["ignore", "pipe", "pipe"] });
      const said = (await child.stdout.text()) + (await child.stderr.text());
      return { said, code: await child.exited };
    };
    const [checked, status] = await Promise.all([run("src/worker.ts", "--check"), run("src/cli.ts", "status")]);
    expect([checked.said, checked.code]).toEqual([expect.stringContaining(LOADING), 69]);
    expect([status.said, status.code]).toEqual([expect.stringContaining(LOADING), 69]);
    const fluxhook = createFluxhook({ valkeyUrl: valkey.url });
    const error = await fluxhook.readAttempts("u").catch((rejected: Error) => rejected);
    await fluxhook.close();
    expect(error).toMatchObject({ code: "VALKEY_AWAY", message: expect.stringContaining(LOADING) });
    expect((await ask(health)).problems).toBe(LOADING); // all the while

    await restarted;
    await becomesReady(health);
    await setup.queue.add("file.created", jobData(receiver.url()));
    await worker.line("delivery.attempted");
  });
});

test("a worker whose database does not exist never says that it is ready", async () => {
  const { valkey } = await setUp({ settings: { databases: "2" } });
  const worker = startWorkerProcess({ VALKEY_URL: `${valkey.url}/2` });
  expect(await worker.exited).toBe(78);
  expect(worker.output()).not.toContain("worker.ready");
});
