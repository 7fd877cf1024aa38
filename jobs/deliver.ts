/**
 * The processor: one attempt of one delivery, from the job to its settlement. The file to read first.
 */
import type { Gate, ParkReason } from "../src/gate.ts";
import { describeOutcome, type Outcome } from "../src/outcome.ts";
import { buildRequest, endpointName, type WebhookEvent } from "../src/payload.ts";
import { AttemptFailed, DelayedError, type Job, type Process } from "../src/queue.ts";
import { judge, type Verdict } from "../src/retry.ts";
import type { Sender } from "../src/send.ts";
import type { Completed } from "./completion.ts";
import { ContractError, parseEvent } from "./event.ts";

export interface DeliverOptions {
  readonly gate: Gate;
  readonly sender: Pick<Sender, "send">;
  readonly completed: Completed;
  /** Called for a job that broke the contract. */
  readonly rejected: (job: Job, reason: string) => void;
  /** Called for a job that may not go yet. */
  readonly parked: (reason: ParkReason) => void;
  /** Epoch ms. */
  readonly now?: () => number;
  /** In [0, 1). */
  readonly random?: () => number;
}

/** Make the processor that {@link Process} describes. */
export function createDeliver({
  gate,
  sender,
  completed,
  rejected,
  parked,
  now = Date.now,
  random = Math.random,
}: DeliverOptions): Process {
  return async function deliver(job, token, policy) {
    const event = parse(job, rejected); // a broken contract is never retried
    const endpoint = endpointName(event.endpoint.url);
    const turn = gate.admit(endpoint, wasParked(job), now());
    if (turn.kind === "park") {
      parked(turn.reason);
      return await park(job, token, turn.retryAt); // no slot held, no attempt used
    }

    const attempt = job.attemptsMade + 1;
    const delivery = crypto.randomUUID();
    const startedAt = now();
    const outcome = await sender.send(buildRequest(event, delivery, startedAt), job.id as string);
    gate.release(endpoint, outcome, now());

    const verdict = judge(outcome, attempt, policy, random, now());
    await completed({ event, job: job.id as string, delivery, attempt, startedAt, outcome, verdict });
    return await settle(job, token, outcome, verdict, now());
  };
}

function parse(job: Job, rejected: DeliverOptions["rejected"]): WebhookEvent {
  try {
    return parseEvent(job);
  } catch (error) {
    if (!(error instanceof ContractError)) throw error;
    rejected(job, error.message);
    throw new AttemptFailed(error.message);
  }
}

/** BullMQ counts pick-ups and attempts apart: one more pick-up than attempts is this one. */
function wasParked(job: Job): boolean {
  return job.attemptsStarted - job.attemptsMade > 1;
}

/** Put the job back until `retryAt` (epoch ms), uncharged. */
async function park(job: Job, token: string, retryAt: number): Promise<never> {
  await job.moveToDelayed(retryAt, token);
  throw new DelayedError();
}

/** Tell BullMQ: a small result, or a small error that carries the pause before the next attempt. */
async function settle(job: Job, token: string, outcome: Outcome, verdict: Verdict, nowMs: number): Promise<string> {
  const phrase = describeOutcome(outcome);
  switch (verdict.kind) {
    case "delivered":
      return phrase;
    case "retry":
      throw new AttemptFailed(phrase, verdict.delayMs);
    case "give_up":
      throw new AttemptFailed(verdict.cause === "exhausted" ? `${phrase}, no attempts left` : phrase);
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
  return await park(job, token, retryAt);
}
