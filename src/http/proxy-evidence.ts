/**
 * Decides whose fault it is when an egress proxy does not reach a host: the host's, if the proxy reaches others. Pure.
 */

/** A host that was reached through the proxy, and when. */
interface Passage {
  readonly host: string;
  readonly at: number;
}

const RECENT_MS = 30 * 1000; // 30 s
const MAX_FAILED_HOSTS = 3; // since one was reached; if more fail, the cause is the proxy or its network

/** What is known about one proxy. Times are on the clock of performance.now(), in ms. */
export class ProxyEvidence {
  /** The two different hosts reached most recently, latest first. */
  #passages: readonly Passage[] = [];
  readonly #failedSince = new Set<string>();

  /** A host was reached through the proxy. */
  passed(host: string, at: number): void {
    const others = this.#passages.filter((passage) => passage.host !== host);
    this.#passages = [{ host, at }, ...others.slice(0, 1)];
    this.#failedSince.clear();
  }

  /** The proxy has not answered a request for a tunnel to this host. Returns whether the host is to blame. */
  isToBlameForSilence(host: string, askedAt: number, at: number): boolean {
    return this.#hasReachedOthersSince(host, askedAt) || this.isToBlame(host, at);
  }

  /**
   * The proxy reports that it cannot reach a host.
   *
   * @returns whether the host is to blame: another was reached recently, and only few have failed since. Many failures mean that
   *   the proxy has lost its network
   */
  isToBlame(host: string, at: number): boolean {
    this.#failedSince.add(host);
    return this.#failedSince.size <= MAX_FAILED_HOSTS && this.#hasReachedOthersSince(host, at - RECENT_MS);
  }

  #hasReachedOthersSince(host: string, since: number): boolean {
    return this.#passages.some((passage) => passage.host !== host && passage.at >= since);
  }
}
