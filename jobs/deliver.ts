/**
 * The processor: runs one attempt of one delivery, from parsing the job to settling it. Read this file first.
 */

import { ContractError, type ContractOptions, isAddressed, parseJob } from "../src/delivery/contract.ts";
import { describeOutcome, type Outcome } from "../src/delivery/outcome.ts";
import {
  buildRequest,
  endpointKey,
  type UnaddressedEvent,
  type UserEvent,
  type WebhookEvent,
  type WebhookRequest,
} from "../src/delivery/request.ts";
import { type GiveUpCause, judge, type Verdict, withinLifetime } from "../src/delivery/retry.ts";
import type { Sender } from "../src/http/sender.ts";
import type { Backlog, Waiting } from "../src/isolation/backlog.ts";
import type { Candidate, Decision, Gate, Permit } from "../src/isolation/gate.ts";
import { Holds } from "../src/isolation/holds.ts";
import type { ArrivedAt } from "../src/queue/arrivals.ts";
import { isTestJob } from "../src/queue/marks.ts";
import { AttemptFailed, DelayedError, type Job, Parked, type Process } from "../src/queue/worker.ts";
import type { Pause } from "../src/registry/endpoint.ts";
import type { Completed } from "./completion.ts";
import { atHome, type Forward } from "./home.ts";
import { type LocateOptions, locate, type RegisteredEvent } from "./locate.ts";
import { type PaceOptions, pace } from "./pace.ts";

export interface DeliverOptions
  extends ContractOptions,
    Pick<LocateOptions, "findEndpoints" | "fanOut" | "unwanted" | "missed">,
    Pick<PaceOptions, "askPace"> {
  /** Without it, all jobs are in the shard that has their users' endpoints. */
  readonly forward?: Forward | undefined;
  readonly gate: Pick<Gate, "admit" | "release">;
  readonly backlog: Backlog;
  readonly sender: Pick<Sender, "send">;
  readonly completed: Completed;
  /** Called for a job that breaks the contract. */
  readonly rejected: (job: Job, reason: string) => void;
  /** Called for a job that waits in this process for an endpoint that may not be answering. */
  readonly held: (userId: string) => void;
  /** Called for a job that may not be attempted yet, just before it is parked. */
  readonly parked: (decision: ParkDecision, userId: string) => void;
  /** How long past its due time an event may still be delivered, in ms. */
  readonly maxAgeMs: number;
  /** Looks up when a job arrived that was already too old by then. */
  readonly arrivedAt: ArrivedAt;
  /** What operators hold, or held: an event's age stands still meanwhile. Nothing by default. */
  readonly holds?: Pick<Holds, "heldMs">;
  /** Epoch ms. */
  readonly now?: () => number;
  /** In [0, 1). */
  readonly random?: () => number;
}

type ParkDecision = Extract<Decision, { kind: "park" }>;

const EXPIRED: Outcome = { kind: "expired", durationMs: 0 };
const BACKLOG_FULL: Outcome = { kind: "backlog_full", durationMs: 0 };
const DATA_GONE = "the job's data is gone: it has no name, no data and no timestamp";
const GIVE_UP_FULL: Verdict = { kind: "give_up", cause: "backlog_full" };
const NOTHING_HELD = new Holds();
const UNSENT: Outcome = { kind: "fault", code: "resources", durationMs: 0 };

/** Create the processor. {@link Process} describes its contract with the queue. */
export function createDeliver(options: DeliverOptions): Process {
  const { backlog, completed, parked, maxAgeMs, now = Date.now, random = Math.random } = options;
  const { holds = NOTHING_HELD } = options;

  return async function deliver(job, token, policy) {
    const parsed = parse(job, options); // a job that breaks the contract is never retried
    const located = isAddressed(parsed)
      ? undefined
      : await atHome(parsed.userId, job, options.forward, () => locate(parsed, job, options));
    if (typeof located === "string") return located;
    const event = located?.event ?? (parsed as WebhookEvent);
    const traffic = describeTraffic(event, job, located?.began);
    const scheduledAt = event.timestampMs + (Number(job.opts.delay) || 0);
    const dueAt = scheduledAt + holds.heldMs(traffic, scheduledAt, now(), located?.pauses); // its age stands still while it is held
    const hasWaited = job.attemptsStarted > 1;
    const isOverBacklog = hasWaited && backlog.isFull(traffic) && !(await backlog.join(traffic));
    let decision: Decision | Outcome = isOverBacklog ? BACKLOG_FULL : EXPIRED;
    if (!isOverBacklog && expiresInMs(event, now) > 0) {
      const early = located?.hold ?? (located && (await pace(located, job, lifeOf(event, dueAt, options), options)));
      decision = early ?? (await admit(traffic, event, options));
    }
    if (decision.kind === "park" && (await mayPark(job, traffic, decision, dueAt, options, located?.pauses))) {
      backlog.list(traffic);
      parked(decision, event.userId);
      throw new Parked(decision.retryAt); // frees the slot and uses no attempt
    }

    const attempt = job.attemptsMade + 1;
    const delivery = crypto.randomUUID();
    const startedAt = now();
    const build = () => buildRequest(event, delivery, startedAt);
    let outcome: Outcome;
    if (decision.kind === "go") outcome = await send(decision, build, job, options);
    else outcome = decision.kind === "park" ? EXPIRED : decision;

    const ageMs = now() - dueAt;
    let verdict = judge(outcome, attempt, policy, random, now(), ageMs);
    verdict = withinLifetime(verdict, maxAgeMs - ageMs, expiresInMs(event, now));
    if (verdict.kind === "retry" && !(await backlog.join(traffic))) verdict = GIVE_UP_FULL;
    if (hasWaited && (verdict.kind === "delivered" || verdict.kind === "give_up")) backlog.leave(traffic);
    const details = { job: job.id as string, delivery, attempt, startedAt, isTest: isTestJob(job) };
    if (verdict.kind === "give_up" && located !== undefined) await keepMissed(job, event, verdict.cause, options);
    await completed({ event, ...details, outcome, verdict });
    return await settle(job, token, outcome, verdict, now());
  };
}

/** Keep an event that a registered endpoint will not get. One to a blocked address would be blocked again. */
async function keepMissed(
  job: Job,
  event: WebhookEvent,
  cause: GiveUpCause,
  { missed }: Pick<DeliverOptions, "missed">,
): Promise<void> {
  if (cause !== "blocked") await missed?.keep(job, event as RegisteredEvent, cause);
}

function parse(job: Job, options: DeliverOptions): WebhookEvent | UnaddressedEvent | UserEvent {
  try {
    if (job.name === undefined && Number.isNaN(job.timestamp)) throw new ContractError([], DATA_GONE);
    return parseJob(job, options);
  } catch (error) {
    if (!(error instanceof ContractError)) throw error;
    options.rejected(job, error.message);
    throw new AttemptFailed(error.message);
  }
}

/** The time until an event's own `expiresAt`, at which no attempt may begin any more. */
function expiresInMs({ expiresAtMs }: WebhookEvent, now: () => number): number {
  return expiresAtMs === undefined ? Number.POSITIVE_INFINITY : expiresAtMs - now();
}

/** For how long an event may still wait. One that was too old when it arrived may for a while, see {@link mayPark}. */
function lifeOf(event: WebhookEvent, dueAt: number, { maxAgeMs, now = Date.now }: DeliverOptions): number {
  const leftMs = dueAt + maxAgeMs - now();
  return Math.min(leftMs > 0 ? leftMs : Number.POSITIVE_INFINITY, expiresInMs(event, now));
}

/** The fields that the gate and the backlog decide by. */
function describeTraffic(
  { endpoint: { url, id }, userId, body, timestampMs, expiresAtMs }: WebhookEvent,
  job: Job,
  began = 0,
): Candidate & Waiting {
  return {
    endpoint: endpointKey(url),
    host: url.origin,
    user: userId,
    bytes: body.length,
    job: job.id as string,
    enqueuedAt: timestampMs,
    expiresAt: expiresAtMs,
    registered: id === undefined ? undefined : { id, began },
    hasWaited: job.attemptsStarted > 1,
  };
}

async function admit(
  traffic: Candidate,
  event: WebhookEvent,
  { gate, held, now = Date.now }: DeliverOptions,
): Promise<Decision | Outcome> {
  const answer = gate.admit(traffic);
  if (answer.kind !== "wait") return answer;
  if (!answer.isProven) held(traffic.user);
  const decision = await answer.decision; // resolves within 250 ms
  if (decision.kind !== "go" || expiresInMs(event, now) > 0) return decision;
  gate.release(decision, UNSENT);
  return EXPIRED;
}

/**
 * Whether a job is young enough to be parked: it may be delayed by `maxAgeMs` from when it was due. If it was older than that when
 * it arrived, and has not been attempted since, the time counts from its arrival. A held job may always: it does not age.
 *
 * @param dueAt  later by the time for which the job was held
 */
async function mayPark(
  job: Job,
  traffic: Candidate,
  { reason }: ParkDecision,
  dueAt: number,
  { maxAgeMs, arrivedAt, holds = NOTHING_HELD, now = Date.now }: DeliverOptions,
  pauses?: readonly Pause[],
): Promise<boolean> {
  const nowMs = now();
  if (reason === "held" || nowMs < dueAt + maxAgeMs) return true;
  if (reason === "circuit" || wasTried(job)) return false;
  const arrived = await arrivedAt(job, nowMs);
  return nowMs < arrived + maxAgeMs + holds.heldMs(traffic, arrived, nowMs, pauses);
}

/** Whether an attempt has failed since the job was enqueued or retried by hand; BullMQ then clears the failure reason. */
function wasTried(job: Job): boolean {
  return job.attemptsMade > 0 && job.failedReason !== undefined;
}

async function send(
  permit: Permit,
  build: () => WebhookRequest,
  job: Job,
  { gate, sender }: DeliverOptions,
): Promise<Outcome> {
  let result = UNSENT;
  try {
    result = await sender.send(build(), job.id as string);
    return result;
  } finally {
    gate.release(permit, result); // even if sending throws: otherwise the slot leaks
  }
}

const GIVE_UP: Readonly<Record<GiveUpCause, string>> = {
  gone: "",
  blocked: "",
  exhausted: ", no attempts left",
  expired: ", older than WEBHOOK_MAX_AGE",
  past_expiry: ", no attempt after its expiresAt",
  backlog_full: ", more events wait than WEBHOOK_MAX_BACKLOG",
};

/** Translate the verdict for BullMQ: a short result, or an error that carries the delay before the next attempt. */
async function settle(job: Job, token: string, outcome: Outcome, verdict: Verdict, nowMs: number): Promise<string> {
  const phrase = describeOutcome(outcome);
  switch (verdict.kind) {
    case "delivered":
      return phrase;
    case "retry":
      throw new AttemptFailed(phrase, verdict.delayMs);
    case "give_up":
      throw new AttemptFailed(phrase + GIVE_UP[verdict.cause]);
    case "defer":
      return await handBack(job, token, outcome, nowMs + verdict.delayMs);
  }
}

/** Return a job to the queue after a fault of ours, without using an attempt. */
async function handBack(job: Job, token: string, outcome: Outcome, retryAt: number): Promise<never> {
  if (outcome.kind === "fault" && outcome.code === "lock_lost") throw new DelayedError(); // another worker already owns it
  if (outcome.kind === "fault" && outcome.code === "shutdown") {
    await job.moveToWait(token); // to the head of the queue
    throw new DelayedError();
  }
  await job.moveToDelayed(retryAt, token);
  throw new DelayedError();
}
