/**
 * Test events, which an operator sends to check an endpoint.
 */
import { checkEvent } from "../delivery/contract.ts";
import { findUsersJob } from "../log/deliveries.ts";
import { keysOf } from "../queue/layout.ts";
import { TEST_MARK } from "../queue/marks.ts";
import type { OpenShard } from "../queue/open-shard.ts";
import { PINNED_FIELD } from "../queue/pin.ts";

/** The type of test events: `file.created`, or else the first of the event types. */
export function testEventOf(events: ReadonlySet<string>): string {
  return events.has("file.created") ? "file.created" : ([...events][0] as string);
}

/** The data of test events, clearly marked as a test. */
export const TEST_DATA = { test: true, message: "A test event, sent by hand from Fluxhook" } as const;

/**
 * Enqueue a test event for the endpoint of one of the user's kept jobs, signed with that job's secret. One attempt, since it
 * shows whether the endpoint responds now. An event that named no endpoint has the one to which it went, if that was a single one.
 *
 * @param type  see {@link testEventOf}
 * @returns the test's job id; undefined when the job is no longer kept, or is another user's
 * @throws  ContractError when the job violates the contract; errors from Valkey
 */
export async function sendTestEvent(
  { client: queue, valkey }: Pick<OpenShard, "client" | "valkey">,
  jobId: string,
  userId: string,
  nowMs: number,
  type: string,
): Promise<string | undefined> {
  const job = await findUsersJob(queue, jobId, userId);
  if (job === undefined) return undefined;
  const id = await valkey.hget(`${keysOf(queue).jobs}${jobId}`, PINNED_FIELD);
  const { endpoint = id === null ? undefined : { id } } = job.data as { endpoint?: object };
  const data = { userId, endpoint, data: TEST_DATA };
  checkEvent(type, data, nowMs, new Set([type]), false);
  return (await queue.add(type, data, { attempts: 1, ...TEST_MARK })).id;
}
