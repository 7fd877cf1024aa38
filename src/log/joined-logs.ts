/**
 * The logs of all shards as one. A user's attempts are in the shard that the event came from, usually the user's home.
 */
import type { Attempt } from "./attempt.ts";
import { selectAttempts } from "./attempt-query.ts";
import type { AttemptLog } from "./attempts.ts";

/**
 * Read several logs as one, ordered by when attempts ended, which is up to the clocks of the workers.
 *
 * @returns a log whose `list` fails when one of them fails, since attempts would be missing
 */
export function joinLogs(logs: readonly Pick<AttemptLog, "list">[]): Pick<AttemptLog, "list"> {
  const [only] = logs;
  if (logs.length === 1 && only !== undefined) return only;
  return {
    async list(userId, nowMs, { withResponses = false, ...query } = {}) {
      const lists = await Promise.all(logs.map((log) => log.list(userId, nowMs, { withResponses })));
      const attempts = lists.flat().sort((a, b) => endOf(b) - endOf(a)); // stable: each log's own order stays
      return selectAttempts(attempts, query);
    },
  };
}

const endOf = ({ timestamp, duration_ms }: Attempt): number => Date.parse(timestamp) + duration_ms;
