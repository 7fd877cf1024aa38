/**
 * Bulkheads: how much of a worker one endpoint, one host and one user may fill.
 *
 * By dynamic threshold, as in switches with shared memory: each may have a part of what is *still free*, so that something
 * always is. How much counts as free depends on how far an endpoint is trusted. Bytes are shared out
 * as attempts are. Pure.
 */
import { type Endpoint, type Standing, Usage } from "./endpoint.ts";

/** Old attempts for each slot: they cost a socket, not time. */
export const OLD_PER_SLOT = 8;
/** What may be filled by endpoints of that standing, in attempts for each slot. The last ninth is for those that answer quickly. */
const CEILING = { silent: 6, slow: 7, untried: 8, quick: OLD_PER_SLOT + 1 } satisfies Record<Standing, number>;
const ENDPOINT_SHARE = 1 / 8; // of what is free
const GROUP_SHARE = 1 / 2; // of what is free, for a host that is silent or unknown, and for a user's endpoints that are

/** What is to go, or has gone. */
export interface Load {
  readonly endpoint: Endpoint;
  readonly user: string;
  readonly bytes: number;
  /** The job's id, if it can be called back by it. */
  readonly job?: string | undefined;
}

export class Bulkheads {
  readonly all = new Usage();
  readonly #suspects = new Usage(); // of which no quick answer was to be expected
  readonly #users = new Map<string, Usage>(); // suspect attempts by user, while there are any
  readonly #attempts: number;

  /** @param bytes  of bodies in flight; a single attempt may exceed it */
  constructor(
    slots: number,
    private readonly bytes: number,
  ) {
    this.#attempts = slots * CEILING.quick;
  }

  /** How much is free for endpoints of that standing. */
  free(of: "attempts" | "bytes", standing: Standing): number {
    const size = of === "attempts" ? this.#attempts : this.bytes;
    const free = size - this.all[of];
    if (standing === "quick") return free;
    return Math.min(free, (size * CEILING[standing]) / CEILING.quick - this.#suspects[of]);
  }

  /** What there is too little of for one more attempt; undefined when there is enough. */
  shortage({ endpoint, user, bytes }: Load): "share" | "memory" | undefined {
    if (this.all.attempts === 0) return undefined;
    const { standing } = endpoint;
    if (!this.#fits("attempts", 1, endpoint, user, standing)) return "share";
    return this.#fits("bytes", bytes, endpoint, user, standing) ? undefined : "memory";
  }

  /** @returns whether the attempt counts as a suspect: to be given back with it */
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

  giveBack({ endpoint, user, bytes }: Load, isSuspect: boolean): void {
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
