/**
 * Promotes parked jobs: makes them due now, because the gate sees that their endpoints can take them.
 */

import { DELAYED_SCORE_PER_MS, queueKeys } from "../queue/layout.ts";
import { PROMOTION } from "../queue/wake-up.ts";
import type { Logger } from "../runtime/logger.ts";
import type { Valkey } from "../valkey/connection.ts";
import type { ParkedJob } from "./port.ts";

/**
 * KEYS: delayed, marker. ARGV: now; then for each job its id and the time it was parked until. A job with another due time waits
 * for something else, such as a retry, and is left alone. Returns how many jobs it promoted.
 */
const PROMOTE = `
local delayed, marker, now = KEYS[1], KEYS[2], tonumber(ARGV[1])
${PROMOTION}
for i = 2, #ARGV, 2 do
  local score = redis.call("ZSCORE", delayed, ARGV[i])
  if score and math.floor(score / ${DELAYED_SCORE_PER_MS}) == tonumber(ARGV[i + 1]) then promote(ARGV[i]) end
end
return wakePromoted()`;

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
 * is due.
 */
export function createPromotion({
  valkey,
  prefix,
  logger,
  now = Date.now,
}: PromotionOptions): (jobs: readonly ParkedJob[]) => void {
  valkey.defineCommand("promoteParked", { numberOfKeys: 2, lua: PROMOTE });
  const { promoteParked } = valkey as unknown as { promoteParked: (...args: unknown[]) => Promise<number> };
  const { delayed, marker } = queueKeys(prefix);

  return (jobs) => {
    const named = jobs.flatMap(({ job, retryAt }) => [job, retryAt]); // the gate passes at most 100
    promoteParked.call(valkey, delayed, marker, now(), ...named).then(
      (called) => logger.debug({ asked: jobs.length, called }, "queue.called"),
      (error: Error) => logger.debug({ reason: error.message }, "queue.uncalled"),
    );
  };
}
