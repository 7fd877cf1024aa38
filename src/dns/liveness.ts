/**
 * Tells whether the name servers answer at all, when they do not answer for one name: asks again for names that they answered
 * recently.
 */
import type { Ask } from "./lookup.ts";

const MAX_NAMES = 3; // of different domains, since a single one may have stopped working
const MIN_NAMES = 2; // with fewer, the root is asked for as well, which every name server on the internet knows
const ROOT = "";

export class Liveness {
  readonly #names = new Map<string, string>(); // one per domain, least recently answered first
  #answeredAt = Number.NEGATIVE_INFINITY;
  #probing: Promise<void> | undefined;

  constructor(private readonly ask: Ask) {}

  /** A name server said that a name exists, or that it does not. */
  answered(): void {
    this.#answeredAt = performance.now();
  }

  /** Remember a name that has addresses, to probe with. */
  remember(domain: string, name: string): void {
    this.#names.delete(domain);
    this.#names.set(domain, name);
    const [oldest] = this.#names.keys();
    if (this.#names.size > MAX_NAMES) this.#names.delete(oldest as string);
  }

  /** Whether a name server has answered any question since a time on the clock of performance.now(). */
  hasAnsweredSince(ms: number): boolean {
    return this.#answeredAt >= ms;
  }

  /** Ask for the remembered names. Resolves with the first answer, or once none of them was answered. */
  probe(): Promise<void> {
    this.#probing ??= this.#askAll().finally(() => {
      this.#probing = undefined;
    });
    return this.#probing;
  }

  #askAll(): Promise<void> {
    const names = [...this.#names.values(), ...(this.#names.size < MIN_NAMES ? [ROOT] : [])];
    return new Promise((settle) => {
      let open = names.length;
      for (const name of names) {
        this.ask(name, "A", ({ kind }) => {
          open -= 1;
          if (kind === "addresses" || kind === "no_name" || open === 0) settle();
        });
      }
    });
  }
}
