/** Enqueueing under an id that was used before, or of which something is left. */
import { afterAll, describe, expect, test } from "bun:test";
import { startReceiver } from "../src/dev/receiver.ts";
import { startValkey } from "../src/dev/valkey.ts";
import { createFluxhook, type NewEvent } from "../src/index.ts";
import { jobData, startStack } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const stack = await startStack();
const idle = await startStack({ isIdle: true });
const receiver = await startReceiver();
const valkeyUrl = await testValkeyUrl();
const fluxhook = createFluxhook({ valkeyUrl, queue: stack.queue.name });
const toIdle = createFluxhook({ valkeyUrl, queue: idle.queue.name });
afterAll(async () => {
  await Promise.all([fluxhook.close(), toIdle.close(), receiver.stop(), stack.stop(), idle.stop()]);
});

const eventOf = (path: string) => {
  const id = crypto.randomUUID();
  const event: NewEvent = { event: "file.created", id, ...jobData(receiver.url(path)) };
  return { id, event };
};

const arrivals = (id: string) => receiver.requests.filter(({ headers }) => headers["webhook-id"] === id).length;

describe("an id", () => {
  test("enqueued by many callers at once is new to one of them, and delivered once", async () => {
    const { id, event } = eventOf("/many");
    const results = await Promise.all(Array.from({ length: 20 }, () => fluxhook.enqueue(event)));
    expect(results.map(({ status }) => status).sort()).toEqual([...Array(19).fill("known"), "new"]);
    await stack.settled({ id });
    expect(arrivals(id)).toBe(1);
  });

  test("that stands twice in one batch is new, then known", async () => {
    const { id, event } = eventOf("/batch");
    const results = await fluxhook.enqueueMany([event, event]);
    expect(results).toEqual([
      { id, status: "new" },
      { id, status: "known" },
    ]);
    await stack.settled({ id });
  });

  test("is known while its job waits, is delayed or prioritized, and once it was delivered", async () => {
    const { event } = eventOf("/waits");
    const { event: delayed } = eventOf("/delayed");
    await toIdle.enqueue(event);
    await toIdle.enqueue(delayed, { delayMs: 60_000 });
    for (const known of [event, delayed]) expect((await toIdle.enqueue(known)).status).toBe("known");
    const { id, event: delivered } = eventOf("/delivered");
    await fluxhook.enqueue(delivered);
    await stack.settled({ id });
    expect((await fluxhook.enqueue(delivered)).status).toBe("known");
  });

  test("of a failed event is used again: its job is replaced by the corrected one, which is delivered", async () => {
    const { id, event } = eventOf("/gone");
    receiver.answer(({ path }) => (path === "/gone" ? { status: 410 } : {}));
    await fluxhook.enqueue(event);
    expect((await stack.settled({ id })).state).toBe("failed");
    const corrected = { ...event, endpoint: { url: receiver.url("/right"), secret: "s3cret-of-the-test" } };
    expect(await fluxhook.enqueue(corrected)).toEqual({ id, status: "failed" });
    expect((await stack.settled({ id })).state).toBe("completed");
    expect(arrivals(id)).toBe(2);
    expect(await stack.valkey.zscore(stack.queue.toKey("failed"), id)).toBeNull();
  });
});

describe("a job whose data is gone", () => {
  test("fails, and says so", async () => {
    const id = crypto.randomUUID();
    await stack.valkey.lpush(stack.queue.toKey("wait"), id);
    await stack.valkey.zadd(stack.queue.toKey("marker"), 0, "0");
    const { state, job } = await stack.settled({ id });
    expect(state).toBe("failed");
    expect(job.failedReason).toBe("the job's data is gone: it has no name, no data and no timestamp");
    expect(await stack.line("job.rejected")).toMatchObject({ job: id });
  });

  test("does not block its id after it failed", async () => {
    const { id, event } = eventOf("/after");
    await stack.valkey.lpush(stack.queue.toKey("wait"), id);
    await stack.valkey.zadd(stack.queue.toKey("marker"), 0, "0");
    await stack.settled({ id });
    expect((await fluxhook.enqueue(event)).status).toBe("new");
    expect((await stack.settled({ id })).state).toBe("completed");
    expect(arrivals(id)).toBe(1);
  });

  for (const list of ["wait", "active", "paused"]) {
    test(`does not block its id while it is on the list ${list}, and the event is delivered once`, async () => {
      const own = await startStack({ isIdle: true });
      const backend = createFluxhook({ valkeyUrl, queue: own.queue.name });
      const { id, event } = eventOf(`/ghost-${list}`);
      await own.valkey.lpush(own.queue.toKey(list), id);
      expect((await backend.enqueue(event)).status).toBe("new");
      const settled = own.settled({ id });
      own.worker.run();
      expect((await settled).state).toBe("completed");
      expect(arrivals(id)).toBe(1);
      for (const name of ["wait", "active", "paused"]) expect(await own.valkey.llen(own.queue.toKey(name))).toBe(0);
      await backend.close();
      await own.stop();
    });
  }

  test("and a job that is in no list do not keep a new event with their id from being delivered", async () => {
    const { id, event } = eventOf("/stray");
    await toIdle.enqueue(event);
    await idle.valkey.lrem(idle.queue.toKey("wait"), 0, id);
    expect((await toIdle.enqueue(event)).status).toBe("new");
    expect(await idle.valkey.lrange(idle.queue.toKey("wait"), 0, -1)).toContain(id);
  });
});

test("a failed event is not lost when its replacement is refused because memory is full", async () => {
  const valkey = await startValkey();
  const backend = createFluxhook({ valkeyUrl: valkey.url, timeoutMs: 300 });
  const { id, event } = eventOf("/oom");
  await backend.enqueue(event);
  const { Redis } = await import("ioredis");
  const admin = new Redis(valkey.url);
  await admin.lrem("bull:webhooks:wait", 0, id);
  await admin.zadd("bull:webhooks:failed", Date.now(), id);
  await admin.config("SET", "maxmemory", 1);
  const error = await backend.enqueue(event).catch((reason: Error) => reason);
  expect(String(error)).toContain("OOM");
  expect(await admin.zscore("bull:webhooks:failed", id)).not.toBeNull();
  expect(await admin.hget(`bull:webhooks:${id}`, "name")).toBe("file.created");
  await admin.config("SET", "maxmemory", 0);
  expect((await backend.enqueue(event)).status).toBe("failed");
  admin.disconnect();
  await backend.close();
  await valkey.stop();
});

describe("Valkey does not have the scripts, and an event is still enqueued", () => {
  async function open() {
    const valkey = await startValkey();
    const backend = createFluxhook({ valkeyUrl: valkey.url });
    const { Redis } = await import("ioredis");
    const admin = new Redis(valkey.url);
    const stop = async (): Promise<void> => {
      admin.disconnect();
      await backend.close();
      await valkey.stop();
    };
    return { backend, admin, [Symbol.asyncDispose]: stop };
  }

  test("after it forgot them, by many callers at once", async () => {
    await using own = await open();
    await own.backend.enqueue(eventOf("/before").event);
    await own.admin.script("FLUSH");
    const events = Array.from({ length: 20 }, () => eventOf("/after").event);
    const results = await Promise.all(events.map((event) => own.backend.enqueue(event)));
    expect(results.map(({ status }) => status)).toEqual(Array(20).fill("new"));
    expect(await own.admin.llen("bull:webhooks:wait")).toBe(21);
  });

  test("after it refused to run them, until the backend's user was given the permission", async () => {
    await using own = await open();
    await own.admin.acl("SETUSER", "default", "-eval");
    const refused = await own.backend.enqueue(eventOf("/refused").event).catch((error: Error) => error);
    expect(String(refused)).toContain("NOPERM");
    await own.admin.acl("SETUSER", "default", "+eval");
    expect((await own.backend.enqueue(eventOf("/accepted").event)).status).toBe("new");
    expect(await own.admin.llen("bull:webhooks:wait")).toBe(1);
  });
});
