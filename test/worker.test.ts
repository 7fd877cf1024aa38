import { afterEach, beforeAll, describe, expect, test } from "bun:test";
import { Queue } from "bullmq";
import { Redis } from "ioredis";
import { type Receiver, startReceiver } from "../src/dev/receiver.ts";
import { startValkey, type ThrowawayValkey, type ThrowawayValkeyOptions } from "../src/dev/valkey.ts";
import { createAttemptLog } from "../src/log/attempts.ts";
import { DeliveryWorker } from "../src/queue/worker.ts";
import { createRegistry } from "../src/registry/registry.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { startWorkerProcess, type WorkerProcess } from "./support/process.ts";
import { startProxy } from "./support/proxy.ts";
import { bounded, eventually, jobData } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const PROMPT_MS = 2_000; // an idle worker is gone within; it takes about 50 ms

type Open = { stop(): Promise<unknown> }[];

const open: Open = [];
let sharedUrl: string;

beforeAll(async () => {
  sharedUrl = await testValkeyUrl();
});

const close = async (opened: Open) => {
  for (const { stop } of opened.splice(0).reverse()) await stop();
};

afterEach(() => close(open));

/** A test that mostly waits, next to others of its kind; what it opens is its own. */
const waiting = (name: string, run: (own: Open) => Promise<void>) =>
  test.concurrent(name, async () => {
    const own: Open = [];
    try {
      await run(own);
    } finally {
      await close(own);
    }
  }, 30_000);

interface Setting {
  readonly valkeyUrl: string;
  readonly name: string;
  readonly queue: Queue;
  readonly client: Redis;
}

/** A queue as the backend has it. */
function backend(valkeyUrl = sharedUrl, own = open): Setting {
  const name = `test-${crypto.randomUUID()}`;
  const client = new Redis(valkeyUrl, { maxRetriesPerRequest: null });
  client.on("error", () => {}); // Valkey is away on purpose
  const queue = new Queue(name, { connection: client });
  queue.on("error", () => {});
  own.push({
    async stop() {
      await queue.close();
      client.disconnect();
    },
  });
  return { valkeyUrl, name, queue, client };
}

function worker(
  { valkeyUrl, name }: Pick<Setting, "valkeyUrl" | "name">,
  env: Record<string, string> = {},
  own = open,
): WorkerProcess {
  const started = startWorkerProcess({ VALKEY_URL: valkeyUrl, WEBHOOK_QUEUE: name, LOG_LEVEL: "debug", ...env });
  own.push(started);
  return started;
}

async function receiver(own = open): Promise<Receiver> {
  const started = await startReceiver();
  own.push(started);
  return started;
}

async function ownValkey(options?: ThrowawayValkeyOptions, own = open): Promise<ThrowawayValkey> {
  const started = await startValkey(options);
  own.push(started);
  return started;
}

async function get(process: WorkerProcess, path: string): Promise<{ status: number; text: string }> {
  const response = await fetch(await process.url(path));
  return { status: response.status, text: await response.text() };
}

async function ready(process: WorkerProcess): Promise<{ status: number; problems: string[] }> {
  const { status, text } = await get(process, "/readyz");
  return { status, problems: JSON.parse(text).problems ?? [] };
}

const whenReady = (process: WorkerProcess, status: number) =>
  eventually(
    () => ready(process),
    (answer) => answer.status === status,
  );

async function timed<T>(promise: Promise<T>): Promise<{ value: T; tookMs: number }> {
  const startedAt = performance.now();
  return { value: await promise, tookMs: performance.now() - startedAt };
}

describe("the worker's output", () => {
  test("is one line an attempt with the documented fields, and nothing secret anywhere", async () => {
    const customer = await receiver();
    customer.answer(({ path }, index) => ({ status: path.startsWith("/gone") ? 410 : index === 0 ? 503 : 200 }));
    const setting = backend();
    const process = worker(setting, { WEBHOOK_RETRY_DELAYS: "1ms,1ms", WEBHOOK_TIMEOUT: "1s", LOG_LEVEL: "trace" });
    const secret = "leak-secret";
    const at = (path: string) => ({ endpoint: { url: customer.url(`${path}?leak=query#leak`), secret } });
    const data = jobData("", { ...at("/good"), data: { text: "leak-data" } });
    const good = await setting.queue.add("file.created", data);
    const second = await process.line("delivery.attempted", 2);
    const first = await process.line("delivery.attempted", 1);
    expect(first).toEqual({
      level: "info",
      time: expect.stringMatching(/^\d{4}-\d\d-\d\dT/),
      job: good.id,
      user: data.userId,
      id: customer.requests[0]?.headers["webhook-id"],
      delivery: customer.requests[0]?.headers["x-fluxdrop-delivery"],
      attempt: 1,
      timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
      endpoint: customer.url("/good"),
      event: "file.created",
      status_code: 503,
      duration_ms: expect.any(Number),
      success: false,
      error: "http_503",
      verdict: "retry",
      retry_in_ms: 1,
      message: "delivery.attempted",
    });
    const { retry_in_ms: _, ...fields } = first;
    expect(Object.keys(second)).toEqual(Object.keys(fields));
    expect(second).toMatchObject({ attempt: 2, status_code: 200, success: true, error: null, verdict: "delivered" });
    const log = createAttemptLog(setting.client);
    const entries = await eventually(
      () => log.list(data.userId, Date.now()),
      ({ length }) => length === 2,
    );
    expect(entries).toMatchObject([{ attempt: 2 }, { attempt: 1 }]);

    await setting.queue.add("file.deleted", jobData("", at("/gone")));
    await process.line("delivery.attempted", 3);
    await setting.queue.add("org.updated", jobData("", { endpoint: { url: "http://10.0.0.1/?leak=query", secret } }));
    expect(await process.line("delivery.attempted", 4)).toMatchObject({ error: "blocked_address" });
    const registered = {
      url: customer.url("/good?leak=query"),
      id: "main",
      headers: { "X-Token": "Bearer leak-header" },
    };
    const registry = createRegistry(setting.client, { allowPlain: true });
    await registry.create(data.userId, { ...registered, secret, rateLimit: { perSecond: 100 } });
    const ofEndpoint = { userId: data.userId, endpoint: { id: "main" }, data: { text: "leak-data" } };
    await setting.queue.add("file.created", ofEndpoint as never);
    expect(await process.line("delivery.attempted", 5)).toMatchObject({ success: true, endpoint_id: "main" });
    expect(customer.requests.at(-1)?.headers["x-token"]).toBe("Bearer leak-header");
    const broken = { userId: "leak user", endpoint: { url: "leak", secret: [secret, ""] }, data: "leak" };
    await setting.queue.add("org.updated", broken as never);
    expect(await process.line("job.rejected")).toMatchObject({ reason: expect.stringContaining("data.endpoint.url") });

    expect(await process.stop()).toBe(0);
    expect(process.lines.filter(({ message }) => message === "delivery.attempted").length).toBe(5);
    expect(process.lines.filter(({ message }) => message === "raw")).toEqual([]);
    expect(process.errors()).toBe("");
    expect(process.output()).not.toContain("leak");
  });
});

describe("the worker's health", () => {
  test("is good on a good Valkey, and has metrics without a URL or a user", async () => {
    const customer = await receiver();
    const setting = backend();
    const process = worker(setting);
    const data = jobData(customer.url("/leak-path?leak=query"), { userId: `leak-user-${crypto.randomUUID()}` });
    const job = await setting.queue.add("file.created", data);
    await eventually(
      () => job.getState(),
      (state) => state === "completed",
    );
    expect(await get(process, "/healthz")).toEqual({ status: 200, text: '{"status":"ok"}' });
    const ready = await eventually(
      () => get(process, "/readyz"),
      ({ status }) => status === 200,
    );
    expect(ready.text).toBe('{"status":"ready"}');
    const { status, text } = await get(process, "/metrics");
    expect(status).toBe(200);
    for (const line of [
      'fluxhook_attempts_total{event="file.created",outcome="http_2xx"} 1',
      "fluxhook_attempt_duration_seconds_count 1",
      "fluxhook_attempts_in_flight 0",
      "fluxhook_valkey_up 1",
      'fluxhook_jobs{state="completed"} 1',
      'fluxhook_jobs{state="waiting"} 0',
      "fluxhook_oldest_waiting_job_age_seconds 0",
      "fluxhook_unlogged_attempts_total 0",
      "fluxhook_rejected_jobs_total 0",
    ]) {
      expect(text.split("\n")).toContain(line);
    }
    expect(text).not.toContain("leak");
    expect(text).not.toContain("127.0.0.1");
    expect((await get(process, "/elsewhere")).status).toBe(404);
  });

  test("is bad with a reason when Valkey may evict events", async () => {
    const valkey = await ownValkey({ policy: "allkeys-lru", appendonly: false });
    const process = worker({ valkeyUrl: valkey.url, name: "test" });
    const { problems } = await whenReady(process, 503);
    expect(problems).toEqual(["Valkey may drop queued events: expected maxmemory-policy noeviction, got allkeys-lru"]);
    const client = new Redis(valkey.url);
    await client.config("SET", "maxmemory-policy", "noeviction");
    client.disconnect();
    await whenReady(process, 200);
    expect((await get(process, "/healthz")).status).toBe(200);
  });
});

describe("while Valkey is away", () => {
  for (const way of ["kill", "pause"] as const) {
    waiting(`(${way}) the worker is not ready within 2 s, and works again when it is back`, async (own) => {
      const customer = await receiver(own);
      const valkey = await ownValkey({ password: "leak-password" }, own);
      const setting = backend(valkey.url, own);
      const process = worker(setting, { LOG_LEVEL: "trace" }, own);
      await whenReady(process, 200);
      if (way === "kill") await valkey.kill();
      else valkey.pause();
      const [readiness, metrics, health] = await Promise.all([
        timed(ready(process)),
        timed(get(process, "/metrics")),
        timed(get(process, "/healthz")),
      ]);
      expect(readiness.value).toEqual({ status: 503, problems: ["Valkey does not answer"] });
      expect(readiness.tookMs).toBeLessThan(4_500);
      expect(metrics.tookMs).toBeLessThan(4_500);
      expect(metrics.value.text).toContain("fluxhook_valkey_up 0");
      expect(metrics.value.text).not.toContain("fluxhook_jobs{");
      expect(health.value.status).toBe(200);
      if (way === "kill") await valkey.restart();
      else valkey.resume();
      await whenReady(process, 200);
      await setting.queue.add("file.created", jobData(customer.url()));
      await customer.next();
      await process.line("delivery.attempted");
      expect(process.lines.filter(({ level }) => level === "error" || level === "fatal")).toEqual([]);
      expect(process.output() + metrics.value.text).not.toContain("leak");
    });
  }

  waiting("a worker starts, waits, and works when it appears", async (own) => {
    const customer = await receiver(own);
    const valkey = await ownValkey({}, own);
    await valkey.kill();
    const setting = backend(valkey.url, own);
    const process = worker(setting, {}, own);
    const { url } = await process.line("worker.listening");
    expect((await fetch(`${url}/healthz`)).status).toBe(200);
    expect(await (await fetch(`${url}/readyz`)).json()).toMatchObject({ problems: ["Valkey does not answer"] });
    expect(process.lines.map(({ message }) => message)).not.toContain("worker.ready");
    await valkey.restart();
    await whenReady(process, 200);
    await setting.queue.add("file.created", jobData(customer.url()));
    await customer.next();
    expect(process.lines.filter(({ level }) => level === "error" || level === "fatal")).toEqual([]);
  });

  for (const way of ["kill", "pause"] as const) {
    waiting(`(${way}) a worker ends on SIGTERM, with 1`, async (own) => {
      const valkey = await ownValkey({ appendonly: false }, own);
      const process = worker(backend(valkey.url, own), { SHUTDOWN_TIMEOUT: "1s" }, own);
      await whenReady(process, 200);
      if (way === "kill") await valkey.kill();
      else valkey.pause();
      process.signal("SIGTERM");
      const { value, tookMs } = await timed(bounded(process.exited, () => "an exit"));
      expect(value).toBe(1);
      expect(tookMs).toBeLessThan(8_000);
    });
  }
});

waiting("SIGTERM while Valkey is gone lets a request finish, and is obeyed soon after, with 1", async (own) => {
  const customer = await receiver(own);
  const held = Promise.withResolvers<void>();
  customer.answer(() => held.promise.then(() => ({})));
  const valkey = await ownValkey({ appendfsync: "always" }, own);
  const setting = backend(valkey.url, own);
  const process = worker(setting, { SHUTDOWN_TIMEOUT: "60s" }, own);
  const job = await setting.queue.add("file.created", jobData(customer.url()));
  const [request] = await customer.waitFor(1, 15_000);
  await valkey.kill();
  process.signal("SIGTERM");
  await process.line("worker.stopping");
  held.resolve();
  const { value, tookMs } = await timed(bounded(process.exited, () => "an exit", 10_000));
  expect(value).toBe(1);
  expect(tookMs).toBeLessThan(9_000); // the hand-back is given up after 2 s
  expect(await request?.ended).toBe("answered");
  await valkey.restart();
  expect(await job.getState()).toBe("active"); // until its lock expires: then it goes again
});

waiting(
  "a job that comes late is left alone when its lock would not outlast the attempt, and is gone already",
  async (own) => {
    const { name, queue, client } = backend(sharedUrl, own);
    const proxy = await startProxy(Number(new URL(sharedUrl).port));
    own.push(proxy);
    const valkey = connectValkey(proxy.url, "late", { info() {}, warn() {} });
    const processed: string[] = [];
    const worker = new DeliveryWorker(
      async ({ name }) => {
        processed.push(name);
        return "";
      },
      { queue: name, valkey, concurrency: 1, timeoutMs: 10_000, policy: { attempts: 1, delaysMs: [1], jitter: 0 } },
    );
    own.push({
      async stop() {
        await worker.close();
        valkey.disconnect();
      },
    });
    worker.on("error", () => {});
    await worker.waitUntilReady();
    worker.run();
    const { held, letGo } = proxy.hold("late.event");
    const { id } = await queue.add("late.event", {});
    await held;
    await client.set(`bull:${name}:${id}:lock`, "another's");
    await Bun.sleep(3_000); // of the 5 s for which the lock outlasts an attempt
    letGo();
    await queue.add("next.event", {});
    await eventually(
      () => processed.length,
      (count) => count > 0,
    );
    expect(processed).toEqual(["next.event"]);
  },
);

describe("the worker's start", () => {
  test("ends with 1 and one clear line when its port is taken", async () => {
    const customer = await receiver();
    const process = worker(backend(), { WORKER_PORT: String(customer.port) });
    expect(await bounded(process.exited, () => "an exit")).toBe(1);
    expect(process.errors()).toBe(
      `fluxhook: cannot listen on 127.0.0.1:${customer.port}: the port is in use, or the address is not one of this machine's. Set WORKER_PORT to a different port for each process, or to 0 for any free port.\n`,
    );
    expect(process.lines.map(({ message }) => message)).toEqual([]);
  });

  test("ends with 78 and every problem when the settings are wrong", async () => {
    const process = worker(backend(), {
      WEBHOOK_TIMEOUT: "ten",
      WEBHOOK_CONCURRENCY: "0",
      VALKEY_URL: "leak://leak",
      WEBHOOK_MAX_AG: "1d",
    });
    expect(await bounded(process.exited, () => "an exit")).toBe(78);
    expect(process.errors().trim().split("\n").length).toBe(4);
    expect(process.errors()).toContain("WEBHOOK_MAX_AG is not a setting; did you mean WEBHOOK_MAX_AGE?");
    expect(process.errors()).toContain(
      'fluxhook: expected WEBHOOK_TIMEOUT to be a duration of 100ms to 60s, got "ten"',
    );
    expect(process.output()).not.toContain("leak");
  });
});

describe.each(["SIGTERM", "SIGINT", "SIGHUP"] as const)("%s", (signal) => {
  test("ends an idle worker at once, with 0", async () => {
    const process = worker(backend());
    await whenReady(process, 200);
    process.signal(signal);
    const { value, tookMs } = await timed(process.exited);
    expect(value).toBe(0);
    expect(tookMs).toBeLessThan(PROMPT_MS);
    expect(process.lines.at(-1)).toMatchObject({ message: "worker.stopped", clean: true });
    expect(process.errors()).toBe("");
  });

  test("lets what is in flight finish, good or bad, and takes nothing new", async () => {
    const customer = await receiver();
    const held = Promise.withResolvers<void>();
    customer.answer(async ({ path }) => {
      await held.promise;
      return { status: path === "/good" ? 200 : 500 };
    });
    const setting = backend();
    const process = worker(setting, { WEBHOOK_RETRY_DELAYS: "1h" });
    const good = await setting.queue.add("file.created", jobData(customer.url("/good")));
    const bad = await setting.queue.add("file.created", jobData(customer.url("/bad")));
    await customer.waitFor(2);
    process.signal(signal);
    await process.line("worker.stopping");
    expect(await ready(process)).toMatchObject({ problems: ["the worker is stopping"] });
    const late = await setting.queue.add("file.created", jobData(customer.url("/good")));
    held.resolve();
    expect(await bounded(process.exited, () => "an exit")).toBe(0);
    expect(await good.getState()).toBe("completed");
    expect(await bad.getState()).toBe("delayed");
    expect((await setting.queue.getJob(bad.id as string))?.attemptsMade).toBe(1);
    expect(await late.getState()).toBe("waiting");
    expect(customer.requests.length).toBe(2);
  });
});

describe("SIGTERM", () => {
  test("hands back what does not finish in time, uncharged and unlogged, for another worker at once", async () => {
    const customer = await receiver();
    customer.answer("hang");
    const setting = backend();
    const process = worker(setting, { SHUTDOWN_TIMEOUT: "100ms" });
    const data = jobData(customer.url());
    const job = await setting.queue.add("file.created", data);
    await customer.waitFor(1);
    process.signal("SIGTERM");
    const { value, tookMs } = await timed(process.exited);
    expect(value).toBe(0);
    expect(tookMs).toBeLessThan(PROMPT_MS);
    expect(await job.getState()).toBe("waiting");
    expect((await setting.queue.getJob(job.id as string))?.attemptsMade).toBe(0);
    expect(await createAttemptLog(setting.client).list(data.userId, Date.now())).toEqual([]);
    customer.answer({});
    const other = worker(setting);
    expect(await other.line("delivery.attempted")).toMatchObject({ job: job.id, attempt: 1, success: true });
    expect(new Set(customer.requests.map(({ headers }) => headers["webhook-id"])).size).toBe(1);
  });

  test("in the form of a Ctrl-C that both a terminal and npm pass on waits for what is in flight", async () => {
    const customer = await receiver();
    const held = Promise.withResolvers<void>();
    customer.answer(() => held.promise.then(() => ({})));
    const setting = backend();
    const process = worker(setting, { SHUTDOWN_TIMEOUT: "60s" });
    const job = await setting.queue.add("file.created", jobData(customer.url()));
    const [request] = await customer.waitFor(1);
    process.signal("SIGINT");
    await Bun.sleep(50);
    process.signal("SIGINT");
    await process.line("worker.stopping");
    const early = await Promise.race([request?.ended, Bun.sleep(300)]);
    held.resolve();
    expect(early).toBeUndefined();
    expect(await bounded(process.exited, () => "an exit")).toBe(0);
    expect(await job.getState()).toBe("completed");
  });

  test("a second time does not wait for what is in flight", async () => {
    const customer = await receiver();
    customer.answer("hang");
    const setting = backend();
    const process = worker(setting, { SHUTDOWN_TIMEOUT: "60s", WEBHOOK_TIMEOUT: "60s" });
    const jobs = await setting.queue.addBulk(
      // More than may go to one endpoint at once: some wait for their turn inside the worker.
      Array.from({ length: 20 }, () => ({ name: "file.created", data: jobData(customer.url()) })),
    );
    await customer.waitFor(4);
    process.signal("SIGTERM");
    await process.line("worker.stopping");
    process.signal("SIGTERM");
    const { value, tookMs } = await timed(bounded(process.exited, () => "an exit"));
    expect(value).toBe(0);
    expect(tookMs).toBeLessThan(PROMPT_MS);
    for (const job of jobs) {
      expect(["waiting", "delayed"]).toContain(await job.getState());
      expect((await setting.queue.getJob(job.id as string))?.attemptsMade).toBe(0);
    }
  });
});
