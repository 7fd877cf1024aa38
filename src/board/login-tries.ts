/**
 * Wrong passwords by client network, and how long the next try has to wait. Pure: the clock is a parameter.
 */

const FREE = 10; // wrong tries without a delay: typos, and a page that loads all its files at once
const FIRST_DELAY_MS = 1000; // 1 s, doubled by each further wrong try
const MAX_DELAY_MS = 60 * 1000; // 1 min: 1,440 tries a day
const FORGET_MS = 15 * 60 * 1000; // 15 min without a wrong try
const MAX_NETWORKS = 10_000; // about 2 MB; beyond it the least recently active one is forgotten

interface Tries {
  count: number;
  /** Time of the last wrong try, ms. */
  lastAt: number;
  /** Digest of the last wrong try. */
  last: string;
}

/** Counts wrong tries per network: guessing from one network delays no other, and memory stays bounded. */
export class LoginTries {
  /** Least recently active first. */
  readonly #networks = new Map<string, Tries>();

  /** @param now  monotonic clock, ms */
  constructor(private readonly now: () => number) {}

  /** How long this network has to wait before its next try is checked, ms; 0 for no wait. */
  waitMs(network: string): number {
    const tries = this.#find(network);
    if (tries === undefined || tries.count < FREE) return 0;
    const delayMs = Math.min(MAX_DELAY_MS, FIRST_DELAY_MS * 2 ** (tries.count - FREE));
    return Math.max(0, tries.lastAt + delayMs - this.now());
  }

  /**
   * Count a wrong try. Repeats of the last one do not count: that is a program with an old password rather than guessing,
   * and must not lock out people on the same network.
   *
   * @param attempt  digest of the credentials
   */
  add(network: string, attempt: string): void {
    const tries = this.#find(network) ?? { count: 0, lastAt: 0, last: "" };
    if (tries.last === attempt) return;
    this.#networks.delete(network);
    this.#networks.set(network, { count: tries.count + 1, lastAt: this.now(), last: attempt });
    if (this.#networks.size > MAX_NETWORKS) this.#networks.delete(this.#networks.keys().next().value as string);
  }

  /** Whether this repeats the network's last wrong try. */
  isRepeated(network: string, attempt: string): boolean {
    return this.#find(network)?.last === attempt;
  }

  #find(network: string): Tries | undefined {
    const tries = this.#networks.get(network);
    if (tries === undefined || this.now() - tries.lastAt < FORGET_MS) return tries;
    this.#networks.delete(network);
    return undefined;
  }
}
