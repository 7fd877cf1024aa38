/**
 * Shows the board which circuits are open: each worker publishes its own to Valkey, since the board is another process.
 */

import { circuitsKey } from "../queue/own-keys.ts";
import { repeatEvery } from "../runtime/repeat.ts";
import type { Valkey } from "../valkey/connection.ts";
import type { Gate } from "./gate.ts";

const PUBLISH_MS = 2 * 1000; // 2 s
const FRESH_MS = 3 * PUBLISH_MS; // how long a host stays listed after a worker last published it
const MAX_HOSTS = 200; // per publication, and per listing

/**
 * Key: `webhooks:circuits:<queue>`, a sorted set; member: a host, with its port, as in `hooks.example.com`; score: epoch ms
 * until which it counts as open. Never a path or a query. Expires 6 s after the last publication.
 */
const key = circuitsKey;

/** Where a worker publishes its open circuits, and how often. */
export interface CircuitOptions {
  readonly valkey: Valkey;
  /** The queue's name. */
  readonly queue: string;
  readonly gate: Pick<Gate, "listOpen">;
  /** Between two publications, ms. */
  readonly periodMs?: number;
}

/**
 * Publish the hosts with an open circuit every 2 s, while there are any. While all circuits are closed, nothing is sent to Valkey.
 *
 * @returns stops publishing
 */
export function publishCircuits({ valkey, queue, gate, periodMs = PUBLISH_MS }: CircuitOptions): () => void {
  return repeatEvery(periodMs, async () => {
    const hosts = new Set(gate.listOpen().map((endpoint) => new URL(endpoint).host));
    if (hosts.size === 0) return;
    const nowMs = Date.now();
    const until = [...hosts].slice(0, MAX_HOSTS).flatMap((host) => [nowMs + FRESH_MS, host]);
    await valkey
      .multi()
      .zremrangebyscore(key(queue), "-inf", nowMs)
      .zadd(key(queue), ...until)
      .pexpire(key(queue), FRESH_MS)
      .exec();
  });
}

/**
 * List the hosts for which some worker has an open circuit, in alphabetical order, at most 200.
 *
 * @throws  when Valkey answers with an error; waits while it is unreachable
 */
export async function readCircuits(valkey: Valkey, queue: string, nowMs: number): Promise<string[]> {
  return (await valkey.zrangebyscore(key(queue), nowMs, "+inf", "LIMIT", 0, MAX_HOSTS)).sort();
}
