/** Suspects, which run in a process of their own, with registered endpoints: what becomes of them is what would in the worker. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { Queue } from "bullmq";
import type { Receiver } from "../src/dev/receiver.ts";
import { createFluxhook, type Fluxhook } from "../src/index.ts";
import { JOB_FIELDS } from "../src/queue/layout.ts";
import { healthKey } from "../src/queue/own-keys.ts";
import { openValkey, type Valkey } from "../src/valkey/connection.ts";
import { endAll, open, receiver } from "./support/deliveries.ts";
import { startWorkerProcess, type WorkerProcess } from "./support/process.ts";
import { eventually } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const DAY_MS = 24 * 60 * 60 * 1000;

let valkey: Valkey;
let queue: Queue;
let backend: Fluxhook;
let customer: Receiver;
let worker: WorkerProcess;
let userId: string;

beforeEach(async () => {
  const valkeyUrl = await testValkeyUrl();
  const name = `suspects-${crypto.randomUUID()}`;
  userId = `usr_${crypto.randomUUID()}`;
  valkey = openValkey(valkeyUrl, {});
  queue = new Queue(name, { connection: valkey });
  backend = createFluxhook({ valkeyUrl, queue: name, allowPlainSecrets: true, registry: true });
  customer = await receiver();
  worker = startWorkerProcess({ VALKEY_URL: valkeyUrl, WEBHOOK_QUEUE: name, WEBHOOK_REGISTRY: "1" });
  open.push({ stop: async () => valkey.disconnect() }, { stop: () => queue.close() }, { stop: () => backend.close() });
  open.push({ stop: () => worker.stop().then(() => {}) });
  await backend.endpoints.create(userId, { id: "main", url: customer.url("/in") });
  await worker.line("worker.ready");
});
afterEach(endAll);

/** Add a job that workers died with, or that they did not, and wait for its end. */
async function end({ isSuspect, endpoint }: { isSuspect: boolean; endpoint?: { id: string } | undefined }) {
  const data = { userId, ...(endpoint && { endpoint }), data: {} };
  await queue.pause(); // until it is marked
  const added = await queue.add("file.created", data, { attempts: 1, jobId: crypto.randomUUID() });
  const key = queue.toKey(added.id as string);
  if (isSuspect) await valkey.hset(key, JOB_FIELDS.stalledCounter, 3);
  await queue.resume();
  const job = await eventually(
    () => queue.getJob(added.id as string),
    (found) => found?.finishedOn !== undefined,
  );
  expect(await valkey.hget(key, JOB_FIELDS.stalledCounter)).toBeNull(); // removed when a suspect ends otherwise than by death
  return job as NonNullable<typeof job>;
}

/** Wait until a worker's metrics have a line. */
const counted = (line: string) =>
  eventually(
    async () => (await (await fetch(await worker.url("/metrics"))).text()).split("\n"),
    (lines) => lines.includes(line),
    5_000,
  );

describe.each([
  ["a suspect", true],
  ["any other job", false],
])("%s", (_, isSuspect) => {
  const endpoint = { id: "main" };

  test("that fails for good is kept as missed, and counted in its endpoint's health and log", async () => {
    customer.answer(() => ({ status: 500 }));
    const job = await end({ isSuspect, endpoint });
    expect(job.failedReason).toMatch(/^HTTP 500 in \d+ ms, no attempts left$/);
    const { events, kept } = await backend.endpoints.missed(userId, "main");
    expect([kept, events]).toMatchObject([1, [{ job: job.id, event: "file.created", cause: "exhausted" }]]);
    const { health } = await backend.endpoints.get(userId, "main");
    expect(health).toMatchObject({ failures: 1 });
    const attempts = await backend.endpoints.attempts(userId, "main");
    expect(attempts).toMatchObject([{ job: job.id, status_code: 500, endpoint_id: "main" }]);
    expect(await backend.readAttempts(userId)).toMatchObject([{ job: job.id, status_code: 500, endpoint_id: "main" }]);
    await counted('fluxhook_missed_events_total{result="kept"} 1');
  });

  test("whose endpoint is disabled is kept as missed, and not attempted", async () => {
    await backend.endpoints.disable(userId, "main");
    const job = await end({ isSuspect, endpoint });
    expect([job.returnvalue, job.attemptsMade]).toEqual(["held: endpoint disabled", 1]);
    const { events } = await backend.endpoints.missed(userId, "main");
    expect(events).toMatchObject([{ job: job.id, cause: "disabled" }]);
    expect([customer.requests, await backend.endpoints.attempts(userId, "main")]).toEqual([[], []]);
  });

  test.each([
    ["gone", 410, 1],
    ["failing", 503, 20],
  ] as const)("that is its endpoint's last failure disables it as %s", async (reason, status, failures) => {
    if (reason === "failing") {
      const since = String(Date.now() - 6 * DAY_MS);
      await valkey.hset(healthKey(userId), { "main.since": since, "main.n": failures - 1 });
    }
    customer.answer(() => ({ status }));
    await end({ isSuspect, endpoint });
    const { state } = await eventually(
      () => backend.endpoints.get(userId, "main"),
      ({ state }) => state.kind === "disabled",
      5_000,
    );
    expect(state).toMatchObject({ kind: "disabled", reason });
    await counted(`fluxhook_endpoints_disabled_total{reason="${reason}"} 1`);
  });

  test("without an endpoint goes to all that want it", async () => {
    await backend.endpoints.create(userId, { id: "audit", url: customer.url("/audit") });
    const job = await end({ isSuspect });
    expect(job.returnvalue).toBe("to 2 endpoints");
    const requests = await customer.waitFor(2);
    expect(requests.map(({ path }) => path).sort()).toEqual(["/audit", "/in"]);
    await counted("fluxhook_fanned_out_jobs_total 2");
  });
});
