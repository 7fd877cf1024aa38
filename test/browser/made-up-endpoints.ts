/**
 * Registered endpoints for the screenshots: made up, as if they had been there for weeks. What is missed is missed in a real worker.
 */
import { join } from "node:path";
import type { Queue } from "bullmq";
import { startChild } from "../../src/dev/processes.ts";
import type { Attempt } from "../../src/log/attempts.ts";
import { endpointIndexKey, endpointLogKey, endpointOffKey, endpointsKey } from "../../src/queue/own-keys.ts";
import { createRegistry, type NewEndpoint } from "../../src/registry/registry.ts";
import type { Valkey } from "../../src/valkey/connection.ts";
import { eventually } from "../support/stack.ts";

const ROOT = join(import.meta.dir, "../..");
const KEY = Buffer.alloc(32, 7).toString("base64");
const MINUTE_MS = 60_000;
const DAY_MS = 24 * 60 * MINUTE_MS;
const MISSED = 12;

/** Whose endpoint has the page that is shown, and its id. */
export const [OWNER, FAILING] = ["usr_kaldera", "erp"] as const;
/** For the board, so that it can rotate secrets. */
export const KEYS: string = KEY;

interface MadeUp extends NewEndpoint {
  readonly id: string;
  readonly userId: string;
  readonly daysOld: number;
  /** As it is stored, with what is to be replaced by a time: `disabled failing`. */
  readonly state?: string;
  /** Since when it is in that state. */
  readonly minutesOff?: number;
  /** Of its health: how many attempts have failed, and since when, minutes ago. */
  readonly failures?: readonly [count: number, minutesAgo: number];
  readonly succeededMinutesAgo?: number;
}

const ENDPOINTS: readonly MadeUp[] = [
  {
    ...{ userId: OWNER, id: FAILING, url: "https://erp.kaldera.example/in/webhooks", daysOld: 92 },
    ...{ description: "Invoices and storage reports", events: ["file.*", "storage.exceeded"] },
    ...{ rateLimit: { perSecond: 20, burst: 5 }, metadata: { plan: "business", contact: "it@kaldera.example" } },
    headers: { Authorization: "Bearer 8f14e45fceea167a5a36" },
    ...{ state: "disabled failing", minutesOff: 190, failures: [31, 5 * 24 * 60 + 190] as const },
    succeededMinutesAgo: 5 * 24 * 60 + 200,
  },
  {
    ...{ userId: OWNER, id: "main", url: "https://hooks.kaldera.example/fluxdrop", daysOld: 120 },
    succeededMinutesAgo: 3,
  },
  {
    ...{ userId: "usr_lumen", id: "search", url: "https://api.lumen-labs.example:8443/index?token=x", daysOld: 3 },
    ...{ events: ["file.*", "share.linked"], failures: [9, 74] as const, succeededMinutesAgo: 80 },
  },
  {
    ...{ userId: "usr_fjord", id: "audit", url: "https://audit.fjord.example/events", daysOld: 31 },
    ...{ events: ["org.permissionChanged"], state: "paused", minutesOff: 25, succeededMinutesAgo: 41 },
  },
  { ...{ userId: "usr_oasis", id: "crm", url: "https://crm.oasis.example/hooks/fluxdrop", daysOld: 6 } },
];

/** Register them, in a queue without a worker. */
export async function makeUpEndpoints(valkey: Valkey, valkeyUrl: string, queue: Queue, now: number): Promise<void> {
  const registry = createRegistry(valkey, { secretKeys: [Buffer.from(KEY, "base64")] });
  for (const { userId, daysOld, state, minutesOff, failures, succeededMinutesAgo, ...settings } of ENDPOINTS) {
    await registry.create(userId, settings);
    const { id } = settings;
    const at = now - daysOld * DAY_MS;
    const key = endpointsKey(userId);
    const stored = String(await valkey.hget(key, id));
    const version = stored.slice(0, stored.indexOf(" "));
    const document = JSON.parse(stored.slice(version.length));
    const secrets = document.secrets.map((secret: object) => ({ ...secret, createdAt: at }));
    await valkey.hset(key, id, `${version} ${JSON.stringify({ ...document, secrets, createdAt: at, updatedAt: at })}`);
    await valkey.zadd(endpointIndexKey(), at, `${userId} ${id}`);
    if (state !== undefined && minutesOff !== undefined) {
      const since = now - minutesOff * MINUTE_MS;
      await valkey.hset(key, `${id}/state`, `${state} ${since}`);
      await valkey.zadd(endpointOffKey(), since, `${userId} ${id}`);
      await valkey.zadd(endpointIndexKey(), since, `${userId} ${id}`);
    }
    const [count, minutesAgo] = failures ?? [];
    const health = `webhooks:health:${userId}`;
    if (count !== undefined && minutesAgo !== undefined) {
      await valkey.hset(health, `${id}.since`, now - minutesAgo * MINUTE_MS, `${id}.n`, count);
    }
    if (succeededMinutesAgo !== undefined) {
      await valkey.hset(health, `${id}.ok`, now - succeededMinutesAgo * MINUTE_MS);
    }
  }
  await logAttempts(valkey, now);
  await missEvents(valkeyUrl, queue, now);
}

/** The attempts at one event, before its endpoint was disabled. */
async function logAttempts(valkey: Valkey, now: number): Promise<void> {
  const id = crypto.randomUUID();
  for (const [index, minutesAgo] of [430, 311, 190].entries()) {
    const at = now - minutesAgo * MINUTE_MS;
    const attempt: Attempt = {
      ...{ id, delivery: crypto.randomUUID(), attempt: 5 + index, timestamp: new Date(at).toISOString() },
      ...{ endpoint: "https://erp.kaldera.example/in/webhooks", endpoint_id: FAILING, event: "storage.exceeded" },
      ...{ status_code: null, duration_ms: index === 1 ? 10_000 : 3_004, success: false },
      ...{ error: index === 1 ? "timeout" : "connection_refused", job: "71" },
    };
    await valkey.rpush(endpointLogKey(OWNER, FAILING), at, JSON.stringify(attempt));
  }
  await valkey.pexpire(endpointLogKey(OWNER, FAILING), 7 * DAY_MS);
}

async function missEvents(valkeyUrl: string, queue: Queue, now: number): Promise<void> {
  const types = ["file.created", "file.created", "storage.exceeded", "file.downloaded", "file.deleted"];
  const events = Array.from({ length: MISSED }, (_, index) => ({
    name: types[index % types.length] as string,
    data: { id: crypto.randomUUID(), userId: OWNER, endpoint: { id: FAILING }, data: { bytes: 17 } },
    opts: { timestamp: now - (170 - index * 13) * MINUTE_MS },
  }));
  const jobs = await queue.addBulk(events);
  const worker = startChild({
    name: "worker",
    command: [process.execPath, join(ROOT, "src/worker.ts")],
    env: { PATH: process.env.PATH, VALKEY_URL: valkeyUrl, WEBHOOK_SECRET_KEYS: KEY, WORKER_PORT: "0" },
    onLine: () => {},
    onDeath: (message) => {
      console.error(message);
      process.exit(1);
    },
  });
  await eventually(
    () => Promise.all(jobs.map((job) => job.getState())),
    (states) => states.every((state) => state === "completed"),
    30_000,
  );
  await worker.stop(5_000);
}
