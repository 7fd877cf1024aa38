/**
 * Keeps an attempt within its endpoint's rate limit.
 */
import type { Outcome } from "../src/delivery/outcome.ts";
import type { AskPace, Pace } from "../src/endpoints/rate.ts";
import type { Decision } from "../src/isolation/gate.ts";
import type { Job } from "../src/queue/worker.ts";
import type { Located } from "./locate.ts";

export interface PaceOptions {
  /** Without it, endpoints have no limits. */
  readonly askPace?: AskPace | undefined;
  /** Epoch ms. */
  readonly now?: () => number;
}

const TOO_LATE: Outcome = { kind: "expired", cause: "rate_limit", durationMs: 0 };

/**
 * Wait for an attempt's turn. An endpoint without a limit takes no time.
 *
 * @param lifeMs  for how long the event may still wait
 * @returns undefined once the attempt may be made; otherwise until when to park the job, or that the event would be too old by then
 * @throws  what Valkey answers with
 */
export function pace(
  { event, document }: Pick<Located, "event" | "document">,
  job: Job,
  lifeMs: number,
  { askPace, now = Date.now }: PaceOptions,
): Promise<Early | undefined> | undefined {
  const { userId, endpoint } = event;
  const names = { job: job.id as string, userId, endpointId: endpoint.id as string };
  const asked = askPace?.({ ...names, document, ...(Number.isFinite(lifeMs) ? { lifeMs } : {}) });
  return asked && follow(asked, now);
}

/** What becomes of an attempt that may not be made. */
type Early = Extract<Decision, { kind: "park" }> | Outcome;

async function follow(asked: Promise<Pace>, now: () => number): Promise<Early | undefined> {
  const answer = await asked;
  if (answer.kind === "go") return undefined;
  if (answer.kind === "expired") return TOO_LATE;
  return { kind: "park", reason: "rate", retryAt: Math.ceil(now() + answer.afterMs) };
}
