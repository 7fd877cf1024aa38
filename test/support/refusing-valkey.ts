/** A Valkey that refuses, and ends refusing, in each of the ways that operators meet; and how a worker shows it. */
import { expect } from "bun:test";
import { Queue } from "bullmq";
import { Redis } from "ioredis";
import { startValkey, type ThrowawayValkey, type ThrowawayValkeyOptions } from "../../src/dev/valkey.ts";
import { startWorkerProcess, type WorkerProcess } from "./process.ts";
import { eventually, type Line } from "./stack.ts";

const MAX_REFUSED = 20; // commands a second that one process may have refused
const MEASURED_MS = 3000;
/** All rights, as rules of an ACL. */
export const FULL = ["~*", "&*", "+@all"];

export interface RefusingValkey {
  readonly valkey: ThrowawayValkey;
  readonly admin: Redis;
  readonly queue: Queue;
  /** Give the worker's user these rights and no others. */
  grant(...rules: string[]): Promise<unknown>;
  /** Start a worker as that user. */
  startWorker(): Promise<WorkerProcess & { readonly health: string }>;
  /** Call this when the test is over, however it ends; the last one first. */
  atEnd(end: () => unknown): void;
  /** Ends all of it. */
  [Symbol.asyncDispose](): Promise<void>;
}

/** A Valkey of one test, to be held with `await using`: tests that wait can then run side by side. */
export async function setUp(options: ThrowawayValkeyOptions = {}): Promise<RefusingValkey> {
  const ends: (() => unknown)[] = [];
  const valkey = await startValkey({ appendonly: false, ...options });
  ends.push(() => valkey.stop());
  const admin = new Redis(valkey.url).on("error", () => {});
  ends.push(() => admin.disconnect());
  const queue = new Queue("webhooks", { connection: admin });
  const grant = (...rules: string[]) => admin.acl("SETUSER", "limited", "reset", "on", ">pass", ...rules);
  await grant(...FULL);
  return {
    valkey,
    admin,
    queue,
    grant,
    async startWorker() {
      const worker = startWorkerProcess({ VALKEY_URL: valkey.url.replace("//", "//limited:pass@") });
      ends.push(() => worker.stop());
      return { ...worker, health: `${(await worker.line("worker.listening")).url}/readyz` };
    },
    atEnd: (end) => ends.push(end),
    async [Symbol.asyncDispose]() {
      for (const end of ends.splice(0).reverse()) await end();
    },
  };
}

/** Readiness as probes see it: the status, and the reasons. */
export async function ask(health: string): Promise<{ status: number; problems: string }> {
  try {
    const response = await fetch(health, { signal: AbortSignal.timeout(5_000) });
    const { problems = [] } = (await response.json()) as { problems?: string[] };
    return { status: response.status, problems: problems.join("\n") };
  } catch (error) {
    return { status: 0, problems: (error as Error).name };
  }
}

export const becomesUnready = (health: string, reason: RegExp) =>
  eventually(
    () => ask(health),
    ({ status, problems }) => status === 503 && reason.test(problems),
  );
export const becomesReady = (health: string) =>
  eventually(
    () => ask(health),
    ({ status }) => status === 200,
  );

/** The server refuses few commands a second. It is about time, and so waits for some. */
export async function expectFewRefusals(admin: Redis): Promise<void> {
  await admin.config("RESETSTAT");
  const since = performance.now();
  await Bun.sleep(MEASURED_MS);
  const stats = await admin.info("errorstats");
  const count = [...stats.matchAll(/^errorstat_.*count=(\d+)/gm)].reduce((sum, [, value]) => sum + Number(value), 0);
  expect((count * 1000) / (performance.now() - since)).toBeLessThan(MAX_REFUSED);
}

/** Warnings that have this reason, without those that another connection gave before. */
export const warnings = (lines: readonly Line[], reason: RegExp) =>
  lines.filter(
    (line) => line.level === "warn" && reason.test(JSON.stringify(line)) && line.connection !== "fluxhook:probe",
  );

/** What a worker may meet as it starts; each returns what ends it. */
export const STATES: Record<string, { reason: RegExp; begin: (setup: RefusingValkey) => Promise<() => unknown> }> = {
  "a user that may not run scripts": {
    reason: /may not run EVAL: grant \+eval/,
    async begin({ grant }) {
      await grant(...FULL, "-eval", "-evalsha");
      return () => grant(...FULL);
    },
  },
  "a user with another pattern of keys": {
    reason: /may not use the keys bull:webhooks:\*: grant ~bull:webhooks:\*/,
    async begin({ grant }) {
      await grant("~other:*", "&*", "+@all");
      return () => grant(...FULL);
    },
  },
  "a user that may not write": {
    reason: /may not run SET: grant \+set/,
    async begin({ grant }) {
      await grant(...FULL, "-@write");
      return () => grant(...FULL);
    },
  },
  "a user that may not wait for jobs": {
    reason: /may not run BZPOPMIN: grant \+bzpopmin/,
    async begin({ grant }) {
      await grant(...FULL, "-bzpopmin");
      return () => grant(...FULL);
    },
  },
  "a queue's key that holds something else": {
    reason: /The key bull:webhooks:wait is a string/,
    async begin({ admin }) {
      await admin.set("bull:webhooks:wait", "x");
      return () => admin.del("bull:webhooks:wait");
    },
  },
  "a primary without enough replicas": {
    reason: /NOREPLICAS /,
    async begin({ admin }) {
      await admin.config("SET", "min-replicas-to-write", 1);
      return () => admin.config("SET", "min-replicas-to-write", 0);
    },
  },
  "a full memory": {
    reason: /OOM /,
    async begin({ admin }) {
      await admin.config("SET", "maxmemory", 1);
      return () => admin.config("SET", "maxmemory", 0);
    },
  },
  "a replica": {
    reason: /it is a replica/,
    async begin({ admin }) {
      await admin.replicaof("127.0.0.1", 1);
      return () => admin.replicaof("NO", "ONE");
    },
  },
  "a wrong password": {
    reason: /WRONGPASS /,
    async begin({ grant, admin }) {
      await admin.acl("SETUSER", "limited", "reset", "on", ">other", ...FULL);
      return () => grant(...FULL);
    },
  },
};
