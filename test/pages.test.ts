import { afterAll, describe, expect, test } from "bun:test";
import { Registry } from "prom-client";
import { type BoardConfig, createBoardApp } from "../src/board/app.ts";
import { verify } from "../src/delivery/signature.ts";
import { startReceiver } from "../src/dev/receiver.ts";
import { startValkey } from "../src/dev/valkey.ts";
import { adviceFor } from "../src/operations/advice.ts";
import { openQueue, type Queue } from "../src/queue/worker.ts";
import { createLogger, type Logger } from "../src/runtime/logger.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { BOARD_DEFAULTS } from "./support/board.ts";
import { onlyShard } from "./support/only-shard.ts";
import { jobData, type Line, QUICK, startStack } from "./support/stack.ts";

const SECRET = "s3cret-of-the-test";
const TOKEN = "token-in-the-query";
const stack = await startStack({ policy: { ...QUICK, attempts: 2 } });
const receiver = await startReceiver();
const lines: Line[] = [];
const logger = {
  info: (fields: object, message: string) => lines.push({ level: "info", message, ...fields }),
  warn: (fields: object, message: string) => lines.push({ level: "warn", message, ...fields }),
  error: (fields: object, message: string) => lines.push({ level: "error", message, ...fields }),
} as unknown as Logger;
const app = buildApp();
const locked = buildApp({ boardReadonly: true, boardEnvironment: "staging" });

function buildApp(config: Partial<BoardConfig> = {}, { valkey = stack.valkey, queue = stack.queue as Queue } = {}) {
  return createBoardApp({
    config: { ...BOARD_DEFAULTS, ...config },
    shards: onlyShard(queue.name, valkey),
    registry: new Registry(),
    logger,
  });
}

afterAll(async () => {
  await receiver.stop();
  await stack.stop();
});

const read = async (path: string, from = app) => {
  const response = await from.request(path, { headers: { accept: "text/html" } });
  return { status: response.status, html: await response.text(), headers: response.headers };
};
const SAME_ORIGIN = { origin: "http://localhost" };
const post = (path: string, fields: Record<string, string>, headers: Record<string, string> = SAME_ORIGIN, to = app) =>
  to.request(path, { method: "POST", headers, body: new URLSearchParams(fields) });

/** An event whose two attempts were answered with `status`. */
async function failed(status = 503, userId = `usr_${crypto.randomUUID()}`) {
  receiver.answer({ status });
  const job = await stack.queue.add("share.linked", {
    ...jobData(receiver.url(`/hook?key=${TOKEN}`)),
    userId,
  });
  expect((await stack.settled(job)).state).toBe("failed");
  return { job: job.id as string, userId, queued: job };
}

/** How often something stands in a text. */
const count = (text: string, part: string | RegExp) => [...text.matchAll(new RegExp(part, "g"))].length;

describe("a user's page", () => {
  test("shows a failed event: what, where to, why, and what to do about it", async () => {
    const { job, userId } = await failed();
    const { status, html } = await read(`/users/${userId}`);
    expect(status).toBe(200);
    expect(html).toStartWith("<!DOCTYPE html><html lang=");
    expect(html).toContain(`<title>${userId} · Fluxhook</title>`);
    expect(html).toContain("<h2>share.linked</h2>");
    expect(html).toContain(`<b>127.0.0.1:${receiver.port}</b>/hook`);
    expect(html).toContain("Service unavailable.");
    expect(html).toContain("check its load and health");
    expect(html).toContain("Failed");
    expect(html).toMatch(/<time datetime="[\d-]+T[\d:.]+Z" title="[\d-]+ [\d:.]+ UTC">/);
    expect(html).toContain(`href="/board/queue/${stack.queue.name}/${job}"`);
    expect(html).not.toContain(SECRET);
    expect(html).not.toContain(TOKEN);
  });

  test("keeps the attempts of an event together, and says what to do once", async () => {
    const { userId } = await failed();
    const second = await failed(404, userId);
    const { html } = await read(`/users/${userId}`);
    expect(count(html, 'class="delivery bad"')).toBe(2);
    expect(count(html, 'class="attempt"')).toBe(4);
    expect(count(html, "check its load and health")).toBe(1);
    expect(html.indexOf(`job ${second.job}`)).toBeLessThan(html.indexOf("Service unavailable"));
  });

  test("says when the next attempt is due", async () => {
    receiver.answer({ status: 503, headers: { "retry-after": "600" } });
    const job = await stack.queue.add("file.created", jobData(receiver.url()));
    await stack.line(
      "delivery.attempted",
      stack.lines.filter(({ message }) => message === "delivery.attempted").length + 1,
    );
    while ((await job.getState()) !== "delayed") await Bun.sleep(1);
    const { html } = await read(`/users/${job.data.userId}`);
    expect(html).toMatch(/Retrying in (9|10) min/);
    expect(html).toContain("Deliver now");
    await job.remove();
  });

  test("helps when there is nothing to show", async () => {
    const { status, html } = await read("/users/nobody");
    expect(status).toBe(200);
    expect(html).toContain("No attempts in the last 7 days");
    expect(html).toContain(`/board/queue/${stack.queue.name}?status=failed`);
  });

  test("does not offer a job that is no longer kept", async () => {
    const { job, userId, queued } = await failed();
    await queued.remove();
    const { html } = await read(`/users/${userId}`);
    expect(html).toContain("no longer kept, so it cannot be redelivered");
    expect(html).not.toContain('action="/actions/redeliver"');
    expect(html).toContain("none of this user&#39;s jobs are kept any longer");
    const response = await post("/actions/redeliver", { user: userId, job });
    expect(response.headers.get("location")).toBe(`/users/${userId}?notice=gone`);
  });

  test("tells causes of TLS failures apart, each with what to do about it", async () => {
    const userId = `usr_${crypto.randomUUID()}`;
    const tried = {
      ...{ id: "e", event: "file.created", duration_ms: 1, endpoint: "https://h.example/", job: "none" },
      ...{ status_code: null, success: false, error: "tls", timestamp: new Date().toISOString() },
    };
    const now = Date.now();
    const causes = ["expired", "expired", "wrong_host", undefined, "<b>"];
    for (const [n, cause] of causes.entries()) {
      const attempt = { ...tried, attempt: n + 1, delivery: `d${n}`, ...(cause && { cause }) };
      await stack.valkey.zadd(`webhooks:log:${userId}`, now - n, JSON.stringify(attempt));
    }
    const { html } = await read(`/users/${userId}`);
    expect(count(html, /tls \(expired\)<\/span>/)).toBeGreaterThanOrEqual(2);
    expect(html).toContain("tls (wrong_host)");
    expect(html).toContain("tls (&lt;b&gt;)");
    expect(count(html, adviceFor("tls", undefined, "expired").todo)).toBe(1);
    expect(count(html, adviceFor("tls", undefined, "wrong_host").todo)).toBe(1);
    const response = await app.request(`/users/${userId}/attempts`);
    const { attempts } = (await response.json()) as { attempts: { cause?: string }[] };
    expect(attempts.map(({ cause }) => cause)).toEqual(causes);
  });

  test("reads a log line of an older version, that names no job", async () => {
    const userId = `usr_${crypto.randomUUID()}`;
    const line = {
      id: "e",
      delivery: "d",
      attempt: 1,
      timestamp: "now",
      endpoint: "nowhere",
      event: "x",
      success: false,
    };
    await stack.valkey.zadd(`webhooks:log:${userId}`, Date.now(), JSON.stringify(line));
    const { status, html } = await read(`/users/${userId}`);
    expect(status).toBe(200);
    expect(html).toContain("Not delivered");
  });
});

describe("redelivery", () => {
  test("delivers the event, leads back, says so and is logged", async () => {
    const { job, userId, queued } = await failed();
    receiver.answer({ status: 200 });
    const settled = stack.settled(queued);
    const response = await post("/actions/redeliver", { user: userId, job });
    expect([response.status, response.headers.get("location")]).toEqual([303, `/users/${userId}?notice=queued`]);
    expect((await settled).state).toBe("completed");
    const { html } = await read(response.headers.get("location") as string);
    expect(html).toContain("Queued for delivery.");
    expect(html).toContain("Delivered");
    expect(lines).toContainEqual(
      expect.objectContaining({ message: "board.action", action: "redeliver", user: userId, job, result: "queued" }),
    );
  });

  test("leaves a job alone that is not this user's", async () => {
    const { job, queued } = await failed();
    const response = await post("/actions/redeliver", { user: "usr_other", job });
    expect(response.headers.get("location")).toBe("/users/usr_other?notice=gone");
    expect(await queued.getState()).toBe("failed");
  });

  test("leaves the event alone that has the number of another of the user's, as after the queue was emptied", async () => {
    const userId = `usr_${crypto.randomUUID()}`;
    const jobId = `j-${crypto.randomUUID()}`;
    const add = (status: number) => {
      receiver.answer({ status });
      return stack.queue.add("file.created", { ...jobData(receiver.url("/hook")), userId }, { jobId, attempts: 1 });
    };
    const first = await add(500);
    await stack.settled(first);
    await first.remove();
    const second = await add(410);
    await stack.settled(second);
    const { html } = await read(`/users/${userId}`);
    expect(count(html, "so it cannot be redelivered")).toBe(1);
    const forms = [...html.matchAll(/name="event" value="([^"]+)"/g)].map(([, event]) => event as string);
    const [newest, oldest] = (await stack.attempts(userId)).map(({ id }) => id) as [string, string];
    expect(forms).toEqual([newest]);
    const response = await post("/actions/redeliver", { user: userId, job: jobId, event: oldest });
    expect(response.headers.get("location")).toBe(`/users/${userId}?notice=gone`);
    expect(await second.getState()).toBe("failed");
  });
});

describe("a test event", () => {
  test("goes to the endpoint of a kept job, signed with its secret, marked as a test, once", async () => {
    const { job, userId } = await failed();
    const before = receiver.requests.length;
    receiver.answer({ status: 500 });
    const response = await post("/actions/test", { user: userId, job });
    expect([response.status, response.headers.get("location")]).toEqual([303, `/users/${userId}?notice=test`]);
    const made = lines.findLast(({ action }) => action === "test")?.made as string;
    expect((await stack.settled({ id: made })).state).toBe("failed");
    expect(receiver.requests.length).toBe(before + 1);
    const { path, body, headers, json } = receiver.requests.at(-1) ?? expect.unreachable();
    expect(path).toBe(`/hook?key=${TOKEN}`);
    expect(verify(body, headers, SECRET).ok).toBe(true);
    expect(json).toMatchObject({ event: "file.created", data: { test: true } });
    const { html } = await read(`/users/${userId}`);
    expect(html).toContain("&quot;test&quot;: true"); // the form shows what is sent
    expect(html.split("test event</span>")).toHaveLength(2); // one card is marked
    expect(await stack.attempts(userId)).toMatchObject([{ job: made, test: true }, {}, {}]);
    expect((await stack.attempts(userId)).filter((attempt) => "test" in attempt)).toHaveLength(1);
  });

  test.each([
    ["a job of another user", "usr_other", "gone"],
    ["a job whose endpoint breaks the contract", "", "broken"],
  ])("is not sent to the endpoint of %s", async (_, other, notice) => {
    const { job, userId, queued } = await failed();
    if (notice === "broken") await queued.updateData({ ...queued.data, endpoint: { url: "ftp://x/", secret: SECRET } });
    const before = await stack.queue.getJobCounts();
    const user = other || userId;
    const response = await post("/actions/test", { user, job });
    expect(response.headers.get("location")).toBe(`/users/${user}?notice=${notice}`);
    expect(await stack.queue.getJobCounts()).toEqual(before);
  });
});

describe("an action is refused, and changes nothing,", () => {
  const form = { "content-type": "application/x-www-form-urlencoded" };
  test.each<[string, Record<string, string>]>([
    ["from another site", { ...form, origin: "https://evil.example", "sec-fetch-site": "cross-site" }],
    ["from a page next door", { ...form, origin: "http://other.localhost", "sec-fetch-site": "same-site" }],
    ["without an origin", form],
    ["from a sandbox", { ...form, origin: "null" }],
    ["as plain text", { "content-type": "text/plain", origin: "https://evil.example" }],
  ])("%s", async (_, headers) => {
    const { job, userId, queued } = await failed();
    for (const action of ["redeliver", "test"]) {
      const response = await post(`/actions/${action}`, { user: userId, job }, headers);
      expect(response.status).toBe(403);
    }
    expect(await queued.getState()).toBe("failed");
  });

  test("without its fields, and with GET", async () => {
    for (const fields of [{}, { user: "u" }, { job: "1" }, { user: "u", job: "" }]) {
      expect((await post("/actions/redeliver", fields as never)).status).toBe(400);
    }
    expect((await read("/actions/redeliver?user=u&job=1")).status).toBe(404);
  });

  test("without the password", async () => {
    const guarded = buildApp({ boardPassword: "right" });
    expect((await post("/actions/redeliver", { user: "u", job: "1" }, SAME_ORIGIN, guarded)).status).toBe(401);
    for (const path of ["/", "/users?id=u", "/users/u", "/assets/page.css"]) {
      expect((await read(path, guarded)).status, path).toBe(401);
    }
  });

  test("under a name that merely leads to this machine, unless there is a password", async () => {
    const { job, userId, queued } = await failed();
    for (const host of ["evil.example", "localhost.evil.example", "10.0.0.1", "[::2]"]) {
      const origin = `http://${host}`;
      const response = await post(`${origin}/actions/redeliver`, { user: userId, job }, { origin });
      expect(response.status, host).toBe(403);
      expect((await app.request(`${origin}/users/${userId}/attempts`)).status, host).toBe(403);
      expect((await app.request(`${origin}/healthz`)).status, host).toBe(200);
    }
    expect(await queued.getState()).toBe("failed");
    for (const host of ["127.0.0.1:3000", "[::1]:3000", "localhost"]) {
      expect((await app.request(`http://${host}/`)).status, host).toBe(200);
    }
    const guarded = buildApp({ boardPassword: "right" });
    const headers = { authorization: `Basic ${btoa("admin:right")}` };
    expect((await guarded.request("http://board.example/", { headers })).status).toBe(200);
  });

  test("on a board that is read only, Bull Board's too", async () => {
    const { job, userId, queued } = await failed();
    for (const action of ["redeliver", "test"]) {
      expect((await post(`/actions/${action}`, { user: userId, job }, SAME_ORIGIN, locked)).status).toBe(403);
    }
    const { html } = await read(`/users/${userId}`, locked);
    expect(html).toContain("read-only");
    expect(html).toContain("staging");
    expect(html).not.toContain('method="post"');
    const api = `/board/api/queues/${stack.queue.name}`;
    for (const path of [
      `${api}/${job}/retry`,
      `${api}/${job}/clean`,
      `${api}/retry/failed`,
      `${api}/pause`,
      "/board/api/queues/pause",
    ]) {
      expect((await locked.request(path, { method: "PUT", headers: SAME_ORIGIN })).status, path).toBe(403);
    }
    expect([await queued.getState(), await stack.queue.isPaused()]).toEqual(["failed", false]);
    const { queues } = (await (await locked.request("/board/api/queues")).json()) as { queues: object[] };
    expect(queues).toEqual([expect.objectContaining({ readOnlyMode: true })]);
  });
});

describe("the search box", () => {
  test("leads to the user's page, blanks around the id forgiven", async () => {
    const response = await app.request("/users?id=%20usr%2F1%3F%20");
    expect([response.status, response.headers.get("location")]).toEqual([302, "/users/usr%2F1%3F"]);
  });

  test.each([".", ".."])("finds the user %s, whom no path can name", async (userId) => {
    const { status, html } = await read(`/users?id=${encodeURIComponent(userId)}`);
    expect(status).toBe(200);
    expect(html).toContain(`<h1 class="id">${userId}</h1>`);
  });

  test("says what is no user id, and keeps what was typed", async () => {
    const { status, html } = await read(`/users?id=${encodeURIComponent('a "b"')}`);
    expect(status).toBe(400);
    expect(html).toContain("Invalid user ID: expected 1 to 128 visible ASCII characters.");
    expect(html).toContain('value="a &quot;b&quot;"');
  });
});

/** Every element and attribute of a page that could run or load something. */
async function findActive(html: string): Promise<string[]> {
  const found: string[] = [];
  const rewriter = new HTMLRewriter().on("*", {
    element({ tagName, attributes }) {
      if (["iframe", "object", "embed", "base", "style"].includes(tagName)) found.push(tagName);
      const given = [...attributes]; // an iterator, for one use
      for (const [name, value] of given) {
        if (/^on|^style$/.test(name)) found.push(`${tagName} ${name}`);
        if (/^(src|href|action|formaction)$/.test(name) && !/^[/#]/.test(value))
          found.push(`${tagName} ${name}=${value}`);
      }
      if (tagName === "script" && !/^\/assets\/live\.js/.test(new Map(given as [string, string][]).get("src") ?? ""))
        found.push(tagName);
    },
  });
  await rewriter.transform(new Response(html)).text();
  return found;
}

test("nothing that others wrote becomes markup", async () => {
  const evil = `"'><script>alert(1)</script><img src=x onerror=alert(1)>`;
  const userId = evil.replaceAll(" ", "/");
  const attempt = {
    ...{ id: evil, delivery: evil, attempt: evil, timestamp: evil, endpoint: `https://e.example/${evil}`, event: evil },
    ...{ status_code: null, duration_ms: evil, success: false, error: evil, job: evil },
  };
  await stack.valkey.zadd(`webhooks:log:${userId}`, Date.now(), JSON.stringify(attempt));
  await stack.valkey.zadd(
    `webhooks:log:${userId}`,
    Date.now(),
    JSON.stringify({ ...attempt, endpoint: evil, delivery: 1 }),
  );
  const job = await stack.queue.add(evil, { ...jobData("javascript:alert(1)"), userId });
  await stack.settled(job);
  await stack.valkey.zadd(`webhooks:circuits:${stack.queue.name}`, Date.now() + 60_000, evil);
  for (const path of [
    "/",
    userPathOf(userId),
    `/users?id=${encodeURIComponent(evil)}`,
    `/${encodeURIComponent(evil)}`,
    "/?notice=<b>",
  ]) {
    const { html } = await read(path, locked);
    expect(await findActive(html), path).toEqual([]);
    expect(html).not.toContain("<script>alert");
    expect(html).not.toContain("<img src=x");
  }
  const { html } = await read("/");
  expect(html).toContain("&lt;script&gt;");
  await stack.valkey.del(`webhooks:circuits:${stack.queue.name}`);
});
const userPathOf = (userId: string) => `/users/${encodeURIComponent(userId)}`;

test("pages run and load nothing but their own files, which are there", async () => {
  const { html, headers } = await read("/");
  expect(headers.get("content-security-policy")).not.toContain("unsafe-inline");
  expect(headers.get("referrer-policy")).toBe("same-origin");
  expect(headers.get("cache-control")).toBe("no-store");
  expect(await findActive(html)).toEqual([]);
  const files = [...html.matchAll(/(?:src|href)="(\/assets\/[^"]+)"/g)].map((match) => match[1] as string);
  expect(new Set(files).size).toBe(3);
  for (const file of files) {
    const { status, html: text, headers: given } = await read(file);
    expect([status, given.get("content-type")?.split("/")[0]]).toEqual([200, file.includes(".svg") ? "image" : "text"]);
    expect(text.replace("http://www.w3.org/2000/svg", "")).not.toMatch(/https?:|url\(|@import/);
  }
});

test("a browser gets pages also when there is nothing, a script gets JSON", async () => {
  const page = await read("/nowhere");
  expect(page.status).toBe(404);
  expect(page.html).toContain("<h1>Page not found</h1>");
  const refused = await post("/actions/test", {}, { accept: "text/html", origin: "https://evil.example" });
  expect([refused.status, await refused.text()]).toEqual([403, expect.stringContaining("<h1>Refused</h1>")]);
});

test("without Valkey every page is a 503 that says so, within 2 s, and an action does nothing", async () => {
  const server = await startValkey();
  const away = connectValkey(server.url, "test:away", createLogger("silent").logger);
  const queue = openQueue("away", away);
  const job = await queue.add("file.created", jobData("https://e.example/"), { delay: 60_000 });
  const board = buildApp({}, { valkey: away, queue });
  server.pause();
  const startedAt = performance.now();
  const headers = { ...SAME_ORIGIN, accept: "text/html" };
  const responses = await Promise.all([
    ...["/", "/users?id=u", "/users/u"].map((path) => board.request(path, { headers })),
    post("/actions/redeliver", { user: job.data.userId, job: job.id as string }, headers, board),
  ]);
  expect(performance.now() - startedAt).toBeLessThan(6_000);
  for (const response of responses) {
    expect(response.status).toBe(503);
    expect(await response.text()).toContain("<h1>Valkey does not answer</h1>");
  }
  server.resume();
  await away.ping();
  expect(await job.getState()).toBe("delayed");
  await queue.close();
  away.disconnect();
  await server.stop();
});
