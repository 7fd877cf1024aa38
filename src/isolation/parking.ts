/**
 * When parked jobs come back: at a turn that is worked out where the pace is known, else to be looked at again; and, when
 * their endpoint has room earlier than expected, as soon as that is seen. Pure, on the monotonic clock.
 */
import type { Bulkheads, Load } from "./bulkheads.ts";
import type { Circuit } from "./circuit.ts";
import type { Endpoint } from "./endpoint.ts";
import { Revisits } from "./pacing.ts";
import type { ParkedJob, ParkReason } from "./port.ts";

const SOON_MS = 500; // 1/2 s: the first turn where nothing has been heard yet
const REVISIT_MS = 4 * 1000; // 4 s: with jitter below the 5 s that a job may wait once there is room
const HORIZON_MS = 30 * 1000; // 30 s: turns later than that are guesses, even where the pace is known
const JITTER = 0.1; // upward
const REVISIT_SPACING_MS = 2; // 500 a second take a twentieth of a core
const CALLED_SPACING_MS = 10; // 100 a second, of jobs that are remembered and called when there is room
const MAX_SPREAD_MS = 4 * 1000; // 4 s, or a fifth of what was asked for: over which held jobs return
const MIN_SPREAD_MS = 1000; // 1 s
const CALL_MS = 500; // between two calls
const NEXT_CALL_MS = 50; // while there are more than may be called at once
const MAX_CALLED = 100; // at once: others' jobs wait behind them
const MAX_LOOKED = 5_000; // endpoints looked at by one call
const NEAR_MS = 2_500; // jobs due sooner come by themselves; with 2 s until all were looked at, below the 5 s allowed
const MAX_REMEMBERED = 20_000; // parked jobs, some 100 bytes each

interface Remembered extends ParkedJob {
  readonly load: Load;
  readonly dueAt: number;
}

export class Parking {
  readonly #forgotten = new Revisits(REVISIT_SPACING_MS);
  readonly #remembered = new Revisits(CALLED_SPACING_MS);
  readonly #far = new Map<Endpoint, Remembered[]>(); // jobs that would come back late
  #callAt = 0;
  /** How many parked jobs are remembered. */
  size = 0;

  /** @param most  attempts in flight to an endpoint at most */
  constructor(
    private readonly most: number,
    private readonly random: () => number,
  ) {}

  /**
   * When a job comes back.
   *
   * @param blocking  the open circuit that is in the way, if one is
   */
  dueAt({ endpoint, user, job }: Load, reason: ParkReason, blocking: Circuit | undefined, nowMs: number): number {
    const { limiter, usage, waiting, schedule, standing } = endpoint;
    const isKnown = standing === "quick" || standing === "slow";
    const revisit = (afterMs: number) => {
      const revisits = this.#canRemember(job) ? this.#remembered : this.#forgotten;
      return nowMs + afterMs * (1 + JITTER * this.random()) + revisits.lagMs(nowMs);
    };
    if (blocking !== undefined) return blocking.probeAt(user, nowMs) ?? revisit(blocking.returnMs(nowMs));
    if (reason === "retry_after") {
      const asked = (limiter.heldUntil - nowMs) / 5;
      return limiter.heldUntil + this.random() * Math.min(MAX_SPREAD_MS, Math.max(MIN_SPREAD_MS, asked));
    }
    const revisitMs = this.#canRemember(job) ? HORIZON_MS : REVISIT_MS;
    if (reason === "memory" || (reason === "share" && !isKnown)) return revisit(revisitMs);
    const spacingMs = endpoint.spacingMs(reason === "limit" ? endpoint.reach(this.most) : usage.attempts);
    const aheadMs = endpoint.lullMs(nowMs) + waiting.size * spacingMs;
    const from = nowMs + Math.max(isKnown ? spacingMs : SOON_MS, aheadMs);
    return schedule.next(user, from, spacingMs, nowMs + (isKnown ? HORIZON_MS : REVISIT_MS)) ?? revisit(revisitMs);
  }

  #canRemember(job: string | undefined): job is string {
    return job !== undefined && this.size < MAX_REMEMBERED;
  }

  /** A job was parked: one that comes back late is remembered, as long as there is room for it. */
  add(load: Load, dueAt: number, retryAt: number, nowMs: number): void {
    const { job } = load;
    if (dueAt <= nowMs + NEAR_MS || !this.#canRemember(job)) return;
    const jobs = this.#far.get(load.endpoint);
    const parked = { load, job, retryAt, dueAt };
    if (jobs === undefined) this.#far.set(load.endpoint, [parked]);
    else jobs.push(parked);
    this.size += 1;
  }

  forget(endpoint: Endpoint): void {
    this.size -= this.#far.get(endpoint)?.length ?? 0;
    this.#far.delete(endpoint);
  }

  /** When {@link Parking.call} is due; undefined while there is nothing to call. */
  get callAt(): number | undefined {
    return this.size > 0 ? this.#callAt : undefined;
  }

  /** Remembered jobs that should come now: as many as their endpoints, and the worker, can take until the next call; none before it is due. */
  call(nowMs: number, bulkheads: Bulkheads, obstacle: (load: Load) => ParkReason | undefined): ParkedJob[] {
    if (nowMs < (this.callAt ?? Number.POSITIVE_INFINITY)) return [];
    const called: Remembered[] = [];
    let looks = Math.min(MAX_LOOKED, this.#far.size);
    let [bytes, isMore] = [0, false];
    for (const [endpoint, jobs] of this.#far) {
      if (looks === 0 || called.length >= MAX_CALLED) break;
      looks -= 1;
      const { standing, waiting } = endpoint;
      const free = Math.min(MAX_CALLED, bulkheads.free("attempts", standing)) - called.length;
      if (free <= 0 || bulkheads.free("bytes", standing) <= bytes) continue; // the first to be looked at next time
      const far = jobs.filter(({ dueAt }) => dueAt > nowMs + NEAR_MS);
      const most = waiting.size > 0 ? 0 : Math.ceil(free / 2); // the other half is for the next
      const chosen = new Set(this.#choose(endpoint, far, most, nowMs, obstacle));
      isMore ||= chosen.size > 0 && chosen.size === most;
      for (const { load } of chosen) bytes += load.bytes;
      const left = far.filter((parked) => !chosen.has(parked));
      called.push(...chosen);
      this.size += left.length - jobs.length;
      this.#far.delete(endpoint);
      if (left.length > 0) this.#far.set(endpoint, left); // the last to be looked at again
    }
    this.#callAt = nowMs + (isMore ? NEXT_CALL_MS : CALL_MS);
    return called.map(({ job, retryAt }) => ({ job, retryAt }));
  }

  #choose(
    endpoint: Endpoint,
    jobs: Remembered[],
    most: number,
    nowMs: number,
    obstacle: (load: Load) => ParkReason | undefined,
  ): Remembered[] {
    const { usage, limiter } = endpoint;
    const pace = CALL_MS / endpoint.spacingMs(endpoint.reach(this.most));
    const room = Math.min(most, Math.floor(limiter.limit - usage.attempts + pace));
    const chosen: Remembered[] = [];
    const refused = new Set<string>(); // users whose circuits are open
    for (const parked of jobs) {
      const { user } = parked.load;
      if (refused.has(user)) continue;
      const reason = obstacle(parked.load);
      if (reason === "circuit") refused.add(user);
      else if (reason === "memory")
        continue; // a smaller one may fit
      else if (reason !== undefined || chosen.length >= room) break;
      else {
        const open = endpoint.circuits(user).filter(({ isOpen }) => isOpen);
        if (open.some((circuit) => !circuit.needsProber(nowMs))) continue; // another user's may be due
        chosen.push(parked);
        for (const circuit of open) circuit.proberCalled();
        if (open.length > 0) break; // one is enough to probe
      }
    }
    return chosen;
  }
}
