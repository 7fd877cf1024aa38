import { afterAll, describe, expect, test } from "bun:test";
import { Registry } from "prom-client";
import { type BoardConfig, createBoardApp } from "../src/board/app.ts";
import { startReceiver } from "../src/dev/receiver.ts";
import type { Attempt, KeptResponse } from "../src/log/attempts.ts";
import { createAttemptLog } from "../src/log/attempts.ts";
import { redeliver } from "../src/operations/redeliver.ts";
import { DELAYED_SCORE_PER_MS } from "../src/queue/layout.ts";
import { openQueue, type Queue } from "../src/queue/worker.ts";
import { createLogger } from "../src/runtime/logger.ts";
import { BOARD_DEFAULTS } from "./support/board.ts";
import { onlyShard } from "./support/only-shard.ts";
import { eventually, jobData, QUICK, startStack } from "./support/stack.ts";

const BUSY_MS = 30_000; // for what takes half a second, on a machine that may be busy
const SECRET = "s3cret-of-the-test";
const stack = await startStack({ policy: { ...QUICK, attempts: 1 } });
const idle = await startStack({ isIdle: true });
const receiver = await startReceiver();

function buildApp({ queue, valkey } = stack, config: Partial<BoardConfig> = {}) {
  return createApp(openQueue(queue.name, valkey), valkey, config);
}

function createApp(queue: Queue, valkey = stack.valkey, config: Partial<BoardConfig> = {}) {
  return createBoardApp({
    config: { ...BOARD_DEFAULTS, ...config },
    shards: [{ ...onlyShard(queue.name, valkey)[0], client: queue }],
    registry: new Registry(),
    logger: createLogger("silent").logger,
  });
}
const app = buildApp();
const idleApp = buildApp(idle);

afterAll(async () => {
  await receiver.stop();
  await Promise.all([stack.stop(), idle.stop()]);
});

const read = async (path: string, from = app) => {
  const response = await from.request(path, { headers: { accept: "text/html" } });
  return { status: response.status, html: await response.text() };
};
const newUser = () => `usr_${crypto.randomUUID()}`;
const count = (text: string, part: string | RegExp) => [...text.matchAll(new RegExp(part, "g"))].length;

/** The text of a page's element with this id, as a reader sees it. */
async function textOf(html: string, id: string): Promise<string> {
  let text = "";
  await new HTMLRewriter()
    .on(`[id="${id}"]`, {
      text({ text: piece }) {
        text += piece;
      },
    })
    .transform(new Response(html))
    .text();
  const entities: Record<string, string> = { lt: "<", gt: ">", amp: "&", quot: '"', "#39": "'" };
  return text.replaceAll(/&(lt|gt|amp|quot|#39);/g, (_, name) => entities[name] as string);
}

/** Write attempts into a user's log, oldest first. */
async function record(userId: string, ...attempts: Partial<Attempt>[]): Promise<void> {
  const log = createAttemptLog(stack.valkey, { logSize: 1_000 });
  for (const attempt of attempts) {
    await log.record(userId, {
      ...{ id: crypto.randomUUID(), delivery: crypto.randomUUID(), attempt: 1, timestamp: new Date().toISOString() },
      ...{ endpoint: "https://a.example/hook", event: "file.created", status_code: 503, duration_ms: 12, job: "none" },
      ...{ success: false, error: "http_503" },
      ...attempt,
    });
  }
}
const DELIVERED = { success: true, error: null, status_code: 200 };

describe("what is pending on a user's page", () => {
  test("shows events that wait, are due later, or are held back, and no other user's", async () => {
    const userId = newUser();
    const url = "https://held.example/hook?key=token-in-the-query";
    const add = (event: string, options = {}, user = userId) =>
      idle.queue.add(event, jobData(url, { userId: user }), options);
    const waiting = await add("file.created");
    await add("file.deleted", { delay: 2 * 3_600_000 + 30_000 });
    const held = await add("share.linked", { delay: 570_000 });
    await add("org.updated", {}, newUser());
    const score = await idle.valkey.zscore(idle.queue.toKey("delayed"), held.id as string);
    const dueAt = Number(score) / DELAYED_SCORE_PER_MS;
    await idle.valkey.hset(idle.queue.toKey(held.id as string), "parked", Math.floor(dueAt));
    await idle.valkey.zadd(`webhooks:circuits:${idle.queue.name}`, Date.now() + 60_000, "held.example");

    const { html } = await read(`/users/${userId}`, idleApp);
    const text = await textOf(html, "pending");
    expect(text).toContain("3 pending");
    expect(await textOf(html, `p-${waiting.id}`)).toMatch(/file\.created.*held\.example.*\/hook.*Waiting/s);
    expect(await textOf(html, `p-${held.id}`)).toMatch(/the circuit is open.*Held back, next try in 9 min/s);
    expect(text).toContain("Due in 2 h");
    expect(text).not.toContain("org.updated");
    expect(count(html, "Deliver now")).toBe(2);
    expect(html).not.toContain("No attempts");
    expect(html).not.toContain("token-in-the-query");
    expect(html).not.toContain(SECRET);
  });

  test("finds a user however the producer's JSON is written", async () => {
    const userId = `a/b"${crypto.randomUUID()}`;
    const job = await idle.queue.add("file.created", jobData("https://a.example/", { userId }));
    const php = JSON.stringify(job.data).replaceAll("/", "\\/");
    await idle.valkey.hset(idle.queue.toKey(job.id as string), "data", php);
    const plain = newUser();
    const other = await idle.queue.add("file.deleted", jobData("https://a.example/", { userId: plain }));
    const python = JSON.stringify(other.data).replaceAll('":', '": ');
    await idle.valkey.hset(idle.queue.toKey(other.id as string), "data", python);
    // Text that only looks like it.
    const decoy = jobData("https://a.example/", { data: { userId: plain } });
    await idle.queue.add("share.linked", decoy);
    for (const [user, event] of [
      [userId, "file.created"],
      [plain, "file.deleted"],
    ] as const) {
      const text = await textOf((await read(`/users/${encodeURIComponent(user)}`, idleApp)).html, "pending");
      expect(text).toContain("1 pending");
      expect(text).toContain(event);
    }
  });

  test("leaves out what the log shows already, such as an event that waits for its retry", async () => {
    const retried = await startStack({ policy: { attempts: 2, delaysMs: [3_600_000], jitter: 0 } });
    receiver.answer({ status: 500 });
    const job = await retried.queue.add("file.created", jobData(receiver.url()));
    await eventually(
      () => job.getState(),
      (state) => state === "delayed",
    );
    const { html } = await read(`/users/${job.data.userId}`, buildApp(retried));
    expect(html).toContain("Retrying in 59 min");
    expect(html).not.toContain('id="pending"');
    await retried.stop();
  });
});

test("a look at more jobs than it may read says how many it saw", async () => {
  const queue = openQueue(`test-${crypto.randomUUID()}`, idle.valkey);
  const userId = newUser();
  const [first] = await queue.addBulk([{ name: "file.created", data: jobData("https://a.example/", { userId }) }]);
  const others = Array.from({ length: 6_000 }, (_, n) => `other-${n}`);
  await idle.valkey.lpush(queue.toKey("wait"), ...others);
  await idle.valkey.zadd(queue.toKey("failed"), ...others.flatMap((id, n) => [n, id]));
  const partial = buildApp({ ...idle, queue });
  const { html } = await eventually(
    () => read(`/users/${userId}`, partial),
    (page) => page.html.includes("5,000 of 6,001 waiting, delayed and active ones"), // a look ends after half a second, too
    BUSY_MS,
  );
  expect(await textOf(html, "more-failed")).toContain("among the latest 5,000 of 6,000 failed jobs");
  await idle.valkey.lpush(queue.toKey("wait"), first?.id as string);
  await eventually(
    async () => await textOf((await read(`/users/${userId}`, partial)).html, "pending"),
    (text) => /1\+ pending.*looked at 5,000 of 6,002 waiting/s.test(text),
    BUSY_MS,
  );
  await queue.close();
});

test("a large list of jobs does not hide the others", async () => {
  const queue = openQueue(`test-${crypto.randomUUID()}`, idle.valkey);
  const userId = newUser();
  await queue.add("file.created", jobData("https://a.example/", { userId }), { delay: 60_000 });
  await idle.valkey.lpush(queue.toKey("wait"), ...Array.from({ length: 6_000 }, (_, n) => `other-${n}`));
  const { html } = await read(`/users/${userId}`, buildApp({ ...idle, queue }));
  expect(await textOf(html, "pending")).toContain("1+ pending");
  await queue.close();
});

describe("the payload of a kept job", () => {
  const payloadOf = async (job: { id?: string | undefined; data: { userId: string } }, from = app) =>
    await read(`/users/${encodeURIComponent(job.data.userId)}/events/${job.id}`, from);

  test("is the body that the endpoint gets, byte for byte, with the request's headers", async () => {
    receiver.answer({ status: 200 });
    const job = await stack.queue.add(
      "file.created",
      jobData(receiver.url("/hook?key=token-in-the-query"), { data: { name: "<b>Übersicht & Co.</b>", bytes: 12 } }),
    );
    const exact = JSON.stringify(job.data).replace('"bytes":12', '"bytes":9007199254740993,"share":1.10');
    await stack.valkey.hset(stack.queue.toKey(job.id as string), "data", exact);
    await stack.settled(job);
    await redeliver(openQueue(stack.queue.name, stack.valkey), job.id as string); // what was changed is sent for certain
    await stack.settled(job);
    const sent = receiver.requests.at(-1) ?? expect.unreachable();
    const { status, html } = await payloadOf(job);
    expect(status).toBe(200);
    const body = await textOf(html, "body");
    expect(body).toBe(sent.body.toString());
    expect(body).toContain('"bytes":9007199254740993,"share":1.10');
    expect(html).toContain("exactly what the endpoint gets");
    expect(html).toContain(`${sent.body.length} bytes`);
    const head = await textOf(html, "request");
    expect(head).toStartWith("POST /hook?*** HTTP/1.1\nHost: 127.0.0.1");
    for (const name of ["content-type", "content-length", "x-fluxdrop-event", "webhook-id"]) {
      expect(head.toLowerCase()).toContain(`${name}: ${sent.headers[name]}`.toLowerCase());
    }
    for (const name of ["x-fluxdrop-signature", "webhook-signature"]) {
      expect(head.toLowerCase()).toContain(`${name}: <not shown>`);
    }
    expect(html).not.toContain("token-in-the-query");
  });

  test("has no secrets in it, sealed ones neither, and says that some are masked", async () => {
    const data = {
      secret: "hunter2-of-the-customer",
      note: SECRET,
      link: "https://a.example/get?token=t0ken-of-a-link",
    };
    const job = await idle.queue.add("share.linked", jobData("https://a.example/", { data }));
    const { html } = await payloadOf(job, idleApp);
    expect(await textOf(html, "body")).toContain(
      '"data":{"secret":"***","note":"***","link":"https://a.example/get?***"}}',
    );
    expect(html).toContain("masked with ***");
    for (const secret of ["hunter2", SECRET, "t0ken"]) expect(html).not.toContain(secret);
    const sealed = jobData("https://a.example/", {
      endpoint: { url: "https://a.example/", secret: `sealed:v1:${"A".repeat(64)}` },
    });
    const other = await payloadOf(await idle.queue.add("share.linked", sealed), idleApp);
    expect(await textOf(other.html, "body")).toContain('"event":"share.linked"');
    expect(other.html).not.toContain("sealed:v1");
  });

  test("is cut off when it is large, and makes text of what would reorder a line", async () => {
    const data = { name: "photo\u202egpj.exe", text: "x".repeat(400_000) };
    const { html } = await payloadOf(
      await idle.queue.add("file.created", jobData("https://a.example/", { data })),
      idleApp,
    );
    expect(await textOf(html, "body")).toContain('"name":"photo\\u202egpj.exe"');
    expect(html).toContain("Only the beginning is shown.");
    expect(html.length).toBeLessThan(300_000);
  });

  test("is withheld when there is too much of it to search for secrets", async () => {
    const job = await idle.queue.add(
      "file.created",
      jobData("https://a.example/", { data: { text: "x".repeat(9_000_000) } }),
    );
    const { status, html } = await payloadOf(job, idleApp);
    expect(status).toBe(200);
    expect(await textOf(html, "body")).toContain("withheld");
    await job.remove();
  });

  test("is not available once the job is gone, for another user, or for another event of that job id", async () => {
    const job = await idle.queue.add("file.created", jobData("https://a.example/"));
    const path = `/users/${job.data.userId}/events/${job.id}`;
    expect((await read(`${path}?id=${crypto.randomUUID()}`, idleApp)).status).toBe(404);
    expect((await read(`/users/usr_other/events/${job.id}`, idleApp)).status).toBe(404);
    expect((await read(path, idleApp)).status).toBe(200);
    await job.remove();
    const { status, html } = await read(path, idleApp);
    expect(status).toBe(404);
    expect(html).toContain("is not kept any longer");
  });

  test.each([
    ["file.created", "ftp://a.example/", "data.endpoint.url"],
    ["a type\nwith a line break", "https://a.example/", "name"],
  ])("is not shown of an invalid event, which is never sent: its faults are (%j, %s)", async (event, url, field) => {
    const { status, html } = await payloadOf(await idle.queue.add(event, jobData(url)), idleApp);
    expect(status).toBe(200);
    expect(html).toContain("Not sent: the event is invalid");
    expect(html).toContain(`<b>${field}</b>`);
    expect(html).not.toContain(SECRET);
  });
});

test("an event that is delivered while the page is read is shown with the attempt that did", async () => {
  const userId = newUser();
  receiver.answer({ status: 500 });
  const job = await stack.queue.add("file.created", jobData(receiver.url(), { userId }));
  await stack.settled(job);
  receiver.answer({ status: 200 });
  const queue = openQueue(stack.queue.name, stack.valkey);
  const getJob = queue.getJob.bind(queue);
  let isRedelivered = false;
  queue.getJob = async (jobId) => {
    if (!isRedelivered) {
      isRedelivered = true;
      await redeliver(queue, job.id as string);
      await stack.settled(job);
    }
    return await getJob(jobId);
  };
  const { html } = await read(`/users/${userId}`, createApp(queue));
  expect(count(html, 'class="attempt"')).toBe(2);
  expect(html).toContain("Delivered</p>");
});

describe("the response of a failed attempt", () => {
  test("is shown as text, whatever it is", async () => {
    const userId = newUser();
    const response: KeptResponse = {
      status_line: "HTTP/1.1 503 <i>Down</i>",
      headers: { "content-type": "text/html", "retry-after": "30\u202e" },
      body: "<script>alert(1)</script>\r\n\tevil\u0000\u202ename\u001b[31m",
      is_truncated: true,
    };
    await record(userId, { delivery: "d-1", response }, { delivery: "d-2" });
    const { html } = await read(`/users/${userId}`);
    expect(await textOf(html, "t-d-1")).toBe(
      [
        "HTTP/1.1 503 <i>Down</i>",
        "content-type: text/html",
        "retry-after: 30\\u202e",
        "",
        "<script>alert(1)</script>",
        "\tevil\\u0000\\u202ename\\u001b[31m",
      ].join("\n"),
    );
    expect(html).toContain("Truncated: only the beginning");
    expect(html).not.toContain("<script>alert");
    expect(html).not.toContain('id="response-d-2"');
  });

  test("in a form of another version breaks nothing", async () => {
    const userId = newUser();
    await record(userId, { response: {} as KeptResponse }, { response: "?" as unknown as KeptResponse });
    await stack.valkey.zadd(`webhooks:responses:${userId}`, Date.now(), "[]");
    expect((await read(`/users/${userId}`)).status).toBe(200);
  });
});

describe("failed events that the log does not show", () => {
  test("are counted, with a link to them", async () => {
    const userId = newUser();
    receiver.answer({ status: 500 });
    const add = () => stack.queue.add("file.created", jobData(receiver.url(), { userId }));
    const jobs = [];
    for (let events = 0; events < 12; events++) jobs.push(await add());
    for (const job of jobs) await stack.settled(job);
    const { html } = await read(`/users/${userId}`); // the log has ten
    expect(await textOf(html, "more-failed")).toContain("2 more events failed and are not in the log below.");
    expect(html).toContain(`<a href="/failed?user=${userId}">`);
    await jobs[0]?.remove();
    expect(await textOf((await read(`/users/${userId}`)).html, "more-failed")).toContain("1 more event failed and is");
  });
});

describe("what operators sent by hand", () => {
  test("is marked, and not counted as the user's failures", async () => {
    const userId = newUser();
    receiver.answer({ status: 500 });
    const job = await stack.queue.add("share.linked", jobData(receiver.url(), { userId }));
    await stack.settled(job);
    for (let times = 0; times < 2; times++) {
      await redeliver(openQueue(stack.queue.name, stack.valkey), job.id as string);
      await stack.settled(job);
    }
    const form = new URLSearchParams({ user: userId, job: job.id as string });
    await app.request("/actions/test", { method: "POST", headers: { origin: "http://localhost" }, body: form });
    await eventually(
      () => stack.attempts(userId),
      (attempts) => attempts.length === 4,
    );
    const { html } = await read(`/users/${userId}`);
    expect(html).toContain("0 delivered, 1 failed; not counted: 2 after a redelivery, 1 test event<");
    expect(count(html, ">after a redelivery</span>")).toBe(2);
    expect(count(html, ">test event</span>")).toBe(1);
    expect(count(html, "bad by-hand")).toBe(3);
  });

  test("is recognized by attempts that count from 1 again, once the job is gone", async () => {
    const userId = newUser();
    const event = { id: "e", job: "gone" };
    await record(userId, { ...event, attempt: 1 }, { ...event, attempt: 2 }, { ...event, attempt: 1, ...DELIVERED });
    const { html } = await read(`/users/${userId}`);
    expect(html).toContain("0 delivered, 2 failed; not counted: 1 after a redelivery<");
  });

  test("is not what a worker repeats that died just after an attempt", async () => {
    const userId = newUser();
    const event = { id: "e", job: "gone" };
    await record(userId, { ...event, attempt: 1 }, { ...event, attempt: 1 });
    expect((await read(`/users/${userId}`)).html).toContain("0 delivered, 2 failed<");
  });
});

describe("the filter of a user's page", () => {
  const userId = newUser();
  const id = crypto.randomUUID();
  const prepared = record(
    userId,
    { id, event: "file.created", endpoint: "https://a.example/hook" },
    { event: "file.deleted", endpoint: "https://a.example/hook", ...DELIVERED },
    { event: "file.deleted", endpoint: "https://b.example/hook" },
  );

  test.each([
    [`endpoint=${encodeURIComponent("https://a.example/hook")}`, 2],
    ["event=file.deleted", 2],
    ["outcome=failed", 2],
    ["outcome=delivered&event=file.deleted", 1],
    [`id=%20${id.toUpperCase()}`, 1],
    ["outcome=delivered&event=file.created", 0],
  ])("shows what matches %s, and how much that is", async (query, events) => {
    await prepared;
    const { html } = await read(`/users/${userId}?${query}`);
    expect(count(html, 'class="delivery ')).toBe(events);
    expect(await textOf(html, "filter-result")).toStartWith(`Showing ${events} of 3 events`);
    expect(html).toContain(`<a href="/users/${userId}">Clear the filter</a>`);
    expect(html).toContain("1 delivered, 2 failed"); // of all
    expect(count(html, "No event matches the filter")).toBe(events === 0 ? 1 : 0);
  });

  test("keeps what was chosen in its form, and ignores what is no filter", async () => {
    await prepared;
    const { html } = await read(`/users/${userId}?outcome=failed&event=<b>&id=x`);
    expect(html).toContain('<option value="failed" selected="">');
    expect(html).toContain('<option value="&lt;b&gt;" selected="">');
    expect(html).toMatch(/name="id" value="x"/);
    expect(html).toContain(`href="/search?q=x"`);
    const without = await read(`/users/${userId}?outcome=whatever&event=&id=%20&endpoint=${"x".repeat(3_000)}`);
    expect(without.html).not.toContain("filter-result");
    expect(count(without.html, 'class="delivery ')).toBe(3);
  });

  test("is kept by an action, as far as it is one", async () => {
    await prepared;
    const locationAfter = async (referer: string) => {
      const body = new URLSearchParams({ user: userId, job: "none" });
      const headers = { origin: "http://localhost", referer };
      return (await app.request("/actions/redeliver", { method: "POST", headers, body })).headers.get("location");
    };
    const path = `/users/${userId}`;
    const from = `http://localhost${path}?event=file.created&page=2&outcome=evil&other=1&notice=queued`;
    expect(await locationAfter(from)).toBe(`${path}?event=file.created&page=2&notice=gone`);
    for (const referer of [`http://localhost/users/other?event=x`, "nowhere", "http://localhost/?event=x"]) {
      expect(await locationAfter(referer)).toBe(`${path}?notice=gone`);
    }
  });

  test("works for a user whom no path can name", async () => {
    await record("..", { event: "file.created" }, { event: "file.deleted" });
    const { html } = await read("/users?id=..&event=file.deleted");
    expect(await textOf(html, "filter-result")).toStartWith("Showing 1 of ");
    expect(html).toContain('<input type="hidden" name="id" value=".."/>');
  });
});

describe("a long log", () => {
  test("is shown in pages of 50 events, each mark leading to its attempt", async () => {
    const userId = newUser();
    const attempts = Array.from({ length: 120 }, (_, n) => ({ delivery: `d${n}`, id: `e${n}` }));
    await record(userId, ...attempts);
    const long = buildApp(stack, { logSize: 1_000 });
    const first = await read(`/users/${userId}`, long);
    expect(count(first.html, 'class="delivery ')).toBe(50);
    expect(first.html).toContain("0 delivered, 120 failed");
    expect(first.html).toContain("Page 1 of 3");
    expect(first.html).toContain(`href="/users/${userId}?page=2"`);
    const last = await read(`/users/${userId}?page=99`, long);
    expect(count(last.html, 'class="delivery ')).toBe(20);
    expect(last.html).toContain("Page 3 of 3");
    expect(last.html).toContain(`href="/users/${userId}?id=e119#a-d119"`); // on another page
    expect(first.html).toContain('href="#a-d119"');
  });
});

test("texts name the settings of the log", async () => {
  const userId = newUser();
  const config = { logSize: 100, logAgeMs: 36 * 3_600_000 };
  expect((await read(`/users/${userId}`, buildApp(stack, config))).html).toContain("No attempts in the last 36 hours");
  await record(userId, {});
  const { html } = await read(`/users/${userId}`, buildApp(stack, config));
  expect(html).toContain("1 attempt of 1 event, newest first. The log keeps the last 100, for 36 hours.");
});
