/**
 * BullMQ's jobs with the numbers of their data as their producers wrote them: see {@link parseExact}. BullMQ writes such
 * data back as it was, where it copies a job.
 */

import { Job, type JobJson, type JobProgress, Queue } from "bullmq";
import { holdsInexactNumbers, keepsExactNumbers, parseExact } from "../delivery/exact-json.ts";
import { MAX_BODY_BYTES } from "../delivery/limits.ts";
import type { Valkey } from "../valkey/connection.ts";

/** BullMQ's job, with exact numbers in its data. Where the runtime has none, as Node 20, it is what JSON.parse makes of it. */
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

/** What stands for data that is not shown, or not kept. */
export const describeLength = (length: number): string => `${length} characters of data, more than an event can have`;

/** Whether a job's data is so long that no setting lets it be delivered: a list of such jobs would fill the memory. */
export const isTooLong = (data: string | undefined): data is string => data !== undefined && data.length > MAX_LISTED;

/** Fields of a job's hash, as BullMQ names them: all that a list shows of it, but for its data. */
const FIELDS = [
  ...["name", "opts", "timestamp", "delay", "priority", "atm", "ats", "stc"],
  ...["finishedOn", "processedOn", "failedReason", "returnvalue", "stacktrace", "rjk"],
];

class ExactQueue extends Queue {
  /** A job whose data is so long that a page of such would fill the memory comes without it. */
  override async getJob(jobId: string): Promise<Job | undefined> {
    const valkey = this.opts.connection as Valkey;
    const length = await valkey.hstrlen(this.toKey(jobId), "data");
    if (length <= MAX_LISTED) return await super.getJob(jobId);
    const values = await valkey.hmget(this.toKey(jobId), ...FIELDS);
    const stored = Object.fromEntries(FIELDS.map((field, index) => [field, values[index] ?? undefined]));
    if (stored.name === undefined) return undefined; // gone meanwhile
    const count = (field: string) => Number(stored[field] ?? 0);
    const json = {
      ...{ id: jobId, name: stored.name, data: JSON.stringify(describeLength(length)), progress: 0 },
      opts: JSON.parse(stored.opts ?? "{}"),
      ...{ timestamp: count("timestamp"), delay: count("delay"), priority: count("priority") },
      ...{ attemptsMade: count("atm"), attemptsStarted: count("ats"), stalledCounter: count("stc") },
      ...{ finishedOn: count("finishedOn") || undefined, processedOn: count("processedOn") || undefined },
      ...{ failedReason: stored.failedReason, returnvalue: stored.returnvalue, stacktrace: stored.stacktrace },
      repeatJobKey: stored.rjk,
    };
    return ExactJob.fromJSON(this, json as JobJson, jobId);
  }

  protected override get Job(): typeof Job {
    return ExactJob;
  }

  /** With exact numbers in the data of their templates. */
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
