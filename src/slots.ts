/**
 * The slots of a worker: who has them, and what one endpoint may have of them. In-process, without a clock of its own.
 */
import { Endpoint, type Place } from "./endpoint.ts";
import type { Line } from "./line.ts";
import { isSilence, type Outcome } from "./outcome.ts";

/** What an endpoint has too little of: its own limit, or the share of all slots it may have. */
export type Shortage = "limit" | "share";

const SUSPECT_SHARE = 1 / 2; // of all slots, for endpoints that have not answered yet, or not lately, together
const CROWD_SHARE = 1 / 4; // of all slots; the rest of that share is for first attempts, one of each endpoint
const BUSY_SHARE = 3 / 4; // of all slots; beyond it an endpoint keeps to its fair share, and the rest is for the others

export class Slots {
  /** Attempts in flight. */
  inFlight = 0;
  /** Endpoints that have some. */
  busyEndpoints = 0;
  readonly #suspects = new Endpoint(); // all of them together, as if they were one: its pace is that of their silence
  readonly #suspectSlots: number;
  readonly #crowdSlots: number;
  readonly #busySlots: number;

  /**
   * @param size  how many there are
   * @param most  of which one endpoint may have so many
   */
  constructor(
    readonly size: number,
    readonly most: number,
  ) {
    const share = (of: number) => Math.max(1, Math.floor(size * of));
    this.#suspectSlots = share(SUSPECT_SHARE);
    this.#crowdSlots = share(CROWD_SHARE);
    this.#busySlots = share(BUSY_SHARE);
  }

  get isFull(): boolean {
    return this.inFlight >= this.size;
  }

  /** What keeps an endpoint from one more; undefined when nothing does. */
  shortage(endpoint: Endpoint): Shortage | undefined {
    const { inFlight, limit, isProven, isUntried } = endpoint;
    if (inFlight >= Math.floor(Math.min(limit, this.most))) return "limit";
    if (this.isFull) return "share";
    if (!isProven && this.#suspects.inFlight >= (isUntried ? this.#suspectSlots : this.#crowdSlots)) return "share";
    return this.inFlight >= this.#busySlots && inFlight >= this.fairShare(this.#busySlots) ? "share" : undefined;
  }

  /** What one endpoint may have of so many, in flight or waiting, while they are scarce. */
  fairShare(of: number): number {
    return Math.max(1, Math.floor(of / Math.max(1, this.busyEndpoints)));
  }

  /** How many attempts to an endpoint go at once when it is at its best. */
  abreast(endpoint: Endpoint): number {
    return Math.min(endpoint.reach(this.most), Math.max(endpoint.inFlight, this.fairShare(this.#busySlots)));
  }

  take(endpoint: Endpoint, nowMs: number): void {
    if (endpoint.inFlight === 0) this.busyEndpoints += 1;
    this.inFlight += 1;
    endpoint.started(nowMs);
    if (!endpoint.isProven) this.#suspects.started(nowMs);
  }

  /** An answer proves its endpoint, silence makes it a suspect; anything else says nothing about it. */
  giveBack(endpoint: Endpoint, outcome: Outcome, nowMs: number): void {
    this.inFlight -= 1;
    endpoint.inFlight -= 1;
    if (!endpoint.isProven) this.#suspects.inFlight -= 1;
    if (endpoint.inFlight === 0) this.busyEndpoints -= 1;
    const isAnswer = outcome.kind === "response";
    if (!isAnswer && !isSilence(outcome)) return;
    endpoint.took(outcome.durationMs, nowMs);
    if (!endpoint.isProven) {
      // Who answers leaves the crowd, and takes its jobs along: the pace of those who stay is that of their silence.
      if (isAnswer) this.#suspects.progressed(nowMs);
      else this.#suspects.took(outcome.durationMs, nowMs);
    }
    if (endpoint.isProven !== isAnswer) this.#suspects.inFlight += isAnswer ? -endpoint.inFlight : endpoint.inFlight;
    endpoint.isProven = isAnswer;
  }

  /**
   * The line of those who wait for more of something. Suspects that wait for a part of their share are in one line.
   */
  line(endpoint: Endpoint, of: Shortage, place: Place, nowMs: number): Line {
    const isCrowd = of === "share" && !endpoint.isProven;
    const abreast = isCrowd ? this.#crowdSlots : this.abreast(endpoint);
    return (isCrowd ? this.#suspects : endpoint).line(place, abreast, nowMs);
  }
}
