/**
 * Names of our own keys in Valkey. Each key's contents are described where it is written. Pure.
 */

/** A user's log in a shard with this tag, see src/log/attempts.ts. With an empty `userId`, the prefix of all logs' keys. */
export const logKey = (userId: string, tag = ""): string => `webhooks:log:${tag}${userId}`;

/** What is kept of the responses to a user's failed attempts, see src/log/attempts.ts. */
export const responsesKey = (userId: string, tag = ""): string => `webhooks:responses:${tag}${userId}`;

/** A queue's open circuits, see src/isolation/open-circuits.ts. */
export const circuitsKey = (queue: string): string => `webhooks:circuits:${queue}`;

/** What a queue's workers attempted in a minute since the epoch, see src/log/attempt-tally.ts. */
export const attemptsKey = (queue: string, minute: number | "*"): string => `webhooks:attempts:${queue}:${minute}`;

/** The prefix of a queue's backlog keys, see src/isolation/backlog.ts. */
export const backlogPrefix = (queue: string): string => `webhooks:backlog:${queue}:`;

/** How many stray jobs a queue has, see src/queue/stray-jobs.ts. */
export const straysKey = (queue: string): string => `webhooks:strays:${queue}`;

/** A job being moved from `paused`, see src/queue/paused-list.ts. */
export const caughtKey = (queue: string): string => `webhooks:paused:${queue}`;

/** A queue's holds, see src/isolation/hold-store.ts. */
export const holdsKey = (queue: string): string => `webhooks:holds:${queue}`;

/** Among how many shards users' homes may be, see src/homes/past-homes.ts. */
export const homesKey = (queue: string): string => `webhooks:homes:${queue}`;

/** A user's endpoints, see src/registry/registry.ts. With an empty `userId`, the prefix of all users' keys. */
export const endpointsKey = (userId: string, tag = ""): string => `webhooks:endpoints:${tag}${userId}`;

/** The ids of the events that an endpoint missed, see src/missed/missed.ts. A user's id may hold a colon, an endpoint's not. */
export const missedKey = (userId: string, endpointId: string, tag = ""): string =>
  `webhooks:missed:${tag}${userId}:${endpointId}`;

/** The jobs of the events that an endpoint missed, see src/missed/missed.ts. */
export const missedDataKey = (userId: string, endpointId: string, tag = ""): string =>
  `webhooks:missed-data:${tag}${userId}:${endpointId}`;

/** How the attempts of a user's endpoints have been going, see src/registry/health.ts. */
export const healthKey = (userId: string, tag = ""): string => `webhooks:health:${tag}${userId}`;

/** An endpoint's last attempts, see src/streaks/endpoint-log.ts. */
export const endpointLogKey = (userId: string, endpointId: string, tag = ""): string =>
  `webhooks:endpoint-log:${tag}${userId}:${endpointId}`;

/** The queue of a shard's notices, see src/streaks/notices.ts: in the slot of the shard's users. */
export const noticesQueue = (tag: string): string => `webhooks-notices${tag === "" ? "" : `-${tag.slice(0, -1)}`}`;

/** When an endpoint's next attempt may be made by its rate limit, see src/endpoints/rate-script.ts. */
export const rateKey = (userId: string, endpointId: string, tag = ""): string =>
  `webhooks:rate:${tag}${userId}:${endpointId}`;

/** The ids of the jobs that wait for an endpoint's rate limit. */
export const rateLineKey = (userId: string, endpointId: string, tag = ""): string =>
  `webhooks:rate-line:${tag}${userId}:${endpointId}`;

/** The ids of those that waited for a limit that the endpoint had before. */
export const rateReleasedKey = (userId: string, endpointId: string, tag = ""): string =>
  `webhooks:rate-released:${tag}${userId}:${endpointId}`;

const ofShard = (tag: string): string => (tag === "" ? "" : `:${tag.slice(0, -1)}`);

/** A shard's endpoints by their last change, see src/registry/endpoint-index.ts. */
export const endpointIndexKey = (tag = ""): string => `webhooks:endpoint-index${ofShard(tag)}`;

/** The last changes of a shard's endpoints, see src/registry/changes.ts. */
export const endpointChangesKey = (tag = ""): string => `webhooks:endpoint-changes${ofShard(tag)}`;

/** A shard's endpoints that are paused or disabled, see src/registry/endpoint-index.ts. */
export const endpointOffKey = (tag = ""): string => `webhooks:endpoint-off${ofShard(tag)}`;
