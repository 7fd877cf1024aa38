/** What is held, on the board's pages, and the action that releases it. */
import { afterAll, expect, test } from "bun:test";
import { Registry } from "prom-client";
import { createBoardApp } from "../src/board/app.ts";
import { hold, listHolds, parseTarget } from "../src/operations/hold.ts";
import { openQueue } from "../src/queue/worker.ts";
import type { Logger } from "../src/runtime/logger.ts";
import { createLogger } from "../src/runtime/logger.ts";
import { connectValkey } from "../src/valkey/connection.ts";
import { BOARD_DEFAULTS } from "./support/board.ts";
import { onlyShard } from "./support/only-shard.ts";
import { testValkeyUrl } from "./support/valkey.ts";

const valkey = connectValkey(await testValkeyUrl(), "test:held", createLogger("silent").logger);
const queue = openQueue(`held-${crypto.randomUUID()}`, valkey);
const place = { valkey, queue: queue.name };
const lines: object[] = [];
const write = (fields: object, message: string) => void lines.push({ message, ...fields });
const logger = { info: write, warn: write, error: write } as unknown as Logger;
const build = (boardReadonly: boolean) =>
  createBoardApp({
    config: { ...BOARD_DEFAULTS, boardReadonly },
    ...{ shards: onlyShard(queue.name, valkey), registry: new Registry(), logger },
  });
const [app, locked] = [build(false), build(true)];

afterAll(async () => {
  await queue.close();
  valkey.disconnect();
});

const read = async (path: string, from = app) =>
  await (await from.request(path, { headers: { accept: "text/html" } })).text();
const post = (fields: Record<string, string>, to = app) =>
  to.request("/actions/release", {
    method: "POST",
    headers: { origin: "http://localhost", accept: "text/html" },
    body: new URLSearchParams(fields),
  });

async function holdFor(kind: "host" | "url" | "user", text: string, reason?: string) {
  const target = parseTarget(kind, text) as { kind: typeof kind; target: string };
  const made = await hold([place], target, { until: Date.now() + 7_260_000, reason, by: "jo" }, Date.now());
  return made.hold.id;
}

test("the overview has no panel while nothing is held, and otherwise says what, why, by whom and until when", async () => {
  expect(await read("/")).not.toContain("Held by an operator");
  await holdFor("url", "https://a.example/in?token=hush", "<b>asked</b>");
  const html = await read("/");
  expect(html).toContain("Held by an operator");
  expect(html).toMatch(/Endpoint <code>https:\/\/a\.example\/in\?…<\/code>: &lt;b&gt;asked&lt;\/b&gt;/);
  expect(html).toMatch(/ends <time title="[^"]+ UTC">in 2 h<\/time>, held by jo/);
  expect(html).not.toContain("hush");
  expect(html).toContain('action="/actions/release"');
  expect(await read("/", locked)).not.toContain('action="/actions/release"');
});

test("a user's page shows what is held of that user, and the button leads back there", async () => {
  const id = await holdFor("user", "usr_7");
  expect(await read("/users/usr_7")).toContain("User <code>usr_7</code>");
  expect(await read("/users/usr_8")).not.toContain("Held by an operator");
  const response = await post({ hold: id, user: "usr_7" });
  expect([response.status, response.headers.get("location")]).toEqual([303, "/users/usr_7?notice=released"]);
  expect(await read("/users/usr_7")).not.toContain("Held by an operator");
  expect(lines.at(-1)).toMatchObject({
    ...{ message: "board.action", action: "release", hold: id, kind: "user", target: "usr_7", result: "released" },
  });
});

test("what is not held any more is left alone, and so is everything on a read-only board", async () => {
  const id = await holdFor("host", "b.example");
  const refused = await post({ hold: id }, locked);
  expect([refused.status, lines.at(-1)]).toMatchObject([403, { message: "board.refused", action: "release" }]);
  expect((await post({})).status).toBe(400);
  const isHeld = async () => (await listHolds([place], Date.now())).some((held) => held.id === id);
  expect(await isHeld()).toBe(true);
  expect((await post({ hold: id })).headers.get("location")).toBe("/?notice=released");
  expect(await isHeld()).toBe(false);
  expect((await post({ hold: id })).headers.get("location")).toBe("/?notice=unheld");
  expect(await read("/?notice=unheld")).toContain("That is not held anymore");
});
