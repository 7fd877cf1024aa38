/**
 * Suspects: jobs that several workers had in hand when they died or hung. One of them may be the cause, so they run in a process
 * of their own, and the worker goes on meanwhile.
 *
 * First many together: after a crash loop most are innocent. When their process dies, each of them runs alone, one at a time. Only
 * a job that ends such processes, alone in each, again and again, fails as poison.
 */

import type { FaultCode } from "../delivery/outcome.ts";
import type { Sender } from "../http/sender.ts";
import type { Metrics } from "../monitoring/metrics.ts";
import { JOB_FIELDS, queueKeys } from "../queue/layout.ts";
import { AttemptFailed, DelayedError, type DeliveryWorker, type Job, Parked } from "../queue/worker.ts";
import type { Logger } from "../runtime/logger.ts";
import type { Valkey } from "../valkey/connection.ts";
import { type Child, type Settlement, startChild } from "./suspect-child.ts";

const TOGETHER = 64; // suspects in one process, at most
const MAX_WAITING = 256; // for each of the two processes; more would only hold locks
const DEADLY = 3; // processes that a job ends, alone in each, until it is poison
const DEATH_PAUSE_MS = 10 * 1000; // 10 s, and as much more after each death: what ails the machine may pass
const LATER_MS = 5 * 1000; // 5 to 7.5 s: too many wait, or no process came to be
const APART_PAUSE_MS = 500; // until a job of a process that died runs alone

/** Field of a job's hash: how many processes it has ended alone. Absent while it is not suspected more than others. */
const DEATHS = "deaths";

/** KEYS: the job. ARGV: by how much. Returns the new count, 0 when the job is gone. */
const COUNT = `return redis.call("EXISTS", KEYS[1]) == 1 and redis.call("HINCRBY", KEYS[1], "${DEATHS}", ARGV[1]) or 0`;

/** Runs attempts of suspects in processes of their own. */
export interface Suspects extends Pick<Sender, "cancel" | "cancelAll" | "inFlight"> {
  /**
   * One attempt; what comes of it is what came of it in the other process.
   *
   * @throws  like a worker's own processor; Parked when no process can take it now, or the process died; AttemptFailed for poison
   */
  attempt(job: Job, token: string): Promise<string>;
}

export interface SuspectsOptions {
  /** What to run: suspect-process.ts. */
  readonly program: string;
  /** The shard's index. */
  readonly shard: number;
  /** The shard's label, for job ids that operators see. */
  readonly label: string;
  /** How many attempts to one endpoint may be in flight. */
  readonly endpointSlots: number;
  /** After how long without a sign of life a process hangs, ms: above an attempt's deadline. */
  readonly hungMs: number;
  readonly valkey: Valkey;
  /** Of the queue's keys. */
  readonly prefix: string;
  readonly holders: () => DeliveryWorker["holders"];
  readonly metrics: Metrics;
  readonly logger: Logger;
  /** Told how many jobs it holds, which need no slot of the worker. */
  readonly onHeld: (jobs: number) => void;
}

interface Suspect {
  readonly job: Job;
  readonly token: string;
  readonly settled: PromiseWithResolvers<string>;
}

/** One life of a process, and those that are in it: none before it is ready. */
interface Round {
  readonly child: Child;
  readonly suspects: Map<string, Suspect>;
  isBegun: boolean;
}

/** One process at a time, and those that wait for it. */
interface Lane {
  readonly size: number;
  readonly waiting: Map<string, Suspect>;
  round: Round | undefined;
}

const createLane = (size: number): Lane => ({ size, waiting: new Map(), round: undefined });

export function createSuspects(options: SuspectsOptions): Suspects {
  return new SuspectLanes(options);
}

class SuspectLanes implements Suspects {
  readonly #together: Lane;
  readonly #alone = createLane(1);
  readonly #lanes: readonly Lane[];
  #stopped: FaultCode | undefined;

  constructor(private readonly options: SuspectsOptions) {
    this.#together = createLane(Math.min(TOGETHER, options.endpointSlots));
    this.#lanes = [this.#together, this.#alone];
  }

  get inFlight(): number {
    return this.#lanes.reduce((sum, { round, waiting }) => sum + waiting.size + (round?.suspects.size ?? 0), 0);
  }

  async attempt(job: Job, token: string): Promise<string> {
    const isApart = (await this.options.valkey.hget(this.#key(job), DEATHS)) !== null;
    const lane = isApart ? this.#alone : this.#together;
    if (lane.waiting.size >= MAX_WAITING || this.#stopped !== undefined) {
      throw new Parked(Date.now() + pauseMs(LATER_MS));
    }
    const settled = Promise.withResolvers<string>();
    lane.waiting.set(job.id as string, { job, token, settled });
    this.#reportHeld();
    if (lane.round === undefined) this.#start(lane);
    return await settled.promise;
  }

  cancel(id: string, code: FaultCode): void {
    for (const { round, waiting } of this.#lanes) {
      if (round?.suspects.has(id)) round.child.send({ kind: "cancel", job: id, code });
      waiting.get(id)?.settled.reject(new DelayedError());
      waiting.delete(id);
    }
    this.#reportHeld();
  }

  cancelAll(code: FaultCode): void {
    this.#stopped = code;
    for (const lane of this.#lanes) {
      parkAll(lane, 0);
      if (lane.round?.isBegun) lane.round.child.send({ kind: "cancelAll", code });
      else lane.round?.child.kill();
    }
  }

  #start(lane: Lane): void {
    const { program, shard, hungMs, metrics, logger } = this.options;
    try {
      const child = startChild(
        { program, args: [String(shard)], hungMs },
        {
          ready: () => this.#begin(lane, round),
          counted: (name, args) => (metrics[name] as (...given: unknown[]) => void)(...args),
          settled: (id, settlement) => this.#settle(round, id, settlement),
          ended: (cause) => this.#end(lane, round, cause),
        },
      );
      const round: Round = { child, suspects: new Map(), isBegun: false };
      lane.round = round;
    } catch (error) {
      logger.warn({ reason: (error as Error).message }, "suspects.unstarted");
      parkAll(lane, LATER_MS);
    }
  }

  async #begin(lane: Lane, round: Round): Promise<void> {
    try {
      await this.options.holders().adopt(round.child.pid); // otherwise others would take its jobs if we died now
    } catch {
      return round.child.kill(); // Valkey refused: later
    }
    if (lane.round !== round) return; // it died meanwhile
    round.isBegun = true;
    for (const [id, suspect] of [...lane.waiting].slice(0, lane.size)) {
      lane.waiting.delete(id);
      round.suspects.set(id, suspect);
      round.child.send({ kind: "take", job: id, token: suspect.token });
    }
    if (round.suspects.size === 0) round.child.kill(); // their locks are lost
  }

  #settle(round: Round, id: string, settlement: Settlement): void {
    const suspect = round.suspects.get(id);
    if (suspect === undefined) return;
    round.suspects.delete(id);
    this.#reportHeld();
    // Ahead of the acknowledgement. A job that could not be attempted remains a suspect.
    if (settlement.kind === "done" || settlement.kind === "failed") {
      this.options.valkey.hdel(this.#key(suspect.job), DEATHS, JOB_FIELDS.stalledCounter).catch(() => {});
    }
    if (settlement.kind === "done") suspect.settled.resolve(settlement.phrase);
    else suspect.settled.reject(errorOf(settlement));
    if (round.suspects.size === 0) round.child.kill();
  }

  #end(lane: Lane, round: Round, cause: string | undefined): void {
    const { holders, logger, label } = this.options;
    lane.round = undefined;
    holders().release(round.child.pid);
    const left = [...round.suspects.values()];
    if (cause !== undefined) {
      const ids = left.map(({ job }) => label + job.id);
      logger.warn({ jobs: ids, cause, alone: lane === this.#alone }, "suspects.died");
    }
    const isDeath = cause !== undefined && this.#stopped === undefined;
    for (const suspect of left) isDeath ? this.#judge(lane, suspect, cause) : park(suspect, 0);
    if (!round.isBegun) parkAll(lane, LATER_MS); // not their fault
    if (lane.waiting.size > 0) this.#start(lane);
    this.#reportHeld();
  }

  /** Its process has died, because of this job or one that ran beside it. */
  async #judge(lane: Lane, suspect: Suspect, cause: string): Promise<void> {
    const { valkey, metrics, logger, label } = this.options;
    const { job, settled } = suspect;
    const key = this.#key(job);
    try {
      const deaths = (await valkey.eval(COUNT, 1, key, lane === this.#alone ? 1 : 0)) as number;
      if (deaths === 0) return park(suspect, APART_PAUSE_MS);
      if (deaths < DEADLY) return park(suspect, deaths * DEATH_PAUSE_MS);
      await valkey.hset(key, DEATHS, 0); // if redelivered, it gets as many tries again, and alone
      const reason = describePoison(label + job.id, job, deaths, cause);
      metrics.poisoned();
      logger.warn({ job: label + job.id, reason }, "job.poisoned");
      settled.reject(new AttemptFailed(reason));
    } catch {
      park(suspect, DEATH_PAUSE_MS);
    }
  }

  #key({ id }: Job): string {
    return `${queueKeys(this.options.prefix).jobs}${id}`;
  }

  #reportHeld(): void {
    this.options.onHeld(this.inFlight);
  }
}

function parkAll(lane: Lane, ms: number): void {
  for (const suspect of lane.waiting.values()) park(suspect, ms);
  lane.waiting.clear();
}

/** What a processor throws for a settlement. */
function errorOf(settlement: Exclude<Settlement, { kind: "done" }>): Error {
  switch (settlement.kind) {
    case "failed":
      return new AttemptFailed(settlement.message, settlement.retryInMs);
    case "parked":
      return new Parked(settlement.retryAt);
    case "left":
      return new DelayedError();
    case "unforeseen":
      return new Error(settlement.message);
  }
}

function park({ settled }: Suspect, ms: number): void {
  settled.reject(new Parked(Date.now() + pauseMs(ms)));
}

/** Up to half as long again: they shall not all come back together. */
const pauseMs = (ms: number): number => Math.round(ms * (1 + Math.random() / 2));

function describePoison(name: string, { stalledCounter }: Job, deaths: number, cause: string): string {
  const workers = `workers died or hung ${stalledCounter} times while they had this job`;
  const apart = `then ${deaths} processes that ran nothing else, the last by ${cause}`;
  return `poison: ${workers}, ${apart}; to try again: fluxhook redeliver ${name}`;
}
