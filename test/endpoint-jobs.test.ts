/** Jobs that name a registered endpoint by its id: where they go, and what signs them. Real workers and receivers. */
import { afterEach, describe, expect, test } from "bun:test";
import { describeJob } from "../src/cli/redeliver.ts";
import { createKey, seal } from "../src/delivery/seal.ts";
import { FIELDS } from "../src/isolation/fair-queue-script.ts";
import { leaveBacklog } from "../src/operations/cancel.ts";
import { isMeant } from "../src/operations/job-filter.ts";
import { maskSecrets } from "../src/operations/mask.ts";
import { describePayload } from "../src/operations/payload.ts";
import type { OpenShard } from "../src/queue/open-shard.ts";
import { endpointChangesKey, endpointsKey } from "../src/queue/own-keys.ts";
import type { Valkey } from "../src/valkey/connection.ts";
import { verify } from "../src/verify.ts";
import { endAll, HOUR_MS, inTurn, receiver, stack, tellOfChange } from "./support/deliveries.ts";
import { startMonitor } from "./support/monitor.ts";
import { eventually, jobData, type Stack } from "./support/stack.ts";
import { testValkeyUrl } from "./support/valkey.ts";

afterEach(endAll);

const KEY = createKey();

/** A user's endpoint, as the registry stores it. */
async function put(
  valkey: Valkey,
  userId: string,
  { id = "main", url, secrets, state, pauses }: Stored,
): Promise<void> {
  const createdAt = Date.now();
  const document = {
    ...{ url, events: null, createdAt, updatedAt: createdAt },
    secrets: secrets.map((one) => (typeof one === "string" ? { secret: one, createdAt } : { createdAt, ...one })),
  };
  const version = () => crypto.randomUUID();
  await valkey
    .multi()
    .hset(endpointsKey(userId), { "/version": version(), [id]: `${version()} ${JSON.stringify(document)}` })
    .hdel(endpointsKey(userId), `${id}/state`, `${id}/pauses`)
    .exec();
  await tellOfChange(valkey, userId);
  if (state !== undefined) await change(valkey, userId, { [`${id}/state`]: state });
  if (pauses !== undefined) await change(valkey, userId, { [`${id}/pauses`]: pauses });
}

interface Stored {
  readonly id?: string;
  readonly url: string;
  readonly secrets: readonly (string | { secret: string; expiresAt?: number })[];
  readonly state?: string;
  readonly pauses?: string;
}

async function change(valkey: Valkey, userId: string, fields: Record<string, string>): Promise<void> {
  await valkey.hset(endpointsKey(userId), { "/version": crypto.randomUUID(), ...fields });
  await tellOfChange(valkey, userId);
}

const newUser = () => `usr_${crypto.randomUUID()}`;
const dataOf = (userId: string, id = "main") => ({ userId, endpoint: { id }, data: { n: 1 } });
const isSignedBy = ({ body, headers }: { body: Buffer; headers: object }, secret: string) =>
  verify(body, headers as Record<string, string>, secret).ok;

const delayed = ({ queue }: Stack, count: number) =>
  eventually(
    () => queue.getDelayedCount(),
    (number) => number === count,
  );

/** Bring a parked or delayed job's time to now. */
const promote = async ({ queue }: Stack, { id }: { id?: string | undefined }) =>
  await (await queue.getJob(id as string))?.promote();

describe("a job with an endpoint's id", () => {
  test("is delivered to its URL, signed with its secret, and its attempt names the id", async () => {
    const customer = await receiver();
    const system = await stack();
    const userId = newUser();
    await put(system.valkey, userId, { url: customer.url("/in?token=1"), secrets: ["a-secret-of-this-test"] });
    const job = await system.queue.add("file.created", dataOf(userId));
    expect((await system.settled(job)).state).toBe("completed");
    const request = await customer.next();
    expect([request.path, isSignedBy(request, "a-secret-of-this-test")]).toEqual(["/in?token=1", true]);
    expect(await system.attempts(userId)).toMatchObject([{ endpoint: customer.url("/in"), endpoint_id: "main" }]);
  });

  test("rotated while it waits is signed with the new secret", async () => {
    const customer = await receiver();
    customer.answer(inTurn(500, 200));
    const system = await stack({ policy: { attempts: 2, delaysMs: [HOUR_MS], jitter: 0 } });
    const userId = newUser();
    await put(system.valkey, userId, { url: customer.url(), secrets: ["the-old-secret-here"] });
    const job = await system.queue.add("file.created", dataOf(userId));
    await delayed(system, 1);
    const expiresAt = Date.now() + HOUR_MS;
    const secrets = ["the-new-secret-here", { secret: "the-old-secret-here", expiresAt }];
    await put(system.valkey, userId, { url: customer.url(), secrets });
    await promote(system, job);
    expect((await system.settled(job)).state).toBe("completed");
    const [first, second] = await customer.waitFor(2);
    if (first === undefined || second === undefined) throw new Error("expected two requests");
    expect([isSignedBy(first, "the-old-secret-here"), isSignedBy(first, "the-new-secret-here")]).toEqual([true, false]);
    expect([isSignedBy(second, "the-old-secret-here"), isSignedBy(second, "the-new-secret-here")]).toEqual([
      true,
      true,
    ]);
  });

  test("is signed with the new secret alone once the old one has expired, however it was cached", async () => {
    const customer = await receiver();
    const system = await stack();
    const userId = newUser();
    const old = { secret: "the-old-secret-here", expiresAt: Date.now() - 1 };
    await put(system.valkey, userId, { url: customer.url(), secrets: ["the-new-secret-here", old] });
    await system.settled(await system.queue.add("file.created", dataOf(userId)));
    const request = await customer.next();
    expect([isSignedBy(request, "the-old-secret-here"), isSignedBy(request, "the-new-secret-here")]).toEqual([
      false,
      true,
    ]);
  });

  test("that waits goes to the URL that its endpoint has by then", async () => {
    const [before, after] = [await receiver(), await receiver()];
    before.answer(() => ({ status: 500 }));
    const system = await stack({ policy: { attempts: 2, delaysMs: [HOUR_MS], jitter: 0 } });
    const userId = newUser();
    await put(system.valkey, userId, { url: before.url(), secrets: ["a-secret-of-this-test"] });
    const job = await system.queue.add("file.created", dataOf(userId));
    await delayed(system, 1);
    await put(system.valkey, userId, { url: after.url(), secrets: ["a-secret-of-this-test"] });
    await promote(system, job);
    expect((await system.settled(job)).state).toBe("completed");
    expect([before.requests.length, after.requests.length]).toEqual([1, 1]);
  });

  test("no job's hash holds a secret, sealed or not", async () => {
    const customer = await receiver();
    customer.answer(inTurn(500, 200));
    const system = await stack({ secretKeys: [Buffer.from(KEY, "base64")] });
    const userId = newUser();
    const sealed = seal("a-secret-of-this-test", KEY, userId);
    await put(system.valkey, userId, { url: customer.url(), secrets: [sealed] });
    const job = await system.queue.add("file.created", dataOf(userId));
    expect((await system.settled(job)).state).toBe("completed");
    expect(isSignedBy(await customer.next(), "a-secret-of-this-test")).toBe(true);
    const stored = JSON.stringify(await system.stored(job)) + JSON.stringify(system.lines);
    expect([stored.includes("a-secret-of-this-test"), stored.includes(sealed)]).toEqual([false, false]);
  });

  test("fails when the user has no endpoint of this id, and says so", async () => {
    const system = await stack();
    const userId = newUser();
    await put(system.valkey, userId, { url: "http://127.0.0.1/", secrets: ["a-secret-of-this-test"] });
    const { state, job } = await system.settled(await system.queue.add("file.created", dataOf(userId, "mian")));
    expect([state, job.failedReason]).toEqual(["failed", "data.endpoint.id: this user has no endpoint mian"]);
  });

  test("fails when its secret cannot be opened, without naming it", async () => {
    const system = await stack({ secretKeys: [Buffer.from(KEY, "base64")] });
    const userId = newUser();
    const sealed = seal("a-secret-of-this-test", KEY, "usr_other");
    await put(system.valkey, userId, { url: "http://127.0.0.1/", secrets: [sealed] });
    const { state, job } = await system.settled(await system.queue.add("file.created", dataOf(userId)));
    expect([state, job.failedReason]).toEqual([
      "failed",
      "endpoint main: secret 0: sealed with another key or for another user, or damaged",
    ]);
  });

  test("fails when what is stored of the user's endpoints is no hash, and disturbs no other user", async () => {
    const customer = await receiver();
    const system = await stack();
    const [userId, other] = [newUser(), newUser()];
    await system.valkey.set(endpointsKey(userId), "text");
    await put(system.valkey, other, { url: customer.url(), secrets: ["a-secret-of-this-test"] });
    const jobs = await system.queue.addBulk(
      [userId, other, userId, other].map((user) => ({ name: "file.created", data: dataOf(user) })),
    );
    const states = await Promise.all(jobs.map(async (job) => (await system.settled(job)).state));
    expect(states).toEqual(["failed", "completed", "failed", "completed"]);
  });

  test("is completed without an attempt when its endpoint was deleted", async () => {
    const system = await stack();
    const userId = newUser();
    await change(system.valkey, userId, { "main/state": `deleted ${Date.now()}` });
    const { state, job } = await system.settled(await system.queue.add("file.created", dataOf(userId)));
    expect([state, job.returnvalue, await system.attempts(userId)]).toEqual(["completed", "endpoint deleted", []]);
  });

  test("is completed as held when its endpoint is disabled, without an attempt", async () => {
    const customer = await receiver();
    const system = await stack();
    const userId = newUser();
    const state = `disabled manual ${Date.now()}`;
    await put(system.valkey, userId, { url: customer.url(), secrets: ["a-secret-of-this-test"], state });
    const settled = await system.settled(await system.queue.add("file.created", dataOf(userId)));
    expect([settled.state, settled.job.returnvalue]).toEqual(["completed", "held: endpoint disabled"]);
    expect([customer.requests, await system.attempts(userId)]).toEqual([[], []]);
  });

  test("is looked up anew when its endpoint was enabled before its event could be kept as missed", async () => {
    const customer = await receiver();
    const userId = newUser();
    const endpoint = { url: customer.url(), secrets: ["a-secret-of-this-test"] };
    const kept: unknown[] = [];
    const system = await stack({
      missed: {
        async keep(_job, event, cause) {
          kept.push([event.endpoint.id, event.userId, cause]);
          await put(system.valkey, userId, endpoint);
          return false;
        },
      },
    });
    await put(system.valkey, userId, { ...endpoint, state: `disabled manual ${Date.now()}` });
    const { state, job } = await system.settled(await system.queue.add("file.created", dataOf(userId)));
    expect([state, job.attemptsMade, kept]).toEqual(["completed", 1, [["main", userId, "disabled"]]]);
    expect(customer.requests).toHaveLength(1);
  });

  test("that fails for good is kept as missed, with the cause, and one with a URL of its own is not", async () => {
    const customer = await receiver();
    customer.answer(inTurn(500, 500, 410));
    const userId = newUser();
    const kept: unknown[] = [];
    const system = await stack({
      policy: { attempts: 2, delaysMs: [1], jitter: 0 },
      missed: {
        async keep(job, event, cause) {
          kept.push([job.id, event.endpoint.id, cause]);
          return true;
        },
      },
    });
    await put(system.valkey, userId, { url: customer.url(), secrets: ["a-secret-of-this-test"] });
    const first = await system.queue.add("file.created", dataOf(userId));
    expect((await system.settled(first)).state).toBe("failed");
    const second = await system.queue.add("file.created", dataOf(userId));
    expect((await system.settled(second)).state).toBe("failed");
    const inline = await system.queue.add("file.created", jobData(customer.url()));
    expect((await system.settled(inline)).state).toBe("failed");
    expect(kept).toEqual([
      [first.id, "main", "exhausted"],
      [second.id, "main", "gone"],
    ]);
  });

  test("waits while its endpoint is paused, and is delivered once it is not, at its first attempt", async () => {
    const customer = await receiver();
    const system = await stack();
    const userId = newUser();
    const state = `paused ${Date.now()}`;
    await put(system.valkey, userId, { url: customer.url(), secrets: ["a-secret-of-this-test"], state });
    const jobs = await system.queue.addBulk(
      Array.from({ length: 20 }, () => ({ name: "file.created", data: dataOf(userId) })),
    );
    await delayed(system, 20);
    expect(customer.requests).toEqual([]);
    await put(system.valkey, userId, { url: customer.url(), secrets: ["a-secret-of-this-test"] });
    const ends = await Promise.all(jobs.map((job) => system.settled(job)));
    expect(ends.map(({ state, job }) => [state, job.attemptsMade])).toEqual(jobs.map(() => ["completed", 1]));
    expect(customer.requests).toHaveLength(20);
  });

  test("does not age while its endpoint is paused, nor by pauses that are over", async () => {
    const customer = await receiver();
    const system = await stack({ maxAgeMs: HOUR_MS, policy: { attempts: 2, delaysMs: [1], jitter: 0 } });
    customer.answer(inTurn(500, 200, 500));
    const userId = newUser();
    const now = Date.now();
    const endpoint = { url: customer.url(), secrets: ["a-secret-of-this-test"] };
    await put(system.valkey, userId, { ...endpoint, state: `paused ${now - 4 * HOUR_MS}` });
    const timestamp = now - 5 * HOUR_MS + 60_000; // a minute less than an hour old but for the pause
    const job = await system.queue.add("file.created", dataOf(userId), { timestamp });
    await delayed(system, 1);
    await put(system.valkey, userId, { ...endpoint, pauses: `${now - 4 * HOUR_MS}-${Date.now()}` });
    await promote(system, job);
    const { state, job: ended } = await system.settled(job);
    expect([state, ended.attemptsMade]).toEqual(["completed", 2]); // a retry was within its lifetime
    await put(system.valkey, userId, endpoint);
    const aged = await system.settled(await system.queue.add("file.created", dataOf(userId), { timestamp }));
    expect([aged.state, aged.job.failedReason]).toEqual([
      "failed",
      expect.stringContaining("older than WEBHOOK_MAX_AGE"),
    ]);
  });

  test("is listed with the endpoint's id, found by its user, shown, and its reason masked, without an error", async () => {
    const system = await stack();
    const { queue, valkey } = system;
    const userId = newUser();
    const job = await queue.add("file.created", dataOf(userId));
    const { job: ended } = await system.settled(job);
    expect(ended.failedReason).toBe("data.endpoint.id: this user has no endpoint main");
    expect(describeJob(ended, "failed", "")).toMatchObject({ user: userId, endpoint: "main" });
    const filtered = { name: "file.created", data: dataOf(userId) };
    expect([isMeant(filtered, { userId }), isMeant(filtered, { userId, endpoint: new URL("http://a/") })]).toEqual([
      true,
      false,
    ]);
    const payload = describePayload(ended, Date.now());
    expect(payload).toMatchObject({ endpoint: "main" });
    expect(payload).toHaveProperty("head", expect.stringContaining("POST <the endpoint's path> HTTP/1.1\nHost: <the"));
    expect(maskSecrets({ data: dataOf(userId) })).toEqual({ data: dataOf(userId) });
    const shard = { index: 0, queue: queue.name, tag: "", label: "", client: queue, valkey };
    await leaveBacklog(shard as unknown as OpenShard, [{ id: job.id as string, ...filtered } as never]);
  });

  test("belongs to its user's flow, and to no endpoint's, in the fair queue", async () => {
    const { valkey } = await stack({ isIdle: true });
    const script = `${FIELDS}\nlocal user, url = fieldsOf(ARGV[1]) return { user or false, url or false }`;
    const read = async (data: object | string) =>
      await valkey.eval(script, 0, typeof data === "string" ? data : JSON.stringify(data));
    expect(await read(dataOf("usr_1"))).toEqual(["usr_1", null]);
    expect(await read({ endpoint: { id: "main" }, data: { endpoint: { url: "http://a/" } }, userId: "usr_1" })).toEqual(
      ["usr_1", null],
    );
    expect(await read({ ...jobData("http://a/"), userId: "usr_1" })).toEqual(["usr_1", "http://a/"]);
    expect(await read({ userId: "usr_1", endpoint: { id: "main", url: "http://a/" }, data: {} })).toEqual([
      "usr_1",
      "http://a/",
    ]);
  });

  test("of a wrong form says which forms there are", async () => {
    const system = await stack();
    const reasonOf = async (endpoint: unknown) => {
      const data = { userId: newUser(), endpoint, data: {} };
      return (await system.settled(await system.queue.add("file.created", data))).job.failedReason;
    };
    const either = "data.endpoint: expected an object with url and secret, or with the id of a registered endpoint";
    expect(await reasonOf({})).toBe(either);
    expect(await reasonOf("main")).toBe(either);
    expect(await reasonOf({ id: "a:b" })).toStartWith("data.endpoint.id: expected 1 to 64 letters");
    expect(await reasonOf({ id: "main", ur1: "x" })).toBe("data.endpoint: expected no other field beside id");
    expect(await reasonOf({ id: "main", url: "x" })).toStartWith("data.endpoint.url: expected an http or https URL");
  });
});

const UNTROUBLED = "though nothing is wrong";

/** Trouble that Valkey may have meanwhile; each is made again and again. */
const TROUBLES: Readonly<Record<string, (valkey: Valkey) => Promise<unknown>>> = {
  [UNTROUBLED]: async () => {},
  // A command that takes a job is then sent anew, behind the question whether anything has changed.
  "though Valkey forgets all scripts": (valkey) => valkey.call("SCRIPT", "FLUSH"),
  "though the list of changes is gone": (valkey) => valkey.del(endpointChangesKey()),
  "though the list of changes is cut": (valkey) => valkey.ltrim(endpointChangesKey(), 0, 0),
  "though the list of changes is no list": (valkey) => valkey.set(endpointChangesKey(), "text", "PX", 20),
};

test.each(Object.keys(TROUBLES))(
  "an event enqueued after a change always sees it, %s",
  async (trouble) => {
    const customer = await receiver();
    const queue = `test-${crypto.randomUUID()}`;
    const systems = await Promise.all(Array.from({ length: 4 }, () => stack({ queue })));
    const [{ valkey, queue: client }] = systems as [Stack];
    // A plain client of BullMQ sends a script in full when Valkey has forgotten it, but once: not if it forgets it again meanwhile.
    const add = (data: object): Promise<unknown> =>
      client.add("file.created", data).catch((error) => {
        if (!String(error).includes("NOSCRIPT")) throw error;
        return add(data);
      });
    const users = Array.from({ length: 4 }, newUser);
    const rounds = trouble === UNTROUBLED ? 1_250 : 125; // for each of four users, so that workers have many versions cached
    const writing = users.map(async (userId, user) => {
      for (let round = 0; round < rounds; round++) {
        await put(valkey, userId, {
          url: customer.url(`/${user}/${round}`),
          secrets: [`secret-number-${round}-of-it`],
        });
        await add({ ...dataOf(userId), data: { user, round } });
      }
    });
    let isWriting = true;
    const troubling = (async () => {
      for (; isWriting; await Bun.sleep(30)) await TROUBLES[trouble]?.(systems[1]?.valkey as Valkey);
    })();
    await Promise.all(writing);
    isWriting = false;
    await troubling;
    const requests = await customer.waitFor(users.length * rounds, 60_000);
    const late = requests.filter(({ json, path, body, headers }) => {
      const { user, round } = (json as { data: { user: number; round: number } }).data;
      const at = Number(path.split("/")[2]);
      // A later change may have come before the worker took the job, but never is an earlier state seen.
      return !path.startsWith(`/${user}/`) || at < round || !isSignedBy({ body, headers }, `secret-number-${at}-of-it`);
    });
    expect(late).toEqual([]);
  },
  120_000,
);

test("jobs with a URL of their own send no other commands than without a registry", async () => {
  const customer = await receiver();
  const system = await stack();
  const monitor = await startMonitor(await testValkeyUrl());
  const isTold = (text: string) => monitor.lines().some((line) => line.includes(text));
  try {
    const inline = jobData(customer.url());
    const job = await system.queue.add("file.created", inline);
    expect((await system.settled(job)).state).toBe("completed");
    const userId = newUser();
    await put(system.valkey, userId, { url: customer.url(), secrets: ["a-secret-of-this-test"] });
    const other = await system.queue.add("file.created", dataOf(userId));
    expect((await system.settled(other)).state).toBe("completed");
    await eventually(() => isTold(`"${endpointsKey(userId)}" ""`), Boolean); // the lookup's script
    expect(isTold(inline.userId)).toBe(true);
    expect(isTold(endpointsKey(inline.userId))).toBe(false);
  } finally {
    await monitor.stop();
  }
});
