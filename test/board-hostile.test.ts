/** The board's pages over a queue and a log in which somebody has put what is to harm whoever looks. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { Queue } from "bullmq";
import { Redis } from "ioredis";
import { startBoardProcess } from "./support/board.ts";
import { testValkeyUrl } from "./support/valkey.ts";

setDefaultTimeout(60_000);

const name = `hostile-${crypto.randomUUID()}`;
const url = await testValkeyUrl();
const valkey = new Redis(url, { maxRetriesPerRequest: null });
const queue = new Queue(name, { connection: valkey });
const board = await startBoardProcess({ VALKEY_URL: url, WEBHOOK_QUEUE: name });
const origin = `http://127.0.0.1:${board.port}`;
const users: string[] = [];

afterAll(async () => {
  await board.stop();
  await queue.obliterate({ force: true });
  await queue.close();
  await valkey.del(`webhooks:circuits:${name}`, ...users.map((user) => `webhooks:log:${user}`));
  valkey.disconnect();
});

const open = async (path: string) => {
  const startedAt = performance.now();
  const response = await fetch(origin + path, { headers: { accept: "text/html" } });
  const text = await response.text();
  return { status: response.status, text, tookMs: performance.now() - startedAt };
};

/** A failed job as any BullMQ client could leave it. */
async function addFailed(jobName: string, data: object, fields: Record<string, string>): Promise<string> {
  const job = await queue.add(jobName, data);
  const id = job.id as string;
  await valkey.lrem(queue.toKey("wait"), 0, id);
  await valkey.zadd(queue.toKey("failed"), Date.now(), id);
  await valkey.hset(queue.toKey(id), { finishedOn: Date.now(), ...fields });
  return id;
}

/** A user whose log has this attempt. */
async function log(attempt: object): Promise<string> {
  const user = `usr_${crypto.randomUUID()}`;
  users.push(user);
  await valkey.zadd(`webhooks:log:${user}`, Date.now(), JSON.stringify({ delivery: "1", ...attempt }));
  return user;
}

describe("a failed event with a word of 250 KB", () => {
  test("holds up neither the first page nor Bull Board nor probes", async () => {
    const word = "a".repeat(250_000);
    const id = await addFailed(
      word,
      { userId: "usr_1", word, url: `https:${" ".repeat(250_000)}` },
      { failedReason: word, stacktrace: JSON.stringify([word]) },
    );
    const pages = [
      open("/"),
      open(`/board/api/queues?activeQueue=${name}&status=failed`),
      open(`/board/api/queues/${name}/${id}`),
    ];
    const [, , , probe] = await Promise.all([...pages, open("/healthz")]);
    expect(probe?.tookMs).toBeLessThan(5_000); // 18 s when it was quadratic; some 100 ms
    for (const { status, tookMs } of await Promise.all(pages)) expect([status, tookMs < 5_000]).toEqual([200, true]);
  });

  test("is on the first page with its beginning", async () => {
    const { text } = await open("/");
    expect(text).toContain("aaaa");
    expect(text.length).toBeLessThan(50_000);
  });
});

const HOSTILE = "a\u0085\u009b31m\u202egpj.exe\u2066\u200b\u200f\u2028\ufeff\u{e0041}<b onx=1>\u0007";
/** What the page's own text does not have. */
const UNSEEN = /[^\P{Cc}\n]|[\p{Cf}\p{Zl}\p{Zp}]/u;

describe("what is not seen", () => {
  test("is shown as an escape on the first page: names, reasons, hosts", async () => {
    await addFailed(HOSTILE, { userId: "usr_1", endpoint: { url: HOSTILE } }, { failedReason: HOSTILE });
    await valkey.zadd(`webhooks:circuits:${name}`, Date.now() + 600_000, HOSTILE);
    const { status, text } = await open("/");
    expect(status).toBe(200);
    expect(text.split("\\u202egpj.exe").length - 1).toBeGreaterThanOrEqual(3);
    expect(UNSEEN.exec(text)?.[0]).toBeUndefined();
    expect(text).not.toContain("<b onx");
  });

  test("is shown as an escape on a user's page: ids, types, endpoints, errors", async () => {
    const userId = await log({
      ...{ id: HOSTILE, delivery: HOSTILE, attempt: HOSTILE, timestamp: new Date().toISOString(), endpoint: HOSTILE },
      ...{ event: HOSTILE, status_code: HOSTILE, duration_ms: 1, success: false, error: HOSTILE, job: "1" },
    });
    const { status, text } = await open(`/users/${userId}`);
    expect(status).toBe(200);
    // Where a form, a link or a copy button refers to it, it stays what it is; nobody sees that.
    const shown = text.replaceAll(/ (?:id|href|value|data-copy)="[^"]*"/g, "");
    expect(shown).toContain("\\u202egpj.exe");
    expect(UNSEEN.exec(shown)?.[0]).toBeUndefined();
    expect(text).not.toContain("<b onx");
  });

  test("that reorders a line is shown as an escape in Bull Board", async () => {
    const { text } = await open(`/board/api/queues?activeQueue=${name}&status=failed`);
    expect(text).toContain("\\\\u202egpj.exe");
    expect(text).not.toContain("\u202e");
  });
});

describe("a log that somebody else wrote", () => {
  test.each([
    ["nothing but its delivery", {}],
    ["numbers for texts", { id: 1, event: 2, endpoint: 3, error: 4, job: 5, timestamp: 6, attempt: 7, duration_ms: 8 }],
    [
      "objects for texts",
      { id: {}, event: [], endpoint: {}, error: { a: 1 }, job: {}, timestamp: [], attempt: {}, duration_ms: {} },
    ],
    [
      "null for texts",
      { id: null, event: null, endpoint: null, error: null, job: null, timestamp: null, duration_ms: null },
    ],
    [
      "texts for numbers",
      { timestamp: "now", attempt: "x", duration_ms: "y", status_code: "z", error: "", success: "no" },
    ],
    [
      "a time that there is not",
      { timestamp: "+275760-09-14T00:00:00Z", duration_ms: 1e308, error: "__proto__", job: "__proto__" },
    ],
    [
      "half a character",
      { id: "\ud800", event: "\ud800", endpoint: "\ud800", error: "\ud800", job: "\ud800", timestamp: "2026-01-01" },
    ],
  ])("is shown as far as it goes: %s", async (_name, attempt) => {
    const userId = await log(attempt);
    for (const path of [`/users/${userId}`, `/users/${userId}/attempts`]) {
      const { status, text } = await open(path);
      expect(status, text.slice(0, 300)).toBe(200);
    }
  });
});

test("nothing of it was a failure of the board's", () => {
  expect(board.output()).not.toContain("board.failed");
  expect(board.errors()).toBe("");
});
