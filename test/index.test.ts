import { afterAll, describe, expect, test } from "bun:test";
import { Queue } from "bullmq";
import { createKey, isSealed, openSealed } from "../src/delivery/seal.ts";
import { startReceiver } from "../src/dev/receiver.ts";
import { startValkey } from "../src/dev/valkey.ts";
import { ContractError, createFluxhook, EVENT_TYPES, type NewEvent, ValkeyAwayError } from "../src/index.ts";
import { listen } from "./support/listener.ts";
import { jobData, startStack } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const stack = await startStack();
const receiver = await startReceiver();
const fluxhook = createFluxhook({ valkeyUrl: await testValkeyUrl(), queue: stack.queue.name });
afterAll(async () => {
  await fluxhook.close();
  await receiver.stop();
  await stack.stop();
});

const event = (overrides: Partial<NewEvent> = {}): NewEvent => ({
  event: "file.created",
  ...jobData(receiver.url()),
  ...overrides,
});

describe("a backend", () => {
  test("enqueues an event that is delivered, and reads its attempt", async () => {
    const sent = event();
    const { id, status } = await fluxhook.enqueue(sent);
    expect(status).toBe("new");
    expect((await stack.settled({ id })).state).toBe("completed");
    expect(await fluxhook.readAttempts(sent.userId)).toMatchObject([{ event: "file.created", success: true }]);
  });

  test("that enqueues the same id twice has one delivery", async () => {
    const sent = event({ id: crypto.randomUUID() });
    const id = sent.id as string;
    expect(await fluxhook.enqueue(sent)).toEqual({ id, status: "new" });
    expect(await fluxhook.enqueue(sent)).toEqual({ id, status: "known" });
    await stack.settled({ id: sent.id });
    expect(await fluxhook.readAttempts(sent.userId)).toHaveLength(1);
  });

  test("that writes an id in capitals finds it in the payload, and has one delivery however it is spelled", async () => {
    const id = "6F9619FF-8B86-D011-B42D-00C04FC964FF"; // as SQL Server writes them
    const sent = event({ id });
    expect(await fluxhook.enqueue(sent)).toEqual({ id, status: "new" });
    await stack.settled({ id: id.toLowerCase() });
    const arrived = receiver.requests.filter(({ headers }) => headers["webhook-id"] === id);
    expect(arrived.map(({ json }) => (json as { id: string }).id)).toEqual([id]);
    for (const again of [id, id.toLowerCase()]) {
      expect((await fluxhook.enqueue({ ...sent, id: again })).status).toBe("known");
    }
  });

  test("that breaks the contract is told so, and nothing is queued", async () => {
    const before = await stack.queue.getJobCounts();
    const broken = event({ userId: "", endpoint: { url: "ftp://x", secret: "leak" } });
    const error = await fluxhook.enqueue(broken).catch((reason: Error) => reason);
    expect(String(error)).toContain("userId: expected 1 to 128 visible ASCII characters; endpoint.url: ");
    expect(String(error)).not.toContain("leak");
    expect(await stack.queue.getJobCounts()).toEqual(before);
  });
});

describe("many events", () => {
  test("are queued in order, each under its id", async () => {
    const sent = [event({ id: crypto.randomUUID().toUpperCase() }), event()];
    const ids = (await fluxhook.enqueueMany(sent)).map(({ id }) => id);
    expect(ids[0]).toBe(sent[0]?.id as string);
    for (const id of ids) {
      expect((await stack.settled({ id: id.toLowerCase() })).state).toBe("completed");
      expect(receiver.requests.map(({ headers }) => headers["webhook-id"])).toContain(id);
    }
  });

  test("of which some break the contract: all breaches are told, nothing is queued", async () => {
    const before = await stack.queue.getJobCounts();
    const events = [event(), event({ userId: "" }), event(), event({ event: "file.renamed" as never })];
    const error = await fluxhook.enqueueMany(events).catch((reason: Error) => reason);
    expect(error).toBeInstanceOf(ContractError);
    const [first, second, ...rest] = (error as Error).message.split("\n");
    expect(first).toBe("events[1].userId: expected 1 to 128 visible ASCII characters");
    expect(second).toStartWith("events[3].event: expected one of file.created, ");
    expect(rest).toEqual([]);
    expect(await stack.queue.getJobCounts()).toEqual(before);
  });
});

test.each<[string, object]>([
  ["a Date is a text there", new Date()],
  ["a BigInt cannot be written", { big: 1n }],
  ["a body that is too large", { text: "x".repeat(300_000) }],
])("data is checked as the worker will see it: %s", async (_, data) => {
  const error = await fluxhook.enqueue(event({ data })).catch((reason: Error) => reason);
  expect(error).toBeInstanceOf(ContractError);
});

test.each([{ delayMs: -1 }, { attempts: 0 }, { attempts: 101 }, { backoff: 0 }, { backoff: { type: "x", delay: 1 } }])(
  "the options %p are refused",
  async (options) => {
    const error = await fluxhook.enqueue(event(), options as never).catch((reason: Error) => reason);
    expect(error).toBeInstanceOf(RangeError);
  },
);

test("options and sealed secrets are stored with the job", async () => {
  const key = createKey();
  const other = createFluxhook({ valkeyUrl: await testValkeyUrl(), queue: "unworked", sealingKey: key });
  const sent = event();
  const { id } = await other.enqueue(sent, { delayMs: 60_000, attempts: 3, backoff: { type: "fixed", delay: 7 } });
  await other.close();
  const { opts, data } = await stack.valkey.hgetall(`bull:unworked:${id}`);
  expect(JSON.parse(opts as string)).toMatchObject({
    delay: 60_000,
    attempts: 3,
    backoff: { type: "fixed", delay: 7 },
  });
  const { secret } = JSON.parse(data as string).endpoint;
  expect([isSealed(secret), openSealed(secret, [key], sent.userId)]).toEqual([true, sent.endpoint?.secret as string]);
});

describe("while Valkey is away", () => {
  async function refusal(valkeyUrl: string): Promise<{ error: ValkeyAwayError; tookMs: number }> {
    const backend = createFluxhook({ valkeyUrl, timeoutMs: 300 });
    const since = performance.now();
    const error = await backend.enqueue(event()).catch((reason: Error) => reason);
    const tookMs = performance.now() - since;
    await backend.close();
    expect(error).toBeInstanceOf(ValkeyAwayError);
    return { error: error as ValkeyAwayError, tookMs };
  }

  test("an event is refused in time, says where, and not the password", async () => {
    const { error, tookMs } = await refusal("redis://user:s3cret@127.0.0.1:1");
    expect(error.message).toBe("Valkey at 127.0.0.1:1: no answer within 300 ms (ECONNREFUSED)");
    expect(error.mayBeQueued).toBe(false);
    expect(tookMs).toBeLessThan(5_000);
  });

  test("and accepts connections without a word", async () => {
    const silent = await listen(() => {}, { onConnection() {} });
    const { error, tookMs } = await refusal(`redis://127.0.0.1:${silent.port}`);
    await silent.stop();
    expect(error.mayBeQueued).toBe(false);
    expect(tookMs).toBeLessThan(5_000);
  });

  test("and freezes under an open connection, an event may be queued, and once its id is enqueued again it is, once", async () => {
    const valkey = await startValkey();
    const backend = createFluxhook({ valkeyUrl: valkey.url, timeoutMs: 300 });
    try {
      await backend.enqueue(event());
      process.kill(valkey.pid, "SIGSTOP");
      const again = event({ id: crypto.randomUUID() });
      const error = await backend.enqueue(again).catch((reason: Error) => reason);
      expect(error).toMatchObject({ name: "ValkeyAwayError", mayBeQueued: true });
      const sure = await backend.enqueue(event()).catch((reason: Error) => reason);
      expect(sure).toMatchObject({ name: "ValkeyAwayError", mayBeQueued: false });
      process.kill(valkey.pid, "SIGCONT");
      const patient = createFluxhook({ valkeyUrl: valkey.url, timeoutMs: 10_000 });
      expect(await patient.enqueue(again)).toMatchObject({ id: again.id as string });
      await patient.close();
      const opened = new Queue("webhooks", { connection: { url: valkey.url } });
      expect(await opened.getWaitingCount()).toBe(2);
      await opened.close();
    } finally {
      process.kill(valkey.pid, "SIGCONT");
      await backend.close();
      await valkey.stop();
    }
  });
});

test("a backend's own event types are checked in place of the ten", async () => {
  const valkeyUrl = await testValkeyUrl();
  const other = createFluxhook({ valkeyUrl, queue: "unworked", events: ["invoice.paid", "file.created"] });
  const sent = (type: string) => ({ ...event(), event: type as "file.created" });
  for (const type of ["invoice.paid", "file.created"]) {
    const { id } = await other.enqueue(sent(type));
    expect(await stack.valkey.hget(`bull:unworked:${id}`, "name")).toBe(type);
  }
  const refused = [await other.enqueue(sent("share.linked")).catch(String)];
  refused.push(await fluxhook.enqueue(sent("invoice.paid")).catch(String));
  expect(refused).toEqual([
    "ContractError: event: expected one of invoice.paid, file.created",
    `ContractError: event: expected one of ${EVENT_TYPES.join(", ")}`,
  ]);
  await other.close();
});

test.each<object>([
  { valkeyUrl: "http://x" },
  { timeoutMs: 0 },
  { timeoutMs: Number.NaN },
  { sealingKey: "short" },
  { events: [] },
  { events: "file.created" },
  { events: ["a b"] },
  { events: [7] },
])("createFluxhook(%p) is refused", (options) => {
  expect(() => createFluxhook(options)).toThrow(RangeError);
});
