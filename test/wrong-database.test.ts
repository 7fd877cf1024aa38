/**
 * A VALKEY_URL whose database does not exist, from the start or from some reconnect on. Database 0 is always there, and holds
 * the events of another environment: none of them may be delivered, and none of ours may get among them.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Queue } from "bullmq";
import { Redis } from "ioredis";
import { type Receiver, startReceiver } from "../src/dev/receiver.ts";
import { startValkey, type ThrowawayValkey } from "../src/dev/valkey.ts";
import { createFluxhook, type NewEvent } from "../src/index.ts";
import { connectPromptly } from "../src/package/prompt-valkey.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { reachValkey } from "../src/valkey/reach.ts";
import { createCommand } from "./support/command.ts";
import { startWorkerProcess, type WorkerProcess } from "./support/process.ts";
import { bounded, eventually, jobData } from "./support/stack.ts";

const ROOT = join(import.meta.dir, "..");
const BUSY_MS = 60 * 1000; // 1 min for what takes seconds: reconnecting ever more slowly, on a machine that may be busy
const FOREIGN = 2; // events of the other environment
/** What connecting takes; everything else that a server was asked to do was done in a database that is not ours. */
const HANDSHAKE = ["auth", "hello", "select", "client|setname", "client|setinfo", "info"];

let receiver: Receiver;
let valkey: ThrowawayValkey; // databases 0 and 1
let foreign: Queue;

beforeAll(async () => {
  [receiver, valkey] = await Promise.all([startReceiver(), startValkey({ settings: { databases: "2" } })]);
  foreign = await fill(valkey);
});
afterAll(async () => {
  await foreign.close();
  await valkey.stop();
  await receiver.stop();
});

const event = () => ({ event: "file.created", id: crypto.randomUUID(), ...jobData(receiver.url()) }) satisfies NewEvent;

/** The other environment: the same queue, in database 0. */
async function fill({ url }: ThrowawayValkey): Promise<Queue> {
  const queue = new Queue("webhooks", { connection: { url } });
  await queue.addBulk(Array.from({ length: FOREIGN }, () => ({ name: "file.created", data: jobData(receiver.url()) })));
  return queue;
}

async function run(command: string[], env: Record<string, string>, cwd = ROOT) {
  const child = Bun.spawn(command, {
    cwd,
    env: { PATH: process.env.PATH ?? "", ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const said = Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text(), child.exited]);
  try {
    const [out, err, code] = await bounded(said, () => `${command.join(" ")} to end`);
    return { out, err, code };
  } finally {
    child.kill("SIGKILL");
  }
}

describe("a database that does not exist", () => {
  const url = () => `${valkey.url}/2`;
  const reason = () => `Valkey at 127.0.0.1:${valkey.port} has no database 2`;
  const problem = () => `fluxhook: expected VALKEY_URL to name a database that exists: ${reason()}\n`;
  const isUntouched = async () => {
    expect(await foreign.getJobCounts("waiting", "completed", "failed", "active", "delayed")).toEqual({
      waiting: FOREIGN,
      completed: 0,
      failed: 0,
      active: 0,
      delayed: 0,
    });
    expect(receiver.requests).toHaveLength(0);
  };

  test.each(["worker", "board"])(
    "stops the %s at its start, with one line that names setting and reason",
    async (name) => {
      const ports = { WORKER_PORT: "0", BOARD_PORT: "0", WEBHOOK_ALLOW_NETWORKS: "127.0.0.0/8" };
      const { err, code } = await run([process.execPath, `src/${name}.ts`], { VALKEY_URL: url(), ...ports });
      expect([err, code]).toEqual([problem(), 78]);
      await isUntouched();
    },
  );

  test.each([
    [["attempts", "u"]],
    [["status"]],
    [["redeliver", "1"]],
    [["redeliver", "--failed", "--yes"]],
    [["send", "--event", "file.created", "--url", "http://h/", "--user", "u", "--secret", "s"]],
  ])("ends the command %p, with the same line", async (args) => {
    expect(await createCommand({ VALKEY_URL: url() })(args)).toEqual({ out: "", err: problem(), code: 78 });
    await isUntouched();
  });

  test.each([[["send", "file.created", "http://127.0.0.1:1/"]], [["start"]]])(
    "ends `npm run` %p, which has done nothing",
    async ([name, ...args]) => {
      const { err, code } = await run([process.execPath, `src/dev/${name}.ts`, ...args], { VALKEY_URL: url() });
      expect([err, code]).toEqual([expect.stringContaining(reason()), 1]);
      await isUntouched();
    },
  );

  test("rejects every call of the package at once", async () => {
    const fluxhook = createFluxhook({ valkeyUrl: url(), timeoutMs: 60_000 }); // longer than a test may take
    const calls = [
      () => fluxhook.enqueue(event()),
      () => fluxhook.enqueueMany([event(), event()]),
      () => fluxhook.readAttempts("u"),
    ];
    for (const call of [...calls, ...calls]) {
      const error = await call().catch((rejected: Error) => rejected);
      expect(error).toMatchObject({ code: "VALKEY_NO_DATABASE", message: reason() });
    }
    await fluxhook.close();
    await isUntouched();
  });

  test("rejects on Node as well, and no malformed URL ends a Node process with an error that nobody can catch", async () => {
    const folder = mkdtempSync(join(tmpdir(), "fluxhook-database-"));
    symlinkSync(join(ROOT, "node_modules"), join(folder, "node_modules"));
    await Bun.build({
      entrypoints: [join(ROOT, "src/index.ts")],
      target: "node",
      packages: "external",
      outdir: folder,
    });
    writeFileSync(
      join(folder, "backend.mjs"),
      `import { createFluxhook } from "./index.js";
const event = { event: "file.created", userId: "u", endpoint: { url: "http://127.0.0.1:1/", secret: "s" }, data: {} };
for (const path of ["/2", "/webhooks", "/1/2", "/1.5", "/-1", "?db=2"]) {
  try {
    const fluxhook = createFluxhook({ valkeyUrl: process.env.BASE + path });
    await fluxhook.enqueue(event).finally(() => fluxhook.close());
    console.log(path, "was taken");
  } catch (error) {
    console.log(path, error.code ?? error.name);
  }
}`,
    );
    const { out, err, code } = await run(["node", "backend.mjs"], { BASE: valkey.url }, folder);
    rmSync(folder, { recursive: true });
    const refused = ["/webhooks", "/1/2", "/1.5", "/-1", "?db=2"].map((path) => `${path} INVALID_ARGUMENT\n`);
    expect({ out, err, code }).toEqual({ out: `/2 VALKEY_NO_DATABASE\n${refused.join("")}`, err: "", code: 0 });
    await isUntouched();
  });
});

describe("a user that may not SELECT", () => {
  const VALID = "redis://limited:s3cret@127.0.0.1";
  let admin: Redis;
  let url: string;

  beforeAll(async () => {
    admin = new Redis(valkey.url);
    await admin.acl("SETUSER", "limited", "on", ">s3cret", "~*", "&*", "+@all", "-select");
    url = `${VALID}:${valkey.port}/1`;
  });
  afterAll(() => admin.disconnect());

  test("has nothing done in database 0, by a connection and its duplicates, and all of it in its own once it may", async () => {
    const lines: object[] = [];
    const warned = Promise.withResolvers<void>();
    const connection = connectValkey(url, "test:limited", {
      info() {},
      warn(fields) {
        lines.push(fields);
        warned.resolve();
      },
    });
    const duplicate = connection.duplicate({ enableReadyCheck: false }).on("error", () => {});
    const prompt = connectPromptly(url, "test:prompt", 60_000);
    const counts = Promise.all([
      connection.incr("limited"),
      connection.multi().incr("limited").exec(),
      duplicate.incr("limited"),
      duplicate.pipeline().incr("limited").exec(),
      eventually(() => prompt.run(() => prompt.valkey.incr("limited")).catch(() => undefined), Boolean), // refused at once
    ]);
    await warned.promise;
    const attempts = async () =>
      Number(/cmdstat_select:.*rejected_calls=(\d+)/.exec(await admin.info("commandstats"))?.[1]);
    await eventually(attempts, (rejected) => rejected >= 6, BUSY_MS);
    expect(await admin.exists("limited")).toBe(0);
    expect(lines).toEqual([{ connection: "test:limited", reason: expect.stringMatching(/^NOPERM .*'select'/) }]);

    await admin.acl("SETUSER", "limited", "+select");
    await counts;
    expect(await connection.get("limited")).toBe("5");
    expect(await duplicate.client("INFO")).toContain(" db=1 ");
    expect(await admin.exists("limited")).toBe(0);
    for (const open of [connection, duplicate, prompt.valkey]) open.disconnect();
    await admin.acl("SETUSER", "limited", "-select");
  }, 120_000);

  test("is told so, and one with a wrong password that it is wrong", async () => {
    expect(await reachValkey(url, "test:limited")).toEqual({ ok: false, reason: expect.stringMatching(/^NOPERM /) });
    await admin.config("SET", "requirepass", "s3cret"); // so that SELECT is refused as well, with NOAUTH
    const wrong = await reachValkey(url.replace("s3cret", "wrong"), "test:limited");
    await admin.config("SET", "requirepass", "");
    expect(wrong).toEqual({ ok: false, reason: expect.stringMatching(/^WRONGPASS /) });
  });
});

describe("a Valkey that is replaced by one with fewer databases", () => {
  let right: ThrowawayValkey;
  let fewer: ThrowawayValkey | undefined;
  let others: Queue | undefined;
  let worker: WorkerProcess;

  beforeAll(async () => {
    right = await startValkey();
    worker = startWorkerProcess({ VALKEY_URL: `${right.url}/1` });
  });
  afterAll(async () => {
    await worker.stop();
    await others?.close();
    await fewer?.stop();
    await right.stop();
  });

  /** How often the server refused to SELECT so far, and every other command that it has done. */
  async function asked(admin: Redis): Promise<{ refusals: number; others: string[] }> {
    const stats = await admin.info("commandstats");
    const names = [...stats.matchAll(/^cmdstat_(.+):/gm)].map(([, name]) => name as string);
    return {
      refusals: Number(/cmdstat_select:.*failed_calls=(\d+)/.exec(stats)?.[1] ?? 0),
      others: names.filter((name) => !HANDSHAKE.includes(name) && name !== "config|resetstat"),
    };
  }

  test("gets nothing from worker and package, which say why, and go on when the database is there again", async () => {
    const fluxhook = createFluxhook({ valkeyUrl: `${right.url}/1`, timeoutMs: 60_000 });
    const [first, second] = [event(), event()];
    await fluxhook.enqueue(first);
    expect((await receiver.next(BUSY_MS)).headers["webhook-id"]).toBe(first.id);

    await right.kill();
    fewer = await startValkey({ port: right.port, settings: { databases: "1" } });
    others = await fill(fewer);
    const admin = new Redis(fewer.url);
    await admin.config("RESETSTAT");
    const reason = `Valkey at 127.0.0.1:${right.port} has no database 1`;
    const told = () => worker.lines.filter((line) => line.message === "valkey.away" && line.reason === reason);
    await eventually(told, (lines) => lines.length >= 2, BUSY_MS);
    const { others: commands } = await eventually(
      () => asked(admin),
      ({ refusals }) => refusals >= 10,
      BUSY_MS,
    );
    expect(commands).toEqual([]);

    const readiness = await fetch(await worker.url("/readyz"));
    expect([readiness.status, await readiness.text()]).toEqual([503, expect.stringContaining(reason)]);
    const error = await fluxhook.enqueue(event()).catch((rejected: Error) => rejected);
    expect(error).toMatchObject({ code: "VALKEY_NO_DATABASE", message: reason });
    expect(
      told()
        .map(({ connection }) => connection)
        .sort(),
    ).toEqual(["fluxhook:probe", "fluxhook:queue"]);
    expect(await others.getWaitingCount()).toBe(FOREIGN);
    expect(receiver.requests).toHaveLength(1);
    admin.disconnect();
    await others.close();
    others = undefined;

    await fewer.stop();
    await right.restart();
    const enqueue = () => fluxhook.enqueue(second).catch(() => undefined);
    await eventually(enqueue, (enqueued) => enqueued !== undefined, BUSY_MS);
    expect((await receiver.next(BUSY_MS)).headers["webhook-id"]).toBe(second.id);
    await eventually(
      async () => (await fetch(await worker.url("/readyz"))).status,
      (status) => status === 200,
      BUSY_MS,
    );
    expect(receiver.requests).toHaveLength(2);
    expect(worker.errors()).toBe("");
    await fluxhook.close();
  }, 240_000);
});
