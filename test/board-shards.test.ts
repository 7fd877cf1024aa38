/** The board over the six shards of a cluster: what it shows of all, does in the right one, and says while some are away. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Worker } from "bullmq";
import { createBoardApp } from "../src/board/app.ts";
import { type Cluster, type ClusterNode, startCluster } from "../src/dev/cluster.ts";
import type { Attempt } from "../src/log/attempt.ts";
import { createAttemptLog } from "../src/log/attempts.ts";
import { createBoardMetrics } from "../src/monitoring/queue-metrics.ts";
import { createFailedEvents } from "../src/operations/failed-events.ts";
import { isCursor } from "../src/operations/log-search.ts";
import { createSearch } from "../src/operations/search.ts";
import { type OpenShard, type OpenShards, openShard } from "../src/queue/open-shard.ts";
import { logKey } from "../src/queue/own-keys.ts";
import { homeOf, shardsOf } from "../src/queue/shards.ts";
import { createRegistry } from "../src/registry/registry.ts";
import { createLogger } from "../src/runtime/logger.ts";
import { slotOf } from "../src/valkey/cluster.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { BOARD_DEFAULTS, startBoardProcess } from "./support/board.ts";
import { eventually, jobData } from "./support/stack.ts";

const SHARDS = 6;
const START_MS = 60_000;
const { logger } = createLogger("silent");
let cluster: Cluster;
let shards: OpenShards;
let app: ReturnType<typeof createBoardApp>;

beforeAll(async () => {
  cluster = await startCluster({ replicas: 0 });
  shards = shardsOf({ queue: "webhooks", shards: SHARDS, valkeyUrls: [cluster.url] }).map((shard) =>
    openShard(shard, connectValkey(shard.url, "test:board", logger, { key: shard.queue })),
  ) as unknown as OpenShards;
  const watched = shards.map(({ client, ...shard }) => ({ ...shard, queue: client }));
  const registry = createBoardMetrics(watched, BOARD_DEFAULTS);
  app = createBoardApp({ config: BOARD_DEFAULTS, shards, registry, logger });
}, START_MS);
afterAll(async () => {
  for (const { valkey } of shards ?? []) valkey.disconnect();
  await cluster?.stop();
});

const at = (index: number): OpenShard => shards[index] as OpenShard;
const ask = (path: string) => app.request(path, { headers: { accept: "text/html" } });
const read = async (path: string) => await (await ask(path)).text();
const json = async <T>(path: string) => (await (await app.request(path)).json()) as T;
const post = (path: string, form: Record<string, string>) =>
  app.request(path, {
    method: "POST",
    body: new URLSearchParams(form),
    headers: { accept: "text/html", "sec-fetch-site": "same-origin" },
  });
const count = (text: string, part: string) => text.split(part).length - 1;

/** A user whose home is this shard. */
function userOf(index: number): string {
  for (;;) {
    const userId = `usr_${crypto.randomUUID()}`;
    if (homeOf(userId, SHARDS) === index) return userId;
  }
}

interface Made {
  readonly id: string;
  readonly job: string;
  readonly userId: string;
  /** With its shard's label. */
  readonly name: string;
}

/** An event in a shard. */
async function add(
  index: number,
  { userId = userOf(index), url = "https://a.example/in", delay = 0 } = {},
): Promise<Made> {
  const id = crypto.randomUUID();
  const job = await at(index).client.add("file.created", { ...jobData(url, { userId }), id }, { delay });
  return { id, job: job.id as string, userId, name: `${index}/${job.id}` };
}

/** An event that failed in a shard. */
async function fail(index: number, given?: Parameters<typeof add>[1], reason = "HTTP 410"): Promise<Made> {
  const made = await add(index, given);
  const worker = new Worker(at(index).queue, null, { connection: at(index).valkey });
  const job = await worker.getNextJob("token", { block: false });
  expect(job?.id).toBe(made.job);
  await job?.moveToFailed(new Error(reason), "token");
  await worker.close();
  return made;
}

/** An attempt in a shard's log. */
async function logAttempt(index: number, { id, name, userId }: Made, secondsAgo: number): Promise<Attempt> {
  const attempt = {
    ...{
      id,
      delivery: crypto.randomUUID(),
      attempt: 1,
      timestamp: new Date(Date.now() - secondsAgo * 1000).toISOString(),
    },
    ...{ endpoint: "https://a.example/in", event: "file.created", status_code: 410, duration_ms: 5, success: false },
    ...{ error: "http_410", job: name },
  };
  await createAttemptLog(at(index).valkey, { tag: at(index).tag }).record(userId, attempt);
  return attempt;
}

const empty = () => Promise.all(shards.map(({ client }) => client.obliterate({ force: true })));

describe("with all shards there", () => {
  test("the overview adds up all shards, and has a row for each that leads to Bull Board", async () => {
    await empty();
    const failed = [await fail(1), await fail(4)];
    await add(2, { delay: 60_000 });
    await add(5);
    const html = await read("/");
    expect(html).not.toContain('id="away"');
    expect(html).toContain("No workers are connected");
    expect(html).toContain('<span class="nav-count">2</span>');
    for (const { name, job } of failed) {
      const [index] = name.split("/");
      expect(html).toContain(`href="/board/queue/webhooks-%7B${index}%7D/${job}" title="${name}"`);
    }
    expect(count(html, '<tr id="shard-')).toBe(SHARDS);
    expect(html).toContain('<a href="/board/queue/webhooks-%7B2%7D?status=delayed">1</a>');
    expect(html).toContain('<a href="/board/queue/webhooks-%7B4%7D?status=failed">1</a>');
    expect(html).toContain('<a href="/board/queue/webhooks-%7B5%7D">5</a>');
  });

  test("the overview names a shard where events wait and no worker is", async () => {
    await empty();
    await add(5);
    const serving = [0, 1, 2, 3, 4].map((index) => {
      const worker = new Worker(at(index).queue, async () => {}, { connection: at(index).valkey });
      worker.on("error", () => {});
      return worker;
    });
    await Promise.all(serving.map((worker) => worker.waitUntilReady()));
    const html = await eventually(
      () => read("/"),
      (page) => page.includes("which nobody serves"),
    );
    expect(html).toContain("Events wait in shard 5, which nobody serves.");
    expect(html).not.toContain("No workers are connected");
    await Promise.all(serving.map((worker) => worker.close()));
  });

  test("a paused shard is named", async () => {
    await at(3).client.pause();
    expect(await read("/")).toContain("The queue is paused in shard 3: nothing is being delivered from there");
    await at(3).client.resume();
  });

  test("a user's page shows the attempts of all shards, the newest first, and the pending events", async () => {
    await empty();
    const userId = userOf(2);
    const old = await fail(0, { userId });
    const young = await fail(2, { userId });
    const waiting = await add(4, { userId });
    await logAttempt(0, { ...old, name: old.job }, 40); // as from the time before there were shards
    await logAttempt(0, old, 30);
    await logAttempt(2, young, 10);
    const html = await read(`/users/${userId}`);
    expect([count(html, 'class="attempt"'), count(html, '<li class="delivery')]).toEqual([3, 2]);
    expect(html.indexOf(`id="e-${young.id}-${young.name}"`)).toBeLessThan(html.indexOf(`id="e-${old.id}-${old.name}"`));
    expect(count(html, '<p class="state bad"')).toBe(2); // both jobs were found where they are
    expect(html).toContain(`id="p-${waiting.name}"`);
    expect(html).toContain(`/users/${userId}/events/4%2F${waiting.job}?id=${waiting.id}`);
    expect(html).not.toContain('id="more-failed"');
  });

  test("the API's pages go on across shards", async () => {
    const userId = userOf(3);
    const made = { id: crypto.randomUUID(), job: "1", userId };
    const kept: Attempt[] = [];
    for (const [n, index] of [3, 1, 3, 5].entries()) {
      kept.unshift(await logAttempt(index, { ...made, name: `${index}/1` }, 40 - n * 10));
    }
    const found: string[] = [];
    let before = "";
    do {
      const path = `/users/${userId}/attempts?limit=1${before}`;
      const { attempts, next, missing_shards } = await json<{
        attempts: Attempt[];
        next?: string;
        missing_shards?: [];
      }>(path);
      expect([attempts.length, missing_shards]).toEqual([1, undefined]);
      found.push(...attempts.map(({ delivery }) => delivery));
      before = next === undefined ? "" : `&before=${next}`;
    } while (before !== "");
    expect(found).toEqual(kept.map(({ delivery }) => delivery));
  });

  test("of jobs with the same id in two shards, each is shown and redelivered where it is", async () => {
    await empty();
    const here = await fail(1, { url: "https://here.example/in" });
    const there = await fail(4, { url: "https://there.example/in", userId: here.userId });
    expect(there.job).toBe(here.job);
    const path = ({ name, id }: Made) => `/users/${here.userId}/events/${encodeURIComponent(name)}?id=${id}`;
    expect(await read(path(here))).toContain("here.example");
    expect(await read(path(there))).toContain("there.example");
    const wrong = { user: here.userId, job: there.name, event: here.id };
    expect((await post("/actions/redeliver", wrong)).headers.get("location")).toContain("notice=gone");
    const right = { ...wrong, event: there.id };
    expect((await post("/actions/redeliver", right)).headers.get("location")).toContain("notice=queued");
    expect(await at(4).client.getJobState(there.job)).toBe("waiting");
    expect(await at(1).client.getJobState(here.job)).toBe("failed");
    for (const job of ["9/1", "nowhere", "1/", "/"]) {
      expect((await post("/actions/redeliver", { ...right, job })).headers.get("location")).toContain("notice=gone");
    }
  });

  test("a test event goes into the shard of the job that it is like", async () => {
    await empty();
    const { userId, name } = await fail(3);
    const sent = await post("/actions/test", { user: userId, job: name });
    expect(sent.headers.get("location")).toContain("notice=test");
    expect(await Promise.all(shards.map(({ client }) => client.getWaitingCount()))).toEqual([0, 0, 0, 1, 0, 0]);
  });

  test("the failed events of all shards are one list, newest first, with totals, filters and a redelivery of all", async () => {
    await empty();
    const made = [await fail(0), await fail(5), await fail(2, {}, "HTTP 404"), await fail(5)];
    const html = await read("/failed");
    const positions = made.map(({ name }) => html.indexOf(`id="f-${name}"`));
    expect(positions).toEqual(positions.toSorted((a, b) => b - a));
    expect(Math.min(...positions)).toBeGreaterThan(0);
    expect(html).toContain("4 events kept");
    expect(count(await read("/failed?reason=HTTP+410"), '<li id="f-')).toBe(3);
    const preview = await read("/failed/redeliver?of=selected&job=5%2F1&job=2%2F1");
    expect(preview).toContain("2 events would be redelivered");
    expect(preview).toContain('<input type="hidden" name="job" value="5/1"/>');
    const started = await post("/actions/redeliver-failed", { reason: "HTTP 410", to: new Date().toISOString() });
    const run = started.headers.get("location") as string;
    expect(
      await eventually(
        () => read(run),
        (page) => page.includes("Redelivered:"),
      ),
    ).toContain("3 of 3 events");
    const states = made.map(({ job }, n) => at([0, 5, 2, 5][n] as number).client.getJobState(job));
    expect(await Promise.all(states)).toEqual(["waiting", "waiting", "failed", "waiting"]);
  });

  test("pages of a long list of failed events hold each event once", async () => {
    await empty();
    const made: string[] = [];
    for (let n = 0; n < 60; n++) made.push((await fail(n % SHARDS)).name);
    const pages = [await read("/failed"), await read("/failed?page=2")];
    const names = pages.flatMap((page) => [...page.matchAll(/<li id="f-([^"]+)"/g)].map(([, name]) => name as string));
    expect(names.length).toBe(60);
    expect(names.toSorted()).toEqual(made.toSorted());
  });

  test("the search finds events, users and jobs in any shard", async () => {
    await empty();
    const here = await fail(1);
    const there = await add(4, { url: "https://found.example/in" });
    const to = async (q: string) => (await ask(`/search?${new URLSearchParams({ q })}`)).headers.get("location");
    expect(await to(there.userId)).toBe(`/users/${there.userId}`);
    expect(await to(here.id)).toBe(`/failed?id=${here.id}`);
    expect(await to(`job ${there.name}`)).toContain(`/users/${there.userId}?id=${there.id}&notice=found-job`);
    const both = await read("/search?q=1");
    expect([both.includes(">1/1<"), both.includes(">4/1<")]).toEqual([true, true]);
    expect(await read("/search?q=found.example")).toContain("job 4/1");
    const gone = { ...here, id: crypto.randomUUID(), job: "77", name: "5/77" };
    const { delivery } = await logAttempt(5, gone, 1);
    expect(await to(delivery)).toContain(`/users/${gone.userId}?id=${gone.id}`);
    expect(await to("5/77")).toContain(`/users/${gone.userId}?id=${gone.id}`);
    expect(await read(`/search?q=${crypto.randomUUID()}`)).toMatch(/Searched [\d,]+ kept jobs and [\d,]+ logs/);
  });

  test("the search finds the endpoints with an id in all shards", async () => {
    const id = `all-${Date.now()}`;
    const userIds = shards.map(({ index }) => userOf(index));
    for (const [index, userId] of userIds.entries()) {
      const registry = createRegistry(at(index).valkey, { tag: at(index).tag, allowPlain: true });
      await registry.create(userId, { id, url: "https://a.example/in" });
    }
    const html = await read(`/search?q=${id}`);
    for (const userId of userIds) expect(html).toContain(`<a href="/users/${userId}/endpoints/${id}">${id}</a>`);
  });

  test("a search of many logs that is cut off goes on where it ended, in each shard", async () => {
    await empty();
    const pipeline = at(4).valkey.pipeline();
    const userIds = Array.from({ length: 4_000 }, (_, n) => `usr_many_${n}`);
    const keys = userIds.map((userId) => logKey(userId, at(4).tag));
    for (const key of keys) pipeline.zadd(key, 1, JSON.stringify({ id: crypto.randomUUID(), delivery: "d" }));
    await pipeline.exec();
    const search = createSearch({ shards, failed: createFailedEvents(shards) });
    let [next, searched, rounds] = [undefined as string | undefined, 0, 0];
    do {
      expect(next === undefined || isCursor(next)).toBe(true);
      const { finds, logs, next: from } = await search(crypto.randomUUID(), { from: next, budgetMs: 0 });
      expect(finds).toEqual([]);
      if (next?.startsWith("4/") && from?.startsWith("4/")) {
        expect(logs?.total).toBeWithin(SHARDS * 2_000, SHARDS * 8_000); // as if all shards had as many
      }
      searched += logs?.searched ?? 0;
      next = from;
      rounds += 1;
    } while (next !== undefined && rounds < 100);
    expect(rounds).toBeWithin(SHARDS + 3, 40);
    expect(searched).toBeGreaterThanOrEqual(4_000);
    await at(4).valkey.del(...keys);
  });

  test("Bull Board lists the queue of each shard, with secrets masked in all", async () => {
    await empty();
    const { job } = await add(4, { url: "https://a.example/in?key=token-of-the-customer" });
    const { queues } = await json<{ queues: { name: string; counts: Record<string, number> }[] }>("/board/api/queues");
    expect(queues.map(({ name }) => name)).toEqual(shards.map(({ queue }) => queue));
    expect(queues.map(({ counts }) => counts.waiting)).toEqual([0, 0, 0, 0, 1, 0]);
    const text = await read(`/board/api/queues/${encodeURIComponent(at(4).queue)}/${job}`);
    expect(text).toContain("https://a.example/in?***");
    expect(text).not.toContain("token-of-the-customer");
    const added = await app.request(`/board/api/queues/${encodeURIComponent(at(4).queue)}/add`, {
      ...{ method: "POST", body: "{}", headers: { "content-type": "application/json" } },
    });
    expect(added.status).toBe(403);
  });

  test("is ready, and its metrics name the shard", async () => {
    await eventually(
      () => read("/readyz"),
      (text) => text === '{"status":"ready"}',
    );
    const metrics = await read("/metrics");
    expect(metrics).toContain('fluxhook_jobs{state="waiting",shard="4"} 1');
    expect(count(metrics, 'fluxhook_valkey_up{shard="')).toBe(SHARDS);
  });
});

test("the process starts over all shards", async () => {
  const board = await startBoardProcess({ VALKEY_URL: cluster.url, WEBHOOK_SHARDS: `${SHARDS}` });
  const ask = async (path: string) => await (await fetch(`http://127.0.0.1:${board.port}${path}`)).text();
  await eventually(
    () => ask("/readyz"),
    (text) => text === '{"status":"ready"}',
  );
  expect(count(await ask("/"), '<tr id="shard-')).toBe(SHARDS);
  expect(board.output()).toContain(`"shards":${SHARDS}`);
  await board.stop();
});

test("shards that are there but silent keep no page waiting for long, and are back when they answer", async () => {
  const nodes = await Promise.all(shards.map(({ queue }) => cluster.ownerOf(slotOf(queue))));
  const node = nodes.find((one) => one !== nodes[0]) as ClusterNode;
  process.kill(node.pid, "SIGSTOP");
  try {
    const startedAt = performance.now();
    expect(await read("/")).toContain('id="away"');
    expect(performance.now() - startedAt).toBeLessThan(5_000); // of which it waits 1.5 s
  } finally {
    process.kill(node.pid, "SIGCONT");
  }
  await eventually(
    () => read("/"),
    (page) => !page.includes('id="away"'),
  );
});

describe("with the node of some shards away", () => {
  let gone: OpenShard[];
  let left: OpenShard[];

  beforeAll(async () => {
    await empty();
    const nodes = await Promise.all(shards.map(({ queue }) => cluster.ownerOf(slotOf(queue))));
    const node = nodes.find((one) => one !== nodes[0]) as ClusterNode;
    gone = shards.filter((_, index) => nodes[index] === node);
    left = shards.filter((_, index) => nodes[index] !== node);
    for (const { index } of shards) await fail(index);
    await node.stop();
    await eventually(
      () => read("/"),
      (page) => page.includes('id="away"'),
    );
  }, START_MS);

  const names = () =>
    gone
      .map(({ index }) => `${index}`)
      .join(", ")
      .replace(/, (?=\d$)/, " and ");

  test("pages show the events of the others, and say which shards are missing", async () => {
    const notice =
      gone.length === 1 ? `Shard ${names()} does not answer: its` : `Shards ${names()} do not answer: their`;
    const paths = ["/", "/failed", "/search?q=nothing", `/users/${userOf(0)}`];
    for (const path of paths) expect(await read(path)).toContain(`${notice} events are missing here.`);
    const overview = await read("/");
    expect(count(overview, '<tr id="shard-')).toBe(left.length);
    expect(overview).toContain("events are not being delivered. <small>Find out why");
    const failed = await read("/failed");
    for (const { index } of left) expect(failed).toContain(`id="f-${index}/`);
    for (const { index } of gone) expect(failed).not.toContain(`id="f-${index}/`);
  });

  test("what needs one of them is refused, and changes nothing", async () => {
    const [{ index }] = gone as [OpenShard];
    const refused = await post("/actions/redeliver", { user: userOf(index), job: `${index}/1` });
    expect([refused.status, await refused.text()]).toEqual([
      503,
      expect.stringContaining(`Shard ${index} does not answer`),
    ]);
    expect((await ask(`/users/${userOf(index)}/events/${index}%2F1`)).status).toBe(503);
  });

  test("the API refuses for users whose home is away, and names what is missing for the others", async () => {
    const [{ index }] = gone as [OpenShard];
    const refused = await app.request(`/users/${userOf(index)}/attempts`);
    expect([refused.status, await refused.json()]).toEqual([503, { error: `shard ${index} does not answer` }]);
    const missing = gone.map((shard) => `${shard.index}`);
    expect(await json<object>(`/users/${userOf(0)}/attempts`)).toEqual({ attempts: [], missing_shards: missing });
  });

  test("Bull Board lists the others", async () => {
    const { queues } = await json<{ queues: { name: string }[] }>("/board/api/queues");
    expect(queues.map(({ name }) => name)).toEqual(left.map(({ queue }) => queue));
    const [{ queue }] = gone as [OpenShard];
    expect((await app.request(`/board/api/queues/${encodeURIComponent(queue)}/1`)).status).toBe(404);
    expect((await app.request("/board/api/redis/stats")).status).toBe(200);
  });

  test("is ready for what the others have, with the shards that are away named", async () => {
    const response = await app.request("/readyz");
    const problems = gone.map(({ index }) => `shard ${index}: Valkey does not answer`);
    expect([response.status, await response.json()]).toEqual([200, { status: "ready", problems }]);
  });
  test("without the first shard, pages say that Valkey does not answer", async () => {
    const node = (await cluster.ownerOf(slotOf(at(0).queue))) as ClusterNode;
    await node.stop();
    const statuses: number[] = [];
    const page = await eventually(
      async () => {
        const response = await ask("/");
        statuses.push(response.status);
        return await response.text();
      },
      (text) => text.includes("<h1>Valkey does not answer</h1>"),
    );
    expect(page).not.toContain('id="away"');
    expect(statuses.at(-1)).toBe(503);
  });
});
