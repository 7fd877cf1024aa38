/** Holds: hosts, endpoints and users whose events an operator keeps from being attempted. Pure parts, then real workers. */
import { afterEach, describe, expect, test } from "bun:test";
import { startReceiver } from "../src/dev/receiver.ts";
import { changeHolds, readHolds, watchHolds } from "../src/isolation/hold-store.ts";
import { coveredMs, findSpent, type Hold, Holds, nameHeld } from "../src/isolation/holds.ts";
import {
  hold,
  kindOf,
  listHolds,
  listHoldsOn,
  MAX_HOLDS,
  parseTarget,
  release,
  TooManyHolds,
} from "../src/operations/hold.ts";
import { eventually, jobData, type Stack, type StackOptions, startStack } from "./support/stack.ts";

const MINUTE_MS = 60 * 1000;
const open: { stop(): Promise<void> }[] = [];

afterEach(async () => {
  for (const { stop } of open.splice(0).reverse()) await stop();
});

/** A hold from 1,000 to 2,000. */
const held = (kind: Hold["kind"], target: string, part: Partial<Hold> = {}): Hold => ({
  ...{ id: `${kind}-${target}`, kind, target, from: 1_000, until: 2_000 },
  ...part,
});

function holding(...all: Hold[]): Holds {
  const holds = new Holds();
  holds.replace(all);
  return holds;
}

const partyOf = (url: string, user = "usr_1") => ({ endpoint: url, host: new URL(url).origin, user });

describe("what a hold is about", () => {
  test.each([
    ["host", "hooks.example.com", "https://hooks.example.com/in", true],
    ["host", "hooks.example.com", "http://hooks.example.com/in?a=1", true],
    ["host", "hooks.example.com", "https://hooks.example.com:8443/in", false],
    ["host", "hooks.example.com:8443", "https://hooks.example.com:8443/in", true],
    ["host", "hooks.example.com:443", "https://hooks.example.com/in", true],
    ["host", "hooks.example.com:443", "http://hooks.example.com/in", false],
    ["host", "HOOKS.example.com", "https://hooks.example.com/in", true],
    ["host", "example.com", "https://hooks.example.com/in", false],
    ["host", "[::1]:80", "http://[::1]/", true],
    ["url", "https://a.example/in", "https://a.example/in", true],
    ["url", "https://A.example:443/in#part", "https://a.example/in?token=1", true],
    ["url", "https://a.example/in?token=1", "https://a.example/in?token=1", true],
    ["url", "https://a.example/in?token=1", "https://a.example/in?token=2", false],
    ["url", "https://a.example/in?token=1", "https://a.example/in", false],
    ["url", "https://a.example/in", "https://a.example/in/2", false],
    ["user", "usr_1", "https://a.example/in", true],
    ["user", "usr_2", "https://a.example/in", false],
  ] as const)("%s %s and %s: %p", (kind, text, url, expected) => {
    const { target } = parseTarget(kind, text) as { target: string };
    expect(holding(held(kind, target)).until(partyOf(url), 1_500)).toBe(expected ? 2_000 : 0);
  });

  test.each([
    ["host", "a/b"],
    ["host", "host:99999"],
    ["url", "ftp://a.example/"],
    ["url", "a.example"],
  ] as const)("no %s is %s", (kind, text) => {
    expect(parseTarget(kind, text)).toBeUndefined();
  });

  test.each([
    ["hooks.example.com", "host"],
    ["hooks.example.com:8443", "host"],
    ["localhost", "host"],
    ["localhost:3000", "host"],
    ["127.0.0.1", "host"],
    ["[::1]:8080", "host"],
    ["https://hooks.example.com/in", "url"],
    ["usr_42", "user"],
    ["jo@example.com", "user"],
    ["auth0|42", "user"],
    ["tenant:a", "user"],
  ] as const)("%s is a %s", (text, kind) => {
    expect(kindOf(text)).toBe(kind);
  });

  test("a URL is shown without its query, which may contain a token", () => {
    expect(nameHeld(held("url", "https://a.example/in?token=hush"))).toBe("https://a.example/in?…");
    expect(nameHeld(held("user", "who?"))).toBe("who?");
  });
});

describe("the time for which an event was held", () => {
  test("is that of all holds together, counted once, within the event's life", () => {
    const holds = holding(
      held("user", "usr_1", { id: "a", from: 1_000, until: 2_000 }),
      held("host", "a.example", { id: "b", from: 1_500, until: 3_000 }),
      held("url", "https://a.example/in", { id: "c", from: 5_000, until: 9_000 }),
      held("user", "usr_2", { id: "d", from: 0, until: 9_000 }),
    );
    const party = partyOf("https://a.example/in");
    expect(holds.heldMs(party, 0, 10_000)).toBe(6_000);
    expect(holds.heldMs(party, 1_800, 6_000)).toBe(2_200);
    expect(holds.heldMs(party, 3_000, 5_000)).toBe(0);
    expect(holds.heldMs(partyOf("https://b.example/", "usr_3"), 0, 10_000)).toBe(0);
    expect(holds.until(party, 2_500)).toBe(9_000);
    expect(holds.until(party, 9_000)).toBe(0);
  });

  test("has no part before or after what it is asked about, whatever the order of the intervals", () => {
    const intervals = [
      { from: 40, until: 60 },
      { from: 0, until: 10 },
      { from: 5, until: 45 },
      { from: 50, until: 50 },
      { from: 90, until: 80 },
    ];
    expect(coveredMs(intervals, 0, 100)).toBe(60);
    expect(coveredMs(intervals.toReversed(), 20, 50)).toBe(30);
    expect(coveredMs(intervals, 60, 100)).toBe(0);
    expect(coveredMs([], 0, 100)).toBe(0);
  });

  test("is that of the holds in all places, each of which is replaced alone", () => {
    const holds = holding(held("user", "usr_1"));
    holds.replace([held("user", "usr_1", { id: "a", from: 1_500, until: 3_000 })], "old");
    const party = partyOf("https://a.example/in");
    expect([holds.until(party, 1_600), holds.heldMs(party, 0, 10_000)]).toEqual([3_000, 2_000]);
    expect(holds.countCurrent(1_600)).toBe(1);
    holds.replace([]);
    expect([holds.until(party, 1_600), holds.heldMs(party, 0, 10_000)]).toEqual([3_000, 1_500]);
    holds.replace([], "old");
    expect(holds.isEmpty).toBe(true);
  });

  test("counts for as long as an event that was due before its end may be young enough", () => {
    const ended = held("user", "usr_1", { until: 2_000 });
    const maxAgeMs = 10 * MINUTE_MS;
    const spentAt = 2_000 + maxAgeMs + MINUTE_MS + 1;
    expect(findSpent([ended], maxAgeMs, spentAt - 1)).toEqual([]);
    expect(findSpent([ended], maxAgeMs, spentAt)).toEqual([ended]);
    // Meanwhile another hold lets its events stand still for 5 minutes.
    const other = held("host", "a.example", { from: 3_000, until: 3_000 + 5 * MINUTE_MS });
    expect(findSpent([ended, other], maxAgeMs, spentAt + 5 * MINUTE_MS - 1)).toEqual([]);
    expect(findSpent([ended, other], maxAgeMs, spentAt + 5 * MINUTE_MS)).toEqual([ended]);
    expect(findSpent([ended], maxAgeMs, spentAt + 5 * MINUTE_MS - 1, [ended, other])).toEqual([]); // kept elsewhere
    expect(findSpent([ended], maxAgeMs, spentAt + 5 * MINUTE_MS, [ended, other])).toEqual([ended]);
    const current = held("user", "usr_2", { until: Number.MAX_SAFE_INTEGER });
    expect(findSpent([current], 0, spentAt)).toEqual([]);
  });
});

/** A worker that looks for holds every 20 ms, as the process does every second. */
async function start(options: StackOptions = {}) {
  const stack = await startStack({ ...options, isIdle: true });
  const watch = watchHolds({
    ...{ valkey: stack.valkey, queue: stack.queue.name, holds: stack.holds, logger: stack.logger },
    maxAgeMs: options.maxAgeMs ?? 30 * 24 * 60 * MINUTE_MS,
    periodMs: 20,
  });
  open.push({
    async stop() {
      watch.stop();
      await stack.stop();
    },
  });
  await watch.ready;
  stack.worker.run();
  return stack;
}

async function startCustomer() {
  const customer = await startReceiver();
  open.push(customer);
  return customer;
}

const placeOf = ({ valkey, queue }: Stack) => ({ valkey, queue: queue.name });

async function holdFor(stack: Stack, kind: Hold["kind"], text: string, ms: number) {
  const target = parseTarget(kind, text) as { kind: Hold["kind"]; target: string };
  return await hold([placeOf(stack)], target, { until: Date.now() + ms, reason: undefined, by: undefined }, Date.now());
}

const delayedOf = ({ queue }: Stack, count: number) =>
  eventually(
    () => queue.getDelayedCount(),
    (delayed) => delayed === count,
  );

describe("a worker", () => {
  test.each(["host", "url", "user"] as const)(
    "attempts nothing of a held %s and everything else, until it is released",
    async (kind) => {
      const [customer, other] = [await startCustomer(), await startCustomer()];
      const stack = await start();
      const data = jobData(customer.url("/in?token=1"));
      const texts = { host: new URL(customer.url()).host, url: customer.url("/in"), user: data.userId };
      await holdFor(stack, kind, texts[kind], 60 * MINUTE_MS);
      await stack.line("hold.started");
      const job = await stack.queue.add("file.created", data);
      expect((await stack.settled(await stack.queue.add("file.created", jobData(other.url())))).state).toBe(
        "completed",
      );
      await delayedOf(stack, 1);
      expect(customer.requests).toEqual([]);
      expect(await stack.metrics.registry.metrics()).toMatch(
        /fluxhook_parked_jobs_total\{reason="held"\} 1\n[\s\S]*fluxhook_holds 1\n/,
      );

      expect(await release([placeOf(stack)], { kind: undefined, text: texts[kind] }, Date.now())).toHaveLength(1);
      const { state, job: ended } = await stack.settled(job);
      expect([state, ended.attemptsMade, customer.requests.length]).toEqual(["completed", 1, 1]);
      expect(await stack.line("hold.ended")).toMatchObject({ kind });
    },
  );

  test("delivers when a hold's time is over", async () => {
    const customer = await startCustomer();
    const stack = await start();
    const data = jobData(customer.url());
    const { hold: made } = await holdFor(stack, "user", data.userId, 400);
    await stack.line("hold.started");
    const { job } = await stack.settled(await stack.queue.add("file.created", data));
    expect(job.finishedOn).toBeGreaterThanOrEqual(made.until);
    expect(job.attemptsMade).toBe(1);
  });

  test("lets the age of a held event stand still, also of one that was held while it waited for a retry", async () => {
    const customer = await startCustomer();
    const maxAgeMs = 2_000;
    const policy = { attempts: 2, delaysMs: [1_500], jitter: 0 };
    const stack = await start({ maxAgeMs, policy });
    const data = jobData(customer.url());
    customer.answer(() => ({ status: 500 }));
    const job = await stack.queue.add("file.created", data);
    await eventually(
      () => customer.requests.length,
      (count) => count === 1,
    );
    await holdFor(stack, "user", data.userId, 60 * MINUTE_MS);
    await stack.line("hold.started");
    const late = await stack.queue.add("file.created", data);
    await eventually(
      () => Date.now() - job.timestamp,
      (ageMs) => ageMs > maxAgeMs + 500,
      20_000,
      50,
    );
    await delayedOf(stack, 2);
    expect(customer.requests).toHaveLength(1);
    customer.answer(() => ({ status: 204 }));
    await release([placeOf(stack)], { kind: "user", text: data.userId }, Date.now());
    expect([(await stack.settled(job)).state, (await stack.settled(late)).state]).toEqual(["completed", "completed"]);
  });

  test("subtracts the time for which an event was held, and no other, from its age", async () => {
    const customer = await startCustomer();
    customer.answer(() => ({ status: 500 }));
    const stack = await start({ maxAgeMs: 60_000, policy: { attempts: 5, delaysMs: [40_000], jitter: 0 } });
    const data = jobData(customer.url());
    const nowMs = Date.now();
    const past = held("user", data.userId, { from: nowMs - 70_000, until: nowMs - 5_000 });
    await changeHolds(stack.valkey, stack.queue.name, () => ({ write: [past] }));
    await eventually(
      () => stack.holds.isEmpty,
      (isEmpty) => !isEmpty,
    );
    const due = (agoMs: number, whose = data) =>
      stack.queue.add("file.created", whose, { timestamp: nowMs - agoMs }).then(stack.settled);
    const [others, tooOld] = await Promise.all([due(70_000, jobData(customer.url())), due(100_000)]);
    for (const { job } of [others, tooOld]) expect(job.failedReason).toContain("older than WEBHOOK_MAX_AGE");
    await stack.queue.add("file.created", data, { timestamp: nowMs - 70_000 }); // 5 s old: retried in 40 s
    await delayedOf(stack, 1);
    expect(customer.requests).toHaveLength(3);
  });

  test("does not put off an event's own expiry", async () => {
    const customer = await startCustomer();
    const stack = await start();
    const data = jobData(customer.url(), { expiresAt: new Date(Date.now() + 400).toISOString() });
    await holdFor(stack, "user", data.userId, 600);
    await stack.line("hold.started");
    const { job } = await stack.settled(await stack.queue.add("file.created", data));
    expect([job.failedReason, customer.requests.length]).toEqual(["expired, no attempt after its expiresAt", 0]);
  });

  test("knows the holds before it takes its first event, so that a restart delivers nothing that is held", async () => {
    const customer = await startCustomer();
    const first = await start();
    const data = jobData(customer.url());
    await holdFor(first, "user", data.userId, 60 * MINUTE_MS);
    const [stop] = open.splice(1, 1);
    await stop?.stop();

    const second = await start({ queue: first.queue.name });
    const job = await second.queue.add("file.created", data);
    await delayedOf(second, 1);
    expect(customer.requests).toEqual([]);
    await release([placeOf(second)], { kind: undefined, text: data.userId }, Date.now());
    expect((await second.settled(job)).state).toBe("completed");
  });
});

describe("the holds in Valkey", () => {
  test("keep their start when they are prolonged, and are listed without queries, the next to end first", async () => {
    const stack = await start();
    const place = placeOf(stack);
    const soon = await holdFor(stack, "url", "https://a.example/in?token=hush", MINUTE_MS);
    await holdFor(stack, "host", "b.example", 5 * MINUTE_MS);
    const again = await holdFor(stack, "url", "https://a.example/in?token=hush", 10 * MINUTE_MS);
    expect([soon.wasHeld, again.wasHeld]).toEqual([false, true]);
    expect([again.hold.id, again.hold.from]).toEqual([soon.hold.id, soon.hold.from]);
    const listed = await listHolds([place], Date.now());
    expect(listed.map(({ kind, name }) => [kind, name])).toEqual([
      ["host", "b.example"],
      ["url", "https://a.example/in?…"],
    ]);
    expect(JSON.stringify(listed)).not.toContain("hush");
    const on = (endpoints: string[]) => listHoldsOn([place], "usr_1", endpoints, Date.now());
    expect((await on(["https://a.example/in"])).map(({ kind }) => kind)).toEqual(["url"]);
    expect(await on(["https://c.example/in"])).toEqual([]);
  });

  test("are released by id, or by what they hold; a text that names two releases none", async () => {
    const stack = await start();
    const place = placeOf(stack);
    const { hold: host } = await holdFor(stack, "host", "a.example", MINUTE_MS);
    await holdFor(stack, "user", "a.example", MINUTE_MS);
    expect(await release([place], { kind: undefined, text: "a.example" }, Date.now())).toHaveLength(2);
    expect(await listHolds([place], Date.now())).toHaveLength(2);
    expect(await release([place], { kind: undefined, text: host.id }, Date.now())).toHaveLength(1);
    expect(await release([place], { kind: undefined, text: "A.example:443" }, Date.now())).toEqual([]);
    expect(await release([place], { kind: undefined, text: "a.example" }, Date.now())).toHaveLength(1);
    expect(await release([place], { kind: undefined, text: "a.example" }, Date.now())).toEqual([]);
  });

  test("are removed, with their key, once no event's age depends on them", async () => {
    const stack = await startStack({ isIdle: true });
    open.push(stack);
    const { valkey, queue, holds, logger } = stack;
    await changeHolds(valkey, queue.name, () => ({ write: [held("user", "usr_1", { from: 0, until: 1 })] }));
    let nowMs = Date.now();
    const watch = watchHolds({
      ...{ valkey, holds, logger, queue: queue.name, maxAgeMs: 1_000, periodMs: 5 },
      now: () => nowMs,
    });
    await watch.ready;
    expect(holds.isEmpty).toBe(false);
    nowMs += 2 * MINUTE_MS;
    await eventually(
      () => holds.isEmpty,
      (isEmpty) => isEmpty,
    );
    watch.stop();
    expect(await valkey.exists(`webhooks:holds:${queue.name}`)).toBe(0);
  });

  test("are bounded in number", async () => {
    const stack = await start();
    const write = Array.from({ length: MAX_HOLDS }, (_, index) => held("user", `u${index}`, { id: `${index}` }));
    await changeHolds(stack.valkey, stack.queue.name, () => ({ write }));
    await expect(holdFor(stack, "user", "one-more", MINUTE_MS)).rejects.toThrow(TooManyHolds);
  });

  test("are neither lost nor doubled when many are made at once", async () => {
    const stack = await start();
    const names = Array.from({ length: 8 }, (_, index) => `usr_${index % 4}`);
    await Promise.all(names.map((name) => holdFor(stack, "user", name, MINUTE_MS)));
    const listed = await listHolds([placeOf(stack)], Date.now());
    expect(listed.map(({ name }) => name).sort()).toEqual(["usr_0", "usr_1", "usr_2", "usr_3"]);
  });

  test("that another program has damaged are left out", async () => {
    const { valkey, queue } = await start();
    const key = `webhooks:holds:${queue.name}`;
    await valkey.hset(key, "a", "{", "b", "null", "c", '{"kind":"host","target":"a b","from":1,"until":2}');
    await valkey.hset(key, "d", '{"kind":"user","target":"u","from":1,"until":2,"reason":7}');
    expect(await readHolds(valkey, queue.name)).toMatchObject([{ id: "d", kind: "user", target: "u", until: 2 }]);
  });
});
