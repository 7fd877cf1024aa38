/**
 * Calls parked jobs back before their time, when the gate sees that their endpoints have room.
 */

import { DELAYED_MARKER, DELAYED_SCORE_PER_MS, queueKeys } from "../queue/layout.ts";
import type { Logger } from "../runtime/logger.ts";
import type { Valkey } from "../valkey/connection.ts";
import type { ParkedJob } from "./port.ts";

/**
 * KEYS: delayed, marker. ARGV: now; then for each job its id and when it was to come back. A job that is due at another time
 * waits for something else, such as a retry, and is left alone. Returns how many it called.
 */
const CALL = `
local now, called = tonumber(ARGV[1]), 0
for i = 2, #ARGV, 2 do
  local score = redis.call("ZSCORE", KEYS[1], ARGV[i])
  if score and math.floor(score / ${DELAYED_SCORE_PER_MS}) == tonumber(ARGV[i + 1]) then
    redis.call("ZADD", KEYS[1], now * ${DELAYED_SCORE_PER_MS} + called, ARGV[i])
    called = called + 1
  end
end
if called > 0 then redis.call("ZADD", KEYS[2], now, "${DELAYED_MARKER}") end
return called`;

export interface CallOptions {
  readonly valkey: Valkey;
  /** The prefix of the queue's keys. */
  readonly prefix: string;
  readonly logger: Pick<Logger, "debug">;
  /** Epoch ms. */
  readonly now?: () => number;
}

/** Make the function that calls jobs back. It never throws, and is not waited for: what it misses comes at its own time. */
export function createCalls({
  valkey,
  prefix,
  logger,
  now = Date.now,
}: CallOptions): (jobs: readonly ParkedJob[]) => void {
  valkey.defineCommand("callParked", { numberOfKeys: 2, lua: CALL });
  const { callParked } = valkey as unknown as { callParked: (...args: unknown[]) => Promise<number> };
  const { delayed, marker } = queueKeys(prefix);

  return (jobs) => {
    const named = jobs.flatMap(({ job, retryAt }) => [job, retryAt]); // a hundred at the most
    callParked.call(valkey, delayed, marker, now(), ...named).then(
      (called) => logger.debug({ asked: jobs.length, called }, "queue.called"),
      (error: Error) => logger.debug({ reason: error.message }, "queue.uncalled"),
    );
  };
}
