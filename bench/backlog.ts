/**
 * A backlog, and its drain: how fast workers get through jobs that wait, and what it costs.
 */
import { Queue } from "bullmq";
import { endpointChangesKey, endpointsKey } from "../src/queue/own-keys.ts";
import { EVERYONE } from "../src/registry/changes.ts";
import { VERSION_FIELD } from "../src/registry/endpoint.ts";
import { hostOf } from "./hosts.ts";
import { cpuMicros, peakBytes, readValkeyMeters } from "./meters.ts";
import type { Child } from "./processes.ts";
import { type Kind, type Rig, readSink } from "./rig.ts";

export interface Drain {
  readonly kind: Kind;
  /** Jobs that are measured, and those before them that are not: code that has not run yet is slow, in every worker. */
  readonly jobs: number;
  readonly warmUpJobs: number;
  readonly urls: readonly string[];
  /** How jobs name their endpoints; by URL and secret by default. */
  readonly by?: By;
  /** Of each worker. */
  readonly env: Readonly<Record<string, string>>;
  /** Processes side by side; 1 unless told otherwise. */
  readonly workers?: number;
  /** For Bun, in front of the program. */
  readonly flags?: readonly string[];
}

/**
 * How a job says where it goes: with URL and secret, with the id of a registered endpoint, or not at all, so that it goes to all endpoints
 * of its user, of which there is one.
 */
export type By = "url" | "id" | "user";

/** What was measured between the end of the warm-up and the last job. */
export interface Drained {
  readonly jobs: number;
  readonly seconds: number;
  /** µs of CPU, all workers together. */
  readonly workerMicros: number;
  readonly valkeyMicros: number;
  /** µs that Valkey's thread spent in scripts, and how many those were. */
  readonly scriptMicros: number;
  readonly scripts: number;
  readonly receiverMicros: number;
  /** Of the largest worker, from its start. */
  readonly peakBytes: number;
}

export const USERS = 1_000; // events belong to so many users in turn
const SECRET = "bench-secret-of-32-characters-xx";
const CHUNK = 1_000;
const POLL_MS = 10;
const STUCK_MS = 60 * 1000; // 60 s without a job done: give up

/** An event's own data, some 150 bytes. */
export function buildEventData(index: number): object {
  return {
    fileId: `file_${index}`,
    name: "Quarterly report.pdf",
    size: 482_113,
    path: "/Shared/Finance/2026/Q3",
    owner: { id: "usr_1842", email: "owner@example.com" },
  };
}

export function buildJob(index: number, urls: readonly string[]) {
  const url = urls[index % urls.length] as string;
  const endpoint = { url, secret: SECRET };
  return {
    name: "file.created",
    data: { userId: `usr_${index % USERS}`, endpoint, data: buildEventData(index) },
  };
}

/** The fields in the order of the documentation: in another, the fair queue takes longer to read them. */
function buildJobBy(by: By, index: number, urls: readonly string[]) {
  const job = buildJob(index, urls);
  if (by === "url") return job;
  const { name, data } = job;
  if (by === "id") return { name, data: { ...data, endpoint: { id: `ep_${index % urls.length}` } } };
  const { endpoint: _, ...rest } = data;
  return { name, data: rest };
}

/** Register each user's endpoints, as {@link buildJobBy} spreads events over them. */
async function registerAll({ client }: Pick<Rig, "client">, by: By, urls: readonly string[]): Promise<void> {
  const users = new Map<string, Record<string, string>>();
  for (let index = 0; index < (by === "user" ? USERS : USERS * urls.length); index++) {
    const { userId, endpoint } = buildJob(index, urls).data;
    const fields = users.get(userId) ?? { [VERSION_FIELD]: crypto.randomUUID() };
    fields[by === "user" ? "main" : `ep_${index % urls.length}`] ??= storeEndpoint(endpoint.url);
    users.set(userId, fields);
  }
  const pipeline = client.pipeline();
  for (const [userId, fields] of users) pipeline.hset(endpointsKey(userId), fields);
  pipeline.lpush(endpointChangesKey(), changeOf(EVERYONE));
  await pipeline.exec();
}

/** A change of a user's endpoints, as the registry tells it: without one, workers remember none. */
export const changeOf = (userId: string): string => `${crypto.randomUUID()} ${userId}`;

/** An endpoint for all event types, as the registry stores it. */
export function storeEndpoint(url: string, events: readonly string[] | null = null): string {
  const createdAt = Date.now();
  const secrets = [{ secret: SECRET, createdAt }];
  return `1 ${JSON.stringify({ url, events, secrets, createdAt, updatedAt: createdAt })}`;
}

/** Addresses of so many endpoints of the sink, spread over so many loopback hosts. */
export function buildUrls({ receiverLine }: Rig, endpoints: number, hosts: number): string[] {
  const { port } = JSON.parse(receiverLine);
  return Array.from({ length: endpoints }, (_, index) => `http://${hostOf(index % hosts)}:${port}/hooks/${index}`);
}

/**
 * Fill a queue, start workers on it, and measure from when the warm-up jobs are done to the last acknowledgement.
 *
 * @throws  when a worker ends, nothing moves, a job failed, the receiver has not seen every delivery, or there were too
 *          few to measure
 */
export async function drain(rig: Rig, run: Drain): Promise<Drained> {
  const { kind, jobs, warmUpJobs, urls, by = "url", workers: count = 1 } = run;
  const name = crypto.randomUUID();
  const total = jobs + warmUpJobs;
  const seenBefore = (await readSink(rig)).requests;
  if (kind !== "raw") {
    const queue = new Queue(name, { connection: { url: rig.valkeyUrl } });
    if (by !== "url") await registerAll(rig, by, urls);
    await fill(queue, total, (index) => buildJobBy(by, index, urls));
    await queue.close();
  }
  const rawEnv: Record<string, string> =
    kind === "raw" ? { BENCH_URLS: JSON.stringify(urls), BENCH_JOBS: String(total) } : {};
  const workers = Array.from({ length: count }, () =>
    rig.startWorker(kind, name, { ...run.env, ...rawEnv }, run.flags),
  );
  const remaining = async (): Promise<number> =>
    kind === "raw" ? total - ((await readSink(rig)).requests - seenBefore) : await countOpen(rig, name);

  const first = await untilLeft(remaining, jobs, workers);
  if (first === 0) throw new Error(`${jobs} jobs were done between two looks: too few to measure`);
  const before = await readMeters(rig, workers);
  const startedAt = performance.now();
  let peak = 0;
  const done = await untilLeft(remaining, 0, workers, () => {
    peak = Math.max(peak, ...workers.filter((worker) => !worker.hasEnded()).map(({ pid }) => peakBytes(pid)));
  });
  const seconds = (performance.now() - startedAt) / 1000;
  const after = await readMeters(rig, workers);

  if (kind !== "noop") await checkAll(rig, name, total, seenBefore);
  await Promise.all(workers.map((worker) => worker.stop()));
  return {
    jobs: first - done,
    seconds,
    workerMicros: after.worker - before.worker,
    valkeyMicros: after.valkey.cpuMicros - before.valkey.cpuMicros,
    scriptMicros: after.valkey.scriptMicros - before.valkey.scriptMicros,
    scripts: after.valkey.scripts - before.valkey.scripts,
    receiverMicros: after.receiver - before.receiver,
    peakBytes: peak,
  };
}

/** Add so many jobs to a queue. */
export async function fill(
  queue: Queue,
  total: number,
  build: (index: number) => { name: string; data: object },
): Promise<void> {
  for (let start = 0; start < total; start += CHUNK) {
    const length = Math.min(CHUNK, total - start);
    await queue.addBulk(Array.from({ length }, (_, index) => build(start + index)));
  }
}

/** Jobs that are not finished. */
export async function countOpen({ client }: Pick<Rig, "client">, name: string): Promise<number> {
  const counting = client.multi();
  for (const state of ["wait", "active", "paused"]) counting.llen(`bull:${name}:${state}`);
  for (const state of ["delayed", "prioritized"]) counting.zcard(`bull:${name}:${state}`);
  const replies = (await counting.exec()) ?? [];
  return replies.reduce((sum, [, length]) => sum + Number(length), 0);
}

/**
 * Wait until no more than `target` jobs are left; resolves with how many there were then.
 *
 * @throws  when a worker ends, or nothing moves
 */
export async function untilLeft(
  remaining: () => Promise<number>,
  target: number,
  workers: readonly Child[],
  onPoll = () => {},
): Promise<number> {
  let last = Number.POSITIVE_INFINITY;
  let movedAt = performance.now();
  for (;;) {
    onPoll();
    const left = await remaining();
    if (left <= target) return left;
    if (left < last) movedAt = performance.now();
    last = left;
    const ended = workers.find((worker) => worker.hasEnded());
    if (ended !== undefined || performance.now() - movedAt > STUCK_MS) {
      throw new Error(`${ended ? "a worker ended" : "nothing moves"} with ${left} jobs left: ${tail(workers)}`);
    }
    await Bun.sleep(POLL_MS);
  }
}

const tail = (workers: readonly Child[]): string => workers.map((worker) => worker.output().slice(-1000)).join("\n");

async function readMeters(rig: Rig, workers: readonly Child[]) {
  return {
    worker: workers.reduce((sum, { pid }) => sum + cpuMicros(pid), 0),
    valkey: await readValkeyMeters(rig),
    receiver: cpuMicros(rig.receiver.pid),
  };
}

/** A figure counts when every job was delivered. */
async function checkAll(rig: Rig, name: string, total: number, seenBefore: number): Promise<void> {
  const seen = (await readSink(rig)).requests - seenBefore;
  const failed = await rig.client.zcard(`bull:${name}:failed`);
  if (seen < total || failed > 0)
    throw new Error(`expected ${total} deliveries, got ${seen}, and ${failed} failed jobs`);
}
