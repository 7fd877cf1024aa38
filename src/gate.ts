/**
 * Whether an attempt may go now: what keeps one slow or dead endpoint, and fifty of them, from slowing the others.
 *
 * In-process, without a round trip. An endpoint is a URL without its query. What must wait for a moment waits here, and is
 * let go the instant its endpoint answers; what must wait for longer is parked in Valkey until its turn.
 */
import { Endpoint } from "./endpoint.ts";
import { firstTurn, type Line } from "./line.ts";
import { isSilence, type Outcome } from "./outcome.ts";
import { type Waiter, WaitingRoom } from "./waiting-room.ts";

/** Why a job was parked: its endpoint's circuit, its endpoint's limit, or the share of all slots it may have. */
export type ParkReason = "circuit" | "limit" | "share";

/** `go` (as the circuit's n-th probe, or as none: 0), or not before `retryAt` (epoch ms). */
export type Turn =
  | { readonly kind: "go"; readonly probe: number }
  | { readonly kind: "park"; readonly retryAt: number; readonly reason: ParkReason };

export interface Gate {
  /**
   * Ask for a turn; every `go` is given back with {@link Gate.release}. Takes {@link MAX_WAIT_MS} at the most.
   *
   * @param wasParked  the job has waited for this turn; it goes before those that come fresh from the queue
   */
  admit(endpoint: string, wasParked: boolean): Turn | Promise<Turn>;
  /** Give a turn back, with what came of it. An old attempt's silence must not pass for that of the probe. */
  release(endpoint: string, outcome: Outcome, turn: Turn): void;
  /** The line of an endpoint that may not take more now, for those who would join it; undefined when it may. */
  line(endpoint: string): Line | undefined;
  /** So many have joined a line that {@link Gate.line} gave. */
  joined(endpoint: string, count: number, line: Line): void;
  /** None of an endpoint's jobs is parked any more, as far as can be found. */
  advanced(endpoint: string): void;
  /** Endpoints whose circuit is open. */
  readonly openCircuits: number;
  /** Their names. Looks at every endpoint there is: for a slow timer. */
  listOpen(): string[];
  /** Endpoints remembered. */
  readonly size: number;
}

export interface GateOptions {
  /** Attempts in flight in this process, at most. */
  readonly slots: number;
  /** Attempts in flight to one endpoint, at most. */
  readonly endpointSlots: number;
  /** How many endpoints to remember. */
  readonly capacity?: number;
  /** Called when an endpoint could take so many of its parked jobs now, long before their turns. */
  readonly onRoom?: (endpoint: string, jobs: number) => void;
  /** Epoch ms. */
  readonly now?: () => number;
  /** In [0, 1). */
  readonly random?: () => number;
}

/** How many jobs a worker takes from the queue for each slot: one that goes, and one that waits for a moment. */
export const JOBS_PER_SLOT = 2;

const SUSPECT_SHARE = 1 / 2; // of all slots, for endpoints that have not answered yet, or not lately, together
const BUSY_SHARE = 3 / 4; // of all slots; beyond it an endpoint keeps to its fair share, and the rest is for the others
const MAX_WAIT_MS = 250; // what is worth waiting for here; a turn further off is worth two scripts in Valkey
const SHORT_WAIT_MS = 25; // what is worth waiting for although the room is scarce
const ADVANCE_MS = 50; // parked jobs are called forward for so much of an endpoint's time at once
const WORTH_ADVANCING_MS = 250; // turns nearer than that come by themselves
const CAPACITY = 10_000; // endpoints; a few hundred bytes each

/** A job that waits for a moment, for its endpoint's next answers. */
interface WaitingJob extends Waiter<Endpoint> {
  readonly wasParked: boolean;
  readonly reason: ParkReason;
  readonly resolve: (turn: Turn) => void;
}

const GO: Turn = { kind: "go", probe: 0 }; // one for all: the hot path makes enough garbage

export function createGate({
  slots,
  endpointSlots,
  capacity = CAPACITY,
  onRoom = () => {},
  now = Date.now,
  random = Math.random,
}: GateOptions): Gate {
  const endpoints = new Map<string, Endpoint>(); // in order of use, oldest first
  const room = new WaitingRoom<Endpoint, WaitingJob>(MAX_WAIT_MS, ({ line, wasParked, reason, resolve }) =>
    resolve(park(line, wasParked, reason)),
  );
  const suspectSlots = Math.max(1, Math.floor(slots * SUSPECT_SHARE));
  const busySlots = Math.max(1, Math.floor(slots * BUSY_SHARE));
  const suspects = new Endpoint(); // all of them together, as if they were one: its pace is that of their slots
  let inFlight = 0;
  let busyEndpoints = 0;
  let openCircuits = 0;

  function recall(name: string): Endpoint {
    const endpoint = endpoints.get(name) ?? new Endpoint();
    endpoints.delete(name);
    endpoints.set(name, endpoint);
    if (endpoints.size > capacity) forgetOldest(endpoint);
    return endpoint;
  }

  function forgetOldest(but: Endpoint): void {
    for (const [name, endpoint] of endpoints) {
      if (endpoint.inFlight > 0 || endpoint === but) continue;
      if (endpoint.breaker.isOpen) openCircuits -= 1;
      endpoints.delete(name);
      return;
    }
  }

  /** What one endpoint may have in flight, or waiting, while room is scarce. */
  function fairShare(of: number): number {
    return Math.max(1, Math.floor(of / Math.max(1, busyEndpoints)));
  }

  function whyNot(endpoint: Endpoint): ParkReason | undefined {
    if (endpoint.inFlight >= Math.floor(Math.min(endpoint.limit, endpointSlots))) return "limit";
    if (inFlight >= slots) return "share";
    if (!endpoint.isProven && suspects.inFlight >= suspectSlots) return "share";
    return inFlight >= busySlots && endpoint.inFlight >= fairShare(busySlots) ? "share" : undefined;
  }

  function start(endpoint: Endpoint, probe = 0): Turn {
    if (endpoint.inFlight === 0) busyEndpoints += 1;
    inFlight += 1;
    endpoint.started(now());
    if (!endpoint.isProven) suspects.started(now());
    return probe === 0 ? GO : { kind: "go", probe };
  }

  /** How many attempts to an endpoint go at once when it is at its best. */
  function abreast(endpoint: Endpoint): number {
    return Math.min(endpoint.reach(endpointSlots), Math.max(endpoint.inFlight, fairShare(busySlots)));
  }

  function park(endpoint: Endpoint, wasParked: boolean, reason: ParkReason): Turn {
    const isCrowded = reason === "share" && !endpoint.isProven;
    const [owner, width] = isCrowded ? [suspects, suspectSlots] : [endpoint, abreast(endpoint)];
    const line = owner.line(wasParked, width, now());
    owner.joined(1, line, wasParked);
    return parkAt(endpoint, firstTurn(line, random), reason);
  }

  function parkAt(endpoint: Endpoint, retryAt: number, reason: ParkReason): Turn {
    endpoint.lastTurnAt = Math.max(endpoint.lastTurnAt, retryAt);
    return { kind: "park", retryAt, reason };
  }

  /** Turns were laid out at the pace of an endpoint that was slow or away; one that has room again need not keep to them. */
  function offerRoom(name: string, endpoint: Endpoint): void {
    const nowMs = now();
    if (endpoint.lastTurnAt < nowMs + WORTH_ADVANCING_MS || nowMs < endpoint.advancedAt + ADVANCE_MS) return;
    if (endpoint.breaker.isOpen || whyNot(endpoint) !== undefined) return;
    endpoint.advancedAt = nowMs;
    onRoom(name, endpoint.pace(ADVANCE_MS, Math.min(endpoint.limit, abreast(endpoint))));
    setTimeout(offerRoom, ADVANCE_MS, name, endpoint).unref(); // by then they are done, and the last of them asked too soon
  }

  /** Wait for the endpoint's next answers, if they come soon enough and there is room. */
  function wait(endpoint: Endpoint, wasParked: boolean, reason: ParkReason): Turn | Promise<Turn> {
    const ahead = room.sizeOf(endpoint);
    const waitMs = endpoint.inFlight > 0 ? endpoint.waitMs(ahead + 1, abreast(endpoint), now()) : MAX_WAIT_MS + 1;
    const isHog = busyEndpoints > 1 && endpoint.inFlight + ahead >= slots; // half of all that a worker holds
    const hasRoom = room.size < slots / 2 || ahead < fairShare(slots) || (waitMs <= SHORT_WAIT_MS && !isHog);
    const isFull = inFlight + room.size >= slots * JOBS_PER_SLOT;
    if (waitMs > MAX_WAIT_MS || !hasRoom || isFull) return park(endpoint, wasParked, reason);
    return new Promise((resolve) => {
      room.enter({ line: endpoint, wasParked, reason, resolve });
    });
  }

  return {
    admit(name, wasParked) {
      const endpoint = recall(name);
      if (endpoint.breaker.isOpen) {
        const probe = inFlight < slots ? endpoint.breaker.admit(now()) : 0;
        if (probe > 0) return start(endpoint, probe);
        const line = endpoint.breaker.line(now());
        endpoint.breaker.joined(line);
        return parkAt(endpoint, firstTurn(line, random), "circuit");
      }
      const reason = whyNot(endpoint);
      return reason === undefined ? start(endpoint) : wait(endpoint, wasParked, reason);
    },
    release(name, outcome, turn) {
      const endpoint = endpoints.get(name);
      if (endpoint === undefined) return; // never: what is in flight is not forgotten
      const { isOpen } = endpoint.breaker;
      inFlight -= 1;
      endpoint.inFlight -= 1;
      if (!endpoint.isProven) suspects.inFlight -= 1;
      if (endpoint.inFlight === 0) busyEndpoints -= 1;

      const isAnswer = outcome.kind === "response";
      if (isAnswer || isSilence(outcome)) {
        endpoint.took(outcome.durationMs, now());
        if (!endpoint.isProven) suspects.took(outcome.durationMs, now());
        if (endpoint.isProven !== isAnswer) suspects.inFlight += isAnswer ? -endpoint.inFlight : endpoint.inFlight;
        endpoint.isProven = isAnswer;
      }
      endpoint.learn(outcome, endpointSlots, now(), turn.kind === "go" ? turn.probe : 0);
      openCircuits += Number(endpoint.breaker.isOpen) - Number(isOpen);
      for (const waiter of room.lineOf(endpoint)) {
        if (whyNot(endpoint) !== undefined || endpoint.breaker.isOpen) break;
        room.leave(waiter);
        waiter.resolve(start(endpoint));
      }
      if (isAnswer) offerRoom(name, endpoint);
    },
    line(name) {
      const endpoint = endpoints.get(name);
      if (endpoint?.breaker.isOpen) return endpoint.breaker.line(now());
      if (endpoint === undefined || whyNot(endpoint) === undefined) return undefined;
      return endpoint.line(false, abreast(endpoint), now());
    },
    joined(name, count, line) {
      const endpoint = endpoints.get(name);
      if (endpoint === undefined || count === 0) return;
      const lastTurnAt = Math.min(line.from + (count - 1) * line.spacingMs, line.horizonAt);
      endpoint.lastTurnAt = Math.max(endpoint.lastTurnAt, lastTurnAt);
      if (endpoint.breaker.isOpen) endpoint.breaker.joined(line);
      else endpoint.joined(count, line, false);
    },
    advanced(name) {
      const endpoint = endpoints.get(name);
      if (endpoint !== undefined) endpoint.lastTurnAt = 0;
    },
    get openCircuits() {
      return openCircuits;
    },
    listOpen() {
      if (openCircuits === 0) return [];
      return [...endpoints].filter(([, { breaker }]) => breaker.isOpen).map(([name]) => name);
    },
    get size() {
      return endpoints.size;
    },
  };
}
