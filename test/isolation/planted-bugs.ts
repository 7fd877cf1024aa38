/**
 * Bugs put into the policy on purpose, each of them a line that somebody might write. The simulator must find every one.
 */
import { Bulkheads } from "../../src/isolation/bulkheads.ts";
import { Circuit } from "../../src/isolation/circuit.ts";
import { Endpoint, Host } from "../../src/isolation/endpoint.ts";
import { AdmissionGate } from "../../src/isolation/gate.ts";
import { Limiter } from "../../src/isolation/limiter.ts";
import { Memory } from "../../src/isolation/memory.ts";
import { Revisits } from "../../src/isolation/pacing.ts";
import { Parking } from "../../src/isolation/parking.ts";
import { type InQueue, RoundRobinQueue } from "../../src/isolation/round-robin-queue.ts";
import type { RunOptions } from "./random-run.ts";

export interface PlantedBug {
  readonly name: string;
  /** Put it in. Returns what takes it out again. */
  readonly plant: () => () => void;
  /** What runs with it need besides. */
  readonly options?: Partial<RunOptions>;
}

/** Replace a method, or the getter of a property, with one made from it. */
function replace<T extends object, K extends keyof T & string>(
  owner: T,
  name: K,
  make: (was: T[K]) => T[K],
): () => void {
  const was = Object.getOwnPropertyDescriptor(owner, name) as PropertyDescriptor;
  const isGetter = was.get !== undefined;
  Object.defineProperty(
    owner,
    name,
    isGetter ? { ...was, get: make(was.get as T[K]) as () => unknown } : { ...was, value: make(was.value) },
  );
  return () => Object.defineProperty(owner, name, was);
}

export const PLANTED_BUGS: readonly PlantedBug[] = [
  {
    name: "an endpoint's limit grows beyond its bound",
    plant: () =>
      replace(
        Limiter.prototype,
        "learn",
        (was) =>
          function (this: Limiter, ...given) {
            was.apply(this, given);
            if (given[0].kind === "response" && given[0].status === 200) this.limit += 1;
          },
      ),
  },
  {
    name: "a 429 does not shrink the limit",
    plant: () =>
      replace(
        Limiter.prototype,
        "learn",
        (was) =>
          function (this: Limiter, ...given) {
            const { limit } = this;
            was.apply(this, given);
            if (given[0].kind === "response" && given[0].status === 429) this.limit = limit;
          },
      ),
  },
  {
    name: "Retry-After holds nothing",
    plant: () =>
      replace(
        Limiter.prototype,
        "learn",
        (was) =>
          function (this: Limiter, ...given) {
            was.apply(this, given);
            this.heldUntil = 0;
          },
      ),
  },
  {
    name: "jobs that were held come back before the time that was asked for",
    plant: () =>
      replace(
        Parking.prototype,
        "dueAt",
        (was) =>
          function (this: Parking, ...given) {
            const dueAt = was.apply(this, given);
            return given[1] === "retry_after" ? given[3] + (dueAt - given[3]) / 2 : dueAt;
          },
      ),
  },
  {
    name: "an open circuit lets every attempt through once its probe is due",
    plant: () => replace(Circuit.prototype, "started", () => function started() {}),
  },
  {
    name: "a probe that ends by a fault of ours is waited for without end",
    plant: () => replace(Circuit.prototype, "undecided", () => function undecided() {}),
  },
  {
    name: "silence counts although an answer came meanwhile",
    plant: () =>
      replace(
        Circuit.prototype,
        "silent",
        (was) =>
          function (this: Circuit, trial, witness, nowMs) {
            const isProbe = trial.startedAt < this.answeredAt;
            was.call(this, isProbe ? { ...trial, startedAt: nowMs } : trial, witness, nowMs);
          },
      ),
  },
  {
    name: "one user's dead endpoints close their host to everybody",
    plant: () =>
      replace(
        Host.prototype,
        "circuitOf",
        () =>
          function (this: Host) {
            Object.assign(this.circuit, { minUsers: 1 });
            return undefined;
          },
      ),
  },
  {
    name: "an endpoint that answers is held by its host's circuit",
    plant: () => replace(Circuit.prototype, "isProven", () => (() => false) as unknown as boolean),
  },
  {
    name: "the bytes of a suspect are not given back",
    plant: () =>
      replace(
        Bulkheads.prototype,
        "release",
        (was) =>
          function (this: Bulkheads, load, isSuspect) {
            was.call(this, isSuspect ? { ...load, bytes: 0 } : load, isSuspect);
          },
      ),
  },
  {
    name: "every attempt counts twice among the suspects",
    plant: () =>
      replace(
        Bulkheads.prototype,
        "release",
        (was) =>
          function (this: Bulkheads, load, _isSuspect) {
            was.call(this, load, false);
          },
      ),
  },
  {
    name: "users that share an endpoint take no turns",
    plant: () =>
      replace(
        RoundRobinQueue.prototype,
        "remove",
        (was) =>
          function (this: RoundRobinQueue<InQueue>, waiter) {
            was.call(this, waiter, false);
          },
      ),
  },
  {
    name: "parked jobs are never promoted although their endpoints have capacity",
    plant: () => replace(Parking.prototype, "promoteAt", () => (() => undefined) as unknown as undefined),
  },
  {
    name: "parked jobs return later and later",
    plant: () =>
      replace(
        Revisits.prototype,
        "lagMs",
        (was) =>
          function (this: Revisits, nowMs) {
            return was.call(this, nowMs) + 600_000;
          },
      ),
  },
  {
    name: "an answer does not admit waiting jobs",
    plant: () => replace(RoundRobinQueue.prototype, "heads", () => () => []),
  },
  {
    name: "endpoints in use are evicted",
    plant: () => replace(Endpoint.prototype, "isIdle", () => (() => true) as unknown as boolean),
    options: { capacity: 3 },
  },
  {
    name: "nothing is ever forgotten",
    plant: () =>
      replace(
        Memory.prototype,
        "recall",
        (was) =>
          function (this: Memory<Endpoint>, ...given) {
            Object.assign(this, { capacity: Number.POSITIVE_INFINITY });
            return was.apply(this, given);
          },
      ),
    options: { capacity: 3 },
  },
  {
    name: "intervals are measured with the wall clock",
    plant: () => () => {},
    options: { isOnWallClock: true },
  },
  {
    name: "an attempt's slot is given back twice",
    plant: () =>
      replace(
        AdmissionGate.prototype,
        "release",
        (was) =>
          function (this: AdmissionGate, permit, outcome) {
            was.call(this, permit, outcome);
            Object.assign(permit, { isReleased: false });
            if (outcome.kind === "fault") was.call(this, permit, outcome);
          },
      ),
  },
];
