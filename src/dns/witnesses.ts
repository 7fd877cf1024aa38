/**
 * Whether the name servers answer at all, when they do not for one name: the names that they answered last are asked again.
 */
import type { Ask } from "./lookup.ts";

const MOST_WITNESSES = 3; // names of different domains: one may have died since
const ENOUGH = 2; // with fewer, the root is asked as well, which every name server on the internet knows
const ROOT = "";

export class Witnesses {
  readonly #names = new Map<string, string>(); // one of each domain, the last asked at the end
  #answeredAt = Number.NEGATIVE_INFINITY;
  #asking: Promise<void> | undefined;

  constructor(private readonly ask: Ask) {}

  /** A name server said that there is such a name, or that there is none. */
  answered(): void {
    this.#answeredAt = performance.now();
  }

  /** A name has addresses: it may be asked for when others have no answer. */
  remember(domain: string, name: string): void {
    this.#names.delete(domain);
    this.#names.set(domain, name);
    const [oldest] = this.#names.keys();
    if (this.#names.size > MOST_WITNESSES) this.#names.delete(oldest as string);
  }

  /** Whether a name server has answered any question since then, on the clock of performance.now(). */
  haveSpokenSince(ms: number): boolean {
    return this.#answeredAt >= ms;
  }

  /** Ask them; ends with the first answer, or when there is none from any. */
  hear(): Promise<void> {
    this.#asking ??= this.#askAll().finally(() => {
      this.#asking = undefined;
    });
    return this.#asking;
  }

  #askAll(): Promise<void> {
    const names = [...this.#names.values(), ...(this.#names.size < ENOUGH ? [ROOT] : [])];
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
