/**
 * Limits how many lookups are in progress at once, so that one customer's dead names do not block the others.
 *
 * An answered lookup makes way for the next at once, so a healthy domain resolves thousands of names a second. Domains take turns.
 */

/** A lookup that waits for its start, or has started. */
export interface QueuedLookup {
  /** Its domain, by {@link domainOf}. */
  readonly domain: string;
  /** Whether no server answered for this name last time. */
  readonly isDoubtful: boolean;
  /** Called when it is to start. */
  start(): void;
  /** Called when it is to end, because it is overdue and others are waiting. */
  giveUp(): void;
}

const MAX_OPEN = 1_024;
const MAX_OPEN_PER_DOMAIN = 100; // 2,000 names a second, at 50 ms per answer
const MAX_OPEN_DOUBTFUL = 8; // per domain, so that names that were dead last time do not block the others
const MAX_WAITING = 2_500; // per domain; about the number of attempts in flight
const MAX_STARTS_PER_TICK = 64; // of the event loop; a name server's receive buffer holds about 256 questions
const OVERDUE_MS = 500; // at MAX_OPEN, lookups older than this are given up, oldest first

class Domain {
  readonly fresh = new Set<QueuedLookup>();
  readonly doubtful = new Set<QueuedLookup>();
  open = 0;
  openDoubtful = 0;

  constructor(readonly name: string) {}

  get isEmpty(): boolean {
    return this.open === 0 && this.waiting === 0;
  }

  get waiting(): number {
    return this.fresh.size + this.doubtful.size;
  }

  /** The next lookup that may start. */
  next(): QueuedLookup | undefined {
    if (this.open >= MAX_OPEN_PER_DOMAIN) return undefined;
    const [next] = this.fresh.size === 0 && this.openDoubtful < MAX_OPEN_DOUBTFUL ? this.doubtful : this.fresh;
    return next;
  }
}

export class LookupQueue {
  readonly #domains = new Map<string, Domain>();
  /** Domains that may have a lookup to start, in the order of their turns. */
  readonly #ready = new Set<Domain>();
  /** Lookups in progress and when each started, oldest first. */
  readonly #open = new Map<QueuedLookup, number>();
  #startsLeft = MAX_STARTS_PER_TICK;
  #isStarting = false;

  /** Start a lookup now or later. Returns false, and does not queue it, when too many of its domain are waiting. */
  add(lookup: QueuedLookup): boolean {
    const domain = this.#domains.get(lookup.domain) ?? new Domain(lookup.domain);
    if (domain.waiting >= MAX_WAITING) return false;
    this.#domains.set(domain.name, domain);
    (lookup.isDoubtful ? domain.doubtful : domain.fresh).add(lookup);
    this.#ready.add(domain);
    this.#startReady();
    return true;
  }

  /** Remove a lookup that has ended, or no longer waits. */
  remove(lookup: QueuedLookup): void {
    const domain = this.#domains.get(lookup.domain);
    if (domain === undefined) return;
    domain.fresh.delete(lookup);
    domain.doubtful.delete(lookup);
    if (this.#open.delete(lookup)) {
      domain.open -= 1;
      if (lookup.isDoubtful) domain.openDoubtful -= 1;
    }
    if (domain.isEmpty) this.#domains.delete(domain.name);
    else this.#ready.add(domain);
    this.#startReady();
  }

  #startReady(): void {
    if (this.#isStarting) return; // reentered: starting or giving up a lookup may call remove()
    this.#isStarting = true;
    for (const domain of this.#ready) {
      this.#ready.delete(domain);
      const lookup = domain.next();
      if (lookup === undefined) continue;
      this.#ready.add(domain); // at the back: this loop visits the other domains first
      if (!this.#canStart()) break;
      this.#start(domain, lookup);
    }
    this.#isStarting = false;
  }

  #start(domain: Domain, lookup: QueuedLookup): void {
    domain.fresh.delete(lookup);
    domain.doubtful.delete(lookup);
    domain.open += 1;
    if (lookup.isDoubtful) domain.openDoubtful += 1;
    this.#open.set(lookup, performance.now());
    this.#startsLeft -= 1;
    lookup.start();
  }

  #canStart(): boolean {
    if (this.#startsLeft <= 0) return false;
    if (this.#startsLeft === MAX_STARTS_PER_TICK) {
      setImmediate(() => {
        this.#startsLeft = MAX_STARTS_PER_TICK;
        this.#startReady();
      });
    }
    const [oldest] = this.#open;
    if (this.#open.size >= MAX_OPEN && oldest !== undefined && performance.now() - oldest[1] > OVERDUE_MS) {
      oldest[0].giveUp();
    }
    return this.#open.size < MAX_OPEN;
  }
}

/**
 * The domain whose limits apply to a name: `evil.example` for `a.evil.example`. A name directly below a top-level domain is its
 * own domain.
 *
 * @param name  in lower case, without a trailing dot
 */
export function domainOf(name: string): string {
  const parent = name.slice(name.indexOf(".") + 1);
  return parent.includes(".") ? parent : name;
}
