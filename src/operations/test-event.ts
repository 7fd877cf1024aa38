/**
 * Test events, which an operator sends from the board to check an endpoint.
 */
import { checkEvent } from "../delivery/contract.ts";
import { findUsersJob } from "../log/deliveries.ts";
import { TEST_MARK } from "../queue/marks.ts";
import type { Queue } from "../queue/worker.ts";

/** The type of test events: `file.created`, or else the first of the event types. */
export function testEventOf(events: ReadonlySet<string>): string {
  return events.has("file.created") ? "file.created" : ([...events][0] as string);
}

/** The data of test events, clearly marked as a test. */
export const TEST_DATA = { test: true, message: "A test event, sent by hand from Fluxhook's board" } as const;

/**
 * Enqueue a test event for the endpoint of one of the user's kept jobs, signed with that job's secret. One attempt, since it
 * shows whether the endpoint responds now.
 *
 * @param type  see {@link testEventOf}
 * @returns the test's job id; undefined when the job is no longer kept, or is another user's
 * @throws  ContractError when the job violates the contract; errors from Valkey
 */
export async function sendTestEvent(
  queue: Queue,
  jobId: string,
  userId: string,
  nowMs: number,
  type: string,
): Promise<string | undefined> {
  const job = await findUsersJob(queue, jobId, userId);
  if (job === undefined) return undefined;
  const { endpoint } = job.data as { endpoint: { url: string; secret: string | string[] } };
  const data = { userId, endpoint, data: TEST_DATA };
  checkEvent(type, data, nowMs, new Set([type]));
  return (await queue.add(type, data, { attempts: 1, ...TEST_MARK })).id;
}
