/**
 * Promotes parked jobs: makes them due now, because the gate sees that their endpoints can take them.
 */

import { DELAYED_SCORE_PER_MS, queueKeys } from "../queue/layout.ts";
import { PROMOTION } from "../queue/wake-up.ts";
import type { Logger } from "../runtime/logger.ts";
import type { Valkey } from "../valkey/connection.ts";
import type { ParkedJob } from "./port.ts";

const AGAIN_MS = 500;
const MAX_TRIES = 4; // parking takes up to a second, for a look at when the job arrived

/**
 * KEYS: delayed, marker. ARGV: now; then for each job its id and the time it was parked until. A job with another due time waits
 * for something else, such as a retry, and is left alone. Returns the ids of the jobs that are not delayed.
 */
const PROMOTE = `
local delayed, marker, now = KEYS[1], KEYS[2], tonumber(ARGV[1])
local missing = {}
${PROMOTION}
for i = 2, #ARGV, 2 do
  local score = redis.call("ZSCORE", delayed, ARGV[i])
  if not score then
    missing[#missing + 1] = ARGV[i]
  elseif math.floor(score / ${DELAYED_SCORE_PER_MS}) == tonumber(ARGV[i + 1]) then
    promote(ARGV[i])
  end
end
wakePromoted()
return missing`;

export interface PromotionOptions {
  readonly valkey: Valkey;
  /** The prefix of the queue's keys. */
  readonly prefix: string;
  readonly logger: Pick<Logger, "debug">;
  /** Epoch ms. */
  readonly now?: () => number;
}

/**
 * Create the function that promotes jobs. It returns at once and never throws: a job that it fails to promote still runs when it
 * is due. The gate may ask for a job that is just about to be parked, and not delayed yet: it is tried again a little later.
 */
export function createPromotion({
  valkey,
  prefix,
  logger,
  now = Date.now,
}: PromotionOptions): (jobs: readonly ParkedJob[]) => void {
  valkey.defineCommand("promoteParked", { numberOfKeys: 2, lua: PROMOTE });
  const { promoteParked } = valkey as unknown as { promoteParked: (...args: unknown[]) => Promise<string[]> };
  const { delayed, marker } = queueKeys(prefix);

  const promote = async (jobs: readonly ParkedJob[], triesLeft: number): Promise<void> => {
    const named = jobs.flatMap(({ job, retryAt }) => [job, retryAt]); // the gate passes at most 100
    try {
      const missing = new Set(await promoteParked.call(valkey, delayed, marker, now(), ...named));
      logger.debug({ asked: jobs.length, missing: missing.size }, "queue.called");
      if (missing.size === 0 || triesLeft === 0) return;
      const again = jobs.filter(({ job }) => missing.has(job));
      setTimeout(() => void promote(again, triesLeft - 1), AGAIN_MS).unref();
    } catch (error) {
      logger.debug({ reason: (error as Error).message }, "queue.uncalled");
    }
  };
  return (jobs) => void promote(jobs, MAX_TRIES - 1);
}
