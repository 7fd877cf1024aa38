/**
 * BullMQ's jobs with the numbers of their data as their producers wrote them: see {@link parseExact}. BullMQ writes such
 * data back as it was, where it copies a job.
 */
import { Job, type JobJson, type JobProgress, Queue } from "bullmq";
import { holdsInexactNumbers, keepsExactNumbers, parseExact } from "./exact-json.ts";
import type { Valkey } from "./valkey.ts";

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

const MAX_LISTED = 16 * 1024 * 1024; // characters of data: the largest body that WEBHOOK_MAX_BODY can allow

/** What stands for data that is not shown, or not kept. */
export const describeLength = (length: number): string => `${length} characters of data, more than an event can have`;

/** Whether a job's data is so long that no setting lets it be delivered: a list of such jobs would fill the memory. */
export const isTooLong = (data: string | undefined): data is string => data !== undefined && data.length > MAX_LISTED;

/** A job as it is listed: data of any length does no harm. */
class ListedJob<D, R, N extends string, P extends JobProgress> extends ExactJob<D, R, N, P> {
  static override fromJSON<T, R, N extends string>(
    queue: Parameters<typeof Job.fromJSON>[0],
    json: JobJson,
    jobId?: string,
  ): Job<T, R, N> {
    if (!isTooLong(json.data)) return ExactJob.fromJSON<T, R, N>(queue, json, jobId);
    const data = JSON.stringify(describeLength(json.data.length));
    return ExactJob.fromJSON<T, R, N>(queue, { ...json, data }, jobId);
  }
}

class ExactQueue extends Queue {
  protected override get Job(): typeof Job {
    return ListedJob;
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
