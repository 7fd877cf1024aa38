/** Finding events of registered endpoints by id, URL and host, though their jobs hold neither URL nor secret. */
import { beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { describeJob } from "../src/cli/redeliver.ts";
import { ContractError } from "../src/delivery/contract.ts";
import { countJobs, endMeant, WAITING } from "../src/operations/cancel.ts";
import { createFailedEvents } from "../src/operations/failed-events.ts";
import { type FilteredJob, parseHost } from "../src/operations/job-filter.ts";
import { maskSecrets } from "../src/operations/mask.ts";
import { describePayload } from "../src/operations/payload.ts";
import { findPending } from "../src/operations/pending.ts";
import { createLocateJobs } from "../src/operations/registered-urls.ts";
import { createSearch } from "../src/operations/search.ts";
import { readShardSummary } from "../src/operations/shard-summary.ts";
import { sendTestEvent } from "../src/operations/test-event.ts";
import { type OpenShard, openShard } from "../src/queue/open-shard.ts";
import { PINNED_FIELD } from "../src/queue/pin.ts";
import { homeAmong } from "../src/queue/shards.ts";
import { createRegistry } from "../src/registry/registry.ts";
import { createCommand } from "./support/command.ts";
import { onlyShard } from "./support/only-shard.ts";
import { startOwnQueue } from "./support/own-queue.ts";
import { jobData } from "./support/stack.ts";

setDefaultTimeout(60_000); // each command is a process that starts

const { client, queue, env, key } = await startOwnQueue("filters");
const fluxhook = createCommand(env);
const shards = onlyShard("filters", client);
const registry = createRegistry(client, { allowPlain: true });
beforeEach(() => client.flushall());

const at = (hostname: string) => parseHost(hostname);
const register = (userId: string, id: string, url: string) => registry.create(userId, { id, url });

/** Enqueue events for a user's registered endpoint. */
async function add(count: number, userId: string, id: string, opts = {}): Promise<string[]> {
  const data = { userId, endpoint: { id }, data: { n: 1 } };
  const jobs = Array.from({ length: count }, () => ({ name: "file.created", data, opts }));
  return (await queue.addBulk(jobs)).map((job) => job.id as string);
}

/** Make waiting jobs failed ones. */
async function fail(ids: readonly string[]): Promise<void> {
  for (const id of ids) {
    await client.lrem(key("wait"), 1, id);
    await client.hset(key(id), { failedReason: "HTTP 503 in 3 ms", finishedOn: Date.now() });
    await client.zadd(key("failed"), Date.now(), id);
  }
}

async function run(...args: string[]) {
  const { out, err, code } = await fluxhook([...args, "--json"]);
  return { ...(out === "" ? {} : JSON.parse(out)), err, code };
}

describe("pending events of registered endpoints", () => {
  test("are counted and canceled by the host and the URL at which their endpoint is now, and by its id", async () => {
    await register("usr_1", "main", "https://a.example/in?token=hush");
    await register("usr_1", "other", "https://b.example/in");
    await register("usr_2", "main", "https://c.example/in");
    await add(3, "usr_1", "main");
    await add(1, "usr_1", "other", { delay: 60_000 });
    await add(2, "usr_2", "main");
    await queue.add("file.created", jobData("https://a.example/in", { userId: "usr_3" }));
    await queue.add("file.created", jobData("https://z.example/in", { userId: "usr_1" }));
    const count = async (filter: object) => (await countJobs(shards, filter, WAITING, 0)).total;
    expect(await count({ host: at("a.example") })).toBe(4);
    expect(await count({ host: at("b.example") })).toBe(1);
    expect(await count({ endpoint: new URL("https://a.example/in") })).toBe(4);
    expect(await count({ endpoint: new URL("https://a.example/in?token=hush") })).toBe(3);
    expect(await count({ endpoint: new URL("https://a.example/in?token=other") })).toBe(0);
    expect(await count({ userId: "usr_1", endpoint: "main" })).toBe(3);
    expect(await count({ userId: "usr_2", endpoint: "main", host: at("a.example") })).toBe(0);

    await registry.update("usr_1", "main", { url: "https://moved.example/in" });
    expect(await count({ host: at("a.example") })).toBe(1);
    const ended = await endMeant(shards, { filter: { host: at("moved.example") }, lists: WAITING });
    expect([ended.total, ended.isDone, await count({})]).toEqual([3, true, 5]);
  });

  test("that name a deleted, unknown or damaged endpoint match no host, and harm no other", async () => {
    await register("usr_1", "main", "https://a.example/in");
    await register("usr_2", "gone", "https://a.example/in");
    await registry.delete("usr_2", "gone");
    await client.hset("webhooks:endpoints:usr_3", "main", "1 {not JSON");
    await client.set("webhooks:endpoints:usr_4", "no hash");
    await add(1, "usr_1", "main");
    await add(1, "usr_2", "gone");
    await add(1, "usr_3", "main");
    await add(1, "usr_4", "main");
    await add(1, "usr_5", "main");
    await add(1, "not a\u00a0user", "main");
    const { total, some } = await countJobs(shards, { host: at("a.example") }, WAITING, 9);
    expect([total, some.length]).toEqual([1, 1]);
    expect((await countJobs(shards, { endpoint: "main" }, WAITING, 9)).total).toBe(5);
  });

  test("are canceled by the command, which shows both id and URL, and no query", async () => {
    await register("usr_1", "main", "https://a.example/in?token=hush");
    const [job] = await add(1, "usr_1", "main");
    const { jobs, code } = await run("cancel", "--user", "usr_1", "--endpoint", "main", "--dry-run");
    const shown = { endpoint: "https://a.example/in", endpoint_id: "main" };
    expect([code, jobs]).toEqual([0, [{ job, state: "waiting", event: "file.created", user: "usr_1", ...shown }]]);
    const { out } = await fluxhook(["cancel", "--host", "a.example", "--dry-run"]);
    expect(out).toContain("main (https://a.example/in)");
    expect(out).not.toContain("hush");
    expect(await run("cancel", "--host", "a.example", "--yes")).toMatchObject({ count: 1, code: 0 });
  });

  test("are not canceled for all users who have an endpoint of that id", async () => {
    const { code, err } = await run("cancel", "--endpoint", "main", "--yes");
    expect([code, err]).toEqual([2, expect.stringContaining("expected --user with the id of a registered endpoint")]);
  });

  test("that name no endpoint are found by the one to which they keep, and by none before", async () => {
    await register("usr_1", "main", "https://a.example/in");
    const data = { userId: "usr_1", data: { n: 1 } };
    const [kept] = await queue.addBulk([1, 2].map(() => ({ name: "file.created", data })));
    await client.hset(key(kept?.id as string), PINNED_FIELD, "main");
    const find = async (filter: object) => (await countJobs(shards, filter, WAITING, 9)).some.map(({ id }) => id);
    expect(await find({ host: at("a.example") })).toEqual([kept?.id as string]);
    expect(await find({ userId: "usr_1", endpoint: "main" })).toEqual([kept?.id as string]);
    expect(await find({ userId: "usr_1" })).toHaveLength(2);
    const { events } = await findPending(shards, "usr_1", Date.now());
    expect(events.map(({ endpoint, endpointId }) => `${endpoint} ${endpointId}`).sort()).toEqual([
      "https://a.example/in main",
      "undefined undefined",
    ]);
    expect((await endMeant(shards, { filter: { userId: "usr_1" }, lists: WAITING })).total).toBe(2);
  });

  test("are listed on their user's page with the URL of now and the id", async () => {
    await register("usr_1", "main", "https://a.example/in?token=hush");
    await add(1, "usr_1", "main");
    await add(1, "usr_1", "unknown");
    const { events } = await findPending(shards, "usr_1", Date.now());
    expect(events.map(({ endpoint, endpointId }) => [endpoint, endpointId]).sort()).toEqual([
      ["https://a.example/in", "main"],
      ["unknown", "unknown"],
    ]);
  });
});

describe("failed events of registered endpoints", () => {
  test("are found by host, URL's host and id", async () => {
    await register("usr_1", "main", "https://a.example:8443/in?token=hush");
    await register("usr_2", "main", "https://b.example/in");
    await fail([...(await add(2, "usr_1", "main")), ...(await add(1, "usr_2", "main"))]);
    const failed = createFailedEvents(shards);
    await failed.refresh();
    const users = (filter: object) => failed.list(filter).map(({ userId }) => userId);
    expect(users({ host: "a.example:8443" })).toEqual(["usr_1", "usr_1"]);
    expect(users({ host: "b.example:443" })).toEqual(["usr_2"]);
    expect(users({ userId: "usr_1", endpointId: "main" })).toEqual(["usr_1", "usr_1"]);
    expect(users({ endpointId: "other" })).toEqual([]);
    expect(failed.list({ userId: "usr_1" })[0]).toMatchObject({
      ...{ endpoint: "https://a.example:8443/in", endpointId: "main", host: "a.example:8443" },
    });
  });

  test("are redelivered by host and by id", async () => {
    await register("usr_1", "main", "https://a.example/in");
    await register("usr_1", "other", "https://b.example/in");
    await fail([...(await add(2, "usr_1", "main")), ...(await add(1, "usr_1", "other"))]);
    const { count, jobs } = await run("redeliver", "--failed", "--host", "b.example", "--dry-run");
    expect([count, jobs[0].endpoint, jobs[0].endpoint_id]).toEqual([1, "https://b.example/in", "other"]);
    expect(await run("redeliver", "--failed", "--user", "usr_1", "--endpoint", "main", "--yes")).toMatchObject({
      code: 0,
    });
    expect(await client.llen(key("wait"))).toBe(2);
  });
});

test("a test event goes to the endpoint to which an event went that named none, and to no other of its user", async () => {
  const data = { userId: "usr_1", data: { n: 1 } };
  const [kept, free] = await queue.addBulk([1, 2].map(() => ({ name: "file.created", data })));
  await client.hset(key(kept?.id as string), PINNED_FIELD, "main");
  const send = (job: typeof kept) => sendTestEvent(shards[0], job?.id as string, "usr_1", Date.now(), "file.created");
  const id = (await send(kept)) as string;
  expect((await queue.getJob(id))?.data.endpoint).toEqual({ id: "main" });
  const error = await send(free).catch((reason: Error) => reason);
  expect(error).toBeInstanceOf(ContractError);
});

test("an event that names no endpoint is listed, shown and masked without an error", async () => {
  const data = { userId: "usr_1", data: { secret: "hush-hush-hush", n: 1 } };
  const job = await queue.add("file.created", data);
  expect(describeJob(job, "waiting", "3/")).toMatchObject({ job: `3/${job.id}`, user: "usr_1", endpoint: null });
  const payload = describePayload(job, Date.now());
  expect(payload).toHaveProperty("head", expect.stringMatching(/^POST <the endpoint's path> HTTP.1\.1\nHost: <the/));
  expect(payload).toHaveProperty("head", expect.stringMatching(/\n<headers of the endpoint's own, if it has some>$/));
  expect(maskSecrets({ data })).toMatchObject({ data: { userId: "usr_1" } });
  await fail([job.id as string]);
  const failed = createFailedEvents(shards);
  await failed.refresh();
  expect(failed.list()).toMatchObject([
    { userId: "usr_1", endpoint: undefined, endpointId: undefined, host: undefined },
  ]);
  expect(failed.list({ host: "a.example" })).toEqual([]);
  const summary = await readShardSummary(shards[0], shards, Date.now(), { keepCompleted: 10, keepFailed: 10 });
  expect(summary.failures).toMatchObject([{ userId: "usr_1", host: undefined, endpointId: undefined }]);
});

test("the search for a host finds pending and failed events of registered endpoints", async () => {
  await register("usr_1", "main", "https://a.example/in");
  const [, failed] = await add(2, "usr_1", "main");
  await fail([failed as string]);
  const search = createSearch({ shards, failed: createFailedEvents(shards) });
  const { finds } = await search("a.example");
  expect(finds).toMatchObject([{ kind: "host", host: "a.example", failed: 1, pending: 1 }]);
});

test("endpoints that are to be moved to another shard are found where they were", async () => {
  const all = [0, 1].map((index) => {
    const shard = { index, queue: `filters-${index}`, url: "", tag: `{${index}}:`, label: `${index}/`, before: 1 };
    return openShard(shard, client);
  }) as [OpenShard, OpenShard];
  const users = ["usr_1", "usr_2", "usr_3", "usr_4"];
  for (const userId of users) {
    const { tag } = all[0];
    await createRegistry(client, { allowPlain: true, tag }).create(userId, { id: "main", url: "https://a.example/in" });
  }
  expect(new Set(users.map((userId) => homeAmong(all, userId))).size).toBe(2);
  const jobs: FilteredJob[] = users.map((userId) => ({
    name: "file.created",
    data: { userId, endpoint: { id: "main" } },
  }));
  const located = await createLocateJobs(all)(jobs);
  expect(located.map(({ registeredUrl }) => registeredUrl?.host)).toEqual(users.map(() => "a.example"));
});
