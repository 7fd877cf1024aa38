/** When a delivery that failed is tried again, and when no more: jobs through a worker. The schedule alone: retry.test.ts. */
import { afterEach, describe, expect, test } from "bun:test";
import { addRaw, delaysUntil, endAll, HOUR_MS, inTurn, receiver, stack } from "./support/deliveries.ts";
import { eventually, jobData } from "./support/stack.ts";

afterEach(endAll);

describe("retries", () => {
  test("go on until a receiver accepts", async () => {
    const customer = await receiver();
    customer.answer(inTurn(500, 429, 200));
    const system = await stack();
    const data = jobData(customer.url());
    const job = await system.queue.add("file.created", data);
    const { state, job: ended } = await system.settled(job);
    expect(state).toBe("completed");
    expect(ended.attemptsMade).toBe(3);
    expect(await system.attempts(data.userId)).toMatchObject([
      { attempt: 3, status_code: 200, success: true, error: null },
      { attempt: 2, status_code: 429, success: false, error: "http_429" },
      { attempt: 1, status_code: 500, success: false, error: "http_500" },
    ]);
  });

  test("end when the attempts are used up", async () => {
    const customer = await receiver();
    customer.answer({ status: 500 });
    const system = await stack();
    const data = jobData(customer.url());
    const job = await system.queue.add("file.created", data);
    const { state, job: ended } = await system.settled(job);
    expect(state).toBe("failed");
    expect(ended.attemptsMade).toBe(3);
    expect(customer.requests.length).toBe(3);
    expect(system.lines.map(({ verdict }) => verdict).filter(Boolean)).toEqual(["retry", "retry", "give_up"]);
    expect((await system.attempts(data.userId)).map(({ attempt }) => attempt)).toEqual([3, 2, 1]);
  });

  test("follow the producer's attempts and backoff", async () => {
    const customer = await receiver();
    customer.answer({ status: 500 });
    const system = await stack({ policy: { attempts: 9, delaysMs: [HOUR_MS], jitter: 0 } });
    const quick = await system.queue.add("file.created", jobData(customer.url()), { attempts: 2, backoff: 1 });
    expect((await system.settled(quick)).job.attemptsMade).toBe(2);

    const backoff = { type: "exponential", delay: 20 * 60_000 };
    const slow = await system.queue.add("file.created", jobData(customer.url()), { attempts: 3, backoff });
    const line = await system.line("delivery.attempted", 3);
    expect(line).toMatchObject({ job: slow.id, verdict: "retry", retry_in_ms: 20 * 60_000 });

    const once = await system.queue.add("file.created", jobData(customer.url()), { attempts: 1 });
    expect((await system.settled(once)).job.attemptsMade).toBe(1);
  });

  test.each([
    '{"attempts":-1,"backoff":{"type":"fixed","delay":-5}}',
    '{"attempts":"many","backoff":"often"}',
    '{"attempts":1.5,"backoff":{"type":"mine","delay":5}}',
    '{"attempts":null,"backoff":{"type":"exponential"}}',
    '{"attempts":true,"backoff":[]}',
  ])("follow the worker's policy where the producer's makes no sense: %s", async (opts) => {
    const customer = await receiver();
    customer.answer({ status: 500 });
    const system = await stack();
    const job = await addRaw(system, "file.created", JSON.stringify(jobData(customer.url())), opts);
    expect((await system.settled(job)).job.attemptsMade).toBe(3);
    expect(customer.requests.length).toBe(3);
  });

  test("wait as the schedule says", async () => {
    const customer = await receiver();
    customer.answer({ status: 500 });
    const system = await stack({
      policy: { attempts: 3, delaysMs: [HOUR_MS, 2 * HOUR_MS], jitter: 0.2 },
      random: () => 1,
    });
    const job = await system.queue.add("file.created", jobData(customer.url()));
    await system.line("delivery.attempted");
    await eventually(
      () => job.getState(),
      (state) => state === "delayed",
    );
    const first = await delaysUntil(system.queue, job.id as string, system.valkey);
    expect(first).toBeGreaterThan(1.2 * HOUR_MS - 5_000);
    expect(first).toBeLessThanOrEqual(1.2 * HOUR_MS);
    await job.promote();
    await system.line("delivery.attempted", 2);
    await eventually(
      () => job.getState(),
      (state) => state === "delayed",
    );
    const second = await delaysUntil(system.queue, job.id as string, system.valkey);
    expect(second).toBeGreaterThan(2.4 * HOUR_MS - 5_000);
    expect(second).toBeLessThanOrEqual(2.4 * HOUR_MS);
  });

  test("end at once on 410", async () => {
    const customer = await receiver();
    customer.answer({ status: 410 });
    const system = await stack();
    const data = jobData(customer.url());
    const { state, job } = await system.settled(await system.queue.add("file.created", data));
    expect(state).toBe("failed");
    expect(job.attemptsMade).toBe(1);
    expect(job.failedReason).toMatch(/^HTTP 410 in \d+ ms$/);
    expect(await system.attempts(data.userId)).toMatchObject([{ error: "http_410", success: false }]);
    expect(customer.requests.length).toBe(1);
  });

  test("never follow a redirect", async () => {
    const target = await receiver();
    for (const status of [301, 302, 303, 307, 308]) {
      const customer = await receiver();
      customer.answer({ status, headers: { location: target.url("/elsewhere") } });
      const system = await stack({ policy: { attempts: 1, delaysMs: [1], jitter: 0 } });
      const data = jobData(customer.url());
      expect((await system.settled(await system.queue.add("file.created", data))).state).toBe("failed");
      expect(await system.attempts(data.userId)).toMatchObject([{ status_code: status, error: `http_${status}` }]);
    }
    expect(target.connections).toBe(0);
  });

  test.each([
    ["seconds", 503, () => "7200", 7_200_000],
    ["an HTTP date", 429, () => new Date(Date.now() + 7_200_000).toUTCString(), 7_200_000],
    ["seconds beyond a day", 503, () => "999999", 24 * HOUR_MS],
  ])("wait for Retry-After in %s", async (_, status, retryAfter, expectedMs) => {
    const customer = await receiver();
    customer.answer(() => ({ status, headers: { "Retry-After": retryAfter() } }));
    const system = await stack();
    const job = await system.queue.add("file.created", jobData(customer.url()));
    await system.line("delivery.attempted");
    await eventually(
      () => job.getState(),
      (state) => state === "delayed",
    );
    const delayMs = await delaysUntil(system.queue, job.id as string, system.valkey);
    expect(delayMs).toBeGreaterThan(expectedMs - 5_000);
    expect(delayMs).toBeLessThanOrEqual(expectedMs);
    expect(customer.requests.length).toBe(1);
  });

  test.each([
    ["on a status of its own", 404, "7200"],
    ["that is nonsense", 503, "soon"],
    ["that is past", 503, "Thu, 01 Jan 1970 00:00:00 GMT"],
    ["below the schedule", 503, "0"],
  ])("ignore a Retry-After %s", async (_, status, retryAfter) => {
    const customer = await receiver();
    customer.answer((__, index) => (index === 0 ? { status, headers: { "Retry-After": retryAfter } } : {}));
    const system = await stack();
    const { state } = await system.settled(await system.queue.add("file.created", jobData(customer.url())));
    expect(state).toBe("completed");
  });

  test("by hand give an exhausted job exactly one more attempt", async () => {
    const customer = await receiver();
    customer.answer({ status: 500 });
    const system = await stack();
    const data = jobData(customer.url());
    const job = await system.queue.add("file.created", data);
    await system.settled(job);
    expect(customer.requests.length).toBe(3);
    for (const attempt of [4, 5]) {
      const again = system.settled(job);
      const found = await system.queue.getJob(job.id as string); // as Bull Board has it: the job as stored, not as added
      await found?.retry("failed");
      const { state, job: ended } = await again;
      expect(state).toBe("failed");
      expect(ended.attemptsMade).toBe(attempt);
      expect(customer.requests.length).toBe(attempt);
    }
    expect((await system.attempts(data.userId)).map(({ attempt }) => attempt)).toEqual([5, 4, 3, 2, 1]);
  });
});
