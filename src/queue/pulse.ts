/**
 * How a queue has been doing in the last minutes, as far as Valkey still knows.
 */
import type { Valkey } from "../valkey/connection.ts";
import { keysOf } from "./layout.ts";
import { readRedelivered } from "./marks.ts";
import type { Job, KeptJobs, Queue } from "./worker.ts";

/** Jobs that finished in a time span, counted from its start until now. */
export interface FinishedJobs {
  readonly completed: number;
  readonly failed: number;
}

/**
 * KEYS: completed, failed. ARGV: start and end of the span, epoch ms; how many completed, how many failed jobs are kept. A full
 * set says nothing about the time before its oldest job, so the span starts with the younger of the two sets' oldest jobs.
 */
const COUNT_FINISHED = `
local start = tonumber(ARGV[1])
for i = 1, 2 do
  if redis.call("ZCARD", KEYS[i]) >= tonumber(ARGV[2 + i]) then
    local oldest = redis.call("ZRANGE", KEYS[i], 0, 0, "WITHSCORES")[2]
    start = math.max(start, tonumber(oldest or ARGV[2]))
  end
end
return {redis.call("ZCOUNT", KEYS[1], start, ARGV[2]), redis.call("ZCOUNT", KEYS[2], start, ARGV[2])}`;

/**
 * Count the jobs that completed and failed in a time span; in a shorter one when the queue no longer keeps all of them, so that
 * the two numbers can be compared.
 *
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function countFinished(
  queue: Queue,
  valkey: Valkey,
  spanMs: number,
  nowMs: number,
  { keepCompleted, keepFailed }: KeptJobs,
): Promise<FinishedJobs> {
  const { completed: delivered, failed: lost } = keysOf(queue);
  const bounds = [nowMs - spanMs, nowMs, keepCompleted, keepFailed];
  const answer = await valkey.eval(COUNT_FINISHED, 2, delivered, lost, ...bounds);
  const [completed, failed] = answer as [number, number];
  return { completed, failed };
}

/**
 * How long the job that workers take next has been waiting for them, ms; undefined when none waits. A job that returned for a
 * retry counts from its last attempt, and one that was redelivered from then: Valkey does not keep the time of its return.
 *
 * @throws  when Valkey answers with an error; waits while it is away
 */
export async function readOldestWaitingMs(queue: Queue, valkey: Valkey, nowMs: number): Promise<number | undefined> {
  const heads = (
    await Promise.all((["waiting", "prioritized"] as const).map((state) => readHead(queue, state)))
  ).flat();
  const since = heads.map(waitsSince);
  if (since.length === 0) return undefined;
  if (nowMs - Math.min(...since) < OLD_MS) return Math.max(0, nowMs - Math.min(...since));
  const redelivered = await readRedelivered(
    queue,
    valkey,
    heads.map(({ id }) => String(id)),
  );
  const later = heads.map(({ id }, index) => Math.max(since[index] ?? 0, redelivered.get(String(id))?.lastAt ?? 0));
  return Math.max(0, nowMs - Math.min(...later));
}

const OLD_MS = 60 * 1000; // 1 min; a job that is younger was not redelivered, or it does not matter

async function readHead(queue: Queue, state: "waiting" | "prioritized"): Promise<Job[]> {
  return (await queue.getJobs([state], 0, 0, true)).filter((job) => job != null); // one that is removed meanwhile is null
}

const waitsSince = ({ timestamp, processedOn, opts }: Job) =>
  Math.max(Number(timestamp) + (Number(opts?.delay) || 0) || 0, Number(processedOn) || 0); // producers write what they like
