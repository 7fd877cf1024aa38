/** The search by any id: what is kept of an event, in the queue and in the logs. */
import { afterAll, beforeEach, describe, expect, test } from "bun:test";
import { startValkey } from "../src/dev/valkey.ts";
import type { Attempt } from "../src/log/attempts.ts";
import { createFailedEvents } from "../src/operations/failed-events.ts";
import { createSearch, describeReach, type SearchOptions } from "../src/operations/search.ts";
import { openQueue } from "../src/queue/worker.ts";
import { createRegistry } from "../src/registry/registry.ts";
import { createLogger } from "../src/runtime/logger.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { onlyShard } from "./support/only-shard.ts";
import { eventOf, jobData } from "./support/stack.ts";

const server = await startValkey(); // of its own: all logs are searched
const valkey = connectValkey(server.url, "test:search", createLogger("silent").logger);
const queue = openQueue("search", valkey);
afterAll(async () => {
  await queue.close();
  valkey.disconnect();
  await server.stop();
});
beforeEach(() => valkey.flushall());

const URL_A = "https://a.example/in?key=token-of-the-customer";
const shards = onlyShard(queue.name, valkey);
const create = (now?: () => number) =>
  createSearch({ shards, failed: createFailedEvents(shards), ...(now && { now }) });
const search = (text: string, options?: SearchOptions) => create()(text, options);
const uuid = () => crypto.randomUUID();

/** An attempt in a user's log. */
async function log(userId: string, fields: Partial<Attempt> = {}): Promise<Attempt> {
  const attempt = {
    ...{ id: uuid(), delivery: uuid(), attempt: 1, timestamp: new Date().toISOString(), event: "file.created" },
    ...{ endpoint: "https://a.example/in", status_code: 503, duration_ms: 4, success: false, error: "http_503" },
    ...{ job: uuid(), ...fields },
  };
  await valkey.zadd(`webhooks:log:${userId}`, Date.now(), JSON.stringify(attempt));
  return attempt;
}

const add = (data = {}, options = {}) => queue.add("file.created", jobData(URL_A, data), options);
const move = async (id: string | undefined, to: string, at = Date.now()) => {
  await valkey.lrem(queue.toKey("wait"), 1, id as string);
  await valkey.zadd(queue.toKey(to), at, id as string);
};

describe("what takes no time is found without a search through everything:", () => {
  test("a user with a log", async () => {
    await log("usr_1");
    expect(await search(" usr_1 ")).toMatchObject({
      finds: [{ kind: "user", userId: "usr_1" }],
      jobs: undefined,
      logs: undefined,
    });
  });

  test("an event whose job has its id, in any spelling, with what was copied along", async () => {
    const id = uuid();
    const job = await add({ id }, { jobId: id });
    for (const text of [id, id.toUpperCase(), `webhook-id: ${id}`, `"${id}",`, `event ${id}`]) {
      const { finds, jobs } = await search(text);
      expect(finds, text).toEqual([
        {
          ...{ kind: "event", found: id, id, event: "file.created", userId: job.data.userId, job: id },
          ...{ state: "waiting", isLogged: false },
        },
      ]);
      expect(jobs).toBeUndefined();
    }
  });

  test("a job by its number, next to a user of the same name", async () => {
    const { id, data } = await add();
    await log(id as string);
    const { finds } = await search(id as string);
    expect(finds).toEqual([
      { kind: "user", userId: id as string },
      expect.objectContaining({ kind: "job", found: id, job: id, userId: data.userId }),
    ]);
  });

  test("a user whose id is a UUID, next to an event of the same id", async () => {
    const id = uuid();
    await log(id);
    await add({ id }, { jobId: id });
    expect((await search(id)).finds.map(({ kind }) => kind)).toEqual(["user", "event"]);
  });

  test("a job that names no user, and no other key of the queue", async () => {
    const { id } = await queue.add("broken", "text");
    expect((await search(`job ${id}`)).finds).toEqual([
      expect.objectContaining({ kind: "job", job: id, userId: undefined }),
    ]);
    for (const key of ["wait", "meta", "events", "id", `${id}:lock`, "failed"])
      expect((await search(key)).finds, key).toEqual([]);
  });
});

describe("a registered endpoint is found", () => {
  const registry = createRegistry(valkey, { allowPlain: true });
  const register = (userId: string, id = "main") =>
    registry.create(userId, { id, url: "https://a.example/in?key=hush" });

  test("by its id, of each user who has one, with its state", async () => {
    await register("usr_1");
    await register("usr_1", "Main");
    await register("usr:2");
    await register("usr_3", "main-2");
    await registry.pause("usr:2", "main");
    for (const text of ["main", " endpoint main ", '"main"']) {
      const { finds, hasMoreEndpoints, jobs } = await search(text);
      expect(finds, text).toMatchObject([
        { kind: "endpoint", userId: "usr_1", endpoint: { id: "main", state: { kind: "enabled" } } },
        { kind: "endpoint", userId: "usr:2", endpoint: { id: "main", state: { kind: "paused" } } },
      ]);
      expect([hasMoreEndpoints, jobs]).toEqual([false, undefined]);
    }
    for (const text of ["MAIN", "mai", "ain", "usr_1 main", "m*"]) expect((await search(text)).finds, text).toEqual([]);
  });

  test("by an id that was generated, unless it was deleted", async () => {
    const { endpoint } = await registry.create("usr_1", { url: "https://a.example/in" });
    expect((await search(endpoint.id)).finds).toMatchObject([{ kind: "endpoint", userId: "usr_1" }]);
    await registry.delete("usr_1", endpoint.id);
    expect((await search(endpoint.id)).finds).toEqual([]);
    await valkey.zadd("webhooks:endpoint-index", 1, `usr_1 ${endpoint.id}`); // as after a lost write
    expect((await search(endpoint.id)).finds).toEqual([]);
  });

  test("next to a user of the same name; a user with an endpoint is found without a log", async () => {
    await register("main");
    expect((await search("main")).finds).toMatchObject([
      { kind: "user", userId: "main" },
      { kind: "endpoint", userId: "main" },
    ]);
    await registry.create("usr_quiet", { id: "billing", url: "https://a.example/in" });
    expect((await search("usr_quiet")).finds).toEqual([{ kind: "user", userId: "usr_quiet" }]);
  });

  test("and deliveries to it still by their job, of an event to several endpoints", async () => {
    await register("usr_1");
    const event = uuid();
    const job = await queue.add("file.created", jobData(URL_A, { id: event }), { jobId: `${event}.main` });
    const { finds } = await search(`${event}.main`);
    expect(finds).toEqual([expect.objectContaining({ kind: "job", found: job.id, id: event })]);
  });

  test("in a large index, also where thousands of endpoints changed in one millisecond", async () => {
    const entries = Array.from({ length: 4_500 }, (_, n) => [Math.min(n, 1_200), `usr_${n} other`]);
    await valkey.zadd("webhooks:endpoint-index", ...entries.flat());
    await register("usr_z", "wanted");
    for (const score of [0, 600, 1_200, 5_000]) {
      await valkey.zadd("webhooks:endpoint-index", score, "usr_z wanted");
      expect((await search("wanted")).finds).toMatchObject([{ kind: "endpoint", userId: "usr_z" }]);
    }
  });

  test("at most 50 are listed, and no longer than a second is searched; it is said that there may be more", async () => {
    for (let n = 0; n < 51; n++) await register(`usr_${n}`);
    const many = await search("main");
    expect([many.finds.length, many.hasMoreEndpoints]).toEqual([50, true]);
    const entries = Array.from({ length: 4_500 }, (_, n) => [n, `usr_${n} other`]);
    await valkey.zadd("webhooks:endpoint-index", ...entries.flat());
    let time = 0;
    const slow = create(() => {
      time += 400; // each look at the clock
      return time;
    });
    expect(await slow("main")).toMatchObject({ finds: [], hasMoreEndpoints: true });
  });
});

describe("kept jobs are searched", () => {
  test("for an id that was derived from the job, wherever it is", async () => {
    const jobs = await Promise.all(
      ["failed", "completed", "delayed", "wait"].map(async (place) => {
        const job = await add();
        if (place !== "wait") await move(job.id, place);
        return job;
      }),
    );
    for (const job of jobs) {
      const { id } = eventOf(queue, job);
      const { finds } = await search(id);
      expect(finds).toEqual([
        expect.objectContaining({ kind: "event", found: id, job: job.id, userId: job.data.userId }),
      ]);
    }
  });

  test("for an id that the producer gave, in its spelling", async () => {
    const id = uuid().toUpperCase();
    const job = await add({ id, data: { parent: uuid() } });
    expect((await search(id.toLowerCase())).finds).toEqual([
      expect.objectContaining({ kind: "event", found: id, id, job: job.id }),
    ]);
  });

  test("for a user without a log, once, and not for a mention in an event's data", async () => {
    await add({ userId: "usr_other", data: { owner: "usr_new" } });
    expect((await search("usr_new")).finds).toEqual([]);
    await add({ userId: "usr_new" });
    await add({ userId: "usr_new" });
    expect((await search("usr_new")).finds).toEqual([{ kind: "user", userId: "usr_new" }]);
  });

  test("in bounded time, and it is said how far it came", async () => {
    await queue.addBulk(Array.from({ length: 1_200 }, () => ({ name: "file.created", data: jobData(URL_A) })));
    let time = 0;
    const slow = create(() => {
      time += 400; // each look at the clock
      return time;
    });
    const { finds, jobs, isBusy } = await slow(uuid());
    expect([finds, isBusy]).toEqual([[], false]);
    expect(jobs?.total).toBe(1_200);
    expect(jobs?.searched).toBeWithin(1, 1_200);
    expect(describeReach({ jobs, logs: undefined })).toMatch(/^\d+ of 1,200 kept jobs$/);
  });
});

describe("without a user all logs are searched", () => {
  test("for an event, a delivery and a job whose job is gone", async () => {
    await Promise.all(Array.from({ length: 50 }, (_, n) => log(`usr_${n}`)));
    const attempt = await log("usr_wanted", { job: "order-17" });
    await log("usr_wanted", { ...attempt, delivery: uuid(), attempt: 2 });
    const { id, delivery } = attempt;
    const event = {
      id,
      event: "file.created",
      userId: "usr_wanted",
      job: "order-17",
      state: "unknown",
      isLogged: true,
    };
    expect((await search(id)).finds).toEqual([{ kind: "event", found: id, ...event }]);
    expect((await search(delivery.toUpperCase())).finds).toEqual([{ kind: "delivery", found: delivery, ...event }]);
    expect((await search("order-17")).finds).toEqual([{ kind: "job", found: "order-17", ...event }]);
    expect((await search("rder-17")).finds).toEqual([]);
  });

  test("the same event of several users is listed for each", async () => {
    const { id } = await log("usr_1");
    await log("usr_2", { id });
    const { finds } = await search(id);
    expect(finds.map((find) => "userId" in find && find.userId).sort()).toEqual(["usr_1", "usr_2"]);
  });

  test("a text is compared as it is: no pattern, no JSON", async () => {
    const { id } = await log("usr_1");
    await valkey.set("webhooks:log:odd", "no log");
    await valkey.zadd("webhooks:log:broken", 1, `{"id":"${id.slice(0, 8)}`);
    for (const text of [
      "*",
      "usr_*",
      `${id.slice(0, 35)}?`,
      "[a-f0-9]*",
      '","id":"',
      `${id}"`,
      "\\",
      "%",
      "webhooks:log:*",
    ]) {
      const { finds, logs } = await search(text);
      expect([text, finds.length]).toEqual([text, text === `${id}"` ? 1 : 0]); // a quote at the end was copied along
      if (text !== `${id}"`)
        expect([text, logs]).toEqual([text, expect.objectContaining({ searched: 3, total: 3, next: undefined })]);
    }
  });

  test("when the time is over it is said what was not seen, and a further search goes on there", async () => {
    const pipeline = valkey.pipeline();
    for (let n = 0; n < 5_000; n++)
      pipeline.zadd(`webhooks:log:usr_${n}`, 1, JSON.stringify({ id: uuid(), delivery: "d" }));
    await pipeline.exec();
    const wanted = uuid();
    let [next, searched, rounds] = [undefined as string | undefined, 0, 0];
    do {
      const found = await search(wanted, { from: next, budgetMs: 0 });
      expect(found.finds).toEqual([]);
      if (found.next !== undefined) {
        expect(found.logs?.total).toBeWithin(3_000, 8_000); // about 5,000; the last page may be too small to tell
        expect(describeReach(found)).toMatch(/[\d,]+ of about [\d,]+ logs$/);
      }
      searched += found.logs?.searched ?? 0;
      next = found.next;
      rounds += 1;
    } while (next !== undefined && rounds < 100);
    expect(rounds).toBeWithin(5, 20);
    expect(searched).toBeGreaterThanOrEqual(5_000);
    expect((await search(wanted)).logs).toMatchObject({ searched: 5_000, total: 5_000 });
  });

  test("at most two searches run at once; a third is told so", async () => {
    const find = create();
    const answers = await Promise.all([find(uuid()), find(uuid()), find(uuid())]);
    expect(answers.map(({ isBusy }) => isBusy).sort()).toEqual([false, false, true]);
    expect((await find(uuid())).isBusy).toBe(false);
  });
});

describe("a host is found", () => {
  test("with its failed and pending events and its open circuit, as a name or a URL", async () => {
    const failed = await add();
    await move(failed.id, "failed");
    const delayed = await add({}, { delay: 60_000 });
    await add();
    await queue.add("file.created", jobData("https://b.example/"));
    await valkey.zadd("webhooks:circuits:search", Date.now() + 60_000, "a.example");
    for (const text of ["a.example", "A.EXAMPLE", "a.example:443", "https://a.example/in", "host a.example"]) {
      const { finds } = await search(text);
      expect(finds, text).toEqual([
        expect.objectContaining({ kind: "host", isOpen: true, failed: 1, pending: 2, isComplete: true }),
      ]);
    }
    const [host] = (await search("a.example")).finds;
    expect(host).toMatchObject({
      host: "a.example",
      events: [
        { job: delayed.id, place: "delayed", userId: delayed.data.userId, event: "file.created" },
        { place: "wait" },
      ],
    });
    expect(JSON.stringify(host)).not.toContain("token-of-the-customer");
  });

  test("also when nothing is kept for it, unless the text may be an id", async () => {
    expect((await search("calm.example")).finds).toMatchObject([
      { host: "calm.example", failed: 0, pending: 0, isOpen: false },
    ]);
    expect((await search("user:42")).finds).toEqual([]);
    await log("acme.corp");
    expect((await search("acme.corp")).finds).toEqual([{ kind: "user", userId: "acme.corp" }]);
    await queue.add("file.created", jobData("http://user:42/"));
    expect((await search("user:42")).finds).toMatchObject([{ kind: "host", host: "user:42", pending: 1 }]);
  });
});

test.each([
  "",
  "   ",
  '"',
  "\u0000",
  "\ud800",
  "é".repeat(500),
  "a".repeat(5_000),
  "%00",
  "__proto__",
  "..",
  "\n\r",
  "job ",
])("nonsense is not found, and harms nothing: %j", async (text) => {
  await log("usr_1");
  expect((await search(text)).finds).toEqual([]);
});
