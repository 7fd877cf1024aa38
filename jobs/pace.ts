/**
 * Keeps an attempt within its endpoint's rate limit.
 */
import type { Outcome } from "../src/delivery/outcome.ts";
import type { AskPace } from "../src/endpoints/rate.ts";
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
export async function pace(
  { event, document }: Pick<Located, "event" | "document">,
  job: Job,
  lifeMs: number,
  { askPace, now = Date.now }: PaceOptions,
): Promise<Extract<Decision, { kind: "park" }> | Outcome | undefined> {
  const { userId, endpoint } = event;
  const names = { job: job.id as string, userId, endpointId: endpoint.id as string };
  const answer = await askPace?.({ ...names, document, ...(Number.isFinite(lifeMs) ? { lifeMs } : {}) });
  if (answer === undefined || answer.kind === "go") return undefined;
  if (answer.kind === "expired") return TOO_LATE;
  return { kind: "park", reason: "rate", retryAt: Math.ceil(now() + answer.afterMs) };
}
