/**
 * A rig for outages of shards: a cluster, or several Valkeys, workers as processes, a receiver, a backend that keeps enqueueing,
 * and the books.
 */

import { expect, test } from "bun:test";
import { Queue } from "bullmq";
import { type Cluster, type ClusterNode, type ClusterOptions, startCluster } from "../../src/dev/cluster.ts";
import { startReceiver } from "../../src/dev/receiver.ts";
import { startValkey, type ThrowawayValkey } from "../../src/dev/valkey.ts";
import { createFluxhook } from "../../src/index.ts";
import { ALL_KEPT, createAttemptLog } from "../../src/log/attempts.ts";
import { joinLogs } from "../../src/log/joined-logs.ts";
import { homeOf, type Shard, shardsOf } from "../../src/queue/shards.ts";
import { slotOf } from "../../src/valkey/cluster.ts";
import { connectValkey, type Valkey } from "../../src/valkey/connection.ts";
import { type Arrival, type Balance, type Books, createBooks } from "./books.ts";
import { type Chance, createChance } from "./chance.ts";
import { end } from "./chaos.ts";
import { startLoad } from "./load.ts";
import { startWorkerProcess, type WorkerProcess } from "./process.ts";
import { bounded, eventually } from "./stack.ts";

export const SHARDS = 6;
/** Attempts in flight in each of the rig's workers. */
export const SLOTS = 32;
const SETTLE_MS = 60 * 1000;
const START_MS = 40 * 1000;
const TEST_MS = 150 * 1000;
const RUN_MS = 135 * 1000; // before the test's end, so that no process outlives it
/** How long an answer may take to be acknowledged on a busy machine. */
export const ACKNOWLEDGED_MS = 1_000;

export interface ShardRigOptions {
  /** Six by default. */
  readonly shards?: number;
  readonly workers?: number;
  /** For every worker. */
  readonly env?: Record<string, string>;
  /** Whose the event with this number is; two in a row have the same user by default. */
  readonly userOf?: (index: number) => string;
  /** Whether the endpoint of the event with this number is dead until {@link ShardRig.revive}. */
  readonly isDead?: (index: number) => boolean;
  /**
   * It measures how long events take: it runs beside none of its file's other tests, and has a {@link ClusterRig.control}.
   */
  readonly isMeasured?: boolean;
}

export interface OpenShard extends Shard {
  readonly valkey: Valkey;
  readonly client: Queue;
}

/** Where a backend enqueues. */
export interface Place {
  readonly valkeyUrl: string;
  readonly shards: number;
}

/** An event that was enqueued. */
export interface Enqueued {
  readonly shard: number;
  /** When the backend began to enqueue it, epoch ms. */
  readonly from: number;
  /** When Valkey had said yes, epoch ms. */
  at: number;
}

export interface ShardRig {
  readonly chance: Chance;
  readonly shards: readonly OpenShard[];
  readonly workers: WorkerProcess[];
  readonly arrivals: readonly Arrival[];
  /** By id. */
  readonly events: ReadonlyMap<string, Enqueued>;
  /** The endpoints of living events. */
  readonly receiverUrl: string;
  /** What is below it is dead until {@link ShardRig.revive}: `silent` and `reset`, all others answer 503. */
  readonly deadUrl: string;
  startWorker(env?: Record<string, string>): Promise<WorkerProcess>;
  /** Enqueue there from now on. */
  produceTo(place: Place): Promise<void>;
  enqueue(): Promise<string>;
  /** Enqueue so many events a second until the returned function is called, which resolves once all are enqueued. */
  load(perSecond: number): () => Promise<void>;
  /** How many were enqueued, or are being. */
  readonly made: number;
  /** The dead endpoints live from now on. */
  revive(): void;
  /** Wait until nothing is left to do in any shard. */
  settled(timeoutMs?: number): Promise<void>;
  closeBooks(): Promise<Balance>;
  /** The 99th percentile of the time from enqueueing to arrival, ms, of events of these shards begun in this time. */
  p99(shards: readonly number[], from: number, to: number): number;
  /** Call this when the test is over, however it ends; the last one first. */
  atEnd(end: () => unknown): void;
  /** How the test went, for those who ask with CHAOS_FIGURES=1. */
  figures(figures: Record<string, unknown>): void;
}

export interface ClusterRig extends ShardRig {
  readonly cluster: Cluster;
  /**
   * A shard on a Valkey of its own, with a worker of its own: nothing happens to it, so what its events wait for is the machine that
   * they share with the cluster's. Only in a test that is measured.
   */
  readonly control: ShardRig | undefined;
  ownerOf(shard: number): Promise<ClusterNode>;
  /** The shards whose slots a node owns, and the others. */
  shardsOn(node: ClusterNode): Promise<{ own: number[]; others: number[] }>;
  /** Wait until another node owns a shard; how long that took, ms. */
  replaced(shard: number, node: ClusterNode): Promise<number>;
}

/** What a primary that was killed had acknowledged and may not have replicated. */
export interface Lag {
  /** Everything acknowledged before is at the replica. Epoch ms. */
  readonly from: number;
  /** When it was killed, epoch ms. */
  readonly to: number;
}

/** A test with a cluster of its own, at the same time as the others of its file unless it is measured. A failure names its seed; `CHAOS_SEED=…` repeats it. */
export function clusterChaos(
  name: string,
  options: ShardRigOptions & ClusterOptions,
  run: (rig: ClusterRig) => Promise<void>,
): void {
  seeded(name, options, async (chance, ends) => {
    const cluster = await startCluster(options);
    ends.push(() => cluster.stop());
    const place = { valkeyUrl: cluster.url, shards: options.shards ?? SHARDS };
    const rig = await buildRig(name, [cluster.url], place, options, chance, ends);
    const control = options.isMeasured ? await startControl(chance, ends) : undefined;
    const ownerOf = async (shard: number) =>
      (await cluster.ownerOf(slotOf((rig.shards[shard] as OpenShard).queue))) as ClusterNode;
    await run({
      ...rig,
      get made() {
        return rig.made;
      },
      cluster,
      control,
      ownerOf,
      async shardsOn(node) {
        const owners = await Promise.all(rig.shards.map(({ index }) => ownerOf(index)));
        const all = rig.shards.map(({ index }) => index);
        const isOwn = (index: number) => owners[index] === node;
        return { own: all.filter(isOwn), others: all.filter((index) => !isOwn(index)) };
      },
      async replaced(shard, node) {
        const since = performance.now();
        await eventually(
          () => ownerOf(shard),
          (owner) => owner !== undefined && owner !== node,
          30_000,
          50,
        );
        return performance.now() - since;
      },
    });
  });
}

async function startControl(chance: Chance, ends: (() => unknown)[]): Promise<ShardRig> {
  const valkey = await startValkey();
  ends.push(() => valkey.stop());
  return await buildRig("control", [valkey.url], { valkeyUrl: valkey.url, shards: 1 }, { workers: 1 }, chance, ends);
}

/** The same on so many Valkeys, a shard on each. */
export function valkeysChaos(
  name: string,
  count: number,
  options: ShardRigOptions,
  run: (rig: ShardRig, valkeys: readonly ThrowawayValkey[]) => Promise<void>,
): void {
  seeded(name, options, async (chance, ends) => {
    const valkeys = await Promise.all(Array.from({ length: count }, () => startValkey()));
    ends.push(() => Promise.all(valkeys.map((valkey) => valkey.stop())));
    const urls = valkeys.map(({ url }) => url);
    const place = { valkeyUrl: urls.join(" "), shards: count };
    await run(await buildRig(name, urls, place, options, chance, ends), valkeys);
  });
}

function seeded(
  name: string,
  { isMeasured = false }: ShardRigOptions,
  run: (chance: Chance, ends: (() => unknown)[]) => Promise<void>,
): void {
  const add = isMeasured ? test.serial : test.concurrent;
  add(
    name,
    async () => {
      const seed = Number(process.env.CHAOS_SEED) || Math.floor(Math.random() * 2 ** 32);
      const ends: (() => unknown)[] = [];
      try {
        await bounded(run(createChance(seed), ends), () => "the test's end", RUN_MS);
      } catch (error) {
        if (error instanceof Error) error.message += `\n\nTo repeat it: CHAOS_SEED=${seed}`;
        throw error;
      } finally {
        for (const end of ends.reverse()) await end();
      }
    },
    TEST_MS,
  );
}

const quiet = { info() {}, warn() {} };

async function buildRig(
  name: string,
  valkeyUrls: readonly string[],
  place: Place,
  { workers: workerCount = 2, env: commonEnv = {}, userOf, isDead = () => false }: ShardRigOptions,
  chance: Chance,
  ends: (() => unknown)[],
): Promise<ShardRig> {
  const startedAt = performance.now();
  const shards = shardsOf({ queue: "webhooks", shards: place.shards, valkeyUrls }).map((shard) => {
    const valkey = connectValkey(shard.url, "test:admin", quiet, { key: shard.queue });
    const client = new Queue(shard.queue, { connection: valkey });
    client.on("error", () => {});
    ends.push(() => valkey.disconnect());
    return { ...shard, valkey, client };
  });
  const counts = async (...states: Parameters<Queue["getJobCounts"]>) => {
    const all = await Promise.all(shards.map(({ client }) => client.getJobCounts(...states)));
    return all.flatMap((one) => Object.values(one)).reduce((sum, n) => sum + n, 0);
  };
  const log = joinLogs(shards.map(({ valkey, tag }) => createAttemptLog(valkey, { ...ALL_KEPT, tag })));
  const books = createBooks(log, () => counts("failed"));
  const { urlOf, ...endpoints } = await startEndpoints(books, chance, isDead, ends);
  const producer = createProducer(books, place, urlOf, userOf, ends);
  const workers: WorkerProcess[] = [];
  let isOver = false;
  ends.push(() => {
    isOver = true;
    return Promise.all(workers.map(end));
  });
  const startWorker = async (env: Record<string, string> = {}): Promise<WorkerProcess> => {
    if (isOver) throw new Error("the test is over");
    const slots = { WEBHOOK_CONCURRENCY: String(SLOTS), WEBHOOK_ENDPOINT_CONCURRENCY: String(SLOTS) };
    const where = { VALKEY_URL: place.valkeyUrl, WEBHOOK_SHARDS: String(place.shards) };
    const worker = startWorkerProcess({ ...where, ...slots, ...commonEnv, ...env });
    workers.push(worker);
    const isReady = () => worker.lines.some(({ message }) => message === "worker.ready");
    const died = worker.exited.then((code) => {
      if (!isReady()) throw new Error(`expected a worker to be ready, but it exited with ${code}: ${worker.output()}`);
      return true;
    });
    await Promise.race([eventually(isReady, (ready) => ready, START_MS, 50), died]);
    return worker;
  };
  await Promise.all(Array.from({ length: workerCount }, () => startWorker()));
  return {
    ...{ chance, shards, workers, startWorker, ...endpoints, arrivals: books.arrivals },
    ...producer,
    get made() {
      return producer.made;
    },
    async settled(timeoutMs = SETTLE_MS) {
      const left = () => counts("waiting", "active", "delayed", "prioritized");
      await eventually(left, (jobs) => jobs === 0, timeoutMs, 100);
    },
    closeBooks: () => books.close(),
    p99(of, from, to) {
      const first = new Map(books.arrivals.toReversed().map(({ event, at }) => [event, at]));
      const waits = [...producer.events]
        .filter(([, event]) => of.includes(event.shard) && event.from >= from && event.from < to)
        .map(([id, event]) => (first.get(id) ?? Number.POSITIVE_INFINITY) - event.from)
        .sort((a, b) => a - b);
      return waits[Math.ceil(waits.length * 0.99) - 1] ?? Number.NaN;
    },
    atEnd: (end) => void ends.push(end),
    figures(figures) {
      if (!process.env.CHAOS_FIGURES) return;
      const seconds = Math.round((performance.now() - startedAt) / 100) / 10;
      const told = new Map<string, number>();
      for (const { message } of workers.flatMap(({ lines }) => lines)) told.set(message, (told.get(message) ?? 0) + 1);
      const common = {
        seconds,
        enqueued: producer.made,
        arrivals: books.arrivals.length,
        told: Object.fromEntries(told),
      };
      console.error(name, { ...common, ...figures });
    },
  };
}

/** A receiver that answers, and one whose endpoints are dead in several ways until they are revived. */
async function startEndpoints(
  books: Books,
  chance: Chance,
  isDead: (index: number) => boolean,
  ends: (() => unknown)[],
) {
  const [receiver, dead] = await Promise.all([startReceiver(), startReceiver()]);
  ends.push(() => Promise.all([receiver.stop(), dead.stop()]));
  let isRevived = false;
  const revived = Promise.withResolvers<"reset">();
  receiver.answer((request) => {
    books.arrive(request);
    return { delayMs: Math.round(chance.between(20, 80)) };
  });
  dead.answer((request) => {
    if (isRevived) books.arrive(request);
    else books.refuse(request);
    if (isRevived) return {};
    return request.path === "/silent" ? revived.promise : request.path === "/reset" ? "reset" : { status: 503 };
  });
  const ways = ["/silent", "/reset", "/503", "/busy"];
  return {
    receiverUrl: receiver.url("/"),
    deadUrl: dead.url("/"),
    urlOf: (index: number) => (isDead(index) ? dead.url(ways[index % 4]) : receiver.url(`/${index % 4}`)),
    revive() {
      isRevived = true;
      revived.resolve("reset");
    },
  };
}

function createProducer(
  books: Books,
  first: Place,
  urlOf: (index: number) => string,
  userOf: ((index: number) => string) | undefined,
  ends: (() => unknown)[],
) {
  const events = new Map<string, Enqueued>();
  const connect = ({ valkeyUrl, shards }: Place) => createFluxhook({ valkeyUrl, shards, timeoutMs: 60_000 });
  let place = first;
  let backend = connect(place);
  const close = (old: typeof backend) => Promise.race([old.close().catch(() => {}), Bun.sleep(500)]);
  ends.push(() => close(backend));
  let made = 0;
  const enqueue = async (): Promise<string> => {
    const index = made++;
    const id = crypto.randomUUID();
    const endpoint = { url: urlOf(index), secret: "s3cret-of-the-test" };
    const userId = books.nextUser(userOf?.(index));
    const event = { shard: homeOf(userId, place.shards), from: Date.now(), at: 0 };
    await backend.enqueue({ event: "file.created", id, userId, endpoint, data: { index } });
    event.at = Date.now();
    events.set(id, event);
    books.wasEnqueued(id);
    return id;
  };
  return {
    events,
    enqueue,
    get made() {
      return made;
    },
    async produceTo(next: Place) {
      const old = backend;
      [place, backend] = [next, connect(next)];
      ends.push(() => close(old)); // what is on its way there may still arrive
    },
    load: (perSecond: number) => startLoad(perSecond, enqueue, { limitMs: 30_000, atEnd: (end) => ends.push(end) }),
  };
}

/** Wait until the replica has all that a primary acknowledged so far, and kill the primary in that moment. */
export async function killMeasured(node: ClusterNode, shard: Shard): Promise<Lag> {
  const from = Date.now();
  await node.client.set(`test:${shard.tag || shard.queue}`, "1"); // WAIT waits for its own connection's last write
  await node.client.wait(1, 5_000);
  process.kill(node.pid, "SIGKILL");
  const to = Date.now();
  await node.kill();
  return { from, to };
}

/** The arrivals that a lag explains: what its answers led to was not replicated, or it was in flight until the failover's end. */
export function unexplainedBy(arrivals: readonly Arrival[], harms: readonly Lag[]): Arrival[] {
  const isHit = ({ at, endedAt = Number.POSITIVE_INFINITY }: Arrival) =>
    harms.some(({ from, to }) => endedAt > from - ACKNOWLEDGED_MS && at < to + ACKNOWLEDGED_MS);
  return arrivals.filter((arrival) => !isHit(arrival));
}

/** What Valkey said yes to and had not replicated is lost with the primary; nothing else is. */
export function expectNothingReplicatedLost({ events }: ShardRig, lost: readonly string[], { from, to }: Lag): void {
  const isReplicated = (id: string) => {
    const { at } = events.get(id) as Enqueued;
    return at < from || at > to + ACKNOWLEDGED_MS;
  };
  expect(lost.filter(isReplicated)).toEqual([]);
}
