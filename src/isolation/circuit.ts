/**
 * A circuit breaker. It opens after silence, and from then on admits one probe at a time: the first after 5 seconds, then with
 * the interval doubling up to 60 seconds. Each endpoint has one; so does each host, since all endpoints of a provider fail
 * together, and each user on a host, so that one user's dead endpoints do not block the host for everyone else. Pure.
 *
 * Only silence counts: a timeout, a refused or broken connection, a name that does not resolve, anything but an HTTP status. It is
 * ignored if the endpoint or host answered any attempt while this one was in flight.
 */

const SILENCES_TO_OPEN = 5; // attempts, for an endpoint's circuit; distinct endpoints, for a host's
const FIRST_OPEN_MS = 5 * 1000; // 5 s until the first probe
const MAX_OPEN_MS = 60 * 1000; // 1 min between probes: how late a recovery may be noticed
const MIN_RETURN_MS = 5 * 1000; // 5 s, the shortest delay of jobs that are not probes
const MAX_RETURN_MS = 5 * 60 * 1000; // 5 min, their longest delay
const RESERVED_MS = 1000; // 1 s for which a due probe is reserved for the user whose turn it is
const RECHECK_MS = 2 * 1000; // 2 s until a job chosen to probe checks whether the current probe has ended
const MAX_USERS = 64; // users who take turns at probing one circuit

/** An attempt, as a circuit sees it. */
export interface Trial {
  readonly user: string;
  /** On the monotonic clock, ms. */
  readonly startedAt: number;
}

export class Circuit {
  /** When the endpoint or host last answered, on the monotonic clock. */
  answeredAt = Number.NEGATIVE_INFINITY;
  #renewedAt = Number.NEGATIVE_INFINITY;
  #silent: Map<unknown, string> | undefined; // silences since the last answer: source to user
  #openedAt = 0;
  #openMs = 0;
  #openUntil = 0; // 0 while it is closed
  #probe: Trial | undefined;
  #promotedFor = 0; // the #openUntil for which a parked job was promoted to probe
  readonly #turns = new Map<string, number>(); // by refused user: when one of their jobs returns to probe

  /**
   * @param name      for {@link Gate.listOpen}: an endpoint or a host
   * @param minUsers  how many users' silence it takes to open it
   */
  constructor(
    readonly name: string,
    private readonly minUsers = 1,
  ) {}

  get isOpen(): boolean {
    return this.#openUntil > 0;
  }

  /** Whether the endpoint or host has answered, and has not been silent since. */
  get isProven(): boolean {
    return this.answeredAt > Number.NEGATIVE_INFINITY && this.#silent === undefined;
  }

  /** Whether to admit an attempt: always while closed; while open, one probe once it is due, by the user whose turn it is. */
  admits(user: string, nowMs: number): boolean {
    if (!this.isOpen) return true;
    if (this.#probe !== undefined || nowMs < this.#openUntil) return false;
    return nowMs >= this.#openUntil + RESERVED_MS || this.#nextUser(user) === user;
  }

  /** Users without silent endpoints go first, then those whose last probe is longest ago. */
  #nextUser(otherwise: string): string {
    const silent = new Set(this.#silent?.values());
    for (const user of this.#turns.keys()) if (!silent.has(user)) return user;
    return this.#turns.keys().next().value ?? otherwise;
  }

  /** An attempt starts. While the circuit is open, it is the probe, and its user moves to the end of the rotation. */
  started(trial: Trial): void {
    if (!this.isOpen) return;
    this.#probe = trial;
    this.#turns.delete(trial.user);
  }

  /**
   * When a refused job should return to probe, on the monotonic clock. One job of each user does; undefined for the others, which
   * return after {@link Circuit.returnMs}.
   */
  probeAt(user: string, nowMs: number): number | undefined {
    const isKnown = this.#turns.has(user);
    if ((this.#turns.get(user) ?? 0) > nowMs || (!isKnown && this.#turns.size >= MAX_USERS)) return undefined;
    const pauseMs = this.#probe === undefined ? RESERVED_MS : RECHECK_MS;
    const at = nowMs < this.#openUntil ? this.#openUntil : nowMs + pauseMs;
    this.#turns.set(user, at);
    return at;
  }

  /** The delay of other refused jobs: the length of the outage so far, within bounds. A job is parked once per doubling of it. */
  returnMs(nowMs: number): number {
    return Math.min(MAX_RETURN_MS, Math.max(MIN_RETURN_MS, nowMs - this.#openedAt));
  }

  /** Whether to promote a parked job to probe: the probe is overdue, and no job has been promoted for it yet. */
  needsProber(nowMs: number): boolean {
    const isDue = this.#probe === undefined && nowMs >= this.#openUntil + RESERVED_MS;
    return isDue && this.#promotedFor !== this.#openUntil;
  }

  /** A parked job was promoted to probe. */
  proberPromoted(): void {
    this.#promotedFor = this.#openUntil;
  }

  /** An attempt, probe or not, was answered: the circuit closes. */
  answered(nowMs: number): void {
    this.answeredAt = nowMs;
    if (this.#silent === undefined) return;
    this.#silent = undefined;
    this.#openUntil = 0;
    this.#probe = undefined;
    this.#turns.clear();
  }

  /** Forget everything: closed, and neither proven nor silent. Silence of attempts in flight does not count any more. */
  renew(nowMs: number): void {
    this.answered(nowMs);
    this.answeredAt = Number.NEGATIVE_INFINITY;
    this.#renewedAt = nowMs;
  }

  /** @param source  what was silent: for an endpoint's circuit the attempt, for a host's circuit the endpoint */
  silent(trial: Trial, source: unknown, nowMs: number): void {
    if (trial.startedAt < Math.max(this.answeredAt, this.#renewedAt)) return;
    if (this.isOpen && trial !== this.#probe) return; // sent before it opened
    this.#silent ??= new Map();
    const isNewUser = ![...this.#silent.values()].includes(trial.user);
    if (this.#silent.size < (isNewUser ? MAX_USERS : SILENCES_TO_OPEN)) this.#silent.set(source, trial.user);
    if (!this.isOpen) {
      const users = new Set(this.#silent.values()).size;
      if (this.#silent.size < SILENCES_TO_OPEN || users < this.minUsers) return;
      this.#openedAt = nowMs;
    }
    this.#openMs = this.isOpen ? Math.min(this.#openMs * 2, MAX_OPEN_MS) : FIRST_OPEN_MS;
    this.#openUntil = nowMs + this.#openMs;
    this.#probe = undefined;
  }

  /** The attempt ended without evidence either way: another may probe. */
  undecided(trial: Trial): void {
    if (trial === this.#probe) this.#probe = undefined;
  }
}
