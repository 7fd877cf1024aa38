/** How long an event may be put off, and what becomes of it then. */
import { expect } from "bun:test";
import { type Receiver, startReceiver } from "../src/dev/receiver.ts";
import type { Address } from "../src/dns/address.ts";
import type { Gate } from "../src/isolation/gate.ts";
import { redeliver } from "../src/operations/redeliver.ts";
import { keep, sideBySide } from "./support/side-by-side.ts";
import { eventually, jobData, OPEN_GATE, QUICK, type Stack, type StackOptions, startStack } from "./support/stack.ts";

const HOUR_MS = 60 * 60 * 1000;
const REASON = /^(\S+ after \d+ ms|expired), older than WEBHOOK_MAX_AGE$/;

const receiver = async (): Promise<Receiver> => keep(await startReceiver());
const stack = async (options: StackOptions): Promise<Stack> => keep(await startStack(options));

const noResolver = () => Promise.reject(Object.assign(new Error("no resolver"), { code: "EAI_AGAIN" }));
const loopback: Address[] = [{ address: "127.0.0.1", family: 4 }];

/** Open the circuit of an endpoint, with five attempts that nobody answers. */
async function openCircuit(system: Stack, url: string): Promise<void> {
  const jobs = await system.queue.addBulk(
    Array.from({ length: 5 }, () => ({ name: "file.created", data: jobData(url), opts: { attempts: 1 } })),
  );
  await Promise.all(jobs.map((job) => system.settled(job)));
  expect(await system.metrics.registry.metrics()).toContain("fluxhook_open_circuits 1");
}

/** What the user and the operator are left with. */
async function expectExpired(system: Stack, job: { id?: string | undefined }, userId: string, error: string) {
  const { state, job: ended } = await system.settled(job);
  expect(state).toBe("failed");
  expect(ended.failedReason).toMatch(REASON);
  const attempts = await system.attempts(userId);
  expect(attempts).toMatchObject([{ attempt: 1, success: false, status_code: null, error }]);
  const line = system.lines.findLast(({ message, job: id }) => message === "delivery.attempted" && id === job.id);
  expect(line).toMatchObject({ verdict: "give_up", error });
  return ended;
}

sideBySide("an event too old for an open circuit expires, unsent, and is in the user's log", async () => {
  const customer = await receiver();
  customer.answer("reset");
  const system = await stack({ maxAgeMs: HOUR_MS });
  await openCircuit(system, customer.url());
  const { length: sent } = customer.requests;

  const data = jobData(customer.url());
  const old = await system.queue.add("file.created", data, { timestamp: Date.now() - HOUR_MS - 1 });
  const ended = await expectExpired(system, old, data.userId, "expired");
  expect(ended.failedReason).toBe("expired, older than WEBHOOK_MAX_AGE");
  expect(ended.attemptsMade).toBe(1);
  expect(customer.requests.length).toBe(sent);

  // One that is as good as new waits.
  const young = await system.queue.add("file.created", jobData(customer.url()));
  await eventually(
    () => young.getState(),
    (state) => state === "delayed",
  );
  expect((await system.stored(young)).failedReason).toBeUndefined();
});

sideBySide("an event that grows old while its circuit is open expires when its turn comes", async () => {
  const customer = await receiver();
  customer.answer("reset");
  const system = await stack({ maxAgeMs: 1_000 });
  await openCircuit(system, customer.url());
  const data = jobData(customer.url());
  const job = await system.queue.add("file.created", data);
  await eventually(
    () => job.getState(),
    (state) => state === "delayed",
  );
  expect(await system.attempts(data.userId)).toEqual([]);
  await Bun.sleep(Math.max(0, job.timestamp + 1_001 - Date.now())); // until it is too old
  await job.promote();
  await expectExpired(system, job, data.userId, "expired");
});

sideBySide(
  "an event whose name no resolver answers for expires, and its one line in the user's log says why",
  async () => {
    const system = await stack({ resolve: noResolver, gate: OPEN_GATE, maxAgeMs: HOUR_MS });
    const data = jobData("http://customer.example/");
    const old = await system.queue.add("file.created", data, { timestamp: Date.now() - HOUR_MS - 1 });
    const ended = await expectExpired(system, old, data.userId, "resolver");
    expect(ended.failedReason).toMatch(/^resolver after \d+ ms, older than WEBHOOK_MAX_AGE$/);
  },
);

sideBySide("an event that is deferred again and again costs nothing until the pause would outlast it", async () => {
  const system = await stack({ resolve: noResolver, gate: OPEN_GATE, maxAgeMs: 7_000, random: () => 0.5 }); // pauses of 5 s
  const data = jobData("http://customer.example/");
  const job = await system.queue.add("file.created", data);
  expect(await system.line("delivery.attempted")).toMatchObject({ verdict: "defer", retry_in_ms: 5_000 });
  await eventually(
    () => job.getState(),
    (state) => state === "delayed",
  );
  expect((await system.stored(job)).atm ?? "0").toBe("0");
  expect(await system.attempts(data.userId)).toEqual([]);
  await Bun.sleep(Math.max(0, job.timestamp + 2_010 - Date.now())); // less than a pause is left
  await job.promote();
  await expectExpired(system, job, data.userId, "resolver");
});

sideBySide("an attempt that fails expires when its next one would come too late, with what happened", async () => {
  const customer = await receiver();
  customer.answer({ status: 503 });
  const policy = { attempts: 5, delaysMs: [HOUR_MS], jitter: 0 };
  const system = await stack({ maxAgeMs: HOUR_MS - 1, policy });
  const data = jobData(customer.url());
  const { state, job } = await system.settled(await system.queue.add("file.created", data));
  expect(state).toBe("failed");
  expect(job.failedReason).toMatch(/^HTTP 503 in \d+ ms, older than WEBHOOK_MAX_AGE$/);
  expect(await system.attempts(data.userId)).toMatchObject([{ attempt: 1, status_code: 503, error: "http_503" }]);
  expect(customer.requests.length).toBe(1);
});

sideBySide("an old event goes out as any other does while its endpoint takes it", async () => {
  const customer = await receiver();
  const system = await stack({ maxAgeMs: 60_000 });
  const data = jobData(customer.url());
  const job = await system.queue.add("file.created", data, { timestamp: Date.now() - 30 * 24 * HOUR_MS });
  expect((await system.settled(job)).state).toBe("completed");
  expect(await system.attempts(data.userId)).toMatchObject([{ success: true, attempt: 1 }]);
});

sideBySide(
  "many old events at once, as when they are redelivered, all have their turn while their endpoint answers",
  async () => {
    const customer = await receiver();
    customer.answer(() => Bun.sleep(50).then(() => ({})));
    const system = await stack({ maxAgeMs: HOUR_MS, concurrency: 32 });
    const jobs = await system.queue.addBulk(
      Array.from({ length: 200 }, () => ({
        name: "file.created",
        data: jobData(customer.url()),
        opts: { timestamp: Date.now() - 2 * HOUR_MS },
      })),
    );
    const ends = await Promise.all(jobs.map((job) => system.settled(job)));
    expect(ends.filter(({ state }) => state !== "completed").map(({ job }) => job.failedReason)).toEqual([]);
  },
);

sideBySide(
  "an expired event, retried by hand once its endpoint is well, is delivered, with the bytes it always had",
  async () => {
    const customer = await receiver();
    let isUp = false;
    const resolve = async () => (isUp ? loopback : await noResolver());
    const system = await stack({ resolve, maxAgeMs: HOUR_MS });
    const timestamp = Date.now() - 2 * HOUR_MS;
    const data = jobData(`http://customer.example:${customer.port}/`);
    const job = await system.queue.add("file.created", data, { timestamp });
    await expectExpired(system, job, data.userId, "resolver");

    isUp = true;
    const again = system.settled(job);
    await (await system.queue.getJob(job.id as string))?.retry("failed"); // as Bull Board does it
    expect((await again).state).toBe("completed");
    expect((await customer.next()).json).toMatchObject({ timestamp: new Date(timestamp).toISOString() });
    expect(await system.attempts(data.userId)).toMatchObject([
      { attempt: 2, success: true },
      { attempt: 1, success: false, error: "resolver" },
    ]);
  },
);

sideBySide("an expired event, retried by hand while its circuit is still open, expires again", async () => {
  const customer = await receiver();
  customer.answer("reset");
  const system = await stack({ maxAgeMs: HOUR_MS });
  await openCircuit(system, customer.url());
  const data = jobData(customer.url());
  const job = await system.queue.add("file.created", data, { timestamp: Date.now() - 2 * HOUR_MS });
  await expectExpired(system, job, data.userId, "expired");
  const again = system.settled(job);
  await (await system.queue.getJob(job.id as string))?.retry("failed");
  expect((await again).job.failedReason).toBe("expired, older than WEBHOOK_MAX_AGE");
  expect((await system.attempts(data.userId)).map(({ attempt, error }) => [attempt, error])).toEqual([
    [2, "expired"],
    [1, "expired"],
  ]);
});

sideBySide("a delay of the producer's own does not count as age", async () => {
  const customer = await receiver();
  customer.answer((_, index) => ({ status: index === 0 ? 503 : 200 }));
  const policy = { ...QUICK, delaysMs: [100] };
  const system = await stack({ maxAgeMs: 60_000, policy });
  const data = jobData(customer.url());
  // Enqueued two hours ago, to be sent now.
  const opts = { timestamp: Date.now() - 2 * HOUR_MS, delay: 2 * HOUR_MS };
  const job = await system.queue.add("file.created", data, opts);
  expect((await system.settled(job)).state).toBe("completed");
  expect((await system.attempts(data.userId)).map(({ attempt, error }) => [attempt, error])).toEqual([
    [2, null],
    [1, "http_503"],
  ]);

  // The same without the delay does not see its second attempt.
  customer.answer({ status: 503 });
  const old = await system.queue.add("file.created", jobData(customer.url()), { timestamp: opts.timestamp });
  expect((await system.settled(old)).job.failedReason).toMatch(/^HTTP 503 in \d+ ms, older than WEBHOOK_MAX_AGE$/);
});

sideBySide("a delay of the producer's own does not keep an event for ever", async () => {
  const customer = await receiver();
  customer.answer({ status: 503 });
  const system = await stack({ maxAgeMs: 60_000, policy: { ...QUICK, delaysMs: [100] } });
  const opts = { timestamp: Date.now() - 2 * HOUR_MS, delay: 2 * HOUR_MS - 60_001 };
  const job = await system.queue.add("file.created", jobData(customer.url()), opts);
  expect((await system.settled(job)).job.failedReason).toMatch(/^HTTP 503 in \d+ ms, older than WEBHOOK_MAX_AGE$/);
});

/** A gate that parks a job until it has asked so many times. */
function crowdedGate(times: number, reason: "limit" | "retry_after" = "limit"): Gate & { asked: number } {
  return {
    ...OPEN_GATE,
    asked: 0,
    admit() {
      this.asked += 1;
      return this.asked <= times ? { kind: "park", retryAt: Date.now() + 1, reason } : { kind: "go" };
    },
  };
}

for (const reason of ["limit", "retry_after"] as const) {
  sideBySide(
    `an event that is too old when it comes, as after days without a worker, is parked for ${reason} until it has its attempt`,
    async () => {
      const customer = await receiver();
      const gate = crowdedGate(25, reason);
      const system = await stack({ gate, maxAgeMs: HOUR_MS });
      const data = jobData(customer.url());
      const job = await system.queue.add("file.created", data, { timestamp: Date.now() - 2 * HOUR_MS });
      const { state, job: ended } = await system.settled(job);
      expect([state, ended.failedReason, gate.asked]).toEqual(["completed", undefined as unknown as string, 26]);
      expect(await system.attempts(data.userId)).toMatchObject([{ attempt: 1, success: true }]);
    },
  );
}

sideBySide("an event that is too old when it comes waits for as long as any other, and then expires", async () => {
  const customer = await receiver();
  const gate = crowdedGate(Number.POSITIVE_INFINITY);
  const system = await stack({ gate, maxAgeMs: 1_000 });
  const data = jobData(customer.url());
  const startedAt = Date.now();
  const job = await system.queue.add("file.created", data, { timestamp: Date.now() - 2 * HOUR_MS });
  await expectExpired(system, job, data.userId, "expired");
  expect(Date.now() - startedAt).toBeGreaterThanOrEqual(1_000);
  expect(gate.asked).toBeGreaterThan(2);
});

sideBySide("an old event whose attempt has failed expires when it finds no room for the next", async () => {
  const customer = await receiver();
  customer.answer({ status: 503 });
  const gate = crowdedGate(0);
  const system = await stack({ gate, maxAgeMs: 3_000, policy: { ...QUICK, delaysMs: [100] } });
  gate.admit = () => {
    gate.asked += 1;
    return gate.asked === 1 ? { kind: "go" } : { kind: "park", retryAt: Date.now() + 100, reason: "limit" };
  };
  const data = jobData(customer.url());
  const job = await system.queue.add("file.created", data);
  const { job: ended } = await system.settled(job);
  expect(ended.failedReason).toBe("expired, older than WEBHOOK_MAX_AGE");
  expect(Date.now() - job.timestamp).toBeWithin(3_000, 4_500);
  expect((await system.attempts(data.userId)).map(({ error }) => error)).toEqual(["expired", "http_503"]);
});

const AGAIN: [string, (system: Stack, id: string) => Promise<unknown>][] = [
  ["redelivered", (system: Stack, id: string) => redeliver(system.queue, id)],
  ["retried in Bull Board", async (system: Stack, id: string) => (await system.queue.getJob(id))?.retry("failed")],
];
for (const [how, again] of AGAIN) {
  sideBySide(`an expired event that is ${how} comes anew, and may wait for room again`, async () => {
    const customer = await receiver();
    const gate = crowdedGate(Number.POSITIVE_INFINITY);
    const system = await stack({ gate, maxAgeMs: 2_000 });
    const data = jobData(customer.url());
    const job = await system.queue.add("file.created", data, { timestamp: Date.now() - 2 * HOUR_MS });
    await expectExpired(system, job, data.userId, "expired");
    gate.admit = crowdedGate(3).admit;
    gate.asked = 0;
    await Bun.sleep(2_100); // longer than an event may wait: what it came with before counts no more
    const settled = system.settled(job);
    await again(system, job.id as string);
    const { state, job: ended } = await settled;
    expect([state, ended.failedReason, gate.asked]).toEqual(["completed", undefined as unknown as string, 4]);
  });
}
