import { afterEach, describe, expect, test } from "bun:test";
import { type Completion, createCompletion } from "../jobs/completion.ts";
import type { Outcome } from "../src/delivery/outcome.ts";
import type { Verdict } from "../src/delivery/retry.ts";
import { type Receiver, startReceiver } from "../src/dev/receiver.ts";
import { startMonitor } from "./support/monitor.ts";
import { eventually, jobData, type Stack, type StackOptions, startStack } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const open: { stop(): Promise<void> }[] = [];

afterEach(async () => {
  for (const { stop } of open.splice(0).reverse()) await stop();
});

async function start(options: StackOptions): Promise<{ receiver: Receiver; stack: Stack }> {
  const receiver = await startReceiver();
  open.push(receiver);
  const stack = await startStack(options);
  open.push(stack);
  return { receiver, stack };
}

describe("the log entry", () => {
  test.each([
    [200, "completed", "completed"],
    [500, "delayed", "failed"],
    [410, "failed", "failed"],
  ] as const)("of a %i is written before the job is acknowledged", async (status, next, listener) => {
    const reached = Promise.withResolvers<void>();
    const held = Promise.withResolvers<void>();
    const { receiver, stack } = await start({
      policy: { attempts: 2, delaysMs: [60_000], jitter: 0 },
      log: (log) => ({
        async record(...entry) {
          reached.resolve();
          await held.promise;
          await log.record(...entry);
        },
      }),
    });
    receiver.answer({ status });
    const data = jobData(receiver.url());
    const job = await stack.queue.add("file.created", data);
    await reached.promise;
    expect(await job.getState()).toBe("active");
    expect((await stack.queue.getJob(job.id as string))?.attemptsMade).toBe(0);
    const acknowledged = new Promise((resolve) => stack.worker.once(listener, resolve));
    held.resolve();
    await acknowledged;
    expect(await job.getState()).toBe(next);
    expect(await stack.attempts(data.userId)).toMatchObject([{ status_code: status }]);
  });
});

test("the log entry goes ahead of the acknowledgement, over the same connection, and is not waited for", async () => {
  const { receiver, stack } = await start({});
  const data = jobData(receiver.url());
  const monitor = await startMonitor(await testValkeyUrl());
  open.push(monitor);
  const job = await stack.queue.add("file.created", data);
  await stack.settled(job);
  const isEntry = (line: string) => line.includes(`webhooks:log:${data.userId}`);
  const scripts = await eventually(
    () => monitor.lines().filter((line) => /\] "eval/i.test(line)),
    (lines) => lines.findIndex(isEntry) in lines.slice(0, -1),
  );
  const [entry, next] = scripts.slice(scripts.findIndex(isEntry)) as [string, string];
  const source = (line: string) => /\[\d+ (\S+)\]/.exec(line)?.[1];
  expect(source(next)).toBe(source(entry) as string);
  expect(next).toContain(`"${stack.queue.toKey(job.id as string)}"`);
  expect(await stack.attempts(data.userId)).toHaveLength(1);
});

describe("the hook", () => {
  const breakages: [string, StackOptions["log"]][] = [
    ["rejects", () => ({ record: () => Promise.reject(new Error("no memory")) })],
    [
      "throws",
      () => ({
        record() {
          throw new Error("no memory");
        },
      }),
    ],
    [
      "throws what is no error",
      () => ({
        record: () => Promise.reject(undefined),
      }),
    ],
  ];

  test.each(breakages)("does not change the verdict when the log %s", async (_, log) => {
    const { receiver, stack } = await start({ log });
    receiver.answer((__, index) => ({ status: index === 0 ? 500 : 200 }));
    const job = await stack.queue.add("file.created", jobData(receiver.url()));
    const { state, job: ended } = await stack.settled(job);
    expect(state).toBe("completed");
    expect(ended.attemptsMade).toBe(2);
    expect(receiver.requests.length).toBe(2);
    expect(stack.lines.filter(({ message }) => message === "attempt.unlogged").length).toBe(2);
    expect(await stack.metrics.registry.metrics()).toContain("fluxhook_unlogged_attempts_total 2");
  });

  test("that fails in a way nobody foresaw does not lose the event", async () => {
    let calls = 0;
    const { receiver, stack } = await start({
      completed: (completed) => async (completion) => {
        calls += 1;
        if (calls === 1) throw new TypeError("undefined is not a function");
        await completed(completion);
      },
    });
    const job = await stack.queue.add("file.created", jobData(receiver.url()));
    await new Promise((resolve) => stack.worker.once("failed", resolve));
    expect(await job.getState()).toBe("delayed");
    await job.promote();
    expect((await stack.settled(job)).state).toBe("completed");
    const [first, second] = await receiver.waitFor(2);
    expect(second?.headers["webhook-id"]).toBe(first?.headers["webhook-id"]);
  });

  const completion = (outcome: Outcome, verdict: Verdict): Completion => ({
    event: {
      id: "0192f0c1-7b6a-4d5e-8f00-abcdefabcdef",
      type: "file.created",
      timestampMs: 0,
      userId: "usr_1",
      endpoint: { url: new URL("https://customer.example/hook?leak-query"), secrets: ["leak-secret"] },
      body: Buffer.from("leak-data"),
    },
    job: "7",
    delivery: "11111111-2222-4333-8444-555555555555",
    attempt: 2,
    startedAt: Date.UTC(2026, 0, 2, 3, 4, 5, 6),
    outcome,
    verdict,
  });
  const entry = {
    id: "0192f0c1-7b6a-4d5e-8f00-abcdefabcdef",
    delivery: "11111111-2222-4333-8444-555555555555",
    attempt: 2,
    timestamp: "2026-01-02T03:04:05.006Z",
    endpoint: "https://customer.example/hook",
    event: "file.created",
    job: "7",
  };

  test.each<[string, Outcome, Verdict, object, object]>([
    [
      "a delivery",
      { kind: "response", status: 204, retryAfter: undefined, durationMs: 41 },
      { kind: "delivered" },
      { status_code: 204, duration_ms: 41, success: true, error: null },
      { verdict: "delivered" },
    ],
    [
      "a retry",
      { kind: "response", status: 503, retryAfter: "7", durationMs: 41 },
      { kind: "retry", delayMs: 7_000 },
      { status_code: 503, duration_ms: 41, success: false, error: "http_503" },
      { verdict: "retry", retry_in_ms: 7_000 },
    ],
    [
      "silence",
      { kind: "failure", code: "timeout", durationMs: 10_000 },
      { kind: "give_up", cause: "exhausted" },
      { status_code: null, duration_ms: 10_000, success: false, error: "timeout" },
      { verdict: "give_up" },
    ],
    [
      "a TLS failure",
      { kind: "failure", code: "tls", cause: "expired", durationMs: 12 },
      { kind: "retry", delayMs: 5_000 },
      { status_code: null, duration_ms: 12, success: false, error: "tls", cause: "expired" },
      { verdict: "retry", retry_in_ms: 5_000 },
    ],
    [
      "a name that leads inside, whose kind of address is for operators only",
      { kind: "failure", code: "dns", cause: "private", durationMs: 3 },
      { kind: "retry", delayMs: 5_000 },
      { status_code: null, duration_ms: 3, success: false, error: "dns" },
      { cause: "private", verdict: "retry", retry_in_ms: 5_000 },
    ],
    [
      "a blocked address",
      { kind: "blocked", range: "private", durationMs: 0 },
      { kind: "give_up", cause: "blocked" },
      { status_code: null, duration_ms: 0, success: false, error: "blocked_address" },
      { verdict: "give_up" },
    ],
  ])("makes an entry and a line of %s", async (_, outcome, verdict, expectedEntry, expectedLine) => {
    const written: unknown[] = [];
    const printed: unknown[] = [];
    const completed = createCompletion({
      log: { record: async (...args: unknown[]) => void written.push(args) },
      metrics: {
        attempted: (...args: unknown[]) => void written.push(args),
        unlogged: () => {},
        backlogFull: () => {},
      },
      logger: { info: (...args: unknown[]) => void printed.push(args), error: () => {} },
    } as unknown as Parameters<typeof createCompletion>[0]);
    const given = completion(outcome, verdict);
    await completed(given);
    expect(written).toEqual([
      ["file.created", outcome],
      ["usr_1", { ...entry, ...expectedEntry }, expect.any(Function)],
    ]);
    expect(printed).toEqual([[{ user: "usr_1", ...entry, ...expectedEntry, ...expectedLine }, "delivery.attempted"]]);
    expect(JSON.stringify([written, printed])).not.toContain("leak");
  });

  test("leaves a fault of ours out of the user's log", async () => {
    let records = 0;
    const completed = createCompletion({
      log: { record: async () => void records++ },
      metrics: { attempted: () => {}, unlogged: () => {}, backlogFull: () => {} },
      logger: { info: () => {}, error: () => {} },
    } as unknown as Parameters<typeof createCompletion>[0]);
    await completed(completion({ kind: "fault", code: "resolver", durationMs: 3 }, { kind: "defer", delayMs: 5_000 }));
    expect(records).toBe(0);
  });
});
