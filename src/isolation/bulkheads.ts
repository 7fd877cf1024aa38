/**
 * Bulkheads: how much of a worker's capacity one endpoint, one host and one user may use.
 *
 * They use dynamic thresholds, as shared-memory switches do: each party may use a fraction of what is *still free*, so some
 * capacity always stays free. How much counts as free depends on the endpoint's {@link Standing}. Attempts and bytes in flight
 * are shared by the same rule. Pure.
 */
import { type Endpoint, type Standing, Usage } from "./endpoint.ts";
import type { Registered } from "./port.ts";

/** Old attempts allowed per slot: each costs a socket and little else. */
export const OLD_PER_SLOT = 8;
/** How much endpoints of each standing may use, in attempts per slot. Only quick ones may use the last ninth. */
const CEILING = { silent: 6, slow: 7, untried: 8, quick: OLD_PER_SLOT + 1 } satisfies Record<Standing, number>;
const ENDPOINT_SHARE = 1 / 8; // of what is free
const GROUP_SHARE = 1 / 2; // of what is free: for an unproven host, and for all unproven endpoints of a user

/** The resources of one attempt, waiting or in flight. */
export interface Load {
  readonly endpoint: Endpoint;
  readonly user: string;
  readonly bytes: number;
  /** The job's id, if it can be promoted. */
  readonly job?: string | undefined;
  /** When the event expires, epoch ms. */
  readonly expiresAt?: number | undefined;
  /** Set for a registered endpoint. */
  readonly registered?: Registered | undefined;
}

export class Bulkheads {
  readonly all = new Usage();
  readonly #suspects = new Usage(); // attempts to endpoints that were not quick when they started
  readonly #users = new Map<string, Usage>(); // suspects in flight by user
  readonly #attempts: number;

  /** @param bytes  budget for bodies in flight; a single attempt may exceed it */
  constructor(
    slots: number,
    private readonly bytes: number,
  ) {
    this.#attempts = slots * CEILING.quick;
  }

  /** How much is free for endpoints of a standing. */
  free(of: "attempts" | "bytes", standing: Standing): number {
    const size = of === "attempts" ? this.#attempts : this.bytes;
    const free = size - this.all[of];
    if (standing === "quick") return free;
    return Math.min(free, (size * CEILING[standing]) / CEILING.quick - this.#suspects[of]);
  }

  /** What is lacking for one more attempt; undefined when nothing is. A worker without attempts always takes one. */
  shortage({ endpoint, user, bytes }: Load): "share" | "memory" | undefined {
    if (this.all.attempts === 0) return undefined;
    const { standing } = endpoint;
    if (!this.#fits("attempts", 1, endpoint, user, standing)) return "share";
    return this.#fits("bytes", bytes, endpoint, user, standing) ? undefined : "memory";
  }

  /** @returns whether the attempt counts as a suspect; pass it to {@link Bulkheads.release} */
  take({ endpoint, user, bytes }: Load): boolean {
    const isSuspect = endpoint.standing !== "quick";
    this.all.add(1, bytes);
    endpoint.usage.add(1, bytes);
    endpoint.host.usage.add(1, bytes);
    if (!isSuspect) return false;
    this.#suspects.add(1, bytes);
    const usage = this.#users.get(user) ?? new Usage();
    usage.add(1, bytes);
    this.#users.set(user, usage);
    return true;
  }

  release({ endpoint, user, bytes }: Load, isSuspect: boolean): void {
    this.all.add(-1, bytes);
    endpoint.usage.add(-1, bytes);
    endpoint.host.usage.add(-1, bytes);
    if (!isSuspect) return;
    this.#suspects.add(-1, bytes);
    const usage = this.#users.get(user);
    usage?.add(-1, bytes);
    if (usage?.attempts === 0) this.#users.delete(user);
  }

  #fits(of: "attempts" | "bytes", need: number, endpoint: Endpoint, user: string, standing: Standing): boolean {
    const free = this.free(of, standing);
    const isWithin = (used: number, share: number) => used + need <= Math.max(need, free * share);
    if (need > free || !isWithin(endpoint.usage[of], ENDPOINT_SHARE)) return false;
    if (standing === "quick" || standing === "slow") return true;
    const { host } = endpoint;
    if (!host.circuit.isProven && !isWithin(host.usage[of], GROUP_SHARE)) return false;
    return isWithin(this.#users.get(user)?.[of] ?? 0, GROUP_SHARE);
  }
}
