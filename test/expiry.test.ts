/** An event's own expiry: `expiresAt` in its job's data. */
import { afterEach, expect, test } from "bun:test";
import { type Receiver, startReceiver } from "../src/dev/receiver.ts";
import { ContractError, createFluxhook, type NewEvent } from "../src/index.ts";
import type { Gate } from "../src/isolation/gate.ts";
import { redeliver } from "../src/operations/redeliver.ts";
import { eventOf, jobData, OPEN_GATE, type Stack, type StackOptions, startStack } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const HOUR_MS = 60 * 60 * 1000;
const NEVER_SENT = "expired, no attempt after its expiresAt";
const inMs = (ms: number) => new Date(Date.now() + ms).toISOString();

const open: { stop(): Promise<void> }[] = [];
afterEach(async () => {
  for (const { stop } of open.splice(0).reverse()) await stop();
});

async function start(options: StackOptions = {}): Promise<{ customer: Receiver; system: Stack }> {
  const customer = await startReceiver();
  open.push(customer);
  const system = await startStack(options);
  open.push(system);
  return { customer, system };
}

test("an event whose time is over is not sent: it fails as expired, and is in the user's log", async () => {
  const { customer, system } = await start();
  const data = jobData(customer.url(), { expiresAt: inMs(-1) });
  const { state, job } = await system.settled(await system.queue.add("file.created", data));
  expect([state, job.failedReason, job.attemptsMade]).toEqual(["failed", NEVER_SENT, 1]);
  expect(await system.attempts(data.userId)).toMatchObject([
    { attempt: 1, success: false, status_code: null, error: "expired" },
  ]);
  expect(await system.line("delivery.attempted")).toMatchObject({ verdict: "give_up", error: "expired" });

  // Redelivering it by hand does not send it either.
  const again = system.settled(job);
  expect(await redeliver(system.queue, job.id as string)).toBe("queued");
  expect((await again).job.failedReason).toBe(NEVER_SENT);
  expect(customer.requests).toEqual([]);
});

test("an event whose time is not over is sent like any other, and its payload does not say when it expires", async () => {
  const { customer, system } = await start();
  const nowMs = Date.now();
  for (const [hours, zone] of [
    [3, "Z"],
    [3 + 2, "+02:00"],
    [3 - 8, "-08:00"],
  ] as const) {
    const expiresAt = new Date(nowMs + hours * HOUR_MS).toISOString().replace(/\.\d+Z$/, `.123456${zone}`);
    const data = jobData(customer.url(), { expiresAt });
    const job = await system.queue.add("file.created", data);
    const expiresAtMs = eventOf(system.queue, job).expiresAtMs as number;
    expect(Math.abs(expiresAtMs - nowMs - 3 * HOUR_MS)).toBeLessThan(1_000);
    expect((await system.settled(job)).state).toBe("completed");
    expect(Object.keys((await customer.next()).json as object)).toEqual(["id", "event", "timestamp", "data"]);
  }
});

test("an attempt that fails is the last when the next one would come too late, and its reason is kept", async () => {
  const policy = { attempts: 5, delaysMs: [HOUR_MS], jitter: 0 };
  const { customer, system } = await start({ policy });
  customer.answer({ status: 503 });
  const tooLate = jobData(customer.url(), { expiresAt: inMs(HOUR_MS - 1) });
  const { state, job } = await system.settled(await system.queue.add("file.created", tooLate));
  expect([state, customer.requests.length]).toEqual(["failed", 1]);
  expect(job.failedReason).toMatch(/^HTTP 503 in \d+ ms, no attempt after its expiresAt$/);
  expect(await system.attempts(tooLate.userId)).toMatchObject([{ attempt: 1, error: "http_503" }]);

  const inTime = jobData(customer.url(), { expiresAt: inMs(2 * HOUR_MS) });
  await system.queue.add("file.created", inTime);
  expect(await system.line("delivery.attempted", 2)).toMatchObject({ user: inTime.userId, verdict: "retry" });
});

test("a fault of ours does not put an event off beyond its time", async () => {
  const resolve = () => Promise.reject(Object.assign(new Error("no resolver"), { code: "EAI_AGAIN" }));
  const { system } = await start({ resolve, gate: OPEN_GATE, random: () => 0.5 }); // pauses of 5 s
  const data = jobData("http://customer.example/", { expiresAt: inMs(4_000) });
  const { job } = await system.settled(await system.queue.add("file.created", data));
  expect(job.failedReason).toMatch(/^resolver after \d+ ms, no attempt after its expiresAt$/);
});

test("an event that waits for an open circuit fails when its time is over, not when the circuit lets it try", async () => {
  const { customer, system } = await start();
  customer.answer("reset");
  const jobs = await system.queue.addBulk(
    Array.from({ length: 5 }, () => ({ name: "file.created", data: jobData(customer.url()), opts: { attempts: 1 } })),
  );
  await Promise.all(jobs.map((job) => system.settled(job)));
  expect(await system.metrics.registry.metrics()).toContain("fluxhook_open_circuits 1");
  const { length: sent } = customer.requests;

  const data = jobData(customer.url(), { expiresAt: inMs(300) });
  const { job } = await system.settled(await system.queue.add("file.created", data));
  expect(job.failedReason).toBe(NEVER_SENT);
  expect((job.finishedOn as number) - Date.parse(data.expiresAt as string)).toBeLessThan(5_000); // a circuit's first pause is longer
  expect(customer.requests.length).toBe(sent);
});

test("an event that an operator holds fails when its time is over, though its age stands still", async () => {
  const { customer, system } = await start();
  const nowMs = Date.now();
  const hold = { id: "1", kind: "url", target: customer.url(), from: nowMs, until: nowMs + HOUR_MS } as const;
  system.holds.replace([hold]);
  const data = jobData(customer.url(), { expiresAt: inMs(300) });
  const { job } = await system.settled(await system.queue.add("file.created", data));
  expect(job.failedReason).toBe(NEVER_SENT);
  expect(customer.requests).toEqual([]);
});

test("an event whose time ends while it waits for its endpoint is not sent, and gives back its place", async () => {
  const released: unknown[] = [];
  const permit = { kind: "go" } as const;
  const gate: Gate = {
    ...OPEN_GATE,
    admit: ({ expiresAt = 0 }) => ({
      kind: "wait",
      isProven: true,
      decision: Bun.sleep(expiresAt - Date.now() + 1).then(() => permit),
    }),
    release: (given) => void released.push(given),
  };
  const { customer, system } = await start({ gate });
  const data = jobData(customer.url(), { expiresAt: inMs(2_000) }); // a busy machine must have picked it up by then
  const { job } = await system.settled(await system.queue.add("file.created", data));
  expect(job.failedReason).toBe(NEVER_SENT);
  expect(released).toEqual([permit]);
  expect(customer.requests).toEqual([]);
});

test.each(["tomorrow", "2026-12-31", "2026-12-31T23:00:00", "2026-02-30T00:00:00Z", 1_798_758_000_000, null])(
  "an expiresAt of %p breaks the contract",
  async (expiresAt) => {
    const { system } = await start();
    const data = { ...jobData("https://customer.example/"), expiresAt };
    const { job } = await system.settled(await system.queue.add("file.created", data));
    expect(job.failedReason).toStartWith("data.expiresAt: expected an ISO 8601 time with its zone");
  },
);

test("a backend gives a Date or a string, and an invalid one is refused before anything is queued", async () => {
  const { customer, system } = await start({ isIdle: true });
  const fluxhook = createFluxhook({ valkeyUrl: await testValkeyUrl(), queue: system.queue.name });
  open.push({ stop: () => fluxhook.close() });
  const event = (expiresAt: Date | string): NewEvent => ({
    event: "file.created",
    ...jobData(customer.url()),
    expiresAt,
  });
  const time = new Date("2099-12-31T23:00:00Z");
  for (const given of [time, time.toISOString()]) {
    const { id } = await fluxhook.enqueue(event(given));
    expect((await system.queue.getJob(id))?.data.expiresAt).toBe("2099-12-31T23:00:00.000Z");
  }
  for (const given of [new Date(Number.NaN), "soon"]) {
    const error = await fluxhook.enqueue(event(given)).catch((reason: Error) => reason);
    expect(error).toBeInstanceOf(ContractError);
    expect((error as Error).message).toStartWith("expiresAt: expected an ISO 8601 time with its zone");
  }
  expect(await system.queue.getWaitingCount()).toBe(2);
  // One whose time is over already is queued, so that it ends as a failed event that support can find.
  expect((await fluxhook.enqueue(event(new Date(0)))).status).toBe("new");
});
