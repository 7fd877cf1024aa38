/** What becomes of a job: its request, its attempts and what is kept of it. */
import { afterEach, describe, expect, test } from "bun:test";
import { Queue } from "bullmq";
import { createDeliver } from "../jobs/deliver.ts";
import { EVENT_TYPES } from "../src/delivery/contract.ts";
import type { Job } from "../src/queue/worker.ts";
import { delaysUntil, endAll, inTurn, open, receiver, stack, trail, UUID } from "./support/deliveries.ts";
import { listen } from "./support/listener.ts";
import { bounded, eventOf, eventually, jobData, LIMITS, OPEN_GATE, QUICK } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

afterEach(endAll);

describe("a job", () => {
  test.each([...EVENT_TYPES])("of type %s is delivered with name and data alone", async (type) => {
    const customer = await receiver();
    const system = await stack();
    const data = jobData(customer.url("/hook"), { data: { n: 1 } });
    const job = await system.queue.add(type, data);
    const request = await customer.next();
    expect((await system.settled(job)).state).toBe("completed");
    expect(request.method).toBe("POST");
    expect(request.path).toBe("/hook");
    expect(request.headers["x-fluxdrop-event"]).toBe(type);
    expect(request.json).toEqual({
      id: expect.stringMatching(UUID),
      event: type,
      timestamp: new Date(job.timestamp).toISOString(),
      data: { n: 1 },
    });
    expect(await system.attempts(data.userId)).toMatchObject([{ event: type, attempt: 1, status_code: 200 }]);
  });

  test("is sent with the documented headers in order, and a body of compact JSON", async () => {
    const customer = await receiver();
    const system = await stack();
    const id = "0192F0C1-7B6A-4D5E-8F00-ABCDEFABCDEF";
    const data = jobData(customer.url("/hook?token=abc"), {
      id,
      data: { z: "ü \u2028 😀 </script>", a: [1, 2.5, null, true], "2": { nested: {} } },
    });
    const timestamp = Date.UTC(2026, 0, 2, 3, 4, 5, 6);
    await system.queue.add("share.linked", data, { timestamp });
    const { rawHeaders, body, receivedAt, path } = await customer.next();
    expect(path).toBe("/hook?token=abc");
    const expected = `{"id":"${id}","event":"share.linked","timestamp":"2026-01-02T03:04:05.006Z","data":{"2":{"nested":{}},"z":"ü \u2028 😀 </script>","a":[1,2.5,null,true]}}`;
    expect(body.toString()).toBe(expected);
    const names = rawHeaders.filter((_, index) => index % 2 === 0);
    expect(names).toEqual([
      "Host",
      "User-Agent",
      "Content-Type",
      "Content-Length",
      "Accept-Encoding",
      "X-Fluxdrop-Event",
      "X-Fluxdrop-Delivery",
      "X-Fluxdrop-Timestamp",
      "X-Fluxdrop-Signature",
      "webhook-id",
      "webhook-timestamp",
      "webhook-signature",
      "Connection",
    ]);
    const value = (name: string) => rawHeaders[rawHeaders.indexOf(name) + 1] as string;
    expect(value("Host")).toBe(`127.0.0.1:${customer.port}`);
    expect(value("User-Agent")).toBe("Fluxhook/1.0");
    expect(value("Content-Type")).toBe("application/json");
    expect(value("Content-Length")).toBe(String(Buffer.byteLength(expected)));
    expect(value("X-Fluxdrop-Event")).toBe("share.linked");
    expect(value("X-Fluxdrop-Delivery")).toMatch(UUID);
    expect(value("X-Fluxdrop-Timestamp")).toMatch(/^\d{10}$/);
    expect(Math.abs(Number(value("X-Fluxdrop-Timestamp")) * 1000 - receivedAt)).toBeLessThan(5_000);
    expect(value("X-Fluxdrop-Signature")).toMatch(/^[0-9a-f]{64}$/);
    expect(value("webhook-id")).toBe(id);
    expect(value("webhook-timestamp")).toBe(value("X-Fluxdrop-Timestamp"));
    expect(value("webhook-signature")).toMatch(/^v1,[A-Za-z0-9+/]{43}=$/);
  });

  test("keeps every byte of its body over retries and a retry by hand, and changes its delivery id", async () => {
    const customer = await receiver();
    customer.answer(inTurn(500, 503, 404, 200));
    const system = await stack();
    const job = await system.queue.add("file.deleted", jobData(customer.url()));
    expect((await system.settled(job)).state).toBe("failed");
    const [first, second, third] = await customer.waitFor(3);
    const again = system.settled(job);
    await job.retry();
    expect((await again).state).toBe("completed");
    const requests = [first, second, third, (await customer.waitFor(4))[3]];
    const bodies = new Set(requests.map((request) => request?.body.toString("hex")));
    expect(bodies.size).toBe(1);
    expect(first?.body).toEqual(eventOf(system.queue, job).body);
    expect(new Set(requests.map((request) => request?.headers["x-fluxdrop-delivery"])).size).toBe(4);
    expect(new Set(requests.map((request) => request?.headers["x-fluxdrop-signature"])).size).toBe(1);
    expect(new Set(requests.map((request) => request?.headers["webhook-id"])).size).toBe(1);
  });

  test("without an id gets one of its own", async () => {
    const customer = await receiver();
    const system = await stack();
    const data = jobData(customer.url());
    await system.queue.addBulk([
      { name: "file.created", data },
      { name: "file.created", data },
      { name: "file.created", data, opts: { jobId: "my-own" } },
    ]);
    const requests = await customer.waitFor(3);
    expect(new Set(requests.map(({ headers }) => headers["webhook-id"])).size).toBe(3);
  });

  test("leaves no stack trace in Valkey, delivered or not", async () => {
    const customer = await receiver();
    customer.answer((request) => ({ status: request.path === "/good" ? 200 : 500 }));
    const system = await stack();
    const bad = await system.queue.add("file.created", jobData(customer.url("/bad")));
    const good = await system.queue.add("file.created", jobData(customer.url("/good")));
    const broken = await system.queue.add("file.created", {});
    for (const job of [bad, good, broken]) {
      await system.settled(job);
      const stored = await system.stored(job);
      expect(stored.stacktrace ?? "[]").toBe("[]");
      expect(JSON.stringify({ ...stored, data: "" })).not.toContain(".ts:");
    }
  });

  test("leaves small results and reasons, without query or secret", async () => {
    const customer = await receiver();
    customer.answer((request) => ({
      status: request.path.startsWith("/good") ? 204 : 500,
      body: "leak-body".repeat(99),
    }));
    const system = await stack();
    const endpoint = (path: string) => ({
      endpoint: { url: customer.url(`${path}?leak-query=1#leak-fragment`), secret: "leak-secret" },
    });
    const good = await system.queue.add("file.created", jobData("", endpoint("/good")));
    const bad = await system.queue.add("file.created", jobData("", endpoint("/bad")));
    await system.settled(good);
    await system.settled(bad);
    expect((await system.stored(good)).returnvalue).toMatch(/^"HTTP 204 in \d+ ms"$/);
    expect((await system.stored(bad)).failedReason).toMatch(/^HTTP 500 in \d+ ms, no attempts left$/);
    expect((await trail(system, good)) + (await trail(system, bad))).not.toContain("leak-");
  });

  test("is kept for a while: the last 1,000 delivered or a day, the last 10,000 failed or a week", async () => {
    const customer = await receiver();
    const system = await stack({ concurrency: 64 });
    expect(system.worker.opts.removeOnComplete).toEqual({ count: 1_000, age: 24 * 60 * 60 });
    expect(system.worker.opts.removeOnFail).toEqual({ count: 10_000, age: 7 * 24 * 60 * 60 });
    // One too many of each kind of producer: with its own wish, and without.
    const data = jobData(customer.url());
    const mine = await system.queue.add("file.created", data, { removeOnComplete: true });
    await system.settled(mine);
    expect(await system.stored(mine)).toEqual({});
    const jobs = await system.queue.addBulk(Array.from({ length: 1_005 }, () => ({ name: "file.created", data })));
    await Promise.all(jobs.map((job) => system.settled(job)));
    expect(await system.queue.getCompletedCount()).toBe(1_000);
  });
});

describe("an attempt", () => {
  const once = { attempts: 1, delaysMs: [1], jitter: 0 };

  test.each([
    ["sends nothing", "hang" as const],
    ["sends a status line that never ends", { raw: "HTTP/1.1 20", hang: true }],
  ])("times out when the receiver %s", async (_, answer) => {
    const customer = await receiver();
    customer.answer(answer);
    const system = await stack({ timeoutMs: 150, policy: once });
    const data = jobData(customer.url());
    const { state, job } = await system.settled(await system.queue.add("file.created", data));
    expect(state).toBe("failed");
    expect(job.failedReason).toMatch(/^timeout after \d+ ms, no attempts left$/);
    const [entry] = await system.attempts(data.userId);
    expect(entry).toMatchObject({ status_code: null, error: "timeout", success: false });
    expect(entry?.duration_ms).toBeGreaterThanOrEqual(149);
    expect(entry?.duration_ms).toBeLessThan(1_000);
    expect(await (await customer.next()).ended).toBe("aborted");
  });

  test.each([
    ["is cut off", { raw: "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf" }],
    ["never comes, since its head never ends", { raw: "HTTP/1.1 200 OK\r\nX-Slow: ", hang: true }],
    ["never ends", { raw: "HTTP/1.1 202 Accepted\r\nContent-Length: 1000\r\n\r\nhalf", hang: true }],
    ["has a broken chunk", { raw: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nnope" }],
    ["is far too long", { status: 201, body: "x".repeat(1024 * 1024) }],
  ])("is delivered when the body of a 2xx %s", async (_, answer) => {
    const customer = await receiver();
    customer.answer(answer);
    const system = await stack({ timeoutMs: 300, policy: once });
    const data = jobData(customer.url());
    expect((await system.settled(await system.queue.add("file.created", data))).state).toBe("completed");
    expect(await system.attempts(data.userId)).toMatchObject([{ success: true, error: null }]);
    expect(customer.requests.length).toBe(1);
  });

  test.each([
    ["is closed", "close" as const, "connection_reset"],
    ["is reset", "reset" as const, "connection_reset"],
    ["speaks something else", { raw: "SSH-2.0-OpenSSH_9.9\r\n" }, "invalid_response"],
  ])("fails with a code when the connection %s", async (_, answer, code) => {
    const customer = await receiver();
    customer.answer(answer);
    const system = await stack({ policy: once });
    const data = jobData(customer.url());
    expect((await system.settled(await system.queue.add("file.created", data))).state).toBe("failed");
    expect(await system.attempts(data.userId)).toMatchObject([{ status_code: null, error: code }]);
    expect(customer.requests.length).toBe(1);
  });

  test("fails with connection_refused when nobody listens", async () => {
    const system = await stack({ policy: once });
    const data = jobData("http://127.0.0.1:1/");
    expect((await system.settled(await system.queue.add("file.created", data))).state).toBe("failed");
    expect(await system.attempts(data.userId)).toMatchObject([{ status_code: null, error: "connection_refused" }]);
  });

  test.each([
    ["a literal", (port: number) => `http://127.0.0.1:${port}/`, "loopback"],
    ["a literal in disguise", (port: number) => `http://0x7f.1:${port}/`, "loopback"],
    ["a mapped literal", (port: number) => `http://[::ffff:127.0.0.1]:${port}/`, "loopback"],
  ])("to a blocked address (%s) is logged, makes no connection and is not retried", async (_, urlOf, range) => {
    const inside = await receiver();
    const system = await stack({ allowNetworks: [] });
    const data = jobData(urlOf(inside.port));
    const { state, job } = await system.settled(await system.queue.add("file.created", data));
    expect(state).toBe("failed");
    expect(job.attemptsMade).toBe(1);
    expect(job.failedReason).toBe(`blocked_address (${range})`);
    expect(await system.attempts(data.userId)).toMatchObject([
      { attempt: 1, status_code: null, success: false, error: "blocked_address" },
    ]);
    expect(await system.metrics.registry.metrics()).toContain(`fluxhook_blocked_total{range="${range}"} 1`);
    expect(inside.connections).toBe(0);
  });

  test("over TLS that cannot be trusted is logged with its cause, which everybody may see", async () => {
    const customer = await listen(() => {}, { tls: await Bun.file(`${import.meta.dir}/support/right.pem`).text() });
    open.push(customer);
    const system = await stack({ policy: once });
    const data = jobData(`https://127.0.0.1:${customer.port}/`);
    const { job } = await system.settled(await system.queue.add("file.created", data));
    expect(job.failedReason).toMatch(/^tls \(untrusted\) after \d+ ms, no attempts left$/);
    expect(await system.attempts(data.userId)).toMatchObject([{ success: false, error: "tls", cause: "untrusted" }]);
    expect(await system.line("delivery.attempted")).toMatchObject({ error: "tls", cause: "untrusted" });
    const metrics = await system.metrics.registry.metrics();
    expect(metrics).toContain('fluxhook_attempts_total{event="file.created",outcome="tls"} 1');
    expect(customer.exchanges).toEqual([]);
  });

  test("to a name that leads inside is as one to a name that does not resolve, but for the operator's line", async () => {
    const inside = await receiver();
    const resolve = async (name: string) => {
      if (name === "missing.example") throw Object.assign(new Error(), { code: "ENOTFOUND" });
      return [
        { address: "93.184.216.34", family: 4 as const },
        { address: "127.0.0.1", family: 4 as const },
      ];
    };
    const system = await stack({ allowNetworks: [], resolve, policy: { attempts: 2, delaysMs: [1], jitter: 0 } });
    const told: unknown[] = [];
    for (const name of ["internal.example", "missing.example"]) {
      const data = jobData(`http://${name}:${inside.port}/`);
      const { state, job } = await system.settled(await system.queue.add("file.created", data));
      const log = await system.attempts(data.userId);
      told.push({
        state,
        attempts: job.attemptsMade,
        reason: job.failedReason?.replace(/\d+ ms/, "1 ms"),
        log: log.map((attempt) => [...Object.keys(attempt), attempt.error]),
      });
      expect(JSON.stringify([log, await system.stored(job)])).not.toContain("loopback");
    }
    expect(told[0]).toEqual(told[1]);
    expect(told[0]).toMatchObject({ state: "failed", attempts: 2, reason: "dns after 1 ms, no attempts left" });
    const metrics = await system.metrics.registry.metrics();
    expect(metrics).toContain('fluxhook_attempts_total{event="file.created",outcome="dns"} 4');
    expect(metrics).not.toContain("loopback");
    const causes = system.lines.filter(({ message }) => message === "delivery.attempted").map(({ cause }) => cause);
    expect(causes).toEqual(["loopback", "loopback", undefined, undefined]);
    expect(inside.connections).toBe(0);
  });

  test("that fails through a fault of ours uses nothing up and stays out of the user's log", async () => {
    const customer = await receiver();
    let asked = 0;
    const resolve = async () => {
      asked += 1;
      if (asked <= 4) throw Object.assign(new Error("no resolver"), { code: "EAI_AGAIN" });
      return [{ address: "127.0.0.1", family: 4 as const }];
    };
    const system = await stack({ resolve });
    const data = jobData(`http://customer.example:${customer.port}/`);
    const job = await system.queue.add("file.created", data);
    for (const count of [1, 2, 3, 4]) {
      const line = await system.line("delivery.attempted", count);
      expect(line).toMatchObject({ attempt: 1, error: "resolver", verdict: "defer" });
      await eventually(
        () => job.getState(),
        (state) => state === "delayed",
      );
      expect(await delaysUntil(system.queue, job.id as string, system.valkey)).toBeGreaterThan(1_000);
      expect((await system.queue.getJob(job.id as string))?.attemptsMade).toBe(0);
      await job.promote();
    }
    const { state, job: ended } = await system.settled(job);
    expect(state).toBe("completed");
    expect(ended.attemptsMade).toBe(1);
    expect((await customer.next()).headers.host).toBe(`customer.example:${customer.port}`);
    expect(await system.attempts(data.userId)).toMatchObject([{ attempt: 1, success: true }]);
  });

  test("to a name that does not exist is the endpoint's failure", async () => {
    const resolve = () => Promise.reject(Object.assign(new Error("no such name"), { code: "ENOTFOUND" }));
    const system = await stack({ resolve });
    const data = jobData("http://nowhere.example/");
    const { job } = await system.settled(await system.queue.add("file.created", data));
    expect(job.attemptsMade).toBe(3);
    expect((await system.attempts(data.userId)).map(({ error }) => error)).toEqual(["dns", "dns", "dns"]);
  });
});

test("a sender that throws gives its endpoint's turn back", async () => {
  const calls: string[] = [];
  const deliver = createDeliver({
    ...LIMITS,
    maxAgeMs: 1000,
    arrivedAt: async (_, nowMs) => nowMs,
    gate: { ...OPEN_GATE, release: (permit, outcome) => void calls.push(`${permit.kind} ${outcome.kind}`) },
    backlog: { isFull: () => false, list: () => {}, join: () => true, leave: () => {} },
    sender: { send: () => Promise.reject(new Error("unforeseen")) },
    completed: async () => void calls.push("completed"),
    rejected: () => {},
    held: () => {},
    parked: () => {},
  });
  const job = {
    id: "1",
    name: "file.created",
    data: jobData("https://customer.example/hook?x"),
    timestamp: 0,
    queueName: "test",
    attemptsMade: 0,
    attemptsStarted: 1,
    opts: {},
  };
  await expect(deliver(job as unknown as Job, "token", QUICK)).rejects.toThrow("unforeseen");
  expect(calls).toEqual(["go fault"]);
});

describe("two workers", () => {
  test("share the jobs, and deliver each one once", async () => {
    const customer = await receiver();
    // Nobody is answered before both have had their hands full.
    const full = Promise.withResolvers<void>();
    customer.answer(async () => {
      await full.promise;
      return {};
    });
    const one = await stack({ concurrency: 5, gate: OPEN_GATE, isIdle: true });
    const two = await stack({ concurrency: 5, gate: OPEN_GATE, queue: one.queue.name, isIdle: true });
    const jobs = await one.queue.addBulk(
      Array.from({ length: 60 }, () => ({ name: "file.created", data: jobData(customer.url()) })),
    );
    one.worker.run();
    two.worker.run();
    await customer.waitFor(20);
    expect([one.sender.inFlight, two.sender.inFlight]).toEqual([10, 10]); // its slots, and as many on their way
    full.resolve();
    await Promise.all(jobs.map((job) => Promise.race([one.settled(job), two.settled(job)])));
    expect(customer.requests.length).toBe(60);
    expect(new Set(customer.requests.map(({ headers }) => headers["webhook-id"])).size).toBe(60);
    expect(await one.queue.getJobCounts("completed", "failed", "active", "waiting", "delayed")).toEqual({
      completed: 60,
      failed: 0,
      active: 0,
      waiting: 0,
      delayed: 0,
    });
  });
});

test("a plain BullMQ queue, opened by name and URL alone, is all a backend needs", async () => {
  const customer = await receiver();
  const system = await stack();
  const { hostname: host, port } = new URL(await testValkeyUrl());
  const backend = new Queue(system.queue.name, { connection: { host, port: Number(port) } });
  open.push({ stop: () => backend.close() });
  const job = await backend.add("org.userAdded", jobData(customer.url()));
  const request = await bounded(customer.next(), () => "a delivery");
  expect(request.headers["x-fluxdrop-event"]).toBe("org.userAdded");
  expect((await system.settled(job)).state).toBe("completed");
  expect(await backend.getJobState(job.id as string)).toBe("completed");
});
