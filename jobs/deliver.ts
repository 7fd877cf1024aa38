/**
 * The processor: one attempt of one delivery, from the job to its settlement. The file to read first.
 */

import { ContractError, type ContractOptions, parseEvent } from "../src/delivery/contract.ts";
import { describeOutcome, type Outcome } from "../src/delivery/outcome.ts";
import { buildRequest, endpointKey, type WebhookEvent } from "../src/delivery/request.ts";
import { type GiveUpCause, judge, type Verdict, withinLifetime } from "../src/delivery/retry.ts";
import type { Sender } from "../src/http/sender.ts";
import type { Backlog, Waiting } from "../src/isolation/backlog.ts";
import type { Candidate, Gate, Permit, Turn } from "../src/isolation/gate.ts";
import { AttemptFailed, DelayedError, type Job, Parked, type Process } from "../src/queue/worker.ts";
import type { Completed } from "./completion.ts";

export interface DeliverOptions extends ContractOptions {
  readonly gate: Pick<Gate, "admit" | "release">;
  readonly backlog: Backlog;
  readonly sender: Pick<Sender, "send">;
  readonly completed: Completed;
  /** Called for a job that broke the contract. */
  readonly rejected: (job: Job, reason: string) => void;
  /** Called for a job that waits in the process for an endpoint which may well not answer. */
  readonly held: (userId: string) => void;
  /** Called for a job that may not go yet, before it is parked. */
  readonly parked: (turn: Extract<Turn, { kind: "park" }>, userId: string) => void;
  /** How long an event may be put off, in ms, from when it was due. */
  readonly maxAgeMs: number;
  /** Epoch ms. */
  readonly now?: () => number;
  /** In [0, 1). */
  readonly random?: () => number;
}

const EXPIRED: Outcome = { kind: "expired", durationMs: 0 };
const BACKLOG_FULL: Outcome = { kind: "backlog_full", durationMs: 0 };
const DATA_GONE = "the job's data is gone: it has no name, no data and no timestamp";
const TOO_MANY_WAIT: Verdict = { kind: "give_up", cause: "backlog_full" };
const UNSENT: Outcome = { kind: "fault", code: "resources", durationMs: 0 };

/** Make the processor that {@link Process} describes. */
export function createDeliver(options: DeliverOptions): Process {
  const { gate, backlog, sender, completed, held, parked, maxAgeMs, now = Date.now, random = Math.random } = options;

  return async function deliver(job, token, policy) {
    const event = parse(job, options); // a broken contract is never retried
    const dueAt = event.timestampMs + (Number(job.opts.delay) || 0);
    const traffic = describeTraffic(event, job);
    const hasWaited = job.attemptsStarted > 1;
    const isOver = hasWaited && backlog.isFull(traffic) && !(await backlog.join(traffic));
    const turn = isOver ? BACKLOG_FULL : await takeTurn();
    if (turn.kind === "park" && (now() < dueAt + maxAgeMs || isOldButNew(job, turn))) {
      backlog.join(traffic);
      parked(turn, event.userId);
      throw new Parked(turn.retryAt); // no slot held, no attempt used
    }

    const attempt = job.attemptsMade + 1;
    const delivery = crypto.randomUUID();
    const startedAt = now();
    const outcome = turn.kind === "go" ? await send(turn) : turn.kind === "park" ? EXPIRED : turn;

    const ageMs = now() - dueAt;
    let verdict = withinLifetime(judge(outcome, attempt, policy, random, now(), ageMs), maxAgeMs - ageMs);
    if (verdict.kind === "retry" && !(await backlog.join(traffic))) verdict = TOO_MANY_WAIT;
    if (hasWaited && (verdict.kind === "delivered" || verdict.kind === "give_up")) backlog.leave(traffic);
    await completed({ event, job: job.id as string, delivery, attempt, startedAt, outcome, verdict });
    return await settle(job, token, outcome, verdict, now());

    async function takeTurn(): Promise<Turn> {
      const asked = gate.admit(traffic);
      if (asked.kind === "wait" && !asked.isProven) held(event.userId);
      return asked.kind === "wait" ? await asked.turn : asked; // the wait is 250 ms at most
    }

    async function send(permit: Permit): Promise<Outcome> {
      let result = UNSENT;
      try {
        result = await sender.send(buildRequest(event, delivery, startedAt), job.id as string);
        return result;
      } finally {
        gate.release(permit, result); // whatever happened, or its slot would be lost for good
      }
    }
  };
}

function parse(job: Job, options: DeliverOptions): WebhookEvent {
  try {
    if (job.name === undefined && Number.isNaN(job.timestamp)) throw new ContractError([], DATA_GONE);
    return parseEvent(job, options);
  } catch (error) {
    if (!(error instanceof ContractError)) throw error;
    options.rejected(job, error.message);
    throw new AttemptFailed(error.message);
  }
}

/** What the gate and the backlog need to know. */
function describeTraffic(
  { endpoint: { url }, userId, body, timestampMs }: WebhookEvent,
  job: Job,
): Candidate & Waiting {
  return {
    endpoint: endpointKey(url),
    host: url.origin,
    user: userId,
    bytes: body.length,
    job: job.id as string,
    enqueuedAt: timestampMs,
  };
}

const FIRST_TURNS = 10;

/**
 * An event may be old when it comes: redelivered by hand, or after days without a worker. It is not its endpoint that has
 * kept it waiting, so it may wait some turns for room, as long as the endpoint answers.
 */
function isOldButNew(job: Job, { reason }: Extract<Turn, { kind: "park" }>): boolean {
  return reason !== "circuit" && job.attemptsStarted - job.attemptsMade <= FIRST_TURNS;
}

const GIVE_UP: Readonly<Record<GiveUpCause, string>> = {
  gone: "",
  blocked: "",
  exhausted: ", no attempts left",
  expired: ", older than WEBHOOK_MAX_AGE",
  backlog_full: ", more events wait than WEBHOOK_MAX_BACKLOG",
};

/** Tell BullMQ: a small result, or a small error that carries the pause before the next attempt. */
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

/** Our own fault: the job goes back as it was. */
async function handBack(job: Job, token: string, outcome: Outcome, retryAt: number): Promise<never> {
  if (outcome.kind === "fault" && outcome.code === "lock_lost") throw new DelayedError(); // another worker has it already
  if (outcome.kind === "fault" && outcome.code === "shutdown") {
    await job.moveToWait(token); // to the head of the line
    throw new DelayedError();
  }
  await job.moveToDelayed(retryAt, token);
  throw new DelayedError();
}
