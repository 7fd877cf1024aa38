/** Registered endpoints on the board: their list, their pages, and what operators can do to them. */
import { afterAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Registry as Metrics } from "prom-client";
import { z } from "zod";
import { type BoardConfig, createBoardApp } from "../src/board/app.ts";
import { endpointNotice, endpointPath, endpointPathOfSender } from "../src/board/endpoint-path.ts";
import { startReceiver } from "../src/dev/receiver.ts";
import { startValkey } from "../src/dev/valkey.ts";
import { readMissedCounts } from "../src/missed/missed.ts";
import { type OpenShards, openShard } from "../src/queue/open-shard.ts";
import { homeAmong, homeOf, shardsOf } from "../src/queue/shards.ts";
import { createRegistry } from "../src/registry/registry.ts";
import type { Logger } from "../src/runtime/logger.ts";
import { createLogger } from "../src/runtime/logger.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { BOARD_DEFAULTS } from "./support/board.ts";
import { onlyShard } from "./support/only-shard.ts";
import { eventually, QUICK, startStack } from "./support/stack.ts";

const KEY = Buffer.alloc(32, 7);
const stack = await startStack({ policy: { ...QUICK, attempts: 1 }, secretKeys: [KEY], missedMax: 4, registry: true });
const receiver = await startReceiver();
const registry = createRegistry(stack.valkey, { secretKeys: [KEY] });
const lines: object[] = [];
const write = (fields: object, message: string) => void lines.push({ message, ...fields });
const build = (config: Partial<BoardConfig> = {}, valkey = stack.valkey) =>
  createBoardApp({
    config: { ...BOARD_DEFAULTS, ...config },
    shards: onlyShard(stack.queue.name, valkey),
    registry: new Metrics(),
    logger: { info: write, warn: write, error: write } as unknown as Logger,
  });
const [app, sealing, locked] = [build(), build({ secretKeys: [KEY] }), build({ boardReadonly: true })];
afterAll(async () => {
  await stack.stop();
  await receiver.stop();
});

const HTML = { accept: "text/html" };
const newUser = () => `usr_${crypto.randomUUID()}`;
const get = async (path: string, from = app) => {
  const response = await from.request(path, { headers: HTML });
  return { status: response.status, html: await response.text() };
};
const read = async (path: string, from = app) => (await get(path, from)).html;
const act = async (action: string, fields: Record<string, string>, to = app, referer = "") => {
  const response = await to.request(`/actions/endpoint-${action}`, {
    method: "POST",
    headers: { ...HTML, origin: "http://localhost", referer },
    body: new URLSearchParams(fields),
  });
  return { status: response.status, location: response.headers.get("location"), html: await response.text() };
};
const pathOf = (userId: string, id = "main") => `/users/${userId}/endpoints/${id}`;

async function register(settings: object = {}, userId = newUser(), id = "main"): Promise<string> {
  await registry.create(userId, { id, url: `${receiver.url("/hooks")}?token=hush`, ...settings });
  return userId;
}

/** Enqueue events and wait for their ends. */
async function deliver(userId: string, count = 1, id = "main"): Promise<void> {
  const events = Array.from({ length: count }, () => ({
    ...{ name: "file.created", data: { userId, endpoint: { id }, data: { n: 1 } } },
  }));
  const jobs = await stack.queue.addBulk(events);
  await Promise.all(jobs.map((job) => stack.settled(job)));
}

/** A user whose endpoint is disabled, and missed six events, of which four are kept. */
async function registerMissing(): Promise<string> {
  const userId = await register();
  await registry.disable(userId, "main");
  await deliver(userId, 6);
  return userId;
}

const missedOf = async (userId: string) => (await readMissedCounts(stack.valkey, "", userId, ["main"])).get("main");

describe("the list of endpoints", () => {
  test("has no entry in the navigation while nothing is registered, and says how to register one", async () => {
    const valkey = await startValkey();
    const client = connectValkey(valkey.url, "test:empty", createLogger("silent").logger);
    const empty = build({}, client);
    expect(await read("/", empty)).not.toContain('href="/endpoints"');
    const html = await read("/endpoints", empty);
    expect(html).toContain("No endpoints are registered");
    expect(html).toContain("fluxhook.endpoints.create(");
    await createRegistry(client, { allowPlain: true }).create("usr_1", { url: "https://a.example/" });
    expect(await read("/", empty)).toContain('<a href="/endpoints">Endpoints</a>');
    client.disconnect();
    await valkey.stop();
  });

  test("shows whose each is, its URL without the query, its state, its streak and what it missed", async () => {
    const userId = await registerMissing();
    const html = await read(`/endpoints?user=${userId}`);
    expect(html).toContain(`href="${pathOf(userId)}"`);
    expect(html).toContain(`<b>127.0.0.1:${receiver.port}</b>/hooks`);
    expect(html).toContain("?…");
    expect(html).not.toContain("hush");
    expect(html).toMatch(/Disabled (just now|\d+ s ago)/);
    expect(html).toContain("missed: 4 kept, 2 older ones not");
  });

  test("is filtered by state, host and user, and paged", async () => {
    const host = `h${Date.now()}.example`;
    const users = Array.from({ length: 52 }, newUser);
    for (const userId of users) await registry.create(userId, { id: "main", url: `https://${host}/in` });
    const [paused, disabled] = users as [string, string];
    await registry.pause(paused, "main");
    await registry.disable(disabled, "main");
    const shown = (html: string) => users.filter((userId) => html.includes(`id="ep-${userId}-main"`));
    expect(shown(await read(`/endpoints?host=${host}&state=paused`))).toEqual([paused]);
    expect(shown(await read(`/endpoints?host=${host}&state=disabled`))).toEqual([disabled]);
    expect(shown(await read(`/endpoints?host=${host}&state=failing`))).toEqual([]);
    expect(shown(await read(`/endpoints?host=elsewhere.example`))).toEqual([]);
    const first = await read(`/endpoints?host=${host}`);
    const next = /href="([^"]+)">Older changes/.exec(first)?.[1]?.replaceAll("&amp;", "&") as string;
    const second = await read(next);
    expect([shown(first).length, shown(second).length]).toEqual([50, 2]);
    expect(second).not.toContain("Older changes");
    expect(second).toContain("First page");
  });

  test("says of a user who has none that there are none", async () => {
    await register();
    const userId = newUser();
    const html = await read(`/endpoints?user=${userId}`);
    expect(html).toContain(`User <a href="/users/${userId}">${userId}</a> has no registered endpoints.`);
    expect(await read(`/endpoints?user=${userId}&state=paused`)).toContain("No endpoint matches.");
  });

  test("says all that is wrong with the filters, with what is expected, and not that nothing matches", async () => {
    const { status, html } = await get("/endpoints?host=a%20b&user=a%20b");
    expect(status).toBe(400);
    expect(html).toContain("Invalid user ID: expected 1 to 128 visible ASCII characters. Invalid host: expected one");
    expect(html).not.toContain("No endpoint matches");
  });

  test("says what is wrong with a host or a user, and shows nothing then", async () => {
    for (const [query, words] of [
      ["host=a%20b", "Invalid host"],
      ["user=a%20b", "Invalid user ID"],
    ]) {
      const { status, html } = await get(`/endpoints?${query}`);
      expect([status, html.includes(words as string), html.includes('class="endpoints"')]).toEqual([400, true, false]);
    }
  });
});

describe("the search", () => {
  test("leads to the page of the endpoint with an id, and lists them if several users have one", async () => {
    const id = `crm-${Date.now()}`;
    const userId = await register({}, newUser(), id);
    const found = await app.request(`/search?q=${id}`, { headers: HTML });
    expect([found.status, found.headers.get("location")]).toEqual([302, pathOf(userId, id)]);
    const other = await register({}, newUser(), id);
    await registry.disable(other, id);
    const html = await read(`/search?q=${id}`);
    for (const one of [userId, other]) expect(html).toContain(`<a href="${pathOf(one, id)}">${id}</a>`);
    expect(html).toMatch(/Disabled (just now|\d+ s ago)/);
    expect(html).not.toContain("hush");
    expect(html).not.toContain("There may be more");
  });
});

describe("a user's page", () => {
  test("of a user with endpoints and no attempts does not say that the user's ID is wrong", async () => {
    const userId = await register();
    const html = await read(`/users/${userId}`);
    expect(html).toContain("No endpoint is to get it.");
    expect(html).not.toContain("The ID is wrong.");
    expect(await read(`/users/${newUser()}`)).toContain("The ID is wrong.");
  });

  test("folds all but ten of many endpoints, and shows first those that are off or fail", async () => {
    const userId = newUser();
    for (let n = 10; n < 24; n++) await registry.create(userId, { id: `e${n}`, url: receiver.url("/in") });
    await registry.disable(userId, "e23");
    const html = await read(`/users/${userId}`);
    const shown = (text = "") => [...text.matchAll(/class="endpoint-id" href="[^"]+">(e\d+)</g)].map(([, id]) => id);
    const [open, folded] = html.split('<details id="more-endpoints">');
    expect(shown(open)).toEqual(["e23", "e10", "e11", "e12", "e13", "e14", "e15", "e16", "e17", "e18"]);
    expect(folded).toContain("<summary>4 more</summary>");
    expect(shown(folded)).toEqual(["e19", "e20", "e21", "e22"]);
  });

  test("says nothing about endpoints for a user who has none registered", async () => {
    expect(await read(`/users/${newUser()}`)).not.toMatch(/registered endpoint/);
  });

  test("lists the user's endpoints, and leads from attempts and pending events to their pages", async () => {
    const userId = await register();
    await register({}, userId, "other");
    await deliver(userId);
    await registry.pause(userId, "other");
    await stack.queue.add("file.created", { userId, endpoint: { id: "other" }, data: {} }, { delay: 600_000 });
    const html = await read(`/users/${userId}`);
    expect(html).toContain("2 registered endpoints");
    for (const id of ["main", "other"]) expect(html).toContain(`<a href="${pathOf(userId, id)}">${id}</a>`);
    expect(html).not.toContain("hush");
    expect(html).not.toContain("Send a test event"); // the endpoints' pages do
  });
});

test("failed events lead to their endpoint's page, on the overview and in the list", async () => {
  const userId = await register();
  receiver.answer({ status: 503 });
  await deliver(userId);
  receiver.answer({});
  expect(await read("/")).toContain(`<a href="${pathOf(userId)}">main</a>`);
  expect(await read(`/failed?user=${userId}`)).toContain(`<a href="${pathOf(userId)}">main</a>`);
});

test("an event that failed before its endpoint was disabled is not shown as delivered", async () => {
  const userId = await register();
  receiver.answer(async () => {
    await registry.disable(userId, "main");
    return { status: 503 };
  });
  const data = { userId, endpoint: { id: "main" }, data: {} };
  const job = await stack.queue.add("file.created", data, { attempts: 2 });
  expect((await stack.settled(job)).state).toBe("completed");
  receiver.answer({});
  expect((await missedOf(userId))?.kept).toBe(1);
  for (const path of [`/users/${userId}`, pathOf(userId)]) {
    const html = await read(path);
    expect([path, html.includes("Not delivered"), html.includes("Delivered")]).toEqual([path, true, false]);
  }
});

describe("an endpoint's page", () => {
  test("shows settings without secrets, header values and the URL's query", async () => {
    const secret = "whsec_bm90IHRvIGJlIHNob3duIG9uIGFueSBwYWdl";
    const headers = { Authorization: "Bearer 0123456789abcdef9f2c" };
    const userId = await register({
      ...{ secret, headers, description: "<b>Shop</b>", events: ["file.*"], metadata: { plan: "pro" } },
      rateLimit: { perSecond: 5 },
    });
    await registry.rotate(userId, "main");
    const html = await read(pathOf(userId));
    for (const words of ["&lt;b&gt;Shop&lt;/b&gt;", "file.*", "5 a second, 1 at once", "…9f2c", "plan", "pro"]) {
      expect(html).toContain(words);
    }
    expect(html).toMatch(/current, made .*previous, made .*stops signing/s);
    const stored = (await stack.valkey.hget(`webhooks:endpoints:${userId}`, "main")) as string;
    const sealed = [...stored.matchAll(/sealed:v1:[^"]+/g)].map(([text]) => text);
    for (const hidden of [secret, "0123456789abcdef", "hush", ...sealed]) expect(html).not.toContain(hidden);
    expect(sealed.length).toBeGreaterThanOrEqual(3);
  });

  test("shows its health and its attempts, with the responses that are kept", async () => {
    const userId = await register();
    receiver.answer({ status: 503, body: "closed for today" });
    await deliver(userId, 2);
    receiver.answer({});
    const html = await read(pathOf(userId));
    expect(html).toMatch(/Failing for \d+ s/);
    expect(html).toContain("2 failed attempts in a row, no successful attempt yet");
    expect(html.match(/class="attempt"/g)?.length).toBe(2);
    expect(html).toContain("closed for today");
    expect(html).toContain("2 events kept");
  });

  test("counts what was missed, and lists the newest", async () => {
    const html = await read(pathOf(await registerMissing()));
    expect(html).toContain("4 kept, 2 older ones not");
    expect(html).toContain("endpoint disabled");
    expect(html).toContain("Enable and replay 4");
  });

  test("explains which of the user's endpoints get an event, and why the others do not", async () => {
    const userId = await register({ events: ["file.*"] });
    await register({ events: ["share.linked"] }, userId, "other");
    const html = await read(`${pathOf(userId)}?explain=file.created`);
    expect(html).toContain("to 1 of 2 endpoints");
    expect(html).toContain("does not want it: wants share.linked");
    expect(await read(`${pathOf(userId)}?explain=no.type`)).not.toContain("explain-summary");
  });

  test("says of a paused one where what waits is listed", async () => {
    const userId = await register();
    await registry.pause(userId, "main");
    expect(await read(pathOf(userId))).toContain(`What waits is listed on <a href="/users/${userId}">`);
  });

  test("is missing for unknown endpoints and impossible ids", async () => {
    const userId = await register();
    for (const path of [
      pathOf(userId, "none"),
      pathOf(userId, "a.b"),
      pathOf("a b"),
      "/endpoint",
      "/endpoint/replay",
    ]) {
      const { status, html } = await get(path);
      expect([path, status, html.includes("No such endpoint")]).toEqual([path, 404, true]);
      if (path.includes(userId)) expect(html).toContain(`<a href="/users/${userId}">User ${userId}</a>`);
    }
  });

  test("of a user whose id a path cannot hold is reached by a query", async () => {
    await register({}, ".", "dot");
    expect(endpointPath(".", "dot")).toBe("/endpoint?user=.&endpoint=dot");
    expect(await read(endpointPath(".", "dot"))).toContain("Actions");
    const { location } = await act("pause", { user: ".", endpoint: "dot" });
    expect(location).toBe("/endpoint?user=.&endpoint=dot&notice=paused");
    expect(await read(location as string)).toContain("Paused. Its events wait");
  });

  test("says when what is stored of the endpoint is damaged, and leaves out what needs it", async () => {
    const userId = await register();
    await stack.valkey.hset(`webhooks:endpoints:${userId}`, "main", "1 {broken");
    const html = await read(pathOf(userId), sealing);
    expect(html).toContain("What is stored of this endpoint cannot be read");
    expect(html).not.toContain("/actions/endpoint-rotate");
    expect(html).not.toContain("/actions/endpoint-test");
    expect(await read(`/users/${userId}`)).toContain("Damaged");
    await registry.pause(userId, "main");
    expect(await read(`/users/${userId}`)).toContain("Damaged, and paused");
  });
});

describe("what operators can do", () => {
  test("is to pause, resume, disable and enable, and each is logged", async () => {
    const userId = await register();
    const at = { user: userId, endpoint: "main" };
    for (const [action, notice, state] of [
      ["pause", "paused", "paused"],
      ["resume", "resumed", "enabled"],
      ["disable", "disabled", "disabled"],
      ["resume", "conflict", "disabled"],
      ["enable", "enabled", "enabled"],
    ] as const) {
      const { status, location } = await act(action, at);
      expect([action, status, location]).toEqual([action, 303, `${pathOf(userId)}?notice=${notice}`]);
      expect((await registry.get(userId, "main")).state.kind).toBe(state);
      expect(lines.at(-1)).toMatchObject({
        message: "board.action",
        action: `endpoint-${action}`,
        result: notice,
        ...at,
      });
    }
  });

  test("is to enable with a replay of what was missed", async () => {
    const userId = await registerMissing();
    const before = receiver.requests.length;
    const { location } = await act("enable", { user: userId, endpoint: "main", replay: "all" });
    expect(location).toBe(`${pathOf(userId)}?notice=replayed-4-0-0`);
    expect(await read(location as string)).toContain("Replayed: 4 events queued for delivery.");
    await eventually(
      async () => receiver.requests.length - before,
      (count) => count >= 4,
    );
  });

  test("is to enable without one, and to replay later, after a look at what would be replayed", async () => {
    const userId = await registerMissing();
    await act("enable", { user: userId, endpoint: "main", replay: "none" });
    expect((await missedOf(userId))?.kept).toBe(4);
    const none = await read(`${pathOf(userId)}/replay?since=2999-01-01T00:00`);
    expect(none).toContain("Nothing to replay");
    expect(none).not.toContain("/actions/endpoint-replay");
    const html = await read(`${pathOf(userId)}/replay?since=2020-01-01T00:00:00.000`);
    expect(html).toContain("4 events would be replayed");
    expect((await missedOf(userId))?.kept).toBe(4);
    const fields = Object.fromEntries(
      [...html.matchAll(/type="hidden" name="(\w+)" value="([^"]+)"/g)].map(([, name, value]) => [name, value]),
    );
    expect(fields).toMatchObject({ user: userId, endpoint: "main", since: String(Date.UTC(2020, 0)) });
    const { location } = await act("replay", fields as Record<string, string>);
    expect(location).toBe(`${pathOf(userId)}?notice=replayed-4-0-0`);
    await eventually(
      async () => (await missedOf(userId))?.kept,
      (kept) => kept === 0,
    );
    const wrong = await get(`${pathOf(userId)}/replay?since=yesterday`);
    expect(wrong.status).toBe(400);
    const back = `<a href="${pathOf(userId)}">Back to the endpoint</a>`;
    expect(wrong.html).toContain(back);
    const refused = await act("replay", { user: userId, endpoint: "main", until: "x" });
    expect([refused.status, refused.html.includes(back)]).toEqual([400, true]);
  });

  test("is to send a test event, whose attempt shows up on the page", async () => {
    const userId = await register({ events: ["share.linked"] });
    const { location } = await act("test", { user: userId, endpoint: "main" });
    expect(location).toBe(`${pathOf(userId)}?notice=tested`);
    const html = await eventually(
      () => read(pathOf(userId)),
      (page) => page.includes('class="attempt"'),
    );
    expect(html).toContain("test event");
    await registry.pause(userId, "main");
    expect((await act("test", { user: userId, endpoint: "main" })).location).toEndWith("notice=conflict");
  });

  test("is to rotate the secret with a key: it is shown once, and a form that is sent again changes nothing", async () => {
    const userId = await register();
    const page = await read(pathOf(userId), sealing);
    const version = /name="version" value="([^"]+)"/.exec(page)?.[1] as string;
    const form = { user: userId, endpoint: "main", version, grace: "3600" };
    const { status, html } = await act("rotate", form, sealing);
    const secret = /id="secret"[^>]*>\s*(whsec_[^<\s]+)/.exec(html)?.[1] as string;
    expect([status, secret.length]).toEqual([200, 50]);
    expect((await registry.get(userId, "main")).secrets).toHaveLength(2);
    const again = await act("rotate", form, sealing);
    expect([again.location, again.html.includes("whsec_")]).toEqual([`${pathOf(userId)}?notice=conflict`, false]);
    expect(await read(pathOf(userId), sealing)).not.toContain("whsec_");
    expect(JSON.stringify(lines)).not.toContain(secret);
    await deliver(userId);
    const { headers } = receiver.requests.findLast(({ headers }) => headers["webhook-id"] !== undefined) as never as {
      headers: Record<string, string>;
    };
    expect(headers["webhook-signature"]?.split(" ")).toHaveLength(2);
  });

  test("is told what to do when too many secrets still sign", async () => {
    const userId = await register();
    for (let n = 0; n < 4; n++) await registry.rotate(userId, "main");
    const { version } = await registry.get(userId, "main");
    const fields = { user: userId, endpoint: "main", version };
    const { location } = await act("rotate", { ...fields, grace: "3600" }, sealing);
    expect(await read(location as string)).toContain(
      "Wait until one has expired, or let the present ones not sign at all.",
    );
    expect((await act("rotate", { ...fields, grace: "0" }, sealing)).html).toContain("The new secret");
  });

  test("does not include to rotate where the board has no key: the page says so", async () => {
    const userId = await register();
    const html = await read(pathOf(userId));
    expect(html).toContain("this board has no key");
    expect(html).not.toContain("/actions/endpoint-rotate");
    const { version } = await registry.get(userId, "main");
    const form = { user: userId, endpoint: "main", version, grace: "0" };
    expect((await act("rotate", form)).location).toEndWith("notice=no-key");
    expect((await registry.get(userId, "main")).version).toBe(version);
  });

  test("is nothing on a read-only board, neither shown nor done", async () => {
    const userId = await registerMissing();
    for (const path of [pathOf(userId), `/users/${userId}`, "/endpoints"]) {
      expect(await read(path, locked)).not.toContain("/actions/endpoint");
    }
    for (const action of ["pause", "resume", "enable", "disable", "test", "replay", "rotate"]) {
      const { status, html } = await act(action, { user: userId, endpoint: "main" }, locked);
      expect([action, status, html.includes("read-only")]).toEqual([action, 403, true]);
    }
    expect((await registry.get(userId, "main")).state.kind).toBe("disabled");
  });

  test("takes the forms of its pages alone, from this site", async () => {
    const userId = await register();
    const at = { user: userId, endpoint: "main" };
    for (const [action, fields] of [
      ["pause", { user: userId }],
      ["pause", { user: "a b", endpoint: "main" }],
      ["pause", { user: userId, endpoint: "../x" }],
      ["replay", { ...at, since: "yesterday" }],
      ["rotate", at],
      ["rotate", { ...at, version: "1", grace: "5" }],
    ] as [string, Record<string, string>][]) {
      expect([action, (await act(action, fields, sealing)).status]).toEqual([action, 400]);
    }
    const foreign = await app.request("/actions/endpoint-pause", {
      method: "POST",
      headers: { ...HTML, origin: "https://evil.example" },
      body: new URLSearchParams(at),
    });
    expect(foreign.status).toBe(403);
    expect((await act("pause", { user: userId, endpoint: "none" })).location).toBe(
      `${pathOf(userId, "none")}?notice=missing`,
    );
    expect((await registry.get(userId, "main")).state.kind).toBe("enabled");
  });

  test("with an event on an endpoint's page leads back to that page", async () => {
    const userId = await register();
    await deliver(userId);
    const job = /name="job" value="([^"]+)"/.exec(await read(pathOf(userId)))?.[1] as string;
    const response = await app.request("/actions/redeliver", {
      method: "POST",
      headers: { ...HTML, origin: "http://localhost", referer: `http://localhost${pathOf(userId)}?notice=x` },
      body: new URLSearchParams({ user: userId, job }),
    });
    expect(response.headers.get("location")).toBe(`${pathOf(userId)}?notice=queued`);
  });
});

describe("the API", () => {
  const spec = JSON.parse(readFileSync(join(import.meta.dir, "../src/board/openapi.json"), "utf8"));
  const closed = JSON.stringify(spec.components.schemas, (_, value) =>
    value?.type === "object" || value?.type?.[0] === "object" ? { additionalProperties: false, ...value } : value,
  );
  const $defs = JSON.parse(closed.replaceAll("#/components/schemas/", "#/$defs/"));
  const schema = z.fromJSONSchema({ $ref: "#/$defs/Endpoints", $defs });
  const list = async (userId: string, status = 200) => {
    const response = await app.request(`/users/${encodeURIComponent(userId)}/endpoints`);
    expect(response.status).toBe(status);
    return await response.text();
  };

  test("lists a user's endpoints as it is described, without secrets", async () => {
    const userId = await registerMissing();
    const headers = { Authorization: "Bearer 0123456789abcdef9f2c" };
    await register({ headers, rateLimit: { perSecond: 5 }, events: ["file.*"] }, userId, "failing");
    await registry.rotate(userId, "failing");
    receiver.answer({ status: 503 });
    await deliver(userId, 1, "failing");
    receiver.answer({});
    const text = await list(userId);
    const { endpoints } = JSON.parse(text);
    expect(schema.safeParse({ endpoints }).error?.issues ?? []).toEqual([]);
    const at = expect.any(String);
    const [main, failing] = endpoints;
    expect(main).toMatchObject({
      id: "main",
      state: "disabled",
      state_since: at,
      reason: "manual",
      missed: { kept: 4, dropped: 2 },
    });
    expect(failing).toMatchObject({
      failures: 1,
      failing_since: at,
      rate_limit: { per_second: 5, burst: 1 },
      missed: { kept: 1 },
    });
    expect(failing.secrets).toEqual([{ created_at: at }, { created_at: at, expires_at: at }]);
    expect(failing.headers).toEqual({ Authorization: "…9f2c" });
    for (const hidden of ["hush", "sealed:", "whsec_", "abcdef"]) expect(text).not.toContain(hidden);
  });

  test("has none for a user without endpoints, shows a damaged one, and names an invalid id", async () => {
    expect(JSON.parse(await list(newUser()))).toEqual({ endpoints: [] });
    const userId = await register();
    await stack.valkey.hset(`webhooks:endpoints:${userId}`, "main", "1 {broken");
    const damaged = JSON.parse(await list(userId));
    expect(schema.safeParse(damaged).success).toBe(true);
    expect(damaged.endpoints[0]).toMatchObject({ url: null, is_damaged: true });
    expect(await list("a b", 400)).toContain("userId:");
  });
});

describe("in two shards", () => {
  test("all endpoints are listed, each is changed in its user's home, and those of a shard that is away are said to be missing", async () => {
    const [one, two] = await Promise.all([startValkey(), startValkey()]);
    const { logger } = createLogger("silent");
    const shards = shardsOf({ queue: "webhooks", shards: 2, valkeyUrls: [one.url, two.url] }).map((shard) =>
      openShard(shard, connectValkey(shard.url, "test:shards", logger)),
    ) as unknown as OpenShards;
    const board = createBoardApp({ config: BOARD_DEFAULTS, shards, registry: new Metrics(), logger });
    const [first, second] = [0, 1].map((index) => {
      for (;;) {
        const userId = newUser();
        if (homeOf(userId, 2) === index) return userId;
      }
    }) as [string, string];
    for (const userId of [first, second]) {
      const { valkey, tag } = homeAmong(shards, userId);
      await createRegistry(valkey, { tag, allowPlain: true }).create(userId, { id: "main", url: "https://a.example/" });
    }
    const list = await read("/endpoints", board);
    expect([list.includes(first), list.includes(second), list.includes("2 registered, 0 paused")]).toEqual([
      true,
      true,
      true,
    ]);
    for (const userId of [first, second]) {
      expect((await act("pause", { user: userId, endpoint: "main" }, board)).status).toBe(303);
      expect(await read(pathOf(userId), board)).toMatch(/Paused (just now|\d+ s ago)/);
      expect(await read(`/users/${userId}`, board)).toContain("1 registered endpoint");
    }
    two.pause();
    const rest = await read("/endpoints", board);
    expect([rest.includes(first), rest.includes(second), rest.includes('id="away"')]).toEqual([true, false, true]);
    for (const path of [pathOf(second), `${pathOf(second)}/replay`, `/endpoints?user=${second}`]) {
      expect([path, (await get(path, board)).status]).toEqual([path, 503]);
    }
    expect((await act("resume", { user: second, endpoint: "main" }, board)).status).toBe(503);
    expect((await get(`/users/${second}`, board)).status).toBe(200);
    two.resume();
    for (const { valkey } of shards) valkey.disconnect();
    await Promise.all([one.stop(), two.stop()]);
  }, 30_000);
});

test("a user's page says when the board's Valkey user may not read endpoints, and all others work", async () => {
  const valkey = await startValkey();
  const { logger } = createLogger("silent");
  const all = connectValkey(valkey.url, "test:all", logger);
  await createRegistry(all, { allowPlain: true }).create("usr_1", { id: "main", url: "https://a.example/" });
  await all.acl("SETUSER", "board", "on", "nopass", "~bull:*", "~webhooks:[^e]*", "&*", "+@all");
  const few = connectValkey(valkey.url.replace("://", "://board:any@"), "test:few", logger);
  const board = build({}, few);
  expect(await read("/users/usr_1", board)).toContain("may not read them");
  const { status, html } = await get("/", board);
  expect([status, html.includes('href="/endpoints"')]).toEqual([200, false]);
  for (const client of [all, few]) client.disconnect();
  await valkey.stop();
});

test("a message takes nothing but numbers from the URL", () => {
  expect(endpointNotice("replayed-1-2-3")?.text).toBe(
    "Replayed: 1 event queued for delivery. 2 events are pending already. 3 events still missed.",
  );
  for (const name of ["replayed-1-2-x", "replayed-1-2-3-4", "toString", "replayed-1234567890-0-0"]) {
    expect(endpointNotice(name)).toBeUndefined();
  }
  expect(endpointPathOfSender("http://x/users/usr_2/endpoints/main", "usr_1")).toBeUndefined();
  expect(endpointPathOfSender("http://x/users/usr_1", "usr_1")).toBeUndefined();
});
