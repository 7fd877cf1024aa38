/**
 * Test events: what an operator sends by hand to see whether an endpoint takes it.
 */
import { checkEvent, type EventType } from "../delivery/contract.ts";
import { findUsersJob } from "../log/deliveries.ts";
import { TEST_MARK } from "../queue/marks.ts";
import type { Queue } from "../queue/worker.ts";

/** The type that a test event has. */
export const TEST_EVENT: EventType = "file.created";

/** What a test event carries: nobody should take it for a real one. */
export const TEST_DATA = { test: true, message: "A test event, sent by hand from Fluxhook's board" } as const;

/**
 * Enqueue a test event for the endpoint of a user's kept job, signed with that job's secret. One attempt: it is to show
 * whether the endpoint answers now, not to come again at night.
 *
 * @returns the test's job id; undefined when the job is not kept any more, or is not this user's
 * @throws  ContractError when the job breaks the contract; what Valkey answers with an error
 */
export async function sendTestEvent(
  queue: Queue,
  jobId: string,
  userId: string,
  nowMs: number,
): Promise<string | undefined> {
  const job = await findUsersJob(queue, jobId, userId);
  if (job === undefined) return undefined;
  const { endpoint } = job.data as { endpoint: { url: string; secret: string | string[] } };
  const data = { userId, endpoint, data: TEST_DATA };
  checkEvent(TEST_EVENT, data, nowMs);
  return (await queue.add(TEST_EVENT, data, { attempts: 1, ...TEST_MARK })).id;
}
