/**
 * When parked jobs return. Where the endpoint's pace is known, at a computed time; elsewhere, after a while, to be checked again.
 * If an endpoint can take them earlier than that, they are promoted. Pure, on the monotonic clock.
 */
import { invariant } from "../runtime/invariant.ts";
import type { Bulkheads, Load } from "./bulkheads.ts";
import type { Circuit } from "./circuit.ts";
import type { Endpoint } from "./endpoint.ts";
import { Revisits } from "./pacing.ts";
import type { ParkedJob, ParkReason } from "./port.ts";

const SOON_MS = 500; // earliest return to an endpoint that has not answered yet
const REVISIT_MS = 4 * 1000; // 4 s: with jitter, below the 5 s that a job may wait once its endpoint can take it
const HORIZON_MS = 30 * 1000; // 30 s: return times further out are guesses, even where the pace is known
const JITTER = 0.1; // only ever adds to a delay
const HELD_REVISIT_MS = 60 * 1000; // 1 min: how late a job that is not remembered may notice that its hold was released
const REVISIT_SPACING_MS = 2; // 500 jobs a second, which cost a twentieth of a core
const REMEMBERED_SPACING_MS = 10; // 100 a second, for remembered jobs: they are promoted as soon as possible anyway
const MIN_SPREAD_MS = 1000; // 1 s; after a Retry-After, jobs return over a fifth of its length, within these bounds
const MAX_SPREAD_MS = 4 * 1000; // 4 s
const PROMOTE_MS = 500; // between two promotions
const PROMOTE_MORE_MS = 50; // the same, while there are more jobs than one promotion takes
export const MAX_PROMOTED = 100; // jobs per promotion: they go ahead of other jobs
const MAX_CHANGED = 1_000; // users; beyond them, all are looked at
const MAX_SAMPLES = 1_000; // jobs per promotion, to see what has become of their endpoints
const MAX_LOOKED = 5_000; // endpoints checked per promotion
const NEAR_MS = 2_500; // jobs due sooner are left alone: with 2 s to check all endpoints, still below the 5 s allowed
const MAX_REMEMBERED = 20_000; // parked jobs, about 100 bytes each

const PROMISED_MS = 5 * 1000; // 5 s, the longest a job waits once its endpoint can take it
const ROUND_MS = (MAX_REMEMBERED / MAX_LOOKED) * PROMOTE_MS; // to check all endpoints, if each has one remembered job
invariant(REVISIT_MS * (1 + JITTER) < PROMISED_MS, "jobs that are not remembered to return in time");
invariant(NEAR_MS + ROUND_MS < PROMISED_MS, "jobs that are left alone, or not promoted yet, to return in time");
invariant(REVISIT_MS < HORIZON_MS && MIN_SPREAD_MS < MAX_SPREAD_MS && PROMOTE_MORE_MS < PROMOTE_MS, "bounds in order");

interface Remembered extends ParkedJob {
  readonly load: Load;
  readonly dueAt: number;
}

export class Parking {
  readonly #forgottenRevisits = new Revisits(REVISIT_SPACING_MS);
  readonly #rememberedRevisits = new Revisits(REMEMBERED_SPACING_MS);
  readonly #heldRevisits = new Revisits(REVISIT_SPACING_MS); // of their own, so that a large held backlog delays no others
  readonly #remembered = new Map<Endpoint, Remembered[]>();
  readonly #changed = new Set<string>(); // users, since the last promotion
  #areAllChanged = false;
  #promoteAt = 0;
  /** How many parked jobs are remembered. */
  size = 0;

  /** @param most  upper bound on attempts in flight to one endpoint */
  constructor(
    private readonly most: number,
    private readonly random: () => number,
  ) {}

  /**
   * When a job returns.
   *
   * @param blocking  the open circuit that holds it up, if any
   */
  dueAt({ endpoint, user, job }: Load, reason: ParkReason, blocking: Circuit | undefined, nowMs: number): number {
    const { limiter, usage, waiting, schedule, standing } = endpoint;
    const isKnown = standing === "quick" || standing === "slow";
    const revisit = (afterMs: number) => {
      const revisits = this.#canRemember(job) ? this.#rememberedRevisits : this.#forgottenRevisits;
      return nowMs + afterMs * (1 + JITTER * this.random()) + revisits.lagMs(nowMs);
    };
    if (blocking !== undefined) return blocking.probeAt(user, nowMs) ?? revisit(blocking.returnMs(nowMs));
    if (reason === "retry_after") {
      const asked = (limiter.heldUntil - nowMs) / 5;
      return limiter.heldUntil + this.random() * Math.min(MAX_SPREAD_MS, Math.max(MIN_SPREAD_MS, asked));
    }
    const revisitMs = this.#canRemember(job) ? HORIZON_MS : REVISIT_MS;
    if (reason === "memory" || (reason === "share" && !isKnown)) return revisit(revisitMs);
    const spacingMs = endpoint.spacingMs(reason === "limit" ? endpoint.expectedLimit(this.most) : usage.attempts);
    const aheadMs = endpoint.expectedSilenceMs(nowMs) + waiting.size * spacingMs;
    const from = nowMs + Math.max(isKnown ? spacingMs : SOON_MS, aheadMs);
    return schedule.next(user, from, spacingMs, nowMs + (isKnown ? HORIZON_MS : REVISIT_MS)) ?? revisit(revisitMs);
  }

  /**
   * When a held job returns: when its hold ends, or after a minute to be checked again.
   *
   * @param leftMs  until the hold ends
   */
  heldDueAt(leftMs: number, nowMs: number): number {
    const revisitMs = HELD_REVISIT_MS * (1 + JITTER * this.random());
    return nowMs + Math.min(leftMs, revisitMs) + this.#heldRevisits.lagMs(nowMs);
  }

  #canRemember(job: string | undefined): job is string {
    return job !== undefined && this.size < MAX_REMEMBERED;
  }

  /** Remember a parked job, so that it can be promoted, if it returns late and the memory is not full. */
  add(load: Load, dueAt: number, retryAt: number, nowMs: number): void {
    const { job } = load;
    if (dueAt <= nowMs + NEAR_MS || !this.#canRemember(job)) return;
    const jobs = this.#remembered.get(load.endpoint);
    const parked = { load, job, retryAt, dueAt };
    if (jobs === undefined) this.#remembered.set(load.endpoint, [parked]);
    else jobs.push(parked);
    this.size += 1;
  }

  forget(endpoint: Endpoint): void {
    this.size -= this.#remembered.get(endpoint)?.length ?? 0;
    this.#remembered.delete(endpoint);
  }

  /** Parked jobs of a registered endpoint that had another URL wait for the present one. */
  follow({ endpoint: to, user, registered }: Load): void {
    for (const [endpoint, jobs] of this.#remembered) {
      if (endpoint === to) continue;
      const isMoving = ({ load }: Remembered) => load.registered?.id === registered?.id && load.user === user;
      const moving = jobs.filter(isMoving).map((parked) => ({ ...parked, load: { ...parked.load, endpoint: to } }));
      if (moving.length === 0) continue;
      this.#keep(
        endpoint,
        jobs.filter((parked) => !isMoving(parked)),
      );
      this.#keep(to, [...(this.#remembered.get(to) ?? []), ...moving]);
    }
  }

  #keep(endpoint: Endpoint, jobs: Remembered[]): void {
    if (jobs.length > 0) this.#remembered.set(endpoint, jobs);
    else this.#remembered.delete(endpoint);
  }

  /** See {@link Gate.changed}: a job of each registered endpoint is promoted with the next promotion. */
  changed(users: ReadonlySet<string> | undefined): void {
    if (this.size === 0) return;
    if (users === undefined) this.#areAllChanged = true;
    else for (const user of users) this.#changed.add(user);
    if (this.#changed.size > MAX_CHANGED) this.#areAllChanged = true;
    if (this.#areAllChanged) this.#changed.clear();
  }

  /** Take a job of each registered endpoint that may have changed. Beyond {@link MAX_SAMPLES}, they return by themselves. */
  #takeSamples(): ParkedJob[] {
    if (!this.#areAllChanged && this.#changed.size === 0) return [];
    const samples = new Map<string, ParkedJob>();
    for (const [endpoint, jobs] of this.#remembered) {
      const left = jobs.filter(({ job, retryAt, load: { user, registered } }) => {
        if (registered === undefined || !(this.#areAllChanged || this.#changed.has(user))) return true;
        const name = `${registered.id} ${user}`;
        if (samples.size >= MAX_SAMPLES || samples.has(name)) return true;
        samples.set(name, { job, retryAt });
        return false;
      });
      if (left.length < jobs.length) this.#keep(endpoint, left);
    }
    this.#changed.clear();
    this.#areAllChanged = false;
    this.size -= samples.size;
    return [...samples.values()];
  }

  /** When {@link Parking.promote} is due; undefined while no job is remembered. */
  get promoteAt(): number | undefined {
    return this.size > 0 ? this.#promoteAt : undefined;
  }

  /**
   * Take the jobs to promote: as many as their endpoints and the worker can take until the next promotion, and samples of endpoints that may have
   * changed; none before it is due.
   */
  promote(nowMs: number, bulkheads: Bulkheads, obstacle: (load: Load) => ParkReason | undefined): ParkedJob[] {
    if (nowMs < (this.promoteAt ?? Number.POSITIVE_INFINITY)) return [];
    const samples = this.#takeSamples();
    const promoted: Remembered[] = [];
    let looks = Math.min(MAX_LOOKED, this.#remembered.size);
    let [bytes, hasMore] = [0, false];
    for (const [endpoint, jobs] of this.#remembered) {
      if (looks === 0 || promoted.length >= MAX_PROMOTED) break;
      looks -= 1;
      const { standing, waiting } = endpoint;
      const free = Math.min(MAX_PROMOTED, bulkheads.free("attempts", standing)) - promoted.length;
      if (free <= 0 || bulkheads.free("bytes", standing) <= bytes) continue; // stays at the front, to be checked first next time
      const far = jobs.filter(({ dueAt }) => dueAt > nowMs + NEAR_MS);
      const most = waiting.size > 0 ? 0 : Math.ceil(free / 2); // leaves half for the endpoints that follow
      const chosen = new Set(this.#choose(endpoint, far, most, nowMs, obstacle));
      hasMore ||= chosen.size > 0 && chosen.size === most;
      for (const { load } of chosen) bytes += load.bytes;
      const left = far.filter((parked) => !chosen.has(parked));
      promoted.push(...chosen);
      this.size += left.length - jobs.length;
      this.#remembered.delete(endpoint);
      if (left.length > 0) this.#remembered.set(endpoint, left); // moves to the back
    }
    this.#promoteAt = nowMs + (hasMore ? PROMOTE_MORE_MS : PROMOTE_MS);
    return [...samples, ...promoted.map(({ job, retryAt }) => ({ job, retryAt }))];
  }

  #choose(
    endpoint: Endpoint,
    jobs: Remembered[],
    most: number,
    nowMs: number,
    obstacle: (load: Load) => ParkReason | undefined,
  ): Remembered[] {
    const { usage, limiter } = endpoint;
    const answersUntilNext = PROMOTE_MS / endpoint.spacingMs(endpoint.expectedLimit(this.most));
    const capacity = Math.min(most, Math.floor(limiter.limit - usage.attempts + answersUntilNext));
    const chosen: Remembered[] = [];
    const refused = new Set<string>(); // users who are held, or whose circuits are open
    for (const parked of jobs) {
      const { user } = parked.load;
      if (refused.has(user)) continue;
      const reason = obstacle(parked.load);
      if (reason === "circuit" || reason === "held") refused.add(user);
      else if (reason === "memory")
        continue; // a smaller one may fit
      else if (reason !== undefined || chosen.length >= capacity) break;
      else {
        const open = endpoint.circuits(user).filter(({ isOpen }) => isOpen);
        if (open.some((circuit) => !circuit.needsProber(nowMs))) continue; // the probe of another user's circuit may be due
        chosen.push(parked);
        for (const circuit of open) circuit.proberPromoted();
        if (open.length > 0) break; // one job is enough to probe
      }
    }
    return chosen;
  }
}
