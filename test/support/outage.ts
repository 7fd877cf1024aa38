/**
 * What the crash and outage tests share: a Valkey of their own, workers as processes, a receiver, and the accounts.
 */
import { Queue } from "bullmq";
import { Redis } from "ioredis";
import { type Attempt, createAttemptLog } from "../../src/attempts.ts";
import { type Receiver, startReceiver } from "../../src/dev/receiver.ts";
import { startValkey, type ThrowawayValkey } from "../../src/dev/valkey.ts";
import { JOBS_PER_SLOT } from "../../src/gate.ts";
import { startWorkerProcess, type WorkerProcess } from "./process.ts";

export interface Chaos {
  readonly valkey: ThrowawayValkey;
  readonly client: Redis;
  readonly queue: Queue;
  readonly receiver: Receiver;
  /** Start one more worker; resolves once it takes jobs. */
  startWorker(env?: Record<string, string>): Promise<WorkerProcess>;
  /** Enqueue so many events, {@link EVENTS_PER_USER} to a user. */
  enqueue(count: number): Promise<void>;
  /** Wait until every event is delivered and acknowledged. */
  settled(withinMs: number): Promise<void>;
  account(): Promise<Account>;
  stop(): Promise<void>;
}

export interface Account {
  /** Events that never arrived. */
  readonly lost: string[];
  /** Arrivals beyond one an event. */
  readonly duplicates: number;
  /** Events that are acknowledged, but have no line in their user's log that says so. */
  readonly unlogged: string[];
}

const CONCURRENCY = 16; // attempts in flight in each worker
/** Jobs that a worker holds: what one crash, or an outage longer than the lock, may repeat. */
export const HELD = CONCURRENCY * JOBS_PER_SLOT;
const EVENTS_PER_USER = 3; // with their repeats well below the 10 that a log keeps
const START_MS = 20_000; // a dozen processes start at once, on two cores
const SAMPLE_MS = 50;

export async function startChaos({ answerMs = 40 } = {}): Promise<Chaos> {
  const valkey = await startValkey({ appendfsync: "always" });
  const receiver = await startReceiver();
  receiver.answer(() => ({ status: 200, delayMs: answerMs }));
  const client = new Redis(valkey.url, { maxRetriesPerRequest: null });
  client.on("error", () => {}); // outages are what this is about
  const queue = new Queue("chaos", { connection: client });
  queue.on("error", () => {});
  const log = createAttemptLog(client);
  const workers: WorkerProcess[] = [];
  const events = new Map<string, string>(); // id, user

  return {
    valkey,
    client,
    queue,
    receiver,
    async startWorker(env = {}) {
      const worker = startWorkerProcess({
        VALKEY_URL: valkey.url,
        WEBHOOK_QUEUE: queue.name,
        WEBHOOK_CONCURRENCY: String(CONCURRENCY),
        WEBHOOK_ENDPOINT_CONCURRENCY: String(CONCURRENCY),
        ...env,
      });
      workers.push(worker);
      await eventually(() => worker.lines.some(({ message }) => message === "worker.ready"), START_MS, worker.output);
      return worker;
    },
    async enqueue(count) {
      const jobs = Array.from({ length: count }, (_, index) => {
        const id = crypto.randomUUID();
        const userId = `usr_${Math.floor((events.size + index) / EVENTS_PER_USER)}`;
        const endpoint = { url: receiver.url(`/${index % 4}`), secret: "chaos" };
        return { name: "file.created", data: { id, userId, endpoint, data: {} } };
      });
      for (const { data } of jobs) events.set(data.id, data.userId);
      await queue.addBulk(jobs);
    },
    async settled(withinMs) {
      const until = performance.now() + withinMs;
      for (;;) {
        const counts = await queue.getJobCounts("waiting", "active", "delayed", "completed", "failed");
        if (counts.completed === events.size) return;
        if (performance.now() > until) {
          const tail = workers.map((worker) => worker.output().slice(-600)).join("\n--\n");
          throw new Error(
            `expected ${events.size} deliveries within ${withinMs} ms, got ${JSON.stringify(counts)}\n${tail}`,
          );
        }
        await Bun.sleep(SAMPLE_MS);
      }
    },
    async account() {
      const arrived = receiver.requests.map(({ headers }) => headers["webhook-id"] as string);
      const logs = new Map<string, Attempt[]>();
      for (const userId of new Set(events.values())) logs.set(userId, await log.list(userId, Date.now()));
      const isLogged = (id: string, userId: string) =>
        logs.get(userId)?.some((attempt) => attempt.id === id && attempt.success) ?? false;
      return {
        lost: [...events.keys()].filter((id) => !arrived.includes(id)),
        duplicates: arrived.length - new Set(arrived).size,
        unlogged: [...events].filter(([id, userId]) => !isLogged(id, userId)).map(([id]) => id),
      };
    },
    async stop() {
      for (const { pid } of workers) kill(pid, "SIGKILL");
      await Promise.all(workers.map(({ exited }) => exited));
      await receiver.stop();
      client.disconnect();
      await valkey.stop();
    },
  };
}

async function eventually(isSo: () => boolean, withinMs: number, otherwise: () => string): Promise<void> {
  const until = performance.now() + withinMs;
  while (!isSo()) {
    if (performance.now() > until) throw new Error(`expected a worker within ${withinMs} ms, got ${otherwise()}`);
    await Bun.sleep(SAMPLE_MS);
  }
}

/** Send a signal to a process that may have ended already. */
export function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** The status of a worker's `/readyz`, awaited until it is `status`. */
export async function untilReadyIs(worker: WorkerProcess, status: number, withinMs = 15_000): Promise<void> {
  const url = await worker.url("/readyz");
  const until = performance.now() + withinMs;
  for (;;) {
    const seen = await fetch(url).then((response) => response.status);
    if (seen === status) return;
    if (performance.now() > until) throw new Error(`expected /readyz to answer ${status}, got ${seen}`);
    await Bun.sleep(SAMPLE_MS);
  }
}
