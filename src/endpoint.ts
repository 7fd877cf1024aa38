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
const FIRST_PACE = { spacingMs: 5, lullMs: NO_SOONER_MS }; // of first attempts: those that are answered hold up nobody
const MAX_PARK_MS = 5 * 60 * 1000; // 5 min: an endpoint may recover long before the end of its line

/**
 * Where a job that waits stands: before all others when it is to be an endpoint's first attempt, before those that come
 * fresh from the queue when it had its turn in vain.
 */
export type Place = "first" | "again" | "fresh";

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
  #hasFirst = false; // one of its jobs is to be its first attempt
  #progressAt = 0; // when it last answered, or went from idle to busy
  readonly #lineEndsAt = { first: 0, again: 0, fresh: 0 }; // when the last of those parked has its turn

  /** An attempt begins. */
  started(nowMs: number): void {
    if (this.inFlight === 0) this.#progressAt = nowMs;
    this.inFlight += 1;
    this.#hasFirst = false;
  }

  /** No attempt has come to an end yet, and none is in flight. */
  get isUntried(): boolean {
    return this.#averageMs === 0 && this.inFlight === 0;
  }

  /** The place that a job takes which must wait; of an untried endpoint's fresh ones, one is to be its first attempt. */
  takePlace(wasParked: boolean): Place {
    const isFirst = this.isUntried && (wasParked || !this.#hasFirst);
    this.#hasFirst ||= isFirst;
    if (isFirst) return "first";
    return wasParked ? "again" : "fresh";
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
   */
  line(place: Place, abreast: number, nowMs: number): Line {
    const endsAt = this.#lineEndsAt;
    const { spacingMs, lullMs } = place === "first" ? FIRST_PACE : this.#linePace(abreast, nowMs);
    const from = Math.max(endsAt[place], nowMs + lullMs) + spacingMs;
    const joined = (count: number): void => {
      endsAt[place] = Math.max(endsAt[place], from + (count - 1) * spacingMs);
    };
    return { owner: this, startAt: nowMs, from, spacingMs, horizonAt: nowMs + MAX_PARK_MS, joined };
  }

  #linePace(abreast: number, nowMs: number) {
    const lullMs = this.#lullMs(nowMs);
    if (this.#averageMs > 0) return { spacingMs: this.#spacingMs(abreast), lullMs };
    // One that has not answered yet takes as long as it has been silent at least. Its first answer calls them forward.
    const spacingMs = Math.max(ASSUMED_MS, this.#silentMs(nowMs)) / abreast;
    return { spacingMs, lullMs: Math.max(NO_SOONER_MS, lullMs) };
  }

  /** All who waited have been called forward: whoever comes now is the first again. */
  lineIsOver(): void {
    Object.assign(this.#lineEndsAt, { first: 0, again: 0, fresh: 0 });
  }

  /** How many attempts it is likely to finish within `periodMs` when `abreast` go at once; 1 or more. */
  pace(periodMs: number, abreast: number): number {
    return Math.ceil(periodMs / this.#spacingMs(abreast));
  }

  /** An attempt has come to an end. */
  progressed(nowMs: number): void {
    this.#progressAt = nowMs;
  }

  /** And its duration goes into the average. */
  took(durationMs: number, nowMs: number): void {
    this.progressed(nowMs);
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
