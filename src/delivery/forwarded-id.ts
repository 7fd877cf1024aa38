/**
 * The ids of jobs that were forwarded to another shard. Pure.
 */

const PREFIX = "forwarded.";
const FORM = /^forwarded\.(.+)@([\w.{}-]{1,100})$/s; // the last @: a queue's name has none

/** A job, as it was named in the shard that it came from. */
export interface Origin {
  readonly queue: string;
  readonly id: string;
}

/**
 * The id of a job's copy in another shard, `forwarded.4711@webhooks-{2}`: the same however often it is forwarded from there, and no
 * other job's, since BullMQ counts up its own ids in each queue.
 */
export const forwardedId = ({ queue, id }: Origin): string => `${PREFIX}${id}@${queue}`;

/** Where a job was forwarded from; undefined when it was not. */
export function originOf(id: string): Origin | undefined {
  if (!id.startsWith(PREFIX)) return undefined;
  const [, origin, queue] = FORM.exec(id) ?? [];
  return origin === undefined || queue === undefined ? undefined : { queue, id: origin };
}

/** How often a job has been forwarded. */
export function countForwards(id: string): number {
  const origin = originOf(id);
  return origin === undefined ? 0 : 1 + countForwards(origin.id);
}
