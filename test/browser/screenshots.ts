/**
 * `npm run screenshots`: the pictures in docs/board.md. A real board on made-up attempts, since those of a test would show
 * loopback addresses.
 */
import { join } from "node:path";
import { Queue } from "bullmq";
import type { EventType } from "../../src/delivery/contract.ts";
import { startChild } from "../../src/dev/processes.ts";
import { startValkey } from "../../src/dev/valkey.ts";
import { type Attempt, createAttemptLog, type KeptResponse } from "../../src/log/attempts.ts";
import { attemptsKey } from "../../src/queue/own-keys.ts";
import { AttemptFailed, DeliveryWorker } from "../../src/queue/worker.ts";
import { createLogger } from "../../src/runtime/logger.ts";
import { connectValkey } from "../../src/valkey/connection.ts";
import { startChromium } from "./chromium.ts";
import { FAILING, KEYS, makeUpEndpoints, OWNER } from "./made-up-endpoints.ts";

const ROOT = join(import.meta.dir, "../..");
const USER = "usr_nordlicht";
const HOOK = "https://hooks.nordlicht.example/fluxdrop";
const ERP = "https://erp.nordlicht.example/in/webhooks";
const MINUTE_MS = 60_000;
const now = Date.now();

const valkey = await startValkey();
const client = connectValkey(valkey.url, "screenshots", createLogger("silent").logger);
const queue = new Queue("webhooks", { connection: client });
const log = createAttemptLog(client);

/** The job ends as its data says, without a request. */
const worker = new DeliveryWorker(
  async ({ data }) => {
    const { reason } = (data as { data: { reason?: string } }).data;
    if (reason !== undefined) throw new AttemptFailed(reason);
    return "HTTP 200";
  },
  {
    queue: "webhooks",
    valkey: client,
    concurrency: 1,
    timeoutMs: 1_000,
    policy: { attempts: 1, delaysMs: [1], jitter: 0 },
  },
);

type Try = [minutesAgo: number, attempt: number, error: string | null, status: number | null, durationMs: number];

/** What the endpoint sent with its 503. */
const RESPONSE: KeptResponse = {
  status_line: "HTTP/1.1 503 Service Unavailable",
  headers: { "content-type": "text/plain", "retry-after": "120" },
  body: "Down for maintenance",
};

/** An event with its attempts, and a job that ended with `reason`, was delivered, or waits for another attempt. */
async function tell(userId: string, event: EventType, url: string, tries: Try[], reason?: string, delay?: number) {
  const ended = Promise.withResolvers<void>();
  const id = crypto.randomUUID();
  const data = { id, userId, endpoint: { url, secret: "s" }, data: { reason } };
  const job = await queue.add(event, data, { delay });
  if (delay === undefined) {
    worker.on("completed", ({ id }) => id === job.id && ended.resolve());
    worker.on("failed", (failed) => failed?.id === job.id && ended.resolve());
    await ended.promise;
  }
  for (const [minutesAgo, attempt, error, status, durationMs] of tries) {
    const timestamp = new Date(now - minutesAgo * MINUTE_MS).toISOString();
    const entry: Attempt = {
      ...{ id, delivery: crypto.randomUUID(), attempt, timestamp, endpoint: url, event, status_code: status },
      ...{ duration_ms: durationMs, success: error === null, error, job: job.id as string },
      ...(error === "tls" && { cause: "expired" }),
      ...(status === 503 && { response: RESPONSE }),
    };
    await log.record(userId, entry);
  }
}

worker.run();
await tell("usr_218", "org.updated", ERP, [[9, 1, "dns", null, 38]], "dns after 38 ms, no attempts left");
await tell("usr_77", "file.created", HOOK, [[6, 1, "http_410", 410, 61]], "HTTP 410 in 61 ms");
await tell(USER, "share.deleted", HOOK, [[310, 1, null, 200, 240]]);
await tell(USER, "file.created", HOOK, [
  [94, 1, "http_502", 502, 1_180],
  [93, 2, null, 200, 410],
]);
await tell(
  USER,
  "org.userAdded",
  ERP,
  [
    [60, 5, "tls", null, 190],
    [52, 6, "tls", null, 170],
  ],
  "tls (expired) after 170 ms, no attempts left",
);
await tell(USER, "share.linked", HOOK, [[7, 1, null, 204, 86]]);
await tell(
  USER,
  "file.downloaded",
  HOOK,
  [
    [4, 1, "timeout", null, 10_000],
    [3, 2, "http_503", 503, 3_420],
    [1, 3, "timeout", null, 10_000],
  ],
  undefined,
  24 * MINUTE_MS,
);
await tell(USER, "storage.exceeded", HOOK, [], undefined, 95 * MINUTE_MS);
await worker.close();
await makeUpEndpoints(client, valkey.url, queue, now);
const idle = new DeliveryWorker(async () => "", {
  ...{ queue: "webhooks", valkey: client, concurrency: 1, timeoutMs: 1_000 },
  policy: { attempts: 1, delaysMs: [1], jitter: 0 },
});
await idle.waitUntilReady(); // for the overview: a worker is there
// Half an hour of deliveries, by the time at which they finished.
for (let minutesAgo = 29.5; minutesAgo > 0; minutesAgo--) {
  const finish = async (state: "completed" | "failed", count: number) => {
    const at = now - minutesAgo * MINUTE_MS;
    const members = Array.from({ length: count }, (_, index) => [at, `${state}-${minutesAgo}-${index}`]).flat();
    if (count > 0) await client.zadd(queue.toKey(state), ...members);
  };
  await finish("completed", Math.round(18 + 9 * Math.sin(minutesAgo / 3) + 5 * Math.sin(minutesAgo * 1.7)));
  await finish("failed", minutesAgo % 7 === 2.5 ? 3 : 0);
}
await client.hset(attemptsKey("webhooks", Math.floor(now / MINUTE_MS)), "made", 149, "failed", 21);
await client.zadd(
  "webhooks:circuits:webhooks",
  now + 10 * MINUTE_MS,
  "events.kaldera.example",
  now + 10 * MINUTE_MS,
  "api.lumen-labs.example:8443",
);

const board = startChild({
  name: "board",
  command: [process.execPath, join(ROOT, "src/board.ts")],
  env: { PATH: process.env.PATH, VALKEY_URL: valkey.url, BOARD_PORT: "0", WEBHOOK_SECRET_KEYS: KEYS },
  onLine: () => {},
  onDeath: (message) => {
    console.error(message);
    process.exit(1);
  },
});
const origin = await board.url;
const browser = await startChromium();
const take = async (path: string, name: string, width: number, colorScheme: "light" | "dark", height?: number) => {
  const page = await browser.newPage({ viewport: { width, height: height ?? 600 }, colorScheme });
  await page.goto(origin + path);
  const file = join(ROOT, "docs/images", `${name}.png`);
  await page.screenshot({ path: file, fullPage: height === undefined, animations: "disabled" });
  await page.close();
  console.log(`${Math.round(Bun.file(file).size / 1024)} kB  docs/images/${name}.png`);
};
for (const scheme of ["light", "dark"] as const) {
  await take("/", `board-overview-${scheme}`, 1000, scheme);
  await take(`/users/${USER}`, `board-user-${scheme}`, 1000, scheme, 1045);
  await take("/endpoints", `board-endpoints-${scheme}`, 1000, scheme);
  await take(`/users/${OWNER}/endpoints/${FAILING}`, `board-endpoint-${scheme}`, 1000, scheme, 1092);
}
await take(`/users/${USER}`, "board-user-narrow", 380, "light", 900);
await browser.close();
await board.stop(2_000);
await idle.close();
await queue.close();
client.disconnect();
await valkey.stop();
