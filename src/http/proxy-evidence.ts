/**
 * Whether an egress proxy gets through to other hosts, when it does not to one: whose fault that is. Pure.
 */

interface Passage {
  readonly host: string;
  readonly at: number;
}

const LATELY_MS = 30 * 1000; // 30 s
const MOST_IN_DOUBT = 3; // hosts that failed since one got through: with more of them it is the proxy, or its network

/** What is known of one proxy. Times are on the clock of performance.now(), in ms. */
export class ProxyEvidence {
  /** The last host that was reached, and the last before it that is another. */
  #passages: readonly Passage[] = [];
  readonly #failedSince = new Set<string>();

  /** A host was reached through the proxy. */
  passed(host: string, at: number): void {
    const others = this.#passages.filter((passage) => passage.host !== host);
    this.#passages = [{ host, at }, ...others.slice(0, 1)];
    this.#failedSince.clear();
  }

  /** The proxy has said nothing about a host since it was asked. Returns whether that is the host's doing. */
  isToBlameForSilence(host: string, askedAt: number, at: number): boolean {
    return this.#hasReachedOthersSince(host, askedAt) || this.isToBlame(host, at);
  }

  /**
   * The proxy says that it cannot reach a host.
   *
   * @returns whether that is the host's doing: another was reached lately, and not many have failed since, as they do when the
   *   proxy has lost its network
   */
  isToBlame(host: string, at: number): boolean {
    this.#failedSince.add(host);
    return this.#failedSince.size <= MOST_IN_DOUBT && this.#hasReachedOthersSince(host, at - LATELY_MS);
  }

  #hasReachedOthersSince(host: string, since: number): boolean {
    return this.#passages.some((passage) => passage.host !== host && passage.at >= since);
  }
}
