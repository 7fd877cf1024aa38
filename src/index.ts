/**
 * The package's door for backends written in TypeScript. Any other BullMQ client does as well: see the README.
 */
import { ContractError, checkEvent, EVENT_TYPES, type EventType, type JobData } from "../jobs/event.ts";
import { type Attempt, createAttemptLog } from "./attempts.ts";
import { openQueue } from "./queue.ts";
import { createKey, seal } from "./seal.ts";
import { connectValkey } from "./valkey.ts";

export { type Attempt, ContractError, createKey, EVENT_TYPES, type EventType, type JobData, seal };

/** An event to deliver: the job's data and its name. */
export type NewEvent = JobData & { readonly event: EventType };

export interface Fluxhook {
  /**
   * Put an event on the queue.
   *
   * With an `id` (a UUID), the same event enqueued twice is one delivery for as long as its job is kept.
   *
   * @returns the job's id
   * @throws  ContractError when the event breaks the contract, with the worker's own words, before anything is queued
   */
  enqueue(event: NewEvent): Promise<string>;
  /** A user's last attempts, newest first: at most 10, of the last 7 days. */
  readAttempts(userId: string): Promise<Attempt[]>;
  /** Close the connection. */
  close(): Promise<void>;
}

const SILENT = { info() {}, warn() {} };

/**
 * Connect a backend to Fluxhook.
 *
 * @param valkeyUrl  as the worker's `VALKEY_URL`
 * @param queue      as the worker's `WEBHOOK_QUEUE`
 */
export function createFluxhook({ valkeyUrl = "redis://127.0.0.1:6379", queue: name = "webhooks" } = {}): Fluxhook {
  const valkey = connectValkey(valkeyUrl, "fluxhook:backend", SILENT);
  const queue = openQueue(name, valkey);
  queue.on("error", () => {}); // a command that fails says so to its caller
  const log = createAttemptLog(valkey);
  return {
    async enqueue({ event, ...data }) {
      checkEvent(event, data, Date.now());
      const job = await queue.add(event, data, data.id === undefined ? {} : { jobId: data.id });
      return job.id as string;
    },
    readAttempts: (userId) => log.list(userId, Date.now()),
    async close() {
      await queue.close();
      valkey.disconnect();
    },
  };
}
