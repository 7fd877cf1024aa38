/**
 * A lookup in progress, shared by all attempts that need the name.
 */
import { LookupError } from "./address.ts";
import type { Liveness } from "./liveness.ts";
import { type Ask, type Found, lookUp } from "./lookup.ts";
import { domainOf, type LookupQueue, type QueuedLookup } from "./lookup-queue.ts";

const MAX_WAIT_MS = 4 * 1000; // 4 s in the queue, as long as the servers get to answer
const OVERDUE_MS = 250; // without an answer for so long, check whether the servers answer for other names

/** The name does not resolve. */
export const DEAD: LookupError["result"] = { kind: "failure", code: "dns" };
/** The name servers answer for no name at all. */
export const NO_SERVERS: LookupError["result"] = { kind: "fault", code: "resolver" };
/** Too many other names of its domain were waiting: no server was asked, so nothing is known about this one. */
const NOT_ASKED: LookupError["result"] = { kind: "fault", code: "resources" };

export interface LookupParts {
  readonly ask: Ask;
  readonly queue: LookupQueue;
  readonly liveness: Liveness;
}

export class PendingLookup implements QueuedLookup {
  readonly domain: string;
  /** Rejects with a {@link LookupError}. */
  readonly found: Promise<Found>;
  readonly #name: string;
  #startedAt: number | undefined;
  #timer: Timer | undefined;
  #stop = (): void => {};
  readonly #settle: (found: Found) => void;
  readonly #fail: (result: LookupError["result"]) => void;

  /**
   * Queue a lookup.
   *
   * @param candidates  the names to ask for, in order
   * @param isDoubtful  no server answered for this name last time
   */
  constructor(
    name: string,
    private readonly candidates: readonly string[],
    readonly isDoubtful: boolean,
    private readonly parts: LookupParts,
  ) {
    const { promise, resolve, reject } = Promise.withResolvers<Found>();
    this.#name = name.replace(/\.$/, "");
    this.domain = domainOf(this.#name);
    this.found = promise;
    this.#settle = resolve;
    this.#fail = (result) => reject(new LookupError(result));
    if (!parts.queue.add(this)) this.#fail(this.blame());
    else if (this.#startedAt === undefined) this.#timer = setTimeout(() => this.#leaveQueue(), MAX_WAIT_MS).unref();
  }

  #leaveQueue(): void {
    this.parts.queue.remove(this);
    this.#fail(this.blame());
  }

  start(): void {
    this.#startedAt = performance.now();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (!this.#serversAnswer) this.parts.liveness.probe();
    }, OVERDUE_MS).unref();
    this.#stop = lookUp(this.parts.ask, this.candidates, (found) => this.#end(found));
  }

  giveUp(): void {
    this.#stop();
    this.#end({ kind: "unanswered" });
  }

  async #end(found: Found): Promise<void> {
    const { queue, liveness } = this.parts;
    clearTimeout(this.#timer);
    queue.remove(this);
    if (found.kind === "addresses") liveness.remember(this.domain, this.#name);
    if (found.kind === "unanswered" && !this.#serversAnswer) await liveness.probe();
    if (found.kind === "unanswered") this.#fail(this.blame());
    else this.#settle(found);
  }

  /** Whether the servers have answered any question since this lookup started. */
  get #serversAnswer(): boolean {
    return this.parts.liveness.hasAnsweredSince(this.#startedAt as number);
  }

  /** The result while there is no answer: whose fault that is, as far as is known. */
  blame(): LookupError["result"] {
    if (this.#startedAt === undefined) return this.isDoubtful ? DEAD : NOT_ASKED;
    return this.#serversAnswer ? DEAD : NO_SERVERS;
  }
}
