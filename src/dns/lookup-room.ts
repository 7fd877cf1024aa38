/**
 * How many lookups wait for name servers at once, so that one customer's dead names do not take the place of the others'.
 *
 * A lookup that is answered frees its place at once, so that thousands of names of one healthy domain pass in a second. Domains
 * take turns.
 */

/** A lookup, as far as its place is concerned. */
export interface Visitor {
  /** The domain it belongs to: {@link domainOf}. */
  readonly domain: string;
  /** Nobody answered for this name the last time. */
  readonly isDoubtful: boolean;
  /** It has its place. */
  start(): void;
  /** Another needs its place, and it has waited for the servers long enough. */
  giveUp(): void;
}

const MOST = 1_024; // on the wire
const MOST_OF_DOMAIN = 100; // at 50 ms an answer these are 2,000 names a second
const MOST_DOUBTFUL = 8; // of a domain: names that were dead the last time leave room for the others
const MOST_WAITING = 2_500; // of a domain: about as many as attempts in flight
const MOST_A_TURN = 64; // of the loop: a name server's receive buffer holds some 256 questions
const OVERDUE_MS = 500; // when all places are taken, lookups that are older are given up, the oldest first

class Domain {
  readonly fresh = new Set<Visitor>();
  readonly doubtful = new Set<Visitor>();
  open = 0;
  openDoubtful = 0;

  constructor(readonly name: string) {}

  get isEmpty(): boolean {
    return this.open === 0 && this.waiting === 0;
  }

  get waiting(): number {
    return this.fresh.size + this.doubtful.size;
  }

  /** Take the next that may go out of the line. */
  next(): Visitor | undefined {
    if (this.open >= MOST_OF_DOMAIN) return undefined;
    const [next] = this.fresh.size === 0 && this.openDoubtful < MOST_DOUBTFUL ? this.doubtful : this.fresh;
    return next;
  }
}

export class LookupRoom {
  readonly #domains = new Map<string, Domain>();
  /** Domains that have a visitor to start, in the order of their turns. */
  readonly #ready = new Set<Domain>();
  /** When each started; oldest first. */
  readonly #open = new Map<Visitor, number>();
  #leftThisTurn = MOST_A_TURN;
  #isBusy = false;

  /** Start a visitor, now or once there is a place; false when too many of its domain wait. */
  enter(visitor: Visitor): boolean {
    const domain = this.#domains.get(visitor.domain) ?? new Domain(visitor.domain);
    if (domain.waiting >= MOST_WAITING) return false;
    this.#domains.set(domain.name, domain);
    (visitor.isDoubtful ? domain.doubtful : domain.fresh).add(visitor);
    this.#ready.add(domain);
    this.#startThose();
    return true;
  }

  /** A visitor has ended, or waits no more. */
  leave(visitor: Visitor): void {
    const domain = this.#domains.get(visitor.domain);
    if (domain === undefined) return;
    domain.fresh.delete(visitor);
    domain.doubtful.delete(visitor);
    if (this.#open.delete(visitor)) {
      domain.open -= 1;
      if (visitor.isDoubtful) domain.openDoubtful -= 1;
    }
    if (domain.isEmpty) this.#domains.delete(domain.name);
    else this.#ready.add(domain);
    this.#startThose();
  }

  #startThose(): void {
    if (this.#isBusy) return; // one that was started or given up has left
    this.#isBusy = true;
    for (const domain of this.#ready) {
      this.#ready.delete(domain);
      const visitor = domain.next();
      if (visitor === undefined) continue;
      this.#ready.add(domain); // behind the others, which this loop comes to first
      if (!this.#hasPlace()) break;
      this.#start(domain, visitor);
    }
    this.#isBusy = false;
  }

  #start(domain: Domain, visitor: Visitor): void {
    domain.fresh.delete(visitor);
    domain.doubtful.delete(visitor);
    domain.open += 1;
    if (visitor.isDoubtful) domain.openDoubtful += 1;
    this.#open.set(visitor, performance.now());
    this.#leftThisTurn -= 1;
    visitor.start();
  }

  #hasPlace(): boolean {
    if (this.#leftThisTurn <= 0) return false;
    if (this.#leftThisTurn === MOST_A_TURN) {
      setImmediate(() => {
        this.#leftThisTurn = MOST_A_TURN;
        this.#startThose();
      });
    }
    const [oldest] = this.#open;
    if (this.#open.size >= MOST && oldest !== undefined && performance.now() - oldest[1] > OVERDUE_MS) {
      oldest[0].giveUp();
    }
    return this.#open.size < MOST;
  }
}

/**
 * The domain to which a name belongs, for sharing: `evil.example` for `a.evil.example`; a name directly below a top-level
 * domain stands for itself.
 *
 * @param name  in lower case, without a final dot
 */
export function domainOf(name: string): string {
  const parent = name.slice(name.indexOf(".") + 1);
  return parent.includes(".") ? parent : name;
}
