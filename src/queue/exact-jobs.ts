/**
 * BullMQ jobs whose data keeps numbers exactly as their producers wrote them: see {@link parseExact}. Where BullMQ copies a
 * job, it writes them back unchanged.
 */

import { Job, type JobJson, type JobProgress, Queue } from "bullmq";
import { holdsInexactNumbers, keepsExactNumbers, parseExact } from "../delivery/exact-json.ts";
import { MAX_BODY_BYTES } from "../delivery/limits.ts";
import type { Valkey } from "../valkey/connection.ts";
import { JOB_FIELDS } from "./layout.ts";

/** A BullMQ job with exact numbers in its data. Runtimes without JSON.rawJSON, such as Node 20, use JSON.parse. */
export class ExactJob<D, R, N extends string, P extends JobProgress> extends Job<D, R, N, P> {
  static override fromJSON<T, R, N extends string>(
    queue: Parameters<typeof Job.fromJSON>[0],
    json: JobJson,
    jobId?: string,
  ): Job<T, R, N> {
    const job = Job.fromJSON<T, R, N>(queue, json, jobId);
    if (isInexact(json.data)) job.data = parseExact(json.data) as T;
    return job;
  }
}

const MAX_LISTED = MAX_BODY_BYTES; // characters of data: what is longer is in no setting's bounds

/** The placeholder for data that is not shown or not kept. */
export const describeLength = (length: number): string => `${length} characters of data, more than an event can have`;

/** Whether a job's data is too long to be delivered under any setting. Listing such jobs could exhaust memory. */
export const isTooLong = (data: string | undefined): data is string => data !== undefined && data.length > MAX_LISTED;

/** Fields of a job's hash that a list shows, all but its data. */
const FIELDS = Object.values(JOB_FIELDS).filter((field) => field !== JOB_FIELDS.data);

class ExactQueue extends Queue {
  /** Jobs whose data is too long are returned without it, since a page of them could exhaust memory. */
  override async getJob(jobId: string): Promise<Job | undefined> {
    const valkey = this.opts.connection as Valkey;
    const length = await valkey.hstrlen(this.toKey(jobId), "data");
    if (length <= MAX_LISTED) return await super.getJob(jobId);
    const values = await valkey.hmget(this.toKey(jobId), ...FIELDS);
    const stored = new Map<string, string | undefined>(
      FIELDS.map((field, index) => [field, values[index] ?? undefined]),
    );
    const text = (name: keyof typeof JOB_FIELDS) => stored.get(JOB_FIELDS[name]);
    const count = (name: keyof typeof JOB_FIELDS) => Number(text(name) ?? 0);
    if (text("name") === undefined) return undefined; // removed meanwhile
    const json = {
      ...{ id: jobId, name: text("name"), data: JSON.stringify(describeLength(length)), progress: 0 },
      opts: JSON.parse(text("opts") ?? "{}"),
      ...{ timestamp: count("timestamp"), delay: count("delay"), priority: count("priority") },
      ...{ attemptsMade: count("attemptsMade"), attemptsStarted: count("attemptsStarted") },
      stalledCounter: count("stalledCounter"),
      ...{ finishedOn: count("finishedOn") || undefined, processedOn: count("processedOn") || undefined },
      ...{ failedReason: text("failedReason"), returnvalue: text("returnvalue"), stacktrace: text("stacktrace") },
      ...{ repeatJobKey: text("repeatJobKey"), deduplicationId: text("deduplicationId") },
    };
    return ExactJob.fromJSON(this, json as JobJson, jobId);
  }

  protected override get Job(): typeof Job {
    return ExactJob;
  }

  /** Job schedulers with exact numbers in their templates' data. */
  override async getJobSchedulers(...range: Parameters<Queue["getJobSchedulers"]>) {
    const schedulers = await super.getJobSchedulers(...range);
    for (const { key, template } of schedulers) {
      const { data } = await this.backend.getJobSchedulerData(key);
      if (template !== undefined && isInexact(data)) template.data = parseExact(data);
    }
    return schedulers;
  }
}

function isInexact(data: string | undefined): data is string {
  return keepsExactNumbers && data !== undefined && holdsInexactNumbers(data);
}

/** The queue as producers, the board and metrics see it. */
export function openQueue(name: string, valkey: Valkey): Queue {
  return new ExactQueue(name, { connection: valkey, skipMetasUpdate: true });
}
