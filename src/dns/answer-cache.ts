/**
 * Caches what name servers said about names, for the TTL within bounds.
 */
import type { Address } from "./address.ts";
import type { Found } from "./lookup.ts";

const MIN_TTL_MS = 1000; // 1 s
const MAX_TTL_MS = 60 * 1000; // 1 min: how late a changed address may be noticed
const FAILURE_TTL_MS = 3 * 1000; // 3 s: below the delay of the first retry, which should ask again
const MAX_NAMES = 10_000;

export interface CachedAnswer {
  /** On the cache's clock. */
  readonly expiresAt: number;
  /** Undefined when the name has none, or no server answered. */
  readonly addresses: readonly Address[] | undefined;
  /** The kind of its addresses, when they are blocked. */
  readonly cause: string | undefined;
  /** Whether no server answered. */
  readonly isDoubtful: boolean;
}

export class AnswerCache {
  readonly #answers = new Map<string, CachedAnswer>(); // oldest first

  /** @param now  monotonic, ms */
  constructor(private readonly now: () => number) {}

  /** The last answer for a name, even if expired. */
  get(name: string): CachedAnswer | undefined {
    return this.#answers.get(name);
  }

  isFresh({ expiresAt }: CachedAnswer): boolean {
    return this.now() < expiresAt;
  }

  set(name: string, found: Found): void {
    const ttlMs = found.kind === "addresses" ? found.ttlSeconds * 1000 : FAILURE_TTL_MS;
    this.#answers.delete(name);
    this.#answers.set(name, {
      expiresAt: this.now() + Math.min(MAX_TTL_MS, Math.max(MIN_TTL_MS, ttlMs)),
      addresses: found.kind === "addresses" ? found.addresses : undefined,
      cause: found.kind === "none" ? found.cause : undefined,
      isDoubtful: found.kind === "unanswered",
    });
    const [oldest] = this.#answers.keys();
    if (this.#answers.size > MAX_NAMES) this.#answers.delete(oldest as string);
  }
}
