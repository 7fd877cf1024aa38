/**
 * What a worker knows of one endpoint: how many attempts it can take at once, how long they last, whether it answers.
 */
import { Breaker } from "./breaker.ts";
import type { Line } from "./line.ts";
import { isSilence, type Outcome } from "./outcome.ts";
import { ParkedTurns } from "./parked-turns.ts";

const START_LIMIT = 4; // in flight to an endpoint that has not answered yet
const SLOW_MS = 1000; // 1 s: an answer that takes longer earns no higher limit
const SLOW_SHARE = 1 / 4; // of an endpoint's bound: what a slow one shrinks to
const SLOW_SHRINK = 0.9; // of the limit remains after a slow answer
const SILENT_SHRINK = 0.5; // of the limit remains after an attempt without an answer
const SMOOTHING = 0.2; // weight of the newest duration in the average
const ASSUMED_MS = 20; // duration of an attempt to an endpoint that has not answered yet
const NO_SOONER_MS = 500; // 1/2 s: the first turn at one that has not answered yet; once it does, they are called forward
const MAX_PARK_MS = 5 * 60 * 1000; // 5 min: an endpoint may recover long before the end of its line

export class Endpoint {
  /** How many attempts may be in flight; grows while it answers, shrinks while it is slow or silent (AIMD). */
  limit = START_LIMIT;
  inFlight = 0;
  /** It has answered, and not been silent since. */
  isProven = false;
  readonly breaker = new Breaker();
  /** The turns given out: there jobs may lie parked that could go by now. */
  readonly parked = new ParkedTurns();
  /** Its parked jobs are being called forward. */
  isAdvancing = false;
  #averageMs = 0; // 0 is unknown
  #progressAt = 0; // when it last answered, or went from idle to busy
  #lineEndsAt = 0; // when the last of those parked has its turn
  #frontEndsAt = 0; // the same for those that came at their turn and had to be parked again

  /** An attempt begins. */
  started(nowMs: number): void {
    if (this.inFlight === 0) this.#progressAt = nowMs;
    this.inFlight += 1;
  }

  /**
   * How many attempts it is likely to take at once by the time those who wait have their turn: an endpoint that answers
   * in good time is on its way to its bound, and must not be held to the pace of its first second.
   */
  reach(bound: number): number {
    return this.isProven && this.#averageMs <= SLOW_MS ? bound : Math.max(1, Math.floor(this.limit));
  }

  /** How long the `position`th in line waits for a turn when `abreast` go at once, ms: Little's law. */
  waitMs(position: number, abreast: number, nowMs: number): number {
    return this.#lullMs(nowMs) + position * this.#spacingMs(abreast);
  }

  #spacingMs(abreast: number): number {
    return (this.#averageMs || ASSUMED_MS) / abreast;
  }

  /**
   * How much longer it is likely to be silent: as long as it has been already, beyond what its answers take. That puts a
   * line off and leaves its pace alone: a hiccup of two seconds, ours or its, must not stretch a line to minutes.
   */
  #lullMs(nowMs: number): number {
    return Math.max(0, this.#silentMs(nowMs) - (this.#averageMs || ASSUMED_MS));
  }

  #silentMs(nowMs: number): number {
    return this.inFlight > 0 ? nowMs - this.#progressAt : 0;
  }

  /**
   * The line of those who wait. Turns are laid out one after the other at the endpoint's own pace, so that a whole backlog
   * is parked once, not every few seconds.
   *
   * @param wasParked  they have had a turn in vain, and go before the rest
   */
  line(wasParked: boolean, abreast: number, nowMs: number): Line {
    // One that has not answered yet takes as long as it has been silent at least. Its first answer calls them forward.
    const isUnknown = this.#averageMs === 0;
    const spacingMs = isUnknown ? Math.max(ASSUMED_MS, this.#silentMs(nowMs)) / abreast : this.#spacingMs(abreast);
    const lullMs = Math.max(isUnknown ? NO_SOONER_MS : 0, this.#lullMs(nowMs));
    const endsAt = Math.max(wasParked ? this.#frontEndsAt : this.#lineEndsAt, nowMs + lullMs);
    const from = endsAt + spacingMs;
    const joined = (count: number) => this.#joined(from + (count - 1) * spacingMs, wasParked);
    return { startAt: nowMs, from, spacingMs, horizonAt: nowMs + MAX_PARK_MS, joined };
  }

  #joined(endsAt: number, wasParked: boolean): void {
    if (wasParked) this.#frontEndsAt = Math.max(this.#frontEndsAt, endsAt);
    else this.#lineEndsAt = Math.max(this.#lineEndsAt, endsAt);
  }

  /** All who waited have been called forward: whoever comes now is the first again. */
  lineIsOver(): void {
    this.#lineEndsAt = 0;
    this.#frontEndsAt = 0;
  }

  /** How many attempts it is likely to finish within `periodMs` when `abreast` go at once; 1 or more. */
  pace(periodMs: number, abreast: number): number {
    return Math.ceil(periodMs / this.#spacingMs(abreast));
  }

  /** Take an attempt's duration into the average. */
  took(durationMs: number, nowMs: number): void {
    this.#progressAt = nowMs;
    const previousMs = this.#averageMs || durationMs;
    this.#averageMs = Math.max(1, previousMs + SMOOTHING * (durationMs - previousMs));
  }

  /**
   * Adapt the limit and the circuit to an attempt's outcome. A name that no resolver answers for is silence, too, whoever
   * is to blame. Other faults of ours, or an address we refuse, say nothing.
   *
   * @param bound  what the limit never exceeds
   * @param probe  the attempt's number as a probe of the circuit; 0 when it was none
   */
  learn(outcome: Outcome, bound: number, nowMs: number, probe = 0): void {
    if (outcome.kind === "response") {
      this.breaker.succeeded();
      if (outcome.durationMs > SLOW_MS) this.limit = Math.max(1, bound * SLOW_SHARE, this.limit * SLOW_SHRINK);
      else if (Math.floor(outcome.status / 100) !== 5) this.limit += 1;
      this.limit = Math.min(this.limit, bound);
    } else if (isSilence(outcome)) {
      this.breaker.failed(nowMs, probe);
      this.limit = Math.max(1, this.limit * SILENT_SHRINK);
    } else {
      this.breaker.undecided(probe);
    }
  }
}
