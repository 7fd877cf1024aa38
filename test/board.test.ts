import { afterAll, describe, expect, test } from "bun:test";
import { appRoutes } from "@bull-board/api/dist/routes.js";
import { Queue } from "bullmq";
import { Registry } from "prom-client";
import { type BoardConfig, createBoardApp } from "../src/board/app.ts";
import { startValkey } from "../src/dev/valkey.ts";
import { type Attempt, createAttemptLog } from "../src/log/attempts.ts";
import { watchQueue } from "../src/monitoring/queue-metrics.ts";
import { AttemptFailed, DeliveryWorker, openQueue } from "../src/queue/worker.ts";
import { createLogger } from "../src/runtime/logger.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { BOARD_DEFAULTS } from "./support/board.ts";
import { onlyShard } from "./support/only-shard.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const QUEUE = `board-${crypto.randomUUID()}`;
const SECRET = "hunter2-of-the-customer";
const POLICY = { attempts: 2, delaysMs: [1], jitter: 0 };
const SAME_ORIGIN = { origin: "http://localhost" };

const { logger } = createLogger("silent");
const url = await testValkeyUrl();
const valkey = connectValkey(url, "test:board", logger);
const queue = openQueue(QUEUE, valkey);
const producer = new Queue(QUEUE, { connection: valkey });
const app = buildApp();

const data = () => ({
  userId: "usr_1",
  endpoint: { url: "https://receiver.example/", secret: SECRET },
  data: { file: "a.txt" },
});
const api = (path: string) => `/board/api/queues/${QUEUE}${path}`;
const send = (method: string, path: string, body?: unknown) =>
  app.request(path, {
    method,
    headers: { ...SAME_ORIGIN, "content-type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
const basic = (user: string, password: string) => ({ authorization: `Basic ${btoa(`${user}:${password}`)}` });

function buildApp(config: Partial<BoardConfig> = {}, from = { valkey, queue }) {
  const registry = new Registry();
  watchQueue(registry, [{ index: 0, ...from }]);
  return createBoardApp({
    config: {
      ...BOARD_DEFAULTS,
      boardEnvironment: "staging",
      ...config,
    },
    shards: onlyShard(from.queue.name, from.valkey),
    registry,
    logger,
  });
}

/** Run one worker until the job ends; `process` throws AttemptFailed, or returns. */
async function work(process: () => Promise<string>, jobId: string): Promise<number> {
  let attempts = 0;
  const worker = new DeliveryWorker(
    () => {
      attempts++;
      return process();
    },
    { queue: QUEUE, valkey, concurrency: 1, timeoutMs: 1_000, policy: POLICY },
  );
  const ended = Promise.withResolvers<void>();
  worker.on("completed", (job) => job.id === jobId && ended.resolve());
  worker.on("failed", (job) => job?.id === jobId && job.finishedOn && ended.resolve());
  worker.run();
  await ended.promise;
  await worker.close();
  return attempts;
}

/** A job that has used up its two attempts. */
async function failed(reason = "http_503"): Promise<string> {
  const job = await producer.add("file.created", data());
  await work(() => Promise.reject(new AttemptFailed(reason, 1)), job.id as string);
  return job.id as string;
}

afterAll(async () => {
  await producer.obliterate({ force: true });
  await Promise.all([producer.close(), queue.close()]);
  valkey.disconnect();
});

describe("Bull Board's answers", () => {
  test("hold no secret, whichever of its routes is asked", async () => {
    const id = await failed(`refused by ${SECRET}`);
    const job = await producer.getJob(id);
    await job?.log(`tried ${SECRET}`);
    await job?.updateProgress({ note: SECRET });
    const waiting = await producer.add("file.created", { secret: [SECRET], endpoint: { secret: { deep: SECRET } } });
    const text = await producer.add("file.created", JSON.stringify(data()));
    await producer.upsertJobScheduler("weekly", { every: 7 * 24 * 60 * 60 * 1000 }, { name: "x", data: data() });

    const read: string[] = [];
    for (const { method, route } of appRoutes.api) {
      if (method !== "get") continue;
      for (const jobId of [id, waiting.id, text.id]) {
        const path = String(route).replace(":queueName", QUEUE).replace(":jobId", String(jobId));
        for (const query of ["", `?activeQueue=${QUEUE}&status=latest&page=1&jobsPerPage=50`, `?queueName=${QUEUE}`]) {
          const response = await app.request(`/board${path}${query}`);
          expect(response.status, path).toBe(200);
          read.push(await response.text());
        }
      }
    }
    expect(read.filter((answer) => answer.includes(SECRET))).toEqual([]);
    expect(read.filter((answer) => answer.includes("refused by ***")).length).toBeGreaterThan(0);
    expect(read).toContain('["tried ***"]');
    await producer.removeJobScheduler("weekly");
    await Promise.all([waiting.remove(), text.remove()]);
  });

  test("do not quote job data that is no JSON", async () => {
    const job = await producer.add("file.created", data());
    await valkey.hset(producer.toKey(job.id as string), "data", `{"secret": ${SECRET.replaceAll("-", "_")}}`);
    const response = await app.request(api(`/${job.id}`));
    expect(response.status).toBe(500);
    expect(await response.text()).toBe('{"error":{"key":"ERRORS.INTERNAL_SERVER_ERROR"}}');
    await valkey.hset(producer.toKey(job.id as string), "data", "{}");
    await job.remove();
  });

  test("bear deeply nested data", async () => {
    const job = await producer.add("file.created", data());
    const deep = `${'{"a":'.repeat(50_000)}{"secret":"${SECRET}"}${"}".repeat(50_000)}`;
    await valkey.hset(producer.toKey(job.id as string), "data", deep);
    const response = await app.request(api(`/${job.id}`));
    expect(response.status).toBe(200);
    expect(await response.text()).not.toContain(SECRET);
    await job.remove();
  });

  test("show the queue, its workers and the server", async () => {
    const worker = new DeliveryWorker(async () => "", {
      queue: QUEUE,
      valkey,
      concurrency: 1,
      timeoutMs: 1_000,
      policy: POLICY,
    });
    await worker.waitUntilReady();
    const workers = (await (await app.request(api("/workers"))).json()) as { workers: unknown[] };
    const queues = (await (await app.request("/board/api/queues")).json()) as { queues: object[] };
    const stats = (await (await app.request("/board/api/redis/stats")).json()) as { version: string };
    await worker.close();
    expect(workers.workers).toHaveLength(1);
    expect(queues.queues).toEqual([expect.objectContaining({ name: QUEUE, hasWorkers: true })]);
    expect(stats.version).toMatch(/^(Valkey|Redis) \d+\.\d+\.\d+$/);
  });
});

describe("an operator", () => {
  test("cannot add a job", async () => {
    const before = await producer.getJobCounts();
    const response = await send("POST", api("/add"), { name: "file.created", data: data(), options: {} });
    expect(response.status).toBe(403);
    expect(await response.json()).toMatchObject({
      message: expect.stringContaining("Adding and editing jobs is disabled"),
    });
    expect(await producer.getJobCounts()).toEqual(before);
  });

  test("cannot change a job, a scheduler or the queue by any route but the allowed ones", async () => {
    const job = await producer.add("file.created", data(), { delay: 60_000 });
    await producer.upsertJobScheduler("weekly", { every: 7 * 24 * 60 * 60 * 1000 }, { name: "x", data: data() });
    const state = async () =>
      JSON.stringify([
        await valkey.hgetall(producer.toKey(job.id as string)),
        await producer.getJobCounts(),
        await producer.getJobSchedulers(),
        await valkey.hgetall(producer.toKey("meta")),
      ]);
    const before = await state();
    const allowed: string[] = [];
    for (const { method, route } of appRoutes.api) {
      if (method === "get") continue;
      const action = `${method} ${route}`.replace("/api/queues", "");
      if (
        !/ .*\/(add|concurrency|rate-limit|release|empty|obliterate|remove|run|update-data|delay|priority|remove-unprocessed-children|job-schedulers\/:schedulerId)$/.test(
          action,
        )
      ) {
        allowed.push(action);
        continue;
      }
      const path = String(route)
        .replace(":queueName", QUEUE)
        .replace(":jobId", job.id as string)
        .replace(":schedulerId", "weekly");
      const response = await send(String(method).toUpperCase(), `/board${path}`, {
        name: "file.created",
        jobData: { overwritten: true },
        delay: 1,
        priority: 1,
        concurrency: 1,
        max: 1,
        duration: 1,
        every: 1000,
        force: true,
      });
      expect(response.status, action).toBe(403);
    }
    expect(await state()).toBe(before);
    expect(allowed.sort()).toEqual([
      "put /:queueName/:jobId/clean",
      "put /:queueName/:jobId/promote",
      "put /:queueName/:jobId/retry",
      "put /:queueName/clean/:queueStatus",
      "put /:queueName/pause",
      "put /:queueName/promote",
      "put /:queueName/resume",
      "put /:queueName/retry/:queueStatus",
      "put /pause",
      "put /resume",
    ]);
    await producer.removeJobScheduler("weekly");
    await job.remove();
  });

  test("gives an exhausted job one more attempt, and a second one by a second retry", async () => {
    const id = await failed();
    for (const attemptsMade of [3, 4]) {
      expect((await send("PUT", api(`/${id}/retry`))).status).toBe(204);
      expect(await work(() => Promise.reject(new AttemptFailed("http_503", 1)), id)).toBe(1);
      const job = await producer.getJob(id);
      expect([await job?.getState(), job?.attemptsMade]).toEqual(["failed", attemptsMade]);
    }
  });

  test("retries all that failed", async () => {
    const id = await failed();
    const response = await send("PUT", api("/retry/failed"));
    expect(response.status).toBe(200);
    expect(await producer.getJobState(id)).toBe("waiting");
    await producer.drain();
  });

  test("promotes a delayed job, and is told when it is not delayed", async () => {
    const job = await producer.add("file.created", data(), { delay: 60_000 });
    expect((await send("PUT", api(`/${job.id}/promote`))).status).toBe(204);
    expect(await job.getState()).toBe("waiting");
    const again = await send("PUT", api(`/${job.id}/promote`));
    expect(again.status).toBe(409);
    expect(await again.json()).toMatchObject({ message: expect.stringContaining("not in the delayed state") });
    await job.remove();
  });

  test("pauses and resumes the queue", async () => {
    expect((await send("PUT", api("/pause"))).status).toBe(200);
    expect(await producer.isPaused()).toBe(true);
    expect((await send("PUT", api("/resume"))).status).toBe(200);
    expect(await producer.isPaused()).toBe(false);
  });

  test("removes a single job", async () => {
    const job = await producer.add("file.created", data());
    expect((await send("PUT", api(`/${job.id}/clean`))).status).toBe(204);
    expect(await producer.getJob(job.id as string)).toBeUndefined();
  });

  test.each(["wait", "delayed", "active", "prioritized"])("cannot clean jobs that are %s", async (status) => {
    const jobs = [await producer.add("file.created", data()), await producer.add("x", data(), { delay: 60_000 })];
    expect((await send("PUT", api(`/clean/${status}`))).status).toBe(403);
    for (const job of jobs) {
      expect(await producer.getJob(job.id as string)).toBeDefined();
      await job.remove();
    }
  });
});

describe("a job's card", () => {
  test("is titled with event, user and host, and leads to the user's page", async () => {
    const job = await producer.add("file.created", data());
    const bare = await producer.add("file.created", { userId: 7, endpoint: { url: "no url" } });
    const read = async (path: string) => (await app.request(path)).json();
    const query = `?activeQueue=${QUEUE}&status=waiting&page=1&jobsPerPage=50`;
    const { queues } = (await read(`/board/api/queues${query}`)) as { queues: { jobs: { id: string }[] }[] };
    const card = {
      name: "file.created · usr_1 · receiver.example",
      externalUrl: { displayText: "Attempts", href: "/users/usr_1" },
    };
    expect(queues[0]?.jobs.find(({ id }) => id === job.id)).toMatchObject(card);
    expect(queues[0]?.jobs.find(({ id }) => id === bare.id)).toMatchObject({ name: "file.created" });
    expect(queues[0]?.jobs.find(({ id }) => id === bare.id)).not.toHaveProperty("externalUrl");
    expect(await read(api(`/${job.id}`))).toMatchObject({ job: card });
    await Promise.all([job.remove(), bare.remove()]);
  });
});

describe("the page", () => {
  test("says that it needs JavaScript, to browsers that run none", async () => {
    expect(await (await app.request("/board")).text()).toMatch(/<noscript>[\s\S]*needs JavaScript[\s\S]*<\/noscript>/);
  });

  test("opens at /board, where /board/ leads", async () => {
    const slashed = await app.request("/board/");
    expect([slashed.status, slashed.headers.get("location")]).toEqual([302, "/board"]);
    const response = await app.request("/board");
    const html = await response.text();
    expect(response.status).toBe(200);
    expect(html).toContain("<title>Fluxhook</title>");
    expect(html).toContain('"label":"staging"');
  });

  test("has its scripts and styles, and needs no foreign host", async () => {
    const html = await (await app.request("/board")).text();
    expect(html).not.toMatch(/(src|href)="(https?:)?\/\//);
    const files = [...html.matchAll(/(?:src|href)="(static\/[^"]+)"/g)].map((match) => match[1]);
    expect(files.length).toBeGreaterThan(3);
    for (const file of files) expect((await app.request(`/board/${file}`)).status, file).toBe(200);
  });

  test("is kept to itself by its headers, refusals included", async () => {
    const locked = buildApp({ boardPassword: "right" });
    for (const response of [
      await app.request("/board"),
      await locked.request("/board"),
      await app.request("/nowhere"),
    ]) {
      expect(response.headers.get("content-security-policy")).toContain("default-src 'self'");
      expect(response.headers.get("content-security-policy")).toContain("frame-ancestors 'none'");
      expect(response.headers.get("content-security-policy")).not.toContain("http");
      expect(response.headers.get("x-content-type-options")).toBe("nosniff");
      expect(response.headers.get("x-frame-options")).toBe("DENY");
    }
  });
});

describe("the login", () => {
  const locked = buildApp({ boardPassword: "pässword:1" });
  const bytes = (text: string) => String.fromCharCode(...new TextEncoder().encode(text));

  test.each(["/", "/board", "/board/api/queues", "/board/static/favicon.ico", "/users/u/attempts", "/metrics", "/x"])(
    "guards %s",
    async (path) => {
      const response = await locked.request(path);
      expect(response.status).toBe(401);
      expect(response.headers.get("www-authenticate")).toStartWith("Basic ");
    },
  );

  test.each([
    ["a wrong user", "root", "pässword:1"],
    ["a wrong password", "admin", "pässword:2"],
    ["no password", "admin", ""],
    ["nothing", "", ""],
  ])("refuses %s", async (_name, user, password) => {
    const response = await locked.request("/board", { headers: basic(user, bytes(password)) });
    expect(response.status).toBe(401);
  });

  test("opens for the right user and password", async () => {
    const headers = basic("admin", bytes("pässword:1"));
    for (const path of ["/board", "/board/api/queues", "/metrics", "/users/u/attempts"]) {
      expect((await locked.request(path, { headers })).status, path).toBe(200);
    }
  });

  test("lets probes pass", async () => {
    for (const path of ["/healthz", "/readyz"]) expect((await locked.request(path)).status, path).toBe(200);
  });
});

describe("a request from another site", () => {
  const form = { "content-type": "text/plain", origin: "https://evil.example" };

  test("is refused, and does nothing", async () => {
    const before = await producer.getJobCounts();
    const body = JSON.stringify({ name: "file.created", data: data() });
    const response = await app.request(api("/add"), { method: "POST", headers: form, body });
    expect(response.status).toBe(403);
    expect(await response.json()).toEqual({
      error: "refused: not from this site (a script has to send content-type: application/json)",
    });
    expect(await producer.getJobCounts()).toEqual(before);
  });

  test("can do nothing at all, by whatever route, whatever it says it sends", async () => {
    const job = await producer.add("file.created", data(), { delay: 60_000 });
    const state = async () => JSON.stringify([await producer.getJobCounts(), await producer.isPaused()]);
    const before = await state();
    const actions = appRoutes.api
      .filter(({ method }) => method !== "get")
      .map(({ method, route }) => ({ method: String(method).toUpperCase(), path: `/board${String(route)}` }));
    const own = ["redeliver", "test"].map((name) => ({ method: "POST", path: `/actions/${name}` }));
    const places = ["cross-site", "same-site", "none"].map((site) => ({ "sec-fetch-site": site }));
    const origins = ["https://evil.example", "null", "http://localhost.evil.example"].map((origin) => ({ origin }));
    for (const from of [...places, ...origins]) {
      for (const type of ["", "text/plain", "application/x-www-form-urlencoded", "application/json"]) {
        for (const { method, path } of [...actions, ...own]) {
          const route = path.replace(":queueName", QUEUE).replace(":jobId", job.id as string);
          const body = path.startsWith("/actions") ? `user=usr_1&job=${job.id}` : "{}";
          const headers = { ...from, ...(type === "" ? {} : { "content-type": type }) };
          const { status } = await app.request(route, { method, headers, body });
          expect(status, JSON.stringify([method, route, headers])).toBe(403);
        }
      }
    }
    expect(await state()).toBe(before);
    await job.remove();
  });

  test("cannot pause the queue", async () => {
    expect((await app.request(api("/pause"), { method: "PUT", headers: form })).status).toBe(403);
    expect(await producer.isPaused()).toBe(false);
  });
});

describe("GET /users/:userId/attempts", () => {
  const attempt = (number: number): Attempt => ({
    id: crypto.randomUUID(),
    delivery: crypto.randomUUID(),
    attempt: number,
    timestamp: new Date(Date.now() - 60_000 + number * 1000).toISOString(),
    endpoint: "https://receiver.example/",
    event: "file.created",
    status_code: 200,
    duration_ms: 12,
    success: true,
    error: null,
    job: "1",
  });

  test("answers the last ten, newest first", async () => {
    const log = createAttemptLog(valkey);
    const userId = `usr/${crypto.randomUUID()}?%`;
    const attempts = Array.from({ length: 12 }, (_, index) => attempt(index + 1));
    for (const one of attempts) await log.record(userId, one);
    const response = await app.request(`/users/${encodeURIComponent(userId)}/attempts`);
    expect(response.status).toBe(200);
    expect(await response.json()).toEqual({ attempts: attempts.reverse().slice(0, 10) });
  });

  test("answers nothing for a user without attempts", async () => {
    const response = await app.request(`/users/${crypto.randomUUID()}/attempts`);
    expect([response.status, await response.json()]).toEqual([200, { attempts: [] }]);
  });

  test.each(["a%20b", "%C3%A9", "x".repeat(129)])("refuses the user id %s", async (userId) => {
    const response = await app.request(`/users/${userId}/attempts`);
    expect(response.status).toBe(400);
    expect(await response.json()).toEqual({ error: "userId: expected 1 to 128 visible ASCII characters" });
  });

  test("answers 500 without a trace when the log is something else", async () => {
    const userId = crypto.randomUUID();
    await valkey.set(`webhooks:log:${userId}`, "not a log", "EX", 60);
    const response = await app.request(`/users/${userId}/attempts`);
    expect([response.status, await response.json()]).toEqual([500, { error: "internal error" }]);
  });
});

test("what is not there is a 404 in JSON", async () => {
  for (const path of ["/nowhere", "/users/u/nowhere", "/board/nowhere", "/actions/redeliver"]) {
    const response = await app.request(path);
    expect([response.status, await response.json()]).toEqual([404, { error: "not found" }]);
  }
});

test("/metrics has the queue's gauges", async () => {
  const text = await (await app.request("/metrics")).text();
  expect(text).toContain('fluxhook_jobs{state="waiting"}');
});

describe("without Valkey", () => {
  test("answers 503 within 2 s, and a click does nothing later", async () => {
    const server = await startValkey();
    const away = connectValkey(server.url, "test:away", logger);
    const itsQueue = openQueue("away", away);
    const job = await itsQueue.add("file.created", data(), { delay: 60_000 });
    const board = buildApp({}, { valkey: away, queue: itsQueue });
    server.pause();
    const startedAt = performance.now();
    const responses = await Promise.all([
      board.request("/users/u/attempts"),
      board.request("/board/api/queues"),
      board.request(`/board/api/queues/away/${job.id}/promote`, { method: "PUT", headers: SAME_ORIGIN }),
      board.request("/readyz"),
      board.request("/board/queue/away", { headers: { accept: "text/html" } }),
    ]);
    expect(performance.now() - startedAt).toBeLessThan(6_000);
    expect(responses.map(({ status }) => status)).toEqual([503, 503, 503, 503, 503]);
    expect(await responses[4]?.text()).toContain("<h1>Valkey does not answer</h1>");
    expect(await responses[0]?.json()).toEqual({ error: "Valkey does not answer" });
    server.resume();
    await away.ping();
    expect(await job.getState()).toBe("delayed");
    await itsQueue.close();
    away.disconnect();
    await server.stop();
  });

  test("is not ready when events may be evicted", async () => {
    const server = await startValkey({ policy: "allkeys-lru" });
    const evicting = connectValkey(server.url, "test:evicting", logger);
    const board = buildApp({}, { valkey: evicting, queue });
    const response = await board.request("/readyz");
    expect(response.status).toBe(503);
    expect(await response.text()).toContain("allkeys-lru");
    evicting.disconnect();
    await server.stop();
  });
});
