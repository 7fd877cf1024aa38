/**
 * Keeps to the rate limits of registered endpoints, over all workers of a shard. Which moment is whose is decided in Valkey, in
 * rate-script.ts; jobs without a limit never come here.
 */
import { queueKeys } from "../queue/layout.ts";
import { rateKey, rateLineKey, rateReleasedKey } from "../queue/own-keys.ts";
import type { EndpointDocument } from "../registry/endpoint.ts";
import { perTurn } from "../runtime/per-tick.ts";
import type { Valkey } from "../valkey/connection.ts";
import { ASK, EXPIRED, GO, LIFT } from "./rate-script.ts";

const PATIENCE_MS = 250; // as in the gate: parking costs two scripts, too much for a shorter wait
const MAX_WAITING = 256; // jobs waiting in the process
const ENDLESS_MS = 1e15;

/** A job that is about to be attempted. */
export interface Paced {
  readonly job: string;
  readonly userId: string;
  readonly endpointId: string;
  readonly document: EndpointDocument;
  /** For how long its event may still wait, ms; undefined for any time. */
  readonly lifeMs?: number | undefined;
}

/**
 * When an attempt may be made.
 *
 * - `go`       now
 * - `park`     not before a time, or not before it has asked again: park the job until then. It does not lose its turn
 * - `expired`  not as long as the event may wait
 */
export type Pace =
  | { readonly kind: "go" }
  | { readonly kind: "park"; readonly afterMs: number }
  | { readonly kind: "expired" };

/**
 * Ask for an attempt's turn, and wait for it if that is within 250 ms.
 *
 * Waits while Valkey is away. Rejects when it answers with an error other than that it is full.
 */
export type AskPace = (paced: Paced) => Promise<Pace> | undefined;

export interface RateOptions {
  readonly valkey: Valkey;
  /** The prefix of the queue's keys. */
  readonly prefix: string;
  /** The shard's, see src/queue/shards.ts. */
  readonly tag: string;
  /** Called when the number of jobs that wait in the process changes: they occupy no slot. */
  readonly onWaiting?: ((jobs: number) => void) | undefined;
}

interface Asked {
  readonly paced: Paced;
  readonly patienceMs: number;
  resolve(reply: Reply): void;
  reject(error: unknown): void;
}

interface Reply {
  readonly kind: number;
  readonly afterMs: number;
}

const GO_NOW: Pace = { kind: "go" };
const TOO_LATE: Pace = { kind: "expired" };

/**
 * Create what keeps a shard's rate limits. It returns undefined for an endpoint without a limit.
 *
 * All that ask in one turn of the event loop are one script.
 */
export function createRate({ valkey, prefix, tag, onWaiting = () => {} }: RateOptions): AskPace {
  valkey.defineCommand("askPace", { lua: ASK });
  valkey.defineCommand("liftLimit", { numberOfKeys: 5, lua: LIFT });
  type Script = (...args: unknown[]) => Promise<number[]>;
  const { askPace, liftLimit } = valkey as unknown as { askPace: Script; liftLimit: Script };
  const { delayed, marker, jobs } = queueKeys(prefix);
  const lifted = new WeakSet<EndpointDocument>(); // whose former limit nothing waits for, as far as this process knows
  let asked = 0; // jobs that wait here, or may have to
  let waiting = 0;

  const keysOf = ({ userId, endpointId }: Paced) =>
    [rateKey, rateLineKey, rateReleasedKey].map((keyOf) => keyOf(userId, endpointId, tag));

  const asking = perTurn(async (all: Asked[]) => {
    const keys = all.flatMap(({ paced }) => [...keysOf(paced), `${jobs}${paced.job}`]);
    const args = all.flatMap(({ paced: { job, document, lifeMs = ENDLESS_MS }, patienceMs }) => {
      const { perSecond = 1, burst = 1 } = document.rateLimit ?? {};
      return [job, document.updatedAt, perSecond, burst, patienceMs, Math.floor(lifeMs)];
    });
    try {
      const replies = await askPace.call(valkey, keys.length + 2, delayed, marker, ...keys, jobs, ...args);
      for (const [index, { resolve }] of all.entries()) {
        resolve({ kind: replies[2 * index] as number, afterMs: replies[2 * index + 1] as number });
      }
    } catch (error) {
      for (const { reject } of all) reject(error);
    }
  });

  async function ask(paced: Paced): Promise<Pace> {
    const patienceMs = asked < MAX_WAITING ? PATIENCE_MS : 0;
    asked += 1;
    try {
      const { kind, afterMs } = await new Promise<Reply>((resolve, reject) => {
        asking.add({ paced, patienceMs, resolve, reject });
      });
      if (kind === EXPIRED) return TOO_LATE;
      if (kind !== GO) return { kind: "park", afterMs };
      if (afterMs > 0) await wait(afterMs);
      return GO_NOW;
    } finally {
      asked -= 1;
    }
  }

  async function wait(ms: number): Promise<void> {
    onWaiting(++waiting);
    await new Promise((resolve) => setTimeout(resolve, ms));
    onWaiting(--waiting);
  }

  /** Release what waits for a limit that is no more, once for each version of the endpoint. */
  async function lift(paced: Paced): Promise<Pace> {
    lifted.add(paced.document);
    try {
      const args = [delayed, marker, ...keysOf(paced), jobs];
      while (Number(await liftLimit.call(valkey, ...args)) > 0);
      return GO_NOW;
    } catch (error) {
      lifted.delete(paced.document);
      throw error;
    }
  }

  return (paced) => {
    const { rateLimit } = paced.document;
    if (rateLimit) return ask(paced);
    return rateLimit === undefined || lifted.has(paced.document) ? undefined : lift(paced);
  };
}
