/**
 * Test events to registered endpoints, which show whether they respond now.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { openHome } from "../homes/homes.ts";
import type { Attempt } from "../log/attempts.ts";
import { TEST_MARK } from "../queue/marks.ts";
import type { OpenShard, OpenShards } from "../queue/open-shard.ts";
import { ConflictError } from "../registry/refusals.ts";
import { createRegistry } from "../registry/registry.ts";
import { readEndpointLog } from "../streaks/endpoint-log.ts";
import { TEST_DATA } from "./test-event.ts";

const POLL_MS = 100;

/** A test event, and what has become of it. */
export interface EndpointTest {
  /** Its job's name. */
  readonly job: string;
  /** `pending` when it has not ended yet. */
  readonly state: "delivered" | "failed" | "pending";
  /** The job's state in BullMQ: `waiting`, `active`, `delayed`, …; `unknown` once it is no longer kept. */
  readonly jobState: string;
  /** The attempt; undefined before it has ended. */
  readonly attempt?: Attempt | undefined;
  /** Why it failed, as the job says. */
  readonly reason?: string | undefined;
}

/** How to test an endpoint. */
export interface EndpointTestOptions {
  /** The event type, see `testEventOf` in test-event.ts. */
  readonly type: string;
  /** How long to wait for the outcome, ms; 0 not to wait. */
  readonly waitMs: number;
}

/**
 * Enqueue a test event for an endpoint, and wait for its outcome. It gets one attempt, is signed like every event, and does not count for
 * the endpoint's health. It is sent whatever types the endpoint wants.
 *
 * @throws  UsageError when an id is invalid; NotFoundError when there is no such endpoint; ConflictError when it is paused or disabled,
 *          so that nothing would be attempted; when Valkey answers with an error. Waits while it is away
 */
export async function testEndpoint(
  shards: OpenShards,
  userId: string,
  id: string,
  { type, waitMs }: EndpointTestOptions,
): Promise<EndpointTest> {
  const home = await openHome(shards, userId);
  const { state } = await createRegistry(home.valkey, { tag: home.tag }).get(userId, id);
  if (state.kind !== "enabled") {
    throw new ConflictError(
      `endpoint ${id} is ${state.kind}: ${state.kind === "paused" ? "resume" : "enable"} it to test it`,
    );
  }
  const data = { userId, endpoint: { id }, data: TEST_DATA };
  const job = await home.client.add(type, data, { attempts: 1, ...TEST_MARK });
  const until = performance.now() + waitMs;
  for (;;) {
    const test = await readEndpointTest(home, userId, id, job.id as string);
    if (test.state !== "pending" || performance.now() >= until) return test;
    await sleep(POLL_MS);
  }
}

/** Read what has become of a test event. @param jobId  in the user's home. Throws like {@link testEndpoint} */
export async function readEndpointTest(
  { client, valkey, tag, label }: OpenShard,
  userId: string,
  id: string,
  jobId: string,
): Promise<EndpointTest> {
  const jobState = await client.getJobState(jobId);
  const name = `${label}${jobId}`;
  // The log is written ahead of the acknowledgement.
  const attempt = (await readEndpointLog(valkey, tag, userId, id)).find(({ job }) => job === name);
  const found = { job: name, jobState, ...(attempt && { attempt }) };
  if (attempt?.success) return { ...found, state: "delivered" };
  if (!["completed", "failed", "unknown"].includes(jobState)) return { ...found, state: "pending" };
  const { failedReason, returnvalue } = (await client.getJob(jobId)) ?? {};
  // Completed without an attempt: the endpoint was disabled or deleted meanwhile.
  const isDelivered = jobState === "completed" && /^HTTP 2/.test(returnvalue);
  return { ...found, state: isDelivered ? "delivered" : "failed", reason: failedReason ?? returnvalue };
}
