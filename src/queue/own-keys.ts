/**
 * The names of our own keys beside BullMQ's. What is in each is described where it is written. Pure.
 */

/** A user's log, see src/log/attempts.ts. With an empty text, what the keys of all logs begin with. */
export const logKey = (userId: string): string => `webhooks:log:${userId}`;

/** A queue's open circuits, see src/isolation/open-circuits.ts. */
export const circuitsKey = (queue: string): string => `webhooks:circuits:${queue}`;

/** What the keys of a queue's backlogs begin with, see src/isolation/backlog.ts. */
export const backlogPrefix = (queue: string): string => `webhooks:backlog:${queue}:`;

/** How many stray jobs a queue has, see src/queue/stray-jobs.ts. */
export const straysKey = (queue: string): string => `webhooks:strays:${queue}`;

/** A job on its way from `paused`, see src/queue/paused-list.ts. */
export const caughtKey = (queue: string): string => `webhooks:paused:${queue}`;
