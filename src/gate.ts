/**
 * Whether an attempt may go now: what keeps one slow or dead endpoint, and fifty of them, from slowing the others.
 *
 * In-process, without a round trip. An endpoint is a URL without its query. Pure but for the state it keeps: clock and
 * randomness come in.
 */
import { Breaker } from "./breaker.ts";
import type { Outcome } from "./outcome.ts";

/** Why a job was parked. */
export type ParkReason = "circuit" | "limit" | "share";

/** `go`, or not before `retryAt` (epoch ms). */
export type Turn =
  | { readonly kind: "go" }
  | { readonly kind: "park"; readonly retryAt: number; readonly reason: ParkReason };

export interface Gate {
  /**
   * Ask for a turn. Every `go` is given back with {@link Gate.release}.
   *
   * @param wasParked  the job has waited for this turn; it goes before those that come fresh from the queue
   */
  admit(endpoint: string, wasParked: boolean, nowMs: number): Turn;
  /** Give a turn back, with what came of it. */
  release(endpoint: string, outcome: Outcome, nowMs: number): void;
  /** Endpoints whose circuit is open. */
  readonly openCircuits: number;
  /** Endpoints remembered. */
  readonly size: number;
}

export interface GateOptions {
  /** Attempts in flight in this process, at most. */
  readonly slots: number;
  /** Attempts in flight to one endpoint, at most. */
  readonly endpointSlots: number;
  /** In [0, 1). */
  readonly random: () => number;
  /** How many endpoints to remember. */
  readonly capacity?: number;
}

const START_LIMIT = 4; // in flight to an endpoint that has not answered yet
const SUSPECT_SHARE = 1 / 2; // of all slots, for endpoints that have not answered yet, or not lately, together
const BUSY_SHARE = 3 / 4; // of all slots; beyond it an endpoint keeps to its fair share, and the rest is for the others
const SLOW_MS = 1000; // 1 s: an answer that takes longer does not earn a higher limit
const SLOW_SHARE = 1 / 4; // of an endpoint's bound: what a slow one shrinks to
const SHRINK = 0.5; // of the limit remains after an attempt without an answer
const SMOOTHING = 0.2; // weight of the newest duration in the average
const ASSUMED_MS = 20; // duration of an attempt to an endpoint that has not answered yet
const MAX_PARK_MS = 5 * 60 * 1000; // 5 min: an endpoint may recover long before the end of the line it has earned
const CAPACITY = 10_000; // endpoints; a few hundred bytes each

/** What we know of an endpoint. */
class Endpoint {
  limit = START_LIMIT;
  inFlight = 0;
  /** Average duration of its attempts, ms; 0 is unknown. */
  durationMs = 0;
  /** When it last answered, or went from idle to busy; epoch ms. */
  progressAt = 0;
  /** Has answered, and not failed to since. */
  isProven = false;
  /** When the last of those parked has its turn; epoch ms. */
  lineEndsAt = 0;
  /** The same for those that came at their turn and had to be parked again. */
  frontEndsAt = 0;
  readonly breaker = new Breaker();
}

export function createGate({ slots, endpointSlots, random, capacity = CAPACITY }: GateOptions): Gate {
  // In order of use, oldest first.
  const endpoints = new Map<string, Endpoint>();
  const suspectSlots = Math.max(1, Math.floor(slots * SUSPECT_SHARE));
  const busySlots = Math.max(1, Math.floor(slots * BUSY_SHARE));
  const slowLimit = Math.max(1, Math.floor(endpointSlots * SLOW_SHARE));
  const suspects = new Endpoint(); // all of them together, as if they were one: its pace is that of their slots
  let inFlight = 0;
  let busyEndpoints = 0;
  let openCircuits = 0;

  function recall(name: string): Endpoint {
    let endpoint = endpoints.get(name);
    if (endpoint === undefined) endpoint = new Endpoint();
    else endpoints.delete(name);
    endpoints.set(name, endpoint);
    if (endpoints.size > capacity) forgetOldest();
    return endpoint;
  }

  function forgetOldest(): void {
    for (const [name, { inFlight: held, breaker }] of endpoints) {
      if (held > 0) continue;
      if (breaker.isOpen) openCircuits -= 1;
      endpoints.delete(name);
      return;
    }
  }

  function whyNot(endpoint: Endpoint): ParkReason | undefined {
    if (endpoint.inFlight >= Math.min(endpointSlots, Math.floor(endpoint.limit))) return "limit";
    if (!endpoint.isProven && suspects.inFlight >= suspectSlots) return "share";
    const fairShare = Math.max(1, Math.floor(busySlots / Math.max(1, busyEndpoints)));
    if (inFlight >= busySlots && endpoint.inFlight >= fairShare) return "share";
    return undefined;
  }

  /**
   * The expected turn of the next job in line: the endpoint's pace is its average duration shared by the attempts it has
   * in flight (Little's law), so a whole backlog is laid out one turn after the other, and each job is parked once.
   */
  function nextTurn(endpoint: Endpoint, wasParked: boolean, nowMs: number): number {
    const busyMs = nowMs - endpoint.progressAt; // an attempt under way for so long says more than an average of old ones
    const durationMs = Math.max(endpoint.durationMs || ASSUMED_MS, busyMs);
    const spacingMs = durationMs / Math.max(1, endpoint.inFlight);
    const line = wasParked ? "frontEndsAt" : "lineEndsAt";
    endpoint[line] = Math.max(endpoint[line], nowMs) + spacingMs;
    const waitMs = endpoint[line] - nowMs + random() * spacingMs;
    // Beyond the horizon a turn is a guess: spread, so that they do not all come back at once.
    return Math.ceil(nowMs + (waitMs <= MAX_PARK_MS ? waitMs : MAX_PARK_MS * (0.5 + 0.5 * random())));
  }

  function setProven(endpoint: Endpoint, isProven: boolean): void {
    if (endpoint.isProven === isProven) return;
    endpoint.isProven = isProven;
    suspects.inFlight += isProven ? -endpoint.inFlight : endpoint.inFlight;
  }

  function occupy(endpoint: Endpoint, step: 1 | -1, nowMs: number): void {
    if (step === 1 && endpoint.inFlight === 0) {
      busyEndpoints += 1;
      endpoint.progressAt = nowMs;
    }
    inFlight += step;
    endpoint.inFlight += step;
    if (!endpoint.isProven) suspects.inFlight += step;
    if (endpoint.inFlight === 0) busyEndpoints -= 1;
  }

  function learn(endpoint: Endpoint, outcome: Outcome, nowMs: number): void {
    const wasOpen = endpoint.breaker.isOpen;
    average(endpoint, outcome.durationMs, nowMs);
    if (!endpoint.isProven) average(suspects, outcome.durationMs, nowMs);
    if (outcome.kind === "response") {
      setProven(endpoint, true);
      endpoint.breaker.succeeded();
      if (outcome.durationMs > SLOW_MS) endpoint.limit = Math.max(slowLimit, endpoint.limit * 0.9);
      else if (outcome.status < 500) endpoint.limit = Math.min(endpointSlots, endpoint.limit + 1);
    } else {
      setProven(endpoint, false);
      endpoint.breaker.failed(nowMs);
      endpoint.limit = Math.max(1, endpoint.limit * SHRINK);
    }
    openCircuits += Number(endpoint.breaker.isOpen) - Number(wasOpen);
  }

  return {
    admit(name, wasParked, nowMs) {
      const endpoint = recall(name);
      if (endpoint.breaker.isOpen) {
        const retryAt = endpoint.breaker.admit(nowMs, random);
        if (retryAt !== undefined) return { kind: "park", retryAt, reason: "circuit" };
      } else {
        // Who comes fresh from the queue does not overtake those who wait for their turn.
        const reason = whyNot(endpoint) ?? (!wasParked && endpoint.lineEndsAt > nowMs ? "limit" : undefined);
        if (reason !== undefined) {
          const isCrowd = reason === "share" && !endpoint.isProven;
          return { kind: "park", retryAt: nextTurn(isCrowd ? suspects : endpoint, wasParked, nowMs), reason };
        }
      }
      occupy(endpoint, 1, nowMs);
      return { kind: "go" };
    },
    release(name, outcome, nowMs) {
      const endpoint = endpoints.get(name);
      if (endpoint === undefined) return; // never: what is in flight is not forgotten
      occupy(endpoint, -1, nowMs);
      // A fault of ours, or an address we refuse, says nothing about the endpoint.
      if (outcome.kind === "response" || outcome.kind === "failure") learn(endpoint, outcome, nowMs);
      else endpoint.breaker.undecided();
    },
    get openCircuits() {
      return openCircuits;
    },
    get size() {
      return endpoints.size;
    },
  };
}

function average(endpoint: Endpoint, durationMs: number, nowMs: number): void {
  endpoint.progressAt = nowMs;
  const previousMs = endpoint.durationMs || durationMs;
  endpoint.durationMs = Math.max(1, previousMs + SMOOTHING * (durationMs - previousMs));
}
