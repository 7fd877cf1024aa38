/**
 * Whether an attempt may go now: what keeps one slow or dead endpoint, and fifty of them, from slowing the others.
 *
 * In-process, without a round trip. An endpoint is a URL without its query. What must wait for a moment waits here, and is
 * let go the instant its endpoint answers; what must wait for longer is parked in Valkey until its turn.
 */
import { Endpoint } from "./endpoint.ts";
import { firstTurn, type Line, turnsOf } from "./line.ts";
import type { Outcome } from "./outcome.ts";
import type { Span } from "./parked-turns.ts";
import { type Shortage, Slots } from "./slots.ts";
import { type Waiter, WaitingRoom } from "./waiting-room.ts";

/** Why a job was parked: its endpoint's circuit, its endpoint's limit, or the share of all slots it may have. */
export type ParkReason = "circuit" | Shortage;

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
  /** An endpoint's parked jobs were called forward; there may be more at the turns that are left. */
  advanced(endpoint: string, left?: Span): void;
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
  /**
   * Called for each job that may not go and will not soon: one that is parked, or waits for an endpoint that has not
   * answered yet. Once a job and turn.
   */
  readonly onHeld?: (endpoint: string, isProven: boolean) => void;
  /**
   * Called when an endpoint could take so many of its parked jobs now, long before their turns, which are in that span. What
   * is left of it is to be given back with {@link Gate.advanced}.
   */
  readonly onRoom?: (endpoint: string, jobs: number, turns: Span) => void;
  /** Epoch ms. */
  readonly now?: () => number;
  /** In [0, 1). */
  readonly random?: () => number;
}

/** How many jobs a worker takes from the queue for each slot: one that goes, and one that waits for a moment. */
export const JOBS_PER_SLOT = 2;

const MAX_WAIT_MS = 250; // what is worth waiting for here; a turn further off is worth two scripts in Valkey
const SHORT_WAIT_MS = 25; // what is worth waiting for although the room is scarce
const ADVANCE_MS = 50; // parked jobs are called forward for so much of an endpoint's time at once
const WORTH_ADVANCING_MS = 250; // turns nearer than that come by themselves
const CAPACITY = 10_000; // endpoints; a few hundred bytes each

/** A job that waits for a moment, for its endpoint's next answers. */
interface WaitingJob extends Waiter<Endpoint> {
  readonly wasParked: boolean;
  readonly reason: Shortage;
  readonly resolve: (turn: Turn) => void;
}

const GO: Turn = { kind: "go", probe: 0 }; // one for all: the hot path makes enough garbage

export function createGate({
  slots: size,
  endpointSlots,
  capacity = CAPACITY,
  onHeld = () => {},
  onRoom = () => {},
  now = Date.now,
  random = Math.random,
}: GateOptions): Gate {
  const endpoints = new Map<string, Endpoint>(); // in order of use, oldest first
  const room = new WaitingRoom<Endpoint, WaitingJob>(MAX_WAIT_MS, ({ line, wasParked, reason, resolve }) =>
    resolve(park(line, wasParked, reason)),
  );
  const slots = new Slots(size, endpointSlots);
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

  function start(endpoint: Endpoint, probe = 0): Turn {
    slots.take(endpoint, now());
    return probe === 0 ? GO : { kind: "go", probe };
  }

  function park(endpoint: Endpoint, wasParked: boolean, reason: Shortage): Turn {
    return parkIn(slots.line(endpoint, reason, endpoint.takePlace(wasParked), now()), endpoint, reason);
  }

  function parkIn(line: Line, endpoint: Endpoint, reason: ParkReason): Turn {
    const retryAt = firstTurn(line, random);
    line.joined(1);
    endpoint.parked.add({ first: retryAt, last: retryAt }, now());
    return { kind: "park", retryAt, reason };
  }

  /** Turns were laid out at the pace of an endpoint that was slow or away; one that has room again need not keep to them. */
  function offerRoom(name: string, endpoint: Endpoint): void {
    const turns = endpoint.parked.after(now() + WORTH_ADVANCING_MS);
    const hasRoom = turns !== undefined && slots.shortage(endpoint) === undefined;
    const mayTake = endpoint.isProven && !endpoint.breaker.isOpen;
    // While it has some in flight, the next to end asks again. Where others have all of the room, nothing would.
    endpoint.isAdvancing = turns !== undefined && mayTake && (hasRoom || endpoint.inFlight === 0);
    if (!endpoint.isAdvancing) return;
    if (hasRoom) {
      endpoint.parked.drop(turns);
      onRoom(name, endpoint.pace(ADVANCE_MS, Math.min(endpoint.limit, slots.abreast(endpoint))), turns);
    }
    setTimeout(offerRoom, ADVANCE_MS, name, endpoint).unref(); // by then they are done, and the last answer may be long ago
  }

  /** It is known only now what turns an endpoint's jobs have: it may have answered meanwhile, and nothing be in flight. */
  function noteTurns(name: string, turns?: Span): void {
    const endpoint = endpoints.get(name);
    if (endpoint === undefined) return;
    if (turns !== undefined) endpoint.parked.add(turns, now());
    else if (endpoint.parked.after(now()) === undefined) endpoint.lineIsOver();
    if (!endpoint.isAdvancing) offerRoom(name, endpoint);
  }

  /** Wait for the endpoint's next answers, if they come soon enough and there is room. */
  function wait(endpoint: Endpoint, wasParked: boolean, reason: Shortage): Turn | Promise<Turn> {
    const { inFlight, busyEndpoints } = slots;
    const ahead = room.sizeOf(endpoint);
    const waitMs = endpoint.inFlight > 0 ? endpoint.waitMs(ahead + 1, slots.abreast(endpoint), now()) : MAX_WAIT_MS + 1;
    const isHog = busyEndpoints > 1 && endpoint.inFlight + ahead >= size; // half of all that a worker holds
    const hasRoom = room.size < size / 2 || ahead < slots.fairShare(size) || (waitMs <= SHORT_WAIT_MS && !isHog);
    const isFull = inFlight + room.size >= size * JOBS_PER_SLOT;
    if (waitMs > MAX_WAIT_MS || !hasRoom || isFull) return park(endpoint, wasParked, reason);
    return new Promise((resolve) => {
      room.enter({ line: endpoint, wasParked, reason, resolve });
    });
  }

  function decide(endpoint: Endpoint, wasParked: boolean): Turn | Promise<Turn> {
    if (endpoint.breaker.isOpen) {
      const probe = slots.isFull ? 0 : endpoint.breaker.admit(now());
      if (probe > 0) return start(endpoint, probe);
      return parkIn(endpoint.breaker.line(now()), endpoint, "circuit");
    }
    const reason = slots.shortage(endpoint);
    return reason === undefined ? start(endpoint) : wait(endpoint, wasParked, reason);
  }

  return {
    admit(name, wasParked) {
      const endpoint = recall(name);
      const turn = decide(endpoint, wasParked);
      if (turn instanceof Promise ? !endpoint.isProven : turn.kind === "park") onHeld(name, endpoint.isProven);
      return turn;
    },
    release(name, outcome, turn) {
      const endpoint = endpoints.get(name);
      if (endpoint === undefined) return; // never: what is in flight is not forgotten
      const { isOpen } = endpoint.breaker;
      slots.giveBack(endpoint, outcome, now());
      endpoint.learn(outcome, endpointSlots, now(), turn.kind === "go" ? turn.probe : 0);
      openCircuits += Number(endpoint.breaker.isOpen) - Number(isOpen);
      for (const waiter of room.lineOf(endpoint)) {
        if (slots.shortage(endpoint) !== undefined || endpoint.breaker.isOpen) break;
        room.leave(waiter);
        waiter.resolve(start(endpoint));
      }
      if (!endpoint.isAdvancing) offerRoom(name, endpoint);
    },
    line(name) {
      const endpoint = endpoints.get(name);
      if (endpoint?.breaker.isOpen) return endpoint.breaker.line(now());
      const reason = endpoint && slots.shortage(endpoint);
      return reason && slots.line(endpoint, reason, "fresh", now());
    },
    joined(name, count, line) {
      if (count === 0) return;
      line.joined(count);
      noteTurns(name, turnsOf(line, count));
    },
    advanced: noteTurns,
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
