/**
 * A circuit breaker. It opens after silence, stays open for 5 seconds and then lets one probe at a time through, each
 * twice as long after the last, 60 seconds at most. Every endpoint has one; so has every host, since all endpoints of a
 * provider fail together, and every user on a host, so that one user's dead endpoints do not block the
 * host for anyone else. Pure.
 *
 * Only silence counts: a timeout, a refused or broken connection, a name that does not resolve, anything but an HTTP status.
 * Silence during which the same party
 * was heard on another attempt counts for nothing.
 */

const WITNESSES_TO_OPEN = 5; // attempts of an endpoint; different endpoints of a host
const FIRST_OPEN_MS = 5 * 1000; // 5 s until the first probe
const MAX_OPEN_MS = 60 * 1000; // 1 min between probes: how late a recovery may be noticed
const MIN_RETURN_MS = 5 * 1000; // 5 s: jobs that are not to probe come back no sooner
const MAX_RETURN_MS = 5 * 60 * 1000; // 5 min, and no later
const RESERVED_MS = 1000; // 1 s in which a due probe is kept for the user whose turn it is
const RECHECK_MS = 2 * 1000; // 2 s until a job that is to probe looks whether the last probe has ended
const MAX_USERS = 64; // who take turns at probing one circuit

/** An attempt, as far as a circuit is concerned. */
export interface Trial {
  readonly user: string;
  /** On the monotonic clock, ms. */
  readonly startedAt: number;
}

export class Circuit {
  /** When it was last heard, on the monotonic clock. */
  answeredAt = Number.NEGATIVE_INFINITY;
  #silent: Map<unknown, string> | undefined; // who was silent since, and for which user
  #openedAt = 0;
  #openMs = 0;
  #openUntil = 0; // 0 while it is closed
  #probe: Trial | undefined;
  #calledFor = 0; // the opening for which a prober was called
  readonly #turns = new Map<string, number>(); // users that were refused, and when a job of each comes to probe

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

  /** It has answered, and has not been silent since. */
  get isProven(): boolean {
    return this.answeredAt > Number.NEGATIVE_INFINITY && this.#silent === undefined;
  }

  /** Whether an attempt may go: any while it is closed; one probe, of the user whose turn it is, once that is due. */
  admits(user: string, nowMs: number): boolean {
    if (!this.isOpen) return true;
    if (this.#probe !== undefined || nowMs < this.#openUntil) return false;
    return nowMs >= this.#openUntil + RESERVED_MS || this.#nextUser(user) === user;
  }

  /** Users whose endpoints were not silent here go first, then those who have not probed for longest. */
  #nextUser(otherwise: string): string {
    const silent = new Set(this.#silent?.values());
    for (const user of this.#turns.keys()) if (!silent.has(user)) return user;
    return this.#turns.keys().next().value ?? otherwise;
  }

  /** An attempt goes. While the circuit is open, it is the probe, and its user the last whose turn comes again. */
  started(trial: Trial): void {
    if (!this.isOpen) return;
    this.#probe = trial;
    this.#turns.delete(trial.user);
  }

  /**
   * When a refused job should come back, on the monotonic clock. One job of each user comes to probe; undefined for the
   * others, which come back after {@link Circuit.returnMs}.
   */
  probeAt(user: string, nowMs: number): number | undefined {
    const isKnown = this.#turns.has(user);
    if ((this.#turns.get(user) ?? 0) > nowMs || (!isKnown && this.#turns.size >= MAX_USERS)) return undefined;
    const pauseMs = this.#probe === undefined ? RESERVED_MS : RECHECK_MS;
    const at = nowMs < this.#openUntil ? this.#openUntil : nowMs + pauseMs;
    this.#turns.set(user, at);
    return at;
  }

  /** As long as the outage has lasted, within bounds: a job is put off once per doubling of it. */
  returnMs(nowMs: number): number {
    return Math.min(MAX_RETURN_MS, Math.max(MIN_RETURN_MS, nowMs - this.#openedAt));
  }

  /** Whether a parked job should be called to probe: the probe is due, nobody came, and none was called since it opened. */
  needsProber(nowMs: number): boolean {
    const isDue = this.#probe === undefined && nowMs >= this.#openUntil + RESERVED_MS;
    return isDue && this.#calledFor !== this.#openUntil;
  }

  /** A parked job was called to probe. */
  proberCalled(): void {
    this.#calledFor = this.#openUntil;
  }

  /** Any attempt was answered: the circuit closes. */
  answered(nowMs: number): void {
    this.answeredAt = nowMs;
    if (this.#silent === undefined) return;
    this.#silent = undefined;
    this.#openUntil = 0;
    this.#probe = undefined;
    this.#turns.clear();
  }

  /** @param witness  what was silent: the attempt for an endpoint's circuit, the endpoint for a host's */
  silent(trial: Trial, witness: unknown, nowMs: number): void {
    if (trial.startedAt < this.answeredAt) return;
    if (this.isOpen && trial !== this.#probe) return; // sent before it opened
    this.#silent ??= new Map();
    const isNewUser = ![...this.#silent.values()].includes(trial.user);
    if (this.#silent.size < (isNewUser ? MAX_USERS : WITNESSES_TO_OPEN)) this.#silent.set(witness, trial.user);
    if (!this.isOpen) {
      const users = new Set(this.#silent.values()).size;
      if (this.#silent.size < WITNESSES_TO_OPEN || users < this.minUsers) return;
      this.#openedAt = nowMs;
    }
    this.#openMs = this.isOpen ? Math.min(this.#openMs * 2, MAX_OPEN_MS) : FIRST_OPEN_MS;
    this.#openUntil = nowMs + this.#openMs;
    this.#probe = undefined;
  }

  /** The attempt ended without saying anything: another may probe. */
  undecided(trial: Trial): void {
    if (trial === this.#probe) this.#probe = undefined;
  }
}
