/**
 * Open circuits, for the board: they live in each worker's memory, and the board is another process.
 */

import type { Valkey } from "../valkey/connection.ts";
import type { Gate } from "./gate.ts";

const PUBLISH_MS = 2 * 1000; // 2 s: a timer, never the way of an attempt
const FRESH_MS = 3 * PUBLISH_MS; // how long a host stays listed after the last worker named it
const MAX_HOSTS = 200; // published by one worker at once, and shown

/**
 * Key: `webhooks:circuits:<queue>`, a sorted set; member: a host, with its port, as in `hooks.example.com`; score: epoch ms
 * until which it counts as open. Never a path or a query. Expires when no worker has named a host for some seconds.
 */
const key = (queue: string) => `webhooks:circuits:${queue}`;

/** A worker that says which hosts its circuits keep from being tried. */
export interface CircuitOptions {
  readonly valkey: Valkey;
  /** The queue's name. */
  readonly queue: string;
  readonly gate: Pick<Gate, "listOpen">;
  /** Between two publications, ms. */
  readonly periodMs?: number;
}

/**
 * Name the hosts with an open circuit to the board, every 2 s for as long as there are any. Costs Valkey nothing while
 * all circuits are closed, and waits for nobody while it is away.
 *
 * @returns a function that ends it
 */
export function publishCircuits({ valkey, queue, gate, periodMs = PUBLISH_MS }: CircuitOptions): () => void {
  let isPublishing = false;
  const timer = setInterval(async () => {
    const hosts = new Set(gate.listOpen().map((endpoint) => new URL(endpoint).host));
    if (isPublishing || hosts.size === 0) return;
    isPublishing = true;
    const nowMs = Date.now();
    const until = [...hosts].slice(0, MAX_HOSTS).flatMap((host) => [nowMs + FRESH_MS, host]);
    const written = valkey
      .multi()
      .zremrangebyscore(key(queue), "-inf", nowMs)
      .zadd(key(queue), ...until)
      .pexpire(key(queue), FRESH_MS)
      .exec();
    // While Valkey is away a command waits: this one alone, not one every 2 s.
    await written.catch(() => {});
    isPublishing = false;
  }, periodMs);
  timer.unref();
  return () => clearInterval(timer);
}

/**
 * The hosts for which a worker has an open circuit now, in the order of the alphabet, 200 at the most.
 *
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function readCircuits(valkey: Valkey, queue: string, nowMs: number): Promise<string[]> {
  return (await valkey.zrangebyscore(key(queue), nowMs, "+inf", "LIMIT", 0, MAX_HOSTS)).sort();
}
